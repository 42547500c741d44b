//! What `ctl status` and the admin port's `/status` show: one reading of the shared rows, the same from any process.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::control::RecycleReason;
use crate::rows::{Row, RowState, Rows, monotonic_ns};

/// A reading of the whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary that answers.
    pub version: String,
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
    /// Voluntary replacements by reason.
    pub recycles: Recycles,
    /// Workers that died without being asked to.
    pub crashes: u64,
    /// Workers that were killed because they did not boot or drain in time.
    pub kills: Kills,
    /// One entry per process, by slot, then by age.
    pub workers: Vec<WorkerStatus>,
}

/// Voluntary replacements by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycles {
    /// See [`RecycleReason::MaxRequests`].
    pub max_requests: u64,
    /// See [`RecycleReason::Memory`].
    pub memory: u64,
    /// See [`RecycleReason::Age`].
    pub age: u64,
    /// See [`RecycleReason::Reload`].
    pub reload: u64,
    /// See [`RecycleReason::Operator`].
    pub operator: u64,
}

/// Kills by the timeout that led to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kills {
    /// `GATEWAY_BOOT_TIMEOUT`.
    pub boot: u64,
    /// `GATEWAY_GRACEFUL_TIMEOUT`.
    pub drain: u64,
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
    /// Private memory in bytes, as of its last sample; 0 before the first.
    pub private_bytes: u64,
    /// Registry generation it serves from.
    pub catalog_generation: u64,
    /// Version of its settings.
    pub settings_generation: u64,
}

impl RecycleReason {
    /// Index into [`crate::rows::Base::recycles`].
    pub fn index(self) -> usize {
        match self {
            RecycleReason::MaxRequests => 0,
            RecycleReason::Memory => 1,
            RecycleReason::Age => 2,
            RecycleReason::Reload => 3,
            RecycleReason::Operator => 4,
        }
    }
}

impl Status {
    /// Reads the table. Values are facts of slightly different moments: no lock is taken.
    pub fn read(rows: &Rows) -> Status {
        let base = rows.base();
        let now = monotonic_ns();
        let mut workers: Vec<WorkerStatus> = (0..rows.capacity())
            .filter(|&index| RowState::from_u32(rows.row(index).state.load(Relaxed)) != RowState::Free)
            .map(|index| WorkerStatus::read(index, rows.row(index), now))
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.generation));
        let recycled = |reason: RecycleReason| base.recycles[reason.index()].load(Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: base.target.load(Relaxed),
            ready: workers.iter().filter(|worker| worker.state == "serving").count() as u64,
            row_capacity: rows.capacity(),
            settings_generation: base.settings_generation.load(Relaxed),
            catalog_generation: base.catalog_generation.load(Relaxed),
            requests: rows.total(|counters| counters.requests.load(Relaxed)),
            accepted: rows.total(|counters| counters.accepted.load(Relaxed)),
            recycles: Recycles {
                max_requests: recycled(RecycleReason::MaxRequests),
                memory: recycled(RecycleReason::Memory),
                age: recycled(RecycleReason::Age),
                reload: recycled(RecycleReason::Reload),
                operator: recycled(RecycleReason::Operator),
            },
            crashes: base.crashes.load(Relaxed),
            kills: Kills { boot: base.kills[0].load(Relaxed), drain: base.kills[1].load(Relaxed) },
            workers,
        }
    }
}

impl WorkerStatus {
    fn read(index: usize, row: &Row, now: u64) -> WorkerStatus {
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
            private_bytes: row.private_bytes.load(Relaxed),
            catalog_generation: row.catalog_generation.load(Relaxed),
            settings_generation: row.settings_generation.load(Relaxed),
        }
    }
}
