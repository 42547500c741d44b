//! Voluntary replacement: spawn → READY → overlap → drain, one at a time; and the reload, which is a roll of those.
//!
//! During a roll every new worker gets the new version. If one cannot start with it the roll stops, the old version is
//! the effective one again, and workers that had already moved are replaced back: the rule below knows only "runs
//! another version than the wanted one".

use super::Supervisor;
use super::children::MIGRATE_TIMEOUT;
use super::event::{Action, ChildId, Fact, Ns, Plan, RecycleReason, Reloaded, Role, SlotId, Watchdog};
use super::state::{Life, Reload, Slot};

impl Supervisor {
    /// The version of the settings that new workers get.
    pub(super) fn wanted_version(&self) -> u64 {
        match self.reload {
            Reload::Rolling { version, .. } => version,
            _ => self.version,
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
        if !matches!(self.reload, Reload::Idle) || self.is_upgrading() {
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

    /// HUP: at most one reload runs and one waits.
    pub(super) fn reload(&mut self) {
        if self.life == Life::Serving && matches!(self.reload, Reload::Idle) && !self.holds_reloads() {
            self.reload_now();
        } else if !std::mem::replace(&mut self.reload_queued, true) {
            self.log(Fact::ReloadQueued);
        }
    }

    pub(super) fn reload_now(&mut self) {
        self.reload = Reload::Loading;
        self.out.push(Action::AnnounceReloading);
        self.out.push(Action::LoadSettings);
    }

    pub(super) fn settings_accepted(&mut self, plan: Plan, migrate: bool, now: Ns) {
        if !matches!(self.reload, Reload::Loading) {
            return;
        }
        self.newest_version += 1;
        let version = self.newest_version;
        self.out.push(Action::ProposeSettings(version));
        if migrate {
            let child = self.spawn(Role::Migrate, version, MIGRATE_TIMEOUT, now);
            self.reload = Reload::Migrating { child, plan, version };
        } else {
            self.begin_roll(plan, version, now);
        }
    }

    pub(super) fn settings_refused(&mut self) {
        if matches!(self.reload, Reload::Loading) {
            self.reload = Reload::Idle;
            self.out.push(Action::AnnounceReloaded(Reloaded::Refused));
        }
    }

    pub(super) fn begin_roll(&mut self, plan: Plan, version: u64, now: Ns) {
        self.reload = Reload::Rolling { plan, version };
        self.forgive();
        self.out.push(Action::RollSettings(version));
        for slot in self.slots.values_mut() {
            // An operator who repairs the settings of workers that cannot start does not want to wait for a back-off.
            slot.replace.succeed();
            if slot.primary.is_none() && slot.respawn.not_before() > now {
                slot.respawn.succeed();
            }
        }
    }

    /// A worker with this version could not start.
    pub(super) fn fail_roll(&mut self, slot: SlotId, version: u64) {
        if matches!(self.reload, Reload::Rolling { version: rolling, .. } if rolling == version) {
            self.reload = Reload::Idle;
            self.log(Fact::ReloadFailed(slot));
            self.out.push(Action::DiscardSettings(self.version));
            self.out.push(Action::AnnounceReloaded(Reloaded::WorkerFailed(slot)));
        }
    }

    /// Ends a roll that has reached every slot, and starts the reload that waits.
    pub(super) fn continue_reload(&mut self, now: Ns) {
        let moved =
            |slot: &Slot| slot.retiring.is_some() || self.runs(slot.primary) && !self.outdated(slot.primary);
        if let Reload::Rolling { plan, version } = &self.reload
            && self.slots.values().all(moved)
        {
            let (plan, version) = (plan.clone(), *version);
            self.reload = Reload::Idle;
            self.version = version;
            self.out.push(Action::CommitSettings);
            self.log(Fact::ReloadDone(version));
            self.out.push(Action::AnnounceReloaded(Reloaded::Done));
            self.adopt(plan, now);
        }
        if self.reload_queued && matches!(self.reload, Reload::Idle) && !self.holds_reloads() {
            self.reload_queued = false;
            self.reload_now();
        }
    }

    fn adopt(&mut self, plan: Plan, now: Ns) {
        if plan.workers != self.plan.workers {
            self.target = plan.workers.min(self.most_workers);
            self.out.push(Action::Target(self.target));
            if plan.workers > self.most_workers {
                self.log(Fact::WorkersCapped(plan.workers, self.most_workers));
            }
        }
        let kills_no_more = plan.watchdog != Watchdog::Enforce;
        self.plan = plan;
        if kills_no_more {
            self.take_all_back(now);
        }
        self.scale(now);
    }
}
