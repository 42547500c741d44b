//! What people are told of single workers and slots; decides nothing.

use super::Supervisor;
use super::event::{ChildId, Ns, RecycleReason, Role, SlotId};
use super::state::{Child, Life, Phase, Slot};

/// Where a worker stands towards its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the slot's worker.
    Primary,
    /// It is about to take the primary's place.
    Standby,
    /// It was, or its slot is gone.
    Leaving,
}

impl Place {
    /// The word for `ctl`.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Primary => "primary",
            Place::Standby => "standby",
            Place::Leaving => "leaving",
        }
    }
}

/// A worker, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Which child.
    pub child: ChildId,
    /// Its slot.
    pub slot: SlotId,
    /// Its row.
    pub row: usize,
    /// What it is to the slot.
    pub place: Place,
    /// `starting`, `booting`, `running`, `aside`, `draining`, `aborting` or `killed`.
    pub phase: &'static str,
    /// What is behind that: why it leaves, is suspected, was started or wants to be replaced.
    pub reason: Option<&'static str>,
}

/// A slot, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its socket listens.
    pub open: bool,
    /// An operator wants no new clients here.
    pub paused: bool,
    /// It goes away.
    pub retiring: bool,
    /// Why its worker is to be replaced, once that may be.
    pub wish: Option<RecycleReason>,
    /// From now to the next try of a worker, when it has none; 0 = as soon as that may be.
    pub next_start: Option<Ns>,
}

impl Supervisor {
    /// All workers, by slot, then by age.
    pub fn workers(&self) -> Vec<WorkerView> {
        let mut workers: Vec<WorkerView> =
            self.children.iter().filter_map(|(id, child)| self.worker_view(*id, child)).collect();
        workers.sort_by_key(|worker| (worker.slot, worker.child));
        workers
    }

    /// One slot.
    pub fn slot(&self, id: SlotId, now: Ns) -> Option<SlotView> {
        let slot = self.slots.get(&id)?;
        Some(SlotView {
            open: slot.open,
            paused: slot.paused,
            retiring: slot.retiring.is_some(),
            wish: slot.wish.map(|wish| wish.reason),
            next_start: slot.primary.is_none().then(|| slot.respawn.not_before().saturating_sub(now)),
        })
    }

    fn worker_view(&self, id: ChildId, child: &Child) -> Option<WorkerView> {
        let Role::Worker { slot, row } = child.role else { return None };
        let of_slot = self.slots.get(&slot);
        let place = match of_slot {
            Some(slot) if slot.primary == Some(id) && !slot.is_leaving() => Place::Primary,
            Some(slot) if slot.standby == Some(id) => Place::Standby,
            _ => Place::Leaving,
        };
        let phase = match child.phase {
            Phase::Spawning { .. } => "starting",
            Phase::Booting { .. } => "booting",
            Phase::Running { .. } => "running",
            Phase::Aside => "aside",
            Phase::Draining { .. } => "draining",
            Phase::Aborting { .. } => "aborting",
            Phase::Killing(_) => "killed",
        };
        Some(WorkerView { child: id, slot, row, place, phase, reason: self.reason(id, child, of_slot) })
    }

    fn reason(&self, id: ChildId, child: &Child, slot: Option<&Slot>) -> Option<&'static str> {
        match child.phase {
            Phase::Aborting { verdict, .. } => return Some(verdict.as_str()),
            Phase::Killing(kill) => return Some(kill.as_str()),
            Phase::Draining { .. } => {
                let others = if matches!(self.life, Life::Stopping(_)) { "stopping" } else { "retiring" };
                return Some(child.leaves_for.map_or(others, RecycleReason::as_str));
            }
            Phase::Spawning { .. } | Phase::Booting { .. } | Phase::Running { .. } | Phase::Aside => {}
        }
        if let Some(suspicion) = &child.suspicion {
            return Some(suspicion.verdict.as_str());
        }
        let slot = slot?;
        if slot.standby == Some(id) {
            let token = self.token.filter(|token| token.child == id);
            return Some(token.map_or("suspect", |token| token.reason.as_str()));
        }
        let wish = slot.wish.filter(|_| slot.primary == Some(id));
        wish.map(|wish| wish.reason.as_str()).or(slot.retiring.map(|_| "retiring"))
    }
}
