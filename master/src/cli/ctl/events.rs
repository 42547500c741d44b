//! `ctl events`: what has happened, and what happens.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::connect::{Connection, CtlError};
use crate::cli::output;
use crate::system::ctl::{Missed, Refusal, Request};
use crate::system::history::Entry;

/// How often, and with which pause, a master is looked for that has closed the connection: one that became another program
/// is there again within a second.
const TRIES: (u32, Duration) = (20, Duration::from_millis(250));
/// The last event of a master.
const STOPPED: &str = "stopped";

/// What has been shown.
#[derive(Default)]
struct Shown {
    last: u64,
    is_over: bool,
}

/// Prints a line per event; with `follow` until the master has ended, by whatever program it is meanwhile.
///
/// Exit code 1 when there is no answer, or the master ended without having said so.
pub fn events(follow: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    let mut shown = Shown::default();
    let mut tries = 0;
    loop {
        let before = shown.last;
        match show(follow, json, sockets, &mut shown) {
            Ok(Some(code)) => return code,
            Ok(None) if !follow || shown.is_over => return ExitCode::SUCCESS,
            // A reader that was too slow, or the master is another program now.
            Ok(None) => tries = if shown.last > before { 0 } else { tries + 1 },
            Err(CtlError::NoSocket(_) | CtlError::Dead { .. }) if before > 0 && tries < TRIES.0 => tries += 1,
            Err(error) => {
                output::complain("error", &error.to_string());
                return ExitCode::FAILURE;
            }
        }
        if tries >= TRIES.0 {
            output::complain("error", "the master ended without a word: the log says why");
            return ExitCode::FAILURE;
        }
        std::thread::sleep(TRIES.1);
    }
}

/// Shows one connection's events to its end; a code when nobody reads them any more.
fn show(
    follow: bool,
    json: bool,
    sockets: &[PathBuf],
    shown: &mut Shown,
) -> Result<Option<ExitCode>, CtlError> {
    let mut connection = Connection::open(sockets, &Request::Events { follow, after: shown.last })?;
    connection.is_patient();
    loop {
        let line = match connection.next() {
            Ok(line) => line,
            Err(CtlError::Closed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Ok(Missed { missed }) = serde_json::from_str(&line) {
            output::complain("warning", &format!("{missed} events were missed"));
            continue;
        }
        if let Ok(Refusal { error }) = serde_json::from_str(&line) {
            return Err(CtlError::Refused(error));
        }
        let entry: Entry = serde_json::from_str(&line).map_err(|source| connection.malformed(source))?;
        shown.last = entry.seq;
        shown.is_over = entry.event == STOPPED;
        let printed = if json { output::try_print(&line) } else { output::try_print(&words(&entry)) };
        if let Some(code) = printed {
            return Ok(Some(code));
        }
    }
}

/// `2026-11-20T13:26:26.123Z  ready        slot 0  pid 4711  the worker of slot 0 is ready after 31 ms`
fn words(entry: &Entry) -> String {
    let slot = entry.slot.map_or_else(String::new, |slot| format!("slot {slot}"));
    let pid = entry.pid.map_or_else(String::new, |pid| format!("pid {pid}"));
    format!("{}  {:<14} {slot:<8} {pid:<11} {}\n", entry.time, entry.event, entry.text)
}
