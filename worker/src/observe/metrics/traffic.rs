//! What clients did: requests, answers, bytes, and the gateway's own share of the time.

use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{Counters, METHODS, RequestEra, RequestOutcome};

use super::page::{Labels, Page};

const ERAS: [RequestEra; RequestEra::WORDS.len()] =
    [RequestEra::None, RequestEra::Legacy, RequestEra::Modern];
const OUTCOMES: [RequestOutcome; RequestOutcome::WORDS.len()] = [
    RequestOutcome::Ok,
    RequestOutcome::RpcError,
    RequestOutcome::Refused,
    RequestOutcome::Failed,
    RequestOutcome::Abandoned,
];

pub(super) fn render(page: &mut Page, totals: &Counters) {
    page.counter(
        (
            "forkgate_requests_total",
            "Requests on the main port that ended, health checks excluded.",
            &["era", "method", "outcome"],
        ),
        requests(totals),
    );
    page.durations(
        (
            "forkgate_request_own_seconds",
            "From a request's first byte to the last of its answer, without the time that the upstream had it. MCP \
             requests that were answered whole, streams excluded.",
            &[],
        ),
        [(Labels::new(), &totals.own_time)],
    );
    page.counter(
        ("forkgate_connections_accepted_total", "Connections accepted on the main port.", &[]),
        [(Labels::new(), totals.accepted.load(Relaxed))],
    );
    page.counter(
        (
            "forkgate_connections_handed_over_total",
            "Connections that moved from a worker that left to the next one; each was accepted once.",
            &[],
        ),
        [(Labels::new(), totals.handed_over.load(Relaxed))],
    );
    page.counter(
        ("forkgate_bytes_total", "Bytes received from (in) and sent to (out) clients.", &["direction"]),
        [("in", &totals.bytes_in), ("out", &totals.bytes_out)]
            .map(|(direction, cell)| ([direction.to_owned()], cell.load(Relaxed))),
    );
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(&totals.status);
    page.counter(
        ("forkgate_responses_total", "Answers on the main port by class of HTTP status.", &["class"]),
        classes.map(|(class, cell)| ([class.to_owned()], cell.load(Relaxed))),
    );
    page.counter(
        ("forkgate_panics_total", "Panics that ended a task, not its worker.", &[]),
        [(Labels::new(), totals.panics.load(Relaxed))],
    );
}

/// The combinations that occurred; and one that is always there, so that the total never vanishes.
fn requests(totals: &Counters) -> impl Iterator<Item = (Labels, u64)> {
    let combinations = ERAS.into_iter().flat_map(|era| {
        (0..METHODS.len()).flat_map(move |method| OUTCOMES.map(|outcome| (era, method, outcome)))
    });
    combinations.enumerate().filter_map(|(index, (era, method, outcome))| {
        let count = totals.requests_by.cell(era, method, outcome).load(Relaxed);
        let words =
            [RequestEra::WORDS[era as usize], METHODS[method], RequestOutcome::WORDS[outcome as usize]];
        (count > 0 || index == 0).then(|| (words.map(str::to_owned).to_vec(), count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eras_and_outcomes_stand_at_their_index() {
        assert!(ERAS.iter().enumerate().all(|(index, era)| *era as usize == index));
        assert!(OUTCOMES.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
    }

    #[test]
    fn only_what_occurred_is_shown_and_the_total_never_vanishes() {
        let totals = Counters::default();
        assert_eq!(requests(&totals).map(|(_, count)| count).collect::<Vec<_>>(), [0]);
        totals.requests_by.cell(RequestEra::Modern, 9, RequestOutcome::RpcError).store(3, Relaxed);
        let shown: Vec<_> = requests(&totals).collect();
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[1], (["modern", "tools/call", "rpc_error"].map(str::to_owned).to_vec(), 3));
    }
}
