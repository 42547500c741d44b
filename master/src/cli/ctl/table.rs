//! `ctl status` for people: some lines about the whole, and a table with a line per worker.

use std::collections::BTreeMap;

use forkgate_shared::status::WorkerStatus;

use crate::system::ctl::{Answer, HeldBack};

const COLUMNS: [&str; 17] = [
    "slot",
    "row",
    "pid",
    "gen",
    "state",
    "age",
    "requests",
    "limit",
    "conns",
    "busy",
    "streams",
    "abandoned",
    "leaves",
    "memory",
    "catalog/settings",
    "loop",
    "watchdog",
];

pub(super) fn table(answer: &Answer) -> String {
    let status = &answer.status;
    let held_back = answer.held_back.iter();
    let text = format!(
        "{}\n{}{}\n{}\n{}\ncatalog generation {}, rows {} of {}\n\n",
        headline(answer),
        listening(answer),
        held_back.map(|held| format!("; slot {} gets {}", held.slot, new_clients(held))).collect::<String>(),
        totals(answer),
        ends(answer),
        status.catalog_generation,
        status.workers.len(),
        status.row_capacity,
    );
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(status.workers.iter().map(cells));
    text + &aligned(&lines)
}

/// Cells under each other.
pub fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Who it is and how it is: `forkgate 1.0.0, pid 4711, up 1h2m, serving: 4/4 ready, settings generation 3`.
pub fn headline(answer: &Answer) -> String {
    let status = &answer.status;
    // The sentence begins with the state where that is not the usual one.
    let sentence = answer.sentence.strip_prefix(&answer.state).and_then(|rest| rest.strip_prefix(": "));
    format!(
        "forkgate {}{}, pid {}, up {}, {}: {}",
        status.version,
        upgrades(status.upgrades),
        answer.pid,
        span(answer.uptime_s),
        answer.state,
        sentence.unwrap_or(&answer.sentence)
    )
}

/// Where clients connect.
pub fn listening(answer: &Answer) -> String {
    let addresses =
        if answer.addresses.is_empty() { "nothing".to_owned() } else { answer.addresses.join(", ") };
    format!("listening on {addresses}")
}

/// What has been counted since the master started.
pub fn totals(answer: &Answer) -> String {
    let status = &answer.status;
    format!(
        "requests {}, connections {}, crashes {} (for memory {}), boot failures {}",
        status.requests, status.accepted, status.crashes, status.oom_kills, status.boot_failures
    )
}

/// Why workers were ended.
pub fn ends(answer: &Answer) -> String {
    format!("killed: {}; recycled: {}", counts(&answer.status.kills), counts(&answer.status.recycles))
}

/// How often the master became another program.
fn upgrades(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => " (upgraded once)".to_owned(),
        count => format!(" (upgraded {count} times)"),
    }
}

/// What share of new clients a slot gets, and why: `no new clients: paused`.
pub fn new_clients(held: &HeldBack) -> String {
    let share = match held.share {
        0.0 => "no".to_owned(),
        share => format!("{:.0} % of its share of", share * 100.0),
    };
    format!("{share} new clients: {}", held.why)
}

/// The counts that are not zero, with their words.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let some = counts.iter().filter(|(_, count)| **count > 0);
    let words: Vec<String> = some.map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn cells(worker: &WorkerStatus) -> [String; COLUMNS.len()] {
    let limit = if worker.request_limit == 0 { "-".to_owned() } else { worker.request_limit.to_string() };
    [
        worker.slot.to_string(),
        worker.row.to_string(),
        worker.pid.to_string(),
        worker.generation.to_string(),
        worker.state.clone(),
        span(worker.age_s),
        worker.requests.to_string(),
        limit,
        worker.connections.to_string(),
        worker.in_flight.to_string(),
        worker.streams.to_string(),
        worker.abandoned_calls.to_string(),
        worker.leaves_in_s.map_or_else(|| "-".to_owned(), |seconds| format!("in {}", span(seconds))),
        memory(worker.private_bytes),
        format!("{}/{}", worker.catalog_generation, worker.settings_generation),
        format!("{:.0}%", worker.busy * 100.0),
        if worker.watchdog.is_empty() { "-".to_owned() } else { worker.watchdog.clone() },
    ]
}

/// Mebibytes; nothing before the first sample.
pub fn memory(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes => format!("{:.1}M", bytes as f64 / f64::from(1 << 20)),
    }
}

/// Two units are enough for people.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [(0.4, "0s"), (61.0, "1m1s"), (7260.0, "2h1m"), (90_000.0, "1d1h")] {
            assert_eq!(span(seconds), text);
        }
    }
}
