//! What the check child of a reload is given, and what it says: sealed memfds with JSON, because settings are longer than a
//! control message. They hold secrets: never log them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Change, Settings, Sources};
use crate::memfd;

/// Largest memfd that is read, in bytes: two files of settings at their limit, written as JSON.
const MAX_BYTES: usize = 8 << 20;

/// What is to be checked.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckTask {
    /// What is in force.
    pub running: Settings,
    /// Where the new settings come from.
    pub sources: Sources,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// They can be put into force.
    Accepted(Box<Accepted>),
    /// They cannot: one problem per line.
    Refused(String),
}

/// Settings that were found good.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What a reload puts into force: what only a restart can change is as it was.
    pub settings: Settings,
    /// How that, and what was asked for, differs from what is in force.
    pub changes: Vec<Change>,
    /// What is valid and may surprise.
    pub warnings: Vec<String>,
    /// Where each setting comes from, in words, by its own name.
    #[serde(default)]
    pub origins: BTreeMap<String, String>,
}

impl CheckTask {
    /// For the child.
    pub fn to_memfd(&self) -> io::Result<OwnedFd> {
        memfd::immutable("forkgate-check", &serde_json::to_vec(self)?)
    }

    /// In the child.
    pub fn from_fd(fd: impl AsFd) -> io::Result<CheckTask> {
        read(&fd)
    }
}

impl CheckVerdict {
    /// For the master.
    pub fn to_memfd(&self) -> io::Result<OwnedFd> {
        memfd::immutable("forkgate-verdict", &serde_json::to_vec(self)?)
    }

    /// In the master; `InvalidData` for anything else than what [`CheckVerdict::to_memfd`] wrote.
    pub fn from_fd(fd: impl AsFd) -> io::Result<CheckVerdict> {
        read(&fd)
    }
}

fn read<T: DeserializeOwned>(fd: &impl AsFd) -> io::Result<T> {
    let bytes = memfd::Bytes::open(fd)?;
    if bytes.as_ref().len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_BYTES} bytes")));
    }
    // Without serde's own words: they repeat what they do not understand, and that may be a secret.
    serde_json::from_slice(bytes.as_ref()).map_err(|error| {
        let place = format!("no such JSON at line {} column {}", error.line(), error.column());
        io::Error::new(io::ErrorKind::InvalidData, place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> (Settings, Sources) {
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let flags = vec![
            flag("GATEWAY_JWT_SECRET", &"0123456789abcdef".repeat(4)),
            flag("GATEWAY_STATE_DIR", "/tmp"),
        ];
        let sources = Sources { flags, ..Sources::default() };
        (Settings::load(sources.clone()).expect("settings").settings, sources)
    }

    #[test]
    fn a_task_and_a_verdict_arrive_as_they_were_sent() {
        let (running, sources) = settings();
        let task = CheckTask { running: running.clone(), sources: sources.clone() };
        let task = CheckTask::from_fd(task.to_memfd().expect("memfd")).expect("task");
        assert_eq!((task.running, task.sources), (running.clone(), sources));
        let origins = BTreeMap::from([("GATEWAY_WORKERS".to_owned(), "flag".to_owned())]);
        let (changes, warnings) = (Vec::new(), vec!["w".to_owned()]);
        let accepted = Accepted { settings: running, changes, warnings, origins };
        for verdict in [CheckVerdict::Accepted(Box::new(accepted)), CheckVerdict::Refused("no".to_owned())] {
            let read = CheckVerdict::from_fd(verdict.to_memfd().expect("memfd")).expect("verdict");
            assert_eq!(read, verdict);
        }
    }

    #[test]
    fn garbage_and_what_may_still_change_are_no_verdict() {
        let garbage = memfd::immutable("x", b"{\"accepted\":{\"secret\":1}}").expect("memfd");
        let error = CheckVerdict::from_fd(garbage).expect_err("garbage").to_string();
        assert!(error.starts_with("no such JSON at line 1") && !error.contains("secret"), "{error}");
        let open = memfd::fixed_size("x", 16).expect("memfd");
        assert!(CheckVerdict::from_fd(open).is_err());
        let large = memfd::immutable("x", &vec![b' '; MAX_BYTES + 1]).expect("memfd");
        assert!(CheckVerdict::from_fd(large).is_err());
    }
}
