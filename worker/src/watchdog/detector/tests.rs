//! Every rule with loads that must fire and honest ones that must not; random schedules.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const TICK_MS: u64 = TICK.as_millis() as u64;
const STALL_S: u64 = 10;
const WINDOW_S: u64 = 15;

/// What a loop does in one tick.
#[derive(Clone, Copy, Debug)]
struct Load {
    busy_ms: u64,
    cpu_ms: u64,
    delay_ms: u64,
    units: u64,
    turns: u64,
    polls: u64,
    state: char,
    throttled_ms: u64,
    /// The heartbeat task had its turn.
    beats: bool,
}

/// Sleeps, and wakes for its timers.
const IDLE: Load = Load {
    busy_ms: 0,
    cpu_ms: 0,
    delay_ms: 0,
    units: 0,
    turns: 16,
    polls: 3,
    state: 'S',
    throttled_ms: 0,
    beats: true,
};
/// In the middle of a poll that waits for something.
const BLOCKED: Load = Load { turns: 0, polls: 0, beats: false, ..IDLE };
/// In the middle of a poll that computes.
const RUNAWAY: Load = Load { cpu_ms: TICK_MS, state: 'R', ..BLOCKED };
/// In the middle of a poll that waits for a disk.
const ON_DISK: Load = Load { state: 'D', ..BLOCKED };
/// A task that wakes itself.
const SPIN: Load = Load { busy_ms: TICK_MS, cpu_ms: TICK_MS, polls: 300_000, turns: 0, state: 'R', ..IDLE };
/// The same by `yield_now`: tokio counts about half of it as busy.
const YIELD_SPIN: Load = Load { busy_ms: TICK_MS / 2, ..SPIN };
/// One of 16 on two cores.
const CROWDED_SPIN: Load = Load { cpu_ms: TICK_MS / 8, delay_ms: TICK_MS - TICK_MS / 8, ..SPIN };
/// As many requests as a worker can take.
const FULL: Load = Load { units: 1000, polls: 5000, turns: 400, ..SPIN };

/// A loop and its detector.
struct Sim {
    detector: Detector,
    sample: Sample,
    /// What was said last.
    last: Judgement,
}

impl Sim {
    fn new() -> Sim {
        let limits = Limits {
            stall_timeout: Duration::from_secs(STALL_S),
            spin_window: Duration::from_secs(WINDOW_S),
        };
        let sample = Sample { now_ns: 1_000_000 * MS, beat_ns: 1_000_000 * MS, ..Sample::default() };
        let mut sim = Sim { detector: Detector::new(limits), sample, last: Judgement::default() };
        sim.run(&[IDLE], 8);
        sim
    }

    fn tick(&mut self, load: &Load) -> Judgement {
        self.tick_after(load, TICK_MS)
    }

    fn tick_after(&mut self, load: &Load, ms: u64) -> Judgement {
        let sample = &mut self.sample;
        // A loop that sleeps at the end of a tick has slept once more than it woke.
        let turns = sample.turns / 2 * 2 + load.turns;
        sample.turns = if load.busy_ms == 0 && load.turns > 0 { turns | 1 } else { turns };
        sample.poll_since_ns = if load.polls == 0 { sample.poll_since_ns.max(1) } else { 0 };
        sample.now_ns += ms * MS;
        sample.busy_ns += load.busy_ms * MS;
        sample.cpu_ns += load.cpu_ms * MS;
        sample.delay_ns += load.delay_ms * MS;
        sample.units += load.units;
        sample.polls += load.polls;
        sample.throttled_ns += load.throttled_ms * MS;
        sample.state = load.state;
        if load.beats {
            sample.beat_ns = sample.now_ns - 50 * MS;
        }
        self.last = self.detector.tick(sample);
        self.last
    }

    /// Ticks through the loads again and again, so many times; the first claim of each stage with its tick, from 1.
    fn run(&mut self, loads: &[Load], ticks: usize) -> [Option<(Verdict, usize)>; 2] {
        let mut first = [None, None];
        for (index, load) in loads.iter().cycle().take(ticks).enumerate() {
            if let Some(standing) = self.tick(load).standing {
                let stage = usize::from(standing.claim.stage == Stage::Fired);
                first[stage].get_or_insert((standing.claim.verdict, index + 1));
            }
        }
        first
    }
}

fn seconds(s: usize) -> usize {
    s * 1000 / TICK_MS as usize
}

#[test]
fn stalls_are_suspect_after_a_second_and_fire_at_their_limit_with_their_kind() {
    for (load, kind) in [
        (BLOCKED, Verdict::StallBlocked),
        (RUNAWAY, Verdict::StallCpu),
        (ON_DISK, Verdict::StallUninterruptible),
    ] {
        let [suspect, fired] = Sim::new().run(&[load], seconds(12));
        assert!(suspect.is_some_and(|(_, tick)| (3..=5).contains(&tick)), "{load:?}: {suspect:?}");
        let (verdict, tick) = fired.expect("fires");
        assert_eq!(verdict, kind);
        assert!((seconds(STALL_S as usize) - 1..=seconds(STALL_S as usize) + 1).contains(&tick), "{tick}");
    }
}

#[test]
fn a_stall_begins_where_the_tasks_say_and_is_over_when_the_loop_turns() {
    let mut sim = Sim::new();
    let began = sim.sample.now_ns - 100 * MS;
    sim.sample.poll_since_ns = began;
    // The poll began within the tick before: its start was counted, then nothing moved.
    sim.sample.turns &= !1;
    sim.detector.tick(&sim.sample);
    sim.run(&[BLOCKED], seconds(2));
    let standing = sim.last.standing.expect("a claim");
    assert_eq!(standing.since_ns, began);
    assert_eq!(sim.last.busy_permille, 1000);
    sim.tick(&IDLE);
    assert_eq!(sim.last.standing, None);
}

#[test]
fn a_stall_may_change_its_kind_but_not_for_a_moment() {
    let mut sim = Sim::new();
    sim.run(&[RUNAWAY], seconds(3));
    let kind = |sim: &Sim| sim.last.standing.expect("a claim").claim.verdict;
    assert_eq!(kind(&sim), Verdict::StallCpu);
    sim.run(&[BLOCKED], 2);
    sim.run(&[RUNAWAY], seconds(1));
    assert_eq!(kind(&sim), Verdict::StallCpu);
    sim.run(&[BLOCKED], seconds(3));
    assert_eq!(kind(&sim), Verdict::StallBlocked);
}

#[test]
fn waiting_for_a_cpu_is_no_stall() {
    // A long poll on a machine whose CPUs others have: 4 s of work take 40.
    let starved = Load { cpu_ms: TICK_MS / 10, delay_ms: TICK_MS - TICK_MS / 10, ..RUNAWAY };
    let [_, fired] = Sim::new().run(&[starved], seconds(40));
    assert_eq!(fired, None);
    let [_, fired] = Sim::new().run(&[starved], seconds(110));
    assert_eq!(fired.map(|(verdict, _)| verdict), Some(Verdict::StallCpu), "it used its ten seconds");
}

#[test]
fn loops_that_spin_fire_after_their_window_with_traffic_and_without() {
    for spin in [SPIN, YIELD_SPIN, CROWDED_SPIN] {
        for units_in_four_ticks in [0, 1, 8, 15] {
            let mut loads = [spin; 4];
            loads[1].units = units_in_four_ticks;
            let [suspect, fired] = Sim::new().run(&loads, seconds(17));
            assert!(suspect.is_some_and(|(_, tick)| tick <= seconds(6)), "{loads:?}: {suspect:?}");
            let (verdict, tick) = fired.expect("fires");
            assert_eq!(verdict, Verdict::Spin);
            assert!((seconds(12)..=seconds(16)).contains(&tick), "{tick}");
        }
    }
}

#[test]
fn a_wait_that_the_kernel_counts_late_changes_nothing() {
    // Ready to run for a second, and nobody has counted it yet.
    let uncounted = Load { busy_ms: 0, cpu_ms: 0, delay_ms: 0, polls: 0, beats: false, ..SPIN };
    let counted = Load { busy_ms: 1250, cpu_ms: 20, delay_ms: 1230, ..SPIN };
    let mut loads = vec![uncounted; 4];
    loads.push(counted);
    let mut sim = Sim::new();
    sim.run(&[CROWDED_SPIN], seconds(8));
    for load in loads.iter().cycle().take(seconds(20)) {
        let claim = sim.tick(load).standing.expect("still a spin").claim;
        assert_eq!(claim.verdict, Verdict::Spin);
        assert_eq!(sim.last.slow_poll_ns, None, "waiting for a CPU is no slow poll");
    }
    assert_eq!(sim.last.standing.map(|standing| standing.claim.stage), Some(Stage::Fired));
}

#[test]
fn a_burst_of_work_that_counts_for_nothing_is_no_spin() {
    for (burst_s, rest_s) in [(3, 20), (4, 4)] {
        let mut loads = vec![SPIN; seconds(burst_s)];
        loads.extend(vec![IDLE; seconds(rest_s)]);
        let [_, fired] = Sim::new().run(&loads, seconds(120));
        assert_eq!(fired, None, "{burst_s} s, then {rest_s} s of rest");
    }
}

#[test]
fn bursts_that_are_a_spin_in_the_sum_only_are_suspect_for_long_before_they_fire() {
    let bursts: Vec<Load> = [vec![SPIN; 11], vec![IDLE; 9]].concat();
    let [suspect, fired] = Sim::new().run(&bursts, seconds(60));
    let (suspect, fired) = (suspect.expect("suspect").1, fired.expect("fires").1);
    assert!(suspect >= seconds(12) && fired >= suspect + seconds(9), "suspect {suspect}, fired {fired}");
}

#[test]
fn a_spin_that_ends_or_begins_to_work_is_taken_back() {
    for over in [IDLE, FULL] {
        let mut sim = Sim::new();
        sim.run(&[SPIN], seconds(8));
        let suspect = sim.last.standing.expect("a claim");
        assert_eq!(suspect.claim.stage, Stage::Suspect);
        sim.run(&[SPIN], seconds(8));
        let fired = sim.last.standing.expect("a claim");
        assert_eq!((fired.claim.stage, fired.since_ns), (Stage::Fired, suspect.since_ns));
        let stage = |sim: &Sim| sim.last.standing.map(|standing| standing.claim.stage);
        sim.run(&[over], seconds(4));
        assert_eq!(stage(&sim), Some(Stage::Suspect), "{over:?}: not yet believed");
        sim.run(&[over], seconds(2));
        assert_eq!(stage(&sim), None, "{over:?}");
    }
}

#[test]
fn honest_loads_are_left_alone() {
    let slow = |cpu_ms, delay_ms| Load { busy_ms: cpu_ms + delay_ms, cpu_ms, delay_ms, polls: 40, ..IDLE };
    // A payload of 100 MB: one poll of 0.9 s, 1 600 units when it is done.
    let payload_done = Load { busy_ms: 900, cpu_ms: 100, units: 1600, ..IDLE };
    let payload = [RUNAWAY, RUNAWAY, RUNAWAY, payload_done, IDLE];
    for (name, loads) in [
        ("idle", vec![IDLE]),
        ("full load", vec![FULL]),
        (
            "a unit a second that burns 0.4 s",
            vec![slow(200, 0), Load { units: 1, ..slow(200, 0) }, IDLE, IDLE],
        ),
        (
            "the same while others have half of the CPU",
            vec![slow(125, 125), slow(125, 125), slow(125, 125), Load { units: 1, ..slow(25, 25) }],
        ),
        ("the same where it never gets enough of the CPU, with a sleep here and there", vec![slow(75, 175)]),
        ("large payloads", payload.to_vec()),
        ("one of 16 on two cores, at work", vec![Load { cpu_ms: 30, delay_ms: 220, units: 100, ..FULL }]),
        ("a quota of 10 %", vec![Load { cpu_ms: 25, delay_ms: 225, throttled_ms: 225, units: 20, ..FULL }]),
        ("wakes from outside", vec![Load { busy_ms: 20, cpu_ms: 35, delay_ms: 25, turns: 8000, ..IDLE }]),
    ] {
        let found = Sim::new().run(&loads, seconds(60));
        assert_eq!(found, [None, None], "{name}");
    }
}

#[test]
fn a_quota_doubles_the_limits() {
    let throttled = Load { throttled_ms: 200, ..BLOCKED };
    let [suspect, fired] = Sim::new().run(&[throttled], seconds(25));
    assert!(suspect.is_some_and(|(_, tick)| tick > seconds(1) + 1), "{suspect:?}");
    assert!(fired.is_some_and(|(_, tick)| tick >= seconds(19)), "{fired:?}");
    let throttled = Load { cpu_ms: 25, delay_ms: 225, throttled_ms: 225, ..SPIN };
    let [suspect, fired] = Sim::new().run(&[throttled], seconds(35));
    assert!(suspect.is_some_and(|(_, tick)| tick >= seconds(8)), "{suspect:?}");
    assert!(fired.is_some_and(|(_, tick)| tick >= seconds(24)), "{fired:?}");
}

#[test]
fn a_late_look_and_a_debugger_start_everything_anew() {
    for (spoil, name) in [
        ((|sim| sim.sample.late_ns = 600 * MS) as fn(&mut Sim), "a look 600 ms late"),
        (|sim| sim.sample.state = 't', "a debugger"),
    ] {
        for load in [SPIN, BLOCKED] {
            let mut sim = Sim::new();
            sim.run(&[load], seconds(9));
            assert!(sim.last.standing.is_some());
            spoil(&mut sim);
            sim.sample.now_ns += 60_000 * MS;
            let judgement = sim.detector.tick(&sim.sample);
            assert!(judgement.reset && judgement.standing.is_none(), "{name}");
            sim.sample.late_ns = 0;
            let [_, fired] = sim.run(&[load], seconds(9));
            assert_eq!(fired, None, "{name}: {load:?}");
            let [_, fired] = sim.run(&[load], seconds(8));
            assert!(fired.is_some(), "{name}: {load:?}");
        }
    }
}

#[test]
fn a_stuck_loop_does_not_spin() {
    // Window after window of polls of 12 s: the busy time of each is published when it ends.
    let mut sim = Sim::new();
    sim.run(&[SPIN], seconds(16));
    assert_eq!(sim.last.standing.map(|s| s.claim.verdict), Some(Verdict::Spin));
    sim.run(&[RUNAWAY], seconds(3));
    assert_eq!(sim.last.standing.map(|s| s.claim.verdict), Some(Verdict::StallCpu));
}

#[test]
fn load_is_shed_while_the_timer_is_late_and_never_for_a_stall() {
    let mut sim = Sim::new();
    let behind = Load { beats: false, ..FULL };
    sim.run(&[behind], seconds(2));
    assert!(!sim.last.starved);
    sim.run(&[behind], seconds(1));
    assert!(sim.last.starved && sim.last.standing.is_none());
    sim.tick(&FULL);
    assert!(!sim.last.starved);
    let mut sim = Sim::new();
    for _ in 0..seconds(8) {
        assert!(!sim.tick(&BLOCKED).starved);
    }
    // The first look after a long poll may come before the timer's turn.
    assert!(!sim.tick(&behind).starved);
    assert!(!sim.tick(&FULL).starved);
}

#[test]
fn a_storm_is_many_wakes_without_work() {
    let storms = |load: &Load| {
        let mut sim = Sim::new();
        (0..seconds(8)).filter(|_| sim.tick(load).storm).count()
    };
    let storm = Load { turns: 12_000, cpu_ms: 60, busy_ms: 20, ..IDLE };
    assert!((7..=8).contains(&storms(&storm)), "once a second: {}", storms(&storm));
    assert_eq!(storms(&Load { units: 1, ..storm }), 0);
    assert_eq!(storms(&Load { turns: 8_000, ..storm }), 0);
    assert_eq!(storms(&IDLE), 0);
}

#[test]
fn memory_far_over_its_limit_fires_at_once_and_is_taken_back() {
    let mut sim = Sim::new();
    sim.sample.over_memory = true;
    let [_, fired] = sim.run(&[IDLE], seconds(2));
    assert_eq!(fired, Some((Verdict::Memory, 1)));
    let since_ns = sim.last.standing.expect("a claim").since_ns;
    assert_eq!(since_ns, sim.sample.now_ns - (seconds(2) as u64 - 1) * TICK_MS * MS);
    sim.sample.over_memory = false;
    sim.tick(&IDLE);
    assert_eq!(sim.last.standing, None);
}

#[test]
fn a_slow_poll_is_said_once() {
    let mut sim = Sim::new();
    let said: Vec<Option<u64>> = (0..6).map(|_| sim.tick(&BLOCKED).slow_poll_ns).collect();
    assert_eq!(said.iter().flatten().count(), 1, "{said:?}");
    sim.tick(&IDLE);
    assert_eq!((0..6).filter(|_| sim.tick(&BLOCKED).slow_poll_ns.is_some()).count(), 1);
}

#[test]
fn a_reading_a_second_tells_what_happened_in_it() {
    let mut sim = Sim::new();
    let readings: Vec<Reading> = (0..seconds(5)).filter_map(|_| sim.tick(&FULL).reading).collect();
    assert_eq!(readings.len(), 5);
    let last = readings[4];
    assert_eq!((last.span_ns, last.busy_ns, last.units), (1000 * MS, 1000 * MS, 4000));
    assert_eq!((last.cpu_ns, last.polls), (1000 * MS, 20_000));
    assert!(sim.sample.now_ns - last.at_ns < 1000 * MS);
}

/// A tick of a loop that gets its floor of work done, whatever else it does.
fn honest() -> impl Strategy<Value = Load> {
    (0..=TICK_MS, 0..=TICK_MS, 0..=TICK_MS, 0..400_u64, 0..=TICK_MS, any::<bool>()).prop_map(
        |(busy_ms, cpu_ms, delay_ms, more, throttled_ms, beats)| {
            let occupied_ms = busy_ms.max((cpu_ms + delay_ms).min(TICK_MS));
            let units = (occupied_ms * spin::FLOOR).div_ceil(1000) + more / 4;
            Load { busy_ms, cpu_ms, delay_ms, units, throttled_ms, beats, turns: 100, polls: 50, ..SPIN }
        },
    )
}

/// A tick of a loop that spins, on a CPU or in the queue for one.
fn spinning() -> impl Strategy<Value = Load> {
    (TICK_MS / 4..=TICK_MS, 0..=TICK_MS, 0..=3_u64).prop_map(|(busy_ms, cpu_ms, units)| Load {
        busy_ms,
        cpu_ms,
        delay_ms: TICK_MS - cpu_ms,
        units,
        ..SPIN
    })
}

proptest! {
    #[test]
    fn who_works_is_never_accused(loads in prop::collection::vec(honest(), 1..400), jitter in 0..100_u64) {
        let mut sim = Sim::new();
        for (index, load) in loads.iter().enumerate() {
            let early_or_late = if index % 2 == 0 { TICK_MS + jitter } else { TICK_MS - jitter };
            let judgement = sim.tick_after(load, early_or_late);
            prop_assert_eq!(judgement.standing, None, "at {}", index);
        }
    }

    #[test]
    fn who_spins_is_always_found(loads in prop::collection::vec(spinning(), 64..120), before in 0..200_usize) {
        let mut sim = Sim::new();
        sim.run(&[FULL, IDLE], before);
        // What was done before must first leave the window.
        let [_, fired] = sim.run(&loads, seconds(16));
        prop_assert!(fired.is_some_and(|(verdict, _)| verdict == Verdict::Spin), "{:?}", sim.last);
    }
}
