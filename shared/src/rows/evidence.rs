//! What a worker's watchdog thread writes about its event loop, four times a second: the newest reading, the claim, and a
//! history of the last half minute for the report.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::clear;
use crate::verdict::Claim;

/// Readings that the history holds: one per second.
pub const HISTORY: usize = 32;

/// The part of a row that the watchdog thread writes; nobody else does.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Evidence {
    /// When the watchdog thread last looked; monotonic clock, nanoseconds. 0 = not armed.
    pub looked_ns: AtomicU64,
    /// A packed [`Claim`]; 0 = nothing is wrong.
    pub claim: AtomicU64,
    /// Since when what the claim says is so; monotonic clock, nanoseconds.
    pub since_ns: AtomicU64,
    /// Part of the last second that the loop was busy, in thousandths.
    pub busy_permille: AtomicU64,
    /// The longest single poll so far, nanoseconds (as exact as the coarse clock: 1 to 4 ms).
    pub longest_poll_ns: AtomicU64,
    /// How late the loop's own timer was last, nanoseconds.
    pub lag_ns: AtomicU64,
    /// Nonzero while the worker sheds load because its loop lags.
    pub starved: AtomicU64,
    /// Wake storms seen (many wakes per second without work).
    pub wake_storms: AtomicU64,
    /// Tasks alive.
    pub tasks: AtomicU64,
    /// How many readings were ever written to `history`.
    pub readings: AtomicU64,
    /// The readings of the last seconds, at `readings % HISTORY`.
    pub history: [ReadingCells; HISTORY],
}

/// One second of the loop's life, in shared memory.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ReadingCells([AtomicU64; FIELDS]);

const FIELDS: usize = 9;

/// One second of the loop's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The end of that second; monotonic clock, nanoseconds.
    pub at_ns: u64,
    /// How long it was, nanoseconds.
    pub span_ns: u64,
    /// Nanoseconds that the loop was busy, as tokio counts it.
    pub busy_ns: u64,
    /// Nanoseconds on a CPU (`/proc/self/task/TID/schedstat`).
    pub cpu_ns: u64,
    /// Nanoseconds of waiting for a CPU.
    pub delay_ns: u64,
    /// Times that the loop went to sleep.
    pub parks: u64,
    /// Units of work done: messages, and 64 KiB moved.
    pub units: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Requests in flight at its end.
    pub in_flight: u64,
}

impl Reading {
    fn to_cells(self) -> [u64; FIELDS] {
        let Reading { at_ns, span_ns, busy_ns, cpu_ns, delay_ns, parks, units, polls, in_flight } = self;
        [at_ns, span_ns, busy_ns, cpu_ns, delay_ns, parks, units, polls, in_flight]
    }

    fn from_cells(cells: [u64; FIELDS]) -> Reading {
        let [at_ns, span_ns, busy_ns, cpu_ns, delay_ns, parks, units, polls, in_flight] = cells;
        Reading { at_ns, span_ns, busy_ns, cpu_ns, delay_ns, parks, units, polls, in_flight }
    }
}

impl Evidence {
    /// What the worker says is wrong with it.
    pub fn claim(&self) -> Option<Claim> {
        Claim::unpack(self.claim.load(Relaxed))
    }

    /// Adds a reading to the history. Watchdog thread only.
    pub fn push(&self, reading: Reading) {
        let count = self.readings.load(Relaxed);
        let cells = &self.history[count as usize % HISTORY];
        for (cell, value) in cells.0.iter().zip(reading.to_cells()) {
            cell.store(value, Relaxed);
        }
        self.readings.store(count + 1, Relaxed);
    }

    /// The history, oldest first.
    pub fn history(&self) -> Vec<Reading> {
        let mut readings: Vec<Reading> = self
            .history
            .iter()
            .map(|cells| Reading::from_cells(std::array::from_fn(|index| cells.0[index].load(Relaxed))))
            .filter(|reading| reading.at_ns != 0)
            .collect();
        readings.sort_by_key(|reading| reading.at_ns);
        readings
    }

    pub(super) fn clear(&self) {
        clear([
            &self.looked_ns,
            &self.claim,
            &self.since_ns,
            &self.busy_permille,
            &self.longest_poll_ns,
            &self.lag_ns,
            &self.starved,
            &self.wake_storms,
            &self.tasks,
            &self.readings,
        ]);
        clear(self.history.iter().flat_map(|cells| &cells.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_keeps_the_newest_readings_in_order() {
        let evidence = Evidence::default();
        for at_ns in 1..=HISTORY as u64 + 5 {
            evidence.push(Reading { at_ns, units: at_ns * 2, ..Reading::default() });
        }
        let history = evidence.history();
        assert_eq!(history.len(), HISTORY);
        assert_eq!((history[0].at_ns, history[HISTORY - 1].units), (6, 2 * (HISTORY as u64 + 5)));
        evidence.clear();
        assert!(evidence.history().is_empty());
    }
}
