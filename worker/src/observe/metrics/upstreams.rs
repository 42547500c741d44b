//! What upstreams did: calls by outcome, their time, open connections.

use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{Counters, Outcome, Rows, UPSTREAMS};

use super::page::Page;

/// Renders the upstreams that are registered, by name, and those that were, as long as something is counted for them.
pub(super) fn render<'a>(
    page: &mut Page,
    rows: &Rows,
    totals: &Counters,
    names: impl Iterator<Item = (usize, &'a str)>,
) {
    let open = connections(rows);
    let names = labels(totals, names);
    let known = || names.iter().enumerate().filter_map(|(index, name)| Some((index, name.as_ref()?)));
    page.counter(
        (
            "forkgate_upstream_calls_total",
            "Calls by upstream and outcome; calls that their client gave up are not among them.",
            &["upstream", "outcome"],
        ),
        known().flat_map(|(index, name)| {
            Outcome::ALL.map(|(outcome, word)| {
                let calls = totals.upstream.0[index][outcome as usize].load(Relaxed);
                ([name.clone(), word.to_owned()], calls)
            })
        }),
    );
    page.durations(
        (
            "forkgate_upstream_seconds",
            "From a call's sending to its response; calls without a response are not among them.",
            &["upstream"],
        ),
        known().map(|(index, name)| ([name.clone()], &totals.upstream_time.0[index])),
    );
    page.gauge(
        ("forkgate_upstream_connections", "Open connections to upstreams.", &["upstream"]),
        known().map(|(index, name)| ([name.clone()], open[index] as f64)),
    );
}

fn connections(rows: &Rows) -> [u64; UPSTREAMS] {
    std::array::from_fn(|index| {
        rows.iter().map(|row| row.upstream_connections.0[index].load(Relaxed)).fold(0, u64::saturating_add)
    })
}

/// What each index is called. The last one is shared by all that came too late for one of their own; counts of an upstream
/// that is registered no more stay, under its number.
fn labels<'a>(
    totals: &Counters,
    names: impl Iterator<Item = (usize, &'a str)>,
) -> [Option<String>; UPSTREAMS] {
    let mut labels = [const { None }; UPSTREAMS];
    for (index, name) in names {
        let own = index < UPSTREAMS - 1;
        labels[index.min(UPSTREAMS - 1)] = Some(if own { name } else { "others" }.to_owned());
    }
    for (index, label) in labels.iter_mut().enumerate() {
        let was_called = totals.upstream.0[index].iter().any(|cell| cell.load(Relaxed) > 0);
        if label.is_none() && was_called {
            *label = Some(format!("#{index}"));
        }
    }
    labels
}
