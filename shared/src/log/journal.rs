//! The journal: where stderr is a stream of journald's, each line goes to journald as an entry of its own, with its
//! priority and with fields to filter by (`journalctl FORKGATE_SLOT=2`).
//!
//! An entry is a datagram of `NAME=value` lines (systemd.io, Native Journal Protocol). What journald does not take at once
//! goes to stderr, with the priority in front (`<4>`, sd-daemon(3)), as lines do that others print.
//!
//! Written here and not by a crate: those make the fields of an event fields of the entry only, and somebody who reads
//! `journalctl -u forkgate` would not see them.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::Level;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Device and inode of the stream that systemd made for a service's output (systemd.exec(5)).
const STREAM: &str = "JOURNAL_STREAM";
/// What the names of our fields begin with.
const PREFIX: &str = "FORKGATE_";
/// Longest name that journald takes.
const MAX_NAME: usize = 64;

/// What journald calls a level.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether stderr leads to the journal; found out once.
pub fn is_stderr() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| {
        let Ok(stream) = std::env::var(STREAM) else { return false };
        // The variable is inherited also where somebody has sent stderr elsewhere since.
        let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
        stderr.is_ok_and(|stderr| names(&stream, &stderr))
    })
}

/// Whether the variable's text means this file.
fn names(stream: &str, file: &Metadata) -> bool {
    stream == format!("{}:{}", file.dev(), file.ino())
}

/// Hands an entry to journald; never waits.
pub(super) fn send(entry: &[u8]) -> io::Result<()> {
    static TO: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    let to = TO.get_or_init(|| {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    });
    match to {
        // By its path each time: journald may have been started anew.
        Some(socket) => socket.send_to(entry, SOCKET).map(drop),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// An entry: its text, its level, who writes it and what with.
pub(super) fn entry(message: &str, level: Level, role: &str, fields: &Map<String, Value>) -> Vec<u8> {
    let mut entry = Vec::with_capacity(256 + 2 * message.len());
    put(&mut entry, "MESSAGE", message);
    put(&mut entry, "PRIORITY", &priority(level).to_string());
    put(&mut entry, "SYSLOG_IDENTIFIER", "forkgate");
    let (role, slot) = match role.split_once(' ') {
        Some((role, slot)) => (role, Some(slot)),
        None => (role, None),
    };
    put(&mut entry, "FORKGATE_ROLE", role);
    if let Some(slot) = slot {
        put(&mut entry, "FORKGATE_SLOT", slot);
    }
    for (field, value) in fields.iter().filter(|(field, _)| *field != "message") {
        let name = name(field);
        // What a worker says of its own slot is who it is.
        if name == "FORKGATE_ROLE" || (name == "FORKGATE_SLOT" && slot.is_some()) {
            continue;
        }
        match value {
            Value::String(text) => put(&mut entry, &name, text),
            value => put(&mut entry, &name, &value.to_string()),
        }
    }
    entry
}

/// `Took-ms` → `FORKGATE_TOOK_MS`.
fn name(field: &str) -> String {
    let upper = field.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    PREFIX.chars().chain(upper).take(MAX_NAME).collect()
}

/// A value with line ends in it is written with its length, so that nobody forges a field.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, Value)]) -> Map<String, Value> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn an_entry_has_priority_role_slot_and_the_fields_of_the_event() {
        let fields = fields(&[("message", "m".into()), ("took_ms", 12.into()), ("why", "a b".into())]);
        let text = String::from_utf8(entry("worker 2: m took_ms=12", Level::WARN, "worker 2", &fields));
        assert_eq!(
            text.expect("text"),
            "MESSAGE=worker 2: m took_ms=12\nPRIORITY=4\nSYSLOG_IDENTIFIER=forkgate\nFORKGATE_ROLE=worker\n\
             FORKGATE_SLOT=2\nFORKGATE_TOOK_MS=12\nFORKGATE_WHY=a b\n"
        );
    }

    #[test]
    fn what_the_master_says_of_a_slot_is_found_by_the_slot_too() {
        let fields = fields(&[("slot", 3.into()), ("role", "forged".into())]);
        let text = String::from_utf8(entry("m", Level::INFO, "master", &fields)).expect("text");
        assert!(text.ends_with("FORKGATE_ROLE=master\nFORKGATE_SLOT=3\n"), "{text}");
    }

    #[test]
    fn a_value_of_two_lines_is_one_field() {
        let fields = fields(&[("a-b", "x\nMESSAGE=forged".into())]);
        let entry = entry("m", Level::ERROR, "master", &fields);
        let value = b"x\nMESSAGE=forged";
        let mut wanted = b"FORKGATE_A_B\n".to_vec();
        wanted.extend_from_slice(&(value.len() as u64).to_le_bytes());
        wanted.extend_from_slice(value);
        assert!(entry.ends_with(&[&wanted[..], b"\n"].concat()), "{}", String::from_utf8_lossy(&entry));
        assert_eq!(name(&"x".repeat(100)).len(), MAX_NAME);
    }

    #[test]
    fn a_stream_is_told_by_device_and_inode() {
        let file = tempfile::tempfile().and_then(|file| file.metadata()).expect("a file");
        assert!(names(&format!("{}:{}", file.dev(), file.ino()), &file));
        assert!(!names(&format!("{}:{}", file.dev(), file.ino() + 1), &file) && !names("", &file));
    }
}
