//! A CPU quota or a memory limit for some processes, in a control group of their own.

use std::io;
use std::path::{Path, PathBuf};

use crate::skip::Skip;

/// The group is given its quota anew in each of these, in microseconds.
const PERIOD_US: u64 = 100_000;
/// Where control groups are mounted; below it one directory per controller in version 1.
const MOUNT: &str = "/sys/fs/cgroup";

/// A control group; when it is dropped, what is left in it goes back to the group above.
pub struct Group {
    directory: PathBuf,
}

impl Group {
    /// A group that may use so many percent of one CPU.
    pub fn cpu_percent(percent: u64) -> Result<Group, Skip> {
        let quota = percent * PERIOD_US / 100;
        let first = [("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        let unified = [("cpu.max", format!("{quota} {PERIOD_US}"))];
        Group::of("cpu", &first, &unified)
            .map_err(|error| Skip(format!("no control group with a CPU quota can be made here: {error}")))
    }

    /// A group that may use so much memory, and no swap.
    pub fn memory(bytes: u64) -> Result<Group, Skip> {
        let first = [("memory.limit_in_bytes", bytes.to_string())];
        let unified = [("memory.max", bytes.to_string()), ("memory.swap.max", "0".to_owned())];
        Group::of("memory", &first, &unified)
            .map_err(|error| Skip(format!("no control group with a memory limit can be made here: {error}")))
    }

    /// In the hierarchy of version 1 where the controller has one, else in the unified one.
    fn of(controller: &str, first: &[(&str, String)], unified: &[(&str, String)]) -> io::Result<Group> {
        let name = format!("forkgate-tests-{controller}-{}", std::process::id());
        let mount = Path::new(MOUNT);
        if mount.join(controller).join("tasks").exists() {
            return make(&mount.join(controller).join(name), first);
        }
        std::fs::write(mount.join("cgroup.subtree_control"), format!("+{controller}"))?;
        make(&mount.join(name), unified)
    }

    /// Words that start a program within the group, for `Setup::through`.
    pub fn starter(&self) -> [String; 3] {
        let enter =
            format!("echo $$ >'{}' && exec \"$0\" \"$@\"", self.directory.join("cgroup.procs").display());
        ["sh".to_owned(), "-c".to_owned(), enter]
    }

    /// How often the group has used up its quota.
    pub fn throttled(&self) -> u64 {
        let text = std::fs::read_to_string(self.directory.join("cpu.stat")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse().ok());
        count.unwrap_or(0)
    }
}

fn make(directory: &Path, files: &[(&str, String)]) -> io::Result<Group> {
    std::fs::create_dir(directory)?;
    let group = Group { directory: directory.to_owned() };
    for (file, value) in files {
        std::fs::write(directory.join(file), value)?;
    }
    Ok(group)
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = std::fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        if let Some(above) = self.directory.parent() {
            for pid in left.lines() {
                let _ = std::fs::write(above.join("cgroup.procs"), pid);
            }
        }
        let _ = std::fs::remove_dir(&self.directory);
    }
}
