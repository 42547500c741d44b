//! The rule for a worker that still works, at a multiple of what work used to cost it.
//!
//! What a unit costs is learnt while the worker is healthy. A loop that is busy nearly all the time, and whose units cost
//! [`TOO_MUCH`] times the usual for a whole minute, asks to be replaced; nobody kills it.

use std::collections::VecDeque;

use super::window::Span;

/// Times the usual cost.
const TOO_MUCH: f64 = 50.0;

/// A second whose units cost so many times the usual teaches nothing.
const NOT_USUAL: f64 = 10.0;

/// Seconds that must be as bad.
const SECONDS: usize = 60;

/// Percent of them that the loop must be busy.
const BUSY: u64 = 80;

/// Seconds of honest load from which the usual cost is known.
const LEARNT: u32 = 60;

/// Part of a new second in the usual cost: it forgets within minutes.
const NEW: f64 = 0.02;

/// Units in a second from which it teaches something.
const ENOUGH: u64 = 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DegenerateRule {
    /// Nanoseconds per unit.
    usual: f64,
    learnt: u32,
    /// Span, busy time and units of the last minute's seconds.
    seconds: VecDeque<(u64, u64, u64)>,
}

impl DegenerateRule {
    /// Forgets the last minute, not what was learnt.
    pub(super) fn reset(&mut self) {
        self.seconds.clear();
    }

    /// Takes a second; true when the last minute was bad.
    pub(super) fn judge(&mut self, second: &Span) -> bool {
        self.learn(second);
        if self.seconds.len() >= SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back((second.ns, second.busy_ns, second.units));
        if self.learnt < LEARNT || self.seconds.len() < SECONDS {
            return false;
        }
        let sum = |field: fn(&(u64, u64, u64)) -> u64| self.seconds.iter().map(field).sum::<u64>();
        let (ns, busy_ns, units) = (sum(|second| second.0), sum(|second| second.1), sum(|second| second.2));
        let cost = busy_ns as f64 / units.max(1) as f64;
        busy_ns >= ns / 100 * BUSY && cost > TOO_MUCH * self.usual
    }

    fn learn(&mut self, second: &Span) {
        if second.units < ENOUGH {
            return;
        }
        let cost = second.busy_ns as f64 / second.units as f64;
        if self.learnt == 0 {
            self.usual = cost;
        } else if cost < NOT_USUAL * self.usual {
            self.usual += NEW * (cost - self.usual);
        } else {
            return;
        }
        self.learnt = self.learnt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(busy_permille: u64, units: u64) -> Span {
        Span { ns: 1_000_000_000, busy_ns: busy_permille * 1_000_000, units, ..Span::default() }
    }

    #[test]
    fn a_minute_at_fifty_times_the_usual_cost_is_needed() {
        let mut rule = DegenerateRule::default();
        let mut feed = |busy, units, seconds: usize| (0..seconds).any(|_| rule.judge(&second(busy, units)));
        // 0.2 ms per unit.
        assert!(!feed(200, 1000, 120), "honest load");
        assert!(!feed(1000, 200, 120), "twenty-five times the cost");
        assert!(!feed(700, 50, 120), "dear, but with rest between");
        assert!(!feed(200, 1000, 60), "honest load");
        assert!(!feed(990, 50, 50), "not for long enough");
        assert!(!feed(200, 1000, 60), "over again");
        assert!(feed(990, 50, 61), "a minute of it");
    }

    #[test]
    fn a_worker_that_has_learnt_nothing_judges_nothing() {
        let mut rule = DegenerateRule::default();
        assert!((0..600).all(|_| !rule.judge(&second(990, 1))));
        assert!((0..30).all(|_| !rule.judge(&second(10, 100))));
        assert!((0..600).all(|_| !rule.judge(&second(990, 1))));
    }
}
