//! What clients wait for beside reload and upgrade: how far it is, and how it ended.
//!
//! The supervisor keeps nothing for these: after every step it is asked what has become of the worker that was meant, or
//! whether there are as many workers as were ordered. So it does not matter by which way that came about.

use std::path::{Path, PathBuf};

use forkgate_shared::status::Status;

use super::super::ctl::{Carried, Operation};
use super::super::history::Entry;
use super::super::master::Master;
use crate::supervisor::{ChildId, Fact, Fate, Kill, Ns, SlotId, Verdict};

/// Between two lines about a gateway that drains.
pub const DRAIN_LINES: Ns = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Awaited {
    workers: Vec<Meant>,
    scales: Vec<u32>,
    /// What ended otherwise than by the fate of a worker.
    ended: Vec<(Operation, Carried)>,
    /// When the next line about the end is due, if anybody waits for that.
    pub(super) drain_due: Ns,
    /// The last event that readers were told of.
    pub(super) told: u64,
}

/// A worker that an order was about.
#[derive(Debug)]
struct Meant {
    operation: Operation,
    slot: SlotId,
    worker: ChildId,
    pid: u32,
    /// Its report, when one has been written since.
    report: Option<PathBuf>,
}

/// In words.
pub fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

impl Awaited {
    /// Somebody waits for this operation on this worker; several may.
    pub(super) fn worker(&mut self, operation: Operation, slot: SlotId, worker: ChildId, pid: u32) {
        if !self.workers.iter().any(|meant| meant.operation == operation) {
            self.workers.push(Meant { operation, slot, worker, pid, report: None });
        }
    }

    /// The process of another worker for which this operation has not ended: one that was there before.
    pub(super) fn before(&self, operation: Operation, worker: ChildId) -> Option<u32> {
        let other = |meant: &&Meant| meant.operation == operation && meant.worker != worker;
        self.workers.iter().find(other).map(|meant| meant.pid)
    }

    pub(super) fn scale(&mut self, workers: u32) {
        if !self.scales.contains(&workers) {
            self.scales.push(workers);
        }
    }

    /// Nobody waits any more.
    pub(super) fn forget_workers(&mut self) {
        self.workers.clear();
        self.scales.clear();
        self.ended.clear();
    }

    /// What was said of the log before is not about the next time.
    pub(super) fn reopens(&mut self) {
        self.ended.retain(|(operation, _)| *operation != Operation::Reopen);
    }

    /// The log is open anew, or not.
    pub fn reopened(&mut self, carried: Carried) {
        self.ended.push((Operation::Reopen, carried));
    }

    /// Whoever asks for the end now has it.
    pub(super) fn has_ended(&mut self) {
        self.ended.push((Operation::Drain, Carried::done("all workers have ended, and the master ends")));
    }

    /// A worker's report was written, or could not be.
    pub fn reported(&mut self, worker: ChildId, written: Result<&Path, String>) {
        for meant in self.workers.iter_mut().filter(|meant| meant.worker == worker) {
            match &written {
                Ok(path) => meant.report = Some(path.to_path_buf()),
                Err(error) if matches!(meant.operation, Operation::Dump(_)) => {
                    let why = format!("the report cannot be written: {error}");
                    self.ended.push((meant.operation, Carried::failure(why)));
                }
                Err(_) => {}
            }
        }
        let ended: Vec<Operation> = self.ended.iter().map(|(operation, _)| *operation).collect();
        self.workers.retain(|meant| !ended.contains(&meant.operation));
    }

    /// An operation on the worker of a slot will not be done.
    fn fail(&mut self, operation: Operation, why: String) {
        if let Some(at) = self.workers.iter().position(|meant| meant.operation == operation) {
            let Meant { slot: SlotId(slot), pid, .. } = self.workers.remove(at);
            let failure = Carried { slot: Some(slot), pid: Some(pid), ..Carried::failure(why) };
            self.ended.push((operation, failure));
        }
    }
}

impl Meant {
    /// How it ended, if it has; `pid_of` gives the process id of another worker.
    fn carried(&self, fate: Fate, pid_of: impl Fn(ChildId) -> Option<u32>) -> Option<Carried> {
        let Meant { operation, slot: SlotId(slot), pid, ref report, .. } = *self;
        let carried = match (operation, fate) {
            (Operation::Dump(_), _) if report.is_some() => {
                Carried::done(format!("the worker of slot {slot} (pid {pid}) is reported and lives on"))
            }
            (Operation::Dump(_), Fate::Gone) => Carried::failure(format!(
                "the worker of slot {slot} (pid {pid}) ended before its report was written"
            )),
            (Operation::Recycle(_), Fate::Replaced(new)) => {
                let new_pid = new.and_then(pid_of);
                let by = new_pid.map(|pid| format!("pid {pid} serves, ")).unwrap_or_default();
                let done = format!("slot {slot} has a new worker: {by}pid {pid} drains");
                Carried { new_pid, ..Carried::done(done) }
            }
            (Operation::Recycle(_), Fate::Retires) => {
                Carried::failure(format!("slot {slot} goes away, and its worker with it"))
            }
            (Operation::Recycle(_), Fate::Gone) => Carried::failure(format!(
                "the worker of slot {slot} (pid {pid}) ended before its replacement was ready; the slot gets another one"
            )),
            (Operation::Kill(_), Fate::Gone) => {
                Carried::done(format!("the worker of slot {slot} (pid {pid}) was killed"))
            }
            _ => return None,
        };
        Some(Carried { slot: Some(slot), pid: Some(pid), report: report.clone(), ..carried })
    }
}

impl Master {
    /// After each step: has a worker met its fate?
    pub(in super::super) fn check_fates(&mut self) {
        let mut at = 0;
        while let Some(meant) = self.awaited.workers.get(at) {
            let fate = self.supervisor.fate(meant.slot, meant.worker);
            let pid_of = |worker| self.children.get(&worker).map(|child| child.pid.unsigned_abs());
            match meant.carried(fate, pid_of) {
                Some(mut carried) => {
                    let meant = self.awaited.workers.remove(at);
                    if let (Operation::Kill(_), Ok(new)) =
                        (meant.operation, self.supervisor.worker_of(meant.slot))
                    {
                        carried.new_pid = self.children.get(&new).map(|child| child.pid.unsigned_abs());
                    }
                    self.awaited.ended.push((meant.operation, carried));
                }
                None => at += 1,
            }
        }
    }

    /// When nothing is left to be heard: answers those whose operation has ended.
    pub(in super::super) fn answer_awaiting(&mut self) {
        self.check_fates();
        self.check_scales();
        for (operation, carried) in std::mem::take(&mut self.awaited.ended) {
            self.ctl.begins(operation);
            self.answer_operators(operation, &carried);
        }
    }

    fn check_scales(&mut self) {
        let (target, is_scaled) = (self.supervisor.summary().target, self.supervisor.is_scaled());
        for wanted in std::mem::take(&mut self.awaited.scales) {
            let carried = if wanted != target {
                Carried::failure(format!(
                    "{} are meant to be now: somebody else ordered that, or there was no socket for more, see the log",
                    workers(target)
                ))
            } else if is_scaled {
                Carried::done(format!("{}, all ready", workers(target)))
            } else {
                self.awaited.scales.push(wanted);
                continue;
            };
            let carried = Carried { workers: Some(target), ..carried };
            self.awaited.ended.push((Operation::Scale(wanted), carried));
        }
    }

    /// Says how far an operation is.
    pub(in super::super) fn tell_awaiting(&mut self, fact: &Fact) {
        let (operations, text) = match fact {
            Fact::Recycling(SlotId(slot), reason) => (
                vec![Operation::Recycle(*slot)],
                format!("a replacement starts in slot {slot} ({})", reason.as_str()),
            ),
            Fact::Ready(_, SlotId(slot), _) => {
                let mut operations = self.scaling();
                operations.push(Operation::Kill(*slot));
                (operations, format!("a worker of slot {slot} is ready"))
            }
            Fact::Killed(child, Kill::Watchdog(Verdict::Operator)) => {
                let slot = self.awaited.workers.iter().find(|meant| meant.worker == *child);
                let Some(SlotId(slot)) = slot.map(|meant| meant.slot) else { return };
                (vec![Operation::Kill(slot)], "it is reported, and gets SIGABRT".to_owned())
            }
            Fact::Retiring(SlotId(slot)) => (self.scaling(), format!("slot {slot} goes away")),
            Fact::Retired(SlotId(slot)) => (self.scaling(), format!("slot {slot} is gone")),
            Fact::BootFailed(SlotId(slot), wait) => {
                let failure = self.last_failure.as_deref().unwrap_or("see the log");
                let seconds = *wait as f64 / 1e9;
                (self.scaling(), format!("slot {slot}: {failure}; tried again in {seconds:.1} s"))
            }
            Fact::StandbyFailed(SlotId(slot), wait) => {
                let failure = self.last_failure.as_deref().unwrap_or("see the log");
                let why = format!(
                    "the replacement did not start: {failure}; the old worker goes on, and the next try is in {:.1} s",
                    *wait as f64 / 1e9
                );
                return self.awaited.fail(Operation::Recycle(*slot), why);
            }
            Fact::KillWithdrawn(_, SlotId(slot)) => {
                let failure = self.last_failure.as_deref().unwrap_or("see the log");
                let why = format!("the replacement did not start, so nobody is killed: {failure}");
                return self.awaited.fail(Operation::Kill(*slot), why);
            }
            Fact::Degraded(_) => {
                let failure = self.last_failure.as_deref().unwrap_or("see the log");
                let why =
                    format!("workers fail again and again: {failure}; one empty slot at a time is tried");
                let ended = self.awaited.scales.drain(..).map(|workers| {
                    let failure = Carried { workers: Some(workers), ..Carried::failure(why.clone()) };
                    (Operation::Scale(workers), failure)
                });
                self.awaited.ended.extend(ended);
                return;
            }
            _ => return,
        };
        for operation in operations {
            self.ctl.begins(operation);
            self.tell_operators(operation, &text);
        }
    }

    fn scaling(&self) -> Vec<Operation> {
        self.awaited.scales.iter().map(|workers| Operation::Scale(*workers)).collect()
    }

    /// When the next line about the end is due.
    pub(in super::super) fn drain_line_due(&self) -> Option<Ns> {
        self.ctl.is_awaited(Operation::Drain).then_some(self.awaited.drain_due)
    }

    /// Says how far the end is.
    pub(in super::super) fn tell_of_drain(&mut self, now: Ns) {
        if self.drain_line_due().is_some_and(|due| due <= now) {
            self.awaited.drain_due = now + DRAIN_LINES;
            let text = self.what_drains();
            self.ctl.begins(Operation::Drain);
            self.tell_operators(Operation::Drain, &text);
        }
    }

    /// Nothing is left.
    pub(in super::super) fn tell_of_the_end(&mut self) {
        self.ctl.begins(Operation::Drain);
        let pid = std::process::id();
        self.answer_operators(
            Operation::Drain,
            &Carried::done(format!("all workers have ended, and the master (pid {pid}) ends")),
        );
        self.note(Entry::new("stopped", format!("all workers have ended, and the master (pid {pid}) ends")));
        self.feed_readers();
    }

    /// What the workers still have to finish.
    pub(super) fn what_drains(&self) -> String {
        let status = Status::read(&self.rows);
        let sum = |of: fn(&forkgate_shared::status::WorkerStatus) -> u64| {
            status.workers.iter().map(of).fold(0, u64::saturating_add)
        };
        let longest = status.workers.iter().filter_map(|worker| worker.leaves_in_s).fold(0.0, f64::max);
        let count = u32::try_from(status.workers.len()).unwrap_or(u32::MAX);
        let within = if longest > 0.0 { format!("; at most {longest:.0} s") } else { String::new() };
        format!(
            "{} left, with {} requests, {} streams, {} connections{within}",
            workers(count),
            sum(|worker| worker.in_flight),
            sum(|worker| worker.streams),
            sum(|worker| worker.connections)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: ChildId = ChildId(7);
    const NEXT: ChildId = ChildId(9);

    fn meant(operation: Operation) -> Meant {
        Meant { operation, slot: SlotId(2), worker: WORKER, pid: 4711, report: None }
    }

    #[test]
    fn an_operation_ends_with_the_fate_of_its_worker() {
        let pid_of = |worker| (worker == NEXT).then_some(4712);
        let ended = |operation, fate| meant(operation).carried(fate, pid_of);
        for operation in [Operation::Recycle(2), Operation::Kill(2), Operation::Dump(2)] {
            assert_eq!(ended(operation, Fate::Serves), None);
        }
        let recycled = ended(Operation::Recycle(2), Fate::Replaced(Some(NEXT))).expect("it ended");
        assert_eq!(
            (recycled.ok, recycled.slot, recycled.pid, recycled.new_pid),
            (true, Some(2), Some(4711), Some(4712))
        );
        assert_eq!(
            recycled.done.as_deref(),
            Some("slot 2 has a new worker: pid 4712 serves, pid 4711 drains")
        );
        for fate in [Fate::Gone, Fate::Retires] {
            assert!(!ended(Operation::Recycle(2), fate).expect("it ended").ok, "{fate:?}");
        }
        assert_eq!(ended(Operation::Kill(2), Fate::Replaced(Some(NEXT))), None, "it still lives");
        assert!(ended(Operation::Kill(2), Fate::Gone).expect("it ended").ok);
        assert!(!ended(Operation::Dump(2), Fate::Gone).expect("it ended").ok);
    }

    #[test]
    fn a_report_answers_whoever_waits_for_that_worker() {
        let mut awaited = Awaited::default();
        for operation in [Operation::Dump(2), Operation::Kill(2), Operation::Dump(2)] {
            awaited.worker(operation, SlotId(2), WORKER, 4711);
        }
        awaited.worker(Operation::Dump(3), SlotId(3), NEXT, 4712);
        awaited.reported(WORKER, Ok(Path::new("/crash/x.json")));
        let told: Vec<_> =
            awaited.workers.iter().map(|meant| (meant.operation, meant.report.is_some())).collect();
        assert_eq!(
            told,
            [(Operation::Dump(2), true), (Operation::Kill(2), true), (Operation::Dump(3), false)]
        );
        let carried = awaited.workers[0].carried(Fate::Serves, |_| None).expect("it is written");
        assert_eq!((carried.ok, carried.report), (true, Some("/crash/x.json".into())));
        awaited.reported(NEXT, Err("disk full".to_owned()));
        assert_eq!((awaited.workers.len(), awaited.ended.len()), (2, 1));
        assert!(awaited.ended[0].1.error.as_deref().is_some_and(|error| error.contains("disk full")));
    }

    #[test]
    fn what_fails_is_forgotten() {
        let mut awaited = Awaited::default();
        awaited.worker(Operation::Recycle(2), SlotId(2), WORKER, 4711);
        awaited.fail(Operation::Recycle(1), "another slot".to_owned());
        assert_eq!((awaited.workers.len(), awaited.ended.len()), (1, 0));
        awaited.fail(Operation::Recycle(2), "it did not start".to_owned());
        assert_eq!((awaited.workers.len(), awaited.ended.len()), (0, 1));
        awaited.forget_workers();
        assert!(awaited.ended.is_empty());
    }
}
