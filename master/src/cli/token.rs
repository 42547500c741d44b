//! `forkgate token create`: a token that the gateway with the same settings accepts.

use std::process::ExitCode;
use std::time::Duration;

use forkgate_shared::settings::{Settings, Sources};
use forkgate_worker::auth;

use super::output;

/// Prints a token and nothing else.
pub fn create(sources: Sources, subject: &str, admin: bool, ttl: Duration) -> ExitCode {
    let settings = match Settings::load(sources) {
        Ok(loaded) => loaded.settings,
        Err(errors) => return super::invalid(&errors),
    };
    match auth::mint(&settings, subject, admin, ttl) {
        Ok(token) => output::print(&format!("{token}\n")),
        Err(error) => {
            output::complain("error", &format!("cannot make a token: {error}"));
            ExitCode::FAILURE
        }
    }
}
