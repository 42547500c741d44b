//! `forkgate serve`: valid settings or nothing.

use std::process::ExitCode;

use forkgate_shared::log::{self, Links};
use forkgate_shared::settings::{Settings, Sources};
use nix::sys::stat::{Mode, umask};

use crate::system::{self, DemoOptions, ServeOptions};

/// Why a binary for tests does not start as if it were a real one.
#[cfg(feature = "faults")]
pub const FAULTS_NOT_ALLOWED: &str = "this binary was built with the feature `faults`: anybody who reaches its ports can tell \
it to harm itself (POST /_fault/NAME); it is for tests only, and starts with GATEWAY_FAULTS=1 in its environment or in its \
--env-file; for anything else use a binary without that feature";

/// Loads the settings and hands over to the master.
pub fn run(sources: Sources) -> ExitCode {
    start(sources, None)
}

/// The same for `demo`.
pub fn start(sources: Sources, demo: Option<DemoOptions>) -> ExitCode {
    #[cfg(feature = "faults")]
    if !sources.allow_faults() {
        super::output::complain("error", FAULTS_NOT_ALLOWED);
        return ExitCode::from(super::SETTINGS_INVALID);
    }
    let loaded = match Settings::load(sources.clone()) {
        Ok(loaded) => loaded,
        Err(errors) => return super::invalid(&errors),
    };
    if let Some(bits) = loaded.settings.umask {
        // Before the first file is made, which is the log.
        umask(Mode::from_bits_truncate(bits));
    }
    // In a directory of that user's a link could lead root anywhere.
    let links = if loaded.settings.user.is_some() { Links::Refused } else { Links::Followed };
    if let Err(error) = log::to_file(loaded.settings.log_file.as_deref(), links) {
        let path = loaded.settings.log_file.as_deref().unwrap_or(std::path::Path::new("")).display();
        let what = format!(
            "GATEWAY_LOG_FILE {path} cannot be opened: {error}; let forkgate's user write there, or set another"
        );
        super::output::complain("error", &what);
        return ExitCode::from(super::SETTINGS_INVALID);
    }
    log::init(loaded.settings.log_format, &loaded.settings.log_level, "master");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let catalog_layout = forkgate_worker::catalog::snapshot::VERSION;
    system::run(ServeOptions { sources, loaded, demo, catalog_layout })
}
