//! A random schedule against the real thing: signals, `ctl`, kills, processes that stand still, faults and changed settings,
//! under light load, from a seed. The invariants are looked at all the time, every lost request must have been on a
//! connection of a process that was killed or harmed, and at the end nothing has grown.
//!
//! A minute, and an hour in the longer form. `FORKGATE_SEED=N` does the same steps again; how they fall in time is up to the
//! machine.

mod run;

use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::load::{Load, Lost, Plan};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::steps::Steps;
use forkgate_tests::{note, paths, wait};

use self::run::Run;

pub const TESTS: &[Test] = &[Test {
    name: "random_schedule_keeps_the_invariants",
    limit: Duration::from_secs(360),
    run: random_schedule,
}];

pub const WORKERS: usize = 3;
pub const GRACEFUL: Duration = Duration::from_secs(8);
/// How long things may take to come to rest: slots that go, one at a time.
pub const REST_LIMIT: Duration = Duration::from_secs(90);
/// How much private memory may differ in the end: the ring of events, which is empty at the start and full after a minute
/// of this, and pages that an allocator happens to keep.
const MEMORY_SLACK: u64 = 3 << 20;

fn span() -> Duration {
    Duration::from_secs(if paths::soaking() { 3600 } else { 60 })
}

fn seed() -> u64 {
    match std::env::var("FORKGATE_SEED") {
        Ok(seed) => seed.parse().expect("FORKGATE_SEED is a number"),
        Err(_) => u64::from(rand::random::<u32>()),
    }
}

fn random_schedule() -> Verdict {
    let seed = seed();
    note!("FORKGATE_SEED={seed}");
    let setup = Setup::with_faults()
        .workers(WORKERS)
        .set("GATEWAY_GRACEFUL_TIMEOUT", GRACEFUL.as_secs().to_string())
        .set("GATEWAY_TOOL_TIMEOUT", "60")
        // It kills more than a gateway should bear.
        .set("GATEWAY_CRASH_BUDGET", "1000")
        .set("GATEWAY_KEEPALIVE_GRACE", "1")
        .set("GATEWAY_MAX_REQUESTS", "60")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "30")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.3")
        .set("GATEWAY_STALL_TIMEOUT", "3")
        .set("GATEWAY_SPIN_WINDOW", "4")
        .set("GATEWAY_KILL_INTERVAL", "1")
        .set("GATEWAY_MAX_RSS", "200M")
        .set("GATEWAY_MEMORY_SAMPLE_INTERVAL", "0.5");
    let gateway = setup.start();
    let _upstream = gateway.with_fast_upstream();
    let plan = Plan::mixed(gateway.address, gateway.federated(), "fast__echo");
    let plan = Plan { fresh: 2, keep_alive: 3, streams: 3, pause: Duration::from_millis(120), ..plan };
    let load = Load::start(plan);
    // Allocators and caches have their working size after the first reload.
    gateway.reload();
    let before = Traces::of(&gateway);
    let status = gateway.wait_settled();
    let mut run = Run::of(gateway, status);
    let mut done = 0;
    let started = Instant::now();
    for (pause, step) in Steps::of(seed).take_while(|_| started.elapsed() < span()) {
        run.pass(pause);
        let outcome = run.perform(&step);
        println!("{:8.2} s  {step}{outcome}", started.elapsed().as_secs_f64());
        done += 1;
    }
    run.come_to_rest();
    let report = load.stop();
    let unexplained: Vec<&Lost> = report.errors.iter().filter(|lost| !run.witness.explains(lost)).collect();
    let status = run.gateway.wait_settled();
    note!(
        "{done} steps, {} looks; {} killed, {} by the master; {report}; {} connections were in trouble",
        run.invariants.looks,
        status.crashes,
        status.kills.values().sum::<u64>(),
        run.witness.seen(),
    );
    assert!(unexplained.is_empty(), "lost without cause, FORKGATE_SEED={seed}: {unexplained:#?}");
    before.assert_kept(&Traces::of(&run.gateway));
    run.end(seed);
    Ok(())
}

/// What a master that is at rest has.
#[derive(Debug)]
struct Traces {
    descriptors: usize,
    memory_files: usize,
    threads: usize,
    private: u64,
}

impl Traces {
    fn of(gateway: &Gateway) -> Traces {
        gateway.wait_settled();
        let pid = gateway.pid();
        wait::until_true("nobody but the workers", REST_LIMIT, || {
            process::children(pid).len() == WORKERS && process::zombies(pid).is_empty()
        });
        // The connection of the last `ctl status` may not be closed yet: the least of some looks is what stays.
        let mut looks = Vec::new();
        wait::until_true("some looks", EXCHANGE_LIMIT, || {
            looks.push(process::descriptors(pid));
            looks.len() == 30
        });
        Traces {
            descriptors: looks.into_iter().min().expect("some looks"),
            memory_files: process::memory_files(pid),
            threads: process::threads(pid),
            private: process::private_bytes(pid),
        }
    }

    #[track_caller]
    fn assert_kept(&self, now: &Traces) {
        note!("before {self:?}, after {now:?}");
        assert_eq!(now.descriptors, self.descriptors);
        assert_eq!(now.memory_files, self.memory_files);
        assert_eq!(now.threads, self.threads);
        assert!(now.private <= self.private + MEMORY_SLACK, "{} bytes more", now.private - self.private);
    }
}
