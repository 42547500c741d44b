//! What a child says, and what its end means: start, first boot, READY, crash, boot failure.

use super::Supervisor;
use super::backoff::HEALTHY_AFTER;
use super::event::{Action, ChildId, ChildSignal, End, Fact, Kill, Ns, RecycleReason, Role, SECOND, SlotId};
use super::state::{Child, Life, Phase, Slot, Token, Wish};

/// How long migrations may take: rebuilding an index over millions of rows takes minutes, a lock held by a forgotten
/// process takes for ever.
pub(super) const MIGRATE_TIMEOUT: Ns = 600 * SECOND;

/// How long a child that serves nobody may take from saying that it is done to its end.
pub(super) const LAST_STEPS: Ns = 10 * SECOND;

/// Exit code when a worker could not start at all.
pub(super) const EXIT_BOOT_FAILED: u8 = 3;
/// Exit code when the first worker that could not start blamed the settings: trying again does not help.
const EXIT_SETTINGS: u8 = 4;
/// Exit code for everything without a code of its own.
pub(super) const EXIT_FAILED: u8 = 1;

impl Supervisor {
    pub(super) fn start(&mut self, now: Ns) {
        self.out.push(Action::Target(self.target));
        for slot in std::mem::take(&mut self.found) {
            self.slots.entry(slot).or_default();
            self.out.push(Action::OpenListener(slot));
        }
        self.spawn(Role::Migrate, self.version, MIGRATE_TIMEOUT, now);
    }

    /// Starts a child; its phase is SPAWNING until it says something.
    pub(super) fn spawn(&mut self, role: Role, version: u64, timeout: Ns, now: Ns) -> ChildId {
        let id = ChildId(self.next_child);
        self.next_child += 1;
        let phase = match role {
            Role::Companion => Phase::Running { since: now },
            Role::Migrate | Role::Check | Role::Worker { .. } => Phase::Spawning { deadline: now + timeout },
        };
        let is_worker = matches!(role, Role::Worker { .. });
        let graceful = is_worker.then(|| self.plan_of(version).graceful_timeout);
        let (binary, spawned) = (self.binary, now);
        let (holds_listener, suspicion, leaves_for) = (true, None, None);
        let child =
            Child { role, phase, version, graceful, binary, spawned, holds_listener, suspicion, leaves_for };
        self.children.insert(id, child);
        self.out.push(Action::Spawn(id, role, version));
        id
    }

    /// Starts a worker for a slot, unless there is no row for it.
    pub(super) fn spawn_worker(&mut self, slot: SlotId, now: Ns) -> Option<ChildId> {
        let version = self.wanted_version();
        let boot_timeout = self.plan_of(version).boot_timeout;
        let Some(row) = self.rows.take(ChildId(self.next_child)) else {
            if !std::mem::replace(&mut self.rows.full_logged, true) {
                self.log(Fact::RowsFull(slot));
            }
            return None;
        };
        Some(self.spawn(Role::Worker { slot, row }, version, boot_timeout, now))
    }

    pub(super) fn hello(&mut self, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id)
            && let Phase::Spawning { deadline } = child.phase
        {
            child.phase = Phase::Booting { deadline };
        }
    }

    pub(super) fn ready(&mut self, id: ChildId, now: Ns) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if !matches!(child.phase, Phase::Spawning { .. } | Phase::Booting { .. }) {
            return;
        }
        let Role::Worker { slot, .. } = child.role else {
            child.phase = Phase::Draining { since: now, deadline: now + LAST_STEPS };
            return;
        };
        child.phase = Phase::Running { since: now };
        let took = now - child.spawned;
        self.log(Fact::Ready(id, slot, took));
        self.out.push(Action::CountReady(took));
        let token = self.token.take_if(|token| token.child == id);
        let Some(place) = self.slots.get_mut(&slot) else { return };
        if place.primary == Some(id) {
            return self.begin_slow_start(slot, now);
        }
        if place.standby == Some(id) {
            place.standby = None;
            place.replace.succeed();
            place.wish = None;
            let Some(old) = place.primary.replace(id) else { return };
            if self.is_suspect(Some(old)) {
                self.step_aside(old);
                return;
            }
            // One that is being killed hears no order.
            if !self.runs(Some(old)) {
                return;
            }
            // Without a token the standby was started for a suspicion that was taken back since.
            let reason = token.map_or(RecycleReason::Suspect, |token| token.reason);
            self.out.push(Action::CountRecycle(reason));
            self.out.push(Action::Introduce { leaver: old, heir: id });
            self.leave_for(reason, old, now);
        }
    }

    fn step_aside(&mut self, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id) {
            child.phase = Phase::Aside;
            self.out.push(Action::SendStepAside(id));
        }
    }

    /// How long a child may take to leave: a worker counts with its own settings, and so does the master.
    pub(super) fn graceful(&self, id: ChildId) -> Ns {
        let of_child = self.children.get(&id).and_then(|child| child.graceful);
        of_child.unwrap_or(self.plan.graceful_timeout)
    }

    /// Tells a child to leave by `deadline`.
    pub(super) fn leave(&mut self, id: ChildId, how: Action, now: Ns, deadline: Ns) {
        if let Some(child) = self.children.get_mut(&id) {
            let since = if let Phase::Draining { since, .. } = child.phase { since } else { now };
            child.phase = Phase::Draining { since, deadline };
            self.out.push(how);
        }
    }

    /// Tells a worker to leave that another one has replaced for this reason.
    pub(super) fn leave_for(&mut self, reason: RecycleReason, id: ChildId, now: Ns) {
        self.leave(id, Action::SendDrain(id), now, now + self.graceful(id));
        if let Some(child) = self.children.get_mut(&id) {
            child.leaves_for = Some(reason);
        }
    }

    pub(super) fn want_recycle(&mut self, id: ChildId, reason: RecycleReason, now: Ns) {
        // An urgent wish does not wait for the interval that an older one waits for.
        if let Some(slot) = self.slots.values_mut().find(|slot| slot.primary == Some(id))
            && (slot.wish.is_none() || reason.is_urgent())
        {
            slot.wish = Some(Wish { reason, since: now });
        }
    }

    /// Kills what is over its time.
    pub(super) fn expire(&mut self, now: Ns) {
        let late = |child: &Child| child.deadline().is_some_and(|deadline| deadline <= now);
        let ids: Vec<ChildId> =
            self.children.iter().filter(|(_, child)| late(child)).map(|(id, _)| *id).collect();
        for id in ids {
            // What became of another one may have given it more time.
            let Some(child) = self.children.get_mut(&id).filter(|child| late(child)) else { continue };
            if matches!(child.phase, Phase::Aborting { .. }) {
                self.abort_expired(id, now);
                continue;
            }
            let why = if child.never_ready() { Kill::Boot } else { Kill::Drain };
            child.phase = Phase::Killing(why);
            let is_check = child.role == Role::Check;
            self.out.push(Action::Signal(id, ChildSignal::Kill));
            if is_check {
                self.log(Fact::CheckKilled(id));
            } else {
                self.out.push(Action::CountKill(why));
                self.log(Fact::Killed(id, why));
            }
            self.write_off(id, now);
        }
    }

    /// A child is being killed: what it was to do will not be done. Nobody waits for its end, which does not come while it
    /// is in the middle of a system call that does not return.
    fn write_off(&mut self, id: ChildId, now: Ns) {
        self.token.take_if(|token| token.child == id);
        if matches!(self.life, Life::Stopping(_) | Life::Over) {
            return;
        }
        let Some(child) = self.children.get(&id).cloned() else { return };
        match child.role {
            Role::Check => self.check_gone(id, &child),
            // One that was done only did not end.
            Role::Migrate => self.migrate_gone(id, child.phase == Phase::Killing(Kill::Drain), now),
            Role::Worker { slot, .. } if child.never_ready() => {
                self.worker_gone(id, slot, &child, End::UNBORN, now);
            }
            Role::Worker { .. } | Role::Companion => {}
        }
    }

    /// A child has ended, or was never started.
    pub(super) fn gone(&mut self, id: ChildId, end: End, now: Ns) {
        let Some(child) = self.children.remove(&id) else { return };
        let clean = end.clean;
        if let Phase::Draining { since, .. } = child.phase
            && child.is_worker()
        {
            self.out.push(Action::CountDrained(now - since));
        }
        let is_stopping = matches!(self.life, Life::Stopping(_) | Life::Over);
        let has_left = clean && matches!(child.phase, Phase::Draining { .. });
        let has_crashed = child.may_be_suspected() && !has_left && !is_stopping;
        let never_started = child.is_worker() && child.never_ready() && !is_stopping;
        if never_started {
            self.out.push(Action::CountBootFailure);
        }
        if let Some(row) = self.rows.give_back(id) {
            if has_crashed {
                self.out.push(Action::ReportDeath(id, row));
                self.out.push(Action::CountCrash);
            }
            self.out.push(Action::FreeRow(row));
        }
        self.token.take_if(|token| token.child == id);
        if is_stopping {
            return;
        }
        match child.role {
            Role::Check => self.check_gone(id, &child),
            Role::Migrate => self.migrate_gone(id, clean && child.leaves(), now),
            Role::Companion => {
                self.log(Fact::CompanionDied);
                self.begin_stop(true, EXIT_FAILED, now);
            }
            Role::Worker { slot, .. } => {
                self.worker_gone(id, slot, &child, end, now);
                if has_crashed || never_started {
                    self.worker_failed(slot, &child, end.signature, now);
                }
            }
        }
    }

    fn migrate_gone(&mut self, id: ChildId, done: bool, now: Ns) {
        if self.upgrade_migrated(id, done, now) {
            return;
        }
        if self.life != Life::Starting {
            self.reload_migrated(id, done, now);
        } else if done {
            self.life = Life::FirstBoot;
        } else {
            self.log(Fact::MigrateFailed);
            self.begin_stop(true, EXIT_FAILED, now);
        }
    }

    fn worker_gone(&mut self, id: ChildId, slot_id: SlotId, child: &Child, end: End, now: Ns) {
        let Some(slot) = self.slots.get_mut(&slot_id) else { return };
        if slot.standby == Some(id) {
            slot.standby = None;
            let wait = slot.replace.fail(now, &mut self.dice);
            self.log(Fact::StandbyFailed(slot_id, wait));
            self.withdraw_kill(slot_id);
            self.roll_met_a_death(slot_id, child, end, now);
            self.fail_upgrade(slot_id, child.binary);
            return;
        }
        if slot.primary != Some(id) {
            return;
        }
        slot.primary = slot.standby.take();
        slot.wish = None;
        if child.never_ready() {
            let wait = slot.respawn.fail(now, &mut self.dice);
            // A kill by somebody says nothing of the program, unless it was ours because it took too long.
            let was_killed = end.by_others && child.phase != Phase::Killing(Kill::Boot);
            if self.life == Life::FirstBoot && !was_killed {
                self.log(Fact::FirstBootFailed(slot_id));
                let code = if end.refused_settings { EXIT_SETTINGS } else { EXIT_BOOT_FAILED };
                self.begin_stop(true, code, now);
                return;
            }
            self.log(Fact::BootFailed(slot_id, wait));
            self.roll_met_a_death(slot_id, child, end, now);
            self.fail_upgrade(slot_id, child.binary);
        } else if let Phase::Running { since } = child.phase {
            if now - since >= HEALTHY_AFTER {
                slot.respawn.succeed();
            }
            let wait = slot.respawn.fail(now, &mut self.dice);
            self.log(Fact::Crashed(slot_id, wait));
            self.roll_met_a_death(slot_id, child, end, now);
            self.fail_upgrade(slot_id, child.binary);
        }
    }

    /// Starts a worker in every slot that has none, each after its own back-off; in a crash loop in one of them at most.
    pub(super) fn respawn(&mut self, now: Ns) {
        let due = |slot: &Slot| {
            slot.open && slot.primary.is_none() && !slot.is_leaving() && slot.respawn.not_before() <= now
        };
        let empty = self.slots.iter().filter(|(_, slot)| due(slot));
        let ids: Vec<SlotId> = match self.crash_loop.is_over() {
            true => empty.map(|(id, _)| *id).collect(),
            false => self.next_probe(empty).into_iter().collect(),
        };
        for id in ids {
            let Some(child) = self.spawn_worker(id, now) else { return };
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.primary = Some(child);
            }
            self.crash_loop.probes(child);
        }
    }

    /// From the first boot to serving, once every slot has a ready worker. A quorum of them is enough to be called ready: the
    /// others' clients wait in their queues for a moment, and nobody's start hangs on one worker that is started again.
    pub(super) fn finish_first_boot(&mut self, now: Ns) {
        if self.life != Life::FirstBoot {
            return;
        }
        let ready = self.slots.values().filter(|slot| self.runs(slot.primary)).count();
        if !self.said_ready && ready >= self.quorum() as usize {
            self.said_ready = true;
            self.out.push(Action::AnnounceReady);
        }
        if ready < self.slots.len() {
            return;
        }
        self.life = Life::Serving;
        // Slots of a master before may be too many.
        self.scale(now);
        if self.companion {
            self.spawn(Role::Companion, self.version, 0, now);
        }
    }

    pub(super) fn hold_token(&mut self, child: ChildId, slot: SlotId, reason: RecycleReason) {
        self.token = Some(Token { child, slot, reason });
    }
}
