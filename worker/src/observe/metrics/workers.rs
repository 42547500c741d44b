//! What the workers are doing now, by slot. During a replacement a slot has two: amounts are added up, of ratios and times the
//! worse one is shown.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forkgate_shared::rows::{Row, RowState, Rows, SLOTS};
use forkgate_shared::verdict::Verdict;

use super::page::{Labels, Page, seconds};

/// Amounts by slot: name, help, where they are.
type Amount = (&'static str, &'static str, fn(&Row) -> &AtomicU64);

const AMOUNTS: [Amount; 8] = [
    ("forkgate_worker_private_bytes", "Private memory, as of the last sample.", |row| &row.private_bytes),
    ("forkgate_connections", "Open connections on the main port.", |row| &row.connections),
    (
        "forkgate_connections_limit",
        "Most open connections on the main port; beyond them clients wait in the accept queue.",
        |row| &row.connection_limit,
    ),
    ("forkgate_requests_in_flight", "Requests being worked on.", |row| &row.in_flight),
    ("forkgate_streams", "Open event streams.", |row| &row.streams),
    ("forkgate_abandoned_calls", "Calls that run on although their client has left.", |row| {
        &row.abandoned_calls
    }),
    (
        "forkgate_abandoned_calls_limit",
        "Most calls without a client; beyond them further calls of these clients are refused.",
        |row| &row.abandoned_limit,
    ),
    ("forkgate_worker_tasks", "Tasks on the event loop.", |row| &row.evidence.tasks),
];

/// The worse of two: name, help, the value.
type Worse = (&'static str, &'static str, fn(&Row) -> f64);

const WORSE: [Worse; 4] = [
    ("forkgate_worker_busy_ratio", "Part of the last second that the event loop was busy.", |row| {
        row.evidence.busy_permille.load(Relaxed).min(1000) as f64 / 1e3
    }),
    (
        "forkgate_worker_longest_poll_seconds",
        "The longest time that one task kept the event loop, since the worker's start.",
        |row| seconds(row.evidence.longest_poll_ns.load(Relaxed)),
    ),
    ("forkgate_worker_lag_seconds", "How late the event loop's own timer was last.", |row| {
        seconds(row.evidence.lag_ns.load(Relaxed))
    }),
    ("forkgate_worker_starved", "1 while a worker sheds load because its event loop lags, else 0.", |row| {
        if row.evidence.starved.load(Relaxed) == 0 { 0.0 } else { 1.0 }
    }),
];

fn alive(rows: &Rows) -> impl Iterator<Item = (&Row, &'static str)> {
    rows.iter().filter_map(|row| match RowState::from_u32(row.state.load(Relaxed)) {
        RowState::Free => None,
        RowState::Booting => Some((row, "booting")),
        RowState::Serving => Some((row, "serving")),
        RowState::Draining => Some((row, "draining")),
    })
}

fn slot(row: &Row) -> [String; 1] {
    [row.slot.load(Relaxed).to_string()]
}

pub(super) fn render(page: &mut Page, rows: &Rows) {
    let none = ["booting", "serving", "draining"].map(|state| (state, 0.0));
    let counted = none.into_iter().chain(alive(rows).map(|(_, state)| (state, 1.0)));
    page.gauge(
        ("forkgate_workers", "Worker processes by state.", &["state"]),
        counted.map(|(state, count)| ([state.to_owned()], count)),
    );
    let target = rows.base().target.load(Relaxed);
    page.gauge(
        ("forkgate_workers_target", "Workers that the master means to have.", &[]),
        [(Labels::new(), target as f64)],
    );
    let none = Verdict::ALL.map(|verdict| (verdict, 0.0));
    let claims = alive(rows).filter_map(|(row, _)| Some((row.evidence.claim()?.verdict, 1.0)));
    page.gauge(
        (
            "forkgate_workers_suspected",
            "Workers whose own watchdog says that something is wrong.",
            &["verdict"],
        ),
        none.into_iter().chain(claims).map(|(verdict, count)| ([verdict.as_str().to_owned()], count)),
    );
    for (name, help, cell) in AMOUNTS {
        let amounts = alive(rows).map(|(row, _)| (slot(row), cell(row).load(Relaxed) as f64));
        page.gauge((name, help, &["slot"]), amounts);
    }
    for (name, help, value) in WORSE {
        page.largest((name, help, &["slot"]), alive(rows).map(|(row, _)| (slot(row), value(row))));
    }
    // The queue is the slot's, not the worker's.
    let slots: BTreeSet<usize> = alive(rows).map(|(row, _)| row.slot.load(Relaxed) as usize).collect();
    let depths = slots
        .into_iter()
        .filter(|slot| *slot < SLOTS)
        .map(|slot| ([slot.to_string()], rows.base().accept_queue[slot].load(Relaxed) as f64));
    page.gauge(
        ("forkgate_accept_queue_connections", "Connections that wait to be accepted.", &["slot"]),
        depths,
    );
}
