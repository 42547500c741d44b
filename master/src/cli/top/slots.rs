//! Slots as they are shown: with their processes, in an order.

use forkgate_shared::status::WorkerStatus;

use super::history::Track;
use crate::system::ctl::{Answer, HeldBack};

/// By what the slots are sorted: by number, else the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Its number.
    #[default]
    Slot,
    /// Requests per second.
    Requests,
    /// How busy its event loop is.
    Busy,
    /// Private memory.
    Memory,
    /// How old its worker is.
    Age,
}

/// A slot and its processes.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    /// Its number.
    pub number: u32,
    /// The process that serves it, else the one that is about to, else the last one that leaves; none when it is empty.
    pub main: Option<&'a WorkerStatus>,
    /// Why it gets less than its share of new clients.
    pub held: Option<&'a HeldBack>,
    /// Connections that wait to be accepted; none when the master does not tell.
    pub queue: Option<u64>,
    /// What it did.
    pub track: &'a Track,
}

impl Sort {
    /// What comes after it, round and round.
    pub fn next(self) -> Sort {
        match self {
            Sort::Slot => Sort::Requests,
            Sort::Requests => Sort::Busy,
            Sort::Busy => Sort::Memory,
            Sort::Memory => Sort::Age,
            Sort::Age => Sort::Slot,
        }
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Sort::Slot => "slot",
            Sort::Requests => "requests per second",
            Sort::Busy => "busy",
            Sort::Memory => "memory",
            Sort::Age => "age",
        }
    }

    /// The largest comes first.
    pub fn value(self, slot: &Slot<'_>) -> f64 {
        match self {
            Sort::Slot => -f64::from(slot.number),
            Sort::Requests => slot.track.requests.last(),
            Sort::Busy => slot.track.busy.last(),
            Sort::Memory => slot.track.memory.last(),
            Sort::Age => slot.main.map_or(-1.0, |worker| worker.age_s),
        }
    }
}

/// The slots that are meant to be there, and those that still have a process.
pub fn slots_of(answer: &Answer) -> Vec<u32> {
    let target = u32::try_from(answer.status.target).unwrap_or(u32::MAX).min(MOST_SLOTS);
    let mut slots: Vec<u32> =
        (0..target).chain(answer.status.workers.iter().map(|worker| worker.slot)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// What a master may say it has, so that nonsense costs no memory.
pub const MOST_SLOTS: u32 = 4096;

/// The process that stands for the slot; see [`Slot::main`].
pub fn main_of<'a>(workers: impl Iterator<Item = &'a WorkerStatus>) -> Option<&'a WorkerStatus> {
    let rank = |worker: &WorkerStatus| match worker.state.as_str() {
        "serving" => 2,
        "booting" => 1,
        _ => 0,
    };
    workers.max_by_key(|worker| (rank(worker), worker.generation))
}
