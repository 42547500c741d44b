//! The scene that forkgate was made for: all workers spin at once. They are replaced, each after its standby is ready, and
//! at no moment are there fewer ready workers than before; the clients beside it are served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forkgate_tests::crash_report;
use forkgate_tests::fault::{self, Held};
use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, process, wait};

pub const TESTS: &[Test] = &[Test {
    name: "watchdog_replaces_16_of_16_spinning_workers",
    limit: Duration::from_secs(150),
    run: all_spin,
}];

const WORKERS: usize = 16;
/// From the first order to the last replacement, with the default limits.
const BOUND: Duration = Duration::from_secs(60);
/// Connections among which each worker has one, all but certainly: a worker gets none of them once in 10^11 tries.
const CONNECTIONS: usize = 400;

fn all_spin() -> Verdict {
    let gateway = Setup::with_faults().workers(WORKERS).start();
    let first: Vec<u32> = gateway.status().workers.iter().map(|worker| worker.pid).collect();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let held = Held::watch(&first, gateway.address.port());
    let mut connections = one_to_each(&gateway, &first);
    let ordered = Instant::now();
    // All orders are sent before the first answer is read: nobody spins much earlier than the others.
    for connection in &mut connections {
        connection.send(&fault::order("spin", "seconds=600")).expect("sent");
    }
    for connection in &mut connections {
        let head = connection.head().expect("an answer");
        assert_eq!(head.status, 202);
    }
    let mut fewest = u64::MAX;
    wait::until_true("all workers to be replaced", BOUND, || {
        let status = gateway.status();
        fewest = fewest.min(status.ready);
        status.is_settled() && status.workers.iter().all(|worker| !first.contains(&worker.pid))
    });
    let took = ordered.elapsed();
    let status = gateway.status();
    assert!(fewest >= WORKERS as u64, "for a while only {fewest} workers were ready");
    assert_eq!((status.kills["spin"], status.crashes), (WORKERS as u64, 0), "{status:?}");
    let reports = crash_report::all(&gateway);
    let (mut named, mut by_task) = (0, 0);
    for pid in first {
        let file = reports.iter().find(|file| file.report.pid == pid).expect("a report on each");
        let Some(culprit) = file.report.culprits.first() else { continue };
        if culprit.function.contains("faults::spin::self_waking") {
            named += 1;
        } else if culprit.task.as_deref().is_some_and(|task| task.starts_with("spin (")) {
            by_task += 1;
        }
    }
    // Where sixteen others burn, the time of a report may not suffice to find the names of functions in all.
    assert!(named >= WORKERS / 2, "only {named} reports name the function, {by_task} its task");
    assert!(named + by_task >= WORKERS * 3 / 4, "{named} reports name the function, {by_task} its task");
    let slowest = reports.iter().map(|file| file.report.took_ms).max().unwrap_or(0);
    note!(
        "all {WORKERS} replaced after {:.1} s; {named} reports name the function, {by_task} its task; the slowest took \
         {slowest} ms",
        took.as_secs_f64()
    );
    load.wait_for(6);
    let report = load.stop();
    note!("{report}");
    held.assert_explains(&report.errors);
    gateway.stop();
    Ok(())
}

/// A connection that is accepted by each of these workers.
fn one_to_each(gateway: &Gateway, workers: &[u32]) -> Vec<Connection> {
    let open = || Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let mut waiting: HashMap<SocketAddr, Connection> =
        (0..CONNECTIONS).map(|_| open()).map(|connection| (connection.local, connection)).collect();
    let port = gateway.address.port();
    let accepted = |pid: u32| process::accepted_clients(pid, port);
    wait::until_true("all connections to be accepted", EXCHANGE_LIMIT, || {
        workers.iter().map(|&pid| accepted(pid).len()).sum::<usize>() >= CONNECTIONS
    });
    workers
        .iter()
        .map(|&pid| {
            let mine = accepted(pid).into_iter().find_map(|client| waiting.remove(&client));
            mine.unwrap_or_else(|| panic!("none of {CONNECTIONS} connections went to worker {pid}"))
        })
        .collect()
}
