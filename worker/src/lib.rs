//! The gateway that every forkgate worker is.
//!
//! Layers, top to bottom; nothing below knows the layer above:
//! `edge` (HTTP) → `protocol` (MCP, both eras) → `catalog` (what may be called) → `upstream` (who answers).
//! Beside them: `registry` and `admin` (changing the catalog), `auth`, `lifecycle` (boot, drain, recycling), `net`
//! (connections), `observe` (status, metrics). [`gateway::Gateway`] is what a request can reach.

pub mod admin;
pub mod answer;
pub mod auth;
pub mod body;
pub mod catalog;
pub mod demo;
pub mod edge;
pub mod failure;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(test)]
mod fixtures;
pub mod gateway;
mod json;
pub mod lifecycle;
pub mod net;
pub mod observe;
pub mod protocol;
pub mod registry;
pub mod revision;
pub mod upstream;
pub mod watchdog;

use std::process::ExitCode;

pub use lifecycle::boot::Identity;

/// Runs a worker: descriptors as in [`forkgate_shared::descriptors`], of the listeners so many. Returns when it has drained.
///
/// Exit codes: 0 drained, 3 it could not start, 4 the settings do not work here.
pub fn run_worker(who: Identity, listeners: usize, admin_listeners: usize) -> ExitCode {
    lifecycle::boot::run(who, listeners, admin_listeners)
}

/// Runs the `migrate` child: brings the database to this version's schema, compiles the first catalog, hands it to the
/// master over the control socket, says ready and leaves.
pub fn run_migrate() -> ExitCode {
    registry::migrate::run()
}

/// Runs the check child of a reload: reads the settings anew, looks at what they name, and tells the master whether they can
/// be put into force. Listens nowhere and changes nothing.
pub fn run_check() -> ExitCode {
    lifecycle::check::run()
}

/// Runs the companion of `forkgate demo`: serves the bundled upstream, registers it through the admin API once the
/// gateway is ready, prints what the user needs.
pub fn run_demo_companion(json: bool, master_pid: u32) -> ExitCode {
    demo::run(json, master_pid)
}
