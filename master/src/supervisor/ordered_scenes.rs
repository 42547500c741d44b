//! Scenes of what operators order of single workers and of their number.

use super::scenes::{count, happened, serving, spawns, worker};
use super::world::{BOOT, GRACEFUL, World, plan};
use super::{
    Action, ChildId, ChildSignal, Claim, Event, Fact, Fate, Kill, Migration, NoOrder, NoScale, Order, Place,
    RecycleReason, SECOND, SlotId, Stage, Verdict, Watchdog,
};

const FIRST: SlotId = SlotId(0);

fn order(world: &mut World, order: Order) {
    world.event(Event::Order(order));
}

fn aborted(world: &World, child: ChildId) -> bool {
    happened(world, &Action::Signal(child, ChildSignal::Abort))
}

fn assert_no_breach(world: &World) {
    assert_eq!(world.breaches, [] as [(&str, String); 0]);
}

fn claims(world: &mut World, child: ChildId, verdict: Verdict, stage: Stage) {
    world.claim(child, Some(Claim { verdict, stage }));
}

#[test]
fn a_recycling_that_is_ordered_waits_for_no_interval_and_its_end_can_be_seen() {
    let mut world = serving(2);
    let (first, second) = (worker(&world, 0), worker(&world, 1));
    world.event(Event::WantRecycle(second, RecycleReason::MaxRequests));
    world.boot_all();
    world.drained_leave();
    order(&mut world, Order::Recycle(FIRST));
    assert_eq!(spawns(&world), 2, "although the interval is not over");
    assert_eq!(world.supervisor.fate(FIRST, first), Fate::Serves);
    world.boot_all();
    let next = world.supervisor.worker_of(FIRST).expect("its replacement");
    assert_eq!(world.supervisor.fate(FIRST, first), Fate::Replaced(Some(next)));
    assert!(happened(&world, &Action::CountRecycle(RecycleReason::Operator)));
    let leaving = world.supervisor.workers().into_iter().find(|view| view.child == first).expect("it drains");
    let expected = (Place::Leaving, "draining", Some("operator"));
    assert_eq!((leaving.place, leaving.phase, leaving.reason), expected);
    world.drained_leave();
    assert_eq!(world.supervisor.fate(FIRST, first), Fate::Gone);
    assert_no_breach(&world);
}

#[test]
fn an_order_takes_the_place_of_a_wish_that_waits() {
    let mut world = serving(2);
    for slot in [0, 1] {
        let child = worker(&world, slot);
        world.event(Event::WantRecycle(child, RecycleReason::Age));
    }
    world.boot_all();
    world.drained_leave();
    assert_eq!(spawns(&world), 1, "the second one waits for the interval");
    order(&mut world, Order::Recycle(SlotId(1)));
    assert_eq!(spawns(&world), 2);
    assert!(happened(&world, &Action::Log(Fact::Recycling(SlotId(1), RecycleReason::Operator))));
    assert_no_breach(&world);
}

#[test]
fn orders_for_slots_that_cannot_follow_them_change_nothing_and_say_why() {
    let mut world = serving(2);
    assert_eq!(world.supervisor.recyclable(SlotId(7)), Err(NoOrder::NoSuchSlot));
    let (first, second) = (worker(&world, 0), worker(&world, 1));
    claims(&mut world, second, Verdict::Spin, Stage::Suspect);
    assert_eq!(world.supervisor.recyclable(SlotId(1)), Err(NoOrder::Suspect(Verdict::Spin)));
    world.claim(second, None);
    world.boot_all();
    world.drained_leave();
    world.exit(first, false);
    assert_eq!(world.supervisor.recyclable(FIRST), Err(NoOrder::NoWorker));
    world.advance(SECOND);
    world.boot_all();
    order(&mut world, Order::FewerWorkers);
    assert_eq!(world.supervisor.recyclable(SlotId(1)), Err(NoOrder::Retiring));
    let before = world.log.len();
    for refused in
        [Order::Recycle(SlotId(1)), Order::Kill(SlotId(1)), Order::Recycle(SlotId(7)), Order::Scale(0)]
    {
        order(&mut world, refused);
    }
    assert_eq!(world.log.len(), before, "{:?}", &world.log[before..]);
    assert_no_breach(&world);
}

#[test]
fn a_worker_that_is_ordered_dead_is_replaced_first_then_reported_then_killed() {
    for watchdog in [Watchdog::Enforce, Watchdog::Observe, Watchdog::Off] {
        let mut world = World::with_plan(super::Plan { watchdog, ..plan(2) }, 1);
        world.event(Event::Start);
        world.boot_all();
        world.log.clear();
        let condemned = worker(&world, 0);
        order(&mut world, Order::Kill(FIRST));
        order(&mut world, Order::Kill(FIRST));
        assert_eq!((spawns(&world), aborted(&world, condemned)), (1, false), "a standby comes first");
        assert_eq!(world.chosen(), Some(vec![1]), "new clients go elsewhere");
        world.advance(BOOT / 2);
        assert!(!aborted(&world, condemned), "it waits for its standby");
        world.boot_all();
        assert!(happened(&world, &Action::SendStepAside(condemned)));
        let report = Action::Report { child: condemned, verdict: Verdict::Operator, enforced: true };
        let at = |wanted: &Action| world.log.iter().position(|action| action == wanted).expect("it happened");
        assert!(at(&report) < at(&Action::Signal(condemned, ChildSignal::Abort)));
        let kill = Kill::Watchdog(Verdict::Operator);
        assert_eq!(count(&world, |action| *action == Action::CountKill(kill)), 1);
        world.advance(SECOND);
        assert_eq!((world.supervisor.fate(FIRST, condemned), world.serving()), (Fate::Gone, 2));
        assert!(!happened(&world, &Action::CountCrash), "a kill of ours is no crash");
        assert_eq!(world.chosen(), None);
        assert_no_breach(&world);
    }
}

#[test]
fn nobody_is_killed_whose_standby_does_not_start_and_what_it_claimed_meanwhile_is_heard() {
    let mut world = serving(2);
    let worker = worker(&world, 0);
    order(&mut world, Order::Kill(FIRST));
    claims(&mut world, worker, Verdict::Spin, Stage::Suspect);
    assert!(!happened(&world, &Action::Accuse(worker, Verdict::Spin)), "it is as good as dead");
    let standby = *world.processes.keys().last().expect("a standby");
    world.exit(standby, false);
    assert!(happened(&world, &Action::Log(Fact::KillWithdrawn(worker, FIRST))));
    assert!(happened(&world, &Action::Accuse(worker, Verdict::Spin)), "it is told again");
    assert!(!aborted(&world, worker));
    world.claim(worker, None);
    world.advance(BOOT + GRACEFUL);
    assert_eq!((aborted(&world, worker), world.chosen()), (false, None));
    assert_no_breach(&world);
}

#[test]
fn what_an_operator_ordered_outlives_a_reload_that_stops_the_watchdog() {
    let mut world = serving(2);
    let condemned = worker(&world, 0);
    order(&mut world, Order::Reload);
    world.accept(super::Plan { watchdog: Watchdog::Off, ..plan(2) }, Migration::None);
    world.boot_all();
    world.drained_leave();
    assert!(!world.processes.contains_key(&condemned));
    let condemned = worker(&world, 0);
    order(&mut world, Order::Kill(FIRST));
    world.save_and_restore();
    world.boot_all();
    assert!(aborted(&world, condemned));
    assert_no_breach(&world);
}

#[test]
fn the_number_of_workers_goes_where_it_is_ordered_and_no_further_than_there_is_room() {
    let mut world = serving(2);
    assert!(world.supervisor.is_scaled());
    order(&mut world, Order::Scale(5));
    assert!(happened(&world, &Action::Target(5)) && !world.supervisor.is_scaled());
    world.boot_all();
    assert_eq!((world.serving(), world.supervisor.is_scaled()), (5, true));
    assert_eq!(world.supervisor.why_not_scale(0), Some(NoScale::TooFew));
    assert_eq!(world.supervisor.why_not_scale(7), Some(NoScale::TooMany(6)));
    order(&mut world, Order::Scale(7));
    assert_eq!(world.supervisor.summary().target, 5);
    order(&mut world, Order::Scale(3));
    for _ in 0..2 {
        assert!(!world.supervisor.is_scaled());
        world.advance(4 * SECOND);
        world.drained_leave();
        world.advance(SECOND);
    }
    assert_eq!((world.serving(), world.supervisor.is_scaled()), (3, true));
    assert_no_breach(&world);
}

#[test]
fn a_state_of_a_program_that_knew_no_reasons_of_leaving_is_read() {
    let mut world = serving(2);
    order(&mut world, Order::Recycle(FIRST));
    world.boot_all();
    let mut state = serde_json::to_value(&world.supervisor).expect("json");
    for (_, child) in state["children"].as_object_mut().expect("children") {
        child.as_object_mut().expect("a child").remove("leaves_for").expect("it is written");
    }
    let read: super::Supervisor = serde_json::from_value(state).expect("an older state");
    assert!(read.workers().iter().any(|view| view.phase == "draining" && view.reason == Some("retiring")));
}
