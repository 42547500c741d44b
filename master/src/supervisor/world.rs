//! A simulated world for the supervisor: processes that do anything at any time, a kernel that knows which sockets have a copy.
//!
//! It carries out the actions and answers them; `judge` writes down every breach of an invariant.

mod judge;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::children::LAST_STEPS;
use super::lifecycle::{Moment, Seen};
use super::stop::DEATH_PATIENCE;
use super::{
    Action, ChildId, ChildSignal, Claim, Config, Confirmation, End, Event, Execution, Fact, MILLISECOND,
    Migration, Ns, Order, Plan, Role, SECOND, SlotId, Supervisor, UpgradeEnd, Verdict, Watchdog,
};

pub const BOOT: Ns = 10 * SECOND;
pub const GRACEFUL: Ns = 20 * SECOND;
pub const KILL_INTERVAL: Ns = 30 * SECOND;
pub const BUDGET: u32 = 5;
pub const GIVE_UP: Ns = 60 * SECOND;
pub const SLOW_START: Ns = 3 * SECOND;
const QUICK: Ns = 2 * SECOND;
const PROBATION: Ns = 10 * SECOND;
/// How all boots end that fail for the same reason.
const SAME: u64 = 7;

/// A plan with the timeouts above.
pub fn plan(workers: u32) -> Plan {
    Plan {
        workers,
        boot_timeout: BOOT,
        graceful_timeout: GRACEFUL,
        recycle_min_interval: 2 * SECOND,
        watchdog: Watchdog::Enforce,
        kill_interval: KILL_INTERVAL,
        crash_budget: BUDGET,
        give_up: Some(GIVE_UP),
        slow_start: SLOW_START,
    }
}

/// A simulated process.
#[derive(Clone, Debug)]
pub struct Process {
    pub role: Role,
    pub version: u64,
    /// Which of the programs it runs.
    pub program: u64,
    spawned: Ns,
    /// How long its settings let it take to leave.
    graceful: Ns,
    pub ready: bool,
    ready_at: Ns,
    told: Option<Ns>,
    killed: bool,
    aborted: Option<Ns>,
    holds_listener: bool,
}

impl Process {
    fn slot(&self) -> Option<SlotId> {
        match self.role {
            Role::Worker { slot, .. } => Some(slot),
            _ => None,
        }
    }
    pub fn told(&self) -> bool {
        self.told.is_some()
    }
    fn serves(&self) -> bool {
        self.ready && self.told.is_none() && self.slot().is_some()
    }
    fn boots(&self) -> bool {
        self.role != Role::Check && !self.ready && !self.killed && self.told.is_none()
    }
    fn is_well(&self) -> bool {
        self.serves() && !self.killed && self.aborted.is_none()
    }
}

/// See the module.
pub struct World {
    pub supervisor: Supervisor,
    pub now: Ns,
    pub processes: BTreeMap<ChildId, Process>,
    dead: BTreeSet<ChildId>,
    /// Those that could not be started; the supervisor has not heard of it.
    unborn: BTreeSet<ChildId>,
    pub rows: Vec<Option<ChildId>>,
    listeners: BTreeSet<SlotId>,
    /// Slots whose socket has a copy somewhere.
    pub kernel: Vec<SlotId>,
    pub steering: Option<Vec<(SlotId, u32)>>,
    told_to_retire: Option<SlotId>,
    standbys: BTreeSet<ChildId>,
    pub queue: u32,
    pub next_spawn_fails: bool,
    pub next_listener_fails: bool,
    /// Another program tries to read the state.
    pub checking: bool,
    /// The program that the master is, and those that it was before.
    pub program: u64,
    programs: u64,
    before: Vec<u64>,
    pub next_execution_fails: bool,
    /// The other program executes this one again at once.
    pub next_sends_back: bool,
    /// A reload, a check: announced and not over.
    announced: [bool; 2],
    /// What workers say against themselves.
    pub claims: BTreeMap<ChildId, Claim>,
    /// What the world outside says to it.
    pub confirmation: Confirmation,
    /// Who was ordered dead.
    ordered: BTreeSet<ChildId>,
    pub reports_hang: bool,
    /// The graceful timeout of every version of the settings, and of the one that is proposed next.
    graceful: BTreeMap<u64, Ns>,
    next_graceful: Ns,
    /// Who is killed stays, in a system call that does not return.
    pub kills_hang: bool,
    /// It did, at some time.
    hung: bool,
    /// Whoever starts fails at once.
    pub boots_fail: bool,
    pub degraded: bool,
    probes: BTreeSet<ChildId>,
    nobody_since: Option<Ns>,
    /// Whose verdict was confirmed when, and who was reported.
    confirmed: BTreeMap<ChildId, Ns>,
    reported: BTreeSet<ChildId>,
    last_guarded: Option<Ns>,
    stopping: Option<Ns>,
    ready_before: usize,
    quorum_before: usize,
    pub exit: Option<(u8, Ns)>,
    pub log: Vec<Action>,
    pub keeps_log: bool,
    /// Takes note of every step.
    pub seen: Option<Seen>,
    pub breaches: Vec<(&'static str, String)>,
}

impl World {
    pub fn new(workers: u32, seed: u64) -> World {
        World::with_plan(plan(workers), seed)
    }

    pub fn with_plan(plan: Plan, seed: u64) -> World {
        World::finding(plan, Vec::new(), seed)
    }

    /// Sockets of a master before listen for these slots.
    pub fn finding(plan: Plan, slots: Vec<SlotId>, seed: u64) -> World {
        let rows = 2 * (plan.workers as usize).max(slots.len()) + 8;
        let next_graceful = plan.graceful_timeout;
        let config = Config { plan, rows, slots, version: 1, companion: false, seed };
        World {
            supervisor: Supervisor::new(config),
            now: SECOND,
            processes: BTreeMap::new(),
            dead: BTreeSet::new(),
            unborn: BTreeSet::new(),
            rows: vec![None; rows],
            listeners: BTreeSet::new(),
            kernel: Vec::new(),
            steering: None,
            told_to_retire: None,
            standbys: BTreeSet::new(),
            queue: 0,
            next_spawn_fails: false,
            next_listener_fails: false,
            checking: false,
            program: 0,
            programs: 0,
            before: Vec::new(),
            next_execution_fails: false,
            next_sends_back: false,
            announced: [false; 2],
            claims: BTreeMap::new(),
            confirmation: Confirmation::Yes,
            ordered: BTreeSet::new(),
            reports_hang: false,
            graceful: BTreeMap::from([(1, next_graceful)]),
            next_graceful,
            kills_hang: false,
            hung: false,
            boots_fail: false,
            degraded: false,
            probes: BTreeSet::new(),
            nobody_since: None,
            confirmed: BTreeMap::new(),
            reported: BTreeSet::new(),
            last_guarded: None,
            stopping: None,
            ready_before: 0,
            quorum_before: 0,
            exit: None,
            log: Vec::new(),
            keeps_log: true,
            seen: None,
            breaches: Vec::new(),
        }
    }

    /// Writes the supervisor's state down and goes on with what is read back, as a master does that becomes another
    /// program.
    pub fn save_and_restore(&mut self) {
        let before = format!("{:?}", self.supervisor);
        let text = serde_json::to_string(&self.supervisor).expect("every state can be written down");
        self.supervisor = serde_json::from_str(&text).expect("and read back");
        let after = format!("{:?}", self.supervisor);
        self.breach(before != after, "I10", || format!("{before} was read back as {after}"));
    }

    fn retiring_slot(&self) -> Option<SlotId> {
        self.supervisor.retiring_slot()
    }

    pub fn serving(&self) -> usize {
        self.processes.values().filter(|process| process.serves()).count()
    }

    fn serving_slot(&self, slot: SlotId) -> usize {
        self.processes.values().filter(|process| process.serves() && process.slot() == Some(slot)).count()
    }

    pub fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let is_tick = event == Event::Tick;
            self.ready_before = self.serving();
            self.quorum_before = self.supervisor.quorum() as usize;
            if let Event::Ready(child) = event
                && let Some(process) = self.processes.get_mut(&child).filter(|process| !process.killed)
            {
                process.ready = true;
                process.ready_at = self.now;
                self.standbys.remove(&child);
            }
            if let Event::SpawnFailed(child) = event {
                self.unborn.remove(&child);
            }
            if let Event::Order(Order::Kill(slot)) = event {
                self.ordered.extend(self.supervisor.worker_of(slot));
            }
            let before = self.seen.as_ref().map(|_| (event.clone(), Moment::of(&self.supervisor)));
            let actions = self.supervisor.step(event, self.now);
            if let (Some(seen), Some((event, before))) = (&mut self.seen, before) {
                seen.step(&event, &before, &Moment::of(&self.supervisor));
            }
            for action in actions {
                if self.keeps_log {
                    self.log.push(action.clone());
                }
                self.carry_out(action, &mut events);
                self.check_steering();
            }
            let _ = self.supervisor.summary();
            self.look_for_anybody();
            self.check_chosen();
            if is_tick {
                self.check_sound();
            }
            if events.is_empty()
                && self.exit.is_none()
                && let Some(execution) = self.supervisor.execution()
            {
                events.push_back(self.execute(execution));
            }
        }
    }

    /// The master becomes another program, or does not.
    fn execute(&mut self, execution: Execution) -> Event {
        if std::mem::take(&mut self.next_execution_fails) {
            return Event::ExecutionFailed;
        }
        self.save_and_restore();
        match execution {
            Execution::Next if std::mem::take(&mut self.next_sends_back) => Event::Reverted,
            Execution::Next => {
                self.before.push(self.program);
                self.programs += 1;
                self.program = self.programs;
                Event::Upgraded
            }
            Execution::Previous => {
                self.program = self.before.pop().unwrap_or_default();
                Event::Reverted
            }
        }
    }

    /// Answers a check that was asked for.
    pub fn checked(&mut self, passed: bool) {
        if std::mem::take(&mut self.checking) {
            self.event(Event::UpgradeChecked(passed));
        }
    }

    /// The programs of the workers that serve.
    pub fn programs(&self) -> BTreeSet<u64> {
        self.processes.values().filter(|process| process.serves()).map(|process| process.program).collect()
    }

    fn carry_out(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::OpenListener(slot) if std::mem::take(&mut self.next_listener_fails) => {
                events.push_back(Event::ListenerFailed(slot));
            }
            Action::OpenListener(slot) => {
                let again = !self.listeners.insert(slot) || self.kernel.contains(&slot);
                self.breach(again, "I1", || format!("{slot:?} opened twice"));
                self.kernel.push(slot);
                events.push_back(Event::ListenerOpened(slot));
            }
            Action::CloseListener(slot) => self.close(slot),
            Action::CloseListeners => {
                let early = self.stopping.is_none();
                self.breach(early, "I1", || "all sockets closed although it goes on".to_owned());
                self.listeners.clear();
                self.forget_closed();
            }
            Action::Spawn(child, role, version) => self.spawn(child, role, version, events),
            Action::Introduce { leaver, heir } => {
                let serves = |id| self.processes.get(&id).is_some_and(Process::serves);
                let wrong = leaver == heir || !serves(leaver) || !serves(heir) || self.stopping.is_some();
                self.breach(wrong, "I2", || format!("{heir:?} is to take the connections of {leaver:?}"));
            }
            Action::SendDrain(child) | Action::SendStepAside(child) => self.drain(child),
            Action::Confirm(child, _) => {
                if self.confirmation == Confirmation::Yes {
                    self.confirmed.entry(child).or_insert(self.now);
                }
                events.push_back(Event::Confirmed(child, self.confirmation));
            }
            Action::Report { child, verdict, enforced } => {
                self.report(child, verdict, enforced);
                if !self.reports_hang {
                    events.push_back(Event::Reported(child));
                }
            }
            Action::ReportDeath(_, row) => {
                let freed = self.rows[row].is_none();
                self.breach(freed, "I4", || format!("row {row} is read after it was freed"));
            }
            Action::QueryCoreDump(child) => events.push_back(Event::CoreDump(child, self.reports_hang)),
            Action::ProposeSettings(version) => {
                self.graceful.insert(version, self.next_graceful);
            }
            Action::SendRetire(child) => self.retire(child),
            Action::Signal(child, signal) => self.signal(child, signal),
            Action::FreeRow(row) => {
                let owner = self.rows[row].take();
                let alive = owner.is_none_or(|owner| self.processes.contains_key(&owner));
                self.breach(alive, "I4", || format!("row {row} of {owner:?} freed in use or twice"));
            }
            Action::Steer(shares) => {
                self.breach(shares.is_empty(), "I1", || "steering at nobody".to_owned());
                for (slot, share) in &shares {
                    let nobody = *share == 0 || !self.listeners.contains(slot);
                    self.breach(nobody, "I1", || format!("{share} parts of the clients to {slot:?}"));
                }
                self.steering = Some(shares);
            }
            Action::Unsteer => self.steering = None,
            Action::QueryQueue(slot) => events.push_back(Event::QueueLength(slot, self.queue)),
            Action::ShowDegraded(degraded) => {
                let same = std::mem::replace(&mut self.degraded, degraded) == degraded;
                self.breach(same, "I8", || format!("degraded: {degraded} twice"));
                self.probes.clear();
            }
            Action::Log(Fact::GivenUp(_)) => {
                let (now, since) = (self.now, self.nobody_since);
                let early = since.is_none_or(|since| now < since + GIVE_UP);
                self.breach(early, "I8", || format!("given up at {now}, with nobody since {since:?}"));
            }
            Action::Log(Fact::KillWithdrawn(child, _)) => _ = self.ordered.remove(&child),
            Action::HearAgain(child) => {
                events.extend(self.claims.get(&child).map(|claim| Event::Claimed(child, Some(*claim))));
            }
            Action::CheckUpgrade => self.checking = true,
            Action::UpgradeOver(UpgradeEnd::Done) => {
                let (program, programs) = (self.program, self.programs());
                let mixed = programs.iter().any(|of_worker| *of_worker != program);
                self.breach(mixed && self.retiring_slot().is_none(), "I10", || {
                    format!("the upgrade to {program} is done with {programs:?}")
                });
            }
            Action::AnnounceReloading => self.announce(0, true),
            Action::AnnounceReloaded(_) => self.announce(0, false),
            Action::AnnounceChecking => self.announce(1, true),
            Action::AnnounceChecked(_) => self.announce(1, false),
            Action::AnnounceStopping => self.stopping = Some(self.now),
            Action::Exit(code) => {
                let left =
                    self.processes.values().filter(|process| !(process.killed && self.kills_hang)).count();
                self.breach(left > 0, "I4", || format!("{left} children left behind"));
                self.exit = Some((code, self.now));
            }
            _ => {}
        }
    }

    fn spawn(&mut self, child: ChildId, role: Role, version: u64, events: &mut VecDeque<Event>) {
        let reused = self.processes.contains_key(&child) || self.dead.contains(&child);
        self.breach(reused, "I4", || format!("{child:?} was there before"));
        self.breach(self.stopping.is_some(), "I7", || "a child started while stopping".to_owned());
        if let Role::Worker { slot, row } = role {
            let taken = self.rows[row].replace(child);
            self.breach(taken.is_some(), "I4", || format!("row {row} given to {child:?} and {taken:?}"));
            let accused = |(id, process): (&ChildId, &Process)| {
                let has_claim = self.claims.contains_key(id) || self.ordered.contains(id);
                process.serves() && process.slot() == Some(slot) && has_claim
            };
            let repairs = self.processes.iter().any(accused);
            let closed = !self.listeners.contains(&slot);
            self.breach(closed, "I1", || format!("{child:?} started on closed {slot:?}"));
            if self.serving_slot(slot) > 0 && !repairs {
                let others = self.standbys.clone();
                self.breach(!others.is_empty(), "I3", || format!("{child:?} beside {others:?}"));
                self.standbys.insert(child);
                let empty = self.degraded && self.listeners.iter().any(|slot| self.serving_slot(*slot) == 0);
                self.breach(empty, "I8", || format!("{child:?} replaces while a slot is empty"));
            } else if self.serving_slot(slot) == 0 && self.degraded {
                self.probe(child);
            }
        }
        if std::mem::take(&mut self.next_spawn_fails) {
            self.dead.insert(child);
            self.unborn.insert(child);
            self.standbys.remove(&child);
            events.push_back(Event::SpawnFailed(child));
            return;
        }
        let holds_listener = matches!(role, Role::Worker { .. });
        let (spawned, ready) = (self.now, false);
        let graceful = self.graceful.get(&version).copied().unwrap_or(GRACEFUL);
        let (program, ready_at) = (self.program, 0);
        let (told, killed, aborted) = (None, false, None);
        let process = Process {
            role,
            version,
            program,
            spawned,
            graceful,
            ready,
            ready_at,
            told,
            killed,
            aborted,
            holds_listener,
        };
        self.processes.insert(child, process);
    }

    /// A worker says something else of itself than before; one that is not ready says nothing.
    pub fn claim(&mut self, child: ChildId, claim: Option<Claim>) {
        if self.processes.get(&child).is_none_or(|process| !process.ready) {
            return;
        }
        match claim {
            Some(claim) => self.claims.insert(child, claim),
            None => self.claims.remove(&child),
        };
        self.event(Event::Claimed(child, claim));
    }

    fn holders(&self, slot: SlotId) -> usize {
        self.processes
            .values()
            .filter(|process| process.holds_listener && process.slot() == Some(slot))
            .count()
    }

    /// The slots that get new clients; none = all.
    pub fn chosen(&self) -> Option<Vec<u32>> {
        let shares = self.steering.as_ref()?;
        Some(shares.iter().map(|(SlotId(number), _)| *number).collect())
    }

    /// The kernel drops a member with the last copy of its socket.
    fn forget_closed(&mut self) {
        while let Some(index) =
            self.kernel.iter().position(|slot| !self.listeners.contains(slot) && self.holders(*slot) == 0)
        {
            let slot = self.kernel.remove(index);
            self.told_to_retire.take_if(|retired| *retired == slot);
        }
    }

    /// A process ends.
    pub fn exit(&mut self, child: ChildId, clean: bool) {
        self.end(child, End { clean, ..End::UNBORN });
    }

    /// A process ends in a way that can be told from others.
    pub fn die(&mut self, child: ChildId, signature: u64) {
        self.end(child, End { signature: Some(signature), ..End::UNBORN });
    }

    /// A process ends in this way.
    pub fn end(&mut self, child: ChildId, end: End) {
        if self.processes.remove(&child).is_some() {
            let fresh = self.dead.insert(child);
            self.breach(!fresh, "I4", || format!("{child:?} died twice"));
            self.standbys.remove(&child);
            self.forget_closed();
            self.event(Event::Exited { child, end });
        }
    }

    /// The check child that has not given its verdict.
    pub fn settings_check(&self) -> Option<ChildId> {
        let checks = |process: &Process| {
            process.role == Role::Check && !process.ready && !process.told() && !process.killed
        };
        self.processes.iter().find(|(_, process)| checks(process)).map(|(id, _)| *id)
    }

    /// The check child that runs finds the settings good, and leaves; false when there is none.
    pub fn accept(&mut self, plan: Plan, migration: Migration) -> bool {
        self.next_graceful = plan.graceful_timeout;
        self.verdict(|child| Event::SettingsAccepted { child, plan, migration })
    }

    /// The check child that runs finds the settings bad, and leaves.
    pub fn refuse(&mut self) -> bool {
        self.verdict(Event::SettingsRefused)
    }

    fn verdict(&mut self, event: impl FnOnce(ChildId) -> Event) -> bool {
        let Some(child) = self.settings_check() else { return false };
        if let Some(process) = self.processes.get_mut(&child) {
            process.ready = true;
        }
        self.event(event(child));
        self.exit(child, true);
        true
    }

    /// A draining worker closes its copy of the listener.
    pub fn leave_listener(&mut self, child: ChildId) {
        if let Some(process) = self.processes.get_mut(&child)
            && process.told()
            && std::mem::take(&mut process.holds_listener)
        {
            self.forget_closed();
            self.event(Event::ListenerClosed(child));
        }
    }

    pub fn child(&self, pick: usize) -> Option<ChildId> {
        let count = self.processes.len().max(1);
        self.processes.keys().nth(pick % count).copied()
    }

    pub fn boot(&mut self, child: ChildId) {
        for event in [Event::Hello(child), Event::Ready(child)] {
            if self.processes.get(&child).is_some_and(|process| !process.ready) {
                self.event(event);
            }
        }
        let now = self.now;
        if let Some(process) = self.processes.get_mut(&child).filter(|process| process.slot().is_none()) {
            // Who serves no slot has nothing left to do: its time to leave runs.
            process.told.get_or_insert(now);
        }
        if self.processes.get(&child).is_some_and(|process| process.role == Role::Migrate) {
            self.exit(child, true);
        }
    }

    /// Boots those that boot now, not the ones that are started thereby.
    pub fn boot_all_once(&mut self) {
        let booting = Process::boots;
        let now: Vec<_> = self.processes.iter().filter(|(_, p)| booting(p)).map(|(id, _)| *id).collect();
        for child in now {
            self.boot(child);
        }
    }

    pub fn boot_all(&mut self) {
        let booting = Process::boots;
        while let Some(child) = self.processes.iter().find(|(_, p)| booting(p)).map(|(id, _)| *id) {
            self.boot(child);
        }
    }

    pub fn drained_leave(&mut self) {
        let told: Vec<_> = self.processes.iter().filter(|(_, p)| p.told()).map(|(id, _)| *id).collect();
        for child in told {
            self.leave_listener(child);
            self.exit(child, true);
        }
    }

    /// Lets time pass, with every tick that is due; who was killed dies.
    pub fn advance(&mut self, span: Ns) {
        let until = self.now + span;
        self.event(Event::Tick);
        loop {
            self.let_killed_die();
            while let Some(child) =
                self.processes.iter().find(|(_, p)| self.boots_fail && p.boots()).map(|(id, _)| *id)
            {
                self.die(child, SAME);
            }
            match self.supervisor.next_deadline(self.now) {
                Some(deadline) if deadline <= until => {
                    self.now = deadline;
                    self.event(Event::Tick);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    fn let_killed_die(&mut self) {
        let (hang, stay) = (self.reports_hang, self.kills_hang);
        self.hung |= stay;
        let dies = |p: &Process| p.killed && !stay || p.aborted.is_some() && !hang;
        while let Some(child) = self.processes.iter().find(|(_, p)| dies(p)).map(|(id, _)| *id) {
            self.exit(child, false);
        }
    }

    /// The master stands still while time passes.
    pub fn stand_still(&mut self, span: Ns) {
        self.now += span;
        for since in [&mut self.nobody_since, &mut self.stopping].into_iter().flatten() {
            *since += span;
        }
        self.event(Event::Late(span));
        self.let_killed_die();
        self.event(Event::Tick);
    }

    /// Ends: TERM, and nobody leaves by itself. The master must be gone within the longest graceful timeout.
    pub fn terminate(&mut self) {
        let since = *self.stopping.get_or_insert(self.now);
        let longest = self.processes.values().map(|process| process.graceful).fold(GRACEFUL, Ns::max);
        let limit = longest + if self.hung || self.kills_hang { DEATH_PATIENCE } else { 0 };
        self.event(Event::Order(Order::Drain));
        self.advance(limit + MILLISECOND);
        let late = self.exit.is_none_or(|(_, at)| at > since + limit);
        let left: Vec<_> = self.processes.keys().copied().collect();
        self.breach(late, "I7", || format!("not over in time, {left:?} left"));
    }
}
