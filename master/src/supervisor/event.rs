//! What happens to the supervisor and what it wants done: the whole interface between the decisions and the system.

pub use forkgate_shared::control::RecycleReason;
pub use forkgate_shared::rows::KillReason as Kill;
pub use forkgate_shared::settings::Watchdog;
pub use forkgate_shared::verdict::{Claim, Stage, Verdict};
use serde::{Deserialize, Serialize};

/// Nanoseconds of a monotonic clock: times and spans.
pub type Ns = u64;

/// A second in [`Ns`].
pub const SECOND: Ns = 1_000_000_000;

/// A millisecond in [`Ns`].
pub const MILLISECOND: Ns = 1_000_000;

/// One child process over the master's whole life; never used again. The shell passes it on as the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChildId(pub u64);

/// One listening socket of the main port and the workers that serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u32);

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Brings the database up to date, publishes the catalog, leaves.
    Migrate,
    /// Reads the settings anew and says whether they can be put into force; listens nowhere and changes nothing.
    Check,
    /// Serves a slot.
    Worker {
        /// Its slot.
        slot: SlotId,
        /// Its row of shared memory.
        row: usize,
    },
    /// Belongs to `forkgate demo`.
    Companion,
}

/// The settings that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How many workers.
    pub workers: u32,
    /// From spawn to READY.
    pub boot_timeout: Ns,
    /// From the order to drain to the kill.
    pub graceful_timeout: Ns,
    /// From the start of one recycling to the start of the next.
    pub recycle_min_interval: Ns,
    /// What a verdict leads to.
    pub watchdog: Watchdog,
    /// From one kill that something outside may have caused to the next.
    pub kill_interval: Ns,
    /// Failed workers within a minute that are still no crash loop.
    pub crash_budget: u32,
    /// From the moment in which no worker is ready to the end of the master; none = never.
    pub give_up: Option<Ns>,
    /// How long a worker that starts in an empty slot gets less than its share of new clients; 0 = not at all.
    pub slow_start: Ns,
}

/// What an operator asks for, by signal or over the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// HUP.
    Reload,
    /// `ctl reload --check-only`; there is no signal for it.
    Check,
    /// TERM.
    Drain,
    /// INT, QUIT.
    Quick,
    /// TTIN.
    MoreWorkers,
    /// TTOU.
    FewerWorkers,
    /// No new clients for this slot.
    Pause(SlotId),
    /// They may come again.
    Resume(SlotId),
    /// `ctl worker SLOT recycle`: another worker in its place, as soon as that may be.
    Recycle(SlotId),
    /// `ctl worker SLOT kill`: the same, and the old one dies, reported, as one that was convicted.
    Kill(SlotId),
    /// `ctl scale`: so many workers.
    Scale(u32),
    /// USR2, or `ctl upgrade`: another program.
    Upgrade {
        /// How long it may wait for what runs now.
        patience: Ns,
    },
}

/// What an upgrade waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Not all workers have been ready yet.
    Starting,
    /// Everything ends.
    Stopping,
    /// New settings are read, or roll.
    Reloading,
    /// A worker is being replaced.
    Recycling(SlotId),
    /// A worker starts.
    Booting(SlotId),
    /// The report of a worker is being written.
    Reporting(SlotId),
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeEnd {
    /// Every worker runs the other program.
    Done,
    /// Something else ran for too long. Nothing was changed.
    Busy(Busy),
    /// Everything ended when the program had changed already, and not all workers ran it.
    Stopped,
    /// The other program cannot take over; the shell knows why. Nothing was changed.
    Refused,
    /// The other program's workers do not start, or die: the program before runs again.
    Reverted,
    /// They do not start, and the program before cannot be executed any more.
    NoWayBack,
}

/// How a process ended, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// With exit code 0.
    pub clean: bool,
    /// With exit code 4: the settings do not work here.
    pub refused_settings: bool,
    /// Somebody sent it a signal that ends a process.
    pub by_others: bool,
    /// Equal for ends of the same cause, as far as that can be told: exit code or signal, and last words. None for an end
    /// that says nothing of the program: somebody killed it.
    pub signature: Option<u64>,
}

impl End {
    /// No process was there to end.
    pub const UNBORN: End = End { clean: false, refused_settings: false, by_others: false, signature: None };
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The master is set up; once, first.
    Start,
    /// Time passed.
    Tick,
    /// An operator's order.
    Order(Order),
    /// The slot's socket is listening.
    ListenerOpened(SlotId),
    /// The slot's socket could not be made.
    ListenerFailed(SlotId),
    /// Connections in the slot's accept queue.
    QueueLength(SlotId, u32),
    /// Open streams of each slot's worker; a slot that is not named has none.
    Streams(Vec<(SlotId, u64)>),
    /// The child was not started; no process exists.
    SpawnFailed(ChildId),
    /// The child's first message, of the right version.
    Hello(ChildId),
    /// The child is ready.
    Ready(ChildId),
    /// The worker asks to be replaced.
    WantRecycle(ChildId, RecycleReason),
    /// A worker that was told to leave has closed its copy of the listener.
    ListenerClosed(ChildId),
    /// The process is gone.
    Exited {
        /// Which.
        child: ChildId,
        /// How.
        end: End,
    },
    /// The master itself stood still for so long: nobody can be blamed for what did not happen meanwhile.
    Late(Ns),
    /// What is wrong with the worker by its own account, or by its silence, is another thing than before.
    Claimed(ChildId, Option<Claim>),
    /// What the world outside says to the worker's claim.
    Confirmed(ChildId, Confirmation),
    /// The report is written, or given up.
    Reported(ChildId),
    /// Whether the kernel is writing the worker's core file.
    CoreDump(ChildId, bool),
    /// The check child found the settings good.
    SettingsAccepted {
        /// The check child.
        child: ChildId,
        /// What they mean here.
        plan: Plan,
        /// What the `migrate` child has to do first.
        migration: Migration,
    },
    /// The check child found something wrong with the settings, or gave no verdict that is understood.
    SettingsRefused(ChildId),
    /// The other program can take over, or not.
    UpgradeChecked(bool),
    /// This is the other program.
    Upgraded,
    /// This is the program before, again.
    Reverted,
    /// [`super::Supervisor::execution`] could not be done.
    ExecutionFailed,
}

/// What the database needs before workers with new settings may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Migration {
    /// Nothing.
    None,
    /// It is another one.
    OtherDatabase,
    /// It is the same one, and what is in it gets other names: where the reload fails, they are taken back.
    OtherNames,
}

/// What `/proc` says to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It is so.
    Yes,
    /// It does not look like that.
    No,
    /// Somebody has stopped the process, or traces it: it cannot help what it does.
    Stopped,
}

/// What keeps a verdict from being carried out for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// The last such kill was less than `GATEWAY_KILL_INTERVAL` ago.
    Interval,
    /// Most workers have the same: the cause is outside.
    Majority,
    /// Nobody serves its slot yet.
    NoStandby,
}

/// What makes a crash loop of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashLoop {
    /// So many within a minute.
    Many(u32),
    /// So many in a row that ended alike.
    Alike(u32),
}

/// A signal for a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildSignal {
    /// Leave, for a child that does not serve yet; a worker that serves takes it for an operator's wish.
    Term,
    /// Finish what is under way within moments.
    Int,
    /// Die, and leave a core file where that is wanted.
    Abort,
    /// Die.
    Kill,
}

/// Something to do. Actions of one step are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the slot's socket; answer [`Event::ListenerOpened`] or [`Event::ListenerFailed`].
    OpenListener(SlotId),
    /// Close the slot's sockets: the last copies.
    CloseListener(SlotId),
    /// Close the master's copies of all sockets; those of workers live on.
    CloseListeners,
    /// Start a child with this version of the settings; answer [`Event::SpawnFailed`] if that fails.
    Spawn(ChildId, Role, u64),
    /// Introduce a worker that is told to leave next to the one that takes its connections over.
    Introduce {
        /// Who leaves.
        leaver: ChildId,
        /// A ready worker.
        heir: ChildId,
    },
    /// Tell a worker to drain; its slot lives on.
    SendDrain(ChildId),
    /// Tell a worker to drain; its slot goes away.
    SendRetire(ChildId),
    /// Tell a suspect whose standby is ready to accept no more and to let its clients go.
    SendStepAside(ChildId),
    /// A worker is suspected: take a first look at it from outside.
    Accuse(ChildId, Verdict),
    /// Compare with the first look; answer [`Event::Confirmed`].
    Confirm(ChildId, Verdict),
    /// Write the report of a worker that lives; answer [`Event::Reported`].
    Report {
        /// Which.
        child: ChildId,
        /// Why.
        verdict: Verdict,
        /// It will be killed for it.
        enforced: bool,
    },
    /// Nobody listened to the worker's claim for a while: tell it again, if there is one.
    HearAgain(ChildId),
    /// Write the report of a worker that died unasked, from its row, which is freed after this.
    ReportDeath(ChildId, usize),
    /// Answer [`Event::CoreDump`].
    QueryCoreDump(ChildId),
    /// Send a signal.
    Signal(ChildId, ChildSignal),
    /// The row's process is gone: fold its counters.
    FreeRow(usize),
    /// Let the kernel choose among these slots only, each by its number of parts.
    Steer(Vec<(SlotId, u32)>),
    /// Let the kernel choose among all again.
    Unsteer,
    /// Answer [`Event::QueueLength`].
    QueryQueue(SlotId),
    /// Answer [`Event::ListenerClosed`] if the worker has closed its copy of the listener.
    QueryListener(ChildId),
    /// The settings just checked are a candidate under this version.
    ProposeSettings(u64),
    /// New children get this version from now on.
    RollSettings(u64),
    /// The version that rolled is the effective one.
    CommitSettings,
    /// The version that rolled is given up; this older one is the effective one again.
    DiscardSettings(u64),
    /// Let the other program try to read the state; answer [`Event::UpgradeChecked`].
    CheckUpgrade,
    /// Another program is about to be executed; [`Action::UpgradeOver`] is the end of it.
    AnnounceUpgrading,
    /// Count a change of the program.
    CountUpgrade,
    /// Say how the upgrade ended.
    UpgradeOver(UpgradeEnd),
    /// What is in the database has the names of the effective settings again.
    NamesRestored,
    /// How many workers are meant to be.
    Target(u32),
    /// Count a crash.
    CountCrash,
    /// Count a worker that never was ready.
    CountBootFailure,
    /// Show everybody whether there is a crash loop.
    ShowDegraded(bool),
    /// Count a replacement.
    CountRecycle(RecycleReason),
    /// Count a verdict that was not carried out.
    CountSpared(Verdict),
    /// Count how long a worker took from its start to READY.
    CountReady(Ns),
    /// Count how long a worker took from the order to drain to its end.
    CountDrained(Ns),
    /// Count a kill.
    CountKill(Kill),
    /// A quorum of workers is ready for the first time.
    AnnounceReady,
    /// A reload begins.
    AnnounceReloading,
    /// A reload ended.
    AnnounceReloaded(Reloaded),
    /// A check begins that leads to no reload.
    AnnounceChecking,
    /// Such a check ended.
    AnnounceChecked(Reloaded),
    /// The end begins.
    AnnounceStopping,
    /// A fact for the log.
    Log(Fact),
    /// Nothing is left; leave with this code.
    Exit(u8),
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reloaded {
    /// The new settings are in force.
    Done,
    /// They are good; no more was asked for.
    Checked,
    /// They are not.
    Refused,
    /// The check died without a verdict.
    CheckDied,
    /// The check gave no verdict in time.
    CheckLate,
    /// The database could not be brought up to date with them.
    MigrateFailed,
    /// A worker of this slot did not start with them, or died of its own fault before all had them.
    WorkerFailed(SlotId),
    /// A worker of this slot was not ready with them in time.
    WorkerLate(SlotId),
    /// Somebody killed workers with them again and again, at last the one of this slot.
    WorkersKilled(SlotId),
}

/// What the log says about a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A worker accepts connections, this long after its start.
    Ready(ChildId, SlotId, Ns),
    /// A replacement begins.
    Recycling(SlotId, RecycleReason),
    /// A replacement could not start; the old worker stays. Next try after this span.
    StandbyFailed(SlotId, Ns),
    /// A worker could not start; next try after this span.
    BootFailed(SlotId, Ns),
    /// A worker died unasked; next try after this span.
    Crashed(SlotId, Ns),
    /// A worker was killed at a timeout.
    Killed(ChildId, Kill),
    /// A worker is suspected; clients are sent elsewhere and a standby starts.
    Suspected(ChildId, SlotId, Verdict),
    /// A worker is suspected no more.
    Cleared(ChildId, SlotId, Verdict),
    /// A verdict, with what the watchdog does about it.
    Fired(ChildId, SlotId, Verdict, Watchdog),
    /// The world outside does not confirm it; `true`: looked at once more.
    Unconfirmed(ChildId, SlotId, Verdict, bool),
    /// The worker was stopped by somebody, or is traced: it is left alone.
    Stopped(ChildId, SlotId, Verdict),
    /// Something keeps a verdict from being carried out for now.
    Held(ChildId, SlotId, Verdict, Guard),
    /// An operator wants this worker dead; a standby starts first.
    KillOrdered(ChildId, SlotId),
    /// Its standby did not start: it lives on.
    KillWithdrawn(ChildId, SlotId),
    /// The very first boot failed.
    FirstBootFailed(SlotId),
    /// Workers failed again and again before all were ready, at last the one of this slot.
    FirstBootGivenUp(SlotId),
    /// A crash loop: one empty slot at a time is tried from now on.
    Degraded(CrashLoop),
    /// The crash loop is over.
    Recovered,
    /// No worker was ready for so long: the master ends.
    GivenUp(Ns),
    /// The master stood still for so long.
    Late(Ns),
    /// The `migrate` child failed; at start this ends the master.
    MigrateFailed,
    /// The demo's companion ended by itself.
    CompanionDied,
    /// No free row for a child of this slot.
    RowsFull(SlotId),
    /// An operator wants so many workers.
    Scaled(u32),
    /// TTIN at the limit of workers.
    NoMoreWorkers(u32),
    /// TTIN without a free row.
    NoRowForMore,
    /// TTOU with one worker.
    LastWorker,
    /// The slot goes away.
    Retiring(SlotId),
    /// The slot stays after all.
    RetiringCancelled(SlotId),
    /// The slot is gone.
    Retired(SlotId),
    /// The slot's socket could not be made: one worker fewer.
    ListenerFailed(SlotId),
    /// A reload waits for the one that runs.
    ReloadQueued,
    /// The check of new settings did not end in time: killed.
    CheckKilled(ChildId),
    /// Somebody killed a worker that started with the new settings: it is tried again.
    ReloadSlotLost(SlotId),
    /// The registry keeps the names of settings that were given up.
    NamesNotRestored,
    /// The new settings are effective.
    ReloadDone(u64),
    /// The new settings are given up, because of the worker of this slot.
    ReloadFailed(SlotId),
    /// An upgrade is asked for while one is under way.
    AlreadyUpgrading,
    /// A worker did not start with the other program, or died at once.
    UpgradeFailed(SlotId),
    /// The settings ask for more workers than rows allow.
    WorkersCapped(u32, u32),
    /// No new clients for this slot.
    Paused(SlotId),
    /// They may come again.
    Resumed(SlotId),
    /// A second TERM right after the first.
    TermIgnored,
    /// The end begins: quick or not.
    Stopping(bool),
    /// The end, although so many that were killed have not died.
    LeftBehind(usize),
}
