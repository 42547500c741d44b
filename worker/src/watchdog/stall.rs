//! The rule for a poll that does not return.
//!
//! Waiting for a CPU is not stalling (the rule of HAProxy's watchdog): the time that the thread was runnable and did not
//! run is taken off. Which kind of stall it is may change while it lasts; a new kind is said when it was so for a second.

use std::time::Duration;

use forkgate_shared::verdict::{Stage, Verdict};

use super::window::{Sample, Span, TICK, Window, ns};

/// A poll that lasts so long is suspect: a hundred times what the heaviest honest one takes.
const SUSPECT: Duration = Duration::from_secs(1);

/// For so many looks a kind must be seen before it is said: one second.
const STEADY: usize = 4;

/// The clock of task polls is this coarse.
const COARSE: Duration = Duration::from_millis(10);

/// Effective time between two looks below which nothing can be said about the kind.
const TOO_LITTLE: Duration = Duration::from_millis(5);

/// A poll that lasts.
#[derive(Debug)]
struct Poll {
    /// The first sample that saw it.
    seen: Sample,
    since_ns: u64,
    /// The most that it was said to last, waiting for a CPU excluded.
    effective_ns: u64,
    kind: Verdict,
    /// A kind that is about to replace the one that is said, and how often it was seen.
    other: (Verdict, usize),
}

/// What the rule finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) verdict: Verdict,
    /// None: not yet long enough for a claim.
    pub(super) stage: Option<Stage>,
    pub(super) since_ns: u64,
    /// For how long, waiting for a CPU excluded.
    pub(super) effective_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct StallRule {
    timeout_ns: u64,
    poll: Option<Poll>,
}

impl StallRule {
    pub(super) fn new(timeout: Duration) -> StallRule {
        StallRule { timeout_ns: ns(timeout), poll: None }
    }

    pub(super) fn reset(&mut self) {
        self.poll = None;
    }

    /// Takes the newest sample of the window; `before` is the one before it.
    pub(super) fn judge(&mut self, window: &Window, before: &Sample, sample: &Sample) -> Option<Stall> {
        if !sample.is_frozen_since(before) {
            self.poll = None;
            return None;
        }
        let poll = self.poll.get_or_insert_with(|| Poll {
            seen: *before,
            since_ns: began(before, sample),
            effective_ns: 0,
            kind: Verdict::StallBlocked,
            other: (Verdict::StallBlocked, 0),
        });
        let span = Span::between(&poll.seen, sample);
        let lasts_ns = sample.now_ns.saturating_sub(poll.since_ns);
        // A wait may be booked late, and this poll has not returned: what was said of it is not taken back.
        poll.effective_ns = poll.effective_ns.max(lasts_ns.saturating_sub(span.delay_ns));
        let effective_ns = poll.effective_ns;
        poll.see(window, &Span::between(before, sample), effective_ns);
        let factor = if span.is_throttled() { 2 } else { 1 };
        let stage = if effective_ns >= self.timeout_ns.saturating_mul(factor) {
            Some(Stage::Fired)
        } else if effective_ns >= ns(SUSPECT) * factor {
            Some(Stage::Suspect)
        } else {
            None
        };
        Some(Stall { verdict: poll.kind, stage, since_ns: poll.since_ns, effective_ns })
    }
}

/// When a poll began that was first seen in `before`: as the registry of tasks says, if that can be.
fn began(before: &Sample, sample: &Sample) -> u64 {
    let earliest = before.now_ns.saturating_sub(ns(TICK + COARSE));
    let said = sample.poll_since_ns;
    if (earliest..=before.now_ns + ns(COARSE)).contains(&said) { said } else { before.now_ns }
}

impl Poll {
    /// Looks at what happened since the last look, or over the last second once the poll has lasted that long.
    fn see(&mut self, window: &Window, tick: &Span, effective_ns: u64) {
        let second = window.over(ns(TICK) * STEADY as u64).filter(|_| effective_ns >= ns(SUSPECT));
        let tick = second.as_ref().unwrap_or(tick);
        let wanted_ns = tick.ns.saturating_sub(tick.delay_ns);
        let kind = if window.lately(STEADY, |sample| sample.state == 'D') {
            Verdict::StallUninterruptible
        } else if wanted_ns < ns(TOO_LITTLE) {
            return;
        } else if tick.cpu_ns >= wanted_ns / 2 {
            Verdict::StallCpu
        } else {
            Verdict::StallBlocked
        };
        if kind == self.kind {
            self.other = (kind, 0);
            return;
        }
        self.other = if self.other.0 == kind { (kind, self.other.1 + 1) } else { (kind, 1) };
        // Before anything was claimed there is nothing to keep steady.
        if self.other.1 >= STEADY || effective_ns < ns(SUSPECT) {
            self.kind = kind;
        }
    }
}
