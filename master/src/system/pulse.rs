//! When the service manager is to hear that the master lives (`WATCHDOG=1`), and that something takes longer
//! (`EXTEND_TIMEOUT_USEC=`).
//!
//! | word | when |
//! |---|---|
//! | `WATCHDOG=1` | at every half of `WatchdogSec=`, if none of the master's own timers is overdue, and a worker is ready or one is on its way |
//! | `EXTEND_TIMEOUT_USEC=` | every [`EXTEND_EVERY`] while the gateway starts, reloads or stops and waits for something that has a time limit |
//!
//! Both are said by the loop that does the work and by nobody else: a master that stands still, or that has lost its way, is
//! silent, and the manager starts another one. So a start, a reload or a stop may take as long as the settings allow, whatever
//! the unit says, and no longer.

use super::master::Master;
use crate::supervisor::{Ns, SECOND};

/// From one extension to the next.
const EXTEND_EVERY: Ns = 5 * SECOND;
/// What an extension gives: enough for two that come late.
const EXTENSION: Ns = 20 * SECOND;
/// A timer is overdue when it should have been served so long ago.
const OVERDUE: Ns = SECOND;

/// See the module.
#[derive(Debug)]
pub struct Pulse {
    /// Half of `WatchdogSec=`.
    period: Option<Ns>,
    next_beat: Ns,
    next_extension: Ns,
}

impl Pulse {
    /// As the environment says: `sd_watchdog_enabled(3)`.
    pub fn from_env() -> Pulse {
        let variable = |name| std::env::var(name).ok();
        let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        Pulse::every(period(usec.as_deref(), pid.as_deref(), std::process::id()))
    }

    fn every(period: Option<Ns>) -> Pulse {
        Pulse { period, next_beat: 0, next_extension: 0 }
    }

    /// True when a sign of life is due; `is_well` says whether there is one to give.
    pub fn beats(&mut self, is_well: bool, now: Ns) -> bool {
        let Some(period) = self.period.filter(|_| self.next_beat <= now) else { return false };
        if is_well {
            self.next_beat = now + period;
        }
        is_well
    }

    /// True when more time is to be asked for; `waits` says whether there is a reason.
    pub fn extends(&mut self, waits: bool, now: Ns) -> bool {
        if !waits {
            self.begin_anew();
            return false;
        }
        let due = self.next_extension <= now;
        if due {
            self.next_extension = now + EXTEND_EVERY;
        }
        due
    }

    /// Something else begins, which has a limit of its own with the manager.
    pub fn begin_anew(&mut self) {
        self.next_extension = 0;
    }

    /// When one of the two may be due next; later than `now`.
    pub fn next_deadline(&self, waits: bool, now: Ns) -> Option<Ns> {
        let beat = self.period.map(|period| if self.next_beat > now { self.next_beat } else { now + period });
        beat.into_iter().chain(waits.then_some(self.next_extension).filter(|at| *at > now)).min()
    }
}

impl Master {
    /// Says what is due; `next` is the earliest of the master's own timers. Gives when it is to be called again.
    pub(super) fn beat(&mut self, next: Option<Ns>, now: Ns) -> Option<Ns> {
        let waits = self.supervisor.waits(now);
        let is_overdue = next.is_some_and(|at| at.saturating_add(OVERDUE) < now);
        if self.pulse.beats(!is_overdue && self.supervisor.is_sound(now), now) {
            self.notifier.alive();
        }
        if self.pulse.extends(waits, now) {
            self.notifier.extend(EXTENSION);
        }
        self.pulse.next_deadline(waits, now)
    }
}

fn period(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Ns> {
    let usec: u64 = usec?.parse().ok()?;
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    // A manager that asks for less than a millisecond asks for nonsense; it is not to keep the loop busy.
    (is_ours && usec > 0).then(|| (usec.saturating_mul(1000) / 2).max(SECOND / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_the_manager_waits_and_only_for_this_process() {
        assert_eq!(period(Some("30000000"), None, 7), Some(15 * SECOND));
        assert_eq!(period(Some("30000000"), Some("7"), 7), Some(15 * SECOND));
        assert_eq!(period(Some("30000000"), Some("8"), 7), None);
        assert_eq!(period(Some("30000000"), Some("x"), 7), None);
        for nothing in [None, Some("0"), Some("often"), Some("-1")] {
            assert_eq!(period(nothing, None, 7), None);
        }
    }

    #[test]
    fn a_beat_is_due_at_each_period_and_stays_due_while_nothing_is_well() {
        let mut pulse = Pulse::every(Some(SECOND));
        assert!(pulse.beats(true, 5 * SECOND));
        assert_eq!(pulse.next_deadline(false, 5 * SECOND), Some(6 * SECOND));
        assert!(!pulse.beats(true, 6 * SECOND - 1), "not yet");
        assert!(!pulse.beats(false, 6 * SECOND), "not well");
        assert_eq!(pulse.next_deadline(false, 6 * SECOND), Some(7 * SECOND), "it is looked at again");
        assert!(pulse.beats(true, 6 * SECOND + 1), "well again");
        assert!(!Pulse::every(None).beats(true, SECOND), "nobody asked");
        assert_eq!(Pulse::every(None).next_deadline(false, SECOND), None);
    }

    #[test]
    fn more_time_is_asked_for_again_and_again_while_something_is_waited_for() {
        let mut pulse = Pulse::every(None);
        assert!(!pulse.extends(false, SECOND) && pulse.extends(true, SECOND));
        assert_eq!(pulse.next_deadline(true, SECOND), Some(SECOND + EXTEND_EVERY));
        assert_eq!(pulse.next_deadline(false, SECOND), None);
        assert!(!pulse.extends(true, EXTEND_EVERY) && pulse.extends(true, SECOND + EXTEND_EVERY));
        assert!(!pulse.extends(false, 7 * SECOND) && pulse.extends(true, 7 * SECOND), "for something else");
        pulse.begin_anew();
        assert!(pulse.extends(true, 7 * SECOND));
        const { assert!(EXTENSION > 2 * EXTEND_EVERY) };
    }
}
