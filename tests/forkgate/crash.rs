//! `kill -9` of workers: only requests on connections that the killed worker had accepted may fail.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Lost, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, wait};
use rand::RngExt;

const LIMIT: Duration = Duration::from_secs(120);

pub const TESTS: &[Test] = &[
    Test { name: "kill_9_of_the_only_worker_loses_only_its_own", limit: LIMIT, run: || kills(1) },
    Test { name: "kill_9_of_workers_loses_only_their_own", limit: LIMIT, run: || kills(2) },
    Test { name: "kill_9_of_four_workers_loses_only_their_own", limit: LIMIT, run: || kills(4) },
];

/// How long after a kill a client may notice it: it may be busy.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

struct Kill {
    accepted: HashSet<SocketAddr>,
    at: Instant,
}

fn kills(workers: usize) -> Verdict {
    // So many kills in a row are no crash loop here.
    let gateway = Setup::new().workers(workers).set("GATEWAY_CRASH_BUDGET", "1000").start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    // A slot whose worker dies again and again is started ever later, so one slot gets fewer.
    let count = if paths::soaking() {
        100
    } else if workers == 1 {
        4
    } else {
        8
    };
    let mut done = Vec::new();
    for _ in 0..count {
        done.push(kill_one(&gateway));
        wait::until_true("a replacement", START_LIMIT, || {
            let status = gateway.status();
            status.ready == status.target && status.crashes >= done.len() as u64
        });
        load.wait_for(100);
    }
    let report = load.stop();
    let held: usize = done.iter().map(|kill| kill.accepted.len()).sum();
    note!("{workers} workers, {count} killed, which held {held} connections: {report}");
    let unexplained: Vec<&Lost> = report.errors.iter().filter(|lost| !is_explained(lost, &done)).collect();
    assert!(unexplained.is_empty(), "lost without cause: {unexplained:#?}");
    assert!(report.lost <= held as u64, "{} lost, but only {held} connections were held", report.lost);
    assert_eq!(report.errors.len() as u64, report.lost, "every loss was examined");
    assert_eq!(gateway.status().crashes, count as u64);
    gateway.stop();
    Ok(())
}

/// Stops the worker first, so that what it has accepted can be read and does not change until it dies.
fn kill_one(gateway: &Gateway) -> Kill {
    let status = gateway.status();
    let serving: Vec<u32> = status.serving().map(|worker| worker.pid).collect();
    let victim = serving[rand::rng().random_range(0..serving.len())];
    process::signal(victim, Signal::SIGSTOP);
    wait::until_true("the worker to stand still", START_LIMIT, || process::is_stopped(victim));
    let accepted = process::accepted_clients(victim, gateway.address.port());
    let at = Instant::now();
    process::signal(victim, Signal::SIGKILL);
    Kill { accepted, at }
}

fn is_explained(lost: &Lost, kills: &[Kill]) -> bool {
    let Some(client) = lost.client else { return false };
    kills.iter().any(|kill| {
        kill.accepted.contains(&client)
            && lost.at >= kill.at
            && lost.at.duration_since(kill.at) < NOTICED_WITHIN
    })
}
