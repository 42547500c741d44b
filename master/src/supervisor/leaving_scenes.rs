//! Scenes of leaving: how long who may take, and what becomes of those who do not go.

use super::children::LAST_STEPS;
use super::reload_scenes::{ends, newest};
use super::scenes::{happened, serving, spawns, with_one_that_does_not_die, worker};
use super::stop::DEATH_PATIENCE;
use super::world::{GRACEFUL, World, plan};
use super::{Action, ChildSignal, Event, Fact, Migration, Order, Plan, Reloaded, SECOND};

/// Settings that give workers another time to leave.
fn leaving_within(seconds: u64) -> Plan {
    Plan { graceful_timeout: seconds * SECOND, ..plan(2) }
}

#[test]
fn a_migration_that_is_done_may_end_in_peace_where_workers_get_no_time_at_all() {
    let mut world = World::with_plan(leaving_within(0), 1);
    world.event(Event::Start);
    let migrate = world.child(0).expect("migrate");
    world.event(Event::Hello(migrate));
    world.event(Event::Ready(migrate));
    world.event(Event::Tick);
    assert!(!happened(&world, &Action::Signal(migrate, ChildSignal::Kill)));
    world.exit(migrate, true);
    assert_eq!(spawns(&world), 2);
}

#[test]
fn a_migration_that_is_done_and_does_not_end_holds_nothing_up() {
    let mut world = World::new(2, 1);
    world.kills_hang = true;
    world.event(Event::Start);
    let migrate = world.child(0).expect("migrate");
    world.event(Event::Hello(migrate));
    world.event(Event::Ready(migrate));
    world.advance(LAST_STEPS);
    assert!(happened(&world, &Action::Signal(migrate, ChildSignal::Kill)));
    world.boot_all();
    assert_eq!((world.serving(), world.exit), (2, None));
    world.exit(migrate, false);
    assert_eq!((world.serving(), world.exit), (2, None), "its end means nothing any more");
}

#[test]
fn a_worker_has_the_time_to_leave_that_its_own_settings_say() {
    let mut world = serving(2);
    let old = worker(&world, 0);
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(leaving_within(60), Migration::None));
    world.boot(newest(&world));
    // In the middle of the roll one has each.
    let moved = worker(&world, 0);
    world.event(Event::Order(Order::Drain));
    world.advance(GRACEFUL);
    assert!(happened(&world, &Action::Signal(old, ChildSignal::Kill)));
    assert!(!happened(&world, &Action::Signal(moved, ChildSignal::Kill)));
    world.advance(60 * SECOND - GRACEFUL);
    assert!(happened(&world, &Action::Signal(moved, ChildSignal::Kill)));
    assert_eq!(world.breaches, []);
}

#[test]
fn a_worker_that_is_moved_back_has_the_time_of_the_settings_that_were_given_up() {
    let mut world = serving(2);
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(leaving_within(60), Migration::None));
    world.boot(newest(&world));
    world.drained_leave();
    let moved = worker(&world, 0);
    world.exit(newest(&world), false);
    world.boot_all();
    assert_eq!(ends(&world), [Reloaded::WorkerFailed(super::SlotId(1))]);
    world.advance(60 * SECOND - 1);
    assert!(!happened(&world, &Action::Signal(moved, ChildSignal::Kill)));
    world.advance(1);
    assert!(happened(&world, &Action::Signal(moved, ChildSignal::Kill)));
}

#[test]
fn the_end_waits_for_a_killed_process_that_does_not_die_a_moment_only() {
    let mut world = with_one_that_does_not_die();
    world.event(Event::Order(Order::Drain));
    let left: Vec<_> =
        world.processes.iter().filter(|(_, p)| p.ready && p.told()).map(|(id, _)| *id).collect();
    left[1..].iter().for_each(|child| world.exit(*child, true));
    assert_eq!(world.exit, None, "one was killed just now, as far as anybody knows");
    world.advance(DEATH_PATIENCE);
    assert_eq!(world.exit.map(|(code, _)| code), Some(0));
    assert!(happened(&world, &Action::Log(Fact::LeftBehind(1))));
}
