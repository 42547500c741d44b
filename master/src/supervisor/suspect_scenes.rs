//! Scenes of the watchdog: what a claim leads to, step by step.

use super::scenes::{count, happened, serving, spawns, worker};
use super::world::{BOOT, KILL_INTERVAL, World, plan};
use super::{
    Action, ChildId, ChildSignal, Claim, Confirmation, Event, Fact, Guard, Kill, Migration, Order,
    RecycleReason, SECOND, Stage, Verdict, Watchdog,
};

fn suspect(world: &mut World, child: ChildId, verdict: Verdict) {
    world.claim(child, Some(Claim { verdict, stage: Stage::Suspect }));
}

fn fire(world: &mut World, child: ChildId, verdict: Verdict) {
    world.claim(child, Some(Claim { verdict, stage: Stage::Fired }));
}

fn aborted(world: &World, child: ChildId) -> bool {
    happened(world, &Action::Signal(child, ChildSignal::Abort))
}

fn assert_no_breach(world: &World) {
    assert_eq!(world.breaches, [] as [(&str, String); 0]);
}

#[test]
fn a_spin_is_steered_around_gets_a_standby_steps_aside_and_dies_reported() {
    let mut world = serving(2);
    let spinner = worker(&world, 0);
    suspect(&mut world, spinner, Verdict::Spin);
    assert_eq!(world.chosen(), Some(vec![1]), "new clients go to the other slot");
    assert!(happened(&world, &Action::Accuse(spinner, Verdict::Spin)));
    assert_eq!(spawns(&world), 1, "no token is needed");
    world.boot_all();
    assert!(happened(&world, &Action::SendStepAside(spinner)));
    assert_eq!((world.chosen(), world.serving()), (None, 2));
    fire(&mut world, spinner, Verdict::Spin);
    let report = Action::Report { child: spinner, verdict: Verdict::Spin, enforced: true };
    let at = |wanted: &Action| world.log.iter().position(|action| action == wanted).expect("it happened");
    let abort = Action::Signal(spinner, ChildSignal::Abort);
    assert!(at(&Action::Confirm(spinner, Verdict::Spin)) < at(&report) && at(&report) < at(&abort));
    assert!(happened(&world, &Action::CountKill(Kill::Watchdog(Verdict::Spin))));
    world.advance(SECOND);
    assert!(!happened(&world, &Action::CountCrash), "a kill of ours is no crash");
    assert_eq!(world.serving(), 2);
    assert_no_breach(&world);
}

#[test]
fn nobody_dies_before_its_standby_is_ready_and_16_spinners_all_go_one_after_another() {
    let mut world = serving(16);
    let spinners: Vec<ChildId> = (0..16).map(|slot| worker(&world, slot)).collect();
    for spinner in &spinners {
        suspect(&mut world, *spinner, Verdict::Spin);
    }
    assert_eq!((spawns(&world), world.chosen()), (1, None), "one standby boots; everybody is as bad");
    for spinner in &spinners {
        fire(&mut world, *spinner, Verdict::Spin);
        assert!(!aborted(&world, *spinner));
    }
    for gone in 1..=16 {
        world.boot_all_once();
        assert!(world.serving() >= 16, "{} serve", world.serving());
        let died = spinners.iter().filter(|spinner| aborted(&world, **spinner)).count();
        assert_eq!(died, gone, "with no pause between");
    }
    assert!(
        !world.log.iter().any(|action| matches!(action, Action::Log(Fact::Held(_, _, _, Guard::Majority))))
    );
    assert_no_breach(&world);
}

#[test]
fn a_suspicion_that_is_taken_back_costs_a_graceful_replacement_at_most() {
    let mut world = serving(2);
    let (early, late) = (worker(&world, 0), worker(&world, 1));
    suspect(&mut world, early, Verdict::StallCpu);
    world.claim(early, None);
    assert_eq!(world.chosen(), None);
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(early)), "its standby had begun and takes over");
    suspect(&mut world, late, Verdict::StallCpu);
    world.boot_all();
    world.claim(late, None);
    assert!(happened(&world, &Action::SendDrain(late)) && happened(&world, &Action::SendStepAside(late)));
    let handed_over = |action: &Action| matches!(action, Action::Introduce { leaver, .. } if *leaver == late);
    assert!(
        !world.log.iter().any(handed_over),
        "who was suspected when its standby came announces the close"
    );
    let replaced = Action::CountRecycle(RecycleReason::Suspect);
    assert_eq!(count(&world, |action| *action == replaced), 2);
    assert!(!aborted(&world, early) && !aborted(&world, late));
    assert_no_breach(&world);
}

#[test]
fn what_the_world_outside_denies_twice_is_not_killed() {
    let mut world = serving(1);
    let worker = worker(&world, 0);
    world.confirmation = Confirmation::No;
    fire(&mut world, worker, Verdict::Spin);
    world.boot_all();
    world.advance(4 * SECOND);
    assert!(!happened(&world, &Action::SendDrain(worker)), "asked once more first");
    world.advance(2 * SECOND);
    assert!(happened(&world, &Action::CountSpared(Verdict::Spin)) && !aborted(&world, worker));
    assert!(happened(&world, &Action::SendDrain(worker)), "its standby serves, so it leaves in peace");
    assert_no_breach(&world);
}

#[test]
fn a_process_that_somebody_stopped_is_left_alone_until_it_runs() {
    let mut world = serving(1);
    let worker = worker(&world, 0);
    world.confirmation = Confirmation::Stopped;
    fire(&mut world, worker, Verdict::Silent);
    world.boot_all();
    world.advance(3600 * SECOND);
    let noted = |action: &Action| matches!(action, Action::Log(Fact::Stopped(..)));
    assert_eq!((count(&world, noted), aborted(&world, worker), world.serving()), (1, false, 1));
    world.claim(worker, None);
    assert!(happened(&world, &Action::SendDrain(worker)));
    assert_no_breach(&world);
}

#[test]
fn blocked_workers_die_at_intervals_and_not_while_most_are_blocked() {
    let mut world = serving(4);
    let workers: Vec<ChildId> = (0..4).map(|slot| worker(&world, slot)).collect();
    for blocked in &workers[..2] {
        fire(&mut world, *blocked, Verdict::StallBlocked);
    }
    world.boot_all();
    world.boot_all();
    let dead = |world: &World| workers.iter().filter(|worker| aborted(world, **worker)).count();
    assert_eq!(dead(&world), 1);
    world.advance(KILL_INTERVAL - SECOND);
    assert_eq!(dead(&world), 1);
    world.advance(2 * SECOND);
    assert_eq!(dead(&world), 2);
    assert_no_breach(&world);
}

#[test]
fn while_most_workers_are_blocked_nobody_dies_for_it_for_a_minute() {
    let mut world = serving(3);
    let workers: Vec<ChildId> = (0..3).map(|slot| worker(&world, slot)).collect();
    for blocked in &workers {
        suspect(&mut world, *blocked, Verdict::StallBlocked);
    }
    world.boot_all();
    for blocked in &workers[..2] {
        fire(&mut world, *blocked, Verdict::StallUninterruptible);
    }
    let dead = |world: &World| workers.iter().filter(|worker| aborted(world, **worker)).count();
    // The first is alone with it at first.
    assert_eq!(dead(&world), 1);
    fire(&mut world, workers[2], Verdict::StallBlocked);
    world.advance(KILL_INTERVAL + SECOND);
    assert_eq!(dead(&world), 1, "two of three");
    assert!(
        world.log.iter().any(|action| matches!(action, Action::Log(Fact::Held(_, _, _, Guard::Majority))))
    );
    world.advance(KILL_INTERVAL);
    assert_eq!(dead(&world), 2, "a minute is enough");
    world.advance(KILL_INTERVAL);
    assert_eq!(dead(&world), 3);
    assert_no_breach(&world);
}

#[test]
fn one_stall_after_another_is_no_majority() {
    let mut world = serving(1);
    for _ in 0..2 {
        let blocked = worker(&world, 0);
        fire(&mut world, blocked, Verdict::StallBlocked);
        world.boot_all();
        world.advance(KILL_INTERVAL + SECOND);
        assert!(aborted(&world, blocked));
    }
    assert_no_breach(&world);
}

#[test]
fn a_verdict_that_changes_is_asked_about_anew_and_one_that_was_spared_is_not_forgotten() {
    let mut world = serving(1);
    let stuck = worker(&world, 0);
    world.confirmation = Confirmation::No;
    fire(&mut world, stuck, Verdict::StallUninterruptible);
    world.advance(SECOND);
    fire(&mut world, stuck, Verdict::StallCpu);
    assert!(happened(&world, &Action::Confirm(stuck, Verdict::StallCpu)));
    world.advance(6 * SECOND);
    assert!(happened(&world, &Action::CountSpared(Verdict::StallCpu)) && spawns(&world) == 1);
    // Its standby hangs, so it still is the only one; a minute later the world outside is asked again.
    world.confirmation = Confirmation::Yes;
    world.advance(60 * SECOND + 2 * BOOT);
    assert!(aborted(&world, stuck));
}

#[test]
fn a_stalled_worker_without_a_standby_dies_after_the_boot_timeout_and_a_spinning_one_serves_on() {
    for (verdict, dies) in [(Verdict::StallCpu, true), (Verdict::Spin, false)] {
        let mut world = serving(1);
        let worker = worker(&world, 0);
        fire(&mut world, worker, verdict);
        world.advance(BOOT - SECOND);
        assert!(!aborted(&world, worker));
        world.advance(4 * SECOND);
        assert_eq!(aborted(&world, worker), dies, "{verdict:?}");
    }
}

#[test]
fn observing_reports_and_touches_nobody() {
    let mut world = serving(1);
    let worker = worker(&world, 0);
    world.event(Event::Order(Order::Reload));
    let observe = super::Plan { watchdog: Watchdog::Observe, ..plan(1) };
    assert!(world.accept(observe, Migration::None));
    world.boot_all();
    let observed = super::scenes::worker(&world, 0);
    assert_ne!(worker, observed);
    world.log.clear();
    fire(&mut world, observed, Verdict::Spin);
    world.advance(60 * SECOND);
    assert!(happened(&world, &Action::Report { child: observed, verdict: Verdict::Spin, enforced: false }));
    assert_eq!((spawns(&world), aborted(&world, observed), world.chosen()), (0, false, None));
}

#[test]
fn a_draining_worker_that_spins_dies_for_that() {
    let mut world = serving(2);
    let spinner = worker(&world, 0);
    world.event(Event::WantRecycle(spinner, RecycleReason::MaxRequests));
    world.boot_all();
    assert!(happened(&world, &Action::SendDrain(spinner)));
    fire(&mut world, spinner, Verdict::Spin);
    assert!(aborted(&world, spinner) && spawns(&world) == 1, "its successor serves already");
    assert_no_breach(&world);
}

#[test]
fn a_report_that_hangs_and_a_worker_that_survives_the_abort_are_bounded() {
    let mut world = serving(1);
    let worker = worker(&world, 0);
    suspect(&mut world, worker, Verdict::StallCpu);
    world.boot_all();
    world.reports_hang = true;
    fire(&mut world, worker, Verdict::StallCpu);
    assert!(!aborted(&world, worker));
    world.advance(8 * SECOND);
    assert!(aborted(&world, worker), "the report is given up");
    world.advance(70 * SECOND);
    assert!(happened(&world, &Action::QueryCoreDump(worker)));
    assert!(happened(&world, &Action::Signal(worker, ChildSignal::Kill)));
    assert_no_breach(&world);
}

#[test]
fn a_suspect_ends_with_everybody_else() {
    let mut world = serving(2);
    let spinner = worker(&world, 0);
    suspect(&mut world, spinner, Verdict::Spin);
    world.boot_all();
    world.terminate();
    assert!(happened(&world, &Action::SendRetire(spinner)) && world.exit.is_some_and(|(code, _)| code == 0));
    assert_no_breach(&world);
}

#[test]
fn a_worker_that_dies_unasked_is_reported_from_its_row_before_that_is_freed() {
    let mut world = serving(1);
    let worker = worker(&world, 0);
    world.exit(worker, false);
    let read = world
        .log
        .iter()
        .position(|action| matches!(action, Action::ReportDeath(child, _) if *child == worker));
    let freed = world.log.iter().position(|action| matches!(action, Action::FreeRow(_)));
    assert!(read.is_some() && read < freed, "{:?}", world.log);
}

fn roll_to(world: &mut World, plan: super::Plan, but: ChildId) {
    world.event(Event::Order(Order::Reload));
    assert!(world.accept(plan, Migration::None));
    for _ in 0..20 {
        world.boot_all();
        let told =
            |(id, process): (&ChildId, &super::world::Process)| (*id != but && process.told()).then_some(*id);
        for child in world.processes.iter().filter_map(told).collect::<Vec<_>>() {
            world.exit(child, true);
        }
        world.advance(SECOND);
    }
    assert_eq!(world.supervisor.summary().state, "serving");
}

#[test]
fn a_watchdog_that_is_told_to_kill_no_more_lets_its_suspects_go() {
    for watchdog in [Watchdog::Off, Watchdog::Observe] {
        let mut world = serving(2);
        let spinner = worker(&world, 0);
        suspect(&mut world, spinner, Verdict::Spin);
        world.boot_all();
        roll_to(&mut world, super::Plan { watchdog, ..plan(2) }, spinner);
        assert!(happened(&world, &Action::SendDrain(spinner)), "{watchdog:?}");
        fire(&mut world, spinner, Verdict::Spin);
        world.advance(60 * SECOND);
        assert!(!aborted(&world, spinner) && !world.processes.contains_key(&spinner), "{watchdog:?}");
        assert_no_breach(&world);
    }
}

#[test]
fn a_quick_end_while_a_worker_is_aborted_counts_its_kill_once() {
    let mut world = serving(2);
    let spinner = worker(&world, 0);
    suspect(&mut world, spinner, Verdict::Spin);
    world.boot_all();
    fire(&mut world, spinner, Verdict::Spin);
    world.reports_hang = true;
    assert!(aborted(&world, spinner));
    world.event(Event::Order(Order::Quick));
    world.advance(5 * SECOND);
    assert_eq!(count(&world, |action| matches!(action, Action::CountKill(Kill::Watchdog(_)))), 1);
    assert!(happened(&world, &Action::Signal(spinner, ChildSignal::Kill)));
    assert!(!happened(&world, &Action::Signal(spinner, ChildSignal::Int)));
}

#[test]
fn a_graceful_end_does_not_wait_for_a_loop_that_does_not_turn() {
    let mut world = serving(1);
    let stuck = worker(&world, 0);
    fire(&mut world, stuck, Verdict::StallCpu);
    let since = world.now;
    world.event(Event::Order(Order::Drain));
    world.advance(3 * SECOND);
    assert!(happened(&world, &Action::Signal(stuck, ChildSignal::Kill)));
    let others: Vec<ChildId> = world.processes.keys().copied().collect();
    others.into_iter().for_each(|child| world.exit(child, true));
    assert!(world.exit.is_some_and(|(code, at)| code == 0 && at <= since + 3 * SECOND));
}

#[test]
fn a_stall_that_shows_while_everything_ends_is_reported_and_not_waited_for() {
    let mut world = serving(1);
    let stuck = worker(&world, 0);
    suspect(&mut world, stuck, Verdict::StallBlocked);
    let since = world.now;
    world.event(Event::Order(Order::Drain));
    world.advance(2 * SECOND);
    fire(&mut world, stuck, Verdict::StallBlocked);
    assert!(happened(
        &world,
        &Action::Report { child: stuck, verdict: Verdict::StallBlocked, enforced: true }
    ));
    let standby = world.processes.keys().copied().find(|child| *child != stuck);
    standby.into_iter().for_each(|child| world.exit(child, true));
    world.advance(6 * SECOND);
    assert!(world.exit.is_some_and(|(_, at)| at <= since + 8 * SECOND), "{:?}", world.exit);
}

#[test]
fn after_a_false_alarm_only_a_verdict_starts_a_standby_for_a_while() {
    let mut world = serving(2);
    let first = worker(&world, 0);
    suspect(&mut world, first, Verdict::Spin);
    world.boot_all();
    world.claim(first, None);
    world.exit(first, true);
    let second = worker(&world, 0);
    suspect(&mut world, second, Verdict::Spin);
    assert_eq!((spawns(&world), world.chosen()), (1, Some(vec![1])), "steered around all the same");
    fire(&mut world, second, Verdict::Spin);
    assert_eq!(spawns(&world), 2);
    world.boot_all();
    assert!(aborted(&world, second));
    assert_no_breach(&world);
}

#[test]
fn a_spin_that_nobody_can_replace_is_reported_all_the_same() {
    let mut world = serving(1);
    let spinner = worker(&world, 0);
    fire(&mut world, spinner, Verdict::Spin);
    world.advance(100 * SECOND);
    let reports = |action: &Action| matches!(action, Action::Report { enforced: false, .. });
    assert_eq!((count(&world, reports), aborted(&world, spinner)), (1, false));
}

#[test]
fn a_worker_whose_slot_stays_after_all_is_not_killed_before_its_standby_serves() {
    let mut world = serving(2);
    let stuck = worker(&world, 1);
    world.reports_hang = true;
    world.event(Event::Order(Order::FewerWorkers));
    fire(&mut world, stuck, Verdict::StallBlocked);
    assert!(!aborted(&world, stuck), "its report is being written");
    world.event(Event::Order(Order::MoreWorkers));
    world.advance(8 * SECOND);
    assert!(!aborted(&world, stuck), "nobody serves its slot yet");
    world.reports_hang = false;
    world.boot_all();
    world.advance(KILL_INTERVAL);
    assert!(aborted(&world, stuck));
    assert_no_breach(&world);
}
