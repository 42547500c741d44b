//! The state directory: ours alone (mode 0700), and one master at a time (a lock).
//!
//! The lock is `flock(2)` on `<state_dir>/lock`, which holds the master's pid for people. The file is removed at the end,
//! so whoever gets the lock checks that it is still the file of that name.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::upgrade::{Keeper, Kept};

/// How long to wait for the lock: a master that was just killed is gone within moments.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// The lock's name.
const LOCK: &str = "lock";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The system says no.
    #[error("cannot use GATEWAY_STATE_DIR {path}: {source}", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may write there.
    #[error(
        "GATEWAY_STATE_DIR {path} may be written by others and is not empty: give forkgate a directory of its own, or \
         run `chmod 700 {path}`", path = .path.display()
    )]
    Open {
        /// The directory.
        path: PathBuf,
    },
    /// Another master runs.
    #[error(
        "another forkgate (pid {pid}) uses GATEWAY_STATE_DIR {path}: stop it, or give this one another directory",
        path = .path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock says.
        pid: String,
    },
}

/// The directory, locked; unlocked and the lock removed when dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if it is missing, makes it ours alone, locks it.
    pub fn lock(path: &Path) -> Result<StateDir, StateDirError> {
        StateDir::lock_within(path, PATIENCE)
    }

    /// Keeps the lock for another program of this process: it belongs to the open file.
    pub fn save(&self, keeper: &mut Keeper) -> Kept {
        keeper.keep(&*self.lock)
    }

    /// The directory, locked by the program before.
    pub fn restore(path: &Path, lock: OwnedFd) -> io::Result<StateDir> {
        let lock =
            Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(StateDir { path: path.to_owned(), lock })
    }

    fn lock_within(path: &Path, patience: Duration) -> Result<StateDir, StateDirError> {
        let failed = |source| StateDirError::Io { path: path.to_owned(), source };
        make_private(path)?;
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            match try_lock(&path.join(LOCK)).map_err(failed)? {
                Some(lock) => return Ok(StateDir { path: path.to_owned(), lock }),
                None if Instant::now() >= deadline => {
                    let pid = fs::read_to_string(path.join(LOCK)).unwrap_or_default().trim().to_owned();
                    return Err(StateDirError::Locked { path: path.to_owned(), pid });
                }
                None => {
                    if !std::mem::replace(&mut told, true) {
                        let patience_s = patience.as_secs();
                        tracing::info!(state_dir = %path.display(), patience_s, "another master runs here; waiting for its end");
                    }
                    sleep(RETRY);
                }
            }
        }
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join(LOCK));
    }
}

fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EAGAIN)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    match fs::metadata(path) {
        Ok(named) if named.ino() == lock.metadata()?.ino() => {}
        _ => return Ok(None),
    }
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(Some(lock))
}

/// A directory that others may enter is closed when it is new, empty or was ours before; a foreign one, such as `/tmp`,
/// is refused or left as it is.
fn make_private(path: &Path) -> Result<(), StateDirError> {
    let failed = |source| StateDirError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let ours = path.join(LOCK).exists() || fs::read_dir(path).map_err(failed)?.next().is_none();
    if ours {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
    } else if mode & 0o022 != 0 {
        Err(StateDirError::Open { path: path.to_owned() })
    } else {
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "the state directory can be read by others");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_master_at_a_time_and_nothing_left_behind() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state/deep");
        let first = StateDir::lock(&path).expect("lock");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o700);
        let second = StateDir::lock_within(&path, Duration::from_millis(60)).expect_err("locked").to_string();
        assert!(second.contains(&format!("another forkgate (pid {})", std::process::id())), "{second}");
        drop(first);
        assert!(!path.join(LOCK).exists());
        StateDir::lock_within(&path, Duration::ZERO).expect("free again");
    }

    #[test]
    fn somebody_elses_directory_is_not_taken_over() {
        let dir = tempfile::tempdir().expect("dir");
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("chmod");
        fs::write(dir.path().join("theirs"), "").expect("write");
        mode(0o1777);
        assert!(matches!(StateDir::lock(dir.path()), Err(StateDirError::Open { .. })));
        mode(0o755);
        drop(StateDir::lock(dir.path()).expect("readable only"));
        assert_eq!(fs::metadata(dir.path()).expect("metadata").permissions().mode() & 0o777, 0o755);
    }
}
