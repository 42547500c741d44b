//! The loop: waits, turns what happened into events, carries out the actions. No decision is made here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::control::{ControlError, FromChild, OLDEST, Received, VERSION};
use forkgate_shared::rows::{Rows, monotonic_ns};
use forkgate_shared::settings::Sources;

use super::child::Child;
use super::crash_dir::CrashDir;
use super::ctl::Ctl;
use super::failure::{Failure, end_of};
use super::history::{Entry, History, Who};
use super::hooks::Hooks;
use super::listeners::Listeners;
use super::notify::Notifier;
use super::oom::OomKills;
use super::operators::awaited::Awaited;
use super::outside::Looks;
use super::pidfd::{Ending, PidFd, peek_any, reap_unknown};
use super::pidfile::Pidfile;
use super::poller::{Poller, Source};
use super::pulse::Pulse;
use super::reload::Attempt;
use super::reopen::Reopening;
use super::report::{Reports, Subject, how};
use super::signals::Signals;
use super::spawn::Executable;
use super::state_dir::StateDir;
use super::upgrade::Upgrade;
use super::versions::{Version, Versions};
use super::watch::Watch;
use super::zombies::Zombies;
use super::{DemoOptions, facts};
use crate::supervisor::{ChildId, Event, Ns, Role, SlotId, Supervisor};

/// Messages of one child taken per turn: a child that floods does not keep the others waiting.
const MESSAGES_PER_TURN: usize = 32;
/// A turn that took this much longer than it waited: the master was stopped, or got no CPU.
const LATE: Ns = 1_000_000_000;
/// Children of others taken per turn.
const UNKNOWN_PER_TURN: usize = 64;

/// Everything the master holds.
pub struct Master {
    pub(super) supervisor: Supervisor,
    pub(super) poller: Poller,
    pub(super) signals: Signals,
    pub(super) executable: Executable,
    pub(super) listeners: Listeners,
    pub(super) rows: Rows,
    pub(super) rows_fd: OwnedFd,
    pub(super) sessions: OwnedFd,
    pub(super) versions: Versions,
    /// Read and valid, not yet numbered.
    pub(super) loaded: Option<Version>,
    /// `GATEWAY_TOOL_NAME_SEPARATOR` as the registry holds it; not known while a reload changes it, nor after one that
    /// failed. Only the `migrate` child writes it.
    pub(super) stored_separator: Option<String>,
    pub(super) sources: Sources,
    pub(super) children: BTreeMap<ChildId, Child>,
    /// Children that have ended and whose end the supervisor does not know yet.
    pub(super) deaths: BTreeMap<ChildId, Death>,
    pub(super) zombies: Zombies,
    pub(super) watch: Watch,
    pub(super) looks: Looks,
    pub(super) reports: Reports,
    pub(super) crash_dir: CrashDir,
    /// When the accept queues are looked at again.
    pub(super) queues_due: Ns,
    /// Open streams by slot, as the supervisor knows them.
    pub(super) streams: BTreeMap<SlotId, u64>,
    pub(super) ctl: Ctl,
    pub(super) notifier: Notifier,
    pub(super) pulse: Pulse,
    pub(super) demo: Option<DemoOptions>,
    /// The reload or the check that runs, or the last one.
    pub(super) attempt: Attempt,
    /// How the last worker failed, in words: `worker 0: exit code 3: …`.
    pub(super) last_failure: Option<String>,
    pub(super) oom_kills: OomKills,
    pub(super) hooks: Hooks,
    pub(super) upgrade: Upgrade,
    pub(super) awaited: Awaited,
    pub(super) history: History,
    pub(super) reopening: Reopening,
    /// What became of the last reload, when that was not done.
    pub(super) reload_failure: Option<String>,
    pub(super) events: VecDeque<Event>,
    pub(super) started: Ns,
    pub(super) exit: Option<u8>,
    pub(super) pidfile: Option<Pidfile>,
    /// Dropped last: whoever gets the lock finds nothing of ours.
    pub(super) state_dir: StateDir,
}

/// How a child ended.
pub(super) struct Death {
    pub(super) ending: Ending,
    /// The kernel did it, for want of memory.
    pub(super) by_kernel_for_memory: bool,
    pub(super) failure: Failure,
    /// What it was for.
    role: Role,
    /// For a worker.
    pub(super) subject: Option<Subject>,
    /// A report that was begun while it lived has just been written.
    pub(super) reported: bool,
}

impl Master {
    /// Runs until the supervisor says that it is over; gives the exit code. `first` is what the supervisor hears first.
    pub fn run(mut self, first: Event) -> io::Result<u8> {
        self.wait_for_all()?;
        self.events.push_back(first);
        // What ended while nobody listened.
        self.reap_strangers();
        let mut turn = monotonic_ns();
        loop {
            self.decide();
            if let Some(code) = self.exit
                && self.hooks_are_over(monotonic_ns())
            {
                return Ok(code);
            }
            if self.supervisor.execution().is_some() {
                self.execute();
                continue;
            }
            self.listen_again()?;
            let now = monotonic_ns();
            let deadlines = [
                self.supervisor.next_deadline(now),
                self.ctl.next_deadline(),
                self.zombies.next_deadline(),
                self.next_look(),
                self.upgrade.next_deadline(),
                self.hooks.next_deadline(),
                self.drain_line_due(),
            ];
            let next = deadlines.into_iter().flatten().min();
            let for_manager = [self.listeners.store_deadline(), self.beat(next, now)];
            let next = next.into_iter().chain(for_manager.into_iter().flatten()).min();
            let patience = next.map(|at| at.saturating_sub(now));
            let sources = self.poller.wait(patience)?;
            let due = turn.saturating_add(patience.unwrap_or(Ns::MAX));
            turn = monotonic_ns();
            if turn.saturating_sub(due) > LATE {
                self.events.push_back(Event::Late(turn - due));
            }
            for source in sources {
                self.serve(source);
            }
            let now = monotonic_ns();
            self.ctl.expire(now);
            if self.zombies.reap(now) {
                self.reap_strangers();
            }
            self.look(now);
            self.tell_of_drain(now);
            self.continue_check(now);
            self.tend_hooks(now);
            self.events.push_back(Event::Tick);
        }
    }

    /// Waits for everything that there is, also for what another program left.
    fn wait_for_all(&self) -> io::Result<()> {
        for fd in self.signals.descriptors() {
            self.poller.add(fd, Source::Signal)?;
        }
        self.poller.add(self.ctl.as_fd(), Source::Ctl)?;
        for (id, client, writes) in self.ctl.clients() {
            self.poller.add(client, Source::CtlClient(id))?;
            self.poller.want_write(client, Source::CtlClient(id), writes)?;
        }
        for (id, child) in &self.children {
            self.poller.add(&child.pidfd, Source::Ended(*id))?;
            if let Some(control) = &child.control {
                self.poller.add(control, Source::Control(*id))?;
                self.poller.want_write(control, Source::Control(*id), child.is_owed())?;
            }
        }
        for (fd, source) in self.hooks.descriptors() {
            self.poller.add(fd, source)?;
        }
        Ok(())
    }

    /// Feeds the supervisor until nothing is left to say.
    pub(super) fn decide(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let gone = if let Event::Exited { child, .. } = event { Some(child) } else { None };
            if let Some(death) = gone.and_then(|gone| self.deaths.get(&gone)) {
                self.last_failure = Some(format!("{}: {}", name(death.role), death.failure.text()));
            }
            let actions = self.supervisor.step(event, monotonic_ns());
            if let Some(gone) = gone {
                self.hook_on_exit(gone, &actions);
            }
            for action in actions {
                self.carry_out(action);
            }
            self.check_fates();
            if let Some(gone) = gone {
                self.deaths.remove(&gone);
            }
        }
        self.answer_awaiting();
        self.listeners.keep_stored(&self.notifier, monotonic_ns());
        self.feed_readers();
        let sentence = self.sentence();
        self.notifier.status(&sentence);
    }

    /// Slot and process id of a child.
    pub(super) fn who(&self, id: ChildId) -> Who {
        let child = self.children.get(&id);
        let slot = child.and_then(|child| slot_of(child.role)).map(SlotId);
        (slot, child.map(|child| child.pid.unsigned_abs()))
    }

    pub(super) fn sentence(&self) -> String {
        let generation = self.versions.current().number;
        let (reload, failure) = (self.reload_failure.as_deref(), self.last_failure.as_deref());
        let mut text = facts::sentence(&self.supervisor.summary(), generation, reload, failure);
        if let Some(why) = &self.upgrade.why {
            text += &format!(", upgrade refused: {why}");
        }
        text
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Signal => self.take_signals(),
            Source::Ctl => self.accept_ctl(),
            Source::CtlClient(id) => self.serve_ctl(id),
            Source::Control(id) => {
                self.send_what_is_owed(id);
                self.hear(id, MESSAGES_PER_TURN);
            }
            Source::Ended(id) => self.ended(id),
            Source::UpgradeCheck => self.continue_check(monotonic_ns()),
            Source::HookEnded(id) => self.hook_ended(id),
            Source::HookOutput(id) => self.hook_said(id),
        }
    }

    pub(super) fn take_signals(&mut self) {
        let arrived = self.signals.take();
        self.events.extend(arrived.orders.into_iter().map(Event::Order));
        if arrived.reopen_logs {
            self.reopen_logs();
        }
        if arrived.dump {
            self.dump_state();
        }
        if arrived.child {
            self.reap_strangers();
        }
    }

    /// Takes what a child said, at most `limit` messages.
    fn hear(&mut self, id: ChildId, limit: usize) {
        for _ in 0..limit {
            let Some(child) = self.children.get_mut(&id) else { return };
            let Some(control) = &child.control else { return };
            match control.recv::<FromChild>() {
                Ok(Received::Message(message, fd)) => self.heard(id, message, fd),
                Ok(Received::WouldBlock) => return,
                Err(error @ ControlError::Malformed(_)) => {
                    tracing::warn!(pid = child.pid, %error, "a child's message is dropped");
                }
                Ok(Received::EndOfFile) | Err(_) => {
                    // Its end comes by the pidfd.
                    self.poller.remove(control);
                    child.control = None;
                    return;
                }
            }
        }
    }

    fn heard(&mut self, id: ChildId, message: FromChild, fd: Option<OwnedFd>) {
        let Some(child) = self.children.get_mut(&id) else { return };
        match message {
            FromChild::Hello { version: OLDEST..=VERSION } => self.events.push_back(Event::Hello(id)),
            FromChild::Hello { version } => {
                tracing::error!(
                    pid = child.pid,
                    version,
                    "a child speaks another version of the control messages"
                );
                let _ = child.pidfd.signal(libc::SIGKILL);
            }
            FromChild::Ready => {
                child.ready = true;
                self.events.push_back(Event::Ready(id));
            }
            FromChild::WantRecycle { reason } => self.events.push_back(Event::WantRecycle(id, reason)),
            FromChild::Catalog { generation } => self.publish(id, generation, fd),
            FromChild::Report => self.hear_report(id, fd),
            FromChild::LogReopened { error } => self.log_reopened(id, error),
            FromChild::Checked => self.hear_verdict(id, fd),
            FromChild::BootFailed { message } => {
                tracing::error!(pid = child.pid, "{}: {message}", name(child.role));
                if self.supervisor.tries_program(id) {
                    self.upgrade.why = Some(format!("{}: {message}", name(child.role)));
                }
                self.attempt.boot_failed(child.version, message.clone());
                child.last_words = Some(message);
            }
        }
    }

    /// A child ended: takes its last words; it is reaped later.
    fn ended(&mut self, id: ChildId) {
        self.hear(id, MESSAGES_PER_TURN);
        let Some(child) = self.children.get(&id) else { return };
        let ending = match child.pidfd.ending() {
            Ok(Some(ending)) => ending,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(pid = child.pid, %error, "a child was reaped by somebody else");
                Ending::Code(-1)
            }
        };
        let is_nobodys_kill = ending == Ending::Signal(libc::SIGKILL) && !child.killed;
        let oom_counter = if is_nobodys_kill { self.oom_kills.risen(monotonic_ns()) } else { None };
        let how = match &oom_counter {
            Some(path) => {
                self.rows.base().oom_kills.fetch_add(1, Relaxed);
                format!("killed by the kernel for memory (oom_kill rose in {})", path.display())
            }
            None => how(ending),
        };
        if ending == Ending::Code(0) {
            tracing::debug!(pid = child.pid, "{} ended", name(child.role));
        } else {
            tracing::warn!(pid = child.pid, "{} ended: {how}", name(child.role));
        }
        let entry = Entry::new("gone", format!("{} ended: {how}", name(child.role))).reason(&*how);
        let entry = Entry { slot: slot_of(child.role), ..entry }.pid(Some(child.pid.unsigned_abs()));
        let end = end_of(ending, child.last_words.as_deref());
        let failure = Failure { how, words: child.last_words.clone() };
        self.poller.remove(&child.pidfd);
        self.history.push(entry);
        let role = child.role;
        let subject = match role {
            Role::Worker { slot, .. } => Some(child.subject(id, slot)),
            Role::Migrate | Role::Check | Role::Companion => None,
        };
        let reported = self.watch_no_more(id);
        self.reopens_no_more(id);
        let by_kernel_for_memory = oom_counter.is_some();
        self.deaths.insert(id, Death { ending, by_kernel_for_memory, failure, role, subject, reported });
        if let Some(child) = self.children.remove(&id) {
            self.zombies.keep(child.pid, child.pidfd, monotonic_ns());
        }
        self.events.push_back(Event::Exited { child: id, end });
        self.reap_strangers();
    }

    /// Ends a child that the supervisor knows nothing of, if it has not ended; it is reaped later.
    pub(super) fn kill_and_bury(&mut self, pid: i32, pidfd: PidFd) {
        // Fails for one that is not waited on.
        self.poller.remove(&pidfd);
        let _ = pidfd.signal(libc::SIGKILL);
        self.zombies.keep(pid, pidfd, monotonic_ns());
    }

    fn is_ours(&self, pid: i32) -> bool {
        let is_child = self.children.values().any(|child| child.pid == pid);
        let is_child = is_child || self.hooks.has(pid);
        is_child || self.zombies.has(pid) || self.upgrade.check_pid() == Some(pid)
    }

    /// As pid 1 or subreaper the master gets children that it did not start; their ends mean nothing.
    fn reap_strangers(&mut self) {
        for _ in 0..UNKNOWN_PER_TURN {
            match peek_any() {
                Ok(Some(pid)) if !self.is_ours(pid) => {
                    tracing::debug!(pid, "reaped a child of somebody else");
                    let _ = reap_unknown(pid);
                }
                _ => return,
            }
        }
    }
}

/// The slot of a worker.
pub(super) fn slot_of(role: Role) -> Option<u32> {
    match role {
        Role::Worker { slot, .. } => Some(slot.0),
        Role::Migrate | Role::Check | Role::Companion => None,
    }
}

/// The words for logs.
pub(super) fn name(role: Role) -> String {
    match role {
        Role::Migrate => "migrate".to_owned(),
        Role::Check => "check".to_owned(),
        Role::Companion => "demo-companion".to_owned(),
        Role::Worker { slot, .. } => format!("worker {}", slot.0),
    }
}
