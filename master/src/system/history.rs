//! What has happened in the gateway's life: the last [`KEPT`] events, in memory, for `ctl events`.
//!
//! Whoever follows has a place in this list, not a queue of its own: the master waits for nobody and keeps nothing for
//! anybody. Who is slower than the events misses the oldest, and is told how many.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use forkgate_shared::calendar::rfc3339;
use serde::{Deserialize, Serialize};

use crate::supervisor::{ChildId, CrashLoop, Fact, Kill, SlotId};

/// Events that are kept: hours of a calm gateway, some minutes of the worst one. At some hundred bytes each.
const KEPT: usize = 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its number, from 1 over the gateway's whole life.
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// What it is; see `docs/ctl.md`.
    pub event: String,
    /// The slot that it is about.
    pub slot: Option<u32>,
    /// The process that it is about.
    pub pid: Option<u32>,
    /// A recycle reason, a verdict, how something ended.
    pub reason: Option<String>,
    /// The same in words.
    pub text: String,
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    entries: VecDeque<Entry>,
    /// Number of the last one.
    last: u64,
}

impl Entry {
    /// Of this kind, in these words.
    pub fn new(event: &str, text: impl Into<String>) -> Entry {
        Entry { event: event.to_owned(), text: text.into(), ..Entry::default() }
    }

    /// About this slot.
    pub fn slot(mut self, slot: SlotId) -> Entry {
        self.slot = Some(slot.0);
        self
    }

    /// About this process.
    pub fn pid(mut self, pid: Option<u32>) -> Entry {
        self.pid = pid;
        self
    }

    /// For this reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Entry {
        self.reason = Some(reason.into());
        self
    }
}

impl History {
    /// One more.
    pub fn push(&mut self, entry: Entry) {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.last += 1;
        let time = rfc3339(u64::try_from(millis).unwrap_or(u64::MAX));
        self.entries.push_back(Entry { seq: self.last, time, ..entry });
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// Number of the last one; 0 when nothing has happened.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The first one after `seq` that is still there, and how many are not any more. A number that was never given means
    /// that all are meant: it is another gateway's.
    pub fn after(&self, seq: u64) -> Option<(u64, &Entry)> {
        let seq = if seq > self.last { 0 } else { seq };
        let oldest = self.entries.front()?.seq;
        let entry = self.entries.get(usize::try_from((seq + 1).saturating_sub(oldest)).ok()?)?;
        // Whoever has seen none misses none.
        let missed = if seq == 0 { 0 } else { oldest.saturating_sub(seq + 1) };
        Some((missed, entry))
    }
}

/// What a worker is called: its slot and process id, as far as they are known.
pub type Who = (Option<SlotId>, Option<u32>);

/// The event that a fact is, if it is one; `who` knows the workers, `failure` says how the last worker failed.
pub fn of(fact: &Fact, who: impl Fn(ChildId) -> Who, failure: &str) -> Option<Entry> {
    let about = |child: ChildId, event: &str, text: &str| {
        let (slot, pid) = who(child);
        Entry { slot: slot.map(|slot| slot.0), pid, ..Entry::new(event, text) }
    };
    let of_slot = |slot: SlotId, event: &str, text: String| Entry::new(event, text).slot(slot);
    Some(match fact {
        Fact::Ready(child, slot, took) => about(
            *child,
            "ready",
            &format!("the worker of slot {} is ready after {} ms", slot.0, took / 1_000_000),
        ),
        Fact::Recycling(slot, reason) => {
            let text = format!("a replacement starts in slot {}: {}", slot.0, reason.as_str());
            of_slot(*slot, "recycling", text).reason(reason.as_str())
        }
        Fact::StandbyFailed(slot, _) => {
            let text = format!("the replacement in slot {} did not start: {failure}", slot.0);
            of_slot(*slot, "start_failed", text).reason(failure)
        }
        Fact::BootFailed(slot, _) | Fact::FirstBootFailed(slot) => {
            of_slot(*slot, "start_failed", format!("a worker of slot {} did not start: {failure}", slot.0))
                .reason(failure)
        }
        Fact::Crashed(slot, _) => {
            of_slot(*slot, "crashed", format!("a worker died unasked: {failure}")).reason(failure)
        }
        Fact::Killed(child, kill) => {
            let text = match kill {
                Kill::Boot => "killed: not ready in time",
                Kill::Drain => "killed: its time to drain was over",
                Kill::Watchdog(_) => "killed for a verdict, or by an operator's order",
            };
            about(*child, "killed", text).reason(kill.as_str())
        }
        Fact::Suspected(child, _, verdict) => {
            about(*child, "suspected", "clients go elsewhere, a standby starts").reason(verdict.as_str())
        }
        Fact::Cleared(child, _, verdict) => {
            about(*child, "cleared", "the suspicion is taken back").reason(verdict.as_str())
        }
        Fact::Fired(child, _, verdict, _) => {
            about(*child, "verdict", "a limit has passed; it is looked at from outside")
                .reason(verdict.as_str())
        }
        Fact::Unconfirmed(child, _, verdict, false) => {
            about(*child, "spared", "the verdict was not confirmed from outside").reason(verdict.as_str())
        }
        Fact::KillOrdered(child, _) => {
            about(*child, "kill_ordered", "an operator wants it dead; a standby starts")
        }
        Fact::KillWithdrawn(child, _) => {
            about(*child, "kill_withdrawn", "the standby did not start, so it lives on").reason(failure)
        }
        Fact::Degraded(CrashLoop::Many(count) | CrashLoop::Alike(count)) => {
            Entry::new("degraded", format!("a crash loop: {count} failures, the last one {failure}"))
                .reason(failure)
        }
        Fact::Recovered => Entry::new("recovered", "the crash loop is over"),
        Fact::Scaled(workers) => Entry::new("scaled", format!("{workers} workers are meant to be")),
        Fact::Retiring(slot) => of_slot(*slot, "retiring", format!("slot {} goes away", slot.0)),
        Fact::RetiringCancelled(slot) => {
            of_slot(*slot, "retiring_cancelled", format!("slot {} stays", slot.0))
        }
        Fact::Retired(slot) => of_slot(*slot, "retired", format!("slot {} is gone", slot.0)),
        Fact::Paused(slot) => of_slot(*slot, "paused", format!("slot {} gets no new clients", slot.0)),
        Fact::Resumed(slot) => of_slot(*slot, "resumed", format!("slot {} gets new clients again", slot.0)),
        Fact::Late(span) => Entry::new("late", format!("the master stood still for {} ms", span / 1_000_000)),
        Fact::Stopping(quick) => {
            Entry::new("stopping", "the end begins").reason(if *quick { "quick" } else { "graceful" })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_whoever_missed_them_is_told() {
        let mut history = History::default();
        assert_eq!(history.after(0), None);
        for number in 0..KEPT as u64 + 10 {
            history.push(Entry::new("ready", number.to_string()));
        }
        assert_eq!((history.entries.len(), history.last()), (KEPT, KEPT as u64 + 10));
        let after = |seq| history.after(seq).map(|(missed, entry)| (missed, entry.seq));
        assert_eq!(after(0), Some((0, 11)), "who asks for all gets what is there");
        assert_eq!(after(1), Some((9, 11)));
        assert_eq!(after(10), Some((0, 11)));
        assert_eq!(after(20), Some((0, 21)));
        assert_eq!(after(history.last()), None);
        assert_eq!(after(u64::MAX), Some((0, 11)), "a number of another gateway");
    }

    #[test]
    fn an_event_says_whom_it_is_about() {
        let who = |_| (Some(SlotId(2)), Some(4711));
        let entry = of(&Fact::Killed(ChildId(3), Kill::Drain), who, "").expect("an event");
        assert_eq!((entry.event.as_str(), entry.slot, entry.pid), ("killed", Some(2), Some(4711)));
        assert_eq!(entry.reason.as_deref(), Some("drain"));
        assert_eq!(of(&Fact::TermIgnored, who, ""), None);
        let read: Entry = serde_json::from_str("{\"seq\":3,\"new\":1}").expect("of another version");
        assert_eq!(read.seq, 3);
    }
}
