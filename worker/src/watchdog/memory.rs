//! What this process and its cgroup use, in bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Reading `smaps_rollup` waits for whoever changes the mappings.
pub(super) const LIMIT: Duration = Duration::from_millis(300);
/// Lines of `smaps_rollup` that tell something.
const WANTED: [&str; 8] =
    ["Rss", "Pss", "Pss_Anon", "Private_Clean", "Private_Dirty", "Anonymous", "AnonHugePages", "Swap"];

/// Lines of `smaps_rollup`; and of the cgroup (v2) `memory.current` and `memory.max`, where it has them.
pub(super) fn summary() -> io::Result<BTreeMap<String, u64>> {
    let mut summary = rollup(&fs::read_to_string("/proc/self/smaps_rollup")?);
    summary.extend(cgroup(Path::new("/")));
    Ok(summary)
}

fn rollup(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        WANTED.contains(&name).then(|| (name.to_owned(), kib * 1024))
    };
    text.lines().filter_map(line).collect()
}

fn cgroup(root: &Path) -> BTreeMap<String, u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return BTreeMap::new();
    };
    let directory = root.join("sys/fs/cgroup").join(group.trim_start_matches('/'));
    let file = |name: &str| {
        let bytes = fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()?;
        Some((format!("cgroup {name}"), bytes))
    };
    ["memory.current", "memory.max", "memory.swap.current"].into_iter().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_bytes_and_no_limit_is_no_line() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:      9000 kB\nPrivate_Dirty: 4 kB\nLocked: 1 kB\nPss: x\n";
        let expected = [("Private_Dirty", 4096), ("Rss", 9000 * 1024)];
        assert!(rollup(text).iter().map(|(name, bytes)| (name.as_str(), *bytes)).eq(expected));
        let root = tempfile::tempdir().expect("directory");
        assert!(cgroup(root.path()).is_empty());
        let group = root.path().join("sys/fs/cgroup/a/b");
        fs::create_dir_all(&group).expect("directory");
        fs::create_dir_all(root.path().join("proc/self")).expect("directory");
        fs::write(root.path().join("proc/self/cgroup"), "0::/a/b\n").expect("file");
        fs::write(group.join("memory.current"), "123\n").expect("file");
        fs::write(group.join("memory.max"), "max\n").expect("file");
        assert!(cgroup(root.path()).into_iter().eq([("cgroup memory.current".to_owned(), 123)]));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(summary().expect("readable")["Rss"] > 4096);
    }
}
