//! One row of shared memory per child process: what it is doing, readable by the master while it lives and after it died.
//!
//! The table is a sealed memfd that the master makes and every child maps. Rules:
//! - **A row has one writer**: the child that it was given to. The master writes a row only while no process owns it
//!   ([`Rows::clear`]), and is the one writer of the [`Base`].
//! - No locks, relaxed atomics: a value is a fact about its own, never half of a pair that must match.
//! - Every value read from a row is untrusted: the child may be broken. Readers bound what they derive from it.
//! - Counters only grow. When a child is gone the master folds them into the base ([`Rows::fold`]), so that a total is
//!   base + rows at every moment and never goes backwards.

mod counters;
mod evidence;
mod histogram;
mod text;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, Ordering::Relaxed, fence};

pub use counters::{
    BYTES_PER_UNIT, Counters, METHODS, Outcome, RequestEra, RequestOutcome, SPIN_FLOOR, UPSTREAMS,
    UpstreamTimes, Upstreams, method_index,
};
pub use evidence::{Evidence, HISTORY, Reading};
pub use histogram::{BOUNDS_NS, Histogram};
pub use text::{Text, harmless, misleads};

use serde::{Deserialize, Serialize};

use crate::control::RecycleReason;
use crate::memfd::{self, Mapping};
use crate::verdict::Verdict;

/// Version of this layout; part of the header.
pub const VERSION: u64 = 5;
const MAGIC: u64 = u64::from_be_bytes(*b"fgrows\0\0");

/// Slots whose accept queue the base has room for: the most workers and what TTIN adds.
pub const SLOTS: usize = 72;
/// Requests in flight that a row can describe; more than these are counted but not described.
pub const IN_FLIGHT: usize = 32;

/// What a child is doing, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RowState {
    /// No process owns this row.
    Free = 0,
    /// The process starts.
    Booting = 1,
    /// It accepts connections.
    Serving = 2,
    /// It finishes what it accepted.
    Draining = 3,
}

impl RowState {
    /// Reads a stored state; anything unknown counts as booting.
    pub fn from_u32(raw: u32) -> RowState {
        match raw {
            0 => RowState::Free,
            2 => RowState::Serving,
            3 => RowState::Draining,
            _ => RowState::Booting,
        }
    }
}

/// One request that a child is working on; `started_ns == 0` means that the entry is free.
#[derive(Debug, Default)]
#[repr(C)]
pub struct InFlight {
    /// Monotonic clock, nanoseconds.
    pub started_ns: AtomicU64,
    /// Interned index of the upstream, or `u64::MAX` for none.
    pub upstream: AtomicU64,
    /// The task that works on it, as the worker numbers its tasks; 0 = not known.
    pub task: AtomicU64,
    /// The MCP method, or the HTTP method before that is known.
    pub method: Text<4>,
    /// The tool, prompt or URI, or the path before that is known. Never an argument.
    pub object: Text<8>,
    /// Who calls: the token's subject.
    pub caller: Text<6>,
}

/// A child's row.
#[derive(Debug, Default)]
#[repr(C, align(4096))]
pub struct Row {
    /// A [`RowState`].
    pub state: AtomicU32,
    /// The slot that the child serves.
    pub slot: AtomicU32,
    /// Which child this is, counted over the master's whole life.
    pub generation: AtomicU64,
    /// Process id.
    pub pid: AtomicU64,
    /// When the child entered its `main`, monotonic clock, nanoseconds.
    pub started_ns: AtomicU64,
    /// When the child's event loop last turned, monotonic clock, nanoseconds.
    pub heartbeat_ns: AtomicU64,
    /// Registry generation of the catalog that the child serves from.
    pub catalog_generation: AtomicU64,
    /// Version of the settings that the child runs with, as the master numbers them.
    pub settings_generation: AtomicU64,
    /// Private memory in bytes, from `smaps_rollup`, as of the last sample.
    pub private_bytes: AtomicU64,
    /// Open client connections on the main port.
    pub connections: AtomicU64,
    /// Requests being worked on.
    pub in_flight: AtomicU64,
    /// Open event streams (`GET`, and calls answered as a stream).
    pub streams: AtomicU64,
    /// The number of requests at which this worker asks to be replaced; 0 = never.
    pub request_limit: AtomicU64,
    /// Most client connections on the main port; beyond them clients wait in the accept queue.
    pub connection_limit: AtomicU64,
    /// Calls that run on although their client has left, as of the last heartbeat.
    pub abandoned_calls: AtomicU64,
    /// Most of these; further calls of that kind are refused meanwhile.
    pub abandoned_limit: AtomicU64,
    /// When a worker that leaves will be gone at the latest, monotonic nanoseconds; 0 = it was not told to leave.
    pub leaves_by_ns: AtomicU64,
    /// Open connections to upstreams, by interned index.
    pub upstream_connections: UpstreamGauges,
    /// What the watchdog thread writes.
    pub evidence: Evidence,
    /// See [`Counters`].
    pub counters: Counters,
    /// Requests in flight, readable after death.
    pub in_flight_ring: [InFlight; IN_FLIGHT],
}

/// See [`Row::upstream_connections`].
#[derive(Debug)]
#[repr(transparent)]
pub struct UpstreamGauges(pub [AtomicU64; UPSTREAMS]);

impl Default for UpstreamGauges {
    fn default() -> Self {
        UpstreamGauges([const { AtomicU64::new(0) }; UPSTREAMS])
    }
}

/// Why the master killed a worker; see [`Base::killed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillReason {
    /// Never READY within `GATEWAY_BOOT_TIMEOUT`.
    Boot,
    /// Never done draining within `GATEWAY_GRACEFUL_TIMEOUT`.
    Drain,
    /// The watchdog's verdict, confirmed from outside; or an operator's order.
    Watchdog(Verdict),
}

impl KillReason {
    /// All.
    pub fn all() -> impl Iterator<Item = KillReason> {
        let verdicts = Verdict::ALL.into_iter().chain([Verdict::Operator]);
        [KillReason::Boot, KillReason::Drain].into_iter().chain(verdicts.map(KillReason::Watchdog))
    }

    /// The word for logs, metrics and `ctl`.
    pub fn as_str(self) -> &'static str {
        match self {
            KillReason::Boot => "boot",
            KillReason::Drain => "drain",
            KillReason::Watchdog(verdict) => verdict.as_str(),
        }
    }
}

/// Sums of the rows of children that are gone; written by the master only.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Base {
    magic: AtomicU64,
    version: AtomicU64,
    capacity: AtomicU64,
    /// Registry generation of the newest catalog that the master has passed on.
    pub catalog_generation: AtomicU64,
    /// Version of the settings that new workers get.
    pub settings_generation: AtomicU64,
    /// Workers that the master means to have.
    pub target: AtomicU64,
    /// Children that died without being asked to.
    pub crashes: AtomicU64,
    /// Workers that never were ready.
    pub boot_failures: AtomicU64,
    /// Children that the kernel killed for memory.
    pub oom_kills: AtomicU64,
    /// 1 while there is a crash loop.
    pub degraded: AtomicU64,
    /// Changes of the program that the master runs.
    pub upgrades: AtomicU64,
    /// Voluntary replacements, by [`RecycleReason::index`].
    pub recycles: [AtomicU64; RecycleReason::ALL.len()],
    kills: [AtomicU64; 2 + Verdict::ALL.len()],
    /// Verdicts that were not carried out because the master did not see them confirmed, or only watches.
    pub spared: [AtomicU64; Verdict::ALL.len()],
    /// From a worker's start to its READY.
    pub time_to_ready: Histogram,
    /// From the order to drain to the worker's end.
    pub drain_time: Histogram,
    /// Connections in the accept queue of each slot, as of the master's last look; higher slots are not shown.
    pub accept_queue: [AtomicU64; SLOTS],
    /// Odd while a row is being folded.
    folds: AtomicU64,
    /// See [`Counters`].
    pub counters: Counters,
    /// At the end, where there was room: the layout is the one that it was without.
    operator_kills: AtomicU64,
}

impl Base {
    /// Kills by the master for this reason.
    pub fn killed(&self, reason: KillReason) -> &AtomicU64 {
        match reason {
            KillReason::Boot => &self.kills[0],
            KillReason::Drain => &self.kills[1],
            KillReason::Watchdog(Verdict::Operator) => &self.operator_kills,
            KillReason::Watchdog(verdict) => &self.kills[2 + verdict.index()],
        }
    }
}

/// The mapped table.
pub struct Rows {
    map: Mapping,
    capacity: usize,
}

impl Rows {
    /// Rows for a master with `workers` slots: a primary and a standby each, for four more slots than configured
    /// (TTIN), and nothing else; the state machine keeps within it.
    pub fn capacity_for(workers: u32) -> usize {
        2 * workers as usize + 8
    }

    /// Makes the table.
    pub fn create(capacity: usize) -> io::Result<(Rows, OwnedFd)> {
        let size = size_of::<Base>() + capacity * size_of::<Row>();
        let fd = memfd::fixed_size("forkgate-rows", size as u64)?;
        let rows = Rows { map: Mapping::shared(&fd)?, capacity };
        let base = rows.base();
        base.version.store(VERSION, Relaxed);
        base.capacity.store(capacity as u64, Relaxed);
        base.magic.store(MAGIC, Relaxed);
        Ok((rows, fd))
    }

    /// Maps a table that a master of the same layout made; `InvalidData` otherwise.
    pub fn open(fd: &impl AsFd) -> io::Result<Rows> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let map = Mapping::shared(fd)?;
        if map.len() < size_of::<Base>() {
            return invalid("the row table is too small");
        }
        let mut rows = Rows { map, capacity: 0 };
        if rows.base().magic.load(Relaxed) != MAGIC || rows.base().version.load(Relaxed) != VERSION {
            return invalid("the row table has another layout");
        }
        let capacity = rows.base().capacity.load(Relaxed) as usize;
        if capacity.checked_mul(size_of::<Row>()).is_none_or(|n| rows.map.len() < size_of::<Base>() + n) {
            return invalid("the row table is shorter than it says");
        }
        rows.capacity = capacity;
        Ok(rows)
    }

    /// How many rows there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The header and base counters.
    pub fn base(&self) -> &Base {
        // SAFETY: the mapping is at least one `Base` long, page-aligned, lives as long as `self`, and `Base` is made of
        // atomics only, for which any bytes are valid.
        unsafe { &*self.map.as_ptr().cast::<Base>() }
    }

    /// Row `index`; panics when out of range, as a slice does.
    pub fn row(&self, index: usize) -> &Row {
        assert!(index < self.capacity, "row {index} of {}", self.capacity);
        // SAFETY: in range (just checked, against a capacity that fits the mapping), page-aligned because both types
        // are multiples of a page, and `Row` is made of atomics only.
        unsafe { &*self.map.as_ptr().add(size_of::<Base>()).cast::<Row>().add(index) }
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        (0..self.capacity).map(|index| self.row(index))
    }

    /// Adds a dead child's counters to the base and frees its row. Master only. Added first and zeroed then: what is read
    /// meanwhile is too much, never too little.
    pub fn fold(&self, index: usize) {
        let (row, folds) = (self.row(index), &self.base().folds);
        let count = folds.load(Relaxed);
        folds.store(count | 1, Relaxed);
        fence(Ordering::Release);
        for (total, cell) in self.base().counters.cells().zip(row.counters.cells()) {
            total.fetch_add(cell.load(Relaxed), Relaxed);
        }
        fence(Ordering::Release);
        self.clear(index);
        folds.store((count | 1).wrapping_add(1), Ordering::Release);
    }

    /// Reads something that sums over base and rows, at a moment in which no row is being folded: the sum is whole, and
    /// never smaller than one read before. None when there is no such moment for too long: a master that was stopped or died
    /// while it folded is waited for only briefly.
    pub fn read_whole<R>(&self, read: impl Fn() -> R) -> Option<R> {
        const TRIES: usize = 1000;
        let folds = &self.base().folds;
        for _ in 0..TRIES {
            let before = folds.load(Ordering::Acquire);
            if before % 2 == 1 {
                std::thread::yield_now();
                continue;
            }
            let result = read();
            fence(Ordering::Acquire);
            if folds.load(Relaxed) == before {
                return Some(result);
            }
        }
        None
    }

    /// Frees a row for the next child. Master only.
    pub fn clear(&self, index: usize) {
        let row = self.row(index);
        row.state.store(RowState::Free as u32, Relaxed);
        clear([
            &row.generation,
            &row.pid,
            &row.started_ns,
            &row.heartbeat_ns,
            &row.catalog_generation,
            &row.settings_generation,
            &row.private_bytes,
            &row.connections,
            &row.in_flight,
            &row.streams,
            &row.request_limit,
            &row.connection_limit,
            &row.abandoned_calls,
            &row.abandoned_limit,
        ]);
        clear(&row.upstream_connections.0);
        clear(row.counters.cells());
        clear(row.in_flight_ring.iter().map(|entry| &entry.started_ns));
        row.evidence.clear();
    }

    /// All totals over the base and the rows, of one moment; see [`Rows::read_whole`].
    pub fn totals(&self) -> Option<Box<Counters>> {
        self.read_whole(|| {
            let totals = Box::<Counters>::default();
            self.iter().for_each(|row| totals.add_all(&row.counters));
            fence(Ordering::Acquire);
            totals.add_all(&self.base().counters);
            totals
        })
    }

    /// A total over the base and all rows of one counter, picked by `counter`. Too much while a row is being folded: to be
    /// called by the master, or within [`Rows::read_whole`].
    pub fn total(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        // The rows before the base: what is zero here was added there before.
        let of_rows = self.iter().map(|row| counter(&row.counters)).fold(0, u64::wrapping_add);
        fence(Ordering::Acquire);
        of_rows.wrapping_add(counter(&self.base().counters))
    }
}

fn clear<'a>(cells: impl IntoIterator<Item = &'a AtomicU64>) {
    for cell in cells {
        cell.store(0, Relaxed);
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of every time in shared memory, the same in all processes of a host.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("CLOCK_MONOTONIC exists on every Linux (clock_gettime(2))");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_do_not_change_when_a_child_dies() {
        let (rows, fd) = Rows::create(Rows::capacity_for(1)).expect("create");
        let child = Rows::open(&fd).expect("open");
        Counters::add(&child.row(3).counters.requests, 5);
        child.row(3).counters.count_upstream(UPSTREAMS + 9, Outcome::TimedOut);
        let requests = |c: &Counters| c.requests.load(Relaxed);
        let timeouts = |c: &Counters| c.upstream.0[UPSTREAMS - 1][Outcome::TimedOut as usize].load(Relaxed);
        assert_eq!((rows.total(requests), rows.total(timeouts)), (5, 1));
        rows.fold(3);
        assert_eq!((rows.total(requests), rows.total(timeouts)), (5, 1));
        assert_eq!(rows.totals().map(|totals| (requests(&totals), timeouts(&totals))), Some((5, 1)));
        assert_eq!(rows.row(3).counters.requests.load(Relaxed), 0);
    }

    #[test]
    fn a_reader_never_sees_a_sum_shrink_while_rows_are_folded() {
        let (rows, fd) = Rows::create(8).expect("create");
        let reader = Rows::open(&fd).expect("open");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..20_000 {
                    Counters::add(&rows.row(turn % 8).counters.bytes_in, 3);
                    rows.fold(turn % 8);
                }
                over.store(true, Relaxed);
            });
            let mut last = 0;
            while !over.load(Relaxed) {
                let now = || reader.total(|counters| counters.bytes_in.load(Relaxed));
                if let Some(now) = reader.read_whole(now) {
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                }
            }
        });
        assert_eq!(reader.total(|counters| counters.bytes_in.load(Relaxed)), 60_000);
    }

    #[test]
    fn a_sum_that_is_read_while_rows_are_folded_is_never_too_small() {
        let (rows, fd) = Rows::create(8).expect("create");
        let reader = Rows::open(&fd).expect("open");
        let (done, over) = (AtomicU64::new(0), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..2000 {
                    Counters::add(&rows.row(turn % 8).counters.bytes_in, 3);
                    done.fetch_add(3, Ordering::Release);
                    rows.fold(turn % 8);
                }
                over.store(true, Relaxed);
            });
            while !over.load(Relaxed) {
                let least = done.load(Ordering::Acquire);
                let now = reader.total(|counters| counters.bytes_in.load(Relaxed));
                assert!(now >= least, "{now} of {least}");
            }
        });
    }

    #[test]
    fn nothing_is_said_while_a_master_stands_still_in_the_middle_of_a_fold() {
        let (rows, _fd) = Rows::create(1).expect("create");
        rows.base().folds.store(7, Relaxed);
        assert!(rows.totals().is_none() && rows.read_whole(|| 5).is_none());
        rows.fold(0);
        assert!(rows.totals().is_some() && rows.read_whole(|| 5) == Some(5));
    }

    #[test]
    fn every_reason_of_a_kill_has_a_count_of_its_own() {
        let (rows, _fd) = Rows::create(1).expect("create");
        for (count, reason) in (1..).zip(KillReason::all()) {
            rows.base().killed(reason).store(count, Relaxed);
        }
        let counts: Vec<u64> =
            KillReason::all().map(|reason| rows.base().killed(reason).load(Relaxed)).collect();
        assert_eq!(counts, (1..=counts.len() as u64).collect::<Vec<_>>());
        assert_eq!(size_of::<Base>(), 4 * 4096, "programs of this version share it with the one before");
    }

    #[test]
    fn a_table_of_another_layout_is_refused() {
        let fd = memfd::fixed_size("test", 1 << 20).expect("memfd");
        assert_eq!(Rows::open(&fd).err().map(|e| e.kind()), Some(io::ErrorKind::InvalidData));
    }
}
