//! `ctl workers` and `ctl worker SLOT` for people.

use super::table::{aligned, memory, span};
use crate::system::ctl::{Details, Slot, Worker, Workers};

const COLUMNS: [&str; 11] =
    ["slot", "pid", "place", "phase", "age", "requests", "conns", "busy", "memory", "queue", "why"];

/// One line per process.
pub(super) fn list(answer: &Workers) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(answer.workers.iter().map(cells));
    aligned(&lines)
}

fn cells(worker: &Worker) -> [String; COLUMNS.len()] {
    let row = &worker.row;
    [
        row.slot.to_string(),
        row.pid.to_string(),
        worker.place.clone(),
        worker.phase.clone(),
        span(row.age_s),
        row.requests.to_string(),
        row.connections.to_string(),
        format!("{:.0}%", row.busy * 100.0),
        memory(row.private_bytes),
        worker.accept_queue.to_string(),
        why(worker),
    ]
}

/// What is behind a worker's phase, what its watchdog says, and why it gets fewer clients.
fn why(worker: &Worker) -> String {
    let claim = Some(&worker.row.watchdog).filter(|claim| !claim.is_empty());
    // A suspicion is the reason and the cause of the share, too.
    let is_new = |word: &&String| worker.reason.as_ref() != Some(*word) && claim.is_none();
    let held_back = worker.held_back.as_ref().filter(is_new).filter(|_| worker.place == "primary");
    let words: Vec<&str> = worker.reason.iter().chain(claim).chain(held_back).map(String::as_str).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// Everything about one slot.
pub(super) fn slot(slot: &Slot) -> String {
    let mut text = format!("slot {}: {}\n", slot.slot, state(slot));
    if let Some(path) = &slot.last_report {
        text += &format!("last report: {} (`forkgate ctl why {}`)\n", path.display(), slot.slot);
    }
    slot.workers.iter().for_each(|details| text += &worker(details));
    text
}

fn state(slot: &Slot) -> String {
    let share = (slot.share < 1.0).then(|| {
        let why = slot.held_back.as_deref().unwrap_or("the others are better");
        format!("{:.0} % of its share of new clients ({why})", slot.share * 100.0)
    });
    let start = slot.next_start_s.map(|seconds| match seconds {
        0.0 => "no worker, the next one starts as soon as that may be".to_owned(),
        seconds => format!("no worker, the next one starts in {seconds:.1} s"),
    });
    let words = [
        (!slot.open && !slot.retiring).then(|| "its socket is not there yet".to_owned()),
        slot.retiring.then(|| "it goes away".to_owned()),
        slot.paused.then(|| "paused by an operator".to_owned()),
        share,
        slot.wish.as_ref().map(|reason| format!("its worker is to be replaced: {reason}")),
        start,
        Some(format!("{} connections wait to be accepted", slot.accept_queue)),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn worker(details: &Details) -> String {
    let (worker, row, event_loop) = (&details.worker, &details.worker.row, &details.event_loop);
    let limit = if row.request_limit == 0 { String::new() } else { format!(" of {}", row.request_limit) };
    let leaves = row.leaves_in_s.map(|seconds| format!(", gone in {} at the latest", span(seconds)));
    let claim = if row.watchdog.is_empty() { "nothing is wrong" } else { &row.watchdog };
    let overloaded = if event_loop.overloaded { ", sheds load" } else { "" };
    let mut text = format!(
        "\nworker pid {}, child {}, {}, {}: {}, {} old{}\n  \
         requests {}{limit}, in flight {}, connections {}, streams {}, calls without a client {}\n  \
         memory {}, event loop {:.0}% busy, longest poll {} ms, late by {} ms{overloaded}, {} tasks, {} wake storms\n  \
         watchdog: {claim}; settings generation {}, catalog generation {}\n",
        row.pid,
        row.generation,
        worker.place,
        worker.phase,
        worker.reason.as_deref().unwrap_or("well"),
        span(row.age_s),
        leaves.unwrap_or_default(),
        row.requests,
        row.in_flight,
        row.connections,
        row.streams,
        row.abandoned_calls,
        memory(row.private_bytes),
        row.busy * 100.0,
        event_loop.longest_poll_ms,
        event_loop.lag_ms,
        event_loop.tasks,
        event_loop.wake_storms,
        row.settings_generation,
        row.catalog_generation,
    );
    for request in &details.requests_in_flight {
        text += &format!("  request: {request}\n");
    }
    text
}
