//! What a reload changes, and what of it has to wait for a restart.

use serde::{Deserialize, Serialize};

use super::Settings;
use super::table::{self, Reload};

/// A setting whose value differs; secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its own name.
    pub name: String,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
    /// The running master cannot apply it.
    pub needs_restart: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.name, self.old, self.new)?;
        if self.needs_restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

impl Settings {
    /// All differences, in the order of the table.
    pub fn diff(old: &Settings, new: &Settings) -> Vec<Change> {
        let differing = table::all().filter(|setting| (setting.show)(old) != (setting.show)(new));
        differing
            .map(|setting| Change {
                name: setting.name.to_owned(),
                old: setting.masked(&(setting.show)(old)),
                new: setting.masked(&(setting.show)(new)),
                needs_restart: setting.reload == Reload::NeedsRestart,
            })
            .collect()
    }

    /// What a reload from `running` to `asked` changes when `applied` is what it puts into force: what differs from that
    /// waits for a restart, whatever its row of the table says.
    pub fn reload_changes(running: &Settings, asked: &Settings, applied: &Settings) -> Vec<Change> {
        let waiting = Settings::diff(applied, asked);
        let mut changes = Settings::diff(running, asked);
        for change in &mut changes {
            change.needs_restart |= waiting.iter().any(|waits| waits.name == change.name);
        }
        changes
    }

    /// These settings with everything that needs a restart as it is in `running`: what a reload puts into force.
    ///
    /// A database in the state directory stays with that.
    pub fn with_fixed_of(mut self, running: &Settings) -> Settings {
        if self.state_dir != running.state_dir && self.database.starts_with(&self.state_dir) {
            self.database.clone_from(&running.database);
        }
        self.state_dir.clone_from(&running.state_dir);
        self.user.clone_from(&running.user);
        self.group.clone_from(&running.group);
        self.umask = running.umask;
        self.pidfile.clone_from(&running.pidfile);
        self
    }
}
