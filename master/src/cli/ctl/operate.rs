//! What takes its time: asks, waits for the end, and says how it ended.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::connect::{Connection, CtlError};
use crate::cli::{USAGE, output};
use crate::system::ctl::{Carried, Ending, Outcome, Progress, Refusal, Request};
use crate::system::has_ended_within;

/// From the master's word that nothing is left to its end: closing some descriptors.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How many workers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// So many.
    To(u32),
    /// So many more, or fewer.
    By(i32),
}

/// Puts new settings into force, or only has them checked; prints what changes, on stderr how far it is.
///
/// Exit code 1 with the reason on stderr when that did not happen, or would not.
pub fn reload(check_only: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    let done =
        if check_only { "the settings can be put into force" } else { "the new settings are in force" };
    operate(&Request::Reload { check_only }, json, sockets, |outcome| render(outcome, done))
}

/// Puts another program in the place of the running one; on stderr how far it is. Else as [`reload`].
pub fn upgrade(binary: Option<PathBuf>, json: bool, sockets: &[PathBuf]) -> ExitCode {
    operate(&Request::Upgrade { binary }, json, sockets, |outcome: &Outcome| {
        let version = outcome.program.as_deref().filter(|_| outcome.ok);
        version.map(|version| format!("forkgate {version} runs, and so do all workers\n")).unwrap_or_default()
    })
}

/// Has the worker of a slot replaced. Else as [`reload`].
pub fn recycle(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    operate(&Request::Recycle { slot }, json, sockets, carried)
}

/// Has the worker of a slot replaced and killed, when somebody at the terminal says yes or `yes` does. Else as [`reload`].
pub fn kill(slot: u32, yes: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    if !yes && !io::stdin().is_terminal() {
        output::complain(
            "error",
            "say --yes: there is no terminal to ask at, and what the worker holds is lost",
        );
        return ExitCode::from(USAGE);
    }
    if !yes && !agrees(slot) {
        output::complain("forkgate", "nobody was killed");
        return ExitCode::FAILURE;
    }
    operate(&Request::Kill { slot }, json, sockets, carried)
}

/// Asks at the terminal.
fn agrees(slot: u32) -> bool {
    let question = format!(
        "kill the worker of slot {slot} once another one has taken its place? The requests that it still works on are \
         lost; `forkgate ctl worker {slot} recycle` loses none. [y/N] "
    );
    let mut stderr = io::stderr().lock();
    let asked = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    let mut answer = String::new();
    asked.is_ok()
        && io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Has a report written of the worker of a slot, which lives on; prints its path. Else as [`reload`].
pub fn dump(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    operate(&Request::Dump { slot }, json, sockets, |carried: &Carried| {
        let path = carried.report.as_ref().filter(|_| carried.ok);
        path.map(|path| format!("{}\n", path.display())).unwrap_or_default()
    })
}

/// Changes the number of workers. Else as [`reload`].
pub fn scale(scaling: Scaling, json: bool, sockets: &[PathBuf]) -> ExitCode {
    let request = match scaling {
        Scaling::To(workers) => Request::Scale { workers: Some(workers), by: None },
        Scaling::By(by) => Request::Scale { workers: None, by: Some(by) },
    };
    operate(&request, json, sockets, carried)
}

/// Has the log file opened anew. Else as [`reload`].
pub fn reopen(json: bool, sockets: &[PathBuf]) -> ExitCode {
    operate(&Request::Reopen, json, sockets, carried)
}

/// Ends the gateway in an orderly way, and returns when the master has ended. Else as [`reload`].
pub fn drain(json: bool, sockets: &[PathBuf]) -> ExitCode {
    operate(&Request::Drain, json, sockets, carried)
}

/// What is so now.
fn carried(carried: &Carried) -> String {
    let report = carried.report.as_ref().map(|path| format!("report: {}\n", path.display()));
    let done = carried.done.as_ref().filter(|_| carried.ok).map(|done| format!("{done}\n"));
    done.into_iter().chain(report).collect()
}

fn operate<A: DeserializeOwned + Ending>(
    request: &Request,
    json: bool,
    sockets: &[PathBuf],
    render: impl Fn(&A) -> String,
) -> ExitCode {
    let show_progress = |progress: &str| {
        if !json {
            output::complain("forkgate", progress);
        }
    };
    let (line, outcome) = match wait_for::<A>(request, sockets, show_progress) {
        Ok(answer) => answer,
        Err(error) => {
            output::complain("error", &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let printed = output::print(&if json { line } else { render(&outcome) });
    match outcome.failure() {
        None => printed,
        Some(failure) => {
            if !json {
                output::complain("error", failure);
            }
            ExitCode::FAILURE
        }
    }
}

/// The last line of the answer, as it came and understood.
pub(super) fn wait_for<A: DeserializeOwned + Ending>(
    request: &Request,
    sockets: &[PathBuf],
    show_progress: impl Fn(&str),
) -> Result<(String, A), CtlError> {
    let mut connection = Connection::open(sockets, request)?;
    let mut line = connection.next()?;
    // Whoever answers once is alive: what comes now takes as long as it takes.
    connection.is_patient();
    loop {
        if let Ok(Progress { progress }) = serde_json::from_str(&line) {
            show_progress(&progress);
            line = match connection.next() {
                Err(CtlError::Closed { .. }) => return Err(connection.ended()),
                next => next?,
            };
            continue;
        }
        let outcome =
            serde_json::from_str::<A>(&line).map_err(|source| match serde_json::from_str(&line) {
                Ok(Refusal { error }) => CtlError::Refused(error),
                Err(_) => connection.malformed(source),
            })?;
        if *request == Request::Drain && outcome.failure().is_none() {
            wait_for_the_end(&connection);
        }
        return Ok((line, outcome));
    }
}

/// The master has nothing left; it is gone a moment later. One that cannot be seen from here is believed.
fn wait_for_the_end(connection: &Connection) {
    if let Some(pid) = connection.pid()
        && !has_ended_within(pid, END_LIMIT).unwrap_or(true)
    {
        output::complain(
            "warning",
            &format!("the master (pid {pid}) has nothing left to do and is still there"),
        );
    }
}

/// What changes, what may surprise, and whether it was done.
fn render(outcome: &Outcome, done: &str) -> String {
    let mut text = String::new();
    for change in &outcome.changes {
        text += &format!("{change}\n");
    }
    for warning in &outcome.warnings {
        text += &format!("warning: {warning}\n");
    }
    if outcome.ok {
        if outcome.changes.is_empty() {
            text += "no setting differs\n";
        }
        text += &format!("{done} (settings generation {})\n", outcome.settings_generation);
    }
    text
}

#[cfg(test)]
mod tests {
    use forkgate_shared::settings::Change;

    use super::*;

    #[test]
    fn what_changes_is_shown_also_when_it_could_not_be_done() {
        let change = Change {
            name: "GATEWAY_WORKERS".to_owned(),
            old: "2".to_owned(),
            new: "3".to_owned(),
            needs_restart: false,
        };
        let done = Outcome { ok: true, changes: vec![change], settings_generation: 4, ..Outcome::default() };
        assert_eq!(render(&done, "done"), "GATEWAY_WORKERS 2 -> 3\ndone (settings generation 4)\n");
        let failed = Outcome { ok: false, error: Some("no".to_owned()), ..done };
        assert_eq!(render(&failed, "done"), "GATEWAY_WORKERS 2 -> 3\n");
        let same = Outcome { ok: true, ..Outcome::default() };
        assert!(render(&same, "done").starts_with("no setting differs\n"));
    }
}
