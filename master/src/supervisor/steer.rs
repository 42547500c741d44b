//! Who gets new clients: one function decides the share of every slot, from all causes.
//!
//! | cause | share | until |
//! |---|---|---|
//! | slow start: a worker starts in a slot that had none | 1, 2, 3 of 4 parts | `GATEWAY_SLOW_START` is over |
//! | streams: far more open streams than chance gives | none | it is back within what chance gives, or nobody opens streams any more |
//! | paused by an operator | none | resumed |
//! | suspect | none | taken back, or its standby is ready |
//! | nobody accepts | none | its worker is ready |
//! | retiring | none | it is gone, or stays after all |
//!
//! Somebody is always chosen: when that leaves nobody, those that can take clients are let in again from the top of the
//! table, and in the end all but the one that goes away. While no cause holds the kernel is told nothing and chooses among
//! all by hash.
//!
//! What chance gives: of *m* streams on average a slot has *m* ± σ, σ = √(m(1 − 1/N)). A slot above *m* + 2σ that has at
//! least [`MANY`] more than the average gets no new clients before it is below *m* + σ.

use super::Supervisor;
use super::event::{Action, Fact, Ns, SECOND, SlotId};
use super::state::{Life, Slot};

/// Parts of a whole share.
pub const WHOLE: u32 = 4;
/// So many more streams than the average a slot must have: with few streams, chance alone is far from even.
const MANY: f64 = 8.0;
/// After the last stream was opened there is nothing to even out with, and a slot that is kept away from is a worker that
/// idles.
const REPAIR_FOR: Ns = 10 * SECOND;

/// Why a slot gets less than its share; later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its worker has just started; so many parts of four.
    SlowStart(u32),
    /// It has far more streams than the others.
    Streams,
    /// An operator wants it so.
    Paused,
    /// Its worker is suspected.
    Suspect,
    /// No worker of its own accepts.
    NoWorker,
    /// It goes away.
    Retiring,
}

/// Why a slot is not paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPause {
    /// There is none of this number.
    NoSuchSlot,
    /// No other one takes clients.
    LastOne,
}

impl Cause {
    /// The word for `ctl`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::SlowStart(_) => "slow_start",
            Cause::Streams => "streams",
            Cause::Paused => "paused",
            Cause::Suspect => "suspect",
            Cause::NoWorker => "no_worker",
            Cause::Retiring => "retiring",
        }
    }

    fn parts(cause: Option<Cause>) -> u32 {
        match cause {
            None => WHOLE,
            Some(Cause::SlowStart(parts)) => parts,
            Some(_) => 0,
        }
    }
}

impl Supervisor {
    /// Tells the kernel whom to choose, when that is another choice than before.
    pub(super) fn steer_group(&mut self, now: Ns) {
        let slow_start = self.plan.slow_start;
        for slot in self.slots.values_mut().filter(|slot| slot.slow_start_part(slow_start, now).is_none()) {
            // For good: a reload that makes it longer is no new start.
            slot.slow_since = None;
        }
        let wanted = self.wanted_shares(now);
        if wanted != self.steered {
            self.steered.clone_from(&wanted);
            self.out.push(wanted.map_or(Action::Unsteer, Action::Steer));
        }
    }

    /// The shares of all slots that get any; none when all get the same.
    fn wanted_shares(&self, now: Ns) -> Option<Vec<(SlotId, u32)>> {
        let causes: Vec<_> = self.causes(now).collect();
        // Past the last of these all but the retiring slot are taken, whether anybody accepts there or not.
        let allowed = [Cause::Streams, Cause::Paused, Cause::Suspect, Cause::NoWorker].map(Some);
        let shares = std::iter::once(None).chain(allowed).find_map(|allowed| {
            let parts = |cause: Option<Cause>| if cause > allowed { Cause::parts(cause) } else { WHOLE };
            let shares: Vec<_> = causes
                .iter()
                .map(|(id, cause)| (*id, parts(*cause)))
                .filter(|(_, parts)| *parts > 0)
                .collect();
            (!shares.is_empty()).then_some(shares)
        })?;
        let even = shares.iter().all(|(_, parts)| *parts == shares[0].1);
        match (even, shares.len() == causes.len()) {
            (true, true) => None,
            (true, false) => Some(shares.into_iter().map(|(id, _)| (id, WHOLE)).collect()),
            (false, _) => Some(shares),
        }
    }

    /// The open slots, each with the strongest cause against it.
    fn causes(&self, now: Ns) -> impl Iterator<Item = (SlotId, Option<Cause>)> {
        let open = self.slots.iter().filter(|(_, slot)| slot.open);
        open.map(move |(id, slot)| (*id, self.cause(slot, now)))
    }

    fn cause(&self, slot: &Slot, now: Ns) -> Option<Cause> {
        let slow = || slot.slow_start_part(self.plan.slow_start, now).map(Cause::SlowStart);
        let repairs = || self.streams_grew.is_some_and(|at| now < at + REPAIR_FOR);
        match () {
            () if slot.retiring.is_some() => Some(Cause::Retiring),
            () if !self.runs(slot.primary) => Some(Cause::NoWorker),
            () if self.is_suspect(slot.primary) => Some(Cause::Suspect),
            () if slot.paused => Some(Cause::Paused),
            () if slot.lopsided && repairs() => Some(Cause::Streams),
            () => slow(),
        }
    }

    /// The slots that get less than their share, with their parts of [`WHOLE`] and why.
    pub fn held_back(&self, now: Ns) -> Vec<(SlotId, u32, Cause)> {
        let share = |id| match &self.steered {
            None => WHOLE,
            Some(shares) => shares.iter().find(|(slot, _)| *slot == id).map_or(0, |(_, parts)| *parts),
        };
        let causes = self.causes(now).filter_map(|(id, cause)| Some((id, share(id), cause?)));
        causes.filter(|(_, parts, cause)| *parts < WHOLE || *cause == Cause::Paused).collect()
    }

    /// A worker in a slot that had none is ready.
    pub(super) fn begin_slow_start(&mut self, id: SlotId, now: Ns) {
        if self.life == Life::Serving
            && let Some(slot) = self.slots.get_mut(&id)
        {
            slot.slow_since = Some(now);
        }
    }

    /// Open streams of each slot's worker.
    pub(super) fn streams(&mut self, counts: &[(SlotId, u64)], now: Ns) {
        let counted = |id: SlotId| counts.iter().find(|(slot, _)| *slot == id).map_or(0, |(_, count)| *count);
        let grew = self.slots.iter().any(|(id, slot)| counted(*id) > slot.streams);
        if grew {
            self.streams_grew = Some(now);
        }
        let takes = |slot: &Slot| slot.retiring.is_none() && self.runs(slot.primary);
        let taking: Vec<SlotId> =
            self.slots.iter().filter(|(_, slot)| takes(slot)).map(|(id, _)| *id).collect();
        let slots = taking.len().max(1) as f64;
        let mean = taking.iter().map(|id| counted(*id) as f64).sum::<f64>() / slots;
        let sigma = (mean * (1.0 - 1.0 / slots)).sqrt();
        for (id, slot) in &mut self.slots {
            slot.streams = counted(*id);
            let open = slot.streams as f64;
            let is_far_above = open > mean + 2.0 * sigma && open >= mean + MANY;
            let is_above = slot.lopsided && open >= mean + sigma && open > mean;
            slot.lopsided = taking.contains(id) && (is_far_above || is_above);
        }
    }

    /// Why this slot may not be paused now.
    pub fn why_not_pause(&self, id: SlotId) -> Option<NoPause> {
        if !self.slots.get(&id).is_some_and(|slot| slot.open) {
            return Some(NoPause::NoSuchSlot);
        }
        let takes = |slot: &Slot| {
            slot.open
                && slot.retiring.is_none()
                && !slot.paused
                && self.runs(slot.primary)
                && !self.is_suspect(slot.primary)
        };
        let others = self.slots.iter().any(|(other, slot)| *other != id && takes(slot));
        (!others).then_some(NoPause::LastOne)
    }

    pub(super) fn pause(&mut self, id: SlotId, paused: bool) {
        let refused = paused && self.why_not_pause(id).is_some();
        if let Some(slot) = self.slots.get_mut(&id)
            && slot.paused != paused
            && !refused
        {
            slot.paused = paused;
            self.log(if paused { Fact::Paused(id) } else { Fact::Resumed(id) });
        }
    }

    /// When time alone changes a share.
    pub(super) fn share_deadlines(&self) -> impl Iterator<Item = Ns> {
        let is_repaired = self.slots.values().any(|slot| slot.lopsided);
        let repaired = self.streams_grew.filter(|_| is_repaired).map(|at| at + REPAIR_FOR);
        let slow_start = self.plan.slow_start;
        let steps = self.slots.values().filter_map(|slot| slot.slow_since);
        steps
            .flat_map(move |since| (1..WHOLE).map(move |step| slow_start_step(since, step, slow_start)))
            .chain(repaired)
    }

    /// For the summary.
    pub(super) fn paused_slots(&self) -> Vec<SlotId> {
        self.slots.iter().filter(|(_, slot)| slot.paused).map(|(id, _)| *id).collect()
    }
}

impl Slot {
    /// How many parts of [`WHOLE`] a worker that has just started gets; none when that is over.
    fn slow_start_part(&self, slow_start: Ns, now: Ns) -> Option<u32> {
        let since = self.slow_since?;
        (1..WHOLE).find(|step| now < slow_start_step(since, *step, slow_start))
    }
}

/// When the share grows from `step` parts to the next.
fn slow_start_step(since: Ns, step: u32, slow_start: Ns) -> Ns {
    since + slow_start / u64::from(WHOLE - 1) * u64::from(step)
}
