//! `forkgate demo`: a whole gateway out of nothing, and nothing left of it afterwards.
//!
//! The environment is not read: a demo does the same everywhere.

use std::process::ExitCode;

use forkgate_shared::settings::Sources;

use super::{DemoArgs, output, serve};
use crate::system::DemoOptions;

/// Runs until stopped; the state directory goes with the value that owns it.
pub fn run(args: DemoArgs) -> ExitCode {
    let state_dir = match tempfile::Builder::new().prefix("forkgate-demo-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            output::complain("error", &format!("cannot make a temporary directory: {error}; set TMPDIR"));
            return ExitCode::FAILURE;
        }
    };
    let flags = [
        ("GATEWAY_BIND", args.bind),
        ("GATEWAY_ADMIN_BIND", args.admin_bind),
        ("GATEWAY_WORKERS", args.workers),
        ("GATEWAY_STATE_DIR", state_dir.path().display().to_string()),
        ("GATEWAY_JWT_SECRET", secret()),
        // The bundled upstream is on a loopback address.
        ("SSRF_ALLOW_LOCALHOST", "true".to_owned()),
        // What the user has to read should not drown among what a server has to say.
        ("GATEWAY_LOG_LEVEL", "warn".to_owned()),
    ];
    let flags = flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let sources = Sources { flags, process_env: allowed_faults(), ..Sources::default() };
    let code = serve::start(sources, Some(DemoOptions { json: args.json }));
    if let Err(error) = state_dir.close() {
        output::complain("warning", &format!("the temporary directory was not removed: {error}"));
    }
    code
}

/// The one thing that a binary for tests takes from the environment.
fn allowed_faults() -> Vec<(String, String)> {
    let allowed = cfg!(feature = "faults").then(|| std::env::var("GATEWAY_FAULTS").ok()).flatten();
    allowed.map(|value| ("GATEWAY_FAULTS".to_owned(), value)).into_iter().collect()
}

/// 256 bits in hex, new each time.
pub(super) fn secret() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}
