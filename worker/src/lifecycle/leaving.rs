//! The time that a worker has to leave, and what it says of what keeps it.
//!
//! | when | what |
//! |---|---|
//! | half of the time is over | the log names what is still open |
//! | [`LAST_WORDS`] before the end | whoever waits for an answer gets an error that says why ([`super::Phase::LastWords`]) |
//! | the end | the log names what is cut off |

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forkgate_shared::rows::monotonic_ns;
use tokio::time::Instant;

use crate::gateway::Gateway;

/// Long enough that the errors reach clients that read, and that nobody is told of an end that is a minute away; never more
/// than [`LAST_PART`] of the whole time.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_PART: u32 = 4;

/// Things named in the log; more are counted only.
const NAMED: usize = 20;

/// What is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Half of the time is over.
    Half,
    /// Whoever waits is to be answered.
    LastWords,
    /// The time is over.
    End,
}

/// See the module.
pub(super) struct LeavingTime {
    half: Option<Instant>,
    last_words: Option<Instant>,
    end: Instant,
}

impl LeavingTime {
    /// From now on.
    pub(super) fn new(limit: Duration) -> LeavingTime {
        let now = Instant::now();
        let end = now + limit;
        LeavingTime {
            half: Some(now + limit / 2),
            last_words: Some(end - LAST_WORDS.min(limit / LAST_PART)),
            end,
        }
    }

    /// Another order gives this much, from now on; the shorter time holds.
    pub(super) fn at_most(&mut self, limit: Duration) {
        let other = LeavingTime::new(limit);
        if other.end < self.end {
            // What was said once is not said again.
            self.half = self.half.and(other.half);
            self.last_words = self.last_words.and(other.last_words);
            self.end = other.end;
        }
    }

    /// Writes into the row by when this worker is gone.
    pub(super) fn show(&self, gateway: &Gateway) {
        let left = self.end.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        gateway.row().leaves_by_ns.store(monotonic_ns().saturating_add(left), Relaxed);
    }

    /// Waits for what is due next; each comes once. May be dropped while it waits.
    pub(super) async fn due(&mut self) -> Due {
        let (at, due) = self.next();
        tokio::time::sleep_until(at).await;
        self.came(due);
        due
    }

    fn next(&self) -> (Instant, Due) {
        match (self.half, self.last_words) {
            (Some(at), _) => (at, Due::Half),
            (None, Some(at)) => (at, Due::LastWords),
            (None, None) => (self.end, Due::End),
        }
    }

    fn came(&mut self, due: Due) {
        match due {
            Due::Half => self.half = None,
            Due::LastWords => self.last_words = None,
            Due::End => {}
        }
    }

    /// Names what is still open.
    pub(super) fn report_half(&self, gateway: &Gateway) {
        let seconds_left = self.end.saturating_duration_since(Instant::now()).as_secs_f64();
        report(gateway, "still leaving: half of the time is over", Some(seconds_left));
    }
}

/// Names what is cut off.
pub(super) fn report_cut_off(gateway: &Gateway) {
    report(gateway, "the time to finish is over: what is still open is cut off", None);
}

fn report(gateway: &Gateway, what: &str, seconds_left: Option<f64>) {
    let mut open = open(gateway);
    open.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let (connections, requests) =
        (gateway.lifecycle.connections().count(), gateway.row().in_flight.load(Relaxed));
    let calls = gateway.lifecycle.calls().abandoned();
    tracing::warn!(connections, requests, calls, seconds_left, "{what}");
    for (what, seconds) in open.into_iter().take(NAMED) {
        tracing::warn!(what, seconds, "still open");
    }
}

/// What is open and for how many seconds: requests as the row describes them, connections without one, and calls without a client.
fn open(gateway: &Gateway) -> Vec<(String, f64)> {
    let now = monotonic_ns();
    let mut open = gateway.lifecycle.connections().describe_waiting();
    for entry in &gateway.row().in_flight_ring {
        let since = entry.started_ns.load(Relaxed);
        if since != 0 {
            let what = format!("{} {} of {}", entry.method.get(), entry.object.get(), entry.caller.get());
            let what = what.strip_suffix(" of ").map(str::to_owned).unwrap_or(what);
            open.push((what, now.saturating_sub(since) as f64 / 1e9));
        }
    }
    open.extend(gateway.lifecycle.calls().describe_abandoned());
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    use crate::fixtures;
    use crate::net::activity::Activity;

    /// What is due how many milliseconds before the end.
    fn schedule(mut time: LeavingTime) -> Vec<(Due, u128)> {
        let mut schedule = Vec::new();
        while schedule.last().is_none_or(|(due, _)| *due != Due::End) {
            let (at, due) = time.next();
            schedule.push((due, (time.end - at).as_millis()));
            time.came(due);
        }
        schedule
    }

    #[test]
    fn everything_is_due_once_and_in_time() {
        let long = schedule(LeavingTime::new(Duration::from_secs(60)));
        assert_eq!(long, [(Due::Half, 30_000), (Due::LastWords, 1000), (Due::End, 0)]);
        let short = schedule(LeavingTime::new(Duration::from_secs(2)));
        assert_eq!(short, [(Due::Half, 1000), (Due::LastWords, 500), (Due::End, 0)]);
    }

    #[test]
    fn a_shorter_time_holds_and_what_was_said_is_not_said_again() {
        let mut time = LeavingTime::new(Duration::from_secs(60));
        time.came(Due::Half);
        let end = time.end;
        time.at_most(Duration::from_secs(100));
        assert_eq!(time.end, end);
        time.at_most(Duration::from_secs(10));
        assert!(time.end < end);
        assert_eq!(schedule(time), [(Due::LastWords, 1000), (Due::End, 0)]);
    }

    #[tokio::test]
    async fn what_is_open_is_named() {
        let (gateway, _master, _state) = fixtures::gateway(|_| {});
        let _idle = gateway.lifecycle.connections().register(Rc::new(Activity::default()));
        let call = gateway.lifecycle.calls().enter("prompts/get").expect("room");
        call.client_left();
        let entry = &gateway.row().in_flight_ring[3];
        entry.method.set("tools/call");
        entry.object.set("slow__tool");
        entry.caller.set("alice");
        entry.started_ns.store(monotonic_ns(), Relaxed);
        let open: Vec<String> = open(&gateway).into_iter().map(|(what, _)| what).collect();
        let named = ["no request yet", "tools/call slow__tool of alice", "prompts/get whose client has left"];
        assert_eq!(open, named);
        LeavingTime::new(Duration::from_secs(60)).show(&gateway);
        assert!(gateway.row().leaves_by_ns.load(Relaxed) > monotonic_ns());
    }
}
