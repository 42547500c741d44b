//! Carrying out the supervisor's actions.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::control::{ControlError, ToChild, worker_line};
use forkgate_shared::rows::{RowState, monotonic_ns};

use super::child::{self, Common};
use super::facts;
use super::history::{self, Entry};
use super::master::{Master, name, slot_of};
use super::poller::Source;
use super::versions::CatalogError;
use crate::supervisor::{Action, ChildId, ChildSignal, Event, Fact, Kill, Role, SlotId};

impl Master {
    pub(super) fn carry_out(&mut self, action: Action) {
        let base = self.rows.base();
        match action {
            Action::OpenListener(slot) => self.open_listener(slot),
            Action::CloseListener(slot) => self.listeners.close_slot(slot),
            Action::CloseListeners => self.listeners.close_all(),
            Action::Spawn(id, role, version) => self.spawn(id, role, version),
            Action::Introduce { leaver, heir } => self.introduce(leaver, heir),
            Action::SendDrain(id) => {
                self.note_leaving(id);
                self.send(id, ToChild::Drain);
            }
            Action::SendRetire(id) => {
                self.note_leaving(id);
                self.send(id, ToChild::Retire);
            }
            Action::Signal(id, ChildSignal::Term) => self.signal(id, libc::SIGTERM),
            Action::Signal(id, ChildSignal::Int) => self.signal(id, libc::SIGINT),
            Action::SendStepAside(id) => self.send_step_aside(id),
            Action::Signal(id, ChildSignal::Abort) => self.signal(id, libc::SIGABRT),
            Action::Signal(id, ChildSignal::Kill) => {
                if let Some(child) = self.children.get_mut(&id) {
                    child.killed = true;
                }
                self.signal(id, libc::SIGKILL);
            }
            Action::FreeRow(row) => self.rows.fold(row),
            Action::Steer(shares) => self.listeners.steer(Some(shares)),
            Action::Unsteer => self.listeners.steer(None),
            Action::QueryQueue(slot) => self.query_queue(slot),
            Action::QueryListener(id) => self.query_listener(id),
            Action::ProposeSettings(number) => self.propose_settings(number),
            Action::RollSettings(number) => {
                base.settings_generation.store(number, Relaxed);
                self.show_catalog_generation();
            }
            Action::CommitSettings => {
                self.versions.commit();
                if self.listeners.commit(monotonic_ns()) {
                    self.tell_of_added_listeners(true);
                }
                let settings = &self.versions.current().settings;
                self.stored_separator = Some(settings.tool_name_separator.clone());
                if let Err(error) = forkgate_shared::log::to_file(
                    settings.log_file.as_deref(),
                    forkgate_shared::log::Links::Followed,
                ) {
                    tracing::error!(%error, "GATEWAY_LOG_FILE cannot be opened: lines go on to where they went");
                }
                forkgate_shared::log::init(settings.log_format, &settings.log_level, super::LOG_ROLE);
            }
            Action::DiscardSettings(number) => {
                base.settings_generation.store(number, Relaxed);
                self.versions.discard();
                self.discard_addresses();
                self.show_catalog_generation();
            }
            Action::Target(target) => base.target.store(u64::from(target), Relaxed),
            Action::AnnounceUpgrading => {
                self.note(Entry::new("upgrade_begun", "another program takes the place of this one"));
                self.notifier.reloading();
            }
            Action::CheckUpgrade => self.check_upgrade(),
            Action::CountUpgrade => drop(base.upgrades.fetch_add(1, Relaxed)),
            Action::UpgradeOver(end) => self.upgrade_over(end),
            Action::CountCrash => drop(base.crashes.fetch_add(1, Relaxed)),
            Action::CountBootFailure => drop(base.boot_failures.fetch_add(1, Relaxed)),
            Action::ShowDegraded(degraded) => base.degraded.store(u64::from(degraded), Relaxed),
            Action::CountRecycle(reason) => drop(base.recycles[reason.index()].fetch_add(1, Relaxed)),
            Action::CountKill(kill) => drop(base.killed(kill).fetch_add(1, Relaxed)),
            Action::Accuse(id, _) => self.accuse(id),
            Action::Confirm(id, verdict) => self.confirm(id, verdict),
            Action::Report { child, verdict, enforced } => self.begin_report(child, verdict, enforced),
            Action::HearAgain(id) => self.watch.hear_again(id),
            Action::ReportDeath(id, row) => self.report_death(id, row),
            Action::QueryCoreDump(id) => self.query_core_dump(id),
            Action::CountSpared(verdict) => drop(base.spared[verdict.index()].fetch_add(1, Relaxed)),
            Action::CountReady(took) => base.time_to_ready.observe(took),
            Action::CountDrained(took) => base.drain_time.observe(took),
            Action::AnnounceReady => {
                self.note(Entry::new("serving", "enough workers are ready"));
                self.notifier.ready();
                self.hook_on_ready();
            }
            Action::AnnounceReloading => self.reload_begins(),
            Action::AnnounceReloaded(how) => self.reload_ends(how),
            Action::AnnounceChecking => self.check_begins(),
            Action::AnnounceChecked(how) => self.check_ends(how),
            Action::NamesRestored => {
                let settings = &self.versions.current().settings;
                self.stored_separator = Some(settings.tool_name_separator.clone());
            }
            Action::AnnounceStopping => {
                self.notifier.stopping();
                self.pulse.begin_anew();
                self.disappoint_operators();
            }
            Action::Log(fact) => {
                if let Fact::Killed(id, Kill::Boot) = fact
                    && let Some(child) = self.children.get(&id)
                {
                    let name = name(child.role);
                    self.last_failure = Some(format!("{name}: not ready within GATEWAY_BOOT_TIMEOUT"));
                }
                let pid = |id| self.children.get(&id).map_or(0, |child| child.pid);
                facts::log(&fact, pid, self.last_failure.as_deref().unwrap_or("no worker has failed"));
                self.hook_on_fact(&fact);
                self.tell_of_reload(&fact);
                self.tell_of_upgrade(&fact);
                self.tell_awaiting(&fact);
                let failure = self.last_failure.as_deref().unwrap_or("no worker has failed");
                if let Some(entry) = history::of(&fact, |id| self.who(id), failure) {
                    self.note(entry);
                }
            }
            Action::Exit(code) => {
                self.exit = Some(code);
                self.tell_of_the_end();
            }
        }
    }

    /// A worker is told to leave.
    fn note_leaving(&mut self, id: ChildId) {
        let view = self.supervisor.workers().into_iter().find(|view| view.child == id);
        let (slot, pid) = self.who(id);
        let reason = view.and_then(|view| view.reason).unwrap_or("retiring");
        let text = format!("the worker of slot {} is told to leave: {reason}", slot.map_or(0, |slot| slot.0));
        self.note(
            Entry { slot: slot.map(|slot| slot.0), ..Entry::new("draining", text) }.pid(pid).reason(reason),
        );
    }

    fn open_listener(&mut self, slot: SlotId) {
        self.events.push_back(match self.listeners.open_slot(slot) {
            Ok(()) => Event::ListenerOpened(slot),
            Err(error) => {
                let addresses = self.listeners.shown().join(", ");
                tracing::error!(%error, addresses, "cannot listen for another worker");
                Event::ListenerFailed(slot)
            }
        });
    }

    fn spawn(&mut self, id: ChildId, role: Role, number: u64) {
        let started = self.try_spawn(id, role, number);
        if let Err(error) = started {
            tracing::error!(%error, "cannot start {}", name(role));
            self.last_failure = Some(format!("cannot start {}: {error}", name(role)));
            self.events.push_back(Event::SpawnFailed(id));
        }
    }

    fn try_spawn(&mut self, id: ChildId, role: Role, number: u64) -> io::Result<()> {
        let version = self
            .versions
            .get(number)
            .ok_or_else(|| io::Error::other("this version of the settings is given up"))?;
        let mut listeners = None;
        if let Role::Worker { slot, row } = role {
            self.rows.clear(row);
            let row = self.rows.row(row);
            row.slot.store(slot.0, Relaxed);
            row.settings_generation.store(number, Relaxed);
            listeners = self.listeners.inherited(slot);
        }
        let common = Common {
            executable: &self.executable,
            rows: &self.rows_fd,
            sessions: &self.sessions,
            sources: &self.sources,
            json: self.demo.as_ref().is_some_and(|demo| demo.json),
        };
        let child = child::start(&common, id, role, version, self.versions.catalog(number), listeners)?;
        tracing::debug!(pid = child.pid, generation = id.0, "{} started", name(role));
        let pid = Some(child.pid.unsigned_abs());
        let entry = Entry::new("started", format!("{} started", name(role))).pid(pid);
        self.history.push(Entry { slot: slot_of(role), ..entry });
        let watched = self.poller.add(&child.pidfd, Source::Ended(id)).and_then(|()| match &child.control {
            Some(control) => self.poller.add(control, Source::Control(id)),
            None => Ok(()),
        });
        if let Err(error) = watched {
            self.kill_and_bury(child.pid, child.pidfd);
            return Err(error);
        }
        self.children.insert(id, child);
        Ok(())
    }

    /// Tells a worker to leave, at once or when there is room; one that cannot hear gets the one signal that a serving
    /// worker takes for an order.
    fn send(&mut self, id: ChildId, order: ToChild) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if child.control.is_some() {
            child.order = Some(order);
            self.send_what_is_owed(id);
        } else {
            self.signal(id, libc::SIGINT);
        }
    }

    /// Gives two workers a line on which connections move. Without one the close of each is announced, which is no loss.
    fn introduce(&self, leaver: ChildId, heir: ChildId) {
        if !self.versions.newest().settings.connection_handover {
            return;
        }
        let control = |id| self.children.get(&id).and_then(|child| child.control.as_ref());
        let (Some(to_leaver), Some(to_heir)) = (control(leaver), control(heir)) else { return };
        let introduced = worker_line().map_err(ControlError::from).and_then(|(leavers, heirs)| {
            to_heir.send(&ToChild::Predecessor, Some(heirs.as_fd()))?;
            to_leaver.send(&ToChild::Heir, Some(leavers.as_fd()))
        });
        if let Err(error) = introduced {
            tracing::warn!(%error, "connections cannot move to the next worker: their close is announced");
        }
    }

    /// Workers that hold listeners of a reload that is over begin to accept, or close them.
    pub(super) fn tell_of_added_listeners(&mut self, in_force: bool) {
        let is_worker = |child: &child::Child| matches!(child.role, Role::Worker { .. });
        let workers: Vec<ChildId> =
            self.children.iter().filter(|(_, child)| is_worker(child)).map(|(id, _)| *id).collect();
        for id in workers {
            if let Some(child) = self.children.get_mut(&id) {
                child.untold = Some(in_force);
            }
            self.send_what_is_owed(id);
        }
    }

    /// Without a signal for a suspect that does not listen: it would cut off what the suspect still answers.
    fn send_step_aside(&self, id: ChildId) {
        let Some(child) = self.children.get(&id) else { return };
        let sent = child.control.as_ref().map(|control| control.send(&ToChild::StepAside, None));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!(pid = child.pid, "a suspect cannot be told to step aside; it goes on accepting");
        }
    }

    fn signal(&self, id: ChildId, signal: i32) {
        if let Some(child) = self.children.get(&id)
            && let Err(error) = child.pidfd.signal(signal)
        {
            tracing::warn!(pid = child.pid, signal, %error, "a child was not signalled");
        }
    }

    fn query_queue(&mut self, slot: SlotId) {
        match self.listeners.queue_length(slot) {
            Ok(length) => self.events.push_back(Event::QueueLength(slot, length)),
            Err(error) => tracing::warn!(%error, "the accept queue cannot be read"),
        }
    }

    /// A worker says in its row that it drains after it has closed its copy of the listener.
    fn query_listener(&mut self, id: ChildId) {
        if let Some(Role::Worker { row, .. }) = self.children.get(&id).map(|child| child.role)
            && RowState::from_u32(self.rows.row(row).state.load(Relaxed)) == RowState::Draining
        {
            self.events.push_back(Event::ListenerClosed(id));
        }
    }

    /// Keeps a newer catalog and passes it on to every worker of that database.
    pub(super) fn publish(&mut self, id: ChildId, generation: u64, memfd: Option<OwnedFd>) {
        let Some(child) = self.children.get(&id) else { return };
        let (pid, database) = (child.pid, child.database.clone());
        if let Err(error) = self.versions.publish(&database, generation, memfd) {
            match error {
                // What a `migrate` child finds as it was.
                CatalogError::Old(new, known) if new == known => {
                    tracing::debug!(pid, "the catalog is the same")
                }
                error => tracing::warn!(pid, %error, "a catalog is dropped"),
            }
            return;
        }
        tracing::info!(generation, pid, "a new catalog");
        self.show_catalog_generation();
        let same =
            |child: &child::Child| child.database == database && matches!(child.role, Role::Worker { .. });
        let readers: Vec<ChildId> =
            self.children.iter().filter(|(_, child)| same(child)).map(|(id, _)| *id).collect();
        for reader in readers {
            if let Some(child) = self.children.get_mut(&reader) {
                child.behind = true;
            }
            self.send_what_is_owed(reader);
        }
    }

    /// Sends a child the order that it has not got, the newest catalog, and what became of added addresses to one that does not
    /// know; when its socket is full, again when there is room.
    pub(super) fn send_what_is_owed(&mut self, id: ChildId) {
        let Some(child) = self.children.get_mut(&id).filter(|child| child.is_owed()) else { return };
        let Some(control) = &child.control else { return };
        if let Some(order) = &child.order {
            let sent = control.send(order, None);
            let is_deaf = matches!(&sent, Err(error) if !is_full(error));
            if is_done(child.pid, sent) {
                child.order = None;
            }
            if is_deaf && let Err(error) = child.pidfd.signal(libc::SIGINT) {
                tracing::warn!(pid = child.pid, %error, "a worker hears no order and no signal");
            }
        }
        if child.behind {
            child.behind = self.versions.catalog_of(&child.database).is_some_and(|catalog| {
                let message = ToChild::Catalog { generation: catalog.generation };
                !is_done(child.pid, control.send(&message, Some(catalog.memfd.as_fd())))
            });
        }
        if let Some(in_force) = child.untold
            && is_done(child.pid, control.send(&ToChild::AddedListeners { in_force }, None))
        {
            child.untold = None;
        }
        if self.poller.want_write(control, Source::Control(id), child.is_owed()).is_err() {
            tracing::warn!(
                pid = child.pid,
                "a worker does not hear its orders and the news of catalog and addresses"
            );
        }
    }

    pub(super) fn show_catalog_generation(&self) {
        let catalog = self.versions.catalog(self.versions.newest().number);
        self.rows.base().catalog_generation.store(catalog.map_or(0, |catalog| catalog.generation), Relaxed);
    }
}

/// False when there was no room and it is to be tried again; who cannot be reached at all is ending.
fn is_done(pid: i32, sent: Result<(), ControlError>) -> bool {
    match sent {
        Err(error) if is_full(&error) => false,
        Err(error) => {
            tracing::debug!(pid, %error, "a message was not sent");
            true
        }
        Ok(()) => true,
    }
}

/// There is no room in the socket at present.
fn is_full(error: &ControlError) -> bool {
    matches!(error, ControlError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use forkgate_shared::control::{ControlSocket, Received};

    use super::*;

    #[test]
    fn what_finds_no_room_is_owed_until_there_is_some() {
        let (ours, theirs) = ControlSocket::pair().expect("a pair");
        let message = ToChild::AddedListeners { in_force: true };
        let send = || is_done(1, ours.send(&message, None));
        let sent = (0..100_000).take_while(|_| send()).count();
        assert!((1..100_000).contains(&sent) && !send(), "the queue has an end");
        assert!(matches!(theirs.recv::<ToChild>(), Ok(Received::Message(found, _)) if found == message));
        while !send() {
            theirs.recv::<ToChild>().expect("there is more");
        }
        drop(theirs);
        assert!(send(), "nobody is left to hear it");
    }
}
