//! Steps are done here, undone when their time has come, and the invariants are looked at in between.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, STOP_LIMIT, Status, Worker};
use forkgate_tests::http::{Connection, Failure};
use forkgate_tests::invariants::Invariants;
use forkgate_tests::process::{self, Signal};
use forkgate_tests::steps::{Fault, Pick, Step, Steps};
use forkgate_tests::witness::Witness;
use forkgate_tests::{fault, wait};
use serde_json::json;

use super::{GRACEFUL, REST_LIMIT, WORKERS};

/// What TTIN may add.
const MOST_WORKERS: u64 = 4 + WORKERS as u64;
/// From the graceful timeout to the end of the last process.
const END_SLACK: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(60);
/// How long a worker that went wrong may take until it is gone, after that is over: reported, drained.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long an env file is broken.
const BROKEN_FOR: Duration = Duration::from_millis(700);
/// How long an order for a fault may take to be taken.
const ORDER_LIMIT: Duration = Duration::from_secs(3);
/// How long `ctl` may wait: for a reload, for those before it, and for workers that drain on its way.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// Deaths of any cause within this time before somebody is killed again: more would be a crash loop, which is not meant.
const CALM_SPAN: Duration = Duration::from_secs(60);
const DEATHS_PER_SPAN: usize = 5;
/// Calls that would take longer than the graceful timeout.
const HELD_MS: u64 = 50_000;

/// What is to be undone.
enum Undo {
    /// A process stands still.
    Continue(u32),
    /// A worker is in trouble.
    Trouble(u32),
    /// The env file is broken.
    Restore,
}

impl Undo {
    /// Whom it is about is gone.
    fn is_over(&self) -> bool {
        matches!(self, Undo::Continue(pid) | Undo::Trouble(pid) if !process::alive(*pid))
    }
}

/// A gateway to which things are done.
pub struct Run {
    pub gateway: Gateway,
    /// The last look.
    seen: Status,
    pub invariants: Invariants,
    pub witness: Witness,
    undo: Vec<(Instant, Undo)>,
    deaths: Vec<Instant>,
    /// Those who talk to the master, since when.
    asking: Vec<(Instant, Child)>,
}

impl Run {
    /// Of a gateway at rest.
    pub fn of(gateway: Gateway, seen: Status) -> Run {
        let (pid, port) = (gateway.pid(), gateway.address.port());
        Run {
            invariants: Invariants::of(pid, port, gateway.log(), &seen),
            witness: Witness::of(port),
            gateway,
            seen,
            undo: Vec::new(),
            deaths: Vec::new(),
            asking: Vec::new(),
        }
    }

    /// Lets time pass, and looks.
    pub fn pass(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        loop {
            self.undo_what_is_due();
            self.hear_answers();
            self.look();
            if Instant::now() >= end {
                return;
            }
            std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
        }
    }

    fn stands_still(&self, pid: u32) -> bool {
        self.undo.iter().any(|(_, undo)| matches!(undo, Undo::Continue(other) if *other == pid))
    }

    fn look(&mut self) {
        if !self.stands_still(self.gateway.pid()) {
            self.seen = self.ask();
            self.invariants.look(&self.seen);
        }
    }

    /// While it becomes another program the master may give no answer.
    fn ask(&self) -> Status {
        wait::until("an answer of the master", EXCHANGE_LIMIT, || self.gateway.try_status())
    }

    /// Whatever the answer is, whoever asks gets one.
    fn hear_answers(&mut self) {
        self.asking.retain_mut(|(since, asking)| {
            let ended = asking.try_wait().expect("the child is ours").is_some();
            assert!(ended || since.elapsed() < ANSWER_LIMIT, "ctl has no answer after {:?}", since.elapsed());
            !ended
        });
    }

    fn undo_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |(at, undo): &(Instant, Undo)| *at <= now || undo.is_over();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.undo).into_iter().partition(is_due);
        self.undo = later;
        for (_, undo) in due {
            match undo {
                Undo::Continue(pid) => _ = process::signal(pid, Signal::SIGCONT),
                Undo::Trouble(pid) => {
                    self.witness.release(pid);
                    self.invariants.heal(pid);
                }
                Undo::Restore => self.write_settings(""),
            }
        }
    }

    fn later(&mut self, after: Duration, undo: Undo) {
        self.undo.push((Instant::now() + after, undo));
    }

    fn write_settings(&self, more: &str) {
        let text = format!("{}{more}\n", self.gateway.setup.env_text());
        // Whole or not at all: the master may read it at any moment.
        let (file, new) = (self.gateway.setup.env_file(), self.gateway.setup.directory().join("new.env"));
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &file))
            .expect("the directory is writable");
    }

    /// A worker that served when last seen, and is not in trouble.
    fn well(&self, pick: Pick) -> Option<Worker> {
        let well: Vec<&Worker> = self.seen.serving().filter(|worker| self.is_well(worker.pid)).collect();
        let chosen = pick.0.checked_rem(well.len() as u64)?;
        well.get(chosen as usize).map(|&worker| worker.clone())
    }

    fn is_well(&self, pid: u32) -> bool {
        process::alive(pid)
            && !self.undo.iter().any(
                |(_, undo)| matches!(undo, Undo::Trouble(other) | Undo::Continue(other) if *other == pid),
            )
    }

    /// True when one more death is no crash loop.
    fn may_die(&mut self) -> bool {
        self.deaths.retain(|at| at.elapsed() < CALM_SPAN);
        self.deaths.len() < DEATHS_PER_SPAN
    }

    /// Does it; what there is to say of it.
    pub fn perform(&mut self, step: &Step) -> String {
        match step {
            Step::Signal(signal) => {
                if *signal == Signal::SIGTTOU {
                    self.invariants.slots_may_go(1);
                }
                self.gateway.signal(*signal);
                String::new()
            }
            Step::Ctl(words) => {
                let mut command = self.gateway.setup.command();
                command.arg("ctl").args(*words).stdout(Stdio::null()).stderr(Stdio::null());
                self.asking.push((Instant::now(), command.spawn().expect("the binary starts")));
                String::new()
            }
            Step::Kill(pick) => self.kill(*pick, Signal::SIGKILL),
            Step::KillChild(pick) => self.kill_child(*pick),
            Step::Abort(pick) => self.kill(*pick, Signal::SIGABRT),
            Step::Ask(pick) => match self.well(*pick) {
                Some(worker) => {
                    process::signal(worker.pid, Signal::SIGTERM);
                    format!(": {} of slot {}", worker.pid, worker.slot)
                }
                None => ": nobody is there".to_owned(),
            },
            Step::StopWorker(pick, ms) => match self.well(*pick) {
                Some(worker) => {
                    self.invariants.harm(worker.slot, worker.pid, &[]);
                    process::signal(worker.pid, Signal::SIGSTOP);
                    let stands = Duration::from_millis(*ms);
                    self.later(stands, Undo::Continue(worker.pid));
                    self.later(stands + AFTERMATH, Undo::Trouble(worker.pid));
                    format!(": {} of slot {}", worker.pid, worker.slot)
                }
                None => ": nobody is there".to_owned(),
            },
            Step::StopMaster(ms) => {
                if self.stands_still(self.gateway.pid()) {
                    return ": it does already".to_owned();
                }
                self.gateway.signal(Signal::SIGSTOP);
                self.later(Duration::from_millis(*ms), Undo::Continue(self.gateway.pid()));
                String::new()
            }
            Step::Fault(fault) => self.order(fault),
            Step::Edit(name, value) => {
                if *name == "GATEWAY_WORKERS" {
                    self.invariants.slots_may_go(MOST_WORKERS);
                }
                self.gateway.setup = self.gateway.setup.clone().set(name, value.clone());
                self.write_settings("");
                self.gateway.signal(Signal::SIGHUP);
                String::new()
            }
            Step::Break(line) => {
                self.write_settings(line);
                self.gateway.signal(Signal::SIGHUP);
                self.later(BROKEN_FOR, Undo::Restore);
                String::new()
            }
        }
    }

    /// Stands still first, so that what it has accepted can be read and does not change until it dies.
    fn kill(&mut self, pick: Pick, signal: Signal) -> String {
        if !self.may_die() {
            return ": not now, enough have died".to_owned();
        }
        let Some(Worker { pid, slot, .. }) = self.well(pick) else { return ": nobody is there".to_owned() };
        self.deaths.push(Instant::now());
        self.invariants.kill(slot, pid);
        process::signal(pid, Signal::SIGSTOP);
        let stopped =
            wait::within(STOP_LIMIT, || (process::is_stopped(pid) || !process::alive(pid)).then_some(()));
        assert!(stopped.is_some(), "worker {pid} cannot be stopped");
        self.witness.watch(pid);
        process::signal(pid, signal);
        process::signal(pid, Signal::SIGCONT);
        format!(": {pid} of slot {slot}")
    }

    /// Whoever it is, and whatever he was about to do; one that does not serve, when there is one.
    fn kill_child(&mut self, pick: Pick) -> String {
        let mut children = process::children(self.gateway.pid());
        if children.len() > self.seen.serving().count() {
            children.retain(|&pid| self.seen.serving().all(|worker| worker.pid != pid));
        }
        let Some(chosen) = pick.0.checked_rem(children.len() as u64).filter(|_| self.may_die()) else {
            return ": not now, enough have died".to_owned();
        };
        let pid = children[chosen as usize];
        if !self.is_well(pid) {
            return ": it is in trouble already".to_owned();
        }
        process::signal(pid, Signal::SIGSTOP);
        self.witness.watch(pid);
        // It stands still: what it is does not change any more.
        let now = (!self.stands_still(self.gateway.pid())).then(|| self.ask());
        let slot = now.as_ref().unwrap_or(&self.seen).workers.iter().find(|worker| worker.pid == pid);
        let what = match slot {
            Some(Worker { slot, state, .. }) => {
                self.invariants.kill(*slot, pid);
                format!("{state} in slot {slot}")
            }
            None => {
                self.invariants.kill_idle();
                process::command_line(pid)
            }
        };
        self.deaths.push(Instant::now());
        process::signal(pid, Signal::SIGKILL);
        format!(": {pid}, {what}")
    }

    /// Only while nobody else is in trouble: an order that nobody takes in time might be taken later, unseen.
    fn order(&mut self, fault: &'static Fault) -> String {
        let trouble = self.undo.iter().any(|(_, undo)| matches!(undo, Undo::Continue(_) | Undo::Trouble(_)));
        if trouble || self.invariants.wounded() > 0 {
            return ": not now, somebody is in trouble".to_owned();
        }
        if !fault.kills.is_empty() && !self.may_die() {
            return ": not now, enough have died".to_owned();
        }
        let mut connection = Connection::open(self.gateway.address, ORDER_LIMIT).expect("a connection");
        if fault.name == "panic" {
            // The only one that nobody is worse for: its own request fails, and is answered.
            let answer = connection.exchange(&fault::order(fault.name, fault.query));
            assert_eq!(answer.map(|answer| answer.status()), Ok(500), "a panic in a handler");
            return String::new();
        }
        let pid = fault::plant(&mut connection, fault.name, fault.query);
        self.witness.watch(pid);
        let slot = |status: &Status| {
            status.workers.iter().find(|worker| worker.pid == pid).map(|worker| worker.slot)
        };
        let slot = slot(&self.seen).or_else(|| slot(&self.ask()));
        let slot = slot.unwrap_or_else(|| panic!("process {pid} is no worker: {:#?}", self.seen));
        self.invariants.harm(slot, pid, fault.kills);
        if !fault.kills.is_empty() {
            self.deaths.push(Instant::now());
        }
        self.later(Duration::from_secs(fault.seconds) + AFTERMATH, Undo::Trouble(pid));
        format!(": {pid} of slot {slot}")
    }

    /// Everything is undone, and the settings are those of the start again.
    pub fn come_to_rest(&mut self) {
        while !(self.undo.is_empty() && self.asking.is_empty()) {
            self.pass(LOOK);
        }
        self.invariants.slots_may_go(MOST_WORKERS);
        for (name, value) in [("GATEWAY_MAX_REQUESTS", "0"), ("GATEWAY_LOG_LEVEL", "info")] {
            self.gateway.setup = self.gateway.setup.clone().set(name, value);
        }
        self.gateway.setup = self.gateway.setup.clone().workers(WORKERS);
        self.write_settings("");
        for words in [&["resume", "0"], &["resume", "1"]] {
            self.perform(&Step::Ctl(words));
        }
        self.gateway.signal(Signal::SIGHUP);
        let end = Instant::now() + REST_LIMIT;
        let mut asked = Instant::now();
        loop {
            self.pass(LOOK);
            let status = self.ask();
            let same =
                status.workers.iter().all(|worker| worker.settings_generation == status.settings_generation);
            if status.is_settled() && same && status.target == WORKERS as u64 {
                return;
            }
            assert!(Instant::now() < end, "it does not come to rest: {status:#?}");
            // What TTIN and TTOU have changed stays so over a reload that does not change the number.
            if status.is_settled() && asked.elapsed() > Duration::from_secs(1) {
                let wanted = if status.target > WORKERS as u64 { Signal::SIGTTOU } else { Signal::SIGTTIN };
                self.gateway.signal(wanted);
                asked = Instant::now();
            }
        }
    }

    /// I7: TERM in the middle of whatever it is, with calls that would take far too long.
    pub fn end(mut self, seed: u64) {
        let endpoint = self.gateway.federated();
        let mut held = Vec::new();
        for id in 0..4 {
            let mut connection =
                Connection::open(self.gateway.address, EXCHANGE_LIMIT).expect("a connection");
            connection.send(&endpoint.call(id, "fast__sleep", &json!({"ms": HELD_MS}))).expect("sent");
            held.push(connection);
        }
        let in_flight = |worker: &Worker| worker.in_flight;
        wait::until_equal("the calls to be in flight", EXCHANGE_LIMIT, 4, || {
            self.gateway.status().workers.iter().map(in_flight).sum::<u64>()
        });
        let last = Steps::of(seed ^ u64::MAX).map(|(_, step)| step);
        let last = last.filter(|step| matches!(step, Step::Signal(_) | Step::Ask(_) | Step::Edit(..)));
        for step in last.take(3) {
            let outcome = self.perform(&step);
            println!("before the end: {step}{outcome}");
        }
        let family = process::descendants(self.gateway.pid());
        self.gateway.signal(Signal::SIGTERM);
        let asked = Instant::now();
        let status = self.gateway.wait_exit(STOP_LIMIT);
        let took = asked.elapsed();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.gateway.log_text());
        assert!(took < GRACEFUL + END_SLACK, "the end took {took:.1?}");
        let left: Vec<u32> = family.into_iter().filter(|&pid| process::alive(pid)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        // Cut, or answered that there was no time left.
        for connection in &mut held {
            let heard = connection.head();
            assert!(matches!(heard, Ok(_) | Err(Failure::Closed | Failure::Reset)), "{heard:?}");
        }
    }
}
