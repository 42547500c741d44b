//! The shared rows as Prometheus metrics.
//!
//! Counters never go backwards: they are sums over the base (dead workers) and the rows. A reading that races with the
//! master's folding of a row can miss that row's share, never count it twice; so each sum is read twice and the larger
//! reading is shown.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forkgate_shared::control::RecycleReason;
use forkgate_shared::rows::{Counters, KillReason, Outcome, RowState, Rows, UPSTREAMS};
use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// Renders everything. `names` gives the names of the upstreams by their counters' index.
pub(super) fn render<'a>(
    rows: &Rows,
    names: impl Iterator<Item = (usize, &'a str)>,
) -> prometheus::Result<Vec<u8>> {
    let page = Page { registry: Registry::new() };
    traffic(&page, rows)?;
    upstreams(&page, rows, names)?;
    workers(&page, rows)?;
    supervision(&page, rows)?;
    let mut text = Vec::with_capacity(8 * 1024);
    TextEncoder::new().encode(&page.registry.gather(), &mut text)?;
    Ok(text)
}

/// A page of metrics in the making: built anew for each scrape, from numbers that live elsewhere.
struct Page {
    registry: Registry,
}

impl Page {
    /// A counter with at most one label (empty name = none).
    fn counter<V: AsRef<str>>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<V>, u64)>,
    ) -> prometheus::Result<()> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
            counter.get_metric_with_label_values(&labels)?.inc_by(value);
        }
        self.registry.register(Box::new(counter))
    }

    fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, u64)>,
    ) -> prometheus::Result<()> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            gauge.get_metric_with_label_values(&labels)?.add(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.registry.register(Box::new(gauge))
    }
}

/// A sum that no race makes smaller; see the module's documentation.
fn total(rows: &Rows, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
    let read = || rows.total(|counters| pick(counters).load(Relaxed));
    read().max(read())
}

fn bare(value: u64) -> [(Vec<&'static str>, u64); 1] {
    [(Vec::new(), value)]
}

fn traffic(page: &Page, rows: &Rows) -> prometheus::Result<()> {
    page.counter(
        "forkgate_requests_total",
        "Requests on the main port that ended, health checks excluded.",
        &[],
        bare(total(rows, |counters| &counters.requests)),
    )?;
    page.counter(
        "forkgate_connections_accepted_total",
        "Connections accepted on the main port.",
        &[],
        bare(total(rows, |counters| &counters.accepted)),
    )?;
    page.counter(
        "forkgate_bytes_total",
        "Bytes received from (in) and sent to (out) clients.",
        &["direction"],
        [
            (vec!["in"], total(rows, |counters| &counters.bytes_in)),
            (vec!["out"], total(rows, |counters| &counters.bytes_out)),
        ],
    )?;
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate();
    page.counter(
        "forkgate_responses_total",
        "Answers on the main port by class of HTTP status.",
        &["class"],
        classes.map(|(index, class)| (vec![class], total(rows, |counters| &counters.status[index]))),
    )
}

fn upstreams<'a>(
    page: &Page,
    rows: &Rows,
    names: impl Iterator<Item = (usize, &'a str)>,
) -> prometheus::Result<()> {
    let mut by_index: [Option<&str>; UPSTREAMS] = [None; UPSTREAMS];
    for (index, name) in names {
        // The last cell is shared by all that came too late for one of their own.
        by_index[index.min(UPSTREAMS - 1)] = Some(if index < UPSTREAMS - 1 { name } else { "others" });
    }
    let mut values = Vec::new();
    for (index, name) in by_index.into_iter().enumerate() {
        for (outcome, word) in Outcome::ALL {
            let calls = total(rows, |counters| &counters.upstream.0[index][outcome as usize]);
            // Counts of an upstream that is registered no more stay, under its number.
            let name = match name {
                Some(name) => name.to_owned(),
                None if calls > 0 => format!("#{index}"),
                None => continue,
            };
            values.push((vec![name, word.to_owned()], calls));
        }
    }
    page.counter(
        "forkgate_upstream_calls_total",
        "Calls by upstream and outcome.",
        &["upstream", "outcome"],
        values,
    )
}

fn workers(page: &Page, rows: &Rows) -> prometheus::Result<()> {
    let alive = || {
        rows.iter().filter_map(|row| match RowState::from_u32(row.state.load(Relaxed)) {
            RowState::Free => None,
            RowState::Booting => Some((row, "booting")),
            RowState::Serving => Some((row, "serving")),
            RowState::Draining => Some((row, "draining")),
        })
    };
    let states = ["booting", "serving", "draining"];
    let counted = states.map(|state| {
        (vec![state.to_owned()], alive().filter(|(_, current)| *current == state).count() as u64)
    });
    page.gauge("forkgate_workers", "Worker processes by state.", &["state"], counted)?;
    let by_slot = |pick: fn(&forkgate_shared::rows::Row) -> &AtomicU64| {
        alive().map(move |(row, _)| (vec![row.slot.load(Relaxed).to_string()], pick(row).load(Relaxed)))
    };
    page.gauge(
        "forkgate_worker_private_bytes",
        "Private memory by slot, as of the last sample; during a replacement the sum of both workers.",
        &["slot"],
        by_slot(|row| &row.private_bytes),
    )?;
    page.gauge(
        "forkgate_connections",
        "Open connections on the main port, by slot.",
        &["slot"],
        by_slot(|row| &row.connections),
    )?;
    page.gauge(
        "forkgate_requests_in_flight",
        "Requests being worked on, by slot.",
        &["slot"],
        by_slot(|row| &row.in_flight),
    )?;
    page.gauge("forkgate_streams", "Open event streams, by slot.", &["slot"], by_slot(|row| &row.streams))
}

fn supervision(page: &Page, rows: &Rows) -> prometheus::Result<()> {
    let base = rows.base();
    let recycles =
        RecycleReason::ALL.map(|reason| (vec![reason.as_str()], base.recycles[reason.index()].load(Relaxed)));
    page.counter("forkgate_recycles_total", "Voluntary replacements of workers.", &["reason"], recycles)?;
    page.counter(
        "forkgate_crashes_total",
        "Workers that died without being asked to.",
        &[],
        bare(base.crashes.load(Relaxed)),
    )?;
    let kills =
        KillReason::all().map(|reason| (vec![reason.as_str()], base.kills[reason.index()].load(Relaxed)));
    page.counter("forkgate_kills_total", "Workers that the master killed.", &["reason"], kills)?;
    for (name, help, cell) in [
        (
            "forkgate_catalog_generation",
            "Registry generation of the newest catalog.",
            &base.catalog_generation,
        ),
        (
            "forkgate_settings_generation",
            "Version of the settings that new workers get.",
            &base.settings_generation,
        ),
        ("forkgate_workers_target", "Workers that the master means to have.", &base.target),
    ] {
        page.gauge(name, help, &[], [(Vec::new(), cell.load(Relaxed))])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &Rows) -> String {
        let names = [(0, "demo"), (UPSTREAMS + 5, "late")];
        String::from_utf8(render(rows, names.into_iter()).expect("rendered")).expect("text")
    }

    #[test]
    fn every_number_is_there_with_its_labels() {
        let (rows, _fd) = Rows::create(4).expect("rows");
        let row = rows.row(1);
        row.state.store(RowState::Serving as u32, Relaxed);
        row.slot.store(3, Relaxed);
        row.private_bytes.store(4096, Relaxed);
        Counters::add(&row.counters.requests, 5);
        Counters::add(&row.counters.status[1], 4);
        row.counters.count_upstream(0, Outcome::Ok);
        row.counters.count_upstream(7, Outcome::Failed);
        rows.base().recycles[1].store(2, Relaxed);
        let text = page(&rows);
        for line in [
            "forkgate_requests_total 5",
            "forkgate_responses_total{class=\"2xx\"} 4",
            "forkgate_bytes_total{direction=\"in\"} 0",
            "forkgate_upstream_calls_total{outcome=\"ok\",upstream=\"demo\"} 1",
            "forkgate_upstream_calls_total{outcome=\"failed\",upstream=\"#7\"} 1",
            "forkgate_upstream_calls_total{outcome=\"ok\",upstream=\"others\"} 0",
            "forkgate_workers{state=\"serving\"} 1",
            "forkgate_worker_private_bytes{slot=\"3\"} 4096",
            "forkgate_recycles_total{reason=\"memory\"} 2",
            "forkgate_kills_total{reason=\"boot\"} 0",
            "forkgate_catalog_generation 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_workers_end_takes_nothing_away() {
        let (rows, _fd) = Rows::create(2).expect("rows");
        Counters::add(&rows.row(0).counters.requests, 5);
        rows.fold(0);
        assert!(page(&rows).contains("forkgate_requests_total 5"));
    }
}
