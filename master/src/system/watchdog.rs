//! The watchdog's part of the loop: looks at rows and at `/proc` when they are due, and carries out what the supervisor wants
//! of an accused worker.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use forkgate_shared::control::ToChild;
use forkgate_shared::report::{Cause, Inside, Outside, Report};
use forkgate_shared::rows::{RowState, SLOTS, monotonic_ns};
use forkgate_shared::settings::Watchdog;

use super::child::Child;
use super::history::Entry;
use super::master::Master;
use super::outside::{Extra, Look};
use super::proc_fs;
use super::report::{self, Subject, in_words};
use super::watch::Watched;
use crate::supervisor::{ChildId, Event, Ns, Role, SlotId, Verdict};

/// More open streams than a worker can have descriptors for.
const MOST_STREAMS: u64 = 1 << 24;
/// From one look at the accept queues and the numbers of streams to the next.
const QUEUES_PERIOD: Ns = 1_000_000_000;

impl Master {
    /// When [`Master::look`] has something to do.
    pub(super) fn next_look(&self) -> Option<Ns> {
        let others = [
            self.looks.next_deadline(),
            self.reports.next_deadline(),
            self.listeners.next_deadline(),
            self.reopening.next_deadline(),
        ];
        others.into_iter().flatten().chain([self.watch.next_deadline(), self.queues_due]).min()
    }

    /// Does what is due.
    pub(super) fn look(&mut self, now: Ns) {
        if self.watch.next_deadline() <= now {
            let (rows, reports) = (&self.rows, &self.reports);
            let watched = self.children.iter().filter_map(|(id, child)| match child.role {
                Role::Worker { row, .. } if child.ready && child.limits.watchdog != Watchdog::Off => {
                    Some(Watched {
                        id: *id,
                        row: rows.row(row),
                        stall_timeout: child.limits.stall_timeout,
                        reporting: reports.waits_for(*id),
                    })
                }
                _ => None,
            });
            self.events.extend(self.watch.look(watched, now));
        }
        if self.queues_due <= now {
            self.queues_due = now + QUEUES_PERIOD;
            self.show_queues();
            self.count_streams();
        }
        self.listeners.continue_retiring(now);
        for (id, verdict) in self.looks.take_due(now) {
            self.answer_confirm(id, verdict, now);
        }
        self.expire_reopening(now);
        for id in self.reports.overdue(now) {
            self.finish_report(id, None, now);
        }
    }

    /// A first look at a suspect.
    pub(super) fn accuse(&mut self, id: ChildId) {
        let look = self.take_look(id, monotonic_ns());
        self.looks.accuse(id, look);
    }

    /// The answer comes when the first look is old enough.
    pub(super) fn confirm(&mut self, id: ChildId, verdict: Verdict) {
        let now = monotonic_ns();
        let look = self.take_look(id, now);
        self.looks.confirm(id, verdict, look, now);
    }

    pub(super) fn query_core_dump(&mut self, id: ChildId) {
        let dumping = self.children.get(&id).is_some_and(|child| proc_fs::is_dumping_core(child.pid));
        self.events.push_back(Event::CoreDump(id, dumping));
    }

    /// A worker sent its part of the report.
    pub(super) fn hear_report(&mut self, id: ChildId, memfd: Option<OwnedFd>) {
        if self.reports.waits_for(id) {
            self.finish_report(id, Some(report::read_inside(memfd)), monotonic_ns());
        }
    }

    /// A child ended, and its last words are heard. A report that waited for it is written as it is: true then.
    pub(super) fn watch_no_more(&mut self, id: ChildId) -> bool {
        self.looks.forget(id);
        self.write_unfinished(id, None, monotonic_ns())
    }

    fn worker(&self, id: ChildId) -> Option<(&Child, SlotId, usize)> {
        let child = self.children.get(&id)?;
        match child.role {
            Role::Worker { slot, row } => Some((child, slot, row)),
            Role::Migrate | Role::Check | Role::Companion => None,
        }
    }

    fn take_look(&self, id: ChildId, now: Ns) -> Option<Look> {
        let (child, _, row) = self.worker(id)?;
        Look::take(child.pid, self.rows.row(row), now)
    }

    fn answer_confirm(&mut self, id: ChildId, verdict: Verdict, now: Ns) {
        let Some((child, ..)) = self.worker(id) else { return };
        let look = self.take_look(id, now);
        let extra = look
            .map_or_else(Extra::default, |look| Extra::read(verdict, child.pid, &look, child.limits.max_rss));
        let answer = self.looks.answer(id, verdict, look, &extra);
        self.events.push_back(Event::Confirmed(id, answer));
    }

    /// Asks a worker for its part of the report, and writes down what is seen of it now.
    pub(super) fn begin_report(&mut self, id: ChildId, verdict: Verdict, enforced: bool) {
        let now = monotonic_ns();
        let Some((child, slot, row)) = self.worker(id) else { return };
        let asked = child.control.as_ref().map(|control| control.send(&ToChild::Report { verdict }, None));
        let row = self.rows.row(row);
        let since = match verdict {
            Verdict::Silent => self.watch.silent_since(id),
            Verdict::Operator => None,
            _ => Some(row.evidence.since_ns.load(Relaxed)),
        };
        let (cause, millis) = (Cause::Verdict { verdict, enforced }, unix_millis());
        let mut report = report::compose(&child.subject(id, slot), cause, row, since, now, millis);
        report.outside = Some(self.outside(id, child.pid, slot, now));
        self.reports.begin(id, report, now, millis);
        if !matches!(asked, Some(Ok(()))) {
            self.finish_report(id, None, now);
        }
    }

    fn outside(&self, id: ChildId, pid: i32, slot: SlotId, now: Ns) -> Outside {
        let look = self.take_look(id, now);
        report::outside(pid, self.looks.first(id), look.as_ref(), self.queue(slot))
    }

    fn finish_report(&mut self, id: ChildId, inside: Option<Inside>, now: Ns) {
        if self.write_unfinished(id, inside, now) {
            self.events.push_back(Event::Reported(id));
        }
    }

    /// False when no report waited.
    fn write_unfinished(&mut self, id: ChildId, inside: Option<Inside>, now: Ns) -> bool {
        let Some(unfinished) = self.reports.take(id) else { return false };
        let millis = unfinished.millis;
        self.write_report(&unfinished.finish(inside, now), millis);
        true
    }

    /// The supervisor wants this while the row still says what the worker was doing.
    pub(super) fn report_death(&mut self, id: ChildId, row: usize) {
        let Some(death) = self.deaths.get(&id).filter(|death| !death.reported) else { return };
        let Some(subject) = death.subject else { return };
        let (cause, millis) = (Cause::Died { how: death.failure.text() }, unix_millis());
        let report = report::compose(&subject, cause, self.rows.row(row), None, monotonic_ns(), millis);
        self.write_report(&report, millis);
    }

    /// A report that cannot be written keeps nothing from happening.
    fn write_report(&mut self, report: &Report, millis: u64) {
        let (slot, pid, worker) = (report.slot, report.pid, ChildId(report.generation));
        match self.crash_dir.write(report, millis) {
            Ok(path) => {
                let culprit = report.culprits.first().map_or_else(|| "unknown".to_owned(), in_words);
                if matches!(report.cause, Cause::Verdict { verdict: Verdict::Operator, .. }) {
                    tracing::info!(slot, pid, path = %path.display(), "report written, as ordered");
                } else {
                    tracing::error!(slot, pid, path = %path.display(), culprit, "report written");
                }
                let text = format!("report written: {}", path.display());
                let entry = Entry::new("reported", text).slot(SlotId(slot)).pid(u32::try_from(pid).ok());
                self.note(entry);
                self.awaited.reported(worker, Ok(&path));
            }
            Err(error) => {
                tracing::warn!(slot, pid, %error, "the crash report cannot be written");
                self.awaited.reported(worker, Err(error.to_string()));
            }
        }
    }

    fn show_queues(&self) {
        for (slot, shown) in (0..SLOTS as u32).zip(&self.rows.base().accept_queue) {
            shown.store(u64::from(self.queue(SlotId(slot))), Relaxed);
        }
    }

    /// Open streams of the workers that accept, when they are others than at the last look.
    fn count_streams(&mut self) {
        let mut counts: BTreeMap<SlotId, u64> = BTreeMap::new();
        for child in self.children.values() {
            if let Role::Worker { slot, row } = child.role
                && RowState::from_u32(self.rows.row(row).state.load(Relaxed)) == RowState::Serving
            {
                // A row is untrusted: more streams than connections could ever be mean nothing.
                *counts.entry(slot).or_default() +=
                    self.rows.row(row).streams.load(Relaxed).min(MOST_STREAMS);
            }
        }
        if counts != self.streams {
            self.streams.clone_from(&counts);
            self.events.push_back(Event::Streams(counts.into_iter().collect()));
        }
    }

    /// Connections in a slot's accept queue.
    pub(super) fn queue(&self, slot: SlotId) -> u32 {
        self.listeners.queue_length(slot).unwrap_or(0)
    }
}

impl Child {
    /// What a report says of it.
    pub(super) fn subject(&self, id: ChildId, slot: SlotId) -> Subject {
        Subject { slot: slot.0, id, pid: self.pid, spawned: self.spawned }
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
