//! `forkgate ctl`: asks a running master over its control socket.

mod args;
mod connect;
mod events;
mod operate;
mod table;
#[cfg(test)]
mod tests;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

pub use args::{CtlCommand, run};
pub use connect::sockets;
pub use events::events;
pub use operate::{Scaling, drain, dump, kill, recycle, reload, reopen, scale, upgrade};

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

/// Prints a line per worker; else as [`status`].
pub fn workers(json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Workers), json, workers::list)
}

/// Prints everything about a slot; else as [`status`].
pub fn slot(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Worker { slot }), json, workers::slot)
}

/// Prints why the last worker of a slot was killed or died; else as [`status`].
pub fn why(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Why { slot }), json, |why: &Why| {
        format!("{}\nfile: {}\n", report::render(&why.report, Style::of_stdout()), why.path.display())
    })
}

/// Pauses a slot, or resumes it; else as [`status`].
pub fn pause(slot: u32, paused: bool, json: bool, sockets: &[PathBuf]) -> ExitCode {
    let request = if paused { Request::Pause { slot } } else { Request::Resume { slot } };
    shown(ask(sockets, &request), json, |Done { done }: &Done| format!("{done}\n"))
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
