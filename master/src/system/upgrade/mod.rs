//! Becoming another program in place: same process, same children, same sockets.
//!
//! | step | who | what may go wrong |
//! |---|---|---|
//! | open | this program | no such file, no program: refused |
//! | check ([`check`]) | the other program, as a child | it cannot read this program's state, hangs, crashes, is of another machine: refused |
//! | write down ([`saved`]) | this program, all signals blocked | – |
//! | execute ([`execute`]) | the kernel | exec fails: this program goes on |
//! | read back ([`resume`]) | the other program | it executes this one again |
//! | migrate, roll | the supervisor | it has this program executed again, see [`crate::supervisor`] |
//!
//! The program is held open from the check to the exec, so a package that is replaced meanwhile changes nothing. Signals
//! that arrive are pending until the other program has its handlers; children that end are reaped through the same pidfds.

pub mod check;
mod execute;
mod kept;
mod resume;
pub mod saved;

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use check::answer;
pub use kept::{Adopter, Keeper, Kept};
pub use resume::{STATE_VARIABLE, resume};

use super::ctl::{Operation, Outcome};
use super::history::Entry;
use super::master::Master;
use super::spawn::Executable;
use crate::supervisor::{Busy, Event, Fact, RecycleReason, UpgradeEnd};
use check::Check;

/// Of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the shell knows of programs and upgrades.
#[derive(Debug)]
pub struct Upgrade {
    /// Where this program was executed from: what an upgrade takes that names no other.
    pub(super) path: PathBuf,
    /// Version of the catalog's layout, which the worker knows.
    pub(super) catalog_layout: u64,
    /// What the next upgrade is to.
    pub(super) wanted: Option<PathBuf>,
    /// It is asked whether it can take over.
    check: Option<Check>,
    /// It can.
    candidate: Option<Candidate>,
    /// The program before, as long as there is a way back.
    previous: Option<Candidate>,
    /// Why the last upgrade was not done.
    pub(super) why: Option<String>,
}

/// A program that is held open, and where it was.
#[derive(Debug)]
pub(super) struct Candidate {
    path: PathBuf,
    executable: Executable,
}

impl Upgrade {
    /// Of a program that was just started.
    pub fn new(catalog_layout: u64) -> Upgrade {
        Upgrade::at(own_path(), catalog_layout)
    }

    /// Of a program that was executed from there.
    fn at(path: PathBuf, catalog_layout: u64) -> Upgrade {
        Upgrade {
            path,
            catalog_layout,
            wanted: None,
            check: None,
            candidate: None,
            previous: None,
            why: None,
        }
    }

    /// The check's child, which is no child of the supervisor's.
    pub fn check_pid(&self) -> Option<i32> {
        self.check.as_ref().map(Check::pid)
    }

    /// When the check has taken too long.
    pub fn next_deadline(&self) -> Option<u64> {
        self.check.as_ref().map(Check::deadline)
    }
}

impl Master {
    /// How an upgrade ended: for the log, for `STATUS=`, and for who asked.
    pub(super) fn upgrade_over(&mut self, end: UpgradeEnd) {
        self.note_end(end);
        self.note(match &self.upgrade.why {
            None => Entry::new("upgrade_ended", format!("all workers run forkgate {VERSION}")).reason("done"),
            Some(why) => Entry::new("upgrade_ended", why.as_str()).reason("failed"),
        });
        let outcome = Outcome {
            ok: end == UpgradeEnd::Done,
            error: self.upgrade.why.clone(),
            settings_generation: self.versions.current().number,
            program: Some(VERSION.to_owned()),
            ..Outcome::default()
        };
        // Whoever asked waits for this one, also when it never began.
        self.ctl.begins(Operation::Upgrade);
        self.answer_operators(Operation::Upgrade, &outcome);
    }

    /// Says how far the upgrade is.
    pub(super) fn tell_of_upgrade(&mut self, fact: &Fact) {
        if let Fact::Recycling(slot, RecycleReason::Upgrade) = fact {
            let progress = format!("a worker of forkgate {VERSION} starts in slot {}", slot.0);
            self.tell_operators(Operation::Upgrade, &progress);
        }
    }

    fn note_end(&mut self, end: UpgradeEnd) {
        self.give_up_check();
        self.upgrade.candidate = None;
        self.upgrade.previous = None;
        self.upgrade.wanted = None;
        if !matches!(end, UpgradeEnd::Busy(_) | UpgradeEnd::Stopped) {
            self.notifier.ready();
        }
        let path = self.upgrade.path.display();
        let outcome = match end {
            UpgradeEnd::Done => {
                tracing::info!(version = VERSION, program = %path, "upgraded: all workers run this program");
                self.upgrade.why = None;
                return;
            }
            UpgradeEnd::Busy(busy) => format!("{}; nothing was changed, try again", words(busy)),
            UpgradeEnd::Stopped => format!(
                "the gateway is stopping in the middle of it, when its program was {path} and not all workers ran that; what runs \
                 next is the program that is started then"
            ),
            UpgradeEnd::Refused => self.upgrade.why.take().unwrap_or_default(),
            UpgradeEnd::Reverted => {
                let why = self.upgrade.why.take();
                let why = why.unwrap_or_else(|| {
                    "a worker did not start with the other program, or died at once".to_owned()
                });
                format!("{why}; the program before ({path}) runs again, see the log")
            }
            UpgradeEnd::NoWayBack => {
                let why = self.upgrade.why.take().unwrap_or_default();
                format!(
                    "a worker does not start with this program, or dies at once, and the one before cannot be executed any more ({why}); the \
                     old workers go on, see the log"
                )
            }
        };
        tracing::error!("upgrade refused: {outcome}");
        self.upgrade.why = Some(outcome);
    }

    /// Opens the program that is wanted and asks it.
    pub(super) fn check_upgrade(&mut self) {
        self.upgrade.why = None;
        self.ctl.begins(Operation::Upgrade);
        let path = self.upgrade.wanted.take().unwrap_or_else(|| self.upgrade.path.clone());
        if let Err(why) = self.begin_check(&path) {
            self.upgrade.why = Some(format!("{}: {why}", path.display()));
            self.events.push_back(Event::UpgradeChecked(false));
        } else {
            self.tell_operators(
                Operation::Upgrade,
                &format!("{} is asked whether it can take over", path.display()),
            );
        }
    }
}

/// What runs, and has to end before an upgrade.
fn words(busy: Busy) -> String {
    match busy {
        Busy::Starting => "the gateway is still starting".to_owned(),
        Busy::Stopping => "the gateway is stopping".to_owned(),
        Busy::Reloading => "a reload is under way".to_owned(),
        Busy::Recycling(slot) => format!("the worker of slot {} is being replaced", slot.0),
        Busy::Booting(slot) => format!("a worker of slot {} is starting", slot.0),
        Busy::Reporting(slot) => format!("the crash report of slot {}'s worker is being written", slot.0),
    }
}

/// The path that this program was started by: links are not resolved, because a package may be installed by moving one.
fn own_path() -> PathBuf {
    let own = std::fs::metadata("/proc/self/exe").map(|own| (own.dev(), own.ino()));
    let is_own = |path: &PathBuf| {
        let found = std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        matches!((&own, &found), (Ok(own), Ok(found)) if own == found)
    };
    let first = std::env::args_os().next().unwrap_or_default();
    let candidates: Vec<PathBuf> = if first.as_bytes().contains(&b'/') {
        std::path::absolute(&first).into_iter().collect()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|directory| directory.join(&first)).collect()
    };
    let found = candidates.into_iter().find(is_own);
    found.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Opens a program; only regular files are any.
fn open(path: &Path) -> io::Result<Executable> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a file"));
    }
    let program = Executable::open(path)?;
    if is_for_this_machine(&program) == Some(false) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no program for this machine"));
    }
    Ok(program)
}

/// Whether a program begins as this one does: ELF, word size, byte order, machine (elf(5)). None when it may be executed and
/// not be read.
fn is_for_this_machine(program: &Executable) -> Option<bool> {
    let begin = |path: &str| {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(20).read_to_end(&mut bytes).ok()?;
        Some((bytes.get(..6)?.to_vec(), bytes.get(18..20)?.to_vec()))
    };
    let own = begin("/proc/self/exe")?;
    let held = format!("/proc/self/fd/{}", program.as_fd().as_raw_fd());
    match begin(&held) {
        Some(other) => Some(own == other),
        None => std::fs::File::open(held).is_ok().then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::SlotId;

    #[test]
    fn the_own_path_leads_to_this_program() {
        let inode = |path: &Path| std::fs::metadata(path).expect("it is there").ino();
        assert_eq!(inode(&own_path()), inode(Path::new("/proc/self/exe")));
        assert!(own_path().is_absolute());
    }

    #[test]
    fn only_files_are_programs_and_what_runs_has_a_name() {
        assert_eq!(open(Path::new("/")).expect_err("a directory").to_string(), "this is not a file");
        assert_eq!(open(Path::new("/none")).expect_err("nothing").kind(), io::ErrorKind::NotFound);
        assert!(open(&own_path()).is_ok());
        let script = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(script.path(), "#!/bin/sh\nexit 0\n").expect("write");
        assert!(
            open(script.path()).expect_err("a script").to_string().contains("no program for this machine")
        );
        assert_eq!(words(Busy::Recycling(SlotId(3))), "the worker of slot 3 is being replaced");
    }
}
