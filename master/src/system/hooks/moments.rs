//! When hooks are run, and what they are told. The fields are documented in `docs/hooks.md`; those that are there stay.

use std::time::{SystemTime, UNIX_EPOCH};

use forkgate_shared::calendar::rfc3339;
use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::settings::Hook;
use serde_json::{Map, Value, json};

use super::super::ctl::Outcome;
use super::super::master::{Death, Master};
use super::super::pidfd::Ending;
use crate::supervisor::{Action, ChildId, Fact, Ns, Role, SlotId};

/// Version of the fields: raised when one of them changes its meaning or goes away.
const VERSION: u64 = 1;

impl Master {
    /// The gateway serves.
    pub(in super::super) fn hook_on_ready(&mut self) {
        self.run_hook(Hook::OnReady, |master| {
            json!({
                "workers": master.versions.current().settings.workers,
                "addresses": master.listeners.shown(),
                "took_ms": ms(monotonic_ns().saturating_sub(master.started)),
            })
        });
    }

    /// A reload has ended.
    pub(in super::super) fn hook_on_reload(&mut self, outcome: &Outcome) {
        self.run_hook(
            Hook::OnReload,
            |_| json!({"ok": outcome.ok, "error": outcome.error, "changes": outcome.changes}),
        );
    }

    /// Some facts are a hook's.
    pub(in super::super) fn hook_on_fact(&mut self, fact: &Fact) {
        match *fact {
            Fact::Ready(id, slot, took) => self.run_hook(Hook::WorkerReady, |master| {
                let mut told = master.told_of_worker(id, slot);
                told.insert("took_ms".to_owned(), ms(took).into());
                told.into()
            }),
            Fact::Killed(id, kill) => {
                let Some(Role::Worker { slot, .. }) = self.children.get(&id).map(|child| child.role) else {
                    return;
                };
                self.hooks.killed.insert(id);
                self.run_hook(Hook::WorkerKilled, |master| {
                    let mut told = master.told_of_worker(id, slot);
                    told.insert("reason".to_owned(), kill.as_str().into());
                    told.into()
                });
            }
            _ => {}
        }
    }

    /// A worker has ended, and the supervisor has said what it does about it.
    pub(in super::super) fn hook_on_exit(&mut self, id: ChildId, actions: &[Action]) {
        let is_killed = self.hooks.killed.remove(&id);
        let Some(Death { subject: Some(subject), .. }) = self.deaths.get(&id) else { return };
        let subject = *subject;
        let reason = reason(actions, is_killed);
        self.run_hook(Hook::WorkerExit, |master| {
            let mut told = Map::new();
            told.insert("slot".to_owned(), subject.slot.into());
            told.insert("pid".to_owned(), subject.pid.into());
            told.insert("generation".to_owned(), subject.id.0.into());
            told.insert("reason".to_owned(), reason.into());
            told.insert("age_ms".to_owned(), ms(monotonic_ns().saturating_sub(subject.spawned)).into());
            if let Some(death) = master.deaths.get(&id) {
                let (code, signal) = match death.ending {
                    Ending::Code(code) => (Some(code), None),
                    Ending::Signal(signal) => (None, Some(signal)),
                };
                told.insert("exit_code".to_owned(), code.into());
                told.insert("signal".to_owned(), signal.into());
                told.insert("oom".to_owned(), death.by_kernel_for_memory.into());
                told.insert("how".to_owned(), death.failure.how.clone().into());
                told.insert("last_words".to_owned(), death.failure.words.clone().into());
            }
            told.into()
        });
    }

    fn told_of_worker(&self, id: ChildId, slot: SlotId) -> Map<String, Value> {
        let pid = self.children.get(&id).map_or(0, |child| child.pid);
        let fields: [(&str, Value); 3] =
            [("slot", slot.0.into()), ("pid", pid.into()), ("generation", id.0.into())];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What every hook is told, and `more`, as one line.
    pub(super) fn told(&self, hook: Hook, more: Value) -> String {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut told = json!({
            "version": VERSION,
            "hook": hook.as_str(),
            "time": rfc3339(u64::try_from(millis).unwrap_or(u64::MAX)),
            "forkgate": env!("CARGO_PKG_VERSION"),
            "master_pid": std::process::id(),
            "state_dir": self.versions.current().settings.state_dir,
            "settings_generation": self.versions.current().number,
        });
        if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
            told.extend(more);
        }
        format!("{told}\n")
    }
}

/// What the end of a worker was to the supervisor.
fn reason(actions: &[Action], is_killed: bool) -> &'static str {
    let has = |wanted: &Action| actions.contains(wanted);
    match () {
        () if is_killed => "killed",
        () if has(&Action::CountBootFailure) => "boot_failed",
        () if has(&Action::CountCrash) => "crash",
        () => "asked",
    }
}

fn ms(span: Ns) -> u64 {
    span / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_asked_for_unless_it_is_counted_as_something_else() {
        assert_eq!(reason(&[Action::FreeRow(1)], false), "asked");
        assert_eq!(reason(&[Action::CountCrash, Action::FreeRow(1)], false), "crash");
        assert_eq!(reason(&[Action::CountBootFailure], false), "boot_failed");
        assert_eq!(reason(&[Action::CountBootFailure], true), "killed");
    }
}
