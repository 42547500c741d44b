//! One of four event loops stalls. Only requests that were on their way to it then are slow; as soon as a standby serves
//! its slot nobody is, and nothing is lost.

use std::time::{Duration, Instant};

use forkgate_tests::fault;
use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::load::{Load, Plan, SLOW, Slow};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::witness::Witness;
use forkgate_tests::{note, wait};

pub const TESTS: &[Test] = &[Test {
    name: "stalled_slot_slows_only_what_was_in_flight_there",
    limit: Duration::from_secs(90),
    run: stalled,
}];

/// Shorter than GATEWAY_STALL_TIMEOUT: the worker comes back, so that nothing may be lost.
const STALL_SECONDS: u64 = 6;
/// How long the standby may take for the clients that waited in the slot's queue.
const CAUGHT_UP: Duration = Duration::from_secs(2);

fn stalled() -> Verdict {
    let gateway = Setup::with_faults().workers(4).start();
    let _upstream = gateway.with_fast_upstream();
    let plan = Plan::mixed(gateway.address, gateway.federated(), "fast__echo");
    let plan = Plan { fresh: 12, keep_alive: 8, streams: 4, pause: Duration::from_millis(50), ..plan };
    let clients = plan.fresh + plan.keep_alive;
    let load = Load::start(plan);
    load.wait_for(200);
    let witness = Witness::of(gateway.address.port());
    let before = gateway.status();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let pid = fault::plant(&mut connection, "stall", &format!("seconds={STALL_SECONDS}"));
    let began = Instant::now();
    witness.watch(pid);
    let slot = before.workers.iter().find(|worker| worker.pid == pid).expect("it is a worker").slot;
    wait::until_true("a standby to serve the slot", START_LIMIT, || {
        gateway.status().serving().any(|worker| worker.slot == slot && worker.pid != pid)
    });
    let relieved = Instant::now();
    assert!(relieved - began < Duration::from_secs(STALL_SECONDS), "relieved before the stall was over");
    let status = wait::until("the stalled worker to be replaced", START_LIMIT, || {
        Some(gateway.status()).filter(|now| now.recycles.suspect == 1 && now.is_settled())
    });
    load.wait_for(300);
    let report = load.stop();
    let (accepted, queued): (Vec<Slow>, Vec<Slow>) =
        report.slow.iter().partition(|slow| witness.saw(slow.client));
    note!(
        "relieved after {:.2} s; slower than {SLOW:?}: {} of {} answers, {} on connections of the stalled worker, {} in the \
         slot's queue; {report}",
        (relieved - began).as_secs_f64(),
        report.slow.len(),
        report.fresh + report.keep_alive,
        accepted.len(),
        queued.len()
    );
    report.assert_nothing_lost();
    let late: Vec<&Slow> = report.slow.iter().filter(|slow| slow.began >= relieved).collect();
    assert!(late.is_empty(), "slow although the standby served: {late:#?}");
    let forgotten: Vec<&Slow> =
        queued.iter().filter(|slow| slow.began + slow.took > relieved + CAUGHT_UP).collect();
    assert!(forgotten.is_empty(), "the standby let them wait: {forgotten:#?}");
    assert!(report.slow.len() <= clients, "{} slow answers of {clients} clients", report.slow.len());
    assert_eq!((status.crashes, status.kills.values().sum::<u64>()), (0, 0), "{status:?}");
    gateway.drain();
    Ok(())
}
