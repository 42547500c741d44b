//! `forkgate ctl`: asks a running master over its control socket.

mod args;
mod connect;
mod events;
mod operate;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

pub use args::{CtlCommand, MasterArgs, run};
pub use connect::sockets;
pub use events::events;
pub use operate::{Scaling, drain, dump, kill, recycle, reload, reopen, scale, upgrade};
pub use settings::settings;
pub use table::{ends, headline, listening, memory, new_clients, span, totals};

use connect::{CtlError, ask};
use serde::de::DeserializeOwned;

use super::output;
use super::report::{self, Style};
use crate::system::ctl::{Carried, Done, Ending as _, Request, Why};

/// The answer of a running master; else in words why there is none, after 5 s at most.
pub fn answer<A: DeserializeOwned>(sockets: &[PathBuf], request: &Request) -> Result<A, String> {
    ask(sockets, request).map(|(_, answer)| answer).map_err(|error| error.to_string())
}

/// Has a worker replaced, which takes its time; what is so then, else why it was not done. `told` hears how far it is.
pub fn recycled(slot: u32, sockets: &[PathBuf], told: impl Fn(&str)) -> Result<String, String> {
    let (_, carried) = operate::wait_for::<Carried>(&Request::Recycle { slot }, sockets, told)
        .map_err(|error| error.to_string())?;
    match carried.failure() {
        Some(failure) => Err(failure.to_owned()),
        None => Ok(carried.done.unwrap_or_default()),
    }
}

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
