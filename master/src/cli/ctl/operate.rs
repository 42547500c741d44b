//! What takes its time: asks, waits for the end, and says how it ended.

use std::path::PathBuf;
use std::process::ExitCode;

use super::connect::{Connection, CtlError};
use crate::cli::output;
use crate::system::ctl::{Outcome, Progress, Refusal, Request};

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
    operate(&Request::Upgrade { binary }, json, sockets, |outcome| {
        let version = outcome.program.as_deref().filter(|_| outcome.ok);
        version.map(|version| format!("forkgate {version} runs, and so do all workers\n")).unwrap_or_default()
    })
}

fn operate(
    request: &Request,
    json: bool,
    sockets: &[PathBuf],
    render: impl Fn(&Outcome) -> String,
) -> ExitCode {
    let show_progress = |progress: &str| {
        if !json {
            output::complain("forkgate", progress);
        }
    };
    let (line, outcome) = match wait_for(request, sockets, show_progress) {
        Ok(answer) => answer,
        Err(error) => {
            output::complain("error", &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let printed = output::print(&if json { line } else { render(&outcome) });
    if outcome.ok {
        return printed;
    }
    if !json {
        output::complain("error", outcome.error.as_deref().unwrap_or("it was not done, see the log"));
    }
    ExitCode::FAILURE
}

/// The last line of the answer, as it came and understood.
pub(super) fn wait_for(
    request: &Request,
    sockets: &[PathBuf],
    show_progress: impl Fn(&str),
) -> Result<(String, Outcome), CtlError> {
    let mut connection = Connection::open(sockets, request)?;
    let mut line = connection.next()?;
    // Whoever answers once is alive: what comes now takes as long as it takes.
    connection.is_patient()?;
    loop {
        if let Ok(Progress { progress }) = serde_json::from_str(&line) {
            show_progress(&progress);
            line = match connection.next() {
                Err(CtlError::Closed { .. }) => return Err(connection.ended()),
                next => next?,
            };
            continue;
        }
        return match serde_json::from_str(&line) {
            Ok(outcome) => Ok((line, outcome)),
            Err(source) => Err(match serde_json::from_str(&line) {
                Ok(Refusal { error }) => CtlError::Refused(error),
                Err(_) => connection.malformed(source),
            }),
        };
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
