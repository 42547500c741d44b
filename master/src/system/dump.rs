//! ABRT: the master writes down what it knows, for somebody who wants to see it, and goes on.
//!
//! One file, `master-state.json` in the state directory, for its owner only; the next dump replaces it. No setting is in it,
//! and so no secret.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use forkgate_shared::calendar::rfc3339;
use forkgate_shared::rows::monotonic_ns;
use serde::Serialize;

use super::ctl::Answer;
use super::master::{Master, name};
use crate::supervisor::ChildId;

/// The file's name in the state directory.
const FILE: &str = "master-state.json";

/// What is written.
#[derive(Serialize)]
struct Dump {
    /// RFC 3339.
    time: String,
    /// The master's monotonic clock, nanoseconds: the times within the supervisor's state are of it.
    now_ns: u64,
    /// What `ctl status` would say.
    status: Answer,
    /// The state machine.
    supervisor: serde_json::Value,
    /// The processes as the shell knows them.
    children: Vec<ChildDump>,
    /// How the last worker failed.
    last_failure: Option<String>,
}

#[derive(Serialize)]
struct ChildDump {
    id: u64,
    pid: i32,
    role: String,
    ready: bool,
    listens: bool,
    behind: bool,
    age_s: f64,
    last_words: Option<String>,
}

impl Master {
    /// Writes it; what goes wrong is a line in the log.
    pub(super) fn dump_state(&self) {
        let written = serde_json::to_vec_pretty(&self.dump())
            .map_err(io::Error::from)
            .and_then(|bytes| write_private(&self.versions.current().settings.state_dir, &bytes));
        match written {
            Ok(path) => tracing::info!(path = %path.display(), "ABRT: the master's state is written down"),
            Err(error) => tracing::error!(%error, "ABRT: the master's state cannot be written down"),
        }
    }

    fn dump(&self) -> Dump {
        let now = monotonic_ns();
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let child = |(id, child): (&ChildId, &super::child::Child)| ChildDump {
            id: id.0,
            pid: child.pid,
            role: name(child.role),
            ready: child.ready,
            listens: child.control.is_some(),
            behind: child.behind,
            age_s: now.saturating_sub(child.spawned) as f64 / 1e9,
            last_words: child.last_words.clone(),
        };
        Dump {
            time: rfc3339(u64::try_from(millis).unwrap_or(u64::MAX)),
            now_ns: now,
            status: self.answer(),
            supervisor: serde_json::to_value(&self.supervisor)
                .unwrap_or_else(|error| error.to_string().into()),
            children: self.children.iter().map(child).collect(),
            last_failure: self.last_failure.clone(),
        }
    }
}

/// Whole or not at all: under another name first.
fn write_private(directory: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let (path, unfinished) = (directory.join(FILE), directory.join(format!("{FILE}.unfinished")));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_dump_replaces_the_one_before_and_is_the_owners() {
        let dir = tempfile::tempdir().expect("directory");
        for text in ["first", "second"] {
            fs::write(dir.path().join(format!("{FILE}.unfinished")), "left behind").expect("written");
            let path = write_private(dir.path(), text.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
            assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("directory").count(), 1);
        assert!(write_private(&dir.path().join("none"), b"").is_err());
    }
}
