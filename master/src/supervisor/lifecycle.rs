//! `LIFECYCLE.md` is true: it names every state and event of the code, and random schedules show the transitions that stand
//! there, and no others.

use std::collections::{BTreeMap, BTreeSet};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::crash_loop::Health;
use super::schedules::{run, schedule};
use super::state::{Life, Phase, Reload};
use super::upgrade::Upgrade;
use super::{ChildId, Event, Supervisor};

const PAGE: &str = include_str!("LIFECYCLE.md");
/// Enough to see every transition; always the same ones.
const SCHEDULES: usize = 4000;
/// What a child is that is not there any more.
const GONE: &str = "GONE";

/// A function from a variant to its name, and all names. A variant that is missing here does not compile.
macro_rules! names {
    ($function:ident, $all:ident, $of:ty: $($variant:pat => $name:literal,)*) => {
        fn $function(value: &$of) -> &'static str {
            match value { $($variant => $name,)* }
        }
        const $all: &[&str] = &[$($name),*];
    };
}

names! { phase, PHASES, Phase:
    Phase::Spawning { .. } => "SPAWNING",
    Phase::Booting { .. } => "BOOTING",
    Phase::Running { .. } => "RUNNING",
    Phase::Aside => "ASIDE",
    Phase::Draining { .. } => "DRAINING",
    Phase::Aborting { .. } => "ABORTING",
    Phase::Killing(_) => "KILLING",
}

names! { life, LIVES, Life:
    Life::Starting => "STARTING",
    Life::FirstBoot => "FIRST_BOOT",
    Life::Serving => "SERVING",
    Life::Stopping(_) => "STOPPING",
    Life::Over => "OVER",
}

names! { reload, RELOADS, Reload:
    Reload::Idle => "IDLE",
    Reload::Checking { .. } => "CHECKING",
    Reload::Migrating { .. } => "MIGRATING",
    Reload::Rolling { .. } => "ROLLING",
    Reload::TakingBack { .. } => "TAKING_BACK",
}

names! { health, HEALTHS, Health:
    Health::Well => "WELL",
    Health::Degraded { .. } => "DEGRADED",
    Health::Recovering => "RECOVERING",
}

names! { upgrade, UPGRADES, Upgrade:
    Upgrade::Idle => "IDLE",
    Upgrade::Waiting { .. } => "WAITING",
    Upgrade::Checking { .. } => "CHECKING",
    Upgrade::Executing => "EXECUTING",
    Upgrade::Migrating { .. } => "MIGRATING",
    Upgrade::Rolling { .. } => "ROLLING",
    Upgrade::Returning { .. } => "RETURNING",
    Upgrade::Reverting => "REVERTING",
}

names! { event, EVENTS, Event:
    Event::Start => "Start",
    Event::Tick => "Tick",
    Event::Late(_) => "Late",
    Event::Order(_) => "Order",
    Event::ListenerOpened(_) => "ListenerOpened",
    Event::ListenerFailed(_) => "ListenerFailed",
    Event::QueueLength(..) => "QueueLength",
    Event::Streams(_) => "Streams",
    Event::SpawnFailed(_) => "SpawnFailed",
    Event::Hello(_) => "Hello",
    Event::Ready(_) => "Ready",
    Event::WantRecycle(..) => "WantRecycle",
    Event::ListenerClosed(_) => "ListenerClosed",
    Event::Exited { .. } => "Exited",
    Event::Claimed(..) => "Claimed",
    Event::Confirmed(..) => "Confirmed",
    Event::Reported(_) => "Reported",
    Event::CoreDump(..) => "CoreDump",
    Event::SettingsAccepted { .. } => "SettingsAccepted",
    Event::SettingsRefused(_) => "SettingsRefused",
    Event::UpgradeChecked(_) => "UpgradeChecked",
    Event::Upgraded => "Upgraded",
    Event::Reverted => "Reverted",
    Event::ExecutionFailed => "ExecutionFailed",
}

/// The headings of the machines, with the names of their states.
const CHILD: &str = "A child";
const MACHINES: [(&str, &[&str]); 5] = [
    (CHILD, PHASES),
    ("The master", LIVES),
    ("A reload", RELOADS),
    ("Health", HEALTHS),
    ("An upgrade", UPGRADES),
];

/// Which machine, from where, to where.
type Transition = (&'static str, &'static str, &'static str);

/// What was seen to follow what.
#[derive(Debug, Default)]
pub(super) struct Seen {
    transitions: BTreeSet<Transition>,
    events: BTreeSet<&'static str>,
}

/// A supervisor's states at a moment.
pub(super) struct Moment {
    children: BTreeMap<ChildId, &'static str>,
    /// Of all machines but the children's, in their order.
    states: [&'static str; 4],
}

impl Moment {
    pub(super) fn of(supervisor: &Supervisor) -> Moment {
        let states = [
            life(&supervisor.life),
            reload(&supervisor.reload),
            health(&supervisor.crash_loop.health),
            upgrade(&supervisor.upgrade),
        ];
        let children = supervisor.children.iter().map(|(id, child)| (*id, phase(&child.phase))).collect();
        Moment { children, states }
    }
}

impl Seen {
    /// One step, from a moment to the next.
    pub(super) fn step(&mut self, what: &Event, before: &Moment, after: &Moment) {
        self.events.insert(event(what));
        let machines = MACHINES[1..].iter().zip(before.states.into_iter().zip(after.states));
        let states = machines.map(|((machine, _), (was, is))| (*machine, was, is));
        let is = |id: &ChildId| *after.children.get(id).unwrap_or(&GONE);
        let children = before.children.iter().map(|(id, was)| (CHILD, *was, is(id)));
        self.transitions.extend(states.chain(children).filter(|(_, was, is)| was != is));
    }
}

/// The cells of the table below a heading, without its first two lines.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = PAGE.lines().skip_while(|line| *line != format!("## {heading}")).skip(1);
    let rows =
        rows.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The transitions that a machine's table tells of: its third column says `STATE: when. STATE: when`.
fn told_of(machine: &'static str, names: &[&str]) -> BTreeSet<Transition> {
    let mut told = BTreeSet::new();
    for row in table(machine) {
        let words = row[2].split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        let next = words.filter(|word| *word == GONE && machine == CHILD || names.contains(word));
        told.extend(next.map(|next| (machine, row[0], next)));
    }
    told
}

#[test]
fn every_state_and_event_of_the_code_stands_in_the_page_and_no_other() {
    for (heading, names) in MACHINES {
        let told: Vec<&str> = table(heading).iter().map(|row| row[0]).collect();
        assert_eq!(told, names, "{heading}");
    }
    let told: BTreeSet<&str> = table("Events").iter().flat_map(|row| row[0].split(", ")).collect();
    assert_eq!(told, EVENTS.iter().copied().collect::<BTreeSet<_>>());
}

#[test]
fn the_transitions_of_the_page_are_the_ones_that_happen() {
    let told: BTreeSet<Transition> =
        MACHINES.into_iter().flat_map(|(machine, names)| told_of(machine, names)).collect();
    let (mut runner, mut seen) = (TestRunner::deterministic(), Seen::default());
    for _ in 0..SCHEDULES {
        let schedule = schedule().new_tree(&mut runner).expect("a schedule").current();
        seen = run(schedule, Some(seen)).seen.take().expect("what was seen");
    }
    let untold: Vec<_> = seen.transitions.difference(&told).collect();
    let unseen: Vec<_> = told.difference(&seen.transitions).collect();
    assert!(untold.is_empty() && unseen.is_empty(), "not in the page: {untold:?}; never seen: {unseen:?}");
    let never: Vec<_> = EVENTS.iter().filter(|name| !seen.events.contains(*name)).collect();
    assert!(never.is_empty(), "no schedule has {never:?}");
}
