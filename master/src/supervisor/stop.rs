//! Orders, and the end: drain (TERM) or quick (INT, QUIT), and never longer than the timeout says.

use super::Supervisor;
use super::event::{Action, ChildId, ChildSignal, Fact, Ns, Order, Role, SECOND};
use super::state::{Life, Phase, Reload, Stop};

/// A second TERM within this time is the first one again: a service manager or a shell signals the process group.
const TERM_TWICE: Ns = 2 * SECOND;
/// A quick end: time for a worker to write what it has before it is killed.
const QUICK_TIMEOUT: Ns = 2 * SECOND;
/// How long a process that was sent SIGKILL is waited for at the end: one in a system call that does not return does not die.
pub(super) const DEATH_PATIENCE: Ns = 2 * SECOND;

impl Supervisor {
    pub(super) fn order(&mut self, order: Order, now: Ns) {
        match (order, &self.life) {
            (_, Life::Over) => {}
            (Order::Quick, Life::Stopping(stop)) if stop.quick => {}
            (Order::Quick, Life::Stopping(_)) => self.hurry(now),
            (Order::Quick, _) => self.begin_stop(true, 0, now),
            (Order::Drain, Life::Stopping(stop)) => {
                if stop.quick || now < stop.since + TERM_TWICE {
                    self.log(Fact::TermIgnored);
                } else {
                    self.hurry(now);
                }
            }
            (Order::Drain, _) => self.begin_stop(false, 0, now),
            (Order::Upgrade { patience }, _) => self.want_upgrade(patience, now),
            (_, Life::Stopping(_)) => {}
            (Order::Reload, _) => self.reload(now),
            (Order::Check, _) => self.check(now),
            (Order::MoreWorkers, _) => self.more_workers(),
            (Order::FewerWorkers, _) => self.fewer_workers(),
            (Order::Pause(slot), _) => self.pause(slot, true),
            (Order::Resume(slot), _) => self.pause(slot, false),
            (Order::Recycle(slot), _) => self.recycle(slot, now),
            (Order::Kill(slot), _) => self.kill(slot, now),
            (Order::Scale(workers), _) => self.scale_to(workers),
        }
    }

    /// Everything leaves; nothing is started any more.
    pub(super) fn begin_stop(&mut self, quick: bool, code: u8, now: Ns) {
        if matches!(self.life, Life::Stopping(_) | Life::Over) {
            return;
        }
        self.life = Life::Stopping(Stop { quick, since: now, code, left_killed: None });
        self.stop_upgrade();
        self.log(Fact::Stopping(quick));
        self.out.push(Action::AnnounceStopping);
        self.reload = Reload::Idle;
        (self.reload_queued, self.check_queued) = (false, false);
        self.token = None;
        if quick {
            self.hurry(now);
        } else {
            self.drain_all(now);
        }
        for child in self.children.values_mut() {
            child.suspicion = None;
        }
        self.close_listeners();
    }

    fn drain_all(&mut self, now: Ns) {
        let children: Vec<_> = self
            .children
            .iter()
            .map(|(id, child)| {
                (*id, child.role, child.phase, child.is_condemned(|verdict| !verdict.loop_turns()))
            })
            .collect();
        for (id, role, phase, is_stuck) in children {
            // A loop that does not turn hears no order: nobody waits for it.
            let graceful = self.graceful(id);
            let deadline = now + if is_stuck { graceful.min(QUICK_TIMEOUT) } else { graceful };
            match (phase, role) {
                (Phase::Draining { .. } | Phase::Aborting { .. } | Phase::Killing(_), _) => {}
                // Whoever accepts has to take what is queued before the socket goes.
                (Phase::Running { .. } | Phase::Aside, Role::Worker { .. }) => {
                    self.leave(id, Action::SendRetire(id), now, deadline)
                }
                // The signal ends it while it boots; the order holds if it has just become ready.
                (_, Role::Worker { .. }) => {
                    self.leave(id, Action::SendRetire(id), now, deadline);
                    self.out.push(Action::Signal(id, ChildSignal::Term));
                }
                // It serves nobody, and does not listen to messages.
                _ => self.leave(id, Action::Signal(id, ChildSignal::Term), now, deadline),
            }
        }
    }

    /// INT to all that live, and little time.
    fn hurry(&mut self, now: Ns) {
        if let Life::Stopping(stop) = &mut self.life {
            stop.quick = true;
        }
        let soon = now + QUICK_TIMEOUT;
        for child in self.children.values_mut() {
            if let Phase::Aborting { deadline, .. } = &mut child.phase {
                *deadline = soon.min(*deadline);
            }
        }
        let deadline = |phase: Phase| match phase {
            Phase::Killing(_) | Phase::Aborting { .. } => None,
            Phase::Draining { deadline, .. } => Some(deadline.min(soon)),
            _ => Some(soon),
        };
        let children = self.children.iter().filter_map(|(id, child)| Some((*id, deadline(child.phase)?)));
        for (id, deadline) in children.collect::<Vec<(ChildId, Ns)>>() {
            self.leave(id, Action::Signal(id, ChildSignal::Int), now, deadline);
        }
    }

    /// The master accepts nothing itself; without its copies new clients are refused at once instead of waiting in a
    /// queue that nobody will serve.
    fn close_listeners(&mut self) {
        self.out.push(Action::CloseListeners);
        self.slots.clear();
        self.steered = None;
    }

    /// Ends the master when its children are gone; takes note when all that are left were killed.
    pub(super) fn finish_stop(&mut self, now: Ns) {
        let Life::Stopping(stop) = &mut self.life else { return };
        if self.children.is_empty() {
            let code = stop.code;
            self.life = Life::Over;
            self.out.push(Action::Exit(code));
        } else if self.children.values().all(|child| matches!(child.phase, Phase::Killing(_))) {
            stop.left_killed.get_or_insert(now);
        }
    }

    /// Ends the master although processes that were killed have not died.
    pub(super) fn leave_behind(&mut self, now: Ns) {
        if self.stop_deadline().is_some_and(|deadline| deadline <= now)
            && let Life::Stopping(stop) = &self.life
        {
            let code = stop.code;
            self.life = Life::Over;
            self.log(Fact::LeftBehind(self.children.len()));
            self.out.push(Action::Exit(code));
        }
    }

    /// When nobody waits any more for processes that do not die.
    pub(super) fn stop_deadline(&self) -> Option<Ns> {
        let Life::Stopping(Stop { left_killed, .. }) = self.life else { return None };
        left_killed.map(|since| since + DEATH_PATIENCE)
    }
}
