//! `forkgate ctl`: asks a running master over its control socket.

mod connect;
mod operate;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

pub use connect::sockets;
pub use operate::{reload, upgrade};

use connect::{CtlError, ask};

use super::output;
use super::report::{self, Style};
use crate::system::ctl::{Done, Request, Why};

/// Prints the status of a running master: a table, or the JSON as the master gave it.
///
/// Exit code 1 with one line on stderr when there is no answer within 5 s.
pub fn status(json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Status), json, table::table)
}

/// Prints why the last worker of a slot was killed or died; else as [`status`].
pub fn why(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Why { slot }), json, |why: &Why| {
        format!("{}\nfile: {}\n", report::render(&why.report, Style::of_stdout()), why.path.display())
    })
}

/// Pauses a slot, or resumes it; else as [`status`].
pub fn pause(slot: u32, paused: bool, sockets: &[PathBuf]) -> ExitCode {
    let request = if paused { Request::Pause { slot } } else { Request::Resume { slot } };
    shown(ask(sockets, &request), false, |Done { done }: &Done| format!("{done}\n"))
}

fn shown<A>(answer: Result<(String, A), CtlError>, json: bool, render: impl Fn(&A) -> String) -> ExitCode {
    match answer {
        Ok((line, _)) if json => output::print(&line),
        Ok((_, answer)) => output::print(&render(&answer)),
        Err(error) => {
            output::complain("error", &error.to_string());
            ExitCode::FAILURE
        }
    }
}
