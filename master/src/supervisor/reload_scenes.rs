//! Scenes of the reload: one rule each, step by step.

use super::reload::{CHECK_TIMEOUT, MOST_LOSSES};
use super::scenes::{count, happened, serving, spawns, worker};
use super::world::{BOOT, World, plan};
use super::{
    Action, ChildId, ChildSignal, EXTRA_WORKERS, End, Event, Fact, Migration, Order, RecycleReason, Reloaded,
    Role, SECOND, SlotId,
};

/// By somebody's hand.
pub(super) const KILLED: End = End { by_others: true, ..End::UNBORN };

/// A reload whose settings are good.
fn reload(world: &mut World, workers: u32) {
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(plan(workers), Migration::None));
}

pub(super) fn newest(world: &World) -> ChildId {
    *world.processes.keys().last().expect("a process")
}

/// How the reloads ended, in order.
pub(super) fn ends(world: &World) -> Vec<Reloaded> {
    let how = |action: &Action| match action {
        Action::AnnounceReloaded(how) | Action::AnnounceChecked(how) => Some(*how),
        _ => None,
    };
    world.log.iter().filter_map(how).collect()
}

fn checks(world: &World) -> usize {
    count(world, |action| matches!(action, Action::Spawn(_, Role::Check, _)))
}

/// Boots what starts and lets go what drains, until nothing does.
fn settle(world: &mut World) {
    for _ in 0..8 {
        world.boot_all();
        world.drained_leave();
    }
    world.advance(SECOND);
    world.boot_all();
    world.drained_leave();
}

fn all_run(world: &World, version: u64) -> bool {
    world.processes.values().all(|process| process.version == version)
}

#[test]
fn a_reload_rolls_slot_by_slot_without_interval_and_then_scales() {
    let mut world = serving(2);
    reload(&mut world, 3);
    for _ in 0..2 {
        world.boot_all();
        world.drained_leave();
    }
    assert!(happened(&world, &Action::CommitSettings) && happened(&world, &Action::Target(3)));
    world.boot_all();
    assert_eq!(world.serving(), 3);
    assert!(all_run(&world, 2));
    assert_eq!(count(&world, |action| *action == Action::CountRecycle(RecycleReason::Reload)), 2);
    assert_eq!(ends(&world), [Reloaded::Done]);
}

#[test]
fn who_asks_for_more_workers_than_there_can_be_is_told_with_the_end() {
    let mut world = serving(2);
    let asked = 2 + EXTRA_WORKERS + 1;
    reload(&mut world, asked);
    settle(&mut world);
    let capped = Action::Log(Fact::WorkersCapped(asked, asked - 1));
    let said: Vec<&Action> = world
        .log
        .iter()
        .filter(|action| **action == capped || matches!(action, Action::AnnounceReloaded(_)))
        .collect();
    assert_eq!(said, [&capped, &Action::AnnounceReloaded(Reloaded::Done)]);
    assert!(happened(&world, &Action::Target(asked - 1)));
}

#[test]
fn nothing_changes_before_the_check_has_given_its_verdict() {
    let mut world = serving(2);
    let wishing = worker(&world, 0);
    world.event(Event::Order(Order::Reload));
    assert_eq!((checks(&world), spawns(&world), world.serving()), (1, 0, 2));
    world.event(Event::WantRecycle(wishing, RecycleReason::Operator));
    assert_eq!(spawns(&world), 1, "a wish does not wait for a check");
    assert!(world.refuse());
    assert_eq!(ends(&world), [Reloaded::Refused]);
    world.boot_all();
    assert!(all_run(&world, 1));
}

#[test]
fn a_check_that_dies_or_hangs_refuses_the_settings_and_is_no_worker_that_failed() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Reload));
    let check = world.settings_check().expect("a check");
    world.exit(check, true);
    assert_eq!(ends(&world), [Reloaded::CheckDied], "whatever its exit code");

    world.event(Event::Order(Order::Reload));
    let check = world.settings_check().expect("a check");
    world.advance(CHECK_TIMEOUT);
    assert!(happened(&world, &Action::Log(Fact::CheckKilled(check))));
    assert!(!world.log.iter().any(|action| matches!(action, Action::CountKill(_) | Action::CountCrash)));
    world.advance(1);
    assert_eq!(ends(&world), [Reloaded::CheckDied, Reloaded::CheckLate]);
    assert_eq!((spawns(&world), world.serving()), (0, 1));
}

#[test]
fn a_check_that_has_given_its_verdict_and_stays_is_killed_and_no_more_is_made_of_it() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Reload));
    let check = world.settings_check().expect("a check");
    world.event(Event::SettingsRefused(check));
    world.event(Event::SettingsAccepted { child: check, plan: plan(1), migration: Migration::None });
    assert_eq!(ends(&world), [Reloaded::Refused], "the first verdict counts");
    world.advance(CHECK_TIMEOUT);
    assert!(happened(&world, &Action::Signal(check, ChildSignal::Kill)));
    world.advance(1);
    assert_eq!((ends(&world).len(), spawns(&world)), (1, 0));
}

#[test]
fn a_check_alone_leads_to_no_reload_and_waits_for_one_that_runs() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Check));
    assert!(world.accept(plan(2), Migration::OtherNames));
    assert_eq!(ends(&world), [Reloaded::Checked]);
    assert_eq!((spawns(&world), world.processes.len()), (0, 1));

    reload(&mut world, 1);
    world.event(Event::Order(Order::Check));
    assert_eq!(checks(&world), 2);
    world.boot_all();
    assert_eq!(ends(&world), [Reloaded::Checked, Reloaded::Done]);
    assert_eq!(checks(&world), 3, "then it runs");
    assert!(world.refuse());
    world.drained_leave();
    assert_eq!(ends(&world).last(), Some(&Reloaded::Refused));
    assert!(all_run(&world, 2));
}

#[test]
fn a_reload_whose_worker_does_not_start_is_given_up_and_what_had_moved_moves_back() {
    let mut world = serving(2);
    reload(&mut world, 2);
    world.boot_all();
    world.drained_leave();
    let second = newest(&world);
    world.exit(second, false);
    assert!(happened(&world, &Action::DiscardSettings(1)) && !happened(&world, &Action::CommitSettings));
    assert!(happened(&world, &Action::Log(Fact::ReloadFailed(SlotId(1)))));
    assert_eq!(ends(&world), [], "one worker still has the new settings");
    settle(&mut world);
    assert_eq!(ends(&world), [Reloaded::WorkerFailed(SlotId(1))]);
    assert_eq!(world.serving(), 2);
    assert!(all_run(&world, 1));
}

#[test]
fn a_worker_that_is_not_ready_in_time_ends_the_roll() {
    let mut world = serving(1);
    reload(&mut world, 1);
    world.advance(BOOT + 1);
    assert_eq!(ends(&world), [Reloaded::WorkerLate(SlotId(0))]);
    assert_eq!(world.serving(), 1);
}

#[test]
fn a_check_or_a_canary_that_is_killed_and_does_not_go_holds_no_reload_up() {
    let mut world = serving(2);
    world.kills_hang = true;
    world.event(Event::Order(Order::Reload));
    world.advance(CHECK_TIMEOUT);
    assert_eq!(ends(&world), [Reloaded::CheckLate]);
    reload(&mut world, 2);
    world.advance(BOOT);
    assert_eq!(ends(&world), [Reloaded::CheckLate, Reloaded::WorkerLate(SlotId(0))]);
    assert_eq!((spawns(&world), world.serving()), (1, 2), "no other slot was tried");
    world.kills_hang = false;
    settle(&mut world);
    assert!(all_run(&world, 1));
    reload(&mut world, 2);
    settle(&mut world);
    assert_eq!(ends(&world).last(), Some(&Reloaded::Done));
    assert_eq!(world.breaches, []);
}

#[test]
fn a_new_worker_that_dies_of_its_own_fault_before_all_have_moved_ends_the_roll() {
    let mut world = serving(2);
    reload(&mut world, 2);
    world.boot_all();
    let moved = worker(&world, 0);
    assert_eq!(world.processes[&moved].version, 2);
    world.exit(moved, false);
    assert!(happened(&world, &Action::Log(Fact::ReloadFailed(SlotId(0)))));
    world.drained_leave();
    settle(&mut world);
    assert_eq!(ends(&world), [Reloaded::WorkerFailed(SlotId(0))]);
    assert!(all_run(&world, 1));
}

#[test]
fn what_still_starts_with_discarded_settings_is_replaced_before_the_reload_is_over() {
    let mut world = serving(2);
    reload(&mut world, 2);
    let standby = newest(&world);
    world.exit(worker(&world, 1), false);
    world.advance(SECOND);
    assert_ne!(newest(&world), standby, "a worker for the other slot starts with the new settings too");
    world.exit(standby, false);
    assert_eq!(ends(&world), []);
    settle(&mut world);
    assert_eq!(ends(&world), [Reloaded::WorkerFailed(SlotId(0))]);
    assert!(all_run(&world, 1));
}

#[test]
fn a_replacement_that_somebody_kills_is_tried_again_a_few_times() {
    let mut world = serving(2);
    reload(&mut world, 2);
    for _ in 0..MOST_LOSSES {
        let standby = newest(&world);
        world.end(standby, KILLED);
        assert_eq!(ends(&world), []);
        world.advance(5 * SECOND);
    }
    settle(&mut world);
    assert_eq!(ends(&world), [Reloaded::Done]);

    reload(&mut world, 2);
    for _ in 0..=MOST_LOSSES {
        let standby = newest(&world);
        world.end(standby, KILLED);
        world.advance(5 * SECOND);
    }
    settle(&mut world);
    assert!(matches!(ends(&world)[1..], [Reloaded::WorkersKilled(_)]), "{:?}", ends(&world));
    assert!(all_run(&world, 2));
}

#[test]
fn reloads_coalesce_to_one_that_waits() {
    let mut world = serving(1);
    for _ in 0..20 {
        world.event(Event::Order(Order::Reload));
    }
    assert_eq!(checks(&world), 1);
    assert!(world.refuse());
    assert_eq!(checks(&world), 2);
    assert!(world.refuse());
    assert_eq!((checks(&world), ends(&world).len()), (2, 2));
}

#[test]
fn a_reload_of_the_first_boot_begins_when_all_are_ready() {
    let mut world = World::new(1, 1);
    world.event(Event::Start);
    world.event(Event::Order(Order::Reload));
    world.boot(world.child(0).expect("migrate"));
    assert_eq!(checks(&world), 0);
    world.boot_all();
    assert_eq!(checks(&world), 1);
}

#[test]
fn another_database_is_migrated_before_any_worker_moves() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Reload));
    world.accept(plan(1), Migration::OtherDatabase);
    assert_eq!(spawns(&world), 0);
    let migrate = newest(&world);
    world.exit(migrate, false);
    assert!(happened(&world, &Action::DiscardSettings(1)));
    assert_eq!((spawns(&world), world.serving()), (0, 1));
    assert_eq!(ends(&world), [Reloaded::MigrateFailed]);
    assert_eq!(world.processes.len(), 1, "the old database is as it was");
}

#[test]
fn names_that_were_changed_for_nothing_are_changed_back_before_the_next_reload() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Reload));
    world.accept(plan(1), Migration::OtherNames);
    world.boot(newest(&world));
    let standby = newest(&world);
    assert_eq!((spawns(&world), world.processes[&standby].version), (1, 2));
    world.exit(standby, false);
    let restoring = newest(&world);
    assert_eq!((world.processes[&restoring].role, world.processes[&restoring].version), (Role::Migrate, 1));
    world.event(Event::Order(Order::Reload));
    assert_eq!((checks(&world), ends(&world)), (1, vec![]), "the names come first");
    world.boot(restoring);
    assert!(happened(&world, &Action::NamesRestored));
    assert_eq!((checks(&world), ends(&world)), (2, vec![Reloaded::WorkerFailed(SlotId(0))]));
}

#[test]
fn names_that_cannot_be_changed_back_are_no_reason_to_wait() {
    let mut world = serving(1);
    world.event(Event::Order(Order::Reload));
    world.accept(plan(1), Migration::OtherNames);
    world.exit(newest(&world), false);
    world.exit(newest(&world), false);
    assert!(happened(&world, &Action::Log(Fact::NamesNotRestored)));
    assert!(!happened(&world, &Action::NamesRestored));
    assert_eq!(ends(&world), [Reloaded::MigrateFailed]);
}

#[test]
fn a_way_back_that_is_blocked_holds_no_reload_up() {
    let mut world = serving(2);
    reload(&mut world, 2);
    world.boot_all();
    world.drained_leave();
    world.exit(newest(&world), false);
    assert_eq!(ends(&world), []);
    // The worker that is to replace the one that had moved does not start either.
    let standby = newest(&world);
    assert_eq!(world.processes[&standby].version, 1);
    world.exit(standby, false);
    assert_eq!(ends(&world), [Reloaded::WorkerFailed(SlotId(1))]);
    settle(&mut world);
    assert!(all_run(&world, 1), "it is tried again all the same");
}

#[test]
fn the_end_ends_a_reload_in_every_phase() {
    for phase in 0..4 {
        let mut world = serving(2);
        world.event(Event::Order(Order::Reload));
        if phase > 0 {
            world.accept(plan(2), Migration::OtherNames);
        }
        if phase > 1 {
            world.boot(newest(&world));
        }
        if phase > 2 {
            world.exit(newest(&world), false);
        }
        world.terminate();
        assert_eq!(world.breaches, []);
        assert!(world.exit.is_some(), "phase {phase}");
    }
}
