//! Where lines go: to stderr, or to a file, which can be opened anew after somebody has moved it away.
//!
//! A file is appended to (`O_APPEND`) with one write per line, so that the lines of many processes never mix.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use tracing_subscriber::fmt::MakeWriter;

/// For the owner to write and the group to read.
const MODE: u32 = 0o640;

/// The file; none = stderr.
static TARGET: RwLock<Option<Target>> = RwLock::new(None);

#[derive(Clone, Debug)]
struct Target {
    path: PathBuf,
    file: Arc<File>,
}

/// What becomes of a log file that is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Lines go where it leads.
    Followed,
    /// It is not opened: another user may have made it.
    Refused,
}

/// Sends all further lines to this file, which is made if it is not there; to stderr without one. When it cannot be opened
/// lines go where they went before.
pub fn to_file(path: Option<&Path>, links: Links) -> io::Result<()> {
    let target = match path {
        Some(path) => Some(Target { path: path.to_owned(), file: Arc::new(open(path, links)?) }),
        None => None,
    };
    replace(target);
    Ok(())
}

/// Opens the file anew by its path; false when lines go to stderr. When it cannot be opened they go on to the old one.
pub fn reopen() -> io::Result<bool> {
    let Some(Target { path, .. }) = current() else { return Ok(false) };
    to_file(Some(&path), Links::Followed).map(|()| true)
}

/// Whether lines could be written to this file; makes it.
pub fn try_file(path: &Path) -> io::Result<()> {
    open(path, Links::Followed).map(drop)
}

pub(super) fn is_file() -> bool {
    current().is_some()
}

fn open(path: &Path, links: Links) -> io::Result<File> {
    let links = if links == Links::Refused { libc::O_NOFOLLOW } else { 0 };
    // Without O_NONBLOCK a FIFO that nobody reads would keep this process waiting for ever.
    File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | links)
        .open(path)
}

fn current() -> Option<Target> {
    TARGET.read().map_or_else(|poisoned| poisoned.into_inner().clone(), |target| target.clone())
}

fn replace(target: Option<Target>) {
    match TARGET.write() {
        Ok(mut current) => *current = target,
        Err(poisoned) => *poisoned.into_inner() = target,
    }
}

/// Makes a writer per line.
pub(super) struct Sink;

/// One line's way out.
pub(super) enum Way {
    Stderr(io::Stderr),
    File(Arc<File>),
}

impl MakeWriter<'_> for Sink {
    type Writer = Way;

    fn make_writer(&self) -> Way {
        current().map_or_else(|| Way::Stderr(io::stderr()), |target| Way::File(target.file))
    }
}

impl Write for Way {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Way::Stderr(stderr) => stderr.write(bytes),
            Way::File(file) => (&**file).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(line: &str) {
        Sink.make_writer().write_all(line.as_bytes()).expect("written");
    }

    /// One test, because the target belongs to the process.
    #[test]
    fn lines_follow_the_name_after_a_rotation_and_survive_a_file_that_cannot_be_opened() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, moved) = (dir.path().join("gateway.log"), dir.path().join("gateway.log.1"));
        assert!(!reopen().expect("nothing to do"));
        to_file(Some(&path), Links::Followed).expect("opened");
        assert_eq!(fs::metadata(&path).expect("made").permissions().mode() & 0o777 & !MODE, 0);
        write("first\n");
        fs::rename(&path, &moved).expect("moved");
        write("second\n");
        assert!(reopen().expect("opened anew") && is_file());
        write("third\n");
        let read = |path: &Path| fs::read_to_string(path).expect("readable");
        assert_eq!((read(&moved), read(&path)), ("first\nsecond\n".to_owned(), "third\n".to_owned()));
        assert!(to_file(Some(dir.path()), Links::Followed).is_err(), "a directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(to_file(Some(&link), Links::Refused).is_err(), "a link");
        assert!(try_file(&dir.path().join("none/x.log")).is_err());
        write("fourth\n");
        assert_eq!(read(&path), "third\nfourth\n");
        to_file(None, Links::Followed).expect("stderr");
        assert!(!is_file());
    }
}
