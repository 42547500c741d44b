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
    // The sentence begins with the state where that is not the usual one.
    let sentence = answer.sentence.strip_prefix(&answer.state).and_then(|rest| rest.strip_prefix(": "));
    let text = format!(
        "forkgate {}{}, pid {}, up {}, {}: {}\n\
         listening on {}{}\n\
         requests {}, connections {}, crashes {} (for memory {}), boot failures {}\n\
         killed: {}; recycled: {}\n\
         catalog generation {}, rows {} of {}\n\n",
        status.version,
        upgrades(status.upgrades),
        answer.pid,
        span(answer.uptime_s),
        answer.state,
        sentence.unwrap_or(&answer.sentence),
        if answer.addresses.is_empty() { "nothing".to_owned() } else { answer.addresses.join(", ") },
        answer.held_back.iter().map(new_clients).collect::<String>(),
        status.requests,
        status.accepted,
        status.crashes,
        status.oom_kills,
        status.boot_failures,
        counts(&status.kills),
        counts(&status.recycles),
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

/// How often the master became another program.
fn upgrades(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => " (upgraded once)".to_owned(),
        count => format!(" (upgraded {count} times)"),
    }
}

/// What share of new clients a slot gets, and why.
fn new_clients(held: &HeldBack) -> String {
    let share = match held.share {
        0.0 => "no".to_owned(),
        share => format!("{:.0} % of its share of", share * 100.0),
    };
    format!("; slot {} gets {share} new clients: {}", held.slot, held.why)
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
