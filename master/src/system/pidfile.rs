//! `GATEWAY_PIDFILE`: the master's process id for scripts, in a file that is locked for as long as the master lives.
//!
//! The lock says whether a file is in use: a number alone may be somebody else's by now. A file appears under its name
//! whole and locked (it is made beside, and linked or renamed into place), so that nobody reads half of a number.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::upgrade::{Adopter, Keeper, Kept};

/// A master that was just killed is gone within moments.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// For everybody to read.
const MODE: u32 = 0o644;
/// Longest file that may be one of these, in bytes: a number and a newline.
const MAX_BYTES: u64 = 16;

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// Another master has it.
    #[error(
        "another forkgate (pid {pid}) has GATEWAY_PIDFILE {path}: stop it, or give this one another file",
        path = .path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// What it says.
        pid: String,
    },
    /// It holds something else than a number: whoever named it did not mean it.
    #[error("GATEWAY_PIDFILE {path} is there and is no pid file: name another one, or remove it", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot write GATEWAY_PIDFILE {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file, locked; removed when dropped.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: Flock<File>,
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    path: PathBuf,
    file: Kept,
}

/// What is found under the name.
enum Found {
    Nothing,
    /// Nobody holds it; the lock is kept for as long as it is replaced.
    Stale(#[expect(dead_code, reason = "held, not read")] Flock<File>),
    Held(String),
}

impl Pidfile {
    /// Writes the file; one that is left behind makes way.
    pub fn take(path: &Path) -> Result<Pidfile, PidfileError> {
        Pidfile::take_within(path, PATIENCE)
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Pidfile, PidfileError> {
        let failed = |source| PidfileError::Io { path: path.to_owned(), source };
        let deadline = Instant::now() + patience;
        loop {
            let found = look(path).map_err(failed)?;
            match found {
                None => return Err(PidfileError::Foreign { path: path.to_owned() }),
                Some(Found::Held(pid)) if Instant::now() >= deadline => {
                    return Err(PidfileError::Held { path: path.to_owned(), pid });
                }
                Some(Found::Held(_)) => sleep(RETRY),
                Some(found) => {
                    if let Some(file) = place(path, matches!(found, Found::Stale(_))).map_err(failed)? {
                        return Ok(Pidfile { path: path.to_owned(), file });
                    }
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it down: the lock belongs to the open file, and the process stays the same.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved { path: self.path.clone(), file: keeper.keep(&*self.file) }
    }

    /// It again.
    pub fn restore(saved: Saved, adopter: &mut Adopter) -> io::Result<Pidfile> {
        let file: OwnedFd = adopter.adopt(saved.file)?;
        let file =
            Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(Pidfile { path: saved.path, file })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if is_named(&self.file, &self.path) && fs::remove_file(&self.path).is_err() {
            // The directory is not ours to write: an empty file names nobody.
            let _ = self.file.set_len(0);
        }
    }
}

/// What is there; none for something that is no pid file.
fn look(path: &Path) -> io::Result<Option<Found>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match File::options().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Found::Nothing)),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Ok(None);
    }
    let mut text = String::new();
    let read = (&file).take(MAX_BYTES).read_to_string(&mut text);
    let pid = text.trim();
    if read.is_err() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    Ok(Some(match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Found::Stale(lock),
        Err((_, Errno::EAGAIN)) => Found::Held(pid.to_owned()),
        Err((_, errno)) => return Err(errno.into()),
    }))
}

/// Makes the file beside and gives it its name; none when somebody else was faster.
fn place(path: &Path, replace: bool) -> io::Result<Option<Flock<File>>> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    // A process of this number that is gone may have left one.
    let _ = fs::remove_file(&draft);
    let file = File::options().read(true).write(true).create_new(true).mode(MODE).open(&draft)?;
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
    let placed = writeln!(file, "{}", std::process::id())
        .and_then(|()| if replace { fs::rename(&draft, path) } else { fs::hard_link(&draft, path) });
    let _ = fs::remove_file(&draft);
    match placed {
        Ok(()) if is_named(&file, path) => Ok(Some(file)),
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    let number = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(own), Ok(named)) => number(&own) == number(&named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path) -> Result<Pidfile, PidfileError> {
        Pidfile::take_within(path, Duration::from_millis(120))
    }

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("forkgate.pid");
        let own = format!("{}\n", std::process::id());
        let first = take(&path).expect("free");
        assert_eq!(fs::read_to_string(&path).expect("read"), own);
        let held = take(&path).expect_err("held").to_string();
        assert!(held.contains(&format!("another forkgate (pid {})", own.trim())), "{held}");
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
        for left_behind in ["1\n", "", "4194304"] {
            fs::write(&path, left_behind).expect("write");
            let taken = take(&path).expect("nobody holds it");
            assert_eq!(fs::read_to_string(taken.path()).expect("read"), own);
            assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 1);
        }
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        for text in ["important\n", "12 34\n", "1".repeat(40).as_str()] {
            fs::write(&path, text).expect("write");
            assert!(matches!(take(&path), Err(PidfileError::Foreign { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
        }
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(matches!(take(&link), Err(PidfileError::Foreign { .. })));
        assert!(matches!(take(Path::new("/no/such/directory/pid")), Err(PidfileError::Io { .. })));
    }

    #[test]
    fn a_file_that_somebody_put_in_its_place_is_not_removed() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("forkgate.pid");
        let taken = take(&path).expect("free");
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "7\n").expect("write");
        drop(taken);
        assert_eq!(fs::read_to_string(&path).expect("read"), "7\n");
    }
}
