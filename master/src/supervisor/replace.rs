//! Voluntary replacement: spawn → READY → overlap → drain, one at a time; for a wish, or because a worker runs another
//! version of the settings than the wanted one (see [`super::reload`]).

use super::Supervisor;
use super::event::{ChildId, Fact, Ns, Plan, RecycleReason, SlotId};
use super::state::{Reload, Slot};

impl Supervisor {
    /// The version of the settings that new workers get.
    pub(super) fn wanted_version(&self) -> u64 {
        match self.reload {
            Reload::Rolling { version, .. } => version,
            _ => self.version,
        }
    }

    /// What settings of this version say: those of a roll, or those in force.
    pub(super) fn plan_of(&self, of: u64) -> &Plan {
        match &self.reload {
            Reload::Rolling { plan, version, .. } if *version == of => plan,
            _ => &self.plan,
        }
    }

    /// Starts the one voluntary replacement that is due, if any may start.
    pub(super) fn replace_one(&mut self, now: Ns) {
        let drainers = self.children.values().filter(|child| child.is_worker() && child.drains()).count();
        let held = self.holds_replacements(now) || !self.may_replace();
        if self.token.is_some() || drainers >= self.most_drainers() || held {
            return;
        }
        let Some((slot, reason)) = self.next_to_roll(now).or_else(|| self.next_to_recycle(now)) else {
            return;
        };
        let Some(child) = self.spawn_worker(slot, now) else { return };
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.standby = Some(child);
        }
        if !matches!(reason, RecycleReason::Reload | RecycleReason::Upgrade) && !reason.is_urgent() {
            self.last_recycle = Some(now);
        }
        self.hold_token(child, slot, reason);
        self.log(Fact::Recycling(slot, reason));
    }

    fn replaceable(&self, slot: &Slot, now: Ns) -> bool {
        slot.retiring.is_none()
            && slot.standby.is_none()
            && self.runs(slot.primary)
            && !self.is_suspect(slot.primary)
            && slot.replace.not_before() <= now
    }

    fn next_to_roll(&self, now: Ns) -> Option<(SlotId, RecycleReason)> {
        let mut due = self.slots.iter().filter(|(_, slot)| self.replaceable(slot, now));
        due.find_map(|(id, slot)| self.roll_reason(slot.primary).map(|reason| (*id, reason)))
    }

    /// An urgent wish, which waits for no interval, or the oldest, so that none waits for ever.
    fn next_to_recycle(&self, now: Ns) -> Option<(SlotId, RecycleReason)> {
        let interval_over = self.last_recycle.is_none_or(|last| last + self.plan.recycle_min_interval <= now);
        let enough =
            self.slots.values().filter(|slot| self.runs(slot.primary)).count() >= self.quorum() as usize;
        let rolls = matches!(self.reload, Reload::Rolling { .. } | Reload::TakingBack { .. });
        if rolls || self.is_upgrading() {
            return None;
        }
        let granted = |reason: RecycleReason| reason.is_urgent() || interval_over && enough;
        let wishes = self.slots.iter().filter(|(_, slot)| self.replaceable(slot, now));
        wishes
            .filter_map(|(id, slot)| slot.wish.map(|wish| (wish.since, *id, wish.reason)))
            .filter(|(_, _, reason)| granted(*reason))
            .min_by_key(|(since, id, reason)| (!reason.is_urgent(), *since, *id))
            .map(|(_, id, reason)| (id, reason))
    }

    pub(super) fn outdated(&self, child: Option<ChildId>) -> bool {
        let child = child.and_then(|id| self.children.get(&id));
        child.is_some_and(|child| child.version != self.wanted_version())
    }
}
