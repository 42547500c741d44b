//! Scenes: who gets new clients.

use super::scenes::{serving, worker};
use super::steer::{Cause, NoPause, WHOLE};
use super::world::{SLOW_START, World, plan};
use super::{Claim, Event, MILLISECOND, Migration, Order, SECOND, SlotId, Stage, Verdict};

fn shares(world: &World) -> Option<Vec<(u32, u32)>> {
    let shares = world.steering.as_ref()?;
    Some(shares.iter().map(|(slot, parts)| (slot.0, *parts)).collect())
}

fn pause(world: &mut World, slot: u32) {
    world.event(Event::Order(Order::Pause(SlotId(slot))));
}

fn streams(world: &mut World, counts: &[u64]) {
    let counts = (0..).map(SlotId).zip(counts.iter().copied()).collect();
    world.event(Event::Streams(counts));
}

fn crash(world: &mut World, slot: u32) {
    let child = worker(world, slot);
    world.exit(child, false);
}

fn assert_no_breach(world: &World) {
    assert_eq!(world.breaches, [] as [(&str, String); 0]);
}

#[test]
fn a_worker_in_an_empty_slot_gets_its_share_in_three_steps() {
    let mut world = serving(2);
    crash(&mut world, 1);
    assert_eq!(shares(&world), Some(vec![(0, WHOLE)]), "nobody accepts there");
    world.advance(130 * MILLISECOND);
    world.boot_all();
    for parts in 1..WHOLE {
        assert_eq!(shares(&world), Some(vec![(0, WHOLE), (1, parts)]));
        let held = world.supervisor.held_back(world.now);
        assert_eq!(held, [(SlotId(1), parts, Cause::SlowStart(parts))]);
        world.advance(SLOW_START / 3);
    }
    assert_eq!((shares(&world), world.supervisor.held_back(world.now)), (None, Vec::new()), "no program");
    assert_no_breach(&world);
}

#[test]
fn a_new_slot_starts_slowly_and_a_replacement_does_not() {
    let mut world = serving(2);
    world.event(Event::Order(Order::MoreWorkers));
    assert_eq!(shares(&world), Some(vec![(0, WHOLE), (1, WHOLE)]), "the third is not there yet");
    world.boot_all();
    assert_eq!(shares(&world), Some(vec![(0, WHOLE), (1, WHOLE), (2, 1)]));
    world.advance(SLOW_START);
    assert_eq!(shares(&world), None);
    world.log.clear();
    world.event(Event::WantRecycle(worker(&world, 0), super::RecycleReason::Operator));
    world.boot_all();
    world.drained_leave();
    assert_eq!(shares(&world), None);
    assert!(!world.log.iter().any(|action| matches!(action, super::Action::Steer(_))), "nor in between");
}

#[test]
fn a_slow_start_that_is_over_is_not_begun_again_by_a_longer_one() {
    let mut world = serving(2);
    crash(&mut world, 1);
    world.advance(130 * MILLISECOND);
    world.boot_all();
    world.advance(SLOW_START);
    world.event(Event::Order(Order::Reload));
    let plan = super::Plan { slow_start: 3600 * SECOND, ..plan(2) };
    assert!(world.accept(plan, Migration::None));
    for _ in 0..2 {
        world.boot_all();
        world.drained_leave();
    }
    assert_eq!(shares(&world), None);
    crash(&mut world, 1);
    world.advance(SECOND);
    world.boot_all();
    assert_eq!(shares(&world), Some(vec![(0, WHOLE), (1, 1)]), "the next one is");
    world.advance(1000 * SECOND);
    assert_eq!(shares(&world), Some(vec![(0, WHOLE), (1, 1)]));
}

#[test]
fn the_first_workers_start_with_whole_shares() {
    let world = serving(3);
    assert_eq!(shares(&world), None);
}

#[test]
fn a_lone_worker_has_all_clients_whatever_holds() {
    let mut world = serving(1);
    crash(&mut world, 0);
    assert_eq!(shares(&world), None);
    world.advance(130 * MILLISECOND);
    world.boot_all();
    streams(&mut world, &[5000]);
    assert_eq!(shares(&world), None);
    let lone = worker(&world, 0);
    world.claim(lone, Some(Claim { verdict: Verdict::Spin, stage: Stage::Suspect }));
    assert_eq!(shares(&world), None);
}

#[test]
fn a_paused_slot_gets_nobody_until_it_is_resumed_and_keeps_that_over_a_replacement() {
    let mut world = serving(3);
    pause(&mut world, 1);
    assert_eq!(world.chosen(), Some(vec![0, 2]));
    assert_eq!(world.supervisor.summary().paused, [SlotId(1)]);
    world.event(Event::WantRecycle(worker(&world, 1), super::RecycleReason::Operator));
    world.boot_all();
    world.drained_leave();
    assert_eq!(world.chosen(), Some(vec![0, 2]), "the new worker too");
    pause(&mut world, 0);
    assert_eq!(world.chosen(), Some(vec![2]));
    assert_eq!(world.supervisor.why_not_pause(SlotId(2)), Some(NoPause::LastOne));
    assert_eq!(world.supervisor.why_not_pause(SlotId(3)), Some(NoPause::NoSuchSlot));
    pause(&mut world, 2);
    assert_eq!(world.chosen(), Some(vec![2]), "refused: it is the last");
    world.event(Event::Order(Order::Resume(SlotId(1))));
    world.event(Event::Order(Order::Resume(SlotId(0))));
    assert_eq!(world.chosen(), None);
    assert_no_breach(&world);
}

#[test]
fn paused_slots_are_let_in_again_when_nobody_else_is_there() {
    let mut world = serving(2);
    pause(&mut world, 0);
    crash(&mut world, 1);
    assert_eq!(world.chosen(), Some(vec![0]), "better than nobody");
    assert_eq!(world.supervisor.held_back(world.now)[0], (SlotId(0), WHOLE, Cause::Paused));
    world.advance(130 * MILLISECOND);
    world.boot_all();
    assert_eq!(world.chosen(), Some(vec![1]));
    assert_no_breach(&world);
}

#[test]
fn a_slot_with_far_more_streams_is_left_alone_until_the_others_have_caught_up() {
    let mut world = serving(4);
    streams(&mut world, &[12, 5, 5, 5]);
    assert_eq!(world.chosen(), None, "chance is not even");
    streams(&mut world, &[40, 5, 5, 5]);
    assert_eq!(world.chosen(), Some(vec![1, 2, 3]));
    // The mean is 25, sigma 4.3: not above the mean by two of it any more, and still by one.
    streams(&mut world, &[32, 22, 23, 23]);
    assert_eq!(world.chosen(), Some(vec![1, 2, 3]));
    streams(&mut world, &[29, 23, 24, 24]);
    assert_eq!(world.chosen(), None);
    streams(&mut world, &[32, 24, 24, 24]);
    assert_eq!(world.chosen(), None, "only above two sigma does it begin");
}

#[test]
fn streams_that_nobody_opens_any_more_keep_no_worker_idle() {
    let mut world = serving(2);
    streams(&mut world, &[40, 0]);
    assert_eq!(world.chosen(), Some(vec![1]));
    world.advance(9 * SECOND);
    streams(&mut world, &[39, 0]);
    assert_eq!(world.chosen(), Some(vec![1]));
    world.advance(2 * SECOND);
    assert_eq!(world.chosen(), None, "nothing to even out with");
    streams(&mut world, &[39, 1]);
    assert_eq!(world.chosen(), Some(vec![1]), "now there is");
}

#[test]
fn a_suspect_and_a_full_slot_leave_the_third() {
    let mut world = serving(3);
    let first = worker(&world, 0);
    world.claim(first, Some(Claim { verdict: Verdict::Spin, stage: Stage::Suspect }));
    streams(&mut world, &[0, 60, 0]);
    assert_eq!(world.chosen(), Some(vec![2]));
    pause(&mut world, 2);
    assert_eq!(world.chosen(), Some(vec![1]), "many streams are no reason to take nobody");
    pause(&mut world, 1);
    assert_eq!(world.chosen(), Some(vec![1]), "the only one left may not be paused");
    crash(&mut world, 1);
    assert_eq!(world.chosen(), Some(vec![2]), "a paused worker before a suspected one");
    assert_no_breach(&world);
}
