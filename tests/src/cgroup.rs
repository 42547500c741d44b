//! A CPU quota for some processes, in a control group of their own.

use std::path::{Path, PathBuf};

use crate::skip::Skip;

/// The group is given its quota anew in each of these, in microseconds.
const PERIOD_US: u64 = 100_000;

/// A control group; when it is dropped, what is left in it goes back to the group above.
pub struct Quota {
    directory: PathBuf,
}

impl Quota {
    /// A group that may use so many percent of one CPU.
    pub fn percent(percent: u64) -> Result<Quota, Skip> {
        let name = format!("forkgate-tests-{}", std::process::id());
        let quota = percent * PERIOD_US / 100;
        let unified = Path::new("/sys/fs/cgroup");
        let first = Path::new("/sys/fs/cgroup/cpu");
        let made = if first.join("cpu.cfs_quota_us").exists() {
            make(
                &first.join(&name),
                &[("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota.to_string())],
            )
        } else {
            std::fs::write(unified.join("cgroup.subtree_control"), "+cpu")
                .and_then(|()| make(&unified.join(&name), &[("cpu.max", format!("{quota} {PERIOD_US}"))]))
        };
        made.map_err(|error| Skip(format!("no control group with a CPU quota can be made here: {error}")))
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

fn make(directory: &Path, files: &[(&str, String)]) -> std::io::Result<Quota> {
    std::fs::create_dir(directory)?;
    let quota = Quota { directory: directory.to_owned() };
    for (file, value) in files {
        std::fs::write(directory.join(file), value)?;
    }
    Ok(quota)
}

impl Drop for Quota {
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
