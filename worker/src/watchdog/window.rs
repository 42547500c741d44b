//! The last samples of the event loop, and what happened between one of them and now.
//!
//! Rules judge sums over a window, never consecutive flags: a request that trickles in changes a sum by what it is worth
//! and resets nothing.

use std::collections::VecDeque;
use std::time::Duration;

/// How often the watchdog's thread looks.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// One look at the event loop. Counters are since the worker's start and only grow; times are nanoseconds of the
/// monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// When.
    pub(super) now_ns: u64,
    /// How much later than planned, the watchdog's own waiting for a CPU taken off.
    pub(super) late_ns: u64,
    /// Times that the loop's thread went to sleep and woke: odd while it sleeps.
    pub(super) turns: u64,
    /// Time that the loop was busy; stands still while a poll lasts.
    pub(super) busy_ns: u64,
    /// Time of the loop's thread on a CPU.
    pub(super) cpu_ns: u64,
    /// Time that it waited for a CPU.
    pub(super) delay_ns: u64,
    /// Its state as in `/proc`: `R`, `S`, `D`, `T`, `t`; `?` when it cannot be read.
    pub(super) state: char,
    /// Units of work.
    pub(super) units: u64,
    /// Polls of tasks.
    pub(super) polls: u64,
    /// When the poll that runs began; 0 = none.
    pub(super) poll_since_ns: u64,
    /// When the loop's heartbeat task last ran.
    pub(super) beat_ns: u64,
    /// Time that the control group was kept from the CPU by its quota.
    pub(super) throttled_ns: u64,
    /// Requests in flight.
    pub(super) in_flight: u64,
    /// The last memory sample was over the limit of a kill.
    pub(super) over_memory: bool,
}

impl Sample {
    /// True when the loop is in the middle of a poll and nothing has moved since `earlier`.
    pub(super) fn is_frozen_since(&self, earlier: &Sample) -> bool {
        self.turns.is_multiple_of(2)
            && (self.turns, self.busy_ns, self.polls) == (earlier.turns, earlier.busy_ns, earlier.polls)
    }

    /// True when somebody stopped the thread from outside: a signal or a debugger.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// What happened between two samples; nanoseconds, and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) ns: u64,
    pub(super) busy_ns: u64,
    pub(super) cpu_ns: u64,
    pub(super) delay_ns: u64,
    pub(super) turns: u64,
    pub(super) units: u64,
    pub(super) polls: u64,
    pub(super) throttled_ns: u64,
}

impl Span {
    pub(super) fn between(earlier: &Sample, later: &Sample) -> Span {
        let grown = |counter: fn(&Sample) -> u64| counter(later).saturating_sub(counter(earlier));
        Span {
            ns: grown(|sample| sample.now_ns),
            busy_ns: grown(|sample| sample.busy_ns),
            cpu_ns: grown(|sample| sample.cpu_ns),
            delay_ns: grown(|sample| sample.delay_ns),
            turns: grown(|sample| sample.turns),
            units: grown(|sample| sample.units),
            polls: grown(|sample| sample.polls),
            throttled_ns: grown(|sample| sample.throttled_ns),
        }
    }

    /// Time that the thread ran or wanted to.
    pub(super) fn runnable_ns(&self) -> u64 {
        (self.cpu_ns + self.delay_ns).min(self.ns)
    }

    /// Time that the loop did not rest: as tokio counts it, or as the kernel does. Tokio leaves out what a loop does that
    /// is woken again and again from within (`yield_now`: half of its time goes to `epoll_wait` and its wakers).
    pub(super) fn occupied_ns(&self) -> u64 {
        self.busy_ns.min(self.ns).max(self.runnable_ns())
    }

    /// True when a CPU quota took more than half of this time away: all limits are doubled then.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled_ns > self.ns / 2
    }

    /// This part of the span, in nanoseconds.
    pub(super) fn part(&self, percent: u64) -> u64 {
        self.ns / 100 * percent
    }
}

/// The samples of the last `keep`, oldest first.
#[derive(Debug)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
    most: usize,
}

impl Window {
    /// Keeps the samples of at least this long.
    pub(super) fn new(keep: Duration) -> Window {
        let most = usize::try_from(keep.as_nanos() / TICK.as_nanos()).unwrap_or(usize::MAX).saturating_add(8);
        Window { samples: VecDeque::new(), most }
    }

    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }

    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.len() >= self.most {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The newest.
    pub(super) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// The last `ns` nanoseconds, rounded up to a sample; none as long as it has not seen so much.
    pub(super) fn over(&self, ns: u64) -> Option<Span> {
        Some(Span::between(self.ago(ns)?, self.last()?))
    }

    /// The last `ns` nanoseconds in so many equal parts, the oldest first; none as long as it has not seen so much.
    pub(super) fn parts(&self, ns: u64, count: u64) -> Option<impl Iterator<Item = Span>> {
        self.ago(ns)?;
        let part = ns / count;
        Some((1..=count).rev().filter_map(move |index| {
            let (begin, end) =
                (self.ago(part.saturating_mul(index))?, self.ago(part.saturating_mul(index - 1))?);
            Some(Span::between(begin, end))
        }))
    }

    /// The newest sample that is at least so old.
    fn ago(&self, ns: u64) -> Option<&Sample> {
        let begin = self.last()?.now_ns.checked_sub(ns)?;
        let after = self.samples.partition_point(|sample| sample.now_ns <= begin);
        self.samples.get(after.checked_sub(1)?)
    }

    /// True when the last `count` samples all are so.
    pub(super) fn lately(&self, count: usize, is_so: impl Fn(&Sample) -> bool) -> bool {
        self.samples.len() >= count && self.samples.iter().rev().take(count).all(is_so)
    }
}

/// A duration in nanoseconds; 500 years is the most.
pub(super) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
