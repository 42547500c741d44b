//! What this process may use of the machine: CPUs by affinity and cgroup quota, memory by cgroup limit (v2 and v1).
//!
//! Limits of every ancestor hold, so the smallest on the way up to the mount counts.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// v1 writes "no limit" as a number near `i64::MAX`; no machine has an exbibyte.
const V1_UNLIMITED: u64 = 1 << 60;

/// The machine as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs to keep busy; at least 1.
    pub cpus: u32,
    /// The cgroup's memory limit in bytes.
    pub memory_limit: Option<u64>,
}

impl Machine {
    /// Reads `/proc` and the cgroup file systems. What cannot be read is no limit.
    pub fn read() -> Machine {
        let affinity = affinity();
        let limits = Limits::read(Path::new("/"));
        Machine {
            cpus: limits.cpus.map_or(affinity, |quota| quota.min(affinity)).max(1),
            memory_limit: limits.memory,
        }
    }
}

/// The directories of the control groups that this process's memory is counted in: its own in the unified hierarchy, and
/// in that of version 1's `memory` controller. `root` is `/`.
pub fn memory_groups(root: &Path) -> Vec<PathBuf> {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let counts = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
        directories(root, &mounts, controllers, group).pop().filter(|_| counts)
    };
    groups.lines().filter_map(of_line).collect()
}

/// CPUs that the scheduler may put us on (cpusets are part of it).
fn affinity() -> u32 {
    let fallback = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).count() as u32,
        Err(_) => fallback(),
    }
}

/// What the cgroups allow.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    /// Quota in whole CPUs, rounded up: half a CPU of quota still wants a worker.
    cpus: Option<u32>,
    /// Bytes.
    memory: Option<u64>,
}

impl Limits {
    fn read(root: &Path) -> Limits {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
        let mut limits = Limits::default();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            for directory in directories(root, &mounts, controllers, group) {
                limits.cpus = smaller(limits.cpus, cpu_quota(&directory));
                limits.memory = smaller(limits.memory, memory_limit(&directory));
            }
        }
        limits
    }
}

/// The directories of a cgroup and its ancestors up to the mount. `controllers` is empty for v2.
fn directories(root: &Path, mounts: &str, controllers: &str, group: &str) -> Vec<PathBuf> {
    let wanted = |kind: &str, options: &str| match controllers {
        "" => kind == "cgroup2",
        names => {
            kind == "cgroup" && names.split(',').any(|name| options.split(',').any(|option| option == name))
        }
    };
    let found = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        wanted(kind, options).then(|| (left.get(3).copied(), left.get(4).copied()))
    });
    let Some((Some(mounted), Some(mount_point))) = found else { return Vec::new() };
    let mount_point = root.join(mount_point.trim_start_matches('/'));
    // In a container without its own cgroup namespace the path is the host's; the mount shows only our part of it.
    let below = Path::new(group).strip_prefix(mounted).unwrap_or(Path::new(""));
    let below = if below.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { below };
    let mut directory = mount_point.clone();
    let mut all = vec![directory.clone()];
    for part in below.components() {
        directory.push(part);
        all.push(directory.clone());
    }
    all
}

fn cpu_quota(directory: &Path) -> Option<u32> {
    let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(v2) => {
            let mut words = v2.split_whitespace().map(str::parse::<u64>);
            (words.next()?.ok()?, words.next()?.ok()?)
        }
        None => (number(&read("cpu.cfs_quota_us")?)?, number(&read("cpu.cfs_period_us")?)?),
    };
    (quota > 0 && period > 0).then(|| u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX))
}

fn memory_limit(directory: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
    let limit = number(&read("memory.max").or_else(|| read("memory.limit_in_bytes"))?)?;
    (limit > 0 && limit < V1_UNLIMITED).then_some(limit)
}

/// A number; none for `max` and `-1`.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, content).expect("write");
        }
        root
    }

    #[test]
    fn v2_takes_the_smallest_limit_on_the_way_up_and_rounds_cpus_up() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/system.slice/forkgate.service\n"),
            ("proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/forkgate.service/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/system.slice/forkgate.service/memory.max", "1073741824\n"),
        ]);
        assert_eq!(Limits::read(root.path()), Limits { cpus: Some(2), memory: Some(1 << 30) });
    }

    #[test]
    fn v1_and_a_container_that_sees_only_its_part_are_read() {
        let root = machine(&[
            ("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"),
            (
                "proc/self/mountinfo",
                "31 24 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                 32 24 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(Limits::read(root.path()), Limits { cpus: Some(1), memory: None });
        fs::write(root.path().join("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"), "-1").expect("write");
        assert_eq!(Limits::read(root.path()), Limits::default());
    }

    #[test]
    fn a_machine_without_cgroups_has_no_limit_but_cpus() {
        assert_eq!(Limits::read(machine(&[]).path()), Limits::default());
        assert!(Machine::read().cpus >= 1);
    }
}
