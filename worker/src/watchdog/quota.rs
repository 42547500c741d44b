//! How long the control group's CPU quota has kept it from the CPU.
//!
//! `cpu.stat` of the unified hierarchy, or of the `cpu` controller of version 1. A process may be moved while it runs:
//! which group it is in is read again every few seconds.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::inputs::{LONGEST, read};

/// Between two looks at which group it is.
const AGAIN_NS: u64 = 3_000_000_000;

/// See the module.
pub(super) struct Quota {
    /// `/proc/self/cgroup`.
    list: PathBuf,
    /// `/sys/fs/cgroup`.
    mount: PathBuf,
    /// What the list said.
    groups: String,
    stats: Vec<File>,
    looked_ns: u64,
    /// The group's own count when it was last read.
    last_ns: u64,
    total_ns: u64,
}

impl Quota {
    /// Of this process. Without a control group nothing is ever throttled.
    pub(super) fn open(now_ns: u64) -> Quota {
        Quota::of(PathBuf::from("/proc/self/cgroup"), PathBuf::from("/sys/fs/cgroup"), now_ns)
    }

    fn of(list: PathBuf, mount: PathBuf, now_ns: u64) -> Quota {
        let (groups, stats) = (String::new(), Vec::new());
        let mut quota = Quota { list, mount, groups, stats, looked_ns: now_ns, last_ns: 0, total_ns: 0 };
        quota.find();
        quota
    }

    /// Time kept from the CPU since this was opened, in nanoseconds; only grows, also when the group changes.
    pub(super) fn throttled_ns(&mut self, now_ns: u64) -> u64 {
        if now_ns.saturating_sub(self.looked_ns) >= AGAIN_NS {
            self.looked_ns = now_ns;
            self.find();
        }
        if let Some(count_ns) = self.count() {
            let grown_ns = count_ns.saturating_sub(std::mem::replace(&mut self.last_ns, count_ns));
            self.total_ns = self.total_ns.saturating_add(grown_ns);
        }
        self.total_ns
    }

    /// Opens the files of the group that the process is in, unless they are open.
    fn find(&mut self) {
        let groups = std::fs::read_to_string(&self.list).unwrap_or_default();
        if groups == self.groups {
            return;
        }
        self.stats = directories(&groups, &self.mount)
            .iter()
            // `cpu.stat` knows the quota of the group itself, `cpu.stat.local` (newer kernels) also those above it.
            .flat_map(|group| ["cpu.stat", "cpu.stat.local"].map(|name| group.join(name)))
            .filter_map(|path| File::open(path).ok())
            .collect();
        self.groups = groups;
        self.last_ns = self.count().unwrap_or(0);
    }

    fn count(&self) -> Option<u64> {
        let mut buffer = [0; LONGEST];
        self.stats.iter().filter_map(|file| throttled_ns(read(file, &mut buffer)?)).max()
    }
}

/// Where the process's group may be: in the unified hierarchy, and in that of version 1's `cpu` controller. In a container
/// that shows its own group as the root, the path is one that it cannot see, and the root is the group.
fn directories(list: &str, mount: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in list.lines() {
        let Some((controllers, group)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(":/"))
        else {
            continue;
        };
        let root = match controllers {
            "" => mount.to_owned(),
            _ if controllers.split(',').any(|name| name == "cpu") => mount.join(controllers),
            _ => continue,
        };
        let of_group = root.join(group);
        found.push(if of_group.is_dir() { of_group } else { root });
    }
    found
}

/// Version 2 counts microseconds, version 1 nanoseconds.
fn throttled_ns(text: &str) -> Option<u64> {
    let number = |line: &str, name: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
    text.lines().find_map(|line| {
        let micros = number(line, "throttled_usec ").map(|micros| micros.saturating_mul(1000));
        micros.or_else(|| number(line, "throttled_time "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A file system of control groups and a process in it.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> World {
            World(tempfile::tempdir().expect("directory"))
        }

        fn group(&self, path: &str, stat: &str) {
            let group = self.0.path().join("mount").join(path);
            std::fs::create_dir_all(&group).expect("directory");
            std::fs::write(group.join("cpu.stat"), stat).expect("file");
        }

        fn moved(&self, list: &str) {
            std::fs::write(self.0.path().join("list"), list).expect("file");
        }

        fn quota(&self) -> Quota {
            Quota::of(self.0.path().join("list"), self.0.path().join("mount"), 0)
        }
    }

    #[test]
    fn what_the_files_say() {
        for (text, ns) in [
            ("usage_usec 5\nnr_throttled 2\nthrottled_usec 99\n", Some(99_000)),
            ("nr_periods 5\nnr_throttled 2\nthrottled_time 99\n", Some(99)),
            ("throttled_usec 18446744073709551615\n", Some(u64::MAX)),
            ("usage_usec 5\n", None),
        ] {
            assert_eq!(throttled_ns(text), ns, "{text}");
        }
    }

    #[test]
    fn the_group_is_found_in_both_versions() {
        let world = World::new();
        let mount = world.0.path().join("mount");
        for group in ["user.slice/a b", "cpu,cpuacct/x"] {
            world.group(group, "");
        }
        for (list, groups) in [
            ("3:memory:/x\n0::/user.slice/a b\n", &["user.slice/a b"][..]),
            ("4:cpu,cpuacct:/x\n3:cpuset:/x\n2:name=systemd:/x\n", &["cpu,cpuacct/x"]),
            ("1:cpu,cpuacct:/x\n0::/\n", &["cpu,cpuacct/x", ""]),
            // The path is the host's, the mount is the container's.
            ("1:cpu,cpuacct:/docker/77\n", &["cpu,cpuacct"]),
            ("nonsense\n0:\n", &[]),
        ] {
            let wanted: Vec<_> = groups.iter().map(|group| mount.join(group)).collect();
            assert_eq!(directories(list, &mount), wanted, "{list}");
        }
    }

    #[test]
    fn a_process_that_is_moved_is_followed_and_what_the_group_had_before_is_not_counted() {
        let world = World::new();
        world.group("", "throttled_usec 7\n");
        world.group("cpu/slow", "throttled_time 5000000000\n");
        world.moved("1:cpu:/\n0::/\n");
        let mut quota = world.quota();
        assert_eq!(quota.throttled_ns(SECOND), 0, "what was before is not this process's");
        world.group("", "throttled_usec 9\n");
        assert_eq!(quota.throttled_ns(SECOND), 2000);
        world.moved("1:cpu:/slow\n");
        assert_eq!(quota.throttled_ns(2 * SECOND), 2000);
        assert_eq!(quota.throttled_ns(2 * AGAIN_NS), 2000, "now it is known where it is");
        world.group("cpu/slow", "throttled_time 6000000000\n");
        assert_eq!(quota.throttled_ns(2 * AGAIN_NS), 2000 + SECOND);
        world.group("cpu/slow", "");
        assert_eq!(quota.throttled_ns(2 * AGAIN_NS), 2000 + SECOND, "unreadable for a moment");
    }

    #[test]
    fn without_control_groups_nothing_is_throttled() {
        let mut quota = World::new().quota();
        assert_eq!(quota.throttled_ns(2 * AGAIN_NS), 0);
        Quota::open(0).throttled_ns(AGAIN_NS);
    }
}
