//! From a suspicion to its end: taken back, or the worker's.
//!
//! ```text
//!  SUSPECTED ──fired──► CONFIRMING ──yes──► CONDEMNED ──guards──► REPORTING ──► ABRT ──► KILL
//!      │                 │  ▲                  (observe: reported, and that is all)
//!      │                no  │ once more
//!      │                 ▼  │
//!      └──taken back── DOUBTED ── no again: acquitted
//! ```
//!
//! Beside that runs the repair of the slot: the kernel is steered away from it, a standby starts on its socket (repair
//! needs no token; one boots at a time, so that the machine is not flooded when all workers spin), and once that is READY
//! the suspect steps aside: it lets its clients go but stays, because its claim decides whether it drains or dies.
//!
//! Guards. Nobody is killed whose slot nobody serves, so capacity never falls; a stalled worker serves nobody, so when no
//! standby comes within the boot timeout it dies all the same. A verdict that something outside may have caused
//! ([`Verdict::is_guarded`]) is carried out once per `GATEWAY_KILL_INTERVAL`, and for [`MAJORITY_WINDOW`] not while most
//! workers have one. A spin and a runaway poll burn CPU in this very process: for them neither holds.

use super::Supervisor;
use super::event::{
    Action, ChildId, ChildSignal, Claim, Confirmation, Fact, Guard, Kill, Ns, RecycleReason, Role, SECOND,
    SlotId, Stage, Verdict, Watchdog,
};
use super::state::{Child, Life, Phase, Slot, Step, Suspicion};

/// After the world outside said no, or that somebody stopped the process, it is asked again after this.
const ASK_AGAIN: Ns = 5 * SECOND;
/// After it said no twice, and the claim still stands.
const SPARED_FOR: Ns = 60 * SECOND;
/// The shell gives a report five seconds; past this it is taken to be given up.
const REPORT_TIMEOUT: Ns = 7 * SECOND;
/// Reports at once: each costs its worker a second of CPU, on a machine whose CPUs are burning already.
const REPORTS_AT_ONCE: usize = 2;
/// After a suspicion was taken back a slot gets no standby for a mere suspicion within this: load at the edge of a rule
/// would otherwise replace a worker every few seconds, and end its streams each time.
const CALM: Ns = 30 * SECOND;
/// From ABRT to KILL.
const ABORT_TIMEOUT: Ns = 5 * SECOND;
/// The shell answers at once whether a core file is being written.
const CORE_ANSWER: Ns = SECOND;
/// A core file of a gigabyte takes seconds; one that takes longer than this is not worth the wait.
const CORE_TIMEOUT: Ns = 60 * SECOND;
/// When more than half of the workers have guarded verdicts at the same time the cause is outside (S §4.6); one that has
/// stood for this long is carried out all the same.
const MAJORITY_WINDOW: Ns = 60 * SECOND;

impl Supervisor {
    /// A worker's claim changed.
    pub(super) fn claimed(&mut self, id: ChildId, claim: Option<Claim>, now: Ns) {
        let watchdog = self.plan.watchdog;
        let Some(child) = self.children.get_mut(&id).filter(|child| child.may_be_suspected()) else { return };
        let Role::Worker { slot, .. } = child.role else { return };
        if watchdog == Watchdog::Off || self.life == Life::Over {
            return;
        }
        if matches!(self.life, Life::Stopping(_)) {
            return self.claimed_at_the_end(id, claim, now);
        }
        if child.is_ordered_dead() {
            return;
        }
        let Some(claim) = claim else { return self.take_back(id, slot, now) };
        let is_new = child.suspicion.is_none();
        let suspicion = child.suspicion.get_or_insert_with(|| Suspicion::new(claim.verdict));
        let undecided = matches!(suspicion.step, Step::Suspected | Step::Confirming | Step::Doubted { .. });
        if is_new || undecided && suspicion.verdict != claim.verdict {
            // Another kind of trouble is asked about anew.
            *suspicion = Suspicion::new(claim.verdict);
            self.out.push(Action::Accuse(id, claim.verdict));
        }
        match (claim.stage, suspicion.step) {
            (Stage::Fired, Step::Suspected) => {
                suspicion.step = Step::Confirming;
                let verdict = suspicion.verdict;
                self.out.push(Action::Confirm(id, verdict));
                self.log(Fact::Fired(id, slot, verdict, watchdog));
            }
            // The limit was passed and is not any more; the suspicion stays.
            (Stage::Suspect, Step::Confirming | Step::Doubted { .. } | Step::Condemned { .. }) => {
                suspicion.step = Step::Suspected;
            }
            (Stage::Suspect, Step::Suspected) if is_new && watchdog == Watchdog::Enforce => {
                self.log(Fact::Suspected(id, slot, claim.verdict));
            }
            _ => {}
        }
    }

    /// While everything ends nobody waits for a loop that does not turn; why it does not is written down.
    fn claimed_at_the_end(&mut self, id: ChildId, claim: Option<Claim>, now: Ns) {
        let hopeless = claim.filter(|claim| claim.stage == Stage::Fired && !claim.verdict.loop_turns());
        if let (Some(Claim { verdict, .. }), Watchdog::Enforce) = (hopeless, self.plan.watchdog)
            && let Some(Child { phase: Phase::Draining { deadline, .. }, .. }) = self.children.get_mut(&id)
        {
            *deadline = (now + ABORT_TIMEOUT).min(*deadline);
            self.out.push(Action::Report { child: id, verdict, enforced: true });
        }
    }

    /// Nothing is wrong any more. A suspect that stepped aside has a successor and leaves as in any replacement.
    fn take_back(&mut self, id: ChildId, slot: SlotId, now: Ns) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.calm_until = now + CALM;
        }
        let Some(child) = self.children.get_mut(&id) else { return };
        let Some(suspicion) = child.suspicion.take() else { return };
        let is_aside = matches!(child.phase, Phase::Aside);
        self.log(Fact::Cleared(id, slot, suspicion.verdict));
        if is_aside {
            self.out.push(Action::CountRecycle(RecycleReason::Suspect));
            self.leave_for(RecycleReason::Suspect, id, now);
        }
    }

    /// The watchdog kills no more: whoever is aside leaves in peace, the others are left alone. What an operator ordered
    /// stays ordered.
    pub(super) fn take_all_back(&mut self, now: Ns) {
        let suspected = |child: &Child| child.suspicion.is_some() && !child.is_ordered_dead();
        let suspects = self.children.iter().filter(|(_, child)| suspected(child));
        let suspects: Vec<_> = suspects.map(|(id, child)| (*id, child.role)).collect();
        for (id, role) in suspects {
            if let Role::Worker { slot, .. } = role {
                self.take_back(id, slot, now);
            }
        }
    }

    /// What `/proc` says.
    pub(super) fn confirmed(&mut self, id: ChildId, how: Confirmation, now: Ns) {
        let watchdog = self.plan.watchdog;
        let Some(child) = self.children.get_mut(&id) else { return };
        let is_aside = child.phase == Phase::Aside;
        let Role::Worker { slot, .. } = child.role else { return };
        let Some(suspicion) = child.suspicion.as_mut().filter(|s| s.step == Step::Confirming) else { return };
        let verdict = suspicion.verdict;
        match how {
            Confirmation::Yes if watchdog == Watchdog::Observe => {
                suspicion.step = Step::Observed;
                self.out.push(Action::Report { child: id, verdict, enforced: false });
                self.out.push(Action::CountSpared(verdict));
            }
            Confirmation::Yes => {
                suspicion.step = Step::Condemned { since: now };
            }
            Confirmation::No if suspicion.was_doubted => {
                suspicion.was_doubted = false;
                suspicion.step = Step::Doubted { again_at: now + SPARED_FOR };
                self.log(Fact::Unconfirmed(id, slot, verdict, false));
                self.out.push(Action::CountSpared(verdict));
                if is_aside {
                    self.take_back(id, slot, now);
                }
            }
            Confirmation::No => {
                suspicion.was_doubted = true;
                suspicion.step = Step::Doubted { again_at: now + ASK_AGAIN };
                self.log(Fact::Unconfirmed(id, slot, verdict, true));
            }
            Confirmation::Stopped => {
                let is_news = !std::mem::replace(&mut suspicion.was_stopped, true);
                suspicion.step = Step::Doubted { again_at: now + ASK_AGAIN };
                if is_news {
                    self.log(Fact::Stopped(id, slot, verdict));
                }
            }
        }
    }

    /// The report is there, or given up.
    pub(super) fn reported(&mut self, id: ChildId, now: Ns) {
        let Some(child) = self.children.get(&id).filter(|child| child.may_be_suspected()) else { return };
        let Some(Suspicion { verdict, step: Step::Reporting { since, .. }, .. }) = child.suspicion else {
            return;
        };
        // A slot that was going away when the report began, and stays after all, needs its standby first.
        let held = self.guard(id, child, since, now) == Some(Guard::NoStandby);
        let Some(child) = self.children.get_mut(&id) else { return };
        if let Some(suspicion) = child.suspicion.as_mut().filter(|_| held) {
            suspicion.step = Step::Condemned { since };
            return;
        }
        child.suspicion = None;
        child.phase =
            Phase::Aborting { verdict, since: now, deadline: now + ABORT_TIMEOUT, asked_for_core: false };
        self.out.push(Action::Signal(id, ChildSignal::Abort));
        self.out.push(Action::CountKill(Kill::Watchdog(verdict)));
        self.log(Fact::Killed(id, Kill::Watchdog(verdict)));
    }

    /// The time from ABRT to KILL is over, unless a core file is being written.
    pub(super) fn abort_expired(&mut self, id: ChildId, now: Ns) {
        let is_stopping = matches!(self.life, Life::Stopping(_));
        let Some(child) = self.children.get_mut(&id) else { return };
        if let Phase::Aborting { since, deadline, asked_for_core, .. } = &mut child.phase
            && !*asked_for_core
            && !is_stopping
            && now < *since + CORE_TIMEOUT
        {
            *asked_for_core = true;
            *deadline = now + CORE_ANSWER;
            self.out.push(Action::QueryCoreDump(id));
            return;
        }
        self.kill_aborted(id);
    }

    fn kill_aborted(&mut self, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id)
            && let Phase::Aborting { verdict, .. } = child.phase
        {
            child.phase = Phase::Killing(Kill::Watchdog(verdict));
            self.out.push(Action::Signal(id, ChildSignal::Kill));
        }
    }

    pub(super) fn core_dump(&mut self, id: ChildId, is_written: bool, now: Ns) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let Phase::Aborting { since, deadline, asked_for_core, .. } = &mut child.phase else { return };
        if !std::mem::take(asked_for_core) {
            return;
        }
        if is_written {
            *deadline = (now + ABORT_TIMEOUT).min((*since + CORE_TIMEOUT).max(now + CORE_ANSWER));
        } else {
            self.kill_aborted(id);
        }
    }

    /// Starts the one standby that a suspect's slot needs next.
    pub(super) fn repair_suspects(&mut self, now: Ns) {
        let boots = |slot: &Slot| slot.standby.is_some() && self.is_suspect(slot.primary);
        if self.slots.values().any(boots) {
            return;
        }
        let due = |slot: &Slot| {
            self.is_suspect(slot.primary)
                && (slot.calm_until <= now || self.has_fired(slot.primary))
                && slot.standby.is_none()
                && slot.retiring.is_none()
                && slot.replace.not_before() <= now
        };
        let Some(id) = self.slots.iter().find(|(_, slot)| due(slot)).map(|(id, _)| *id) else { return };
        let standby = self.spawn_worker(id, now);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.standby = standby;
        }
    }

    /// Moves every verdict on that time and guards allow to move.
    pub(super) fn pursue_suspects(&mut self, now: Ns) {
        let suspects: Vec<ChildId> =
            self.children.iter().filter(|(_, child)| child.suspicion.is_some()).map(|(id, _)| *id).collect();
        for id in suspects {
            let Some(child) = self.children.get_mut(&id).filter(|child| child.may_be_suspected()) else {
                continue;
            };
            let Some(suspicion) = &mut child.suspicion else { continue };
            match suspicion.step {
                Step::Doubted { again_at } if again_at <= now => {
                    suspicion.step = Step::Confirming;
                    let verdict = suspicion.verdict;
                    self.out.push(Action::Confirm(id, verdict));
                }
                Step::Condemned { since } => self.execute(id, since, now),
                Step::Reporting { deadline, .. } if deadline <= now => self.reported(id, now),
                _ => {}
            }
        }
    }

    /// Begins the end of a worker whose verdict is confirmed, unless a guard holds it.
    fn execute(&mut self, id: ChildId, since: Ns, now: Ns) {
        let reports = self.children.values().filter(|child| child.is_reported()).count();
        let guard = self.children.get(&id).and_then(|child| self.guard(id, child, since, now));
        let Some(child) = self.children.get_mut(&id) else { return };
        let (Role::Worker { slot, .. }, Some(suspicion)) = (child.role, &mut child.suspicion) else { return };
        let verdict = suspicion.verdict;
        if let Some(guard) = guard {
            let is_news = suspicion.held_by.replace(guard) != Some(guard);
            // Nobody can take its place, so it lives on; why it is as it is should be known all the same.
            let is_overdue = guard == Guard::NoStandby
                && verdict != Verdict::Operator
                && now >= since + self.plan.boot_timeout;
            if is_overdue && !std::mem::replace(&mut suspicion.was_reported, true) {
                self.out.push(Action::Report { child: id, verdict, enforced: false });
            }
            if is_news {
                self.log(Fact::Held(id, slot, verdict, guard));
            }
            return;
        }
        if reports >= REPORTS_AT_ONCE {
            return;
        }
        suspicion.step = Step::Reporting { since, deadline: now + REPORT_TIMEOUT };
        if verdict.is_guarded() {
            self.last_guarded_kill = Some(now);
        }
        self.out.push(Action::Report { child: id, verdict, enforced: true });
    }

    fn guard(&self, id: ChildId, child: &Child, since: Ns, now: Ns) -> Option<Guard> {
        let verdict = child.suspicion.as_ref()?.verdict;
        let is_only_one = self.slots.values().any(|slot| slot.primary == Some(id) && slot.retiring.is_none());
        let may_wait = verdict.loop_turns() || now < since + self.plan.boot_timeout;
        if is_only_one && may_wait {
            return Some(Guard::NoStandby);
        }
        if !verdict.is_guarded() {
            return None;
        }
        let alike = self.children.values().filter(|child| child.is_condemned(Verdict::is_guarded)).count();
        if now < since + MAJORITY_WINDOW && alike >= 2 && 2 * alike > self.target as usize {
            return Some(Guard::Majority);
        }
        let is_early = self.last_guarded_kill.is_some_and(|last| now < last + self.plan.kill_interval);
        is_early.then_some(Guard::Interval)
    }

    /// The primary of a slot has a claim against it that counts, or an operator's order.
    pub(super) fn is_suspect(&self, child: Option<ChildId>) -> bool {
        let enforced = self.plan.watchdog == Watchdog::Enforce;
        child.and_then(|id| self.children.get(&id)).is_some_and(|child| {
            let counts = child.suspicion.as_ref().is_some_and(|claim| enforced || claim.is_ordered());
            counts && matches!(child.phase, Phase::Running { .. })
        })
    }

    fn has_fired(&self, child: Option<ChildId>) -> bool {
        let suspicion =
            child.and_then(|id| self.children.get(&id)).and_then(|child| child.suspicion.as_ref());
        suspicion.is_some_and(|suspicion| suspicion.step != Step::Suspected)
    }

    /// When time alone moves a verdict on.
    pub(super) fn suspicion_deadlines(&self) -> impl Iterator<Item = Ns> {
        let interval = self.last_guarded_kill.map(|last| last + self.plan.kill_interval);
        let steps = self.children.values().filter_map(|child| child.suspicion.as_ref());
        let steps = steps.flat_map(|suspicion| match suspicion.step {
            Step::Doubted { again_at } => [Some(again_at), None],
            Step::Reporting { deadline, .. } => [Some(deadline), None],
            Step::Condemned { since } => {
                [Some(since + self.plan.boot_timeout), Some(since + MAJORITY_WINDOW)]
            }
            Step::Suspected | Step::Confirming | Step::Observed => [None, None],
        });
        steps.flatten().chain(interval)
    }

    /// The verdict against one suspect, for people.
    pub(super) fn suspect_slot(&self) -> Option<(SlotId, Verdict)> {
        self.children.values().find_map(|child| match (child.role, &child.suspicion) {
            (Role::Worker { slot, .. }, Some(suspicion)) => Some((slot, suspicion.verdict)),
            _ => None,
        })
    }
}
