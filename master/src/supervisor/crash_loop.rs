//! Crash loops: a back-off per slot slows one slot down; this slows down all of them together.
//!
//! | health | is | leaves by |
//! |---|---|---|
//! | WELL | every empty slot is filled after its own back-off | more failures than the budget within [`WINDOW`], or [`ALIKE`] in a row that ended alike → DEGRADED |
//! | DEGRADED | one empty slot at a time is tried: the probe. Workers that serve are left alone, and no wish is granted while a slot is empty | the probe is ready for [`PROBATION`], or nothing is empty and nothing has failed for that long → RECOVERING; a reload → WELL |
//! | RECOVERING | the other empty slots are filled at once, but one after another | every slot has its worker → WELL; failures as in WELL → DEGRADED |
//!
//! A failure is a worker that never was ready, or one that died unasked; a kill by the watchdog is none. A reload that rolls
//! while the loop begins has made it, as far as anybody can tell: it is given up. An operator's next reload may have
//! repaired it, so it begins anew with an empty budget; workers with the settings that it rolls away from are not counted
//! meanwhile.
//!
//! In the first boot nothing has worked yet, so what would be a crash loop ends the master with code 3.
//!
//! Beside that: a master none of whose workers is ready for `GATEWAY_GIVE_UP` ends, so that whoever started it can act.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Supervisor;
use super::children::{EXIT_BOOT_FAILED, EXIT_FAILED};
use super::event::{Action, ChildId, CrashLoop, Fact, Ns, SECOND, SlotId};
use super::state::{Child, Life, Phase, Slot};

/// Failures older than this are forgotten.
const WINDOW: Ns = 60 * SECOND;
/// Failures alike in a row that make a crash loop, whatever the budget: the third time it is no chance.
const ALIKE: u32 = 3;
/// A worker that runs for this long has more than started.
pub(super) const PROBATION: Ns = 10 * SECOND;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct CrashLoopState {
    pub(super) health: Health,
    /// When workers failed within the window, at most one more than the budget.
    failures: VecDeque<Ns>,
    /// How the last one ended, and how many did so in a row.
    alike: Option<(u64, u32)>,
    /// Since when no worker is ready.
    nobody_since: Option<Ns>,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Health {
    #[default]
    Well,
    Degraded {
        probe: Option<ChildId>,
        last_failure: Ns,
    },
    Recovering,
}

impl CrashLoopState {
    /// Empty slots are filled as they come.
    pub fn is_over(&self) -> bool {
        self.health == Health::Well
    }

    pub fn is_degraded(&self) -> bool {
        matches!(self.health, Health::Degraded { .. })
    }

    /// This worker was started in an empty slot.
    pub fn probes(&mut self, child: ChildId) {
        if let Health::Degraded { probe, .. } = &mut self.health {
            *probe = Some(child);
        }
    }

    /// One more failure; says whether it makes a crash loop.
    fn count(&mut self, signature: Option<u64>, budget: u32, window: Ns, now: Ns) -> Option<CrashLoop> {
        let in_a_row = self.failures.back().is_some_and(|last| now - last < window);
        self.failures.retain(|failure| now - failure < window);
        self.failures.push_back(now);
        while self.failures.len() > budget as usize + 1 {
            self.failures.pop_front();
        }
        self.alike = signature.map(|signature| match self.alike {
            Some((last, count)) if last == signature && in_a_row => (signature, count + 1),
            _ => (signature, 1),
        });
        match self.alike {
            Some((_, count)) if count >= ALIKE => Some(CrashLoop::Alike(count)),
            _ if self.failures.len() > budget as usize => Some(CrashLoop::Many(self.failures.len() as u32)),
            _ => None,
        }
    }

    fn forget(&mut self) {
        self.failures.clear();
        self.alike = None;
    }
}

impl Supervisor {
    /// A worker of this slot never was ready, or died unasked.
    pub(super) fn worker_failed(&mut self, slot: SlotId, child: &Child, signature: Option<u64>, now: Ns) {
        if self.life == Life::FirstBoot {
            return self.first_worker_failed(slot, signature, now);
        }
        if self.life != Life::Serving || self.rolls_away_from(child.version) {
            return;
        }
        let why = self.crash_loop.count(signature, self.plan.crash_budget, WINDOW, now);
        if let Health::Degraded { last_failure, .. } = &mut self.crash_loop.health {
            *last_failure = now;
            return;
        }
        let Some(why) = why else { return };
        self.crash_loop.health = Health::Degraded { probe: None, last_failure: now };
        self.log(Fact::Degraded(why));
        self.out.push(Action::ShowDegraded(true));
        self.roll_met_a_crash_loop(slot, now);
    }

    /// The first boot forgets nothing, so that it ends one way or the other.
    fn first_worker_failed(&mut self, slot: SlotId, signature: Option<u64>, now: Ns) {
        if self.crash_loop.count(signature, self.plan.crash_budget, Ns::MAX, now).is_some() {
            self.log(Fact::FirstBootGivenUp(slot));
            self.begin_stop(true, EXIT_BOOT_FAILED, now);
        }
    }

    /// Moves to better health when that is due.
    pub(super) fn heal(&mut self, now: Ns) {
        let all_run = self.slots.values().all(|slot| slot.is_leaving() || self.runs(slot.primary));
        match self.crash_loop.health {
            Health::Well => {}
            Health::Recovering => {
                if all_run {
                    self.crash_loop.health = Health::Well;
                }
            }
            Health::Degraded { probe, last_failure } => {
                let since = probe.and_then(|probe| self.probe_since(probe));
                let is_healthy = since.is_some_and(|since| now >= since + PROBATION);
                if is_healthy || all_run && now >= last_failure + PROBATION {
                    self.crash_loop.health = Health::Recovering;
                    self.end_crash_loop();
                }
            }
        }
    }

    /// An operator has changed something that may have been the cause.
    pub(super) fn forgive(&mut self) {
        self.crash_loop.forget();
        if let Health::Degraded { .. } = std::mem::take(&mut self.crash_loop.health) {
            self.end_crash_loop();
        }
    }

    fn end_crash_loop(&mut self) {
        self.crash_loop.forget();
        for slot in self.slots.values_mut().filter(|slot| slot.primary.is_none()) {
            slot.respawn.succeed();
        }
        self.log(Fact::Recovered);
        self.out.push(Action::ShowDegraded(false));
    }

    /// Since when the probe runs, if it is still the worker of its slot.
    fn probe_since(&self, probe: ChildId) -> Option<Ns> {
        match self.children.get(&probe)?.phase {
            Phase::Running { since } if self.slot_of_probe(probe).is_some() => Some(since),
            _ => None,
        }
    }

    fn slot_of_probe(&self, probe: ChildId) -> Option<SlotId> {
        self.slots.iter().find(|(_, slot)| slot.primary == Some(probe)).map(|(id, _)| *id)
    }

    /// The slot that is tried now.
    pub(super) fn probed_slot(&self) -> Option<SlotId> {
        match self.crash_loop.health {
            Health::Degraded { probe, .. } => probe.and_then(|probe| self.slot_of_probe(probe)),
            _ => None,
        }
    }

    /// Which of these empty slots is filled next, if any may be: the one that has waited longest.
    pub(super) fn next_probe<'a>(
        &self,
        empty: impl Iterator<Item = (&'a SlotId, &'a Slot)>,
    ) -> Option<SlotId> {
        let booting = |slot: &Slot| slot.primary.is_some() && !self.runs(slot.primary);
        let is_busy = match self.crash_loop.health {
            Health::Degraded { .. } => self.probed_slot().is_some(),
            _ => self.slots.values().any(booting),
        };
        let next = empty.min_by_key(|(id, slot)| (slot.respawn.not_before(), **id)).map(|(id, _)| *id);
        next.filter(|_| !is_busy)
    }

    /// Whether a worker may be replaced that does its work: in a crash loop only when no slot waits for one.
    pub(super) fn may_replace(&self) -> bool {
        !self.crash_loop.is_degraded() || self.slots.values().all(|slot| self.runs(slot.primary))
    }

    /// Ends the master when nobody has been ready for too long.
    pub(super) fn give_up(&mut self, now: Ns) {
        if self.slots.values().any(|slot| self.runs(slot.primary)) {
            self.crash_loop.nobody_since = None;
            return;
        }
        let since = *self.crash_loop.nobody_since.get_or_insert(now);
        if let Some(limit) = self.plan.give_up
            && now >= since + limit
        {
            self.log(Fact::GivenUp(limit));
            self.begin_stop(true, EXIT_FAILED, now);
            self.finish_stop(now);
        }
    }

    /// The master stood still: whoever had a limit has it anew from here on, but for the end, which has its own.
    pub(super) fn late(&mut self, span: Ns) {
        self.log(Fact::Late(span));
        if matches!(self.life, Life::Stopping(_) | Life::Over) {
            return;
        }
        for child in self.children.values_mut() {
            child.phase.postpone(span);
        }
        if let Some(since) = &mut self.crash_loop.nobody_since {
            *since += span;
        }
    }

    /// When time alone changes something here.
    pub(super) fn crash_deadlines(&self) -> impl Iterator<Item = Ns> {
        let state = &self.crash_loop;
        let healthy = match state.health {
            Health::Degraded { probe, last_failure } => {
                [probe.and_then(|probe| self.probe_since(probe)), Some(last_failure)]
            }
            _ => [None, None],
        };
        let healthy = healthy.into_iter().flatten().map(|since| since + PROBATION);
        let end = state.nobody_since.and_then(|since| Some(since + self.plan.give_up?));
        healthy.chain(end.filter(|_| self.life == Life::Serving))
    }
}
