//! The commands that an installation on a running system needs. They are shown before they run.

use std::process::Command;

use super::InstallError;
use super::place::{Place, Scope};

const UNIT: &str = "forkgate.service";

/// `systemctl` for this place.
fn systemctl(place: &Place, more: &[&str]) -> Vec<String> {
    let user = matches!(place.scope, Scope::User { .. }).then_some("--user");
    ["systemctl"].into_iter().chain(user).chain(more.iter().copied()).map(str::to_owned).collect()
}

/// Makes the service's user.
pub(super) fn make_user() -> Vec<String> {
    words(&["systemd-sysusers", "forkgate.conf"])
}

/// Removes the service's user.
pub(super) fn remove_user() -> Vec<String> {
    words(&["userdel", "forkgate"])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Has the service manager read its units anew.
pub(super) fn read_units(place: &Place) -> Vec<String> {
    systemctl(place, &["daemon-reload"])
}

/// Starts the service, now and with the machine (or with the user's session).
pub(super) fn enable(place: &Place) -> Vec<String> {
    systemctl(place, &["enable", "--now", UNIT])
}

/// Stops it and forgets it.
pub(super) fn disable(place: &Place) -> Vec<String> {
    systemctl(place, &["disable", "--now", UNIT])
}

/// Runs such a command; its last words are in the error.
pub(super) fn run(words: &[String]) -> Result<(), InstallError> {
    let command = words.join(" ");
    let output = Command::new(&words[0])
        .args(&words[1..])
        .output()
        .map_err(|source| InstallError::NoCommand { command: command.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(InstallError::Command { command, status: output.status, said })
}

/// Whether the service runs.
pub(super) fn is_active(place: &Place) -> bool {
    place.is_live() && run(&systemctl(place, &["is-active", "--quiet", UNIT])).is_ok()
}
