//! Whom the kernel killed for memory: SIGKILL has no sender that could be asked, but the control group counts these kills.
//!
//! `oom_kill` of `memory.events` (version 2, descendants included) or of `memory.oom_control` (version 1). The kernel counts
//! before it kills, so whoever is reaped after such a kill finds the count risen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use forkgate_shared::settings::cgroup::memory_groups;

use crate::supervisor::{Ns, SECOND};

/// The counter's name in the files.
const COUNTER: &str = "oom_kill ";
/// Whom the kernel killed is reaped within moments: a kill that no death was put down to by then was somebody else's.
const LAPSE: Ns = 5 * SECOND;

/// The kills that are put down to a death or happened before, by file.
#[derive(Debug)]
pub struct OomKills {
    root: PathBuf,
    seen: BTreeMap<PathBuf, Seen>,
}

/// One file.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Kills that are put down to a death, or to nobody of ours.
    put_down: u64,
    /// What stood there at the last look.
    count: u64,
    looked: Ns,
}

impl OomKills {
    /// Kills from now on, in the control group of this process, in which its children are.
    pub fn from_now_on(now: Ns) -> OomKills {
        OomKills::below(Path::new("/"), now)
    }

    fn below(root: &Path, now: Ns) -> OomKills {
        let seen = |(path, count)| (path, Seen { put_down: count, count, looked: now });
        OomKills { root: root.to_owned(), seen: counts(root).into_iter().map(seen).collect() }
    }

    /// The file that counts a kill which no death was put down to yet; this one is now: of two that died at once each finds
    /// its own. A group that the process was moved to meanwhile is only taken note of: what was counted there before is not
    /// known.
    pub fn risen(&mut self, now: Ns) -> Option<PathBuf> {
        let mut risen = None;
        let look = |(path, count): (PathBuf, u64)| {
            let put_down = self.seen.get(&path).map_or(count, |seen| match now.saturating_sub(seen.looked) {
                ..=LAPSE => seen.put_down,
                _ => seen.count,
            });
            let put_down = if count > put_down {
                risen.get_or_insert_with(|| path.clone());
                put_down + 1
            } else {
                count
            };
            (path, Seen { put_down, count, looked: now })
        };
        let seen = counts(&self.root).into_iter().map(look).collect();
        self.seen = seen;
        risen
    }
}

fn counts(root: &Path) -> BTreeMap<PathBuf, u64> {
    let files = memory_groups(root)
        .into_iter()
        .flat_map(|group| ["memory.events", "memory.oom_control"].map(|name| group.join(name)));
    files
        .filter_map(|path| Some((count(&fs::read_to_string(&path).ok()?)?, path)))
        .map(|(n, p)| (p, n))
        .collect()
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(COUNTER)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system with one control group per version, and a process that is in it.
    fn machine(groups: &[(&str, &str, &str)], of_process: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, text).expect("file");
        };
        write("proc/self/cgroup", of_process);
        write(
            "proc/self/mountinfo",
            "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        for (group, file, text) in groups {
            write(&format!("sys/fs/cgroup/{group}/{file}"), text);
        }
        root
    }

    #[test]
    fn a_kill_is_seen_once_in_both_versions() {
        for (group, file, list) in [
            ("unified/a.service", "memory.events", "0::/a.service\n"),
            ("memory/x/y", "memory.oom_control", "4:memory:/x/y\n0::/\n"),
        ] {
            let root = machine(&[(group, file, "low 0\noom 3\noom_kill 2\noom_group_kill 9\n")], list);
            let path = root.path().join("sys/fs/cgroup").join(group).join(file);
            let mut kills = OomKills::below(root.path(), 0);
            assert_eq!(kills.risen(0), None, "what was before is nobody's of ours");
            fs::write(&path, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").expect("file");
            assert_eq!(kills.risen(0), Some(path.clone()));
            assert_eq!(kills.risen(0), None);
            fs::write(&path, "oom_kill 5\n").expect("file");
            let two_at_once = [kills.risen(0), kills.risen(0), kills.risen(0)];
            assert_eq!(two_at_once, [Some(path.clone()), Some(path.clone()), None]);
            fs::write(&path, "oom_kill 8\n").expect("file");
            assert_eq!(kills.risen(0), Some(path.clone()));
            assert_eq!(kills.risen(LAPSE + 1), None, "the other two were not ours");
            fs::write(&path, "oom_kill 1\n").expect("file");
            assert_eq!(kills.risen(0), None, "another group of that name");
        }
    }

    #[test]
    fn a_group_that_the_process_was_moved_to_counts_from_the_next_look_on() {
        let files = [
            ("memory/a", "memory.oom_control", "oom_kill 0\n"),
            ("memory/b", "memory.oom_control", "oom_kill 7\n"),
        ];
        let root = machine(&files, "4:memory:/a\n");
        let mut kills = OomKills::below(root.path(), 0);
        fs::write(root.path().join("proc/self/cgroup"), "4:memory:/b\n").expect("file");
        assert_eq!(kills.risen(0), None);
        fs::write(root.path().join("sys/fs/cgroup/memory/b/memory.oom_control"), "oom_kill 8\n")
            .expect("file");
        assert!(kills.risen(0).is_some());
    }

    #[test]
    fn without_control_groups_nothing_is_said() {
        let root = tempfile::tempdir().expect("directory");
        assert_eq!(OomKills::below(root.path(), 0).risen(0), None);
        OomKills::from_now_on(0).risen(0);
    }
}
