//! Scenes: one rule each, step by step.

use super::world::{BOOT, GRACEFUL, World};
use super::{
    Action, ChildSignal, Event, Fact, Kill, MILLISECOND, Order, RecycleReason, Role, SECOND, SlotId,
};

pub(super) fn serving(workers: u32) -> World {
    let mut world = World::new(workers, 1);
    world.event(Event::Start);
    world.boot_all();
    assert_eq!(world.serving(), workers as usize);
    world.log.clear();
    world
}

/// Two workers, and the one before of slot 0, which was killed after its time to drain and stays.
pub(super) fn with_one_that_does_not_die() -> World {
    let mut world = serving(2);
    world.kills_hang = true;
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::Operator));
    world.boot_all();
    world.advance(GRACEFUL);
    assert!(happened(&world, &Action::CountKill(Kill::Drain)));
    world
}

pub(super) fn worker(world: &World, slot: u32) -> super::ChildId {
    let of_slot = |role: Role| matches!(role, Role::Worker { slot: SlotId(of), .. } if of == slot);
    let found = world.processes.iter().find(|(_, p)| of_slot(p.role) && p.ready && !p.told());
    *found.expect("a ready worker").0
}

pub(super) fn count(world: &World, wanted: impl Fn(&Action) -> bool) -> usize {
    world.log.iter().filter(|action| wanted(action)).count()
}

pub(super) fn spawns(world: &World) -> usize {
    count(world, |action| matches!(action, Action::Spawn(_, Role::Worker { .. }, _)))
}

pub(super) fn happened(world: &World, action: &Action) -> bool {
    world.log.contains(action)
}

#[test]
fn the_first_boot_migrates_then_starts_all_and_says_ready_once_when_half_are() {
    let mut world = World::new(3, 1);
    world.event(Event::Start);
    assert_eq!(spawns(&world), 0);
    let migrate = world.child(0).expect("migrate");
    world.boot(migrate);
    assert_eq!(spawns(&world), 3);
    world.boot(world.child(0).expect("first"));
    assert!(!happened(&world, &Action::AnnounceReady));
    world.boot(world.child(1).expect("second"));
    assert!(happened(&world, &Action::AnnounceReady));
    assert_eq!(world.supervisor.summary().state, "starting");
    world.boot_all();
    assert_eq!(world.supervisor.summary().state, "serving");
    assert_eq!(count(&world, |action| *action == Action::AnnounceReady), 1);
}

#[test]
fn a_first_boot_that_fails_stops_all_with_code_3_and_a_migration_that_fails_with_1() {
    let mut world = World::new(2, 1);
    world.event(Event::Start);
    let migrate = world.child(0).expect("migrate");
    world.boot(migrate);
    let (first, second) = (world.child(0).expect("first"), world.child(1).expect("second"));
    world.boot(first);
    world.exit(second, false);
    assert!(happened(&world, &Action::Signal(first, ChildSignal::Int)));
    world.exit(first, true);
    assert_eq!(world.exit.map(|(code, _)| code), Some(3));

    let mut world = World::new(2, 1);
    world.event(Event::Start);
    // Leaving without Ready is a failure whatever the exit code says.
    world.exit(world.child(0).expect("migrate"), true);
    assert_eq!(world.exit.map(|(code, _)| code), Some(1));
}

#[test]
fn a_worker_that_is_never_ready_is_killed_and_tried_again_after_its_back_off() {
    let mut world = serving(1);
    world.exit(worker(&world, 0), false);
    assert_eq!(spawns(&world), 0, "back-off first");
    world.advance(130 * MILLISECOND);
    assert_eq!(spawns(&world), 1);
    world.advance(11 * SECOND);
    assert!(happened(&world, &Action::CountKill(Kill::Boot)) && happened(&world, &Action::CountCrash));
    assert_eq!(spawns(&world), 2);
    world.boot_all();
    assert_eq!(world.serving(), 1);
}

#[test]
fn a_recycling_overlaps_and_the_next_waits_for_the_interval_and_the_drainers() {
    let mut world = serving(2);
    let (a, b) = (worker(&world, 0), worker(&world, 1));
    for child in [a, b] {
        world.event(Event::WantRecycle(child, RecycleReason::MaxRequests));
    }
    assert_eq!(spawns(&world), 1, "one token");
    assert!(!happened(&world, &Action::SendDrain(a)), "the old one serves until the new one is ready");
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(a)));
    assert!(happened(&world, &Action::CountRecycle(RecycleReason::MaxRequests)));
    world.advance(SECOND);
    assert_eq!(spawns(&world), 1, "the interval");
    world.advance(2 * SECOND);
    assert_eq!(spawns(&world), 1, "one of two drains");
    world.drained_leave();
    assert_eq!(spawns(&world), 2);
}

#[test]
fn a_killed_process_that_does_not_go_holds_no_replacement_up() {
    let mut world = with_one_that_does_not_die();
    world.event(Event::WantRecycle(worker(&world, 1), RecycleReason::Operator));
    assert_eq!(spawns(&world), 2, "although one that drained is still there");
    world.advance(BOOT);
    assert!(happened(&world, &Action::CountKill(Kill::Boot)));
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::Operator));
    assert_eq!(spawns(&world), 3, "although the replacement of the other slot is still there");
    world.boot_all();
    world.advance(SECOND);
    assert_eq!((world.processes.len(), world.serving()), (5, 2));
    assert_eq!(world.breaches, []);
}

/// Who was told whose connections it takes, in order.
fn introductions(world: &World) -> Vec<(super::ChildId, super::ChildId)> {
    let introduced = world.log.iter().filter_map(|action| match action {
        Action::Introduce { leaver, heir } => Some((*leaver, *heir)),
        _ => None,
    });
    introduced.collect()
}

#[test]
fn who_is_replaced_or_retires_has_an_heir_and_who_stops_with_the_service_has_none() {
    let mut world = serving(3);
    let old = worker(&world, 1);
    world.event(Event::WantRecycle(old, RecycleReason::Age));
    let standby = *world.processes.keys().last().expect("standby");
    assert_eq!(introductions(&world), [], "not before it is ready");
    world.boot_all();
    assert_eq!(introductions(&world), [(old, standby)]);
    let position = |wanted: &Action| world.log.iter().position(|action| action == wanted);
    let introduced = position(&Action::Introduce { leaver: old, heir: standby });
    assert!(introduced < position(&Action::SendDrain(old)), "the line is there when it begins to leave");
    world.drained_leave();
    let (leaver, first) = (worker(&world, 2), worker(&world, 0));
    world.log.clear();
    world.event(Event::Order(Order::FewerWorkers));
    world.advance(10 * SECOND);
    assert!(happened(&world, &Action::SendRetire(leaver)));
    assert_eq!(introductions(&world), [(leaver, first)], "the next slot's worker");
    world.drained_leave();
    world.log.clear();
    world.event(Event::Order(Order::Drain));
    assert!(happened(&world, &Action::SendRetire(first)));
    assert_eq!(introductions(&world), []);
}

#[test]
fn an_operators_wish_waits_for_no_interval_and_no_older_wish() {
    let mut world = serving(3);
    let (a, b) = (worker(&world, 0), worker(&world, 1));
    world.event(Event::WantRecycle(a, RecycleReason::Age));
    world.boot_all();
    world.drained_leave();
    for reason in [RecycleReason::Memory, RecycleReason::Operator] {
        world.event(Event::WantRecycle(b, reason));
    }
    assert_eq!(spawns(&world), 2, "at once");
    assert!(!world.processes[&b].told(), "it serves until its replacement is ready");
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(b)));
    assert!(happened(&world, &Action::CountRecycle(RecycleReason::Operator)));
    assert!(!happened(&world, &Action::CountCrash));
}

#[test]
fn a_stop_reaches_a_worker_that_boots_by_signal_and_by_order() {
    let mut world = serving(1);
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::Age));
    let standby = *world.processes.keys().last().expect("standby");
    world.event(Event::Order(Order::Drain));
    assert!(happened(&world, &Action::SendRetire(standby)));
    assert!(happened(&world, &Action::Signal(standby, ChildSignal::Term)));
}

#[test]
fn a_standby_that_fails_leaves_the_old_worker_alone_and_is_tried_again() {
    let mut world = serving(2);
    let old = worker(&world, 0);
    world.event(Event::WantRecycle(old, RecycleReason::Memory));
    let standby = *world.processes.keys().last().expect("standby");
    world.exit(standby, false);
    assert_eq!(world.serving(), 2);
    assert!(!world.processes[&old].told());
    world.advance(3 * SECOND);
    assert_eq!(spawns(&world), 2);
}

#[test]
fn a_worker_that_does_not_drain_is_killed_at_the_graceful_timeout() {
    let mut world = serving(1);
    let old = worker(&world, 0);
    world.event(Event::WantRecycle(old, RecycleReason::Age));
    world.boot_all();
    world.advance(GRACEFUL - MILLISECOND);
    assert!(!happened(&world, &Action::Signal(old, ChildSignal::Kill)));
    world.advance(2 * MILLISECOND);
    assert!(happened(&world, &Action::Signal(old, ChildSignal::Kill)));
}

#[test]
fn ttou_steers_away_waits_and_closes_last() {
    let mut world = serving(3);
    world.queue = 2;
    world.event(Event::Order(Order::FewerWorkers));
    assert_eq!(world.chosen(), Some(vec![0, 1]));
    let leaver = worker(&world, 2);
    world.advance(10 * SECOND);
    assert!(!happened(&world, &Action::SendRetire(leaver)), "clients wait in its queue");
    world.queue = 0;
    world.advance(2 * SECOND);
    assert!(!happened(&world, &Action::SendRetire(leaver)), "the grace");
    world.advance(2 * SECOND);
    assert!(happened(&world, &Action::SendRetire(leaver)));
    assert!(!happened(&world, &Action::CloseListener(SlotId(2))), "the worker still accepts");
    world.advance(100 * MILLISECOND);
    assert!(happened(&world, &Action::QueryListener(leaver)));
    world.leave_listener(leaver);
    assert!(happened(&world, &Action::CloseListener(SlotId(2))));
    assert_eq!((world.chosen(), world.kernel.as_slice()), (None, &[SlotId(0), SlotId(1)][..]));
    assert!(world.processes.contains_key(&leaver), "it finishes what it accepted");
}

#[test]
fn ttin_takes_a_ttou_back_until_the_worker_was_told() {
    let mut world = serving(2);
    world.event(Event::Order(Order::FewerWorkers));
    world.advance(SECOND);
    world.event(Event::Order(Order::MoreWorkers));
    assert!(happened(&world, &Action::Log(Fact::RetiringCancelled(SlotId(1)))));
    assert_eq!((world.chosen(), world.serving()), (None, 2));
    world.event(Event::Order(Order::FewerWorkers));
    world.advance(4 * SECOND);
    assert_eq!(world.serving(), 1);
    world.event(Event::Order(Order::MoreWorkers));
    world.boot_all();
    assert!(happened(&world, &Action::OpenListener(SlotId(2))), "the old socket is on its way out");
    assert_eq!(world.serving(), 2);
}

#[test]
fn a_ttou_that_is_taken_back_leaves_the_workers_wish_alone() {
    let mut world = serving(2);
    world.event(Event::WantRecycle(worker(&world, 0), RecycleReason::Age));
    world.boot_all();
    let wishing = worker(&world, 1);
    world.event(Event::WantRecycle(wishing, RecycleReason::MaxRequests));
    world.event(Event::Order(Order::FewerWorkers));
    world.drained_leave();
    world.event(Event::Order(Order::MoreWorkers));
    world.advance(3 * SECOND);
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(wishing)), "it asks only once");
}

#[test]
fn the_number_of_workers_has_a_floor_and_a_limit() {
    let mut world = serving(1);
    world.event(Event::Order(Order::FewerWorkers));
    assert!(happened(&world, &Action::Log(Fact::LastWorker)));
    for _ in 0..5 {
        world.event(Event::Order(Order::MoreWorkers));
        world.boot_all();
    }
    assert_eq!(world.serving(), 5);
    assert!(happened(&world, &Action::Log(Fact::NoMoreWorkers(5))));
}

#[test]
fn a_full_row_table_makes_a_start_wait_and_is_logged_once() {
    let mut world = serving(1);
    // Ten rows: crashes of young workers cost none, workers that never end their drain do.
    for _ in 0..4 {
        world.event(Event::Order(Order::MoreWorkers));
        world.boot_all();
    }
    // Four drain at most 2 at a time by recycling; retiring ones are not limited.
    let mut refused = false;
    for _ in 0..20 {
        world.event(Event::Order(Order::FewerWorkers));
        world.advance(3_200 * MILLISECOND);
        let told: Vec<_> = world.processes.iter().filter(|(_, p)| p.told()).map(|(id, _)| *id).collect();
        told.into_iter().for_each(|child| world.leave_listener(child));
        world.event(Event::Order(Order::MoreWorkers));
        world.boot_all();
        refused |= happened(&world, &Action::Log(Fact::NoRowForMore));
        if refused {
            break;
        }
    }
    assert!(refused, "TTIN says why it is refused");
    let victim = worker(&world, 0);
    let full = world.rows.iter().all(Option::is_some);
    world.exit(victim, false);
    world.advance(SECOND);
    world.boot_all();
    assert!(full && world.serving() >= 4, "a crash gives its own row back");
}

#[test]
fn a_second_term_is_ignored_for_two_seconds_and_then_means_quick() {
    let mut world = serving(2);
    let child = worker(&world, 0);
    world.event(Event::Order(Order::Drain));
    assert!(happened(&world, &Action::SendRetire(child)) && happened(&world, &Action::CloseListeners));
    world.advance(SECOND);
    world.event(Event::Order(Order::Drain));
    assert!(happened(&world, &Action::Log(Fact::TermIgnored)));
    assert!(!happened(&world, &Action::Signal(child, ChildSignal::Int)));
    world.advance(2 * SECOND);
    world.event(Event::Order(Order::Drain));
    assert!(happened(&world, &Action::Signal(child, ChildSignal::Int)));
    world.advance(2 * SECOND + MILLISECOND);
    assert_eq!(world.exit.map(|(code, _)| code), Some(0));
}

#[test]
fn int_gives_two_seconds() {
    let mut world = serving(2);
    world.event(Event::Order(Order::Quick));
    world.advance(2 * SECOND - MILLISECOND);
    assert_eq!(count(&world, |action| matches!(action, Action::Signal(_, ChildSignal::Kill))), 0);
    world.advance(2 * MILLISECOND);
    assert_eq!(world.exit.map(|(code, _)| code), Some(0));
}
