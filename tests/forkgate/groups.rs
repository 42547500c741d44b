//! Signals that reach everybody at once, as those of a terminal and of some supervisors do: the master and all its workers
//! get them. The end is the same as when only the master does, and no worker is started on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, STOP_LIMIT, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;
use serde_json::json;

pub const TESTS: &[Test] = &[
    Test { name: "term_to_the_group_answers_what_is_held", limit: Duration::from_secs(60), run: term },
    Test { name: "int_to_the_group_ends_all_at_once", limit: Duration::from_secs(60), run: int },
];

/// How long the held calls take.
const SLOW_MS: u64 = 2500;
const CALLS: u64 = 8;
/// A quick end gives the workers 2 s; the rest is for a busy machine. The calls that are held would take longer.
const QUICK: Duration = Duration::from_secs(8);
const VERY_SLOW_MS: u64 = 30_000;

/// In a process group of its own, whose number is the master's.
fn start() -> Gateway {
    Setup::new().workers(3).through(&["setsid"]).start()
}

fn hold(gateway: &Gateway, ms: u64) -> Vec<Connection> {
    let endpoint = gateway.federated();
    let call = |id| {
        let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
        connection.send(&endpoint.call(id, "fast__sleep", &json!({"ms": ms}))).expect("sent");
        connection
    };
    let held = (0..CALLS).map(call).collect();
    wait::until_equal("the calls to be in flight", EXCHANGE_LIMIT, CALLS, || {
        gateway.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    held
}

/// Waits for the end and looks whether anybody is started meanwhile.
fn ends(mut gateway: Gateway, before: &[u32], limit: Duration) {
    let master = gateway.pid();
    let mut others = BTreeSet::new();
    wait::until_true("the master to end", limit, || {
        others.extend(process::children(master).into_iter().filter(|pid| !before.contains(pid)));
        !process::alive(master)
    });
    let status = gateway.wait_exit(STOP_LIMIT);
    assert_eq!(status.code(), Some(0), "{status}\n{}", gateway.log_text());
    assert!(others.is_empty(), "started on the way out: {others:?}\n{}", gateway.log_text());
    let left: Vec<&u32> = before.iter().filter(|&&pid| process::alive(pid)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Twice: a service manager and a shell may both send it.
fn term() -> Verdict {
    let gateway = start();
    let _upstream = gateway.with_fast_upstream();
    let mut held = hold(&gateway, SLOW_MS);
    let before = process::children(gateway.pid());
    for _ in 0..2 {
        process::signal_group(gateway.pid(), Signal::SIGTERM);
    }
    let answers = std::thread::spawn(move || -> Vec<_> {
        held.iter_mut().map(|connection| connection.head().map(|head| head.status)).collect()
    });
    ends(gateway, &before, STOP_LIMIT);
    let answers = answers.join().expect("a client does not panic");
    assert!(answers.iter().all(|answer| *answer == Ok(200)), "held calls got {answers:?}");
    Ok(())
}

fn int() -> Verdict {
    let gateway = start();
    let _upstream = gateway.with_fast_upstream();
    let _held = hold(&gateway, VERY_SLOW_MS);
    let before = process::children(gateway.pid());
    process::signal_group(gateway.pid(), Signal::SIGINT);
    ends(gateway, &before, QUICK);
    Ok(())
}
