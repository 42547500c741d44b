//! The judge of the simulated world: what every step has to keep, and where it is written down when it does not.

use std::collections::BTreeSet;

use super::*;

impl World {
    pub(super) fn breach(&mut self, broken: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if broken {
            self.breaches.push((invariant, what()));
        }
    }

    pub(super) fn announce(&mut self, which: usize, begins: bool) {
        let was = std::mem::replace(&mut self.announced[which], begins);
        self.breach(was == begins, "I11", || format!("announced twice: {which}, begins {begins}"));
        let both = self.announced == [true; 2];
        self.breach(both, "I11", || "a check beside a reload".to_owned());
    }

    /// In a crash loop one worker at a time is started in an empty slot, until one has proved itself.
    pub(super) fn probe(&mut self, child: ChildId) {
        let now = self.now;
        let on_trial = |p: &Process| p.boots() || p.is_well() && now < p.ready_at + PROBATION;
        let tried = self.probes.iter().copied().find(|id| self.processes.get(id).is_some_and(on_trial));
        self.breach(tried.is_some(), "I8", || format!("{child:?} is tried beside {tried:?}"));
        self.probes.insert(child);
    }

    pub(super) fn look_for_anybody(&mut self) {
        if self.processes.values().any(Process::is_well) {
            self.nobody_since = None;
        } else {
            self.nobody_since.get_or_insert(self.now);
        }
    }

    fn tell(&mut self, child: ChildId) -> Option<SlotId> {
        let Some(process) = self.processes.get_mut(&child) else {
            let late = !self.unborn.contains(&child);
            self.breach(late, "I4", || format!("{child:?} is spoken to after its end"));
            return None;
        };
        process.told = Some(self.now);
        process.slot()
    }

    pub(super) fn drain(&mut self, child: ChildId) {
        let was_told = self.processes.get(&child).is_some_and(Process::told);
        let Some(slot) = self.tell(child).filter(|_| !was_told) else { return };
        let alone = self.serving_slot(slot) == 0;
        self.breach(alone, "I2", || format!("{child:?} was the last on {slot:?}"));
        let (left, quorum) = (self.serving(), self.quorum_before.min(self.supervisor.quorum() as usize));
        self.breach(left < quorum.min(self.ready_before), "I5", || format!("{left} left of {quorum}"));
    }

    pub(super) fn retire(&mut self, child: ChildId) {
        let Some(slot) = self.tell(child) else { return };
        if self.stopping.is_none() {
            // The target may change within the step, after the order was given.
            let (left, quorum) = (self.serving(), self.quorum_before.min(self.supervisor.quorum() as usize));
            self.breach(left < quorum, "I5", || format!("{left} left of {quorum} after retiring {slot:?}"));
            self.told_to_retire = Some(slot);
        }
    }

    pub(super) fn signal(&mut self, child: ChildId, signal: ChildSignal) {
        let (now, stopping) = (self.now, self.stopping.is_some());
        let Some(process) = self.processes.get_mut(&child) else {
            // Everything may end in the very step in which it was to be started.
            let late = !self.unborn.contains(&child);
            self.breach(late, "I4", || format!("{child:?} is signalled after its end"));
            return;
        };
        let told = process.told;
        let patience = match process.slot() {
            // At the end it has the time that the settings in force say, whatever its own are.
            None if stopping => 0,
            None => LAST_STEPS,
            _ if stopping => QUICK.min(process.graceful),
            _ => process.graceful,
        };
        let early = match (signal, told) {
            (ChildSignal::Term | ChildSignal::Int, _) => {
                process.told = told.or(Some(now));
                !stopping
            }
            (ChildSignal::Abort, _) => return self.abort(child),
            (ChildSignal::Kill, _)
                if process.aborted.is_some_and(|at| now >= at + 5 * SECOND || stopping) =>
            {
                false
            }
            (ChildSignal::Kill, None) => now < process.spawned + BOOT || process.serves(),
            (ChildSignal::Kill, Some(told)) => now < told + patience,
        };
        let twice = process.killed;
        process.killed |= signal == ChildSignal::Kill;
        if process.killed {
            self.standbys.remove(&child);
        }
        self.breach(early, "I6", || format!("{signal:?} for {child:?} too early"));
        self.breach(twice, "I6", || format!("{signal:?} for {child:?} after its kill"));
    }

    pub(super) fn report(&mut self, child: ChildId, verdict: Verdict, enforced: bool) {
        let unconfirmed = match verdict {
            Verdict::Operator => !self.ordered.contains(&child),
            _ => !self.confirmed.contains_key(&child) && self.stopping.is_none(),
        };
        self.breach(unconfirmed, "I6", || {
            format!("{child:?} is reported for {verdict:?} without confirmation")
        });
        self.reported.insert(child);
        if enforced && verdict.is_guarded() && self.stopping.is_none() {
            let (now, last) = (self.now, self.last_guarded.replace(self.now));
            let early = last.is_some_and(|last| now < last + KILL_INTERVAL);
            self.breach(early, "I6", || format!("{child:?} dies for {verdict:?} too soon after {last:?}"));
        }
    }

    fn abort(&mut self, child: ChildId) {
        let unreported = !self.reported.contains(&child);
        self.breach(unreported, "I6", || format!("{child:?} is aborted without a report"));
        let waited = self.confirmed.get(&child).is_some_and(|at| self.now >= at + BOOT);
        let Some(process) = self.processes.get_mut(&child) else { return };
        let twice = process.aborted.replace(self.now).is_some();
        let (serves, slot) = (process.serves() && !waited, process.slot());
        self.breach(twice, "I6", || format!("{child:?} is aborted twice"));
        let retires = slot.is_some() && slot == self.retiring_slot();
        self.breach(serves && !retires, "I5", || format!("{child:?} is aborted and nobody serves its slot"));
    }

    pub(super) fn close(&mut self, slot: SlotId) {
        let missing = !self.listeners.remove(&slot);
        self.breach(missing, "I1", || format!("{slot:?} closed twice"));
        if self.stopping.is_none() {
            let holders = self.holders(slot);
            self.breach(holders > 0, "I1", || format!("{slot:?} closed before {holders} workers left it"));
            let chosen = self.may_be_chosen(slot);
            self.breach(chosen, "I1", || format!("{slot:?} closed while clients may be sent to it"));
        }
        self.forget_closed();
    }

    pub(super) fn may_be_chosen(&self, slot: SlotId) -> bool {
        self.steering.as_ref().is_none_or(|shares| shares.iter().any(|(member, _)| *member == slot))
    }

    pub(super) fn check_steering(&mut self) {
        let Some(slot) = self.told_to_retire.filter(|_| self.stopping.is_none()) else { return };
        let chosen = self.may_be_chosen(slot);
        self.breach(chosen, "I1", || format!("clients may still be sent to {slot:?}"));
    }

    /// Somebody serves, or will be tried.
    pub(super) fn check_sound(&mut self) {
        let lost = !self.supervisor.is_sound(self.now);
        self.breach(lost, "I12", || "nobody serves, and nothing is awaited".to_owned());
    }

    /// Somebody who accepts is chosen, as long as there is one.
    pub(super) fn check_chosen(&mut self) {
        let Some(shares) = self.steering.as_ref().filter(|_| self.stopping.is_none()) else { return };
        let retiring = self.retiring_slot();
        let takers = self.processes.values().filter(|process| process.is_well());
        let takers: BTreeSet<SlotId> = takers.filter_map(Process::slot).collect();
        let takes = |slot: &SlotId| takers.contains(slot) && retiring != Some(*slot);
        let nobody = takers.iter().any(takes) && !shares.iter().any(|(slot, _)| takes(slot));
        let steering = self.steering.clone();
        self.breach(nobody, "I9", || format!("{takers:?} accept and {steering:?} are chosen"));
    }
}
