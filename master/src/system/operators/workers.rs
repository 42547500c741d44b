//! Orders about single workers and about their number, about the log and about the end.

use std::process;

use super::super::ctl::{Carried, Operation, Outcome, line};
use super::super::master::Master;
use super::{Taken, awaited};
use crate::supervisor::{ChildId, Event, NoOrder, NoScale, Order, SlotId, Verdict};

impl Taken {
    /// Refused, in the words of an order about workers.
    fn not_carried(why: impl Into<String>) -> Taken {
        Taken::refused(why, |why| line(&Carried::failure(why)))
    }
}

impl Master {
    pub(super) fn recycle(&mut self, slot: u32) -> Taken {
        let progress = "it begins as soon as no other worker is being replaced";
        self.order_for(
            slot,
            self.supervisor.recyclable(SlotId(slot)),
            Operation::Recycle(slot),
            Some(Order::Recycle(SlotId(slot))),
            progress,
        )
    }

    pub(super) fn kill(&mut self, slot: u32) -> Taken {
        let progress = "a replacement starts first, and new clients go to the other slots";
        self.order_for(
            slot,
            self.supervisor.worker_of(SlotId(slot)),
            Operation::Kill(slot),
            Some(Order::Kill(SlotId(slot))),
            progress,
        )
    }

    pub(super) fn dump_worker(&mut self, slot: u32) -> Taken {
        let found = self.supervisor.worker_of(SlotId(slot));
        let taken = self.order_for(
            slot,
            found,
            Operation::Dump(slot),
            None,
            "the worker is asked what it does; it has five seconds",
        );
        // One that is being written already, for whatever reason, says the same.
        if let (Taken::Begun(..), Ok(worker)) = (&taken, found)
            && !self.reports.waits_for(worker)
        {
            self.begin_report(worker, Verdict::Operator, false);
        }
        taken
    }

    /// Begins something with the worker of a slot whose client waits for what becomes of it.
    fn order_for(
        &mut self,
        slot: u32,
        found: Result<ChildId, NoOrder>,
        operation: Operation,
        order: Option<Order>,
        progress: &str,
    ) -> Taken {
        if let Some(why) = self.why_nothing_begins() {
            return Taken::not_carried(why);
        }
        if let Some(pid) = found.ok().and_then(|worker| self.awaited.before(operation, worker)) {
            return Taken::not_carried(format!(
                "the same is still under way for the worker that slot {slot} had before (pid {pid}): its new one is not touched"
            ));
        }
        match found {
            Ok(worker) => {
                let pid = self.children.get(&worker).map_or(0, |child| child.pid.unsigned_abs());
                self.awaited.worker(operation, SlotId(slot), worker, pid);
                self.events.extend(order.map(Event::Order));
                Taken::Begun(operation, progress.to_owned())
            }
            Err(why) => Taken::not_carried(self.why_no_order(slot, why)),
        }
    }

    fn why_no_order(&self, slot: u32, why: NoOrder) -> String {
        match why {
            NoOrder::NoSuchSlot => self.no_such_slot(slot),
            NoOrder::Retiring => format!("slot {slot} goes away, and its worker with it"),
            NoOrder::NoWorker => {
                format!(
                    "slot {slot} has no worker that is ready: one is being started, see `forkgate ctl workers`"
                )
            }
            NoOrder::Suspect(Verdict::Operator) => {
                format!("the worker of slot {slot} is about to be killed: somebody else ordered that")
            }
            NoOrder::Suspect(verdict) => format!(
                "the worker of slot {slot} is suspected ({}) and is being replaced for that",
                verdict.as_str()
            ),
        }
    }

    pub(super) fn scale(&mut self, workers: Option<u32>, by: Option<i32>) -> Taken {
        if let Some(why) = self.why_nothing_begins() {
            return Taken::not_carried(why);
        }
        let wanted = match (workers, by) {
            (Some(workers), None) => workers,
            (None, Some(by)) => self.target_to_come().saturating_add_signed(by),
            _ => return Taken::not_carried("say either how many workers, or how many more or fewer"),
        };
        match self.supervisor.why_not_scale(wanted) {
            None => {
                self.events.push_back(Event::Order(Order::Scale(wanted)));
                self.awaited.scale(wanted);
                Taken::Begun(Operation::Scale(wanted), format!("to {}", awaited::workers(wanted)))
            }
            Some(NoScale::TooFew) => Taken::not_carried(format!(
                "one worker has to stay; `forkgate ctl drain` (or `kill -TERM {}`) ends the gateway",
                process::id()
            )),
            Some(NoScale::TooMany(most)) => Taken::not_carried(format!(
                "{wanted} are too many: the row table made at start has room for {most} workers; set GATEWAY_WORKERS \
                 and restart to have more"
            )),
        }
    }

    /// How many workers there are meant to be once the orders are heard that wait: of two that want one more each is one.
    fn target_to_come(&self) -> u32 {
        let target = self.supervisor.summary().target;
        self.events.iter().fold(target, |target, event| match event {
            Event::Order(Order::Scale(workers)) => *workers,
            Event::Order(Order::MoreWorkers) => target.saturating_add(1),
            Event::Order(Order::FewerWorkers) => target.saturating_sub(1).max(1),
            _ => target,
        })
    }

    pub(super) fn reopen(&mut self) -> Taken {
        if let Some(why) = self.why_nothing_begins() {
            return Taken::not_carried(why);
        }
        self.awaited.reopens();
        self.reopen_logs();
        Taken::Begun(Operation::Reopen, "the workers are told to open the log file anew".to_owned())
    }

    /// The end; somebody who asks during the end only waits for it.
    pub(super) fn drain(&mut self) -> Taken {
        if !self.ctl.may_wait() {
            return Taken::refused(super::TOO_MANY, |why| line(&Outcome::failure(why)));
        }
        if self.supervisor.summary().state != "stopping" {
            self.events.push_back(Event::Order(Order::Drain));
        }
        if self.exit.is_some() {
            // Only hooks are waited for any more.
            self.awaited.has_ended();
        }
        self.awaited.drain_due = forkgate_shared::rows::monotonic_ns() + awaited::DRAIN_LINES;
        Taken::Begun(Operation::Drain, self.what_drains())
    }
}
