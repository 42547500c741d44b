//! The reload: a check, then a roll of replacements, and the way back when that fails.
//!
//! | phase | is | goes on |
//! |---|---|---|
//! | idle | nothing; new workers get the effective version | HUP, `ctl reload` → checking |
//! | checking | a child reads the settings; nothing else has changed | accepted → migrating or rolling; refused, dead or late → idle |
//! | migrating | a child prepares the database that the new settings need | done → rolling; failed → taking back |
//! | rolling | every new worker gets the new version; slot by slot, the first is the canary | every slot has it → idle, in force; a worker fails → taking back |
//! | taking back | the old version is the effective one; workers that had moved are replaced back | every worker has it, or the next reload waits → idle |
//!
//! At most one runs and one waits. A replacement that somebody kills says nothing about the settings: it is tried again, a
//! few times. One that dies of its own fault ends the roll, also after it was ready.

use super::Supervisor;
use super::children::MIGRATE_TIMEOUT;
use super::event::{
    Action, ChildId, End, Fact, Kill, Migration, Ns, Plan, Reloaded, Role, SECOND, SlotId, Watchdog,
};
use super::state::{Child, Life, Phase, Reload, Slot};

/// How long a check may take: reading some files takes milliseconds, one on a dead network disk takes for ever.
pub(super) const CHECK_TIMEOUT: Ns = 10 * SECOND;

/// So many replacements may be killed by somebody during one roll. The out-of-memory killer counts among them: it must not
/// go round for ever.
pub(super) const MOST_LOSSES: u32 = 3;

impl Supervisor {
    /// HUP.
    pub(super) fn reload(&mut self, now: Ns) {
        if self.may_begin() {
            self.begin_check(false, now);
        } else if !std::mem::replace(&mut self.reload_queued, true) {
            self.log(Fact::ReloadQueued);
        }
    }

    /// Only whether the settings are good.
    pub(super) fn check(&mut self, now: Ns) {
        if self.may_begin() {
            self.begin_check(true, now);
        } else {
            self.check_queued = true;
        }
    }

    /// Nothing of its kind is under way, and no upgrade that a reload has to wait for.
    fn may_begin(&self) -> bool {
        self.life == Life::Serving && matches!(self.reload, Reload::Idle) && !self.holds_reloads()
    }

    fn begin_check(&mut self, only: bool, now: Ns) {
        self.out.push(if only { Action::AnnounceChecking } else { Action::AnnounceReloading });
        let child = self.spawn(Role::Check, self.version, CHECK_TIMEOUT, now);
        self.reload = Reload::Checking { child, only };
    }

    /// The check is over: true when this child's verdict is the one that is waited for; it is expected to leave.
    fn takes_verdict_of(&mut self, id: ChildId, now: Ns) -> Option<bool> {
        let Reload::Checking { child, only } = self.reload else { return None };
        if child != id {
            return None;
        }
        if let Some(child) = self.children.get_mut(&id)
            && matches!(child.phase, Phase::Spawning { .. } | Phase::Booting { .. })
        {
            child.phase = Phase::Draining { since: now, deadline: now + CHECK_TIMEOUT };
        }
        Some(only)
    }

    fn end_check(&mut self, only: bool, how: Reloaded) {
        self.reload = Reload::Idle;
        self.out.push(if only { Action::AnnounceChecked(how) } else { Action::AnnounceReloaded(how) });
    }

    pub(super) fn settings_accepted(&mut self, child: ChildId, plan: Plan, migration: Migration, now: Ns) {
        let Some(only) = self.takes_verdict_of(child, now) else { return };
        if only {
            self.end_check(true, Reloaded::Checked);
            return;
        }
        self.newest_version += 1;
        let version = self.newest_version;
        self.out.push(Action::ProposeSettings(version));
        if migration == Migration::None {
            self.begin_roll(plan, version, migration, now);
        } else {
            let child = self.spawn(Role::Migrate, version, MIGRATE_TIMEOUT, now);
            self.reload = Reload::Migrating { child, plan, version, migration };
        }
    }

    pub(super) fn settings_refused(&mut self, child: ChildId, now: Ns) {
        if let Some(only) = self.takes_verdict_of(child, now) {
            self.end_check(only, Reloaded::Refused);
        }
    }

    /// A check child ended; one that had given its verdict is nobody's concern any more.
    pub(super) fn check_gone(&mut self, id: ChildId, gone: &Child) {
        if let Reload::Checking { child, only } = self.reload
            && child == id
        {
            let late = gone.phase == Phase::Killing(Kill::Boot);
            self.end_check(only, if late { Reloaded::CheckLate } else { Reloaded::CheckDied });
        }
    }

    /// A `migrate` child of a reload ended.
    pub(super) fn reload_migrated(&mut self, id: ChildId, done: bool, now: Ns) {
        match &mut self.reload {
            Reload::Migrating { child, plan, version, migration } if *child == id => {
                let (plan, version, migration) = (plan.clone(), *version, *migration);
                if done {
                    self.begin_roll(plan, version, migration, now);
                } else {
                    self.log(Fact::MigrateFailed);
                    self.give_up_roll(Reloaded::MigrateFailed, migration, now);
                }
            }
            Reload::TakingBack { restoring, .. } if *restoring == Some(id) => {
                *restoring = None;
                if done {
                    self.out.push(Action::NamesRestored);
                } else {
                    self.log(Fact::NamesNotRestored);
                }
            }
            _ => {}
        }
    }

    fn begin_roll(&mut self, plan: Plan, version: u64, migration: Migration, now: Ns) {
        self.reload = Reload::Rolling { plan, version, migration, losses: 0 };
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

    /// A worker died that was to be there: during a roll that may say something about the settings.
    pub(super) fn roll_met_a_death(&mut self, slot: SlotId, child: &Child, end: End, now: Ns) {
        let effective = self.version;
        match &mut self.reload {
            Reload::Rolling { version, migration, losses, .. } if *version == child.version => {
                let migration = *migration;
                // A worker that serves leaves with code 0 when somebody sends it INT.
                let was_killed = end.by_others || end.clean && matches!(child.phase, Phase::Running { .. });
                let how = match child.phase {
                    Phase::Killing(Kill::Boot) => Reloaded::WorkerLate(slot),
                    _ if !was_killed => Reloaded::WorkerFailed(slot),
                    _ if *losses < MOST_LOSSES => {
                        *losses += 1;
                        self.log(Fact::ReloadSlotLost(slot));
                        return;
                    }
                    _ => Reloaded::WorkersKilled(slot),
                };
                self.log(Fact::ReloadFailed(slot));
                self.give_up_roll(how, migration, now);
            }
            Reload::TakingBack { stuck, .. } if child.version == effective => *stuck = true,
            _ => {}
        }
    }

    /// A roll is under way that replaces workers with these settings anyway: they say nothing of the new ones.
    pub(super) fn rolls_away_from(&self, old: u64) -> bool {
        matches!(self.reload, Reload::Rolling { version, .. } if version != old)
    }

    /// A crash loop began while a roll was on its way, with this slot's worker: the roll has made it, as far as anybody can
    /// tell.
    pub(super) fn roll_met_a_crash_loop(&mut self, slot: SlotId, now: Ns) {
        if let Reload::Rolling { migration, .. } = self.reload {
            self.log(Fact::ReloadFailed(slot));
            self.give_up_roll(Reloaded::WorkerFailed(slot), migration, now);
        }
    }

    fn give_up_roll(&mut self, how: Reloaded, migration: Migration, now: Ns) {
        self.out.push(Action::DiscardSettings(self.version));
        let restoring = (migration == Migration::OtherNames)
            .then(|| self.spawn(Role::Migrate, self.version, MIGRATE_TIMEOUT, now));
        self.reload = Reload::TakingBack { how, restoring, stuck: false };
    }

    /// Ends what has reached every slot, and starts what waits.
    pub(super) fn continue_reload(&mut self, now: Ns) {
        let moved =
            |slot: &Slot| slot.retiring.is_some() || self.runs(slot.primary) && !self.outdated(slot.primary);
        // Whoever is on its way out is not waited for; whoever still starts with the discarded settings would serve.
        let goes = |id: ChildId| self.children.get(&id).is_none_or(Child::leaves);
        let settled = |child: Option<ChildId>| !self.outdated(child) || child.is_some_and(goes);
        let is_back = |slot: &Slot| !self.outdated(slot.standby) && settled(slot.primary);
        match &self.reload {
            Reload::Rolling { plan, version, .. } if self.slots.values().all(moved) => {
                let (plan, version) = (plan.clone(), *version);
                self.reload = Reload::Idle;
                self.version = version;
                self.out.push(Action::CommitSettings);
                self.log(Fact::ReloadDone(version));
                self.adopt(plan, now);
                self.out.push(Action::AnnounceReloaded(Reloaded::Done));
            }
            Reload::TakingBack { how, restoring: None, stuck }
                if *stuck || self.reload_queued || self.slots.values().all(is_back) =>
            {
                let how = *how;
                self.reload = Reload::Idle;
                self.out.push(Action::AnnounceReloaded(how));
            }
            _ => {}
        }
        if self.may_begin() {
            if std::mem::take(&mut self.reload_queued) {
                self.begin_check(false, now);
            } else if std::mem::take(&mut self.check_queued) {
                self.begin_check(true, now);
            }
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
