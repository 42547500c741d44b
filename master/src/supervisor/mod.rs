//! The supervisor's decisions: events in, actions out; no clock, no system call, no thread.
//!
//! What there is (slots, children, a reload, an upgrade, health), in which states, what makes them change and what is always
//! true is told in `LIFECYCLE.md` beside this file; a test holds that page against the code. The rules themselves:
//!
//! | file | decides |
//! |---|---|
//! | [`children`] | what a child's word and its end mean; who is killed for being late |
//! | [`crash_loop`] | what many failures mean |
//! | [`reload`] | how new settings are checked, tried, rolled, taken back |
//! | [`replace`] | which worker is replaced next |
//! | [`retire`] | how slots come and go |
//! | [`ordered`] | what operators order of single workers, and of their number |
//! | [`steer`] | where new clients go |
//! | [`suspect`] | what becomes of a worker whose watchdog accuses it |
//! | [`upgrade`] | when another program takes over |
//! | [`stop`] | how everything ends |
//! | [`vital`] | whether who watches the master from outside has to worry |

mod backoff;
mod children;
mod crash_loop;
#[cfg(test)]
mod crash_scenes;
mod event;
#[cfg(test)]
mod leaving_scenes;
#[cfg(test)]
mod lifecycle;
mod ordered;
#[cfg(test)]
mod ordered_scenes;
mod reload;
#[cfg(test)]
mod reload_scenes;
mod replace;
mod retire;
#[cfg(test)]
mod scenes;
#[cfg(test)]
mod schedules;
mod state;
mod steer;
#[cfg(test)]
mod steer_scenes;
mod stop;
mod suspect;
#[cfg(test)]
mod suspect_scenes;
mod upgrade;
#[cfg(test)]
mod upgrade_scenes;
mod view;
mod vital;
#[cfg(test)]
mod world;

use std::collections::BTreeMap;

use backoff::Dice;
use crash_loop::CrashLoopState;
pub use event::MILLISECOND;
#[cfg(test)]
pub use event::Watchdog;
pub use event::{
    Action, Busy, ChildId, ChildSignal, Claim, Confirmation, CrashLoop, End, Event, Fact, Guard, Kill,
    Migration, Ns, Order, Plan, RecycleReason, Reloaded, Role, SECOND, SlotId, Stage, UpgradeEnd, Verdict,
};
pub use ordered::{Fate, NoOrder, NoScale};
use serde::{Deserialize, Serialize};
use state::{Child, Life, Phase, Reload, RowTable, Slot, Token};
pub use steer::{Cause, NoPause, WHOLE};
pub use upgrade::Execution;
use upgrade::Upgrade;
#[cfg(test)]
pub use view::Place;
pub use view::WorkerView;

/// Workers that TTIN may add to the ones configured at start: what the row table has room for.
const EXTRA_WORKERS: u32 = 4;

/// What a supervisor is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings that decisions depend on, as of the start.
    pub plan: Plan,
    /// Rows of shared memory.
    pub rows: usize,
    /// Slots whose sockets listen before it starts. Those beyond the plan are served, then retired.
    pub slots: Vec<SlotId>,
    /// Version of the settings at start.
    pub version: u64,
    /// Start the demo's companion when all workers are ready.
    pub companion: bool,
    /// For jitter.
    pub seed: u64,
}

/// The state of everything; see the module. It can be written down between two steps and read back, by this program or by
/// another version of it: a new field says `#[serde(default)]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Supervisor {
    plan: Plan,
    companion: bool,
    most_workers: u32,
    target: u32,
    life: Life,
    slots: BTreeMap<SlotId, Slot>,
    /// Slots whose sockets listened before the start.
    #[serde(default)]
    found: Vec<SlotId>,
    /// The service manager knows that the gateway is ready.
    #[serde(default)]
    said_ready: bool,
    children: BTreeMap<ChildId, Child>,
    rows: RowTable,
    /// What the kernel was told to choose among; none = all.
    steered: Option<Vec<(SlotId, u32)>>,
    /// When more streams were last seen open than before.
    streams_grew: Option<Ns>,
    last_guarded_kill: Option<Ns>,
    crash_loop: CrashLoopState,
    token: Option<Token>,
    last_recycle: Option<Ns>,
    reload: Reload,
    reload_queued: bool,
    #[serde(default)]
    check_queued: bool,
    version: u64,
    newest_version: u64,
    next_child: u64,
    #[serde(default)]
    upgrade: Upgrade,
    /// The program that the master runs, counted from 0.
    #[serde(default)]
    binary: u64,
    #[serde(default)]
    newest_binary: u64,
    /// A program whose workers do not start, and from which there was no way back: workers of the one before stay.
    #[serde(default)]
    stranded_on: Option<u64>,
    dice: Dice,
    /// Empty between two steps.
    #[serde(skip)]
    out: Vec<Action>,
}

/// What `STATUS=` and `ctl` say in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Workers that accept and are not told to leave.
    pub ready: u32,
    /// Workers that are meant to be.
    pub target: u32,
    /// The one voluntary replacement that is starting.
    pub replacing: Option<(SlotId, RecycleReason)>,
    /// The slot that goes away.
    pub retiring: Option<SlotId>,
    /// A worker that the watchdog suspects, by its slot.
    pub suspect: Option<(SlotId, Verdict)>,
    /// Slots that get no new clients because an operator wants it so.
    pub paused: Vec<SlotId>,
    /// The slot that is tried, when there is a crash loop; none in it while the next try is not due.
    pub degraded: Option<Option<SlotId>>,
    /// `starting`, `serving`, `degraded`, `reloading`, `upgrading` or `stopping`.
    pub state: &'static str,
}

impl Supervisor {
    /// A supervisor that has done nothing yet; feed it [`Event::Start`].
    pub fn new(config: Config) -> Supervisor {
        Supervisor {
            companion: config.companion,
            most_workers: config.plan.workers.saturating_add(EXTRA_WORKERS),
            target: config.plan.workers,
            life: Life::Starting,
            slots: BTreeMap::new(),
            found: config.slots,
            said_ready: false,
            children: BTreeMap::new(),
            rows: RowTable::new(config.rows),
            steered: None,
            streams_grew: None,
            last_guarded_kill: None,
            crash_loop: CrashLoopState::default(),
            token: None,
            last_recycle: None,
            reload: Reload::Idle,
            reload_queued: false,
            check_queued: false,
            version: config.version,
            newest_version: config.version,
            next_child: 1,
            upgrade: Upgrade::Idle,
            binary: 0,
            newest_binary: 0,
            stranded_on: None,
            dice: Dice::new(config.seed),
            out: Vec::new(),
            plan: config.plan,
        }
    }

    /// Takes one event at `now` and says what to do, in order. `now` never goes back.
    ///
    /// Time limits are held against children at a [`Event::Tick`] only: the shell sends it after everything that has
    /// happened, so that a master that was stopped hears a READY first that came in time.
    pub fn step(&mut self, event: Event, now: Ns) -> Vec<Action> {
        let is_tick = event == Event::Tick;
        self.take(event, now);
        if is_tick {
            self.expire(now);
        }
        self.settle(now);
        if is_tick {
            self.leave_behind(now);
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, event: Event, now: Ns) {
        match event {
            Event::Start => self.start(now),
            Event::Tick => {}
            Event::Order(order) => self.order(order, now),
            Event::ListenerOpened(slot) => self.listener_opened(slot),
            Event::ListenerFailed(slot) => self.listener_failed(slot),
            Event::QueueLength(slot, length) => self.queue_length(slot, length, now),
            Event::Streams(counts) => self.streams(&counts, now),
            Event::SpawnFailed(child) => self.gone(child, End::UNBORN, now),
            Event::Hello(child) => self.hello(child),
            Event::Ready(child) => self.ready(child, now),
            Event::WantRecycle(child, reason) => self.want_recycle(child, reason, now),
            Event::ListenerClosed(child) => self.listener_closed(child),
            Event::Exited { child, end } => self.gone(child, end, now),
            Event::Late(span) => self.late(span),
            Event::SettingsAccepted { child, plan, migration } => {
                self.settings_accepted(child, plan, migration, now);
            }
            Event::SettingsRefused(child) => self.settings_refused(child, now),
            Event::UpgradeChecked(passed) => self.upgrade_checked(passed, now),
            Event::Upgraded => self.upgraded(now),
            Event::Reverted => self.reverted(now),
            Event::ExecutionFailed => self.execution_failed(),
            Event::Claimed(child, claim) => self.claimed(child, claim, now),
            Event::Confirmed(child, how) => self.confirmed(child, how, now),
            Event::Reported(child) => self.reported(child, now),
            Event::CoreDump(child, running) => self.core_dump(child, running, now),
        }
    }

    /// Begins whatever the state now calls for and allows.
    fn settle(&mut self, now: Ns) {
        // Before and after the rest: a reload may wait for an upgrade, or an upgrade for a reload.
        self.continue_upgrade(now);
        if self.life == Life::Serving {
            // Before anybody is started who would only be ended.
            self.give_up(now);
        }
        match self.life {
            Life::Starting | Life::Over => {}
            Life::Stopping(_) => self.finish_stop(now),
            Life::FirstBoot | Life::Serving => {
                self.scale(now);
                self.heal(now);
                self.respawn(now);
                self.finish_first_boot(now);
                if self.life == Life::Serving {
                    self.continue_reload(now);
                    self.pursue_suspects(now);
                    self.repair_suspects(now);
                    self.replace_one(now);
                    self.steer_group(now);
                }
            }
        }
        self.continue_upgrade(now);
    }

    /// When the next [`Event::Tick`] is due, if nothing else happens; later than `now`.
    pub fn next_deadline(&self, now: Ns) -> Option<Ns> {
        let children = self.children.values().filter_map(Child::deadline);
        let slots = self.slots.values().flat_map(|slot| slot.deadlines());
        let wishes = self.slots.values().any(|slot| slot.wish.is_some());
        let recycle = self.last_recycle.filter(|_| wishes).map(|last| last + self.plan.recycle_min_interval);
        children
            .chain(slots)
            .chain(recycle)
            .chain(self.suspicion_deadlines())
            .chain(self.crash_deadlines())
            .chain(self.share_deadlines())
            .chain(self.upgrade_deadlines())
            .chain(self.stop_deadline())
            .filter(|deadline| *deadline > now)
            .min()
    }

    /// What to tell people.
    pub fn summary(&self) -> Summary {
        let token = self.token.as_ref();
        Summary {
            ready: self.slots.values().filter(|slot| self.runs(slot.primary)).count() as u32,
            target: self.target,
            replacing: token.map(|token| (token.slot, token.reason)),
            retiring: self.retiring_slot(),
            suspect: self.suspect_slot(),
            degraded: self.crash_loop.is_degraded().then(|| self.probed_slot()),
            paused: self.paused_slots(),
            state: match (&self.life, &self.reload) {
                (Life::Starting | Life::FirstBoot, _) => "starting",
                (Life::Serving, _) if self.holds_reloads() => "upgrading",
                (Life::Serving, Reload::Idle | Reload::Checking { only: true, .. }) => {
                    if self.crash_loop.is_degraded() { "degraded" } else { "serving" }
                }
                (Life::Serving, _) => "reloading",
                (Life::Stopping(_) | Life::Over, _) => "stopping",
            },
        }
    }

    fn log(&mut self, fact: Fact) {
        self.out.push(Action::Log(fact));
    }

    fn runs(&self, child: Option<ChildId>) -> bool {
        child
            .and_then(|id| self.children.get(&id))
            .is_some_and(|child| matches!(child.phase, Phase::Running { .. }))
    }

    /// The fewest ready workers that a voluntary step may leave.
    fn quorum(&self) -> u32 {
        self.target.div_ceil(2).max(1)
    }

    /// The most workers that may drain before another voluntary replacement starts.
    fn most_drainers(&self) -> usize {
        (self.target as usize / 2).max(1)
    }
}
