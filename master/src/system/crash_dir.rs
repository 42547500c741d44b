//! Where crash reports are kept: `<state_dir>/crash`, ours alone, the newest [`KEPT`].
//!
//! Those that operators ordered of workers that live on are kept beside them, as many, and are not what `why` tells of.
//! A report has its final name only when it is whole. Only files whose names are made like ours are counted and removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use forkgate_shared::calendar::rfc3339;
use forkgate_shared::report::{Cause, ParseError, Report};

/// Reports that are kept.
pub const KEPT: usize = 20;
/// Longest file that is read back, in bytes; none of ours comes near it.
const MAX_FILE: u64 = 4 << 20;
/// Directory entries that are looked at.
const MAX_ENTRIES: usize = 4096;
/// The directory's name within the state directory.
const DIRECTORY: &str = "crash";
/// The last word in the name of a report of a worker that lives on.
const ORDERED: &str = "dump";
/// A report that is not whole yet. There is one master, and it writes one report at a time.
const UNFINISHED: &str = "unfinished";

/// Why there is no report to show.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// Nothing there.
    #[error("no worker of slot {0} was killed or died yet")]
    None(u32),
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The report.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} {source}", path = .path.display())]
    Parse {
        /// The report.
        path: PathBuf,
        /// Why.
        source: ParseError,
    },
}

/// The directory. It is made when the first report is written.
#[derive(Debug)]
pub struct CrashDir {
    path: PathBuf,
    /// The last report of each slot that this master wrote; clocks go backwards, so names alone do not tell.
    newest: BTreeMap<u32, PathBuf>,
}

impl CrashDir {
    /// Of this state directory.
    pub fn of(state_dir: &Path) -> CrashDir {
        CrashDir { path: state_dir.join(DIRECTORY), newest: BTreeMap::new() }
    }

    /// Writes a report, begun at `millis` since 1970, and removes the oldest beyond [`KEPT`]; gives its path.
    pub fn write(&mut self, report: &Report, millis: u64) -> io::Result<PathBuf> {
        make_private(&self.path)?;
        let path = self.path.join(name(report, millis));
        let unfinished = self.path.join(UNFINISHED);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = write_new(&unfinished, report).and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        if !report.is_of_one_that_lives() {
            self.newest.insert(report.slot, path.clone());
        }
        self.prune(&path);
        Ok(path)
    }

    /// The last report of a slot that can be read, also of a master before this one. When none can, says what is wrong
    /// with the last one.
    pub fn why(&self, slot: u32) -> Result<(PathBuf, Report), WhyError> {
        let mut problem = WhyError::None(slot);
        for path in self.of_slot(slot) {
            match read(&path) {
                Ok(report) => return Ok((path, report)),
                Err(error) if matches!(problem, WhyError::None(_)) => problem = error,
                Err(_) => {}
            }
        }
        Err(problem)
    }

    /// Where the last report of a slot is, whatever is in it.
    pub fn last(&self, slot: u32) -> Option<PathBuf> {
        self.of_slot(slot).next()
    }

    /// The reports of a slot whose workers were killed or died, the newest first; some may be named twice.
    fn of_slot(&self, slot: u32) -> impl Iterator<Item = PathBuf> {
        let remembered = self.newest.get(&slot).filter(|path| path.exists()).cloned();
        let names = self.names().into_iter().rev();
        let names = names.filter(move |name| slot_of(name) == Some(slot) && !is_ordered(name)).take(KEPT);
        remembered.into_iter().chain(names.map(|name| self.path.join(name)))
    }

    /// The names of all reports, oldest first.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(MAX_ENTRIES)
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| slot_of(name).is_some())
            .collect();
        names.sort_unstable();
        names
    }

    /// Removes the oldest reports of the same sort, never the one just written.
    fn prune(&mut self, written: &Path) {
        let is_alike = |name: &str| is_ordered(name) == is_ordered(&written.to_string_lossy());
        let alike = self.names().into_iter().filter(|name| is_alike(name));
        let mut paths: Vec<PathBuf> = alike.map(|name| self.path.join(name)).collect();
        let more = paths.len().saturating_sub(KEPT);
        paths.retain(|path| path != written);
        for path in paths.iter().take(more) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "an old crash report cannot be removed");
            }
        }
        self.newest.retain(|_, path| path.exists());
    }
}

/// `20261120T132626.123Z-slot1-gen7-spin.json`
fn name(report: &Report, millis: u64) -> String {
    let time: String = rfc3339(millis).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let word = match &report.cause {
        Cause::Verdict { .. } if report.is_of_one_that_lives() => ORDERED,
        Cause::Verdict { verdict, .. } => verdict.as_str(),
        Cause::Died { .. } => "died",
    };
    format!("{time}-slot{}-gen{}-{word}.json", report.slot, report.generation)
}

/// It is of a worker that lives on.
fn is_ordered(name: &str) -> bool {
    name.ends_with(&format!("-{ORDERED}.json"))
}

fn read(path: &Path) -> Result<Report, WhyError> {
    let mut bytes = Vec::new();
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let result = file.and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    result.map_err(|source| WhyError::Io { path: path.to_owned(), source })?;
    Report::parse(&bytes).map_err(|source| WhyError::Parse { path: path.to_owned(), source })
}

/// The slot in a name made by [`name`]; none for any other name.
pub fn slot_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_suffix(".json")?.splitn(4, '-');
    let (time, slot, generation, word) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_time = time.len() == "20261120T132626.123Z".len()
        && time.bytes().zip(b"00000000T000000.000Z").all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            like => byte == *like,
        });
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    number(generation.strip_prefix("gen")?)?;
    let slot = number(slot.strip_prefix("slot")?)?;
    (is_time && is_word).then(|| u32::try_from(slot).ok())?
}

fn write_new(path: &Path, report: &Report) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(report)?;
    bytes.push(b'\n');
    let flags = libc::O_NOFOLLOW;
    File::options().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?.write_all(&bytes)
}

/// The state directory is ours alone, so nobody else puts something in this one's place.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use forkgate_shared::rows::Row;

    use super::super::report::tests::about;
    use super::*;

    const DAY: u64 = 86_400_000;

    fn list(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("directory").flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_are_understood_and_nothing_else_is() {
        let row = Row::default();
        let report = about(12, u64::MAX, &row);
        let spin = name(&report, 1_709_164_800_123);
        assert_eq!(spin, format!("20240229T000000.123Z-slot12-gen{}-spin.json", u64::MAX));
        assert_eq!(slot_of(&spin), Some(12));
        let died = Report { cause: Cause::Died { how: "signal SIGSEGV".to_owned() }, ..report };
        assert_eq!(slot_of(&name(&died, 0)), Some(12));
        for other in [
            "",
            "notes.json",
            "unfinished",
            "20240229T000000.123Z-slot12-gen1-spin",
            "20240229T000000.123Z-slot-gen1-spin.json",
            "20240229T000000.123Z-slot+1-gen1-spin.json",
            "20240229T000000.123Z-slot99999999999-gen1-spin.json",
            "20240229T000000.123Z-slot1-gen-spin.json",
            "20240229T000000.123Z-slot1-gen1-.json",
            "20240229T000000.123Z-slot1-gen1-../x.json",
            "20240229-000000.123Z-slot1-gen1-spin.json",
            "2024022\u{e9}T00000.123Z-slot1-gen1-spin.json",
        ] {
            assert_eq!(slot_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_report_is_for_its_owner_only_and_never_half_written() {
        let dir = tempfile::tempdir().expect("dir");
        let mut crashes = CrashDir::of(dir.path());
        let path = dir.path().join(DIRECTORY);
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        fs::create_dir(&path).expect("directory");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        // What an earlier master left, or somebody put there, is replaced and not followed.
        let elsewhere = dir.path().join("elsewhere");
        symlink(&elsewhere, path.join(UNFINISHED)).expect("symlink");
        let written = crashes.write(&about(1, 7, &Row::default()), 0).expect("write");
        assert_eq!((mode(&path), mode(&written)), (0o700, 0o600));
        assert_eq!(list(&path), ["19700101T000000.000Z-slot1-gen7-spin.json"]);
        assert!(!elsewhere.exists());
    }

    #[test]
    fn the_newest_reports_are_kept_and_foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let mut crashes = CrashDir::of(dir.path());
        let row = Row::default();
        let path = dir.path().join(DIRECTORY);
        crashes.write(&about(0, 1, &row), DAY).expect("write");
        fs::write(path.join("0-notes.json"), "mine").expect("write");
        fs::create_dir(path.join("19700101T000000.000Z-slot1-gen7-spin.json")).expect("directory");
        for n in 2..=KEPT as u64 + 5 {
            crashes.write(&about(0, n, &row), n * DAY).expect("write");
        }
        let names = list(&path);
        assert_eq!(names.len(), KEPT + 2, "{names:?}");
        assert!(names.contains(&"0-notes.json".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("gen5-")) && names[2].contains("gen6-"), "{names:?}");
        // The clock went back: the one just written stays.
        let last = crashes.write(&about(3, 99, &row), 0).expect("write");
        assert!(last.exists() && list(&path).len() == KEPT + 2);
    }

    #[test]
    fn the_last_report_of_a_slot_is_found_also_by_another_master() {
        let dir = tempfile::tempdir().expect("dir");
        let mut crashes = CrashDir::of(dir.path());
        let none = crashes.why(1).expect_err("nothing there").to_string();
        assert_eq!(none, "no worker of slot 1 was killed or died yet");
        let row = Row::default();
        for (slot, generation, millis) in [(1, 5, DAY), (11, 6, 3 * DAY), (1, 7, 2 * DAY)] {
            crashes.write(&about(slot, generation, &row), millis).expect("write");
        }
        let generation = |crashes: &CrashDir| crashes.why(1).expect("a report").1.generation;
        assert_eq!(generation(&crashes), 7);
        assert_eq!(generation(&CrashDir::of(dir.path())), 7);
        // The clock went back: the last one is the one that was written last.
        let last = crashes.write(&about(1, 8, &row), 0).expect("write");
        assert_eq!(generation(&crashes), 8);
        fs::remove_file(last).expect("remove");
        assert_eq!(generation(&crashes), 7);
    }

    #[test]
    fn the_last_report_that_can_be_read_is_shown_and_else_what_is_wrong_with_the_last() {
        let dir = tempfile::tempdir().expect("dir");
        let mut crashes = CrashDir::of(dir.path());
        let row = Row::default();
        let older = crashes.write(&about(1, 5, &row), DAY).expect("write");
        let newer = crashes.write(&about(1, 7, &row), 2 * DAY).expect("write");
        for crashes in [&crashes, &CrashDir::of(dir.path())] {
            fs::write(&newer, "{}").expect("write");
            assert_eq!(crashes.why(1).expect("a report").0, older);
        }
        fs::write(&older, "{\"version\": 99}").expect("write");
        let error = crashes.why(1).expect_err("no report").to_string();
        assert_eq!(
            error,
            format!("{} is no crash report: missing field `version` at line 1 column 2", newer.display())
        );
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().expect("dir");
        let report = about(1, 7, &Row::default());
        let missing = CrashDir::of(&dir.path().join("missing")).write(&report, 0);
        assert_eq!(missing.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        fs::write(dir.path().join(DIRECTORY), "a file").expect("write");
        assert!(CrashDir::of(dir.path()).write(&report, 0).is_err());
        fs::remove_file(dir.path().join(DIRECTORY)).expect("remove");
        symlink("/tmp", dir.path().join(DIRECTORY)).expect("symlink");
        assert!(CrashDir::of(dir.path()).write(&report, 0).is_err(), "a link is not followed");
    }
}
