//! What is known of a request while it is worked on. The protocol fills it in; the edge counts the request by it when it is
//! over; its entry in the row's ring shows it to a crash report.
//!
//! Never an argument of a call. A call may outlive its request (a legacy client hung up): what is noted then is nobody's.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{
    Counters, InFlight, METHODS, RequestEra, RequestOutcome, Row, Rows, method_index,
};

use crate::lifecycle::task;
use crate::revision::Era;

/// See the module.
pub struct Note {
    rows: Arc<Rows>,
    row_index: usize,
    /// The entry in the ring, while the request is in flight and has one.
    entry: Cell<Option<usize>>,
    era: Cell<RequestEra>,
    method: Cell<usize>,
    is_rpc_error: Cell<bool>,
    /// How long upstreams had it, nanoseconds; none = not known.
    upstream_ns: Cell<Option<u64>>,
}

/// What a request is when no message says more: the first words of [`METHODS`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// A call of the registry's API.
    Api = 0,
    /// A client opens the event stream of its session.
    Stream = 1,
    /// A client ends its session.
    EndSession = 2,
    /// A message that wants no answer.
    Notification = 3,
    /// An answer to something that was never asked.
    Response = 4,
}

/// What no message is about has no method; a method with such a name is none that is known.
const KINDS: usize = Kind::Response as usize + 1;

impl Note {
    /// Nothing is known yet. `entry` is the request's place in the ring of row `row_index`.
    pub fn new(rows: Arc<Rows>, row_index: usize, entry: Option<usize>) -> Note {
        Note {
            rows,
            row_index,
            entry: Cell::new(entry),
            era: Cell::default(),
            method: Cell::new(METHODS.len() - 1),
            is_rpc_error: Cell::new(false),
            upstream_ns: Cell::new(Some(0)),
        }
    }

    /// The client's era.
    pub fn era(&self, era: Era) {
        self.era.set(match era {
            Era::Legacy => RequestEra::Legacy,
            Era::Modern => RequestEra::Modern,
        });
    }

    /// What the request is.
    pub fn kind(&self, kind: Kind) {
        self.method.set(kind as usize);
    }

    /// The JSON-RPC method of a request. The words of [`Kind`] are none.
    pub fn method(&self, method: &str) {
        self.method.set(match method_index(method) {
            index if index < KINDS => METHODS.len() - 1,
            index => index,
        });
        self.with_entry(|entry| entry.method.set(method));
    }

    /// The tool, prompt or URI.
    pub fn object(&self, object: &str) {
        self.with_entry(|entry| entry.object.set(object));
    }

    /// Who calls.
    pub fn caller(&self, subject: &str) {
        self.with_entry(|entry| entry.caller.set(subject));
    }

    /// The interned index of the upstream that answers.
    pub fn upstream(&self, index: usize) {
        self.with_entry(|entry| entry.upstream.store(index as u64, Relaxed));
    }

    /// The task that runs now is the one that works on it.
    pub fn worked_on_here(&self) {
        self.with_entry(|entry| entry.task.store(task::current(), Relaxed));
    }

    /// The task that runs now is the one that waits for its answer: a modern call is worked on there, a legacy one has a
    /// task of its own.
    pub fn waited_for_here(&self) {
        if self.era.get() == RequestEra::Modern {
            self.worked_on_here();
        }
    }

    /// It was answered with an error of JSON-RPC, or with a failure of ours in the place of a tool's result.
    pub fn rpc_error(&self) {
        self.is_rpc_error.set(true);
    }

    /// An upstream had it for so many nanoseconds.
    pub fn upstream_had_it(&self, ns: u64) {
        self.upstream_ns.set(self.upstream_ns.get().map(|sum| sum + ns));
    }

    /// Nobody knows how long an upstream had it: its time says nothing.
    pub fn untimed(&self) {
        self.upstream_ns.set(None);
    }

    /// The request is over: counts it, with `total_ns` from its first to its last byte when that means anything. From now
    /// on its entry in the ring belongs to others.
    pub fn count(&self, end: RequestEnd, total_ns: Option<u64>) {
        let counters = &self.row().counters;
        let outcome = end.outcome(self.is_rpc_error.get());
        Counters::add(counters.requests_by.cell(self.era.get(), self.method.get(), outcome), 1);
        let is_timed = self.era.get() != RequestEra::None && outcome != RequestOutcome::Abandoned;
        if let (true, Some(total), Some(upstream)) = (is_timed, total_ns, self.upstream_ns.get()) {
            counters.own_time.observe(total.saturating_sub(upstream));
        }
    }

    /// Its entry in the ring belongs to others from now on; gives the entry.
    pub fn leave_ring(&self) -> Option<usize> {
        self.entry.take()
    }

    fn row(&self) -> &Row {
        self.rows.row(self.row_index)
    }

    fn with_entry(&self, write: impl FnOnce(&InFlight)) {
        if let Some(index) = self.entry.get() {
            write(&self.row().in_flight_ring[index]);
        }
    }
}

/// How a request ended, as HTTP sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The client left before the answer began.
    Abandoned,
    /// Its handler panicked.
    Panicked,
    /// Answered with this status.
    Answered(u16),
}

impl RequestEnd {
    fn outcome(self, is_rpc_error: bool) -> RequestOutcome {
        match self {
            RequestEnd::Abandoned => RequestOutcome::Abandoned,
            RequestEnd::Panicked => RequestOutcome::Failed,
            RequestEnd::Answered(_) if is_rpc_error => RequestOutcome::RpcError,
            RequestEnd::Answered(400..500) => RequestOutcome::Refused,
            RequestEnd::Answered(500..) => RequestOutcome::Failed,
            RequestEnd::Answered(_) => RequestOutcome::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(entry: Option<usize>) -> Note {
        Note::new(Arc::new(Rows::create(1).expect("rows").0), 0, entry)
    }

    #[test]
    fn what_is_noted_stands_in_the_ring_until_the_request_has_left_it() {
        let note = note(Some(3));
        note.method("tools/call");
        note.object("everything__echo");
        note.caller("alice");
        note.upstream(7);
        let entry = &note.row().in_flight_ring[3];
        let read = || (entry.method.get(), entry.object.get(), entry.caller.get());
        assert_eq!(read(), ("tools/call".into(), "everything__echo".into(), "alice".into()));
        assert_eq!(entry.upstream.load(Relaxed), 7);
        assert_eq!(note.leave_ring(), Some(3));
        note.object("of a call that outlived its request");
        assert_eq!(entry.object.get(), "everything__echo");
    }

    #[test]
    fn how_a_request_ended_is_one_outcome() {
        use RequestOutcome::*;
        for (end, is_rpc_error, outcome) in [
            (RequestEnd::Answered(200), false, Ok),
            (RequestEnd::Answered(202), false, Ok),
            (RequestEnd::Answered(200), true, RpcError),
            (RequestEnd::Answered(404), true, RpcError),
            (RequestEnd::Answered(401), false, Refused),
            (RequestEnd::Answered(503), false, Failed),
            (RequestEnd::Abandoned, true, Abandoned),
            (RequestEnd::Panicked, false, Failed),
        ] {
            assert_eq!(end.outcome(is_rpc_error), outcome, "{end:?} {is_rpc_error}");
        }
    }

    #[test]
    fn a_client_cannot_pass_a_message_off_as_something_else() {
        let note = note(None);
        note.era(Era::Modern);
        for method in ["api", "no/such", "notification"] {
            note.method(method);
            assert_eq!(METHODS[note.method.get()], "other", "{method}");
        }
        let words = ["api", "stream", "end_session", "notification", "response"];
        assert_eq!((&METHODS[..KINDS], METHODS[Kind::Stream as usize]), (&words[..], "stream"));
        note.method("tools/call");
        note.count(RequestEnd::Answered(200), None);
        let counters = &note.row().counters;
        let cell =
            counters.requests_by.cell(RequestEra::Modern, method_index("tools/call"), RequestOutcome::Ok);
        assert_eq!(cell.load(Relaxed), 1);
    }

    #[test]
    fn own_time_is_what_upstreams_did_not_have() {
        let timed = |prepare: &dyn Fn(&Note)| {
            let note = note(None);
            note.era(Era::Legacy);
            prepare(&note);
            note.count(RequestEnd::Answered(200), Some(5_000_000));
            let own = &note.row().counters.own_time;
            (own.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum::<u64>(), own.sum_ns.load(Relaxed))
        };
        assert_eq!(timed(&|_| ()), (1, 5_000_000));
        assert_eq!(timed(&|note| note.upstream_had_it(4_000_000)), (1, 1_000_000));
        assert_eq!(timed(&|note| note.untimed()), (0, 0));
    }
}
