//! What `ctl status` and the admin port's `/status` show: one reading of the shared rows, the same from any process.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::control::RecycleReason;
use crate::rows::{KillReason, Row, RowState, Rows, monotonic_ns};

/// A reading of the whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary that answers.
    pub version: String,
    /// How often the master became another binary since it was started.
    pub upgrades: u64,
    /// Workers that the master means to have.
    pub target: u64,
    /// Workers that accept connections.
    pub ready: u64,
    /// Rows of shared memory; each process takes one.
    pub row_capacity: usize,
    /// Version of the settings that new workers get; grows with each successful reload.
    pub settings_generation: u64,
    /// Registry generation of the newest catalog.
    pub catalog_generation: u64,
    /// Requests answered since the master started, over all workers that ever were.
    pub requests: u64,
    /// Connections accepted, likewise.
    pub accepted: u64,
    /// Connections that moved from a worker that left to the next one, likewise.
    pub handed_over: u64,
    /// Voluntary replacements by reason: `max_requests`, `memory`, `age`, `reload`, `operator`, `suspect`, `degenerate`,
    /// `essential_task`, `upgrade`.
    pub recycles: BTreeMap<String, u64>,
    /// There is a crash loop: one empty slot at a time is tried.
    pub degraded: bool,
    /// Workers that died without being asked to.
    pub crashes: u64,
    /// Workers that never were ready.
    pub boot_failures: u64,
    /// Workers that the kernel killed for memory; they are among the crashes, the boot failures or the kills too.
    pub oom_kills: u64,
    /// Workers that the master killed, by what led to it: `boot` and `drain` (timeouts), and the watchdog's verdicts.
    pub kills: BTreeMap<String, u64>,
    /// Connections that wait to be accepted, by slot.
    #[serde(default)]
    pub accept_queue: Vec<u64>,
    /// One entry per process, by slot, then by age.
    pub workers: Vec<WorkerStatus>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The slot it serves.
    pub slot: u32,
    /// Its row.
    pub row: usize,
    /// Process id.
    pub pid: u64,
    /// Which child of the master it is.
    pub generation: u64,
    /// `booting`, `serving` or `draining`.
    pub state: String,
    /// Seconds since it entered `main`.
    pub age_s: f64,
    /// Requests answered, health checks excluded.
    pub requests: u64,
    /// At how many it asks to be replaced; 0 = never.
    pub request_limit: u64,
    /// Open client connections.
    pub connections: u64,
    /// Requests being worked on.
    pub in_flight: u64,
    /// Open event streams.
    pub streams: u64,
    /// Calls that run on although their client has left.
    pub abandoned_calls: u64,
    /// For a worker that leaves: seconds until it is gone, finished or not.
    pub leaves_in_s: Option<f64>,
    /// Private memory in bytes, as of its last sample; 0 before the first.
    pub private_bytes: u64,
    /// Registry generation it serves from.
    pub catalog_generation: u64,
    /// Version of its settings.
    pub settings_generation: u64,
    /// Part of the last second that its event loop was busy, 0 to 1.
    pub busy: f64,
    /// What the watchdog says: empty, or a verdict such as `spin`, with `suspect` or `fired`.
    pub watchdog: String,
}

impl Status {
    /// Reads the table in a moment in which no row is being folded; none when the master stands still in the middle of that.
    pub fn read_whole(rows: &Rows) -> Option<Status> {
        rows.read_whole(|| Status::read(rows))
    }

    /// Reads the table; for the master, which folds rows itself. Values are facts of slightly different moments: no lock is
    /// taken.
    pub fn read(rows: &Rows) -> Status {
        let base = rows.base();
        let now = monotonic_ns();
        let mut workers: Vec<WorkerStatus> = (0..rows.capacity())
            .filter(|&index| RowState::from_u32(rows.row(index).state.load(Relaxed)) != RowState::Free)
            .map(|index| WorkerStatus::read(index, rows.row(index), now))
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.generation));
        let target = base.target.load(Relaxed);
        // A row is untrusted: a slot beyond the table is none that is shown.
        let last = workers.iter().map(|worker| u64::from(worker.slot) + 1).max().unwrap_or(0);
        let slots = base.accept_queue.iter().take(last.max(target) as usize);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            upgrades: base.upgrades.load(Relaxed),
            target,
            ready: workers.iter().filter(|worker| worker.state == "serving").count() as u64,
            row_capacity: rows.capacity(),
            settings_generation: base.settings_generation.load(Relaxed),
            catalog_generation: base.catalog_generation.load(Relaxed),
            requests: rows.total(|counters| counters.requests.load(Relaxed)),
            accepted: rows.total(|counters| counters.accepted.load(Relaxed)),
            handed_over: rows.total(|counters| counters.handed_over.load(Relaxed)),
            recycles: RecycleReason::ALL
                .map(|reason| (reason.as_str().to_owned(), base.recycles[reason.index()].load(Relaxed)))
                .into(),
            degraded: base.degraded.load(Relaxed) != 0,
            crashes: base.crashes.load(Relaxed),
            boot_failures: base.boot_failures.load(Relaxed),
            oom_kills: base.oom_kills.load(Relaxed),
            kills: KillReason::all()
                .map(|reason| (reason.as_str().to_owned(), base.killed(reason).load(Relaxed)))
                .collect(),
            accept_queue: slots.map(|queue| queue.load(Relaxed)).collect(),
            workers,
        }
    }
}

impl WorkerStatus {
    /// Reads one row.
    pub fn read(index: usize, row: &Row, now: u64) -> WorkerStatus {
        let state = match RowState::from_u32(row.state.load(Relaxed)) {
            RowState::Free | RowState::Booting => "booting",
            RowState::Serving => "serving",
            RowState::Draining => "draining",
        };
        WorkerStatus {
            slot: row.slot.load(Relaxed),
            row: index,
            pid: row.pid.load(Relaxed),
            generation: row.generation.load(Relaxed),
            state: state.to_owned(),
            age_s: now.saturating_sub(row.started_ns.load(Relaxed)) as f64 / 1e9,
            requests: row.counters.requests.load(Relaxed),
            request_limit: row.request_limit.load(Relaxed),
            connections: row.connections.load(Relaxed),
            in_flight: row.in_flight.load(Relaxed),
            streams: row.streams.load(Relaxed),
            abandoned_calls: row.abandoned_calls.load(Relaxed),
            leaves_in_s: match row.leaves_by_ns.load(Relaxed) {
                0 => None,
                by => Some(by.saturating_sub(now) as f64 / 1e9),
            },
            private_bytes: row.private_bytes.load(Relaxed),
            catalog_generation: row.catalog_generation.load(Relaxed),
            settings_generation: row.settings_generation.load(Relaxed),
            busy: row.evidence.busy_permille.load(Relaxed).min(1000) as f64 / 1e3,
            watchdog: row.evidence.claim().map_or_else(String::new, |claim| claim.to_string()),
        }
    }
}
