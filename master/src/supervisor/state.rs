//! The data that the supervisor's states are made of.

use std::collections::BTreeMap;

use super::backoff::Backoff;
use super::event::{ChildId, Kill, Ns, Plan, RecycleReason, Role, SlotId};

/// The master's own life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The `migrate` child runs.
    Starting,
    /// The first workers start; one that cannot ends the master.
    FirstBoot,
    /// All were ready once.
    Serving,
    /// Everything is leaving.
    Stopping(Stop),
    /// [`super::Action::Exit`] was given.
    Over,
}

/// How the end goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub quick: bool,
    pub since: Ns,
    pub code: u8,
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub role: Role,
    pub phase: Phase,
    /// Version of its settings.
    pub version: u64,
    pub spawned: Ns,
    /// It has not said that it closed its copy of the slot's socket.
    pub holds_listener: bool,
}

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Started, nothing heard.
    Spawning { deadline: Ns },
    /// Said Hello.
    Booting { deadline: Ns },
    /// Said Ready.
    Running { since: Ns },
    /// Told to leave, or (the `migrate` child) done.
    Draining { deadline: Ns },
    /// SIGKILL sent at a timeout.
    Killing(Kill),
}

impl Child {
    pub fn deadline(&self) -> Option<Ns> {
        match self.phase {
            Phase::Spawning { deadline } | Phase::Booting { deadline } | Phase::Draining { deadline } => {
                Some(deadline)
            }
            Phase::Running { .. } | Phase::Killing(_) => None,
        }
    }

    pub fn never_ready(&self) -> bool {
        matches!(self.phase, Phase::Spawning { .. } | Phase::Booting { .. } | Phase::Killing(Kill::Boot))
    }

    pub fn is_worker(&self) -> bool {
        matches!(self.role, Role::Worker { .. })
    }

    pub fn leaves(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Killing(Kill::Drain))
    }
}

/// One listening socket and who serves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// The socket listens.
    pub open: bool,
    pub primary: Option<ChildId>,
    pub standby: Option<ChildId>,
    /// For a primary that crashed or did not start.
    pub respawn: Backoff,
    /// For a standby that did not start.
    pub replace: Backoff,
    /// What the primary asked for.
    pub wish: Option<Wish>,
    pub retiring: Option<Retiring>,
}

impl Slot {
    /// Its worker was told to go and the slot goes with it.
    pub fn is_leaving(&self) -> bool {
        self.retiring.is_some_and(|retiring| retiring.leaving.is_some())
    }

    pub fn deadlines(&self) -> impl Iterator<Item = Ns> {
        let grace = self.retiring.and_then(|retiring| retiring.grace_until);
        [self.respawn.not_before(), self.replace.not_before()]
            .into_iter()
            .chain(self.retiring.map(|retiring| retiring.next_poll))
            .chain(grace)
    }
}

/// A worker's wish to be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub reason: RecycleReason,
    pub since: Ns,
}

/// A slot that goes away; the group is steered away from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retiring {
    pub since: Ns,
    /// Length of the accept queue as last read.
    pub queue: Option<u32>,
    /// Set when the queue was first seen empty.
    pub grace_until: Option<Ns>,
    pub next_poll: Ns,
    /// The worker that was told to leave: no way back.
    pub leaving: Option<ChildId>,
}

/// The right to start a voluntary replacement; whoever is named here holds it until it is ready or gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub child: ChildId,
    pub slot: SlotId,
    pub reason: RecycleReason,
}

/// Where a reload is.
#[derive(Clone, Debug)]
pub(super) enum Reload {
    /// There is none.
    Idle,
    /// The shell reads the settings.
    Loading,
    /// The new settings ask for another database or other names in it, which this child makes.
    Migrating { child: ChildId, plan: Plan, version: u64 },
    /// Slot by slot.
    Rolling { plan: Plan, version: u64 },
}

/// Which rows are free.
#[derive(Clone, Debug)]
pub(super) struct RowTable {
    free: Vec<bool>,
    owners: BTreeMap<ChildId, usize>,
    /// The log has said that there is none.
    pub full_logged: bool,
}

impl RowTable {
    pub fn new(capacity: usize) -> RowTable {
        RowTable { free: vec![true; capacity], owners: BTreeMap::new(), full_logged: false }
    }

    pub fn is_full(&self) -> bool {
        !self.free.contains(&true)
    }

    pub fn take(&mut self, child: ChildId) -> Option<usize> {
        let row = self.free.iter().position(|free| *free)?;
        self.free[row] = false;
        self.owners.insert(child, row);
        self.full_logged = false;
        Some(row)
    }

    pub fn give_back(&mut self, child: ChildId) -> Option<usize> {
        let row = self.owners.remove(&child)?;
        self.free[row] = true;
        Some(row)
    }
}
