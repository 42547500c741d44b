//! The shared rows as Prometheus metrics.
//!
//! Counters never go backwards: they are sums over the base (dead workers) and the rows, all read at one moment in which no
//! row is being folded.

mod page;
mod supervision;
mod traffic;
mod upstreams;
mod workers;

use forkgate_shared::rows::Rows;

use self::page::Page;

/// Renders everything; nothing when the totals cannot be read whole. `names` gives the names of the upstreams by their counters' index.
pub(super) fn render<'a>(
    rows: &Rows,
    names: impl Iterator<Item = (usize, &'a str)>,
) -> Option<prometheus::Result<Vec<u8>>> {
    let totals = rows.totals()?;
    let mut page = Page::default();
    traffic::render(&mut page, &totals);
    upstreams::render(&mut page, rows, &totals, names);
    workers::render(&mut page, rows);
    supervision::render(&mut page, rows.base());
    Some(page.text())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use forkgate_shared::rows::{
        Counters, Outcome, RequestEra, RequestOutcome, RowState, UPSTREAMS, method_index,
    };
    use forkgate_shared::verdict::{Claim, Stage, Verdict};

    use super::*;

    fn page(rows: &Rows) -> String {
        let names = [(0, "demo"), (UPSTREAMS + 5, "late")];
        String::from_utf8(render(rows, names.into_iter()).expect("whole").expect("rendered")).expect("text")
    }

    #[test]
    fn every_number_is_there_with_its_labels() {
        let (rows, _fd) = Rows::create(4).expect("rows");
        let row = rows.row(1);
        row.state.store(RowState::Serving as u32, Relaxed);
        row.slot.store(3, Relaxed);
        row.private_bytes.store(4096, Relaxed);
        row.connection_limit.store(900, Relaxed);
        row.evidence.busy_permille.store(250, Relaxed);
        row.evidence.longest_poll_ns.store(8_000_000, Relaxed);
        row.evidence.claim.store(Claim { verdict: Verdict::Spin, stage: Stage::Suspect }.pack(), Relaxed);
        row.upstream_connections.0[0].store(2, Relaxed);
        let call = method_index("tools/call");
        Counters::add(row.counters.requests_by.cell(RequestEra::Legacy, call, RequestOutcome::Ok), 5);
        Counters::add(&row.counters.status[1], 4);
        row.counters.own_time.observe(200_000);
        row.counters.count_upstream(0, Outcome::Ok);
        row.counters.count_upstream(7, Outcome::Failed);
        row.counters.upstream_time.0[0].observe(2_000_000_000);
        rows.base().recycles[1].store(2, Relaxed);
        rows.base().spared[Verdict::Spin.index()].store(1, Relaxed);
        rows.base().drain_time.observe(3_000_000_000);
        rows.base().accept_queue[3].store(17, Relaxed);
        rows.base().boot_failures.store(3, Relaxed);
        rows.base().oom_kills.store(2, Relaxed);
        rows.base().degraded.store(1, Relaxed);
        let text = page(&rows);
        for line in [
            "forkgate_requests_total{era=\"legacy\",method=\"tools/call\",outcome=\"ok\"} 5",
            "forkgate_requests_total{era=\"none\",method=\"api\",outcome=\"ok\"} 0",
            "forkgate_responses_total{class=\"2xx\"} 4",
            "forkgate_bytes_total{direction=\"in\"} 0",
            "forkgate_request_own_seconds_bucket{le=\"0.0001\"} 0",
            "forkgate_request_own_seconds_bucket{le=\"0.00025\"} 1",
            "forkgate_upstream_calls_total{upstream=\"demo\",outcome=\"ok\"} 1",
            "forkgate_upstream_calls_total{upstream=\"#7\",outcome=\"failed\"} 1",
            "forkgate_upstream_calls_total{upstream=\"others\",outcome=\"ok\"} 0",
            "forkgate_upstream_seconds_sum{upstream=\"demo\"} 2",
            "forkgate_upstream_connections{upstream=\"demo\"} 2",
            "forkgate_workers{state=\"serving\"} 1",
            "forkgate_workers{state=\"booting\"} 0",
            "forkgate_workers_suspected{verdict=\"spin\"} 1",
            "forkgate_workers_suspected{verdict=\"memory\"} 0",
            "forkgate_worker_private_bytes{slot=\"3\"} 4096",
            "forkgate_connections_limit{slot=\"3\"} 900",
            "forkgate_worker_busy_ratio{slot=\"3\"} 0.25",
            "forkgate_worker_longest_poll_seconds{slot=\"3\"} 0.008",
            "forkgate_worker_starved{slot=\"3\"} 0",
            "forkgate_accept_queue_connections{slot=\"3\"} 17",
            "forkgate_recycles_total{reason=\"memory\"} 2",
            "forkgate_kills_total{verdict=\"boot\"} 0",
            "forkgate_kills_total{verdict=\"stall_cpu\"} 0",
            "forkgate_verdicts_spared_total{verdict=\"spin\"} 1",
            "forkgate_drain_seconds_count 1",
            "forkgate_worker_ready_seconds_count 0",
            "forkgate_panics_total 0",
            "forkgate_boot_failures_total 3",
            "forkgate_oom_kills_total 2",
            "forkgate_degraded 1",
            "forkgate_catalog_generation 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_workers_end_takes_nothing_away() {
        let (rows, _fd) = Rows::create(2).expect("rows");
        let cell = |row: usize| {
            rows.row(row)
                .counters
                .requests_by
                .cell(RequestEra::None, 0, RequestOutcome::Ok)
                .fetch_add(5, Relaxed)
        };
        cell(0);
        cell(1);
        rows.fold(0);
        let line = "forkgate_requests_total{era=\"none\",method=\"api\",outcome=\"ok\"} 10";
        assert!(page(&rows).contains(line), "{}", page(&rows));
    }

    #[test]
    fn two_workers_of_a_slot_are_added_up_and_the_worse_time_is_shown() {
        let (rows, _fd) = Rows::create(2).expect("rows");
        for (index, busy) in [(0, 900), (1, 100)] {
            let row = rows.row(index);
            row.state.store(RowState::Draining as u32, Relaxed);
            row.connections.store(3, Relaxed);
            row.evidence.busy_permille.store(busy, Relaxed);
        }
        let text = page(&rows);
        for line in ["forkgate_connections{slot=\"0\"} 6", "forkgate_worker_busy_ratio{slot=\"0\"} 0.9"] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
