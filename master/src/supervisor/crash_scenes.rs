//! Scenes of crash loops: what many failures lead to, step by step.

use super::reload_scenes::KILLED;
use super::scenes::{count, happened, serving, spawns, worker};
use super::world::{BOOT, BUDGET, GIVE_UP, World, plan};
use super::{
    Action, ChildId, ChildSignal, CrashLoop, End, Event, Fact, MILLISECOND, Migration, Order, RecycleReason,
    SECOND, SlotId,
};

/// As long as a back-off grows in these scenes.
const BACK_OFF: u64 = 4 * SECOND;

fn assert_no_breach(world: &World) {
    assert_eq!(world.breaches, [] as [(&str, String); 0]);
}

fn newest(world: &World) -> ChildId {
    *world.processes.keys().last().expect("a child")
}

fn state(world: &World) -> &'static str {
    world.supervisor.summary().state
}

/// Slots 0 and 1 of four are empty, and one of them has just made it a crash loop.
fn degraded() -> World {
    let mut world = serving(4);
    world.boots_fail = true;
    for slot in [0, 1] {
        let child = worker(&world, slot);
        world.exit(child, false);
    }
    world.advance(BACK_OFF);
    assert_eq!(state(&world), "degraded");
    assert_eq!(world.serving(), 2);
    world
}

#[test]
fn boots_that_fail_alike_three_times_make_a_crash_loop_that_touches_nobody_who_serves() {
    let mut world = serving(4);
    let others: Vec<ChildId> = (1..4).map(|slot| worker(&world, slot)).collect();
    let first = worker(&world, 0);
    world.boots_fail = true;
    world.exit(first, false);
    world.advance(SECOND);
    assert!(happened(&world, &Action::Log(Fact::Degraded(CrashLoop::Alike(3)))));
    assert!(happened(&world, &Action::ShowDegraded(true)));
    world.advance(GIVE_UP);
    assert!(others.iter().all(|child| world.processes.contains_key(child)), "they serve on");
    assert_eq!(count(&world, |action| matches!(action, Action::Signal(..) | Action::SendDrain(_))), 0);
    assert_eq!(world.chosen(), Some(vec![1, 2, 3]), "no client waits where nobody is");
    assert!((5..15).contains(&spawns(&world)), "{} tries: the back-off goes on", spawns(&world));
    assert_eq!(count(&world, |action| *action == Action::CountBootFailure), spawns(&world));
    assert_eq!((count(&world, |action| *action == Action::CountCrash), world.exit), (1, None));
    assert_no_breach(&world);
}

#[test]
fn deaths_that_differ_make_one_when_they_are_more_than_the_budget_within_a_minute() {
    let mut world = serving(3);
    for failure in 0..BUDGET {
        world.advance(11 * SECOND);
        let child = worker(&world, failure % 3);
        world.die(child, u64::from(failure));
        world.advance(5 * SECOND);
        world.boot_all();
    }
    world.advance(60 * SECOND);
    for failure in 0..=BUDGET {
        assert_eq!(state(&world), "serving", "after {failure}");
        let child = worker(&world, failure % 3);
        world.die(child, u64::from(failure));
        if failure < BUDGET {
            world.advance(5 * SECOND);
            world.boot_all();
        }
    }
    assert!(happened(&world, &Action::Log(Fact::Degraded(CrashLoop::Many(BUDGET + 1)))));
    assert_no_breach(&world);
}

#[test]
fn what_somebody_killed_is_not_alike_and_what_lies_a_minute_back_is_not_in_a_row() {
    let mut world = serving(2);
    for _ in 0..4 {
        let child = worker(&world, 0);
        world.exit(child, false);
        world.advance(BACK_OFF);
        world.boot_all();
    }
    assert_eq!(state(&world), "serving");
    for _ in 0..6 {
        world.advance(61 * SECOND);
        let child = worker(&world, 1);
        world.die(child, 9);
        world.advance(BACK_OFF);
        world.boot_all();
    }
    assert_eq!(state(&world), "serving");
}

#[test]
fn one_slot_at_a_time_is_tried_and_the_others_come_one_by_one_when_it_has_proved_itself() {
    let mut world = degraded();
    world.boots_fail = false;
    world.log.clear();
    world.advance(BACK_OFF);
    assert_eq!(spawns(&world), 1, "the other one waits");
    let probe = newest(&world);
    let tried = world.supervisor.summary().degraded.flatten().expect("a slot is tried");
    world.boot(probe);
    world.advance(10 * SECOND - MILLISECOND);
    assert_eq!((spawns(&world), state(&world)), (1, "degraded"));
    world.advance(MILLISECOND);
    assert!(happened(&world, &Action::Log(Fact::Recovered)));
    assert!(happened(&world, &Action::ShowDegraded(false)));
    assert_eq!(spawns(&world), 2, "at once");
    assert_eq!(state(&world), "serving");
    world.boot_all();
    assert_eq!((world.serving(), tried == SlotId(0) || tried == SlotId(1)), (4, true));
    assert_no_breach(&world);
}

#[test]
fn after_it_empty_slots_are_filled_one_after_another() {
    let mut world = serving(4);
    world.boots_fail = true;
    for slot in 0..3 {
        let child = worker(&world, slot);
        world.exit(child, false);
    }
    world.advance(BACK_OFF);
    world.boots_fail = false;
    world.advance(BACK_OFF);
    world.boot_all();
    world.log.clear();
    world.advance(10 * SECOND);
    assert_eq!((spawns(&world), world.serving()), (1, 2));
    world.boot_all_once();
    assert_eq!((spawns(&world), world.serving()), (2, 3));
    world.boot_all_once();
    assert_eq!((spawns(&world), world.serving()), (2, 4));
    let (one, other) = (worker(&world, 0), worker(&world, 1));
    world.exit(one, false);
    world.exit(other, false);
    world.advance(9 * SECOND);
    assert_eq!(spawns(&world), 4, "all is well again: each slot by itself");
}

#[test]
fn no_wish_is_granted_while_a_slot_is_empty_in_a_crash_loop() {
    let mut world = degraded();
    let wishing = worker(&world, 3);
    world.event(Event::WantRecycle(wishing, RecycleReason::Operator));
    world.advance(2 * BACK_OFF);
    assert!(!world.processes[&wishing].told());
    assert_eq!(count(&world, |action| matches!(action, Action::Log(Fact::Recycling(..)))), 0);
    world.boots_fail = false;
    world.advance(2 * BACK_OFF);
    world.boot_all();
    world.advance(10 * SECOND);
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(wishing)));
    assert_no_breach(&world);
}

#[test]
fn replacements_that_never_start_make_one_that_ends_by_itself() {
    let mut world = serving(2);
    world.boots_fail = true;
    let wishing = worker(&world, 0);
    world.event(Event::WantRecycle(wishing, RecycleReason::MaxRequests));
    world.advance(5 * SECOND);
    assert_eq!((state(&world), world.serving()), ("degraded", 2));
    let tries = spawns(&world);
    world.advance(20 * SECOND);
    assert!(spawns(&world) > tries, "nothing is missing, so it may be tried");
    world.boots_fail = false;
    for _ in 0..60 {
        world.advance(SECOND);
        world.boot_all();
    }
    assert_eq!((state(&world), world.serving()), ("serving", 2));
    assert!(happened(&world, &Action::SendDrain(wishing)));
    assert_no_breach(&world);
}

#[test]
fn a_reload_begins_anew_and_one_that_makes_a_crash_loop_is_given_up() {
    let mut world = degraded();
    world.boots_fail = false;
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(plan(4), Migration::None));
    assert_eq!(state(&world), "reloading");
    assert!(happened(&world, &Action::ShowDegraded(false)));
    for _ in 0..4 {
        world.boot_all();
        world.drained_leave();
    }
    assert!(happened(&world, &Action::CommitSettings));
    assert_eq!((state(&world), world.serving()), ("serving", 4));

    world.event(Event::Order(Order::Reload));
    assert!(world.accept(plan(4), Migration::None));
    for _ in 0..3 {
        world.boot_all_once();
        let moved = *world.processes.iter().rfind(|(_, p)| p.ready && !p.told()).expect("moved").0;
        world.die(moved, 5);
        world.advance(BACK_OFF);
    }
    let given_up = |action: &Action| matches!(action, Action::Log(Fact::ReloadFailed(_)));
    assert_eq!((count(&world, given_up), state(&world)), (1, "degraded"));
    assert_no_breach(&world);
}

#[test]
fn a_reload_that_repairs_a_crash_loop_is_not_given_up_for_workers_with_the_old_settings() {
    let mut world = serving(4);
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(plan(4), Migration::None));
    let standby = newest(&world);
    for slot in 0..4 {
        world.die(worker(&world, slot), 5);
    }
    assert_eq!((world.degraded, state(&world)), (false, "reloading"));
    world.boot(standby);
    world.advance(BACK_OFF);
    world.boot_all();
    assert!(happened(&world, &Action::CommitSettings));
    assert_eq!((state(&world), world.serving()), ("serving", 4));
    assert!(world.processes.values().all(|process| process.version == 2));
    assert_no_breach(&world);
}

#[test]
fn a_master_without_any_ready_worker_gives_up_in_time_and_not_when_it_may_not() {
    let mut world = serving(2);
    world.boots_fail = true;
    for slot in [0, 1] {
        let child = worker(&world, slot);
        world.exit(child, false);
    }
    world.advance(GIVE_UP - MILLISECOND);
    assert_eq!((world.exit, state(&world)), (None, "degraded"));
    world.advance(2 * MILLISECOND);
    assert!(happened(&world, &Action::Log(Fact::GivenUp(GIVE_UP))));
    assert_eq!(world.exit.map(|(code, _)| code), Some(1));
    assert_no_breach(&world);

    let mut world = World::with_plan(super::Plan { give_up: None, ..plan(1) }, 1);
    world.event(Event::Start);
    world.boot_all();
    world.boots_fail = true;
    world.exit(worker(&world, 0), false);
    world.advance(100 * GIVE_UP);
    assert_eq!(world.exit, None);
}

#[test]
fn the_first_boot_says_by_its_exit_code_whether_trying_again_can_help() {
    for (refused_settings, code) in [(true, 4), (false, 3)] {
        let mut world = World::new(2, 1);
        world.event(Event::Start);
        world.boot(world.child(0).expect("migrate"));
        let child = world.child(0).expect("first");
        world.end(child, End { refused_settings, ..End::UNBORN });
        world.advance(3 * SECOND);
        assert_eq!(world.exit.map(|(code, _)| code), Some(code));
    }
    let mut world = serving(2);
    let child = worker(&world, 0);
    world.end(child, End { refused_settings: true, ..End::UNBORN });
    world.advance(BACK_OFF);
    world.boot_all();
    assert_eq!((world.exit, world.serving()), (None, 2), "later it is a failure as any other");
}

/// The first workers boot.
fn first_boot() -> World {
    let mut world = World::new(2, 1);
    world.event(Event::Start);
    world.boot(world.child(0).expect("migrate"));
    world
}

#[test]
fn a_first_boot_ends_also_when_its_workers_die_after_they_were_ready() {
    let mut world = first_boot();
    world.event(Event::Order(Order::Reload));
    for death in 0..=BUDGET {
        assert_eq!(world.exit, None, "after {death}");
        let child = newest(&world);
        world.boot(child);
        world.end(child, KILLED);
        world.advance((130 * MILLISECOND) << death);
    }
    assert!(happened(&world, &Action::Log(Fact::FirstBootGivenUp(SlotId(1)))));
    assert_eq!(world.exit.map(|(code, _)| code), Some(3));
    assert_no_breach(&world);

    let mut world = first_boot();
    for _ in 0..3 {
        let child = newest(&world);
        world.boot(child);
        world.die(child, 5);
        world.advance(SECOND);
    }
    assert!(happened(&world, &Action::Log(Fact::FirstBootGivenUp(SlotId(1)))));
}

#[test]
fn a_worker_that_somebody_kills_in_the_first_boot_is_started_again_and_one_that_takes_too_long_is_not() {
    let mut world = first_boot();
    world.end(newest(&world), KILLED);
    world.advance(SECOND);
    world.boot_all();
    assert_eq!((world.exit, world.serving()), (None, 2));
    assert!(happened(&world, &Action::AnnounceReady));

    let mut world = first_boot();
    let late = newest(&world);
    world.now += BOOT;
    world.event(Event::Tick);
    world.end(late, KILLED);
    world.advance(3 * SECOND);
    assert_eq!(world.exit.map(|(code, _)| code), Some(3));
    assert_no_breach(&world);
}

#[test]
fn a_master_that_stood_still_holds_no_limit_against_anybody() {
    let mut world = serving(2);
    let old = worker(&world, 0);
    world.event(Event::WantRecycle(old, RecycleReason::Operator));
    let booting = newest(&world);
    world.advance(SECOND);
    world.stand_still(100 * SECOND);
    assert_eq!(count(&world, |action| matches!(action, Action::Signal(_, ChildSignal::Kill))), 0);
    world.boot(booting);
    world.stand_still(100 * SECOND);
    world.drained_leave();
    assert_eq!(count(&world, |action| matches!(action, Action::Signal(_, ChildSignal::Kill))), 0);
    assert_eq!((world.serving(), state(&world)), (2, "serving"));
    assert_no_breach(&world);
}

#[test]
fn a_ready_that_came_in_time_counts_although_it_is_heard_late() {
    let mut world = serving(2);
    for slot in [0, 1] {
        let child = worker(&world, slot);
        world.exit(child, false);
    }
    world.advance(200 * MILLISECOND);
    let booting: Vec<ChildId> = world.processes.keys().copied().collect();
    world.now += 11 * SECOND;
    booting.into_iter().for_each(|child| world.boot(child));
    world.event(Event::Tick);
    assert_eq!(world.serving(), 2);
    assert_eq!(count(&world, |action| matches!(action, Action::CountKill(_))), 0);
}
