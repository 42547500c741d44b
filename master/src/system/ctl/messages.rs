//! What is said over the control socket: one JSON object per line.
//!
//! A request is one line. Its answer is one line too; a request that takes its time may be answered with lines of
//! [`Progress`] first, and its last line is an [`Outcome`].

use std::path::PathBuf;

use forkgate_shared::report::{Report, Request as InFlight};
use forkgate_shared::settings::Change;
use forkgate_shared::status::{Status, WorkerStatus};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::super::history::Entry;
use crate::supervisor::{Cause, SlotId, WHOLE};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the master and its workers are doing.
    Status,
    /// Every worker.
    Workers,
    /// Everything about one slot.
    Worker {
        /// The slot.
        slot: u32,
    },
    /// Why the last worker of a slot was killed or died.
    Why {
        /// The slot.
        slot: u32,
    },
    /// Another worker for a slot; answered when it serves and the old one leaves.
    Recycle {
        /// The slot.
        slot: u32,
    },
    /// The same, and the old worker is killed; answered when it is gone.
    Kill {
        /// The slot.
        slot: u32,
    },
    /// A report of a worker that lives on; answered when it is written.
    Dump {
        /// The slot.
        slot: u32,
    },
    /// Another number of workers, said in one of two ways; answered when there are so many.
    Scale {
        /// So many.
        #[serde(default)]
        workers: Option<u32>,
        /// So many more, or fewer.
        #[serde(default)]
        by: Option<i32>,
    },
    /// Open the log file anew; answered when everybody has.
    Reopen,
    /// Finish what was begun and end; answered when the master ends.
    Drain,
    /// The settings in force.
    Settings,
    /// What has happened: answered with a line per event, an [`Entry`] or [`Missed`], and the end of the connection.
    Events {
        /// And what happens from now on; then the end comes when the master ends, or becomes another program.
        #[serde(default)]
        follow: bool,
        /// Only what came after the event of this number.
        #[serde(default)]
        after: u64,
    },
    /// No new clients for a slot.
    Pause {
        /// The slot.
        slot: u32,
    },
    /// They may come again.
    Resume {
        /// The slot.
        slot: u32,
    },
    /// Read the settings again and put them into force; answered when that has been done, or has failed.
    Reload {
        /// Only say whether that would work, as far as it can be known before.
        #[serde(default)]
        check_only: bool,
    },
    /// Become another program, in place; answered when all workers run it, or none does.
    Upgrade {
        /// The program; without it the one that is now where the running one was started from.
        #[serde(default)]
        binary: Option<PathBuf>,
    },
}

/// What can be asked, for a client that asked for something else.
pub const KNOWN: &str = r#"{"command":"status"}, {"command":"workers"}, {"command":"worker","slot":0}, {"command":"why","slot":0}, {"command":"reload","check_only":true}, {"command":"upgrade","binary":null}, {"command":"pause","slot":0}, {"command":"resume","slot":0}, {"command":"recycle","slot":0}, {"command":"kill","slot":0}, {"command":"dump","slot":0}, {"command":"scale","workers":4}, {"command":"scale","by":-1}, {"command":"reopen"}, {"command":"drain"}, {"command":"settings"}, {"command":"events","follow":true,"after":0}"#;

/// What takes its time, so that a client waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// New settings.
    Reload,
    /// Whether new settings are good.
    Check,
    /// Another program.
    Upgrade,
    /// Another worker for a slot.
    Recycle(u32),
    /// The end of a slot's worker.
    Kill(u32),
    /// A report of a slot's worker.
    Dump(u32),
    /// So many workers.
    Scale(u32),
    /// The log file anew.
    Reopen,
    /// The end of everything.
    Drain,
}

impl Operation {
    /// The next program, which may be an older one, can go on with it.
    pub fn outlives_an_upgrade(self) -> bool {
        matches!(self, Operation::Reload | Operation::Check | Operation::Upgrade)
    }
}

/// What is answered to [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The master's process id.
    pub pid: u32,
    /// `starting`, `serving`, `reloading`, `upgrading` or `stopping`.
    pub state: String,
    /// The sentence of `systemctl status`.
    pub sentence: String,
    /// Seconds since the master started.
    pub uptime_s: f64,
    /// Where clients connect; `(not yet)` and `(retiring)` while a reload changes it.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Slots that get less than their share of new clients.
    #[serde(default)]
    pub held_back: Vec<HeldBack>,
    /// The table.
    #[serde(flatten)]
    pub status: Status,
}

/// A slot that gets less than its share of new clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Which.
    pub slot: u32,
    /// The part of its share that it gets, 0 to 1.
    pub share: f64,
    /// `slow_start`, `streams`, `paused`, `suspect`, `no_worker` or `retiring`.
    pub why: String,
}

impl HeldBack {
    /// For people and programs.
    pub fn new(slot: SlotId, parts: u32, why: Cause) -> HeldBack {
        HeldBack { slot: slot.0, share: f64::from(parts) / f64::from(WHOLE), why: why.as_str().to_owned() }
    }
}

/// What is answered to [`Request::Pause`] and [`Request::Resume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What is so now.
    pub done: String,
}

/// What is answered to [`Request::Why`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Where the report is.
    pub path: PathBuf,
    /// The report.
    pub report: Report,
}

/// What is answered to [`Request::Workers`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// The master's process id.
    pub pid: u32,
    /// How many are meant to be.
    pub target: u64,
    /// One entry per process, by slot, then by age.
    pub workers: Vec<Worker>,
}

/// One worker as the master sees it, and as it says itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// `primary`, `standby` or `leaving`.
    pub place: String,
    /// `starting`, `booting`, `running`, `aside`, `draining`, `aborting` or `killed`.
    pub phase: String,
    /// Why it leaves, is suspected, was started or is to be replaced: a recycle reason, a verdict, `retiring` or
    /// `stopping`.
    pub reason: Option<String>,
    /// Connections in its slot's accept queue.
    pub accept_queue: u32,
    /// The part of its slot's share of new clients that it gets, 0 to 1.
    pub share: f64,
    /// Why that is less than 1; see [`HeldBack`].
    pub held_back: Option<String>,
    /// Its row.
    #[serde(flatten)]
    pub row: WorkerStatus,
}

/// What is answered to [`Request::Settings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Their version.
    pub settings_generation: u64,
    /// All, in the order of the documentation.
    pub settings: Vec<InForceSetting>,
}

/// One setting, secrets masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForceSetting {
    /// Its own name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where that comes from; none when that is not known: the program before this one did not keep it.
    pub source: Option<String>,
    /// What it would be if nobody had set it; none for one that has to be set.
    pub default: Option<String>,
    /// It is another one than the default.
    pub differs: bool,
    /// A reload cannot change it.
    pub needs_restart: bool,
}

/// What is answered to [`Request::Worker`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Which.
    pub slot: u32,
    /// Its socket listens.
    pub open: bool,
    /// It gets no new clients because an operator wants it so.
    pub paused: bool,
    /// It goes away.
    pub retiring: bool,
    /// Why its worker is to be replaced once that may be.
    pub wish: Option<String>,
    /// Without a worker: seconds until the next one is started, at the earliest.
    pub next_start_s: Option<f64>,
    /// The part of its share of new clients that it gets, 0 to 1.
    pub share: f64,
    /// Why that is less than 1; see [`HeldBack`].
    pub held_back: Option<String>,
    /// Connections in its accept queue.
    pub accept_queue: u32,
    /// The last report of one of its workers that was killed or died.
    pub last_report: Option<PathBuf>,
    /// Its workers, by age.
    pub workers: Vec<Details>,
}

/// One worker, with what it is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// As in the list of all.
    #[serde(flatten)]
    pub worker: Worker,
    /// Its event loop, by its own account.
    pub event_loop: EventLoop,
    /// Requests that it works on, the oldest first.
    pub requests_in_flight: Vec<InFlight>,
}

/// What a worker's watchdog thread says of its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLoop {
    /// The longest single poll so far, milliseconds.
    pub longest_poll_ms: u64,
    /// How late the loop's own timer was last, milliseconds.
    pub lag_ms: u64,
    /// It sheds load because of that.
    pub overloaded: bool,
    /// Storms of wakes without work that were seen.
    pub wake_storms: u64,
    /// Tasks alive.
    pub tasks: u64,
}

/// What is answered to a request that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}

/// How an order about workers ended: the last line of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    /// It was done.
    pub ok: bool,
    /// Why it was not.
    pub error: Option<String>,
    /// What is so now.
    pub done: Option<String>,
    /// The slot that it was about.
    pub slot: Option<u32>,
    /// Process id of the worker that it was about.
    pub pid: Option<u32>,
    /// Process id of the one that took its place.
    pub new_pid: Option<u32>,
    /// Where the report is.
    pub report: Option<PathBuf>,
    /// How many workers are meant to be.
    pub workers: Option<u32>,
}

impl Carried {
    /// It was done.
    pub fn done(what: impl Into<String>) -> Carried {
        Carried { ok: true, done: Some(what.into()), ..Carried::default() }
    }

    /// It was not.
    pub fn failure(why: impl Into<String>) -> Carried {
        Carried { error: Some(why.into()), ..Carried::default() }
    }
}

/// The last line of an answer that takes its time.
pub trait Ending: Serialize {
    /// Why it was not done; none when it was.
    fn failure(&self) -> Option<&str>;
}

impl Ending for Outcome {
    fn failure(&self) -> Option<&str> {
        (!self.ok).then(|| self.error.as_deref().unwrap_or("see the log"))
    }
}

impl Ending for Carried {
    fn failure(&self) -> Option<&str> {
        (!self.ok).then(|| self.error.as_deref().unwrap_or("see the log"))
    }
}

/// A line among events: so many are not there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missed {
    /// How many.
    pub missed: u64,
}

/// A line that says how far an operation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// What is being done now.
    pub progress: String,
}

/// How an operation ended: the last line of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// It was done.
    pub ok: bool,
    /// Why it was not.
    pub error: Option<String>,
    /// Settings that it changes, or would have changed; secrets masked.
    pub changes: Vec<Change>,
    /// What is valid and may surprise.
    pub warnings: Vec<String>,
    /// Version of the settings in force now.
    pub settings_generation: u64,
    /// Version of the program that runs now, when that was what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

impl Outcome {
    /// It was not even begun.
    pub fn failure(error: &str) -> Outcome {
        Outcome { error: Some(error.to_owned()), ..Outcome::default() }
    }
}

/// One line of an answer.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // Plain data: what is written here is always JSON.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A request that cannot be served, as a line.
pub fn refusal(error: impl Into<String>) -> Vec<u8> {
    line(&Refusal { error: error.into() })
}

/// Says that there is no such slot, if so.
pub fn no_such_slot(slot: u32, status: &Status) -> Option<String> {
    let is_there = u64::from(slot) < status.target || status.workers.iter().any(|worker| worker.slot == slot);
    let last = status.target.saturating_sub(1);
    (!is_there).then(|| format!("there is no slot {slot}: slots have the numbers 0 to {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_is_told_can_be_asked() {
        let known = serde_json::from_str::<Vec<Request>>(&format!("[{KNOWN}]")).expect("requests");
        let slot = 0;
        let all = [
            Request::Status,
            Request::Workers,
            Request::Worker { slot },
            Request::Why { slot },
            Request::Reload { check_only: true },
            Request::Upgrade { binary: None },
            Request::Pause { slot },
            Request::Resume { slot },
            Request::Recycle { slot },
            Request::Kill { slot },
            Request::Dump { slot },
            Request::Scale { workers: Some(4), by: None },
            Request::Scale { workers: None, by: Some(-1) },
            Request::Reopen,
            Request::Drain,
            Request::Settings,
            Request::Events { follow: true, after: 0 },
        ];
        assert_eq!(known, all);
        for other in
            [r#"{"command":"why"}"#, r#"{"command":"why","slot":-1}"#, r#"{"command":"why","slot":"0"}"#]
        {
            assert!(serde_json::from_str::<Request>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_slot_that_was_never_there_is_told_from_one_without_a_report() {
        let (rows, _fd) = forkgate_shared::rows::Rows::create(4).expect("rows");
        rows.base().target.store(2, std::sync::atomic::Ordering::Relaxed);
        let status = Status::read(&rows);
        assert_eq!(no_such_slot(1, &status), None);
        let words = no_such_slot(9, &status);
        assert_eq!(words.as_deref(), Some("there is no slot 9: slots have the numbers 0 to 1"));
    }

    #[test]
    fn a_last_line_is_told_from_the_ones_before_it() {
        let progress = line(&Progress { progress: "x".to_owned() });
        let outcome = line(&Outcome { error: Some("no".to_owned()), ..Outcome::default() });
        assert!(serde_json::from_slice::<Progress>(&outcome).is_err());
        assert!(serde_json::from_slice::<Outcome>(&progress).is_err());
        assert!(serde_json::from_slice::<Outcome>(&refusal("no")).is_err());
        assert!(outcome.ends_with(b"\n"));
    }
}
