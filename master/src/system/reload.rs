//! A reload as the shell sees it: what the check child found, what became of it, and who is told.
//!
//! The master itself reads no file of settings after its start: what is wrong with one can harm nobody but the check child.

use std::io;
use std::os::fd::OwnedFd;

use forkgate_shared::settings::Change;
use forkgate_shared::settings::check::{Accepted, CheckVerdict};

use super::ctl::{Operation, Outcome};
use super::facts;
use super::history::Entry;
use super::master::Master;
use super::versions::Version;
use super::{plan, wanted};
use crate::supervisor::{ChildId, Event, Fact, Migration, Plan, RecycleReason, Reloaded, Role, SlotId};

/// The reload or the check that runs, or the last one.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Only a check was asked for.
    is_check: bool,
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
    /// What it is called in the log.
    fn word(&self) -> &'static str {
        if self.is_check { "check" } else { "reload" }
    }

    /// A child with settings of this version said why it cannot start.
    pub fn boot_failed(&mut self, version: u64, message: String) {
        if self.version == Some(version) {
            self.boot_failure = Some(message);
        }
    }

    /// What became of it in one line, when it was not done.
    fn failure(&self) -> Option<String> {
        let word = match self.ended? {
            Reloaded::Refused | Reloaded::CheckDied | Reloaded::CheckLate => "refused",
            _ => "failed",
        };
        let error = self.error()?;
        let more = error.lines().count().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        Some(format!("reload {word}: {}{more}", error.lines().next().unwrap_or_default()))
    }

    /// Why it was not done.
    fn error(&self) -> Option<String> {
        let seen = self.boot_failure.as_deref().unwrap_or("see the log");
        Some(match self.ended? {
            Reloaded::Done | Reloaded::Checked => return None,
            Reloaded::Refused => self.refusal.clone(),
            Reloaded::CheckDied => {
                "the check of the new settings died without a verdict, see the log; try again".to_owned()
            }
            Reloaded::CheckLate => {
                "the check of the new settings gave no verdict within 10 s and was killed: does a \
                                    file that it reads lie on a disk that does not answer?"
                    .to_owned()
            }
            Reloaded::MigrateFailed => format!("the database could not be brought up to date: {seen}"),
            Reloaded::WorkerFailed(SlotId(slot)) => {
                format!(
                    "the worker of slot {slot} did not start with the new settings, or died of them: {seen}"
                )
            }
            Reloaded::WorkerLate(SlotId(slot)) => {
                format!(
                    "the worker of slot {slot} was not ready with the new settings within GATEWAY_BOOT_TIMEOUT"
                )
            }
            Reloaded::WorkersKilled(SlotId(slot)) => format!(
                "workers that started with the new settings were killed again and again, at last the one of slot \
                 {slot}: by you, or by the kernel for want of memory; see the log"
            ),
        })
    }
}

impl Master {
    pub(super) fn reload_begins(&mut self) {
        self.attempt = Attempt::default();
        self.reload_failure = None;
        self.note(Entry::new("reload_begun", "the settings are read"));
        self.notifier.reloading();
        self.ctl.begins(Operation::Reload);
    }

    pub(super) fn reload_ends(&mut self, how: Reloaded) {
        self.attempt.ended = Some(how);
        if how != Reloaded::Done {
            self.discard_addresses();
        }
        self.reload_failure = self.attempt.failure();
        self.note(match &self.reload_failure {
            None => Entry::new("reload_ended", "the new settings are in force").reason("done"),
            Some(why) => Entry::new("reload_ended", why.as_str()).reason("failed"),
        });
        // There is no word for a reload that failed: the status says it.
        self.notifier.ready();
        let outcome = self.outcome(how == Reloaded::Done);
        self.hook_on_reload(&outcome);
        self.answer_operators(Operation::Reload, &outcome);
    }

    pub(super) fn check_begins(&mut self) {
        self.attempt = Attempt { is_check: true, ..Attempt::default() };
        self.ctl.begins(Operation::Check);
    }

    pub(super) fn check_ends(&mut self, how: Reloaded) {
        self.attempt.ended = Some(how);
        self.loaded = None;
        self.discard_addresses();
        let outcome = self.outcome(how == Reloaded::Checked);
        self.answer_operators(Operation::Check, &outcome);
    }

    fn outcome(&self, ok: bool) -> Outcome {
        Outcome {
            ok,
            error: self.attempt.error(),
            changes: self.attempt.changes.clone(),
            warnings: self.attempt.warnings.clone(),
            settings_generation: self.versions.current().number,
            ..Outcome::default()
        }
    }

    /// Addresses that it added are given up, whatever it was that it failed at.
    pub(super) fn discard_addresses(&mut self) {
        if self.listeners.discard() {
            self.tell_of_added_listeners(false);
        }
    }

    /// Says how far the reload is, and what of it is not as it was asked for.
    pub(super) fn tell_of_reload(&mut self, fact: &Fact) {
        match fact {
            Fact::Recycling(slot, RecycleReason::Reload) => self.tell_operators(
                Operation::Reload,
                &format!("a worker with the new settings starts in slot {}", slot.0),
            ),
            Fact::WorkersCapped(asked, most) => {
                self.attempt.warnings.push(facts::workers_capped(*asked, *most));
            }
            _ => {}
        }
    }

    /// A check child says what it found. Its first word counts, unless it was killed before; the supervisor knows whether
    /// anybody still waits for it.
    pub(super) fn hear_verdict(&mut self, id: ChildId, memfd: Option<OwnedFd>) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.role != Role::Check || child.killed || std::mem::replace(&mut child.ready, true) {
            return;
        }
        let verdict =
            memfd.ok_or_else(|| io::Error::other("nothing was attached")).and_then(CheckVerdict::from_fd);
        let taken = match verdict {
            Ok(CheckVerdict::Accepted(accepted)) => self.take_settings(*accepted),
            Ok(CheckVerdict::Refused(why)) => Err(why),
            Err(error) => Err(format!("the check's verdict is not understood: {error}")),
        };
        self.events.push_back(match taken {
            Ok((plan, migration)) => Event::SettingsAccepted { child: id, plan, migration },
            Err(why) => {
                for line in why.lines() {
                    tracing::error!("{} refused: {line}", self.attempt.word());
                }
                self.attempt.refusal = why;
                Event::SettingsRefused(id)
            }
        });
    }

    fn take_settings(&mut self, accepted: Accepted) -> Result<(Plan, Migration), String> {
        let Accepted { settings, changes, warnings, origins } = accepted;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        for change in &changes {
            tracing::info!("{}: {change}", self.attempt.word());
        }
        if changes.is_empty() && !self.attempt.is_check {
            tracing::info!("reload: no setting differs; the workers are replaced all the same");
        }
        let migration = if settings.database != self.versions.current().settings.database {
            Migration::OtherDatabase
        } else if self.stored_separator.as_ref() != Some(&settings.tool_name_separator) {
            Migration::OtherNames
        } else {
            Migration::None
        };
        let plan = plan(&settings);
        self.listeners.propose(&wanted(&settings)).map_err(|error| error.to_string())?;
        let version =
            Version::new(0, settings).map_err(|error| format!("cannot seal the settings: {error}"))?;
        self.loaded = Some(version.from(origins));
        (self.attempt.changes, self.attempt.warnings) = (changes, warnings);
        Ok((plan, migration))
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
        let what = "the worker of slot 1 did not start with the new settings, or died of them";
        assert_eq!(attempt.error(), Some(format!("{what}: see the log")));
        attempt.boot_failed(2, "no key".to_owned());
        assert_eq!(attempt.failure(), Some(format!("reload failed: {what}: no key")));
    }
}
