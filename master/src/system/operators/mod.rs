//! What operators ask over the control socket, and what they are told.
//!
//! Whatever changes something leaves a line in the log, and is put to the supervisor as an order like any signal; its answer
//! is given when the supervisor says how it ended.
//!
//! | file | has |
//! |---|---|
//! | [`awaited`] | orders about workers, about the log and about the end, whose clients wait: how far they are, how they ended |
//! | [`shown`] | what is shown of the whole, of all workers, of one slot |
//! | [`workers`] | orders about single workers and about their number |

pub mod awaited;
mod shown;
mod workers;

use std::io;
use std::path::PathBuf;

use forkgate_shared::rows::monotonic_ns;
use forkgate_shared::status::Status;

use super::crash_dir::WhyError;
use super::ctl::{
    Done, Ending, KNOWN, Operation, Ordered, Outcome, Reply, Request, Turn, Why, line, log_stranger,
    no_such_slot, refusal,
};
use super::history::Entry;
use super::master::Master;
use super::poller::Source;
use crate::supervisor::{Event, NoPause, Ns, Order, SECOND, SlotId};

/// Why nothing that takes its time is begun.
const STOPPING: &str = "the gateway is stopping";
const UPGRADING: &str = "an upgrade is under way: wait for its end, `forkgate ctl status` shows it";
const TOO_MANY: &str = "too many clients wait for an answer already: try again when one of them has it";
/// What those are told whose order the next program may not understand.
const BECOMES_ANOTHER: &str = "the master becomes another program at this moment, which replaces all workers: look at \
                               `forkgate ctl workers`, then order it again if it is still wanted";

/// How long an upgrade waits for what runs: longer than a reload of some workers takes.
const PATIENCE: Ns = 60 * SECOND;

/// What became of an order.
enum Taken {
    /// It is done: this line is the answer.
    Done(Vec<u8>),
    /// It is begun, and this is what is done first.
    Begun(Operation, String),
    /// It is not, for this reason; this line is the answer.
    Refused(String, Vec<u8>),
}

impl Taken {
    /// Refused, with an answer that says so in its own form.
    fn refused(why: impl Into<String>, answer: impl FnOnce(&str) -> Vec<u8>) -> Taken {
        let why = why.into();
        let answer = answer(&why);
        Taken::Refused(why, answer)
    }

    /// Done, and nothing else is to be said than what is so now.
    fn done(done: String) -> Taken {
        Taken::Done(line(&Done { done }))
    }
}

/// The first of some lines: more would not be one line of the log.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl Master {
    pub(super) fn accept_ctl(&mut self) {
        let now = monotonic_ns();
        match self.ctl.accept(now) {
            Ok(Some(id)) => {
                if let Some(client) = self.ctl.client(id) {
                    let _ = self.poller.add(client, Source::CtlClient(id));
                }
            }
            // It stays in the socket's queue until there is a place.
            Ok(None) if self.ctl.is_full() => self.poller.remove(self.ctl.as_fd()),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept; it rests for a second");
                self.poller.remove(self.ctl.as_fd());
                self.ctl.rest(now);
            }
        }
    }

    /// Something has happened, and is told to those that read events when nothing else is left to do.
    pub(super) fn note(&mut self, entry: Entry) {
        self.history.push(entry);
    }

    /// Gives readers of events what is new.
    pub(super) fn feed_readers(&mut self) {
        if std::mem::replace(&mut self.awaited.told, self.history.last()) != self.history.last() {
            self.ctl.readers().into_iter().for_each(|id| self.serve_ctl(id));
        }
    }

    /// Waits for clients again, when there is a place for one.
    pub(super) fn listen_again(&mut self) -> io::Result<()> {
        if self.ctl.listens_again(monotonic_ns()) {
            self.poller.add(self.ctl.as_fd(), Source::Ctl)?;
        }
        Ok(())
    }

    /// Goes on with a client whose connection is ready, or who has an answer coming.
    pub(super) fn serve_ctl(&mut self, id: u64) {
        let mut turn = self.ctl.turn(id);
        if let Turn::Asked(request) = turn {
            let reply = self.reply_to(id, &request);
            turn = self.ctl.reply(id, reply, monotonic_ns());
        }
        // A reader that takes everything at once is given the next part at once.
        while turn == Turn::Read && self.ctl.feed(id, &self.history, monotonic_ns()) {
            turn = self.ctl.turn(id);
        }
        if let Some(client) = self.ctl.client(id) {
            let _ = self.poller.want_write(client, Source::CtlClient(id), turn == Turn::Write);
        }
    }

    fn reply_to(&mut self, id: u64, request: &[u8]) -> Reply {
        let Some(peer) = self.ctl.peer(id) else { return Reply::Now(Vec::new()) };
        if !peer.may_ask() {
            log_stranger(peer);
            return Reply::Now(refusal(peer.refusal()));
        }
        let request = match serde_json::from_slice(request) {
            Ok(request) => request,
            Err(error) => {
                return Reply::Now(refusal(format!("request not understood: {error}; known: {KNOWN}")));
            }
        };
        let ordered = Ordered::of(&request, peer);
        let taken = match request {
            Request::Status => return Reply::Now(line(&self.answer())),
            Request::Workers => return Reply::Now(line(&self.all_workers())),
            Request::Worker { slot } => return Reply::Now(self.one_slot(slot)),
            Request::Why { slot } => return Reply::Now(self.why(slot)),
            Request::Settings => return Reply::Now(line(&self.settings_in_force())),
            Request::Events { follow, after } => return self.events_after(after, follow),
            Request::Reload { check_only: false } => self.operate(Operation::Reload, Order::Reload),
            Request::Reload { check_only: true } => self.operate(Operation::Check, Order::Check),
            Request::Upgrade { binary } => self.ask_for_upgrade(binary),
            Request::Pause { slot } => self.pause(slot),
            Request::Resume { slot } => self.resume(slot),
            Request::Recycle { slot } => self.recycle(slot),
            Request::Kill { slot } => self.kill(slot),
            Request::Dump { slot } => self.dump_worker(slot),
            Request::Scale { workers, by } => self.scale(workers, by),
            Request::Reopen => self.reopen(),
            Request::Drain => self.drain(),
        };
        let log = |outcome: &str| ordered.iter().for_each(|ordered| ordered.log(outcome));
        match taken {
            Taken::Done(answer) => {
                log("done");
                Reply::Now(answer)
            }
            Taken::Begun(operation, progress) => {
                log("begun");
                Reply::Later(operation, progress, ordered)
            }
            Taken::Refused(why, answer) => {
                log(&format!("refused: {}", first_line(&why)));
                Reply::Now(answer)
            }
        }
    }

    fn events_after(&self, after: u64, follow: bool) -> Reply {
        if !self.ctl.may_read() {
            return Reply::Now(refusal("too many clients read events already: end one of them"));
        }
        Reply::Events(after, (!follow).then(|| self.history.last()))
    }

    /// Why nothing is begun whose client would wait.
    fn why_nothing_begins(&self) -> Option<&'static str> {
        if self.supervisor.summary().state == "stopping" {
            return Some(STOPPING);
        }
        (!self.ctl.may_wait()).then_some(TOO_MANY)
    }

    /// Puts an order to the supervisor whose client waits for what becomes of it.
    fn operate(&mut self, operation: Operation, order: Order) -> Taken {
        if let Some(why) = self.why_nothing_begins() {
            return Taken::refused(why, |why| line(&Outcome::failure(why)));
        }
        let progress = match self.supervisor.summary().state {
            "degraded" if operation == Operation::Upgrade => "it begins when no worker is being started",
            "serving" | "degraded" => "it begins",
            "starting" => "the gateway is starting: it begins when all workers are ready",
            "upgrading" => "an upgrade is under way: it begins when that is over",
            _ => "a reload is under way: this one begins when that is over",
        };
        self.events.push_back(Event::Order(order));
        Taken::Begun(operation, progress.to_owned())
    }

    /// One at a time: who asks during an upgrade would be told of another program than the one that was asked for.
    fn ask_for_upgrade(&mut self, binary: Option<PathBuf>) -> Taken {
        let is_ordered = |event: &Event| matches!(event, Event::Order(Order::Upgrade { .. }));
        if self.supervisor.is_upgrading() || self.events.iter().any(is_ordered) {
            return Taken::refused(UPGRADING, |why| line(&Outcome::failure(why)));
        }
        let taken = self.operate(Operation::Upgrade, Order::Upgrade { patience: PATIENCE });
        if matches!(taken, Taken::Begun(..)) {
            self.upgrade.wanted = binary;
        }
        taken
    }

    fn pause(&mut self, slot: u32) -> Taken {
        if !self.listeners.can_steer() {
            return Taken::refused(
                "all clients come over sockets that the workers share (unix sockets, those of a socket unit), and the kernel \
                 cannot be told whom to give them to: whichever worker is free takes them",
                |why| refusal(why),
            );
        }
        match self.supervisor.why_not_pause(SlotId(slot)) {
            None => {
                self.events.push_back(Event::Order(Order::Pause(SlotId(slot))));
                let how_back = format!("`forkgate ctl resume {slot}` lets them in again");
                Taken::done(format!("slot {slot} gets no new clients; {how_back}"))
            }
            Some(NoPause::NoSuchSlot) => Taken::refused(self.no_such_slot(slot), |why| refusal(why)),
            Some(NoPause::LastOne) => Taken::refused(
                format!(
                    "slot {slot} is the last one that takes new clients: resume another one, or start one more worker \
                     (`forkgate ctl scale +1`)"
                ),
                |why| refusal(why),
            ),
        }
    }

    fn resume(&mut self, slot: u32) -> Taken {
        if let Some(error) = no_such_slot(slot, &Status::read(&self.rows)) {
            return Taken::refused(error, |why| refusal(why));
        }
        self.events.push_back(Event::Order(Order::Resume(SlotId(slot))));
        Taken::done(format!("slot {slot} gets new clients"))
    }

    /// There is none of this number, or not at this moment.
    fn no_such_slot(&self, slot: u32) -> String {
        let passing = || format!("slot {slot} is just being opened or closed; try again in a moment");
        no_such_slot(slot, &Status::read(&self.rows)).unwrap_or_else(passing)
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

    /// Tells those that wait for the present run of an operation how far it is.
    pub(super) fn tell_operators(&mut self, operation: Operation, progress: &str) {
        let told = self.ctl.tell(operation, progress);
        told.into_iter().for_each(|id| self.serve_ctl(id));
    }

    /// Answers those that wait for the present run of an operation.
    pub(super) fn answer_operators(&mut self, operation: Operation, outcome: &impl Ending) {
        let answered = self.ctl.ends(operation, outcome, monotonic_ns());
        self.end_waiting(answered, outcome.failure());
    }

    /// Nothing that anybody waits for will be done any more, but the end.
    pub(super) fn disappoint_operators(&mut self) {
        self.end_all(|operation| operation != Operation::Drain, STOPPING);
    }

    /// Another program is executed now; it may be an older one.
    pub(super) fn dismiss_operators(&mut self) {
        self.end_all(|operation| !operation.outlives_an_upgrade(), BECOMES_ANOTHER);
    }

    fn end_all(&mut self, these: impl Fn(Operation) -> bool, why: &str) {
        self.awaited.forget_workers();
        let answered = self.ctl.ends_all(these, &Outcome::failure(why), monotonic_ns());
        self.end_waiting(answered, Some(why));
    }

    fn end_waiting(&mut self, answered: Vec<u64>, failure: Option<&str>) {
        for id in answered {
            if let Some(ordered) = self.ctl.order(id) {
                ordered.log_end(failure.map(first_line));
            }
            self.serve_ctl(id);
        }
    }
}
