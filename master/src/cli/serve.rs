//! `forkgate serve`: valid settings or nothing.

use std::process::ExitCode;

use forkgate_shared::log;
use forkgate_shared::settings::{Settings, Sources};

use crate::system::{self, DemoOptions, ServeOptions};

/// Loads the settings and hands over to the master.
pub fn run(sources: Sources) -> ExitCode {
    start(sources, None)
}

/// The same for `demo`.
pub fn start(sources: Sources, demo: Option<DemoOptions>) -> ExitCode {
    let loaded = match Settings::load(sources.clone()) {
        Ok(loaded) => loaded,
        Err(errors) => return super::invalid(&errors),
    };
    log::init(loaded.settings.log_format, &loaded.settings.log_level, "master");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    system::run(ServeOptions { sources, loaded, demo })
}
