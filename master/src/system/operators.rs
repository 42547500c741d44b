//! What operators ask over the control socket, and what they are told.
//!
//! Whatever changes something leaves a line in the log, and is put to the supervisor as an order like any signal; its answer
//! is given when the supervisor says how it ended.

use std::path::PathBuf;

use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::status::Status;

use super::crash_dir::WhyError;
use super::ctl::{
    Answer, Done, HeldBack, KNOWN, Operation, Outcome, Reply, Request, Turn, Why, line, no_such_slot, refusal,
};
use super::master::Master;
use super::poller::Source;
use crate::supervisor::{Event, NoPause, Ns, Order, SECOND, SlotId};

/// Why nothing that takes its time is begun.
const STOPPING: &str = "the gateway is stopping";
const UPGRADING: &str = "an upgrade is under way: wait for its end, `forkgate ctl status` shows it";
const TOO_MANY: &str = "too many clients wait for an answer already: try again when one of them has it";

/// How long an upgrade waits for what runs: longer than a reload of some workers takes.
const PATIENCE: Ns = 60 * SECOND;

impl Master {
    pub(super) fn accept_ctl(&mut self) {
        let now = monotonic_ns();
        match self.ctl.accept(now) {
            Ok(Some(id)) => {
                if let Some(client) = self.ctl.client(id) {
                    let _ = self.poller.add(client, Source::CtlClient(id));
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept; it rests for a second");
                self.poller.remove(self.ctl.as_fd());
                self.ctl.rest(now);
            }
        }
    }

    /// Goes on with a client whose connection is ready, or who has an answer coming.
    pub(super) fn serve_ctl(&mut self, id: u64) {
        let mut turn = self.ctl.turn(id);
        if let Turn::Asked(request) = turn {
            let reply = self.reply_to(&request);
            turn = self.ctl.reply(id, reply, monotonic_ns());
        }
        if let Some(client) = self.ctl.client(id) {
            let _ = self.poller.want_write(client, Source::CtlClient(id), turn == Turn::Write);
        }
    }

    fn reply_to(&mut self, request: &[u8]) -> Reply {
        let request = match serde_json::from_slice(request) {
            Ok(request) => request,
            Err(error) => {
                return Reply::Now(refusal(format!("request not understood: {error}; known: {KNOWN}")));
            }
        };
        match request {
            Request::Status => Reply::Now(line(&self.answer())),
            Request::Why { slot } => Reply::Now(self.why(slot)),
            Request::Reload { check_only: false } => self.operate(Operation::Reload, Order::Reload),
            Request::Reload { check_only: true } => self.operate(Operation::Check, Order::Check),
            Request::Upgrade { binary } => self.ask_for_upgrade(binary),
            Request::Pause { slot } => Reply::Now(self.pause(slot)),
            Request::Resume { slot } => Reply::Now(self.resume(slot)),
        }
    }

    /// Puts an order to the supervisor whose client waits for what becomes of it.
    fn operate(&mut self, operation: Operation, order: Order) -> Reply {
        let state = self.supervisor.summary().state;
        if state == "stopping" {
            return Reply::Now(line(&Outcome::failure(STOPPING)));
        }
        if !self.ctl.may_wait() {
            return Reply::Now(line(&Outcome::failure(TOO_MANY)));
        }
        tracing::info!(?operation, "ordered over the control socket");
        self.events.push_back(Event::Order(order));
        let progress = match state {
            "degraded" if operation == Operation::Upgrade => "it begins when no worker is being started",
            "serving" | "degraded" => "it begins",
            "starting" => "the gateway is starting: it begins when all workers are ready",
            "upgrading" => "an upgrade is under way: it begins when that is over",
            _ => "a reload is under way: this one begins when that is over",
        };
        Reply::Later(operation, progress.to_owned())
    }

    /// One at a time: who asks during an upgrade would be told of another program than the one that was asked for.
    fn ask_for_upgrade(&mut self, binary: Option<PathBuf>) -> Reply {
        let is_ordered = |event: &Event| matches!(event, Event::Order(Order::Upgrade { .. }));
        if self.supervisor.is_upgrading() || self.events.iter().any(is_ordered) {
            return Reply::Now(line(&Outcome::failure(UPGRADING)));
        }
        let reply = self.operate(Operation::Upgrade, Order::Upgrade { patience: PATIENCE });
        if matches!(reply, Reply::Later(..)) {
            self.upgrade.wanted = binary;
        }
        reply
    }

    fn pause(&mut self, slot: u32) -> Vec<u8> {
        if !self.listeners.can_steer() {
            return refusal(
                "all clients come over unix sockets, which belong to no slot: whichever worker is free takes them",
            );
        }
        match self.supervisor.why_not_pause(SlotId(slot)) {
            None => {
                self.events.push_back(Event::Order(Order::Pause(SlotId(slot))));
                let how_back = format!("`forkgate ctl resume {slot}` lets them in again");
                line(&Done { done: format!("slot {slot} gets no new clients; {how_back}") })
            }
            Some(NoPause::NoSuchSlot) => {
                let passing = || format!("slot {slot} is just being opened or closed; try again in a moment");
                refusal(no_such_slot(slot, &Status::read(&self.rows)).unwrap_or_else(passing))
            }
            Some(NoPause::LastOne) => refusal(format!(
                "slot {slot} is the last one that takes new clients: resume another one, or start one more worker \
                 (`kill -TTIN {}`)",
                std::process::id()
            )),
        }
    }

    fn resume(&mut self, slot: u32) -> Vec<u8> {
        if let Some(error) = no_such_slot(slot, &Status::read(&self.rows)) {
            return refusal(error);
        }
        self.events.push_back(Event::Order(Order::Resume(SlotId(slot))));
        line(&Done { done: format!("slot {slot} gets new clients") })
    }

    fn why(&self, slot: u32) -> Vec<u8> {
        if self.ctl.owes_much() {
            return refusal("another report is just being sent: ask again in a few seconds");
        }
        match self.crash_dir.why(slot) {
            Ok((path, report)) => line(&Why { path, report }),
            Err(error @ WhyError::None(_)) => {
                refusal(no_such_slot(slot, &Status::read(&self.rows)).unwrap_or_else(|| error.to_string()))
            }
            Err(error) => refusal(error.to_string()),
        }
    }

    pub(super) fn answer(&self) -> Answer {
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

    /// Tells those that wait for the present run of an operation how far it is.
    pub(super) fn tell_operators(&mut self, operation: Operation, progress: &str) {
        let told = self.ctl.tell(operation, progress);
        told.into_iter().for_each(|id| self.serve_ctl(id));
    }

    /// Answers those that wait for the present run of an operation.
    pub(super) fn answer_operators(&mut self, operation: Operation, outcome: &Outcome) {
        let answered = self.ctl.ends(operation, outcome, monotonic_ns());
        answered.into_iter().for_each(|id| self.serve_ctl(id));
    }

    /// Nothing that anybody waits for will be done any more.
    pub(super) fn disappoint_operators(&mut self) {
        let answered = self.ctl.ends_all(&Outcome::failure(STOPPING), monotonic_ns());
        answered.into_iter().for_each(|id| self.serve_ctl(id));
    }
}
