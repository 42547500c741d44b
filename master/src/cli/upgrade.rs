//! The two doors of an upgrade: a program is asked whether it could take over, and it takes over.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use forkgate_shared::descriptors::{SETTINGS, STATE};

use super::output;
use crate::system::upgrade;

/// Version of the catalog's layout.
const CATALOG_LAYOUT: u64 = forkgate_worker::catalog::snapshot::VERSION;

/// Goes on as the master that another program was until now; none when this process was started anew.
pub fn resume() -> Option<ExitCode> {
    let handover = std::env::var(upgrade::STATE_VARIABLE).ok()?;
    // SAFETY: called first of all in `main`: there is one thread.
    #[expect(clippy::disallowed_methods, reason = "one thread; children must not find it")]
    unsafe {
        std::env::remove_var(upgrade::STATE_VARIABLE);
    }
    Some(upgrade::resume(&handover, CATALOG_LAYOUT))
}

/// `forkgate upgrade-check`: reads the state that the running master wrote down, and says whether it could go on from
/// there. Changes nothing.
pub fn check() -> ExitCode {
    let (Some(state), Some(settings)) = (inherited(STATE), inherited(SETTINGS)) else {
        output::complain(
            "error",
            "this is started by a running master (`forkgate ctl upgrade`), not by hand",
        );
        return ExitCode::from(super::USAGE);
    };
    let (answer, ready) = upgrade::answer(state, settings, CATALOG_LAYOUT, |state| refusal(&state.sources));
    output::print(&format!("{answer}\n"));
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "faults"))]
fn refusal(_: &forkgate_shared::settings::Sources) -> Option<String> {
    None
}

#[cfg(feature = "faults")]
fn refusal(sources: &forkgate_shared::settings::Sources) -> Option<String> {
    (!sources.allow_faults()).then(|| super::serve::FAULTS_NOT_ALLOWED.to_owned())
}

fn inherited(number: RawFd) -> Option<OwnedFd> {
    if !std::fs::exists(format!("/proc/self/fd/{number}")).unwrap_or(false) {
        return None;
    }
    // SAFETY: open (just checked), and this command opens nothing before: the number is what it was started with.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
