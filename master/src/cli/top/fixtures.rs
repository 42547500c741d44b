//! A gateway as tests want it to be.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forkgate_shared::rows::Rows;
use forkgate_shared::status::{Status, WorkerStatus};

use super::model::{Happening, Model};
use crate::system::ctl::{Answer, HeldBack};

/// One process, nothing done.
static BLANK: LazyLock<Status> = LazyLock::new(|| {
    let (rows, _fd) = Rows::create(1).expect("rows");
    rows.row(0).state.store(2, Relaxed);
    Status::read(&rows)
});

/// A process that has done nothing yet.
pub fn worker(slot: u32, generation: u64, state: &str) -> WorkerStatus {
    WorkerStatus {
        slot,
        generation,
        state: state.to_owned(),
        pid: 4000 + generation,
        age_s: 60.0 * generation as f64,
        private_bytes: (7 + generation) << 20,
        settings_generation: 3,
        catalog_generation: 12,
        ..BLANK.workers[0].clone()
    }
}

/// What a master says that has been up for so many seconds.
pub fn answer(uptime_s: f64, workers: Vec<WorkerStatus>) -> Answer {
    let mut status = BLANK.clone();
    let slots = workers.iter().map(|worker| worker.slot + 1).max().unwrap_or(0);
    status.version = "1.2.3".to_owned();
    status.target = u64::from(slots);
    status.requests = workers.iter().map(|worker| worker.requests).sum();
    status.accepted = status.requests / 10;
    status.accept_queue = (0..u64::from(slots)).collect();
    status.workers = workers;
    Answer {
        pid: 4711,
        state: "serving".to_owned(),
        sentence: format!("{slots}/{slots} ready, settings generation 3"),
        uptime_s,
        addresses: vec!["127.0.0.1:4444".to_owned(), "[::1]:4444".to_owned()],
        held_back: Vec::new(),
        status,
    }
}

/// A slot that gets less than its share.
pub fn held(slot: u32, share: f64, why: &str) -> HeldBack {
    HeldBack { slot, share, why: why.to_owned() }
}

/// The master says this, `at` seconds after the start.
pub fn sample(model: &mut Model, answer: Answer, at: u64) {
    assert_eq!(model.step(Happening::Sample(Box::new(Ok(answer))), Duration::from_secs(at)), None);
}
