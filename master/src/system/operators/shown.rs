//! What is shown of the whole, of all workers, of one slot. Rows are untrusted; what the master knows itself stands beside
//! what they say.

use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{Row, monotonic_ns};
use forkgate_shared::settings::table::{self, Default, Reload, Setting};
use forkgate_shared::status::{Status, WorkerStatus};

use super::super::ctl::{
    Answer, Details, EventLoop, HeldBack, InForce, InForceSetting, Slot, Worker, Workers, line, no_such_slot,
    refusal,
};
use super::super::master::Master;
use super::super::report::in_flight;
use crate::supervisor::{Ns, SlotId, WHOLE, WorkerView};

impl Master {
    pub(in super::super) fn answer(&self) -> Answer {
        let held_back = self.supervisor.held_back(monotonic_ns()).into_iter();
        Answer {
            pid: std::process::id(),
            state: self.supervisor.summary().state.to_owned(),
            sentence: self.sentence(),
            uptime_s: monotonic_ns().saturating_sub(self.started) as f64 / 1e9,
            addresses: self.listeners.shown(),
            held_back: held_back.map(|(slot, parts, why)| HeldBack::new(slot, parts, why)).collect(),
            status: Status::read(&self.rows),
        }
    }

    pub(super) fn all_workers(&self) -> Workers {
        let now = monotonic_ns();
        let views = self.supervisor.workers();
        Workers {
            pid: std::process::id(),
            target: u64::from(self.supervisor.summary().target),
            workers: views.iter().map(|view| self.worker_shown(view, now)).collect(),
        }
    }

    pub(super) fn one_slot(&self, slot: u32) -> Vec<u8> {
        let (id, now) = (SlotId(slot), monotonic_ns());
        let workers: Vec<Details> = self
            .supervisor
            .workers()
            .iter()
            .filter(|view| view.slot == id)
            .map(|view| self.details(view, now))
            .collect();
        let view = self.supervisor.slot(id, now);
        if view.is_none() && workers.is_empty() {
            let passing = || format!("slot {slot} is just being opened or closed; try again in a moment");
            return refusal(no_such_slot(slot, &Status::read(&self.rows)).unwrap_or_else(passing));
        }
        let (share, held_back) = self.share(id, now);
        line(&Slot {
            slot,
            open: view.is_some_and(|view| view.open),
            paused: view.is_some_and(|view| view.paused),
            retiring: view.is_none_or(|view| view.retiring),
            wish: view.and_then(|view| view.wish).map(|reason| reason.as_str().to_owned()),
            next_start_s: view.and_then(|view| view.next_start).map(|span| span as f64 / 1e9),
            share,
            held_back,
            accept_queue: self.queue(id),
            last_report: self.crash_dir.last(slot),
            workers,
        })
    }

    pub(super) fn settings_in_force(&self) -> InForce {
        let current = self.versions.current();
        let defaults = current.settings.defaults_beside();
        let shown = |setting: &Setting| {
            let value = (setting.show)(&current.settings);
            let default =
                defaults.as_ref().map(setting.show).filter(|_| setting.default != Default::Required);
            InForceSetting {
                name: setting.name.to_owned(),
                differs: default.as_ref() != Some(&value),
                value: setting.masked(&value),
                source: current.origins.get(setting.name).cloned(),
                default: default.map(|default| setting.masked(&default)),
                needs_restart: setting.reload == Reload::NeedsRestart,
            }
        };
        InForce { settings_generation: current.number, settings: table::all().map(shown).collect() }
    }

    fn worker_shown(&self, view: &WorkerView, now: Ns) -> Worker {
        let mut row = WorkerStatus::read(view.row, self.rows.row(view.row), now);
        // A process that has not come to its `main` has written nothing.
        if let Some(child) = self.children.get(&view.child) {
            row.pid = u64::from(child.pid.unsigned_abs());
            row.age_s = now.saturating_sub(child.spawned) as f64 / 1e9;
        }
        row.generation = view.child.0;
        let (share, held_back) = self.share(view.slot, now);
        Worker {
            place: view.place.as_str().to_owned(),
            phase: view.phase.to_owned(),
            reason: view.reason.map(str::to_owned),
            accept_queue: self.queue(view.slot),
            share,
            held_back,
            row,
        }
    }

    fn details(&self, view: &WorkerView, now: Ns) -> Details {
        let row = self.rows.row(view.row);
        Details {
            worker: self.worker_shown(view, now),
            event_loop: event_loop(row),
            requests_in_flight: in_flight(row, now),
        }
    }

    /// The part of its share of new clients that a slot gets, and why that is not all of it.
    fn share(&self, id: SlotId, now: Ns) -> (f64, Option<String>) {
        let held_back = self.supervisor.held_back(now);
        let held = held_back.iter().find(|(slot, ..)| *slot == id);
        held.map_or((1.0, None), |(_, parts, why)| {
            (f64::from(*parts) / f64::from(WHOLE), Some(why.as_str().to_owned()))
        })
    }
}

fn event_loop(row: &Row) -> EventLoop {
    let evidence = &row.evidence;
    EventLoop {
        longest_poll_ms: evidence.longest_poll_ns.load(Relaxed) / 1_000_000,
        lag_ms: evidence.lag_ns.load(Relaxed) / 1_000_000,
        overloaded: evidence.starved.load(Relaxed) != 0,
        wake_storms: evidence.wake_storms.load(Relaxed),
        tasks: evidence.tasks.load(Relaxed),
    }
}
