//! `forkgate report`: a crash report for a person.

mod render;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use forkgate_shared::report::{ParseError, Report};

pub use render::{Style, render};

use super::output;

/// The directory of reports within the state directory.
const DIRECTORY: &str = "crash";
/// Largest file that is read: a report has about a megabyte at most.
const MAX_BYTES: u64 = 16 << 20;

/// Why there is no report to show.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    #[error(
        "there is no report in {}: no worker was killed or died yet; name a FILE, or the state directory with \
         --set state_dir=DIR", .0.display()
    )]
    None(PathBuf),
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} {source}", path = .path.display())]
    Parse { path: PathBuf, source: ParseError },
    #[error("{path} is no crash report: it is larger than {} MiB", MAX_BYTES >> 20, path = .path.display())]
    TooLarge { path: PathBuf },
}

/// Shows the report in a file, or prints the file as it is. Exit code 1 with one line on stderr when there is none.
pub fn show(path: &Path, json: bool) -> ExitCode {
    let shown =
        read(path).map(|(text, report)| if json { text } else { render(&report, Style::of_stdout()) });
    shown.map_or_else(|error| failed(&error), |text| output::print(&text))
}

/// The same with the newest report of a state directory.
pub fn newest(state_dir: &Path, json: bool) -> ExitCode {
    match find_newest(&state_dir.join(DIRECTORY)) {
        Ok(path) => {
            output::complain("file", &path.display().to_string());
            show(&path, json)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &ReportError) -> ExitCode {
    output::complain("error", &error.to_string());
    ExitCode::FAILURE
}

fn find_newest(directory: &Path) -> Result<PathBuf, ReportError> {
    let none = || ReportError::None(directory.to_owned());
    let entries = fs::read_dir(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => none(),
        _ => ReportError::Io { path: directory.to_owned(), source: error },
    })?;
    let written =
        |path: &Path| fs::metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let reports = files.map(|entry| entry.path());
    let reports = reports.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    reports.max_by_key(|path| (written(path), path.clone())).ok_or_else(none)
}

fn read(path: &Path) -> Result<(String, Report), ReportError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReportError::Missing(path.to_owned()),
        _ => ReportError::Io { path: path.to_owned(), source: error },
    };
    // Opening a pipe that nobody writes to would wait for ever.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ReportError::TooLarge { path: path.to_owned() });
    }
    let parsed = Report::parse(text.as_bytes());
    let report = parsed.map_err(|source| ReportError::Parse { path: path.to_owned(), source })?;
    Ok((text, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of a spin, as a worker and its master write it.
    const SPIN: &str = include_str!("fixtures/spin.json");

    fn fifo(directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        path
    }

    #[test]
    fn a_file_that_is_no_report_is_told_from_one_that_is() {
        let dir = tempfile::tempdir().expect("directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("write");
            path
        };
        let report = file("good.json", SPIN);
        assert_eq!(read(&report).expect("a report").1.slot, 1);
        for (path, words) in [
            (dir.path().join("missing"), "there is no file"),
            (dir.path().to_owned(), "it is no regular file"),
            (fifo(dir.path(), "pipe.json"), "it is no regular file"),
            (file("x.json", "{}"), "is no crash report: missing field `version`"),
            (file("y.json", "hello"), "is no crash report"),
            (file("z.json", "{\"version\": 99}"), "of format 99, and this forkgate reads format 1"),
        ] {
            let error = read(&path).expect_err("no report").to_string();
            assert!(error.contains(words) && error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn the_newest_report_is_found() {
        let dir = tempfile::tempdir().expect("directory");
        let directory = dir.path().join(DIRECTORY);
        assert!(matches!(find_newest(&directory), Err(ReportError::None(_))));
        fs::create_dir(&directory).expect("directory");
        assert!(matches!(find_newest(&directory), Err(ReportError::None(_))));
        fifo(&directory, "zz.json");
        std::os::unix::fs::symlink("/dev/null", directory.join("zzz.json")).expect("symlink");
        for (name, second) in [("b.json", 5), ("a.json", 9), ("c.json", 9), ("z.json", 1), ("z.tmp", 99)] {
            let file = fs::File::create(directory.join(name)).expect("file");
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second)).expect("time");
        }
        assert_eq!(find_newest(&directory).expect("one"), directory.join("c.json"));
    }
}
