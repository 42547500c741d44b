//! `forkgate hook -- COMMAND`: becomes the command. Only the master calls it, for its hooks.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::output;

/// As shells say that there is no such program, and that it cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Returns only when the command cannot be executed.
pub fn run(words: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = words.split_first() else { return ExitCode::from(super::USAGE) };
    let error = Command::new(program).args(arguments).exec();
    output::complain("error", &format!("the hook {} cannot be executed: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}
