//! From samples of the event loop to a judgement. Pure: no clock, no system call.
//!
//! | rule | what it sees | what comes of it |
//! |---|---|---|
//! | stall | in the middle of a poll and nothing moves | claim: suspect after 1 s, fired after `GATEWAY_STALL_TIMEOUT` |
//! | spin | never rests, hardly works | claim: suspect after a third of `GATEWAY_SPIN_WINDOW`, fired after all of it |
//! | memory | a sample over 1.25 × `GATEWAY_MAX_RSS` | claim: fired |
//! | starved | the loop turns and its timer is late by 2 s | load is shed until it is late by less than 0.5 s |
//! | degenerate | a unit of work costs 50 times the usual | the worker asks to be replaced |
//! | wake storm | more than 20 000 wakes per second, no work, little busy | counted and logged |
//!
//! The first of the claims in this order is made: a loop that is stuck is not also one that spins. What guards against
//! false alarms: a look that comes late (the machine slept, the process was stopped) and a thread in the hands of a
//! debugger start all windows anew; where a quota takes the CPU away, limits double.

use std::time::Duration;

use forkgate_shared::rows::Reading;
use forkgate_shared::verdict::{Claim, Stage, Verdict};

use super::degenerate::DegenerateRule;
use super::spin;
use super::stall::{Stall, StallRule};
use super::waiting::Waiting;
use super::window::{Sample, Span, TICK, Window, ns};
use crate::lifecycle::recycle::HEARTBEAT;

/// A look that is later than planned by so much starts all windows anew.
const LATE: Duration = Duration::from_millis(500);

/// The loop's timer is so late: shed load.
const STARVED: Duration = Duration::from_secs(2);
/// So late: no more.
const FED: Duration = Duration::from_millis(500);
/// Looks in a row at a late timer: after a long poll the timer's turn comes within one.
const STARVED_LOOKS: u32 = 2;

/// Looks in a row without it that take the suspicion of a spin back: five seconds. On a crowded machine a loop that spins
/// is kept from the CPU for a second now and then; a worker that is taken back too soon drains, and nobody learns why it span.
const RESTS: u32 = 20;

/// Wakes per second of a storm.
const STORM: u64 = 20_000;
/// Percent of a second below which a loop with so many wakes is not busy.
const STORM_BUSY: u64 = 50;

/// A poll that lasts longer is worth a line in the log.
const SLOW_POLL: Duration = Duration::from_millis(200);

const SECOND: Duration = Duration::from_secs(1);

/// From the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `GATEWAY_STALL_TIMEOUT`.
    pub(super) stall_timeout: Duration,
    /// `GATEWAY_SPIN_WINDOW`.
    pub(super) spin_window: Duration,
}

/// A claim and since when it is so (monotonic clock, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) claim: Claim,
    pub(super) since_ns: u64,
}

/// What is to be said of the loop after a look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Judgement {
    pub(super) standing: Option<Standing>,
    /// Once a second: what happened in it.
    pub(super) reading: Option<Reading>,
    /// Part of the last second that the loop was busy, in thousandths.
    pub(super) busy_permille: u64,
    /// How late the loop's timer is.
    pub(super) lag_ns: u64,
    pub(super) starved: bool,
    /// The worker should ask to be replaced.
    pub(super) degenerate: bool,
    /// A storm of wakes in the last second; said once a second.
    pub(super) storm: bool,
    /// The poll that runs is a slow one: for how long. Said once per poll.
    pub(super) slow_poll_ns: Option<u64>,
    /// All windows were started anew.
    pub(super) reset: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Detector {
    limits: Limits,
    waiting: Waiting,
    window: Window,
    stall: StallRule,
    degenerate: DegenerateRule,
    standing: Option<Standing>,
    /// Looks in a row that no longer saw the spin that is claimed.
    rests: u32,
    /// The sample at the end of the last reading.
    read: Option<Sample>,
    /// When the spin that is claimed was first suspected.
    suspected_ns: u64,
    starved: bool,
    late_looks: u32,
    /// The poll that was said to be slow, by when it began.
    told_slow_ns: u64,
}

impl Detector {
    pub(super) fn new(limits: Limits) -> Detector {
        Detector {
            limits,
            window: Window::new(limits.spin_window.saturating_mul(2).max(SECOND * 4)),
            waiting: Waiting::default(),
            stall: StallRule::new(limits.stall_timeout),
            degenerate: DegenerateRule::default(),
            standing: None,
            rests: 0,
            read: None,
            suspected_ns: 0,
            starved: false,
            late_looks: 0,
            told_slow_ns: 0,
        }
    }

    /// Takes the next look, about every [`TICK`].
    pub(super) fn tick(&mut self, sample: &Sample) -> Judgement {
        let sample = &self.waiting.add(sample);
        let reset = sample.late_ns > ns(LATE) || sample.is_stopped();
        if reset {
            self.window.clear();
            self.stall.reset();
            self.degenerate.reset();
            self.standing = None;
            self.read = None;
            self.late_looks = 0;
        }
        let before = self.window.last().copied();
        self.window.push(*sample);
        let lag_ns = sample.now_ns.saturating_sub(sample.beat_ns).saturating_sub(ns(HEARTBEAT));
        let Some(before) = before else {
            self.read = Some(*sample);
            return Judgement { lag_ns, starved: self.starved, reset, ..Judgement::default() };
        };
        let stall = self.stall.judge(&self.window, &before, sample);
        self.standing = self.claim(sample, stall.as_ref());
        let frozen = sample.is_frozen_since(&before);
        self.shed(lag_ns, frozen);
        let second = self.second(sample);
        Judgement {
            standing: self.standing,
            reading: second.map(|span| reading(sample, &span)),
            busy_permille: self.busy_permille(frozen),
            lag_ns,
            starved: self.starved,
            degenerate: second.is_some_and(|span| self.degenerate.judge(&span)),
            storm: second.is_some_and(|span| is_storm(&span)),
            slow_poll_ns: stall.and_then(|stall| self.slow_poll(&stall)),
            reset,
        }
    }

    fn claim(&mut self, sample: &Sample, stall: Option<&Stall>) -> Option<Standing> {
        if let Some(Stall { verdict, stage: Some(stage), since_ns, .. }) = stall {
            return Some(Standing { claim: Claim { verdict: *verdict, stage: *stage }, since_ns: *since_ns });
        }
        self.spin(sample).or_else(|| self.memory(sample))
    }

    fn standing(&self, verdict: Verdict) -> Option<Standing> {
        self.standing.filter(|standing| standing.claim.verdict == verdict)
    }

    fn spin(&mut self, sample: &Sample) -> Option<Standing> {
        let before = self.standing(Verdict::Spin);
        let Some((stage, span)) = spin::judge(&self.window, self.limits.spin_window) else {
            self.rests = self.rests.saturating_add(1);
            // What goes on of it is a suspicion, whatever it was.
            let claim = Claim { verdict: Verdict::Spin, stage: Stage::Suspect };
            return before.filter(|_| self.rests < RESTS).map(|before| Standing { claim, ..before });
        };
        self.rests = 0;
        let begun_ns = sample.now_ns.saturating_sub(span.ns);
        let since_ns = before.map_or(begun_ns, |before| before.since_ns);
        // The sums reach back before the suspicion; a verdict needs a suspicion that has stood.
        let suspected_ns = before.map_or(sample.now_ns, |_| self.suspected_ns);
        self.suspected_ns = suspected_ns;
        let stood = sample.now_ns.saturating_sub(suspected_ns) >= ns(spin::stands(self.limits.spin_window));
        // What has fired stays fired for as long as it is suspect.
        let has_fired = before.is_some_and(|before| before.claim.stage == Stage::Fired);
        let fires = stood && (stage == Stage::Fired || has_fired);
        let stage = if fires { Stage::Fired } else { Stage::Suspect };
        Some(Standing { claim: Claim { verdict: Verdict::Spin, stage }, since_ns })
    }

    fn memory(&self, sample: &Sample) -> Option<Standing> {
        let claim = Claim { verdict: Verdict::Memory, stage: Stage::Fired };
        let new = Standing { claim, since_ns: sample.now_ns };
        sample.over_memory.then(|| self.standing(Verdict::Memory).unwrap_or(new))
    }

    /// Decides whether load is shed.
    fn shed(&mut self, lag_ns: u64, frozen: bool) {
        let late = lag_ns > ns(STARVED) && !frozen;
        self.late_looks = if late { self.late_looks.saturating_add(1) } else { 0 };
        self.starved = if self.starved { lag_ns >= ns(FED) } else { self.late_looks >= STARVED_LOOKS };
    }

    /// The second that ends with this sample, once a second.
    fn second(&mut self, sample: &Sample) -> Option<Span> {
        let begin = self.read.get_or_insert(*sample);
        // A look may be early by what the one before it was late.
        if sample.now_ns.saturating_sub(begin.now_ns) < ns(SECOND - TICK / 2) {
            return None;
        }
        Some(Span::between(&std::mem::replace(begin, *sample), sample))
    }

    /// Of the last second, in thousandths.
    fn busy_permille(&self, frozen: bool) -> u64 {
        if frozen {
            return 1000;
        }
        let span = self.window.over(ns(SECOND)).or_else(|| self.window.over(ns(TICK)));
        span.map_or(0, |span| span.busy_ns.min(span.ns) * 1000 / span.ns.max(1))
    }

    fn slow_poll(&mut self, stall: &Stall) -> Option<u64> {
        if stall.effective_ns < ns(SLOW_POLL) || stall.since_ns == self.told_slow_ns {
            return None;
        }
        self.told_slow_ns = stall.since_ns;
        Some(stall.effective_ns)
    }
}

fn is_storm(second: &Span) -> bool {
    let wakes = second.turns / 2;
    wakes.saturating_mul(1_000_000_000) > STORM.saturating_mul(second.ns)
        && second.units == 0
        && second.busy_ns < second.part(STORM_BUSY)
}

fn reading(sample: &Sample, span: &Span) -> Reading {
    Reading {
        at_ns: sample.now_ns,
        span_ns: span.ns,
        busy_ns: span.busy_ns,
        cpu_ns: span.cpu_ns,
        delay_ns: span.delay_ns,
        parks: span.turns.div_ceil(2),
        units: span.units,
        polls: span.polls,
        in_flight: sample.in_flight,
    }
}

#[cfg(test)]
mod tests;
