//! The invariants as properties over random schedules: processes that do not start, hang or die at any time, alone or in
//! storms, orders in any state. The world writes down every breach of every invariant in one pass.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::lifecycle::Seen;
use super::world::{World, plan};
use super::{
    Claim, Confirmation, End, Event, MILLISECOND, Migration, Order, Plan, RecycleReason, SECOND, SlotId,
    Stage, Verdict,
};

/// Schedules that are tried when nobody asks for more.
const SCHEDULES: u32 = 20_000;
/// Asks for more.
const VARIABLE: &str = "FORKGATE_SCHEDULES";
/// Longest schedule.
const STEPS: usize = 80;

#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Boot(usize),
    BootAll,
    Hello(usize),
    Want(usize, RecycleReason),
    Die(usize),
    Killed(usize),
    ExitClean(usize),
    LeaveListener(usize),
    DrainedLeave,
    Queue(u32),
    Order(Order),
    /// Workers, database, seconds to leave.
    Accept(u32, Migration, u64),
    Refuse,
    SpawnFails,
    ListenerFails,
    Claim(usize, Option<Claim>),
    Outside(Confirmation),
    ReportsHang(bool),
    KillsHang(bool),
    BootsFail(bool),
    DieAlike(usize),
    DieAll,
    StandStill(u64),
    Streams(Vec<u64>),
    SaveAndRestore,
    Checked(bool),
    ExecutionFails,
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(RecycleReason::MaxRequests),
        Just(RecycleReason::Memory),
        Just(RecycleReason::Operator)
    ];
    let order = prop_oneof![
        5 => Just(Order::Reload),
        1 => Just(Order::Check),
        4 => Just(Order::MoreWorkers),
        5 => Just(Order::FewerWorkers),
        3 => (0u32..5).prop_map(|slot| Order::Pause(SlotId(slot))),
        3 => (0u32..5).prop_map(|slot| Order::Resume(SlotId(slot))),
        2 => (0u32..5).prop_map(|slot| Order::Recycle(SlotId(slot))),
        2 => (0u32..5).prop_map(|slot| Order::Kill(SlotId(slot))),
        2 => (0u32..9).prop_map(Order::Scale),
        4 => (0u64..20).prop_map(|patience| Order::Upgrade { patience: patience * SECOND }),
    ];
    prop_oneof![
        8 => (1u64..4000).prop_map(Step::Advance),
        2 => (4000u64..70_000).prop_map(Step::Advance),
        6 => any::<usize>().prop_map(Step::Boot),
        6 => Just(Step::BootAll),
        2 => any::<usize>().prop_map(Step::Hello),
        6 => (any::<usize>(), reason).prop_map(|(pick, reason)| Step::Want(pick, reason)),
        3 => any::<usize>().prop_map(Step::Die),
        2 => any::<usize>().prop_map(Step::Killed),
        2 => any::<usize>().prop_map(Step::ExitClean),
        2 => any::<usize>().prop_map(Step::LeaveListener),
        3 => Just(Step::DrainedLeave),
        2 => prop_oneof![Just(0u32), 1u32..9].prop_map(Step::Queue),
        6 => order.prop_map(Step::Order),
        3 => (1u32..7, migration(), graceful())
            .prop_map(|(workers, migration, graceful)| Step::Accept(workers, migration, graceful)),
        1 => Just(Step::Refuse),
        5 => (any::<usize>(), claim()).prop_map(|(pick, claim)| Step::Claim(pick, claim)),
        1 => confirmation().prop_map(Step::Outside),
        1 => any::<bool>().prop_map(Step::ReportsHang),
        1 => any::<bool>().prop_map(Step::KillsHang),
        2 => any::<bool>().prop_map(Step::BootsFail),
        4 => any::<usize>().prop_map(Step::DieAlike),
        1 => Just(Step::DieAll),
        1 => (1000u64..70_000).prop_map(Step::StandStill),
        2 => prop::collection::vec(0u64..60, 0..6).prop_map(Step::Streams),
        3 => Just(Step::SaveAndRestore),
        4 => prop::bool::weighted(0.8).prop_map(Step::Checked),
        1 => Just(Step::ExecutionFails),
        1 => Just(Step::SpawnFails),
        1 => Just(Step::ListenerFails),
    ]
}

fn claim() -> impl Strategy<Value = Option<Claim>> {
    let claimed = (prop::sample::select(&Verdict::ALL[..]), any::<bool>()).prop_map(|(verdict, fired)| {
        let stage = if fired { Stage::Fired } else { Stage::Suspect };
        Claim { verdict, stage }
    });
    prop::option::weighted(0.8, claimed)
}

fn migration() -> impl Strategy<Value = Migration> {
    prop_oneof![
        6 => Just(Migration::None),
        1 => Just(Migration::OtherDatabase),
        1 => Just(Migration::OtherNames),
    ]
}

fn graceful() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), 1u64..20, Just(20), 20u64..60]
}

fn confirmation() -> impl Strategy<Value = Confirmation> {
    prop_oneof![3 => Just(Confirmation::Yes), 1 => Just(Confirmation::No), 1 => Just(Confirmation::Stopped)]
}

/// Where the end comes by another order than TERM at the end of the schedule, modulo its length.
fn end() -> impl Strategy<Value = Option<(usize, Order)>> {
    let order = prop_oneof![Just(Order::Drain), Just(Order::Quick)];
    prop_oneof![3 => Just(None), 1 => (0..STEPS, order).prop_map(Some)]
}

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    workers: u32,
    /// Slots of a master before.
    found: u32,
    seed: u64,
    /// Begin when all are ready, not at the very start.
    serving: bool,
    steps: Vec<Step>,
    end: Option<(usize, Order)>,
}

pub(super) fn schedule() -> impl Strategy<Value = Schedule> {
    let steps = prop::collection::vec(step(), 1..STEPS);
    let found = prop_oneof![3 => Just(0u32), 1 => 1u32..7];
    (1u32..5, found, any::<u64>(), prop::bool::weighted(0.9), steps, end()).prop_map(
        |(workers, found, seed, serving, steps, end)| Schedule { workers, found, seed, serving, steps, end },
    )
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Advance(ms) => world.advance(ms * MILLISECOND),
        Step::BootAll => world.boot_all(),
        Step::DrainedLeave => world.drained_leave(),
        Step::Queue(length) => world.queue = length,
        Step::Order(order) => world.event(Event::Order(order)),
        Step::Streams(counts) => {
            world.event(Event::Streams((0..).map(SlotId).zip(counts).collect()));
        }
        Step::SpawnFails => world.next_spawn_fails = true,
        Step::ListenerFails => world.next_listener_fails = true,
        Step::Outside(confirmation) => world.confirmation = confirmation,
        Step::ReportsHang(hang) => world.reports_hang = hang,
        Step::KillsHang(hang) => world.kills_hang = hang,
        Step::BootsFail(fail) => world.boots_fail = fail,
        Step::StandStill(ms) => world.stand_still(ms * MILLISECOND),
        Step::DieAll => {
            let all: Vec<_> = world.processes.keys().copied().collect();
            all.into_iter().for_each(|child| world.exit(child, false));
        }
        Step::SaveAndRestore => world.save_and_restore(),
        Step::Checked(passed) => world.checked(passed),
        Step::ExecutionFails => world.next_execution_fails = true,
        // Without a check that runs they mean nothing.
        Step::Accept(workers, migration, graceful) => {
            let graceful_timeout = graceful * SECOND;
            world.accept(Plan { graceful_timeout, ..plan(workers) }, migration);
        }
        Step::Refuse => {
            world.refuse();
        }
        Step::Claim(pick, claim) => {
            if let Some(child) = world.child(pick) {
                world.claim(child, claim);
            }
        }
        Step::Boot(pick)
        | Step::Hello(pick)
        | Step::Want(pick, _)
        | Step::Die(pick)
        | Step::DieAlike(pick)
        | Step::Killed(pick)
        | Step::ExitClean(pick)
        | Step::LeaveListener(pick) => {
            let Some(child) = world.child(pick) else { return };
            match step {
                Step::Boot(_) => world.boot(child),
                Step::Hello(_) => world.event(Event::Hello(child)),
                Step::Want(_, reason) => world.event(Event::WantRecycle(child, reason)),
                Step::Die(_) => world.exit(child, false),
                Step::DieAlike(_) => world.die(child, 1),
                Step::Killed(_) => world.end(child, End { by_others: true, ..End::UNBORN }),
                Step::ExitClean(_) => world.exit(child, true),
                _ => world.leave_listener(child),
            }
        }
    }
}

/// Runs a schedule to its end; `seen` takes note of what it shows.
pub(super) fn run(schedule: Schedule, seen: Option<Seen>) -> World {
    let found = (0..schedule.found).map(SlotId).collect();
    let mut world = World::finding(plan(schedule.workers), found, schedule.seed);
    world.keeps_log = false;
    world.seen = seen;
    world.event(Event::Start);
    if schedule.serving {
        world.boot_all();
    }
    let steps = schedule.steps.len();
    for (at, step) in schedule.steps.into_iter().enumerate() {
        if let Some((end, order)) = schedule.end
            && at == end % steps
        {
            world.event(Event::Order(order));
        }
        take(&mut world, step);
        if world.exit.is_some() {
            break;
        }
    }
    if world.exit.is_none() {
        world.terminate();
    }
    world
}

/// How many schedules are tried: [`SCHEDULES`], or what the environment says.
fn schedules() -> u32 {
    std::env::var(VARIABLE).map_or(SCHEDULES, |number| number.parse().expect("a number of schedules"))
}

/// Every invariant, over every schedule, on all cores. A failure shows the shortest schedule, and which invariants it breaks.
#[test]
fn every_invariant_holds_in_every_schedule() {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let cases = schedules().div_ceil(cores);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let check = |schedule| {
        prop_assert_eq!(run(schedule, None).breaches, []);
        Ok(())
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..cores)
            .map(|_| scope.spawn(|| TestRunner::new(config.clone()).run(&schedule(), check)))
            .collect();
        for run in runs {
            if let Err(failure) = run.join().expect("a schedule that breaks an invariant is no panic") {
                panic!("{failure}");
            }
        }
    });
}
