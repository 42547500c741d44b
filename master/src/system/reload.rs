//! A reload as the shell sees it: what the new settings are, what became of them, and who is told.

use forkgate_shared::settings::{Change, Settings};

use super::ctl::{Operation, Outcome};
use super::master::Master;
use super::versions::Version;
use super::{plan, wanted};
use crate::supervisor::{Event, Fact, RecycleReason, Reloaded};

/// The reload that runs, or the last one.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Version of its settings; none before they were accepted.
    version: Option<u64>,
    changes: Vec<Change>,
    warnings: Vec<String>,
    /// Why its settings are not valid, one problem per line.
    refusal: String,
    /// What the last child said that could not start with them.
    boot_failure: Option<String>,
    ended: Option<Reloaded>,
}

impl Attempt {
    /// A child with settings of this version said why it cannot start.
    pub fn boot_failed(&mut self, version: u64, message: String) {
        if self.version == Some(version) {
            self.boot_failure = Some(message);
        }
    }

    /// What became of it in one line, when it was not done.
    pub fn failure(&self) -> Option<String> {
        let word = match self.ended? {
            Reloaded::Done => return None,
            Reloaded::Refused => "refused",
            Reloaded::MigrateFailed | Reloaded::WorkerFailed(_) => "failed",
        };
        let error = self.error()?;
        let more = error.lines().count().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        Some(format!("reload {word}: {}{more}", error.lines().next().unwrap_or_default()))
    }

    /// Why it was not done.
    fn error(&self) -> Option<String> {
        let what = match self.ended? {
            Reloaded::Done => return None,
            Reloaded::Refused => return Some(self.refusal.clone()),
            Reloaded::MigrateFailed => "the database could not be brought up to date".to_owned(),
            Reloaded::WorkerFailed(slot) => {
                format!("the worker of slot {} did not start with the new settings", slot.0)
            }
        };
        let why = self.boot_failure.as_deref().unwrap_or("see the log");
        Some(format!("{what}: {why}"))
    }
}

impl Master {
    pub(super) fn reload_begins(&mut self) {
        self.attempt = Attempt::default();
        self.notifier.reloading();
        self.ctl.begins(Operation::Reload);
    }

    pub(super) fn reload_ends(&mut self, how: Reloaded) {
        self.attempt.ended = Some(how);
        if how != Reloaded::Done {
            self.discard_addresses();
        }
        self.notifier.ready();
        let outcome = Outcome {
            ok: how == Reloaded::Done,
            error: self.attempt.error(),
            changes: self.attempt.changes.clone(),
            warnings: self.attempt.warnings.clone(),
            settings_generation: self.versions.current().number,
        };
        self.answer_operators(Operation::Reload, &outcome);
    }

    /// Addresses that it added are given up, whatever it was that it failed at.
    pub(super) fn discard_addresses(&mut self) {
        if self.listeners.discard() {
            self.tell_of_added_listeners(false);
        }
    }

    /// Says how far the reload is.
    pub(super) fn tell_of_reload(&mut self, fact: &Fact) {
        if let Fact::Recycling(slot, RecycleReason::Reload) = fact {
            self.tell_operators(
                Operation::Reload,
                &format!("a worker with the new settings starts in slot {}", slot.0),
            );
        }
    }

    pub(super) fn load_settings(&mut self) {
        let event = match self.read_settings() {
            Ok(event) => event,
            Err(why) => {
                for line in why.lines() {
                    tracing::error!("reload refused: {line}");
                }
                self.attempt.refusal = why;
                Event::SettingsRefused
            }
        };
        self.events.push_back(event);
    }

    /// Reads and compares. What only a restart can change stays as it is.
    fn read_settings(&mut self) -> Result<Event, String> {
        let running = &self.versions.current().settings;
        let loaded =
            Settings::load_over(running, self.sources.clone()).map_err(|errors| errors.to_string())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let settings = loaded.settings.clone().with_fixed_of(running);
        if let Some(path) = &settings.log_file {
            forkgate_shared::log::try_file(path)
                .map_err(|error| format!("GATEWAY_LOG_FILE {} cannot be opened: {error}", path.display()))?;
        }
        let changes = Settings::reload_changes(running, &loaded.settings, &settings);
        for change in &changes {
            tracing::info!("reload: {change}");
        }
        if changes.is_empty() {
            tracing::info!("reload: no setting differs; the workers are replaced all the same");
        }
        let names_differ = self.stored_separator.as_ref() != Some(&settings.tool_name_separator);
        let migrate = names_differ || settings.database != running.database;
        let plan = plan(&settings);
        self.listeners.propose(&wanted(&settings)).map_err(|error| error.to_string())?;
        self.loaded =
            Some(Version::new(0, settings).map_err(|error| format!("cannot seal the settings: {error}"))?);
        (self.attempt.changes, self.attempt.warnings) = (changes, loaded.warnings);
        Ok(Event::SettingsAccepted { plan, migrate })
    }

    /// The settings just read are a candidate under this number.
    pub(super) fn propose_settings(&mut self, number: u64) {
        if let Some(loaded) = self.loaded.take() {
            if self.stored_separator.as_ref() != Some(&loaded.settings.tool_name_separator) {
                self.stored_separator = None;
            }
            self.attempt.version = Some(number);
            self.versions.propose(Version { number, ..loaded });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::supervisor::SlotId;

    use super::*;

    #[test]
    fn what_became_of_a_reload_is_said_in_one_line_and_in_full() {
        let mut attempt = Attempt { refusal: "a\nb\nc".to_owned(), ..Attempt::default() };
        assert_eq!(attempt.failure(), None, "it runs");
        attempt.ended = Some(Reloaded::Refused);
        assert_eq!(attempt.failure().as_deref(), Some("reload refused: a (and 2 more)"));
        assert_eq!(attempt.error().as_deref(), Some("a\nb\nc"));
        attempt.ended = Some(Reloaded::Done);
        assert_eq!((attempt.failure(), attempt.error()), (None, None));
    }

    #[test]
    fn only_a_child_with_the_new_settings_says_why_they_do_not_work() {
        let mut attempt = Attempt { version: Some(2), ..Attempt::default() };
        attempt.ended = Some(Reloaded::WorkerFailed(SlotId(1)));
        attempt.boot_failed(1, "another reason".to_owned());
        let what = "the worker of slot 1 did not start with the new settings";
        assert_eq!(attempt.error(), Some(format!("{what}: see the log")));
        attempt.boot_failed(2, "no key".to_owned());
        assert_eq!(attempt.failure(), Some(format!("reload failed: {what}: no key")));
    }
}
