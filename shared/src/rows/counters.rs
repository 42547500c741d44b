//! Counters that survive the process, because the master folds them into the base when it died.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::Histogram;

/// Upstreams with counters of their own; the ones registered after these share the last cell.
pub const UPSTREAMS: usize = 64;

/// Bytes moved that are one unit of work.
pub const BYTES_PER_UNIT: u64 = 64 * 1024;

/// Connections accepted and probes answered that are one unit of work. The few of load balancers do not hide a spin; a
/// flood of them keeps a loop busy and is no spin.
const SMALL_THINGS_PER_UNIT: u64 = 10;

/// Units of work per second without rest below which nothing honest is known: the slowest call costs some milliseconds,
/// and what moves bytes is counted by its bytes. Who does more does not spin.
pub const SPIN_FLOOR: u64 = 20;

/// What became of a call to an upstream: the second index of [`Counters::upstream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// It answered with a result.
    Ok = 0,
    /// It answered with a JSON-RPC error.
    RpcError = 1,
    /// It could not be reached, broke off or answered nonsense.
    Failed = 2,
    /// It did not answer within the deadline.
    TimedOut = 3,
}

impl Outcome {
    /// All outcomes with the words for metrics, in index order.
    pub const ALL: [(Outcome, &'static str); 4] = [
        (Outcome::Ok, "ok"),
        (Outcome::RpcError, "rpc_error"),
        (Outcome::Failed, "failed"),
        (Outcome::TimedOut, "timed_out"),
    ];
}

/// The era of a request's client: the first index of [`Counters::requests_by`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(usize)]
pub enum RequestEra {
    /// No MCP: the registry's API and everything else.
    #[default]
    None = 0,
    /// Up to 2025-11-25.
    Legacy = 1,
    /// 2026-07-28.
    Modern = 2,
}

impl RequestEra {
    /// The words for metrics, in index order.
    pub const WORDS: [&'static str; 3] = ["none", "legacy", "modern"];
}

/// What became of a request: the third index of [`Counters::requests_by`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(usize)]
pub enum RequestOutcome {
    /// Answered.
    #[default]
    Ok = 0,
    /// Answered with a JSON-RPC error, the upstream's or ours.
    RpcError = 1,
    /// HTTP status 4xx.
    Refused = 2,
    /// HTTP status 5xx.
    Failed = 3,
    /// The client left before the answer began.
    Abandoned = 4,
}

impl RequestOutcome {
    /// The words for metrics, in index order.
    pub const WORDS: [&'static str; 5] = ["ok", "rpc_error", "refused", "failed", "abandoned"];
}

/// The methods that requests are counted by: the second index of [`Counters::requests_by`]. What is not here counts as
/// the last, so that a client cannot make up labels.
pub const METHODS: [&str; 19] = [
    "api",
    "stream",
    "end_session",
    "notification",
    "response",
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "other",
];

/// The index of a method in [`METHODS`].
pub fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

/// See the module.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Counters {
    /// Requests answered on the main port, health checks excluded: what `GATEWAY_MAX_REQUESTS` counts.
    pub requests: AtomicU64,
    /// Connections accepted on the main port.
    pub accepted: AtomicU64,
    /// Connections on the main port that moved to an heir; they are counted as accepted once, where they came in.
    pub handed_over: AtomicU64,
    /// Bytes received from clients.
    pub bytes_in: AtomicU64,
    /// Bytes sent to clients.
    pub bytes_out: AtomicU64,
    /// Panics that ended a task, not the worker.
    pub panics: AtomicU64,
    /// Answers by class of HTTP status: 1xx … 5xx.
    pub status: [AtomicU64; 5],
    /// The same requests as `requests`, by [`RequestEra`], [`METHODS`] and [`RequestOutcome`].
    pub requests_by: RequestsBy,
    /// From a request's first byte to the last byte of its answer, without the time that an upstream had it. Only requests
    /// of MCP that were answered whole: no streams, no calls that their upstream did not answer.
    pub own_time: Histogram,
    /// Calls by upstream (interned index, see the catalog) and [`Outcome`].
    pub upstream: Upstreams,
    /// From a call's sending to its response, by upstream.
    pub upstream_time: UpstreamTimes,
}

/// See [`Counters::requests_by`].
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RequestsBy([[[AtomicU64; RequestOutcome::WORDS.len()]; METHODS.len()]; RequestEra::WORDS.len()]);

impl RequestsBy {
    /// The cell of one combination.
    pub fn cell(&self, era: RequestEra, method: usize, outcome: RequestOutcome) -> &AtomicU64 {
        &self.0[era as usize][method.min(METHODS.len() - 1)][outcome as usize]
    }
}

/// See [`Counters::upstream`].
#[derive(Debug)]
#[repr(transparent)]
pub struct Upstreams(pub [[AtomicU64; 4]; UPSTREAMS]);

impl Default for Upstreams {
    fn default() -> Self {
        Upstreams(std::array::from_fn(|_| Default::default()))
    }
}

/// See [`Counters::upstream_time`].
#[derive(Debug)]
#[repr(transparent)]
pub struct UpstreamTimes(pub [Histogram; UPSTREAMS]);

impl Default for UpstreamTimes {
    fn default() -> Self {
        UpstreamTimes(std::array::from_fn(|_| Default::default()))
    }
}

impl Counters {
    /// Adds to a counter of the caller's own row.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Counts a call to the upstream with this interned index.
    pub fn count_upstream(&self, upstream: usize, outcome: Outcome) {
        self.upstream.0[upstream.min(UPSTREAMS - 1)][outcome as usize].fetch_add(1, Relaxed);
    }

    /// Units of work beside the requests, which are one each: connections and probes, which are a part of one, and the
    /// bytes of clients with `more_bytes`.
    pub fn small_work(&self, more_bytes: u64) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let bytes = load(&self.bytes_in).saturating_add(load(&self.bytes_out)).saturating_add(more_bytes);
        let answers = self.status.iter().map(load).fold(0, u64::saturating_add);
        let probes = answers.saturating_sub(load(&self.requests));
        let small_things = load(&self.accepted).saturating_add(probes);
        (bytes / BYTES_PER_UNIT).saturating_add(small_things / SMALL_THINGS_PER_UNIT)
    }

    /// Adds all of `other` to this.
    pub fn add_all(&self, other: &Counters) {
        for (total, cell) in self.cells().zip(other.cells()) {
            total.fetch_add(cell.load(Relaxed), Relaxed);
        }
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        [&self.requests, &self.accepted, &self.handed_over, &self.bytes_in, &self.bytes_out, &self.panics]
            .into_iter()
            .chain(&self.status)
            .chain(self.requests_by.0.iter().flatten().flatten())
            .chain(self.own_time.cells())
            .chain(self.upstream.0.iter().flatten())
            .chain(self.upstream_time.0.iter().flat_map(Histogram::cells))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_folded() {
        let counters = Counters::default();
        // The rest is what the alignment adds.
        let unfolded = size_of_val(&counters) - counters.cells().count() * size_of::<AtomicU64>();
        assert!(unfolded < 64, "{unfolded} bytes are not folded");
    }

    #[test]
    fn a_method_that_nobody_knows_has_no_label_of_its_own() {
        assert_eq!(METHODS[method_index("tools/call")], "tools/call");
        assert_eq!(METHODS[method_index("tools/call\"} 9")], "other");
    }
}
