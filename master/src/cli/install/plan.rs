//! What an installation or its end would change, found out without changing anything, so that it can be shown first.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::InstallError;
use super::files::{File, Kind, data, settings_directory};
use super::manifest::{Manifest, digest, digest_of_file};
use super::place::{Place, Scope};

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// There is none: it is written.
    New,
    /// It is right as it is.
    Same,
    /// It is one of ours, of another version: it is replaced.
    Replaced,
    /// Somebody edited it, or made it in another way: it stays.
    KeptEdited,
    /// Settings belong to the administrator: they stay.
    KeptSettings,
    /// It is ours: it is removed.
    Removed,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Change::New => "new",
            Change::Same => "same",
            Change::Replaced => "changed",
            Change::KeptEdited | Change::KeptSettings => "kept",
            Change::Removed => "removed",
        }
    }

    /// Whether something is written.
    pub fn writes(self) -> bool {
        matches!(self, Change::New | Change::Replaced)
    }
}

/// What becomes of which file.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub path: PathBuf,
    pub change: Change,
    /// Said beside it.
    pub why: String,
}

/// What an installation does to each of these files, in their order.
pub(super) fn install(
    place: &Place,
    files: &[File],
    made: &Manifest,
    force: bool,
) -> Result<Vec<Step>, InstallError> {
    let step = |file: &File| {
        let disk = place.on_disk(&file.path);
        let failed = |source| InstallError::File { path: disk.clone(), source };
        let there = digest_of_file(&disk).map_err(failed)?;
        let change = compare(file, there.as_deref(), made, force).map_err(failed)?;
        let why = match change {
            Change::New | Change::Replaced => format!("{}, mode {:04o}", file.what, file.mode),
            Change::KeptEdited => {
                format!("{}: edited, or not made by `forkgate install`; --force replaces it", file.what)
            }
            _ => file.what.to_owned(),
        };
        Ok(Step { path: file.path.clone(), change, why })
    };
    files.iter().map(step).collect()
}

fn compare(file: &File, there: Option<&str>, made: &Manifest, force: bool) -> std::io::Result<Change> {
    let Some(there) = there else { return Ok(Change::New) };
    let wanted = match file.kind {
        Kind::Settings => return Ok(Change::KeptSettings),
        Kind::Program => digest(std::fs::File::open("/proc/self/exe")?)?,
        Kind::Text(text) => digest(text.as_bytes())?,
    };
    // Nobody edits a program: another one is another version.
    let may_replace = force || file.kind == Kind::Program || made.wrote(&file.path, there);
    Ok(match may_replace {
        _ if there == wanted => Change::Same,
        true => Change::Replaced,
        false => Change::KeptEdited,
    })
}

/// What an uninstallation does to what is on the list and to the service's data. `purge`: nothing is kept.
pub(super) fn uninstall(place: &Place, made: &Manifest, purge: bool) -> Result<Vec<Step>, InstallError> {
    let mut steps = Vec::new();
    for path in made.files.keys() {
        let disk = place.on_disk(path);
        let there = digest_of_file(&disk).map_err(|source| InstallError::File { path: disk, source })?;
        let Some(there) = there else { continue };
        let (change, why) = if !purge && *path == place.settings() {
            (Change::KeptSettings, "your settings")
        } else if !purge && !made.wrote(path, &there) {
            (Change::KeptEdited, "edited since")
        } else {
            (Change::Removed, "")
        };
        steps.push(Step { path: path.clone(), change, why: why.to_owned() });
    }
    for directory in data(place).into_iter().filter(|path| place.on_disk(path).exists()) {
        let change = if purge { Change::Removed } else { Change::KeptSettings };
        steps.push(Step { path: directory, change, why: "what the service made".to_owned() });
    }
    Ok(steps)
}

/// Directories that files of the plan need, each with its mode.
pub(super) fn directories(place: &Place, steps: &[Step]) -> Vec<(PathBuf, u32)> {
    let own = settings_directory(place);
    let own_mode = if place.scope == Scope::System { 0o750 } else { 0o700 };
    let needed = steps.iter().filter(|step| step.change.writes()).filter_map(|step| step.path.parent());
    let others = needed.filter(|path| **path != own).map(|path| (path.to_path_buf(), 0o755));
    let mut all = vec![(own.clone(), own_mode)];
    all.extend(others);
    all.dedup();
    all
}

/// The plan as it is shown: a line per file, and one per command.
pub(super) fn render(place: &Place, steps: &[Step], commands: &[String]) -> String {
    let shown = |path: &Path| place.on_disk(path).display().to_string();
    let width = steps.iter().map(|step| shown(&step.path).len()).max().unwrap_or(0);
    let mut text = String::new();
    for Step { path, change, why } in steps {
        let line = format!("  {:<8} {:<width$}  {why}", change.word(), shown(path));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for command in commands {
        let _ = writeln!(text, "  {:<8} {command}", "run");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/etc/x";

    fn file(kind: Kind) -> File {
        File { path: PATH.into(), what: "x", mode: 0o644, kind }
    }

    fn made(text: &str) -> Manifest {
        let mut made = Manifest::default();
        made.files.insert(PATH.into(), digest(text.as_bytes()).expect("bytes"));
        made
    }

    #[test]
    fn a_file_is_replaced_only_when_nobody_edited_it() {
        let ours = made("version 1");
        for (there, made, force, change) in [
            (None, &ours, false, Change::New),
            (Some("version 2"), &Manifest::default(), false, Change::Same),
            (Some("version 1"), &ours, false, Change::Replaced),
            (Some("edited"), &ours, false, Change::KeptEdited),
            (Some("by hand"), &Manifest::default(), false, Change::KeptEdited),
            (Some("edited"), &ours, true, Change::Replaced),
        ] {
            let there_digest = there.map(|text| digest(text.as_bytes()).expect("bytes"));
            let file = file(Kind::Text("version 2"));
            let got = compare(&file, there_digest.as_deref(), made, force).expect("bytes");
            assert_eq!(got, change, "{there:?} {force}");
        }
    }

    #[test]
    fn settings_are_written_once_and_a_program_is_replaced_whoever_wrote_it() {
        let none = Manifest::default();
        let other = digest(&b"other"[..]).expect("bytes");
        for force in [false, true] {
            let settings = compare(&file(Kind::Settings), Some(&other), &none, force).expect("bytes");
            assert_eq!(settings, Change::KeptSettings);
        }
        assert_eq!(compare(&file(Kind::Settings), None, &none, false).expect("bytes"), Change::New);
        let program = compare(&file(Kind::Program), Some(&other), &none, false).expect("readable");
        assert_eq!(program, Change::Replaced);
    }

    #[test]
    fn an_end_removes_what_was_made_and_keeps_what_is_somebodys() {
        let dir = tempfile::tempdir().expect("directory");
        let place = Place::system(Some(dir.path().to_owned())).expect("place");
        let settings = place.settings();
        let mut made = made("unit");
        for path in [Path::new(PATH), Path::new("/etc/edited"), settings.as_path()] {
            let disk = place.on_disk(path);
            std::fs::create_dir_all(disk.parent().expect("a directory")).expect("made");
            std::fs::write(disk, "unit").expect("written");
            made.files.insert(path.to_owned(), digest(&b"unit"[..]).expect("bytes"));
        }
        std::fs::write(place.on_disk(Path::new("/etc/edited")), "edited").expect("written");
        std::fs::create_dir_all(place.on_disk(Path::new("/var/lib/forkgate"))).expect("made");
        made.files.insert("/etc/gone".into(), String::new());
        let changes = |purge| -> Vec<(String, Change)> {
            let steps = uninstall(&place, &made, purge).expect("readable");
            steps.iter().map(|step| (step.path.display().to_string(), step.change)).collect()
        };
        assert_eq!(
            changes(false),
            [
                ("/etc/edited".to_owned(), Change::KeptEdited),
                ("/etc/forkgate/forkgate.env".to_owned(), Change::KeptSettings),
                ("/etc/x".to_owned(), Change::Removed),
                ("/var/lib/forkgate".to_owned(), Change::KeptSettings),
            ]
        );
        assert!(changes(true).iter().all(|(_, change)| *change == Change::Removed));
    }
}
