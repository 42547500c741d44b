//! The data that the supervisor's states are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::event::{
    ChildId, Guard, Kill, Migration, Ns, Plan, RecycleReason, Reloaded, Role, SlotId, Verdict,
};

/// The master's own life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    /// The `migrate` child runs.
    Starting,
    /// The first workers start; one that cannot, by its own fault, ends the master.
    FirstBoot,
    /// All were ready once.
    Serving,
    /// Everything is leaving.
    Stopping(Stop),
    /// [`super::Action::Exit`] was given.
    Over,
}

/// How the end goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    pub quick: bool,
    pub since: Ns,
    pub code: u8,
    /// Since when all that are left are killed and do not die.
    #[serde(default)]
    pub left_killed: Option<Ns>,
}

/// One process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Child {
    pub role: Role,
    pub phase: Phase,
    /// Version of its settings.
    pub version: u64,
    /// `GATEWAY_GRACEFUL_TIMEOUT` of those, for a worker.
    #[serde(default)]
    pub graceful: Option<Ns>,
    /// Which program it runs, as the supervisor counts them.
    #[serde(default)]
    pub binary: u64,
    pub spawned: Ns,
    /// It has not said that it closed its copy of the slot's socket.
    pub holds_listener: bool,
    /// What its watchdog, or its silence, says against it.
    pub suspicion: Option<Suspicion>,
    /// Why it was told to leave, when another one has taken its place.
    #[serde(default)]
    pub leaves_for: Option<RecycleReason>,
}

/// A claim against a worker and how far it has gone; see [`super::suspect`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Suspicion {
    pub verdict: Verdict,
    pub step: Step,
    /// The world outside did not confirm it once.
    pub was_doubted: bool,
    /// The log has said that somebody stopped the process.
    pub was_stopped: bool,
    /// What the log has said to hold the verdict up.
    pub held_by: Option<Guard>,
    /// A report was written although it lives on.
    pub was_reported: bool,
}

impl Suspicion {
    /// Nobody suspects it: an operator wants it dead.
    pub fn is_ordered(&self) -> bool {
        self.verdict == Verdict::Operator
    }

    pub fn new(verdict: Verdict) -> Suspicion {
        Suspicion {
            verdict,
            step: Step::Suspected,
            was_doubted: false,
            was_stopped: false,
            held_by: None,
            was_reported: false,
        }
    }
}

/// How far a suspicion has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// Its limit has not passed.
    Suspected,
    /// It has; the world outside is asked.
    Confirming,
    /// That said no, or that somebody stopped the process; it is asked again.
    Doubted { again_at: Ns },
    /// Confirmed; carried out as soon as the guards allow it.
    Condemned { since: Ns },
    /// Its report is being written; then it is killed.
    Reporting { since: Ns, deadline: Ns },
    /// Reported, and left alone: the watchdog only watches.
    Observed,
}

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Started, nothing heard.
    Spawning { deadline: Ns },
    /// Said Hello.
    Booting { deadline: Ns },
    /// Said Ready.
    Running { since: Ns },
    /// A suspect whose standby serves: lets its clients go, and stays until its claim is decided.
    Aside,
    /// Told to leave, or (the `migrate` child) done.
    Draining { since: Ns, deadline: Ns },
    /// SIGABRT sent for a verdict.
    Aborting { verdict: Verdict, since: Ns, deadline: Ns, asked_for_core: bool },
    /// SIGKILL sent.
    Killing(Kill),
}

impl Phase {
    /// Moves the phase's time limit.
    pub fn postpone(&mut self, span: Ns) {
        match self {
            Phase::Spawning { deadline }
            | Phase::Booting { deadline }
            | Phase::Draining { deadline, .. }
            | Phase::Aborting { deadline, .. } => *deadline += span,
            Phase::Running { .. } | Phase::Aside | Phase::Killing(_) => {}
        }
    }
}

impl Child {
    pub fn deadline(&self) -> Option<Ns> {
        match self.phase {
            Phase::Spawning { deadline }
            | Phase::Booting { deadline }
            | Phase::Draining { deadline, .. }
            | Phase::Aborting { deadline, .. } => Some(deadline),
            Phase::Running { .. } | Phase::Aside | Phase::Killing(_) => None,
        }
    }

    pub fn never_ready(&self) -> bool {
        matches!(self.phase, Phase::Spawning { .. } | Phase::Booting { .. } | Phase::Killing(Kill::Boot))
    }

    pub fn is_worker(&self) -> bool {
        matches!(self.role, Role::Worker { .. })
    }

    /// It was told to leave and takes its time.
    pub fn drains(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// It accepts no more, or is not meant to.
    pub fn leaves(&self) -> bool {
        let is_killed =
            matches!(self.phase, Phase::Aborting { .. } | Phase::Killing(Kill::Watchdog(_) | Kill::Drain));
        self.drains() || is_killed || self.phase == Phase::Aside
    }

    /// Its loop is meant to turn, so that a claim against it means something.
    pub fn may_be_suspected(&self) -> bool {
        self.is_worker()
            && matches!(self.phase, Phase::Running { .. } | Phase::Aside | Phase::Draining { .. })
    }

    /// A confirmed verdict of this kind stands against it.
    pub fn is_condemned(&self, kind: impl Fn(Verdict) -> bool) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| {
            matches!(suspicion.step, Step::Condemned { .. } | Step::Reporting { .. })
                && kind(suspicion.verdict)
        })
    }

    /// An operator wants it dead.
    pub fn is_ordered_dead(&self) -> bool {
        self.suspicion.as_ref().is_some_and(Suspicion::is_ordered)
    }

    /// Its report is being written.
    pub fn is_reported(&self) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| matches!(suspicion.step, Step::Reporting { .. }))
    }
}

/// One listening socket and who serves it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// Until then a mere suspicion of its worker starts no standby.
    pub calm_until: Ns,
    /// An operator wants no new clients here.
    pub paused: bool,
    /// When a worker was ready here after there had been none.
    pub slow_since: Option<Ns>,
    /// Open streams, as last read.
    pub streams: u64,
    /// Those are far more than the others have.
    pub lopsided: bool,
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
            .chain([self.calm_until])
            .chain(self.retiring.map(|retiring| retiring.next_poll))
            .chain(grace)
    }
}

/// A worker's wish to be replaced.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Wish {
    pub reason: RecycleReason,
    pub since: Ns,
}

/// A slot that goes away; the group is steered away from it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    pub child: ChildId,
    pub slot: SlotId,
    pub reason: RecycleReason,
}

/// Where a reload is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reload {
    /// There is none.
    Idle,
    /// This child reads the settings; `only`: no more was asked for.
    Checking { child: ChildId, only: bool },
    /// The new settings ask for another database or other names in it, which this child makes.
    Migrating { child: ChildId, plan: Plan, version: u64, migration: Migration },
    /// Slot by slot. `losses`: replacements that somebody killed.
    Rolling { plan: Plan, version: u64, migration: Migration, losses: u32 },
    /// They did not work: workers that had moved are replaced back, and this child gives the database its names back.
    /// `stuck`: a worker did not start with the old settings either, so that nobody waits for the others.
    TakingBack { how: Reloaded, restoring: Option<ChildId>, stuck: bool },
}

/// Which rows are free.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
