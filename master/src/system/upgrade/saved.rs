//! The state that one program leaves to the next: a sealed memfd with JSON, and descriptors by number.
//!
//! Two programs understand each other when their versions overlap: each says which version it writes and the oldest that
//! it reads. Shared memory has one layout at a time: rows, sessions and catalogs must be the same, because workers of both
//! programs map them at once. A field that is new says `#[serde(default)]`, so that the state of the program before can
//! be read; one that is unknown is passed over, so that the program before can read ours.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use forkgate_shared::memfd::Bytes;
use forkgate_shared::settings::{ForeignError, Settings, Sources};
use forkgate_shared::{control, rows, sessions};
use serde::{Deserialize, Serialize};

use super::super::history::History;
use super::super::{DemoOptions, child, ctl, hooks, listeners, pidfile, versions, zombies};
use super::kept::Kept;
use crate::supervisor::{ChildId, Ns, SlotId, Supervisor};

/// Version of this format.
const FORMAT: Speaks = Speaks { version: 1, oldest: 1 };
/// Of the control messages.
const CONTROL: Speaks = Speaks { version: control::VERSION, oldest: control::OLDEST };

/// What a program writes, and what it can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaks {
    version: u32,
    oldest: u32,
}

impl Speaks {
    fn understands(self, other: Speaks) -> bool {
        self.oldest <= other.version && other.oldest <= self.version
    }
}

/// What has to fit before anything else is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that wrote it.
    pub program: String,
    format: Speaks,
    control: Speaks,
    rows: u64,
    sessions: u64,
    catalog: u64,
}

/// Everything that outlives the exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// See [`Header`].
    pub header: Header,
    /// Every descriptor of the state.
    pub descriptors: Vec<Kept>,
    pub supervisor: Supervisor,
    pub children: Vec<(ChildId, child::Saved)>,
    #[serde(default)]
    pub zombies: zombies::Saved,
    #[serde(default)]
    pub hooks: hooks::Saved,
    pub listeners: listeners::Saved,
    #[serde(default)]
    pub streams: BTreeMap<SlotId, u64>,
    pub rows: Kept,
    pub sessions: Kept,
    pub state_dir_lock: Kept,
    #[serde(default)]
    pub pidfile: Option<pidfile::Saved>,
    pub versions: versions::Saved,
    pub ctl: ctl::Saved,
    #[serde(default)]
    pub history: History,
    /// See [`super::super::master::Master`] for these.
    pub stored_separator: Option<String>,
    pub sources: Sources,
    pub demo: Option<DemoOptions>,
    pub started: Ns,
    /// The program that wrote this, for the way back; none when this is the way back.
    pub previous: Option<Program>,
    /// Where the program that reads this was executed from.
    pub path: PathBuf,
    /// The process's name, which an exec of a descriptor changes.
    pub name: String,
    /// Why the way back is taken.
    #[serde(default)]
    pub why: Option<String>,
}

/// A program that is held open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Where it was.
    pub path: PathBuf,
    /// It.
    pub file: Kept,
}

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Versions do not overlap.
    #[error(
        "{what}: the running gateway ({theirs_program}) has version {theirs}, this program ({own_program}) {own}: it cannot \
         take over in place; install it and restart the service", own_program = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Of what.
        what: &'static str,
        /// Who wrote it.
        theirs_program: String,
        /// What it has.
        theirs: String,
        /// What this one has.
        own: String,
    },
    /// It cannot be read.
    #[error(
        "the state of the running gateway cannot be read: {0}; install the program and restart the service"
    )]
    Malformed(#[from] serde_json::Error),
    /// It is not there.
    #[error("the state of the running gateway is not there: {0}")]
    Io(#[from] std::io::Error),
    /// The settings in it.
    #[error("the settings of the running gateway cannot be used with this program: {0}")]
    Settings(#[from] ForeignError),
}

impl Header {
    /// What this program has; `catalog` is the version of the catalog's layout, which the worker knows.
    pub fn own(catalog: u64) -> Header {
        Header {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT,
            control: CONTROL,
            rows: rows::VERSION,
            sessions: sessions::VERSION,
            catalog,
        }
    }

    /// Says what does not fit.
    fn check(&self, theirs: &Header) -> Result<(), StateError> {
        let refuse = |what, own: String, their: String| {
            let theirs_program = theirs.program.clone();
            Err(StateError::Version { what, theirs_program, theirs: their, own })
        };
        for (what, own, their) in [
            ("the master's state", self.format, theirs.format),
            ("the messages between master and workers", self.control, theirs.control),
        ] {
            if !own.understands(their) {
                return refuse(what, format!("{} to {}", own.oldest, own.version), their.version.to_string());
            }
        }
        for (what, own, their) in [
            ("the layout of the row table in shared memory", self.rows, theirs.rows),
            ("the layout of the session table", self.sessions, theirs.sessions),
            ("the layout of the catalog", self.catalog, theirs.catalog),
        ] {
            if own != their {
                return refuse(what, own.to_string(), their.to_string());
            }
        }
        Ok(())
    }
}

/// Reads a state; versions are compared before anything else is looked at.
pub fn read(state: BorrowedFd<'_>, catalog: u64) -> Result<Saved, StateError> {
    #[derive(Deserialize)]
    struct Begin {
        header: Header,
    }
    let bytes = Bytes::open(&state)?;
    Header::own(catalog).check(&serde_json::from_slice::<Begin>(bytes.as_ref())?.header)?;
    Ok(serde_json::from_slice(bytes.as_ref())?)
}

/// Reads the settings that belong to a state.
pub fn read_settings(fd: BorrowedFd<'_>, sources: &Sources) -> Result<Settings, StateError> {
    Ok(Settings::from_foreign(fd, sources)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use forkgate_shared::memfd;
    use serde_json::json;

    use super::*;

    fn refusal(change: impl Fn(&mut Header)) -> String {
        let mut header = Header { program: "9.9.9".to_owned(), ..Header::own(1) };
        change(&mut header);
        let bytes = serde_json::to_vec(&json!({"header": header})).expect("json");
        let state = memfd::immutable("state", &bytes).expect("memfd");
        read(state.as_fd(), 1).expect_err("there is only a header").to_string()
    }

    #[test]
    fn another_version_is_refused_by_its_name_and_with_what_to_do() {
        for (text, change) in [
            ("row table", (|header| header.rows += 1) as fn(&mut Header)),
            ("session table", |header| header.sessions += 1),
            ("catalog", |header| header.catalog += 1),
            ("messages", |header| header.control = Speaks { version: 99, oldest: 99 }),
            ("the master's state", |header| header.format = Speaks { version: 0, oldest: 0 }),
        ] {
            let why = refusal(change);
            assert!(
                why.contains(text) && why.contains("9.9.9") && why.contains("restart the service"),
                "{why}"
            );
        }
        let newer = refusal(|header| header.format = Speaks { version: 9, oldest: 1 });
        assert!(newer.contains("cannot be read: missing field"), "versions that overlap are read: {newer}");
    }

    #[test]
    fn what_is_no_state_is_an_error() {
        for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xff"] {
            let state = memfd::immutable("state", bytes).expect("memfd");
            assert!(read(state.as_fd(), 1).is_err());
        }
        let open = memfd::fixed_size("state", 64).expect("memfd");
        assert!(matches!(read(open.as_fd(), 1), Err(StateError::Io(_))), "it could change while it is read");
    }
}
