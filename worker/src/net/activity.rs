//! What one connection is doing, and until when it may go on doing it.
//!
//! | phase | begins with | may last |
//! |---|---|---|
//! | silent | accept | the header timeout; while draining: the keep-alive grace too |
//! | idle | the last byte of an answer | for ever; while draining: the keep-alive grace |
//! | head | the first byte of a request | the header timeout |
//! | request | the end of the request's head | as long as the handler takes |
//! | flushing | the last chunk of the answer's body | the send timeout, from the last progress |
//! | lingering | our FIN | two seconds |
//!
//! In every phase a peer that takes nothing of what is written is given up after the send timeout. A part of a
//! pipelined head that hyper already holds counts as idle: its owner has an answer and may as well be silent.
//!
//! "Draining" is here: with the close announced. While connections may move to an heir they have no grace to wait for.
//! In the first three phases, with nothing to write and nothing left of the last request's body, a connection is at rest and
//! may move ([`Activity::rest`]).

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Duration;

use forkgate_shared::rows::monotonic_ns;

/// How long a peer may take to close its side after we closed ours: a few round trips. nginx waits 5 s between reads.
pub const LINGER_TIME: Duration = Duration::from_secs(2);

/// Bytes of a request's method and path that are kept for reports.
pub const LABEL: usize = 32;

/// See the table in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has arrived yet.
    Silent,
    /// Between requests.
    Idle,
    /// A request's head has begun to arrive.
    Head,
    /// A handler works on the request, or its answer's body is still being produced.
    Request,
    /// The answer is complete and on its way into the socket.
    Flushing,
    /// Our side is closed; what the peer still sends is discarded.
    Lingering,
}

/// What a connection is doing that may move to another process; the clock is the same there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// [`Phase::Silent`], [`Phase::Idle`] or [`Phase::Head`].
    pub phase: Phase,
    /// Since when, in monotonic nanoseconds.
    pub since_ns: u64,
}

/// What happens to a connection whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A head, or the first byte on a connection, took too long.
    SlowHead,
    /// The peer took nothing for too long.
    StalledReader,
    /// The worker drains and the connection stayed idle.
    GraceOver,
    /// The peer did not close its side.
    LingerOver,
}

/// How long a connection may do what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a head to its end; and from accept to the first byte.
    pub head: Duration,
    /// Without any progress in writing; none = for ever.
    pub send: Option<Duration>,
    /// Idle while draining.
    pub grace: Duration,
}

/// The state that the IO wrapper, the request handler and the connection's driver share. One thread only.
#[derive(Debug)]
pub struct Activity {
    phase: Cell<Phase>,
    since_ns: Cell<u64>,
    blocked_since_ns: Cell<Option<u64>>,
    reset_on_drop: Cell<bool>,
    body_unread: Cell<bool>,
    announced_since_ns: Cell<Option<u64>>,
    label: Cell<[u8; LABEL]>,
    waker: RefCell<Option<Waker>>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity {
            phase: Cell::new(Phase::Silent),
            since_ns: Cell::new(monotonic_ns()),
            blocked_since_ns: Cell::new(None),
            reset_on_drop: Cell::new(false),
            body_unread: Cell::new(false),
            announced_since_ns: Cell::new(None),
            label: Cell::new([0; LABEL]),
            waker: RefCell::new(None),
        }
    }
}

impl Activity {
    /// The phase and when it began (monotonic nanoseconds). A request began with its first byte.
    pub fn phase(&self) -> (Phase, u64) {
        (self.phase.get(), self.since_ns.get())
    }

    /// Of a connection that was at rest elsewhere: its deadlines go on. A time to come is none.
    pub fn resumed(rest: Rest) -> Activity {
        let activity = Activity::default();
        activity.phase.set(rest.phase);
        activity.since_ns.set(rest.since_ns.min(activity.since_ns.get()));
        activity
    }

    /// What it is doing, if it is nothing that ties it to this process: no request is worked on or has more body to come,
    /// nothing waits to be written, and it is not to end here.
    pub fn rest(&self) -> Option<Rest> {
        let (phase, since_ns) = self.phase();
        let at_rest = matches!(phase, Phase::Silent | Phase::Idle | Phase::Head)
            && self.blocked_since_ns.get().is_none()
            && self.announced_since_ns().is_none()
            && !self.is_body_unread();
        at_rest.then_some(Rest { phase, since_ns })
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since_ns.set(monotonic_ns());
    }

    /// Bytes arrived.
    pub fn received(&self) {
        if matches!(self.phase.get(), Phase::Silent | Phase::Idle) {
            self.enter(Phase::Head);
        }
    }

    /// A head is complete; `label` is what reports call this request. Returns when its first byte arrived.
    pub fn request_begins(&self, label: [u8; LABEL]) -> u64 {
        if self.phase.get() != Phase::Head {
            // Pipelined: the head was read together with the request before.
            self.since_ns.set(monotonic_ns());
        }
        self.phase.set(Phase::Request);
        self.label.set(label);
        self.since_ns.get()
    }

    /// From now on the close of this connection is announced, whatever becomes of the others. Once only.
    pub fn announce(&self) {
        if self.announced_since_ns().is_none() {
            self.announced_since_ns.set(Some(monotonic_ns()));
        }
    }

    /// Since when its answers announce the close, monotonic nanoseconds.
    pub fn announced_since_ns(&self) -> Option<u64> {
        self.announced_since_ns.get()
    }

    /// Whether more of the current request's body may come.
    pub fn body_unread(&self, is_unread: bool) {
        self.body_unread.set(is_unread);
    }

    /// More of the last request's body may come, answered or not: what follows on the connection need not be a request.
    pub fn is_body_unread(&self) -> bool {
        self.body_unread.get()
    }

    /// The answer's body is complete. Gives the time now (monotonic nanoseconds), unless the connection had ended before.
    pub fn answer_complete(&self) -> Option<u64> {
        if self.phase.get() != Phase::Request {
            return None;
        }
        self.enter(Phase::Flushing);
        Some(self.since_ns.get())
    }

    /// Everything written so far is in the socket.
    pub fn flushed(&self) {
        if self.phase.get() == Phase::Flushing {
            self.enter(Phase::Idle);
        }
    }

    /// Our side of the connection is closed.
    pub fn closed_write(&self) {
        self.enter(Phase::Lingering);
    }

    /// The socket took bytes.
    pub fn wrote(&self) {
        self.blocked_since_ns.set(None);
    }

    /// The socket takes no more for now.
    pub fn write_blocked(&self) {
        if self.blocked_since_ns.get().is_none() {
            self.blocked_since_ns.set(Some(monotonic_ns()));
        }
    }

    /// The connection is given up: its socket is to be reset, so that the kernel keeps nothing for a dead peer.
    pub fn give_up(&self) {
        self.reset_on_drop.set(true);
    }

    /// See [`Activity::give_up`].
    pub fn is_given_up(&self) -> bool {
        self.reset_on_drop.get()
    }

    /// What the current request is, for reports.
    pub fn label(&self) -> String {
        String::from_utf8_lossy(&self.label.get()).trim_end_matches('\0').to_owned()
    }

    /// Remembers who drives this connection.
    pub fn driven_by(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Makes the driver look at the connection again.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The next moment (monotonic nanoseconds) at which something is to be done if nothing changes, and what.
    pub fn next_expiry(&self, limits: &Limits, draining_since_ns: Option<u64>) -> Option<(u64, Expiry)> {
        let (phase, since) = self.phase();
        let after = |start: u64, time: Duration| start.saturating_add(time.as_nanos() as u64);
        let grace = draining_since_ns.map(|start| (after(start.max(since), limits.grace), Expiry::GraceOver));
        let by_phase = match phase {
            Phase::Head => Some((after(since, limits.head), Expiry::SlowHead)),
            Phase::Silent => {
                let first_byte = (after(since, limits.head), Expiry::SlowHead);
                Some(grace.filter(|(at, _)| *at < first_byte.0).unwrap_or(first_byte))
            }
            Phase::Lingering => Some((after(since, LINGER_TIME), Expiry::LingerOver)),
            Phase::Idle => grace,
            Phase::Request | Phase::Flushing => None,
        };
        let by_peer = self.blocked_since_ns.get().zip(limits.send);
        let by_peer = by_peer.map(|(start, time)| (after(start, time), Expiry::StalledReader));
        by_phase.into_iter().chain(by_peer).min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        send: Some(Duration::from_secs(30)),
        grace: Duration::from_secs(5),
    };

    fn expiry(activity: &Activity, draining: Option<u64>) -> Option<Expiry> {
        activity.next_expiry(&LIMITS, draining).map(|(_, expiry)| expiry)
    }

    #[test]
    fn a_connection_goes_round_and_only_its_head_has_a_deadline() {
        let activity = Activity::default();
        assert_eq!(
            expiry(&activity, None),
            Some(Expiry::SlowHead),
            "a client that connects has something to say"
        );
        assert_eq!(expiry(&activity, Some(activity.phase().1)), Some(Expiry::GraceOver));
        activity.received();
        assert_eq!(expiry(&activity, None), Some(Expiry::SlowHead));
        activity.request_begins([0; LABEL]);
        activity.received();
        assert_eq!((activity.phase().0, expiry(&activity, None)), (Phase::Request, None));
        activity.flushed();
        assert_eq!(activity.phase().0, Phase::Request, "a flush in the middle ends nothing");
        activity.answer_complete();
        activity.flushed();
        assert_eq!((activity.phase().0, expiry(&activity, None)), (Phase::Idle, None), "idle for ever");
    }

    #[test]
    fn a_head_that_drips_keeps_the_deadline_of_its_first_byte() {
        let activity = Activity::default();
        activity.received();
        let first = activity.next_expiry(&LIMITS, None);
        activity.received();
        assert_eq!(activity.next_expiry(&LIMITS, None), first);
    }

    #[test]
    fn the_grace_runs_from_the_drain_or_from_the_last_answer_whichever_is_later() {
        let activity = Activity::default();
        let idle_since = activity.phase().1;
        let grace = LIMITS.grace.as_nanos() as u64;
        let at = |draining| activity.next_expiry(&LIMITS, Some(draining)).map(|(at, _)| at);
        assert_eq!(at(idle_since + 7), Some(idle_since + 7 + grace));
        assert_eq!(at(idle_since - 7), Some(idle_since + grace));
        activity.received();
        activity.request_begins([0; LABEL]);
        assert_eq!(expiry(&activity, Some(1)), None, "a request in flight is not idle");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_in_every_phase() {
        let activity = Activity::default();
        activity.received();
        activity.request_begins([0; LABEL]);
        activity.write_blocked();
        let first = activity.next_expiry(&LIMITS, None);
        assert_eq!(first.map(|(_, expiry)| expiry), Some(Expiry::StalledReader));
        activity.write_blocked();
        assert_eq!(activity.next_expiry(&LIMITS, None), first, "asking again is no progress");
        activity.wrote();
        assert_eq!(expiry(&activity, None), None);
    }

    #[test]
    fn only_who_waits_for_its_client_is_at_rest_and_it_takes_its_age_along() {
        let activity = Activity::default();
        assert_eq!(activity.rest().map(|rest| rest.phase), Some(Phase::Silent));
        activity.received();
        let rest = activity.rest().expect("a head has begun");
        let elsewhere = Activity::resumed(rest);
        assert_eq!(elsewhere.phase(), (Phase::Head, rest.since_ns));
        assert_eq!(elsewhere.next_expiry(&LIMITS, None), activity.next_expiry(&LIMITS, None));
        let to_come = Activity::resumed(Rest { since_ns: u64::MAX, ..rest });
        assert!(to_come.phase().1 <= monotonic_ns());
        activity.request_begins([0; LABEL]);
        assert_eq!(activity.rest(), None);
        activity.answer_complete();
        assert_eq!(activity.rest(), None, "the answer is on its way into the socket");
        activity.flushed();
        assert_eq!(activity.rest().map(|rest| rest.phase), Some(Phase::Idle));
        activity.write_blocked();
        assert_eq!(activity.rest(), None);
    }

    #[test]
    fn a_label_is_shown_without_its_padding() {
        let activity = Activity::default();
        let mut label = [0; LABEL];
        label[..9].copy_from_slice(b"POST /mcp");
        activity.request_begins(label);
        assert_eq!(activity.label(), "POST /mcp");
    }
}
