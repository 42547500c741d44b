//! What operators order of single workers, and of their number.
//!
//! | order | what it does | over when |
//! |---|---|---|
//! | recycle | the slot's wish becomes an operator's, which waits for no interval | the worker leaves, another one in its place |
//! | kill | the worker is condemned as if a verdict were confirmed: steered around, standby, report, ABRT, KILL; see [`super::suspect`] | it is gone. Its standby does not start: it lives on |
//! | scale | the target; slots come and go one after another, see [`super::retire`] | there are so many, all served |
//!
//! Whoever gave an order asks for the [`Fate`] of the worker that was meant; no state is kept for that.

use super::Supervisor;
use super::event::{Action, ChildId, Fact, Ns, RecycleReason, SlotId, Verdict};
use super::state::{Phase, Slot, Step, Suspicion, Wish};

/// Why an order for a slot is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOrder {
    /// There is none of this number.
    NoSuchSlot,
    /// It goes away.
    Retiring,
    /// None of its workers is ready.
    NoWorker,
    /// Its worker is suspected, and replaced for that.
    Suspect(Verdict),
}

/// Why an order for the number of workers is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoScale {
    /// One is the least.
    TooFew,
    /// So many rows were made at start.
    TooMany(u32),
}

/// What has become of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It serves its slot.
    Serves,
    /// It serves, and its slot goes away.
    Retires,
    /// Another one serves; it leaves, or is about to die.
    Replaced(Option<ChildId>),
    /// It is gone, or was sent SIGKILL.
    Gone,
}

impl Supervisor {
    /// The ready worker of a slot that stays.
    pub fn worker_of(&self, id: SlotId) -> Result<ChildId, NoOrder> {
        let slot = self.slots.get(&id).ok_or(NoOrder::NoSuchSlot)?;
        if slot.retiring.is_some() {
            return Err(NoOrder::Retiring);
        }
        slot.primary.filter(|child| self.runs(Some(*child))).ok_or(NoOrder::NoWorker)
    }

    /// The worker that an operator may have replaced.
    pub fn recyclable(&self, id: SlotId) -> Result<ChildId, NoOrder> {
        let child = self.worker_of(id)?;
        match self.children.get(&child).and_then(|child| child.suspicion.as_ref()) {
            Some(suspicion) if self.is_suspect(Some(child)) => Err(NoOrder::Suspect(suspicion.verdict)),
            _ => Ok(child),
        }
    }

    pub(super) fn recycle(&mut self, id: SlotId, now: Ns) {
        let reason = RecycleReason::Operator;
        if self.recyclable(id).is_ok()
            && let Some(slot) = self.slots.get_mut(&id)
            && slot.wish.is_none_or(|wish| wish.reason != reason)
        {
            slot.wish = Some(Wish { reason, since: now });
        }
    }

    pub(super) fn kill(&mut self, id: SlotId, now: Ns) {
        let Ok(worker) = self.worker_of(id) else { return };
        // One that is reported for a verdict, or was ordered dead before, dies anyway.
        let Some(child) =
            self.children.get_mut(&worker).filter(|child| !child.is_ordered_dead() && !child.is_reported())
        else {
            return;
        };
        let step = Step::Condemned { since: now };
        child.suspicion = Some(Suspicion { step, ..Suspicion::new(Verdict::Operator) });
        self.log(Fact::KillOrdered(worker, id));
    }

    /// The standby of this slot did not start: nobody could take the place of a worker that was ordered dead.
    pub(super) fn withdraw_kill(&mut self, id: SlotId) {
        let Some(worker) = self.slots.get(&id).and_then(|slot| slot.primary) else { return };
        if let Some(child) = self.children.get_mut(&worker)
            && child.is_ordered_dead()
            && matches!(child.phase, Phase::Running { .. })
        {
            child.suspicion = None;
            self.log(Fact::KillWithdrawn(worker, id));
            self.out.push(Action::HearAgain(worker));
        }
    }

    /// What has become of a worker that was this slot's.
    pub fn fate(&self, id: SlotId, worker: ChildId) -> Fate {
        let gone = |child: &super::state::Child| matches!(child.phase, Phase::Killing(_));
        if self.children.get(&worker).is_none_or(gone) {
            return Fate::Gone;
        }
        match self.slots.get(&id) {
            Some(slot) if slot.primary == Some(worker) && slot.retiring.is_some() => Fate::Retires,
            Some(slot) if slot.primary == Some(worker) => Fate::Serves,
            Some(slot) => Fate::Replaced(slot.primary),
            None => Fate::Replaced(None),
        }
    }

    /// Why there cannot be so many workers.
    pub fn why_not_scale(&self, workers: u32) -> Option<NoScale> {
        match workers {
            0 => Some(NoScale::TooFew),
            workers if workers > self.most_workers.max(self.target) => {
                Some(NoScale::TooMany(self.most_workers))
            }
            _ => None,
        }
    }

    pub(super) fn scale_to(&mut self, workers: u32) {
        if workers != self.target && self.why_not_scale(workers).is_none() {
            self.target = workers;
            self.out.push(Action::Target(workers));
            self.log(Fact::Scaled(workers));
        }
    }

    /// There are as many slots as are meant to be, and each is served.
    pub fn is_scaled(&self) -> bool {
        let served = |slot: &Slot| slot.retiring.is_none() && self.runs(slot.primary);
        self.slots.len() == self.target as usize && self.slots.values().all(served)
    }
}
