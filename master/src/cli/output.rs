//! Words for the user. A reader that went away (`forkgate check --print | head`) is no error and no panic.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// Writes to stdout; fails only when the output could not be written though somebody waits for it.
pub fn print(text: &str) -> ExitCode {
    try_print(text).unwrap_or(ExitCode::SUCCESS)
}

/// The same for one of many lines: a code when there is no use in a further one.
pub fn try_print(text: &str) -> Option<ExitCode> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Some(ExitCode::SUCCESS),
        Err(error) => {
            complain("error", &format!("cannot write to stdout: {error}"));
            Some(ExitCode::FAILURE)
        }
    }
}

/// Writes to stderr, each line with the same word in front: `error: …`, `warning: …`. The journal is told how bad it is.
pub fn complain(word: &str, lines: &str) {
    let priority = match word {
        _ if !forkgate_shared::log::stderr_is_journal() => "",
        "error" => "<3>",
        "warning" => "<4>",
        _ => "<6>",
    };
    let text: String = lines.lines().map(|line| format!("{priority}{word}: {line}\n")).collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
