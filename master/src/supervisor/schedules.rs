//! The invariants as properties over random schedules: processes that do not start, hang or die at any time, orders in
//! any state. A failure prints the shortest schedule that breaks the invariant.

use proptest::prelude::*;

use super::world::{World, plan};
use super::{Claim, Confirmation, Event, MILLISECOND, Order, RecycleReason, Stage, Verdict};

/// Schedules per invariant.
const SCHEDULES: u32 = 400;
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
    ExitClean(usize),
    LeaveListener(usize),
    DrainedLeave,
    Queue(u32),
    Order(Order),
    Accept(u32, bool),
    Refuse,
    SpawnFails,
    ListenerFails,
    Claim(usize, Option<Claim>),
    Outside(Confirmation),
    ReportsHang(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(RecycleReason::MaxRequests),
        Just(RecycleReason::Memory),
        Just(RecycleReason::Operator)
    ];
    let order = prop_oneof![
        3 => Just(Order::Reload),
        4 => Just(Order::MoreWorkers),
        5 => Just(Order::FewerWorkers),
    ];
    prop_oneof![
        8 => (1u64..4000).prop_map(Step::Advance),
        2 => (4000u64..70_000).prop_map(Step::Advance),
        6 => any::<usize>().prop_map(Step::Boot),
        6 => Just(Step::BootAll),
        2 => any::<usize>().prop_map(Step::Hello),
        6 => (any::<usize>(), reason).prop_map(|(pick, reason)| Step::Want(pick, reason)),
        3 => any::<usize>().prop_map(Step::Die),
        2 => any::<usize>().prop_map(Step::ExitClean),
        2 => any::<usize>().prop_map(Step::LeaveListener),
        3 => Just(Step::DrainedLeave),
        2 => prop_oneof![Just(0u32), 1u32..9].prop_map(Step::Queue),
        6 => order.prop_map(Step::Order),
        3 => (1u32..7, prop::bool::weighted(0.2)).prop_map(|(workers, migrate)| Step::Accept(workers, migrate)),
        1 => Just(Step::Refuse),
        5 => (any::<usize>(), claim()).prop_map(|(pick, claim)| Step::Claim(pick, claim)),
        1 => confirmation().prop_map(Step::Outside),
        1 => any::<bool>().prop_map(Step::ReportsHang),
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

fn confirmation() -> impl Strategy<Value = Confirmation> {
    prop_oneof![3 => Just(Confirmation::Yes), 1 => Just(Confirmation::No), 1 => Just(Confirmation::Stopped)]
}

/// Where the end comes by another order than TERM at the end of the schedule.
fn end() -> impl Strategy<Value = Option<(usize, Order)>> {
    let order = prop_oneof![Just(Order::Drain), Just(Order::Quick)];
    prop_oneof![3 => Just(None), 1 => (0..STEPS, order).prop_map(Some)]
}

#[derive(Clone, Debug)]
struct Schedule {
    workers: u32,
    seed: u64,
    /// Begin when all are ready, not at the very start.
    serving: bool,
    steps: Vec<Step>,
    end: Option<(usize, Order)>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let steps = prop::collection::vec(step(), 1..STEPS);
    (1u32..5, any::<u64>(), prop::bool::weighted(0.9), steps, end())
        .prop_map(|(workers, seed, serving, steps, end)| Schedule { workers, seed, serving, steps, end })
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Advance(ms) => world.advance(ms * MILLISECOND),
        Step::BootAll => world.boot_all(),
        Step::DrainedLeave => world.drained_leave(),
        Step::Queue(length) => world.queue = length,
        Step::Order(order) => world.event(Event::Order(order)),
        Step::SpawnFails => world.next_spawn_fails = true,
        Step::ListenerFails => world.next_listener_fails = true,
        Step::Outside(confirmation) => world.confirmation = confirmation,
        Step::ReportsHang(hang) => world.reports_hang = hang,
        Step::Accept(workers, migrate) => {
            if std::mem::take(&mut world.loading) {
                world.event(Event::SettingsAccepted { plan: plan(workers), migrate });
            }
        }
        Step::Refuse => {
            if std::mem::take(&mut world.loading) {
                world.event(Event::SettingsRefused);
            }
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
        | Step::ExitClean(pick)
        | Step::LeaveListener(pick) => {
            let Some(child) = world.child(pick) else { return };
            match step {
                Step::Boot(_) => world.boot(child),
                Step::Hello(_) => world.event(Event::Hello(child)),
                Step::Want(_, reason) => world.event(Event::WantRecycle(child, reason)),
                Step::Die(_) => world.exit(child, false),
                Step::ExitClean(_) => world.exit(child, true),
                _ => world.leave_listener(child),
            }
        }
    }
}

fn breaches(schedule: Schedule, invariant: &str) -> Vec<String> {
    let mut world = World::new(schedule.workers, schedule.seed);
    world.event(Event::Start);
    if schedule.serving {
        world.boot_all();
    }
    for (at, step) in schedule.steps.into_iter().enumerate() {
        if let Some((end, order)) = schedule.end
            && at == end
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
    world.breaches.into_iter().filter(|(broken, _)| *broken == invariant).map(|(_, what)| what).collect()
}

macro_rules! properties {
    ($($name:ident: $invariant:literal;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: SCHEDULES, failure_persistence: None, ..Default::default() })]
            $(
                #[test]
                fn $name(schedule in schedule()) {
                    prop_assert_eq!(breaches(schedule, $invariant), Vec::<String>::new());
                }
            )*
        }
    };
}

properties! {
    i1_a_socket_is_open_until_its_slot_has_retired_and_no_client_is_sent_to_a_closing_one: "I1";
    i2_a_voluntary_step_never_takes_the_last_worker_of_a_slot: "I2";
    i3_one_voluntary_replacement_starts_at_a_time: "I3";
    i4_every_child_is_reaped_once_and_its_row_given_on_after_that: "I4";
    i5_our_own_steps_keep_the_quorum: "I5";
    i6_a_kill_comes_once_and_not_before_its_timeout: "I6";
    i7_term_ends_everything_in_time_from_any_state: "I7";
}
