//! Another program for the same master: checked, executed in place, then worker by worker; or back.
//!
//! ```text
//!             nothing runs        it reads the state         the program is another one now
//!  WAITING ───────────────► CHECKING ─────────────► EXECUTING ┄┄┄┄► MIGRATING ──► ROLLING ──► over
//!     │ time over              │ no                    │ failed        │ failed      │ a worker does not start
//!     ▼                        ▼                       ▼               ▼             ▼
//!  refused                  refused                 refused         RETURNING ┄┄┄► REVERTING ──► over
//! ```
//!
//! The dotted arrows are `execve(2)`: the state is written down, the process becomes another program, and the state is
//! read back there. Everything that may fail comes before it. Each worker remembers which program it runs; the roll and
//! the way back know only "runs another program than the master".
//!
//! While one waits no voluntary replacement starts, so that its time comes also when workers are recycled all the time.
//! A reload that is asked for meanwhile comes after it.

use serde::{Deserialize, Serialize};

use super::Supervisor;
use super::children::MIGRATE_TIMEOUT;
use super::event::{Action, Busy, ChildId, Fact, Ns, RecycleReason, Role, SECOND, SlotId, UpgradeEnd};
use super::state::{Child, Life, Phase, Reload, Slot};

/// How long a worker of the other program has to live before the next one starts, and before the upgrade is done: one that
/// dies at its first connection has been ready, too.
const PROBATION: Ns = SECOND;

/// Where an upgrade is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Upgrade {
    /// There is none.
    #[default]
    Idle,
    /// For what runs now, at most until then.
    Waiting { until: Ns },
    /// The other program tries to read the state; if something begins to run meanwhile it waits again.
    Checking { until: Ns },
    /// The shell executes the other program.
    Executing,
    /// This is the other program. Its `migrate` child runs; `before` is the program before it.
    Migrating { child: ChildId, before: u64 },
    /// Slot by slot.
    Rolling { before: u64 },
    /// The shell executes the program before.
    Returning { before: u64 },
    /// That is the program again; workers that had already moved go back.
    Reverting,
}

/// What the shell has to execute now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The program that was checked.
    Next,
    /// The program before this one.
    Previous,
}

impl Supervisor {
    /// What is to be executed, once everything else that was decided is done. Answered by [`super::Event::Upgraded`] and
    /// [`super::Event::Reverted`] in the other program, by [`super::Event::ExecutionFailed`] in this one.
    pub fn execution(&self) -> Option<Execution> {
        match self.upgrade {
            Upgrade::Executing => Some(Execution::Next),
            Upgrade::Returning { .. } => Some(Execution::Previous),
            _ => None,
        }
    }

    /// An operator's wish, which waits for `patience` at most.
    pub(super) fn want_upgrade(&mut self, patience: Ns, now: Ns) {
        match &mut self.upgrade {
            Upgrade::Idle => self.upgrade = Upgrade::Waiting { until: now + patience },
            Upgrade::Waiting { until } => *until = (now + patience).max(*until),
            _ => self.log(Fact::AlreadyUpgrading),
        }
    }

    /// One is under way, or waits for its turn.
    pub fn is_upgrading(&self) -> bool {
        self.upgrade != Upgrade::Idle
    }

    /// This child shows whether the other program can be used: it runs it, and not all do yet.
    pub fn tries_program(&self, child: ChildId) -> bool {
        let runs_it = self.children.get(&child).is_some_and(|child| child.binary == self.binary);
        runs_it && matches!(self.upgrade, Upgrade::Migrating { .. } | Upgrade::Rolling { .. })
    }

    /// A reload that is asked for now comes after it.
    pub(super) fn holds_reloads(&self) -> bool {
        !matches!(self.upgrade, Upgrade::Idle | Upgrade::Waiting { .. })
    }

    /// No worker is replaced for whatever reason.
    pub(super) fn holds_replacements(&self, now: Ns) -> bool {
        match self.upgrade {
            Upgrade::Executing | Upgrade::Migrating { .. } | Upgrade::Returning { .. } => true,
            // The first one to move shows whether the others may.
            Upgrade::Rolling { .. } => self.moved_since().min().is_some_and(|since| now < since + PROBATION),
            _ => false,
        }
    }

    /// Since when the workers that serve with the master's program do.
    fn moved_since(&self) -> impl Iterator<Item = Ns> {
        let moved = |child: &Child| match child.phase {
            Phase::Running { since } if child.is_worker() && child.binary == self.binary => Some(since),
            _ => None,
        };
        self.children.values().filter_map(moved)
    }

    /// What an upgrade has to wait for.
    pub(super) fn busy(&self) -> Option<Busy> {
        match self.life {
            Life::Starting | Life::FirstBoot => return Some(Busy::Starting),
            Life::Stopping(_) | Life::Over => return Some(Busy::Stopping),
            Life::Serving => {}
        }
        if !matches!(self.reload, Reload::Idle) || self.reload_queued || self.check_queued {
            return Some(Busy::Reloading);
        }
        if let Some(token) = &self.token {
            return Some(Busy::Recycling(token.slot));
        }
        self.children.values().find_map(|child| match (child.role, child.phase) {
            (Role::Worker { slot, .. }, Phase::Spawning { .. } | Phase::Booting { .. }) => {
                Some(Busy::Booting(slot))
            }
            (Role::Worker { slot, .. }, _) if child.is_reported() => Some(Busy::Reporting(slot)),
            (Role::Check, Phase::Killing(_)) => None,
            // It has given its verdict and leaves.
            (Role::Check, _) => Some(Busy::Reloading),
            _ => None,
        })
    }

    /// Moves an upgrade on as far as the state allows.
    pub(super) fn continue_upgrade(&mut self, now: Ns) {
        match self.upgrade {
            Upgrade::Waiting { until } => match self.busy() {
                None => {
                    self.upgrade = Upgrade::Checking { until };
                    self.out.push(Action::CheckUpgrade);
                }
                Some(busy) if busy == Busy::Stopping || until <= now => {
                    self.end_upgrade(UpgradeEnd::Busy(busy));
                }
                Some(_) => {}
            },
            Upgrade::Rolling { .. }
                if self.all_moved() && self.moved_since().all(|since| since + PROBATION <= now) =>
            {
                self.end_upgrade(UpgradeEnd::Done);
            }
            Upgrade::Reverting if self.all_moved() => self.end_upgrade(UpgradeEnd::Reverted),
            _ => {}
        }
    }

    /// The other program can read the state, or not.
    pub(super) fn upgrade_checked(&mut self, passed: bool, now: Ns) {
        let Upgrade::Checking { until } = self.upgrade else { return };
        if !passed {
            self.end_upgrade(UpgradeEnd::Refused);
        } else if self.busy().is_some() {
            self.upgrade = Upgrade::Waiting { until: until.max(now) };
        } else {
            self.upgrade = Upgrade::Executing;
            self.out.push(Action::AnnounceUpgrading);
        }
    }

    /// The shell could not become the other program.
    pub(super) fn execution_failed(&mut self) {
        match self.upgrade {
            Upgrade::Executing => self.end_upgrade(UpgradeEnd::Refused),
            // There is no way back: this program goes on, with the workers that there are. Only who dies is started anew.
            Upgrade::Returning { .. } => {
                self.stranded_on = Some(self.binary);
                self.end_upgrade(UpgradeEnd::NoWayBack);
            }
            _ => {}
        }
    }

    /// The first event in the other program. The looks at suspects were not carried over: who is still one will be accused
    /// again.
    pub(super) fn upgraded(&mut self, now: Ns) {
        if self.upgrade != Upgrade::Executing {
            return;
        }
        let before = self.binary;
        self.newest_binary += 1;
        self.binary = self.newest_binary;
        self.take_all_back(now);
        self.out.push(Action::CountUpgrade);
        let child = self.spawn(Role::Migrate, self.version, MIGRATE_TIMEOUT, now);
        self.upgrade = Upgrade::Migrating { child, before };
    }

    /// The first event in the program before, back again.
    pub(super) fn reverted(&mut self, now: Ns) {
        match self.upgrade {
            // The other program could not even read the state. The looks at suspects are gone all the same.
            Upgrade::Executing => {
                self.take_all_back(now);
                self.end_upgrade(UpgradeEnd::Refused);
            }
            Upgrade::Returning { before } => {
                self.binary = before;
                self.take_all_back(now);
                self.forgive_slots(now);
                self.upgrade = Upgrade::Reverting;
            }
            _ => {}
        }
    }

    /// The `migrate` child of the other program has ended. True when it was that one.
    pub(super) fn upgrade_migrated(&mut self, id: ChildId, done: bool, now: Ns) -> bool {
        match self.upgrade {
            Upgrade::Migrating { child, before } if child == id => {
                if done {
                    self.forgive_slots(now);
                    self.upgrade = Upgrade::Rolling { before };
                } else {
                    self.log(Fact::MigrateFailed);
                    self.upgrade = Upgrade::Returning { before };
                }
                true
            }
            _ => false,
        }
    }

    /// Back-offs, and a crash loop, belong to the program that they were earned with.
    fn forgive_slots(&mut self, now: Ns) {
        self.forgive();
        for slot in self.slots.values_mut() {
            slot.replace.succeed();
            if slot.primary.is_none() && slot.respawn.not_before() > now {
                slot.respawn.succeed();
            }
        }
    }

    /// A worker of this program could not start, or died before all had moved.
    pub(super) fn fail_upgrade(&mut self, slot: SlotId, binary: u64) {
        match self.upgrade {
            Upgrade::Rolling { before } if binary == self.binary => {
                self.log(Fact::UpgradeFailed(slot));
                self.upgrade = Upgrade::Returning { before };
            }
            // The slots stay as they are and are tried again; nobody should wait for that.
            Upgrade::Reverting if binary == self.binary => self.end_upgrade(UpgradeEnd::Reverted),
            _ => {}
        }
    }

    /// The end of everything ends an upgrade too.
    pub(super) fn stop_upgrade(&mut self) {
        match self.upgrade {
            Upgrade::Idle => {}
            Upgrade::Waiting { .. } | Upgrade::Checking { .. } | Upgrade::Executing => {
                self.end_upgrade(UpgradeEnd::Busy(Busy::Stopping));
            }
            Upgrade::Migrating { .. }
            | Upgrade::Rolling { .. }
            | Upgrade::Returning { .. }
            | Upgrade::Reverting => {
                self.end_upgrade(UpgradeEnd::Stopped);
            }
        }
    }

    fn end_upgrade(&mut self, end: UpgradeEnd) {
        self.upgrade = Upgrade::Idle;
        self.out.push(Action::UpgradeOver(end));
    }

    fn all_moved(&self) -> bool {
        let moved = |slot: &Slot| {
            let stays = self.is_stranded() || !self.runs_another_binary(slot.primary);
            slot.retiring.is_some() || self.runs(slot.primary) && stays
        };
        self.slots.values().all(moved)
    }

    fn runs_another_binary(&self, child: Option<ChildId>) -> bool {
        let child = child.and_then(|id| self.children.get(&id));
        child.is_some_and(|child| child.binary != self.binary)
    }

    /// Nobody moves to this program: its workers do not start.
    fn is_stranded(&self) -> bool {
        self.stranded_on == Some(self.binary)
    }

    /// Why a slot's worker is to be replaced although it has no wish.
    pub(super) fn roll_reason(&self, child: Option<ChildId>) -> Option<RecycleReason> {
        if self.outdated(child) {
            return Some(RecycleReason::Reload);
        }
        (!self.is_stranded() && self.runs_another_binary(child)).then_some(RecycleReason::Upgrade)
    }

    /// When time alone moves an upgrade on.
    pub(super) fn upgrade_deadlines(&self) -> impl Iterator<Item = Ns> {
        let (until, rolls) = match self.upgrade {
            Upgrade::Waiting { until } => (Some(until), false),
            Upgrade::Rolling { .. } => (None, true),
            _ => (None, false),
        };
        until.into_iter().chain(self.moved_since().filter(move |_| rolls).map(|since| since + PROBATION))
    }
}
