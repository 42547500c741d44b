//! Scenes of upgrades: one rule each.

use super::scenes::{count, happened, serving, spawns, worker};
use super::world::{World, plan};
use super::{
    Action, Busy, ChildId, Claim, Confirmation, Event, Fact, MILLISECOND, Migration, Order, RecycleReason,
    Role, SECOND, SlotId, Stage, UpgradeEnd, Verdict,
};

const AT_ONCE: Order = Order::Upgrade { patience: 0 };
const PATIENT: Order = Order::Upgrade { patience: 30 * SECOND };

fn ends(world: &World) -> Vec<UpgradeEnd> {
    let end = |action: &Action| if let Action::UpgradeOver(end) = action { Some(*end) } else { None };
    world.log.iter().filter_map(end).collect()
}

/// An upgrade is ordered, and the other program says that it can take over.
fn begin(world: &mut World) {
    world.event(Event::Order(AT_ONCE));
    world.checked(true);
}

/// The `migrate` child of the other program.
fn migrating(world: &World) -> ChildId {
    let running = world.processes.iter().find(|(_, process)| process.role == Role::Migrate);
    *running.expect("the other program migrates first").0
}

/// It does its work.
fn migrate(world: &mut World) {
    world.boot(migrating(world));
}

/// Lets every replacement that starts become ready and live on, and what drains leave.
fn roll(world: &mut World) {
    for _ in 0..8 {
        world.boot_all_once();
        world.drained_leave();
        world.advance(SECOND);
    }
}

#[test]
fn the_other_program_is_checked_executed_migrates_and_then_the_workers_roll() {
    let mut world = serving(2);
    world.event(Event::Order(AT_ONCE));
    assert!(happened(&world, &Action::CheckUpgrade) && world.program == 0);
    assert!(!happened(&world, &Action::AnnounceUpgrading), "nothing has begun yet");
    world.checked(true);
    assert_eq!((world.program, world.supervisor.summary().state), (1, "upgrading"));
    assert!(happened(&world, &Action::AnnounceUpgrading) && happened(&world, &Action::CountUpgrade));
    assert_eq!(spawns(&world), 0, "first the database");
    migrate(&mut world);
    assert_eq!(spawns(&world), 1, "one worker at a time");
    roll(&mut world);
    assert_eq!((ends(&world), world.serving()), (vec![UpgradeEnd::Done], 2));
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [1]);
    assert_eq!(count(&world, |action| *action == Action::CountRecycle(RecycleReason::Upgrade)), 2);
    assert_eq!(world.supervisor.summary().state, "serving");
    assert_eq!(world.breaches, []);
}

#[test]
fn a_program_that_does_not_pass_the_check_or_cannot_be_executed_changes_nothing() {
    let mut world = serving(2);
    world.event(Event::Order(AT_ONCE));
    world.checked(false);
    world.event(Event::Order(AT_ONCE));
    world.next_execution_fails = true;
    world.checked(true);
    assert_eq!(ends(&world), [UpgradeEnd::Refused; 2]);
    assert_eq!((world.program, spawns(&world), world.serving()), (0, 0, 2));
    assert_eq!(world.supervisor.summary().state, "serving");
}

#[test]
fn a_program_that_cannot_read_the_state_after_all_leaves_no_suspicion_without_an_answer() {
    let mut world = serving(2);
    world.confirmation = Confirmation::Stopped;
    let suspect = worker(&world, 0);
    world.claim(suspect, Some(Claim { verdict: Verdict::ALL[0], stage: Stage::Fired }));
    world.boot_all();
    assert!(happened(&world, &Action::SendStepAside(suspect)));
    world.next_sends_back = true;
    begin(&mut world);
    assert_eq!((ends(&world), world.program), (vec![UpgradeEnd::Refused], 0));
    assert!(happened(&world, &Action::SendDrain(suspect)), "what it was asked about is not known any more");
    assert_eq!(world.breaches, []);
}

#[test]
fn whoever_is_in_a_hurry_is_told_what_runs_and_whoever_is_patient_waits_for_it() {
    let mut world = serving(2);
    world.event(Event::WantRecycle(worker(&world, 1), RecycleReason::Age));
    world.event(Event::Order(AT_ONCE));
    assert_eq!(ends(&world), [UpgradeEnd::Busy(Busy::Recycling(SlotId(1)))]);
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::MaxRequests));
    world.event(Event::Order(PATIENT));
    assert!(!happened(&world, &Action::CheckUpgrade));
    world.advance(3 * SECOND);
    world.boot_all_once();
    world.drained_leave();
    assert!(happened(&world, &Action::CheckUpgrade), "before the other recycling, whose time has come too");
    assert_eq!(spawns(&world), 1);
    world.checked(true);
    migrate(&mut world);
    roll(&mut world);
    assert_eq!(ends(&world).last(), Some(&UpgradeEnd::Done));
}

#[test]
fn patience_ends() {
    let mut world = serving(1);
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::Age));
    world.event(Event::Order(Order::Upgrade { patience: SECOND }));
    world.advance(SECOND - MILLISECOND);
    assert_eq!(ends(&world), []);
    world.advance(MILLISECOND);
    assert_eq!(ends(&world), [UpgradeEnd::Busy(Busy::Recycling(SlotId(0)))]);
    // What runs goes on as if nothing had been asked.
    world.boot_all();
    assert!(happened(&world, &Action::CountRecycle(RecycleReason::Age)));
}

#[test]
fn a_worker_that_dies_during_the_check_is_waited_for() {
    let mut world = serving(2);
    world.event(Event::Order(PATIENT));
    world.exit(worker(&world, 0), false);
    world.advance(150 * MILLISECOND);
    assert_eq!(spawns(&world), 1);
    world.checked(true);
    assert_eq!((world.program, ends(&world)), (0, vec![]), "a worker boots");
    world.boot_all();
    world.checked(true);
    assert_eq!(world.program, 1);
}

#[test]
fn only_children_of_the_other_program_say_why_it_cannot_be_used() {
    let mut world = serving(2);
    let (old, dead) = (worker(&world, 0), worker(&world, 1));
    world.event(Event::Order(PATIENT));
    world.exit(dead, false);
    world.advance(150 * MILLISECOND);
    let tried = |world: &World| {
        let tried = world.processes.keys().filter(|child| world.supervisor.tries_program(**child));
        tried.copied().collect::<Vec<_>>()
    };
    assert_eq!(tried(&world), [], "one starts, with this program");
    world.boot_all();
    world.checked(true);
    let newest = |world: &World| *world.processes.keys().last().expect("a process");
    assert_eq!(tried(&world), [newest(&world)], "the other program's migration");
    migrate(&mut world);
    assert_eq!(tried(&world), [newest(&world)]);
    world.exit(newest(&world), false);
    roll(&mut world);
    assert_eq!((ends(&world), tried(&world)), (vec![UpgradeEnd::Reverted], vec![]));
    assert!(world.processes.contains_key(&old));
}

#[test]
fn a_worker_that_does_not_start_with_the_other_program_brings_the_one_before_back() {
    let mut world = serving(3);
    begin(&mut world);
    migrate(&mut world);
    world.boot_all_once();
    world.drained_leave();
    world.advance(SECOND);
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [0, 1], "the first slot has moved");
    let booting = world.processes.iter().find(|(_, process)| !process.ready).expect("the second");
    world.exit(*booting.0, false);
    assert!(happened(&world, &Action::Log(Fact::UpgradeFailed(SlotId(1)))));
    assert_eq!((world.program, ends(&world)), (0, vec![]));
    roll(&mut world);
    assert_eq!((ends(&world), world.serving()), (vec![UpgradeEnd::Reverted], 3));
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [0]);
    // The next one gets a number of its own: no worker of the failed program counts as one of it.
    begin(&mut world);
    migrate(&mut world);
    roll(&mut world);
    assert_eq!(ends(&world).last(), Some(&UpgradeEnd::Done));
    assert_eq!((world.breaches.len(), world.programs().len()), (0, 1));
}

#[test]
fn a_worker_of_the_other_program_lives_a_while_before_the_next_one_moves_and_before_the_end() {
    let mut world = serving(2);
    begin(&mut world);
    migrate(&mut world);
    world.boot_all_once();
    world.drained_leave();
    world.advance(SECOND - MILLISECOND);
    assert_eq!(spawns(&world), 1, "the first one is looked at");
    world.advance(MILLISECOND);
    assert_eq!(spawns(&world), 2);
    world.boot_all_once();
    world.drained_leave();
    world.advance(SECOND - MILLISECOND);
    assert_eq!(ends(&world), [], "and so is the last one");
    world.exit(worker(&world, 1), false);
    assert_eq!((world.program, happened(&world, &Action::Log(Fact::UpgradeFailed(SlotId(1))))), (0, true));
    world.advance(SECOND);
    roll(&mut world);
    assert_eq!((ends(&world), world.serving()), (vec![UpgradeEnd::Reverted], 2));
    assert_eq!(world.breaches, []);
}

#[test]
fn a_database_that_the_other_program_cannot_use_brings_the_one_before_back() {
    let mut world = serving(2);
    begin(&mut world);
    world.exit(migrating(&world), false);
    assert_eq!((world.program, spawns(&world)), (0, 0));
    assert_eq!(ends(&world), [UpgradeEnd::Reverted]);
}

#[test]
fn without_a_way_back_the_workers_of_the_program_before_stay_until_the_next_upgrade() {
    let mut world = serving(2);
    begin(&mut world);
    migrate(&mut world);
    world.next_execution_fails = true;
    let booting = world.processes.iter().find(|(_, process)| !process.ready).expect("the standby");
    world.exit(*booting.0, false);
    assert_eq!((ends(&world), world.program, world.serving()), (vec![UpgradeEnd::NoWayBack], 1, 2));
    roll(&mut world);
    assert_eq!(spawns(&world), 1, "none of them moves to a program whose workers do not start");
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [0]);
    // Another program that is none either leads back to this one, of which nothing new is known.
    begin(&mut world);
    world.exit(migrating(&world), false);
    assert_eq!((ends(&world).last(), world.program), (Some(&UpgradeEnd::Reverted), 1));
    roll(&mut world);
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [0]);
    begin(&mut world);
    migrate(&mut world);
    roll(&mut world);
    assert_eq!(ends(&world).last(), Some(&UpgradeEnd::Done));
    assert_eq!(world.programs().into_iter().collect::<Vec<_>>(), [3]);
    assert_eq!(world.breaches, []);
}

#[test]
fn a_reload_during_an_upgrade_comes_after_it() {
    let mut world = serving(2);
    begin(&mut world);
    world.event(Event::Order(Order::Reload));
    migrate(&mut world);
    assert!(world.settings_check().is_none());
    roll(&mut world);
    assert_eq!(ends(&world), [UpgradeEnd::Done]);
    assert!(world.accept(plan(2), Migration::None), "now");
    roll(&mut world);
    assert_eq!(world.supervisor.summary().state, "serving");
}

#[test]
fn an_upgrade_during_a_reload_waits_for_all_of_it() {
    let mut world = serving(2);
    world.event(Event::Order(Order::Reload));
    world.event(Event::Order(AT_ONCE));
    assert_eq!(ends(&world), [UpgradeEnd::Busy(Busy::Reloading)]);
    world.event(Event::Order(PATIENT));
    assert!(world.accept(plan(2), Migration::None));
    assert!(!world.checking);
    roll(&mut world);
    assert!(world.checking);
}

#[test]
fn the_end_of_everything_ends_an_upgrade_in_every_state() {
    for stage in 0..5 {
        let mut world = serving(2);
        world.event(Event::Order(AT_ONCE));
        if stage > 0 {
            world.checked(true);
        }
        if stage > 1 {
            migrate(&mut world);
        }
        if stage > 2 {
            world.boot_all_once();
        }
        if stage > 3 {
            world.exit(worker(&world, 1), false);
        }
        world.terminate();
        let end = if stage == 0 { UpgradeEnd::Busy(Busy::Stopping) } else { UpgradeEnd::Stopped };
        assert_eq!(ends(&world), [end], "stage {stage}");
        assert_eq!((world.exit.map(|(code, _)| code), &world.breaches), (Some(0), &Vec::new()));
        let (program, exit) = (world.program, world.exit);
        world.event(Event::Order(AT_ONCE));
        assert_eq!((world.program, world.exit), (program, exit));
    }
}
