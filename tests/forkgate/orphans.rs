//! `kill -9` of the master: workers answer what they hold and leave; a second `serve` takes over within a second.

use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Setup};
use forkgate_tests::http::{Connection, Failure, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{mcp, note, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[
    Test {
        name: "kill_9_of_the_master_loses_no_call",
        limit: Duration::from_secs(90),
        run: calls_are_answered,
    },
    Test {
        name: "kill_9_of_the_master_and_a_new_one_serves_at_once",
        limit: Duration::from_secs(90),
        run: takes_over,
    },
    Test { name: "orphans_leave_after_their_timeout", limit: Duration::from_secs(60), run: timeout },
];

/// How long the slow calls take; longer than everything that happens meanwhile.
const SLOW_MS: u64 = 3000;
/// The orphan timeout of these tests.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(8);

fn setup() -> Setup {
    Setup::new().set("GATEWAY_ORPHAN_TIMEOUT", ORPHAN_TIMEOUT.as_secs().to_string())
}

fn calls_are_answered() -> Verdict {
    let mut gateway = setup().start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let mut connections: Vec<Connection> = (0..12)
        .map(|id| {
            let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
            connection.send(&endpoint.call(id, "fast__sleep", &json!({"ms": SLOW_MS}))).expect("sent");
            connection
        })
        .collect();
    wait::until_equal("the calls to be in flight", EXCHANGE_LIMIT, 12, || {
        gateway.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    let workers = gateway.kill_master();
    assert_eq!(workers.len(), 2);
    for connection in &mut connections {
        let head = connection.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
        let body = connection.body(&head).unwrap_or_else(|failure| panic!("a held call was cut: {failure}"));
        assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&body));
    }
    wait::until_true("the workers to leave once they have answered", ORPHAN_TIMEOUT, || {
        workers.iter().all(|&pid| !process::alive(pid))
    });
    Ok(())
}

fn takes_over() -> Verdict {
    let mut gateway = setup().start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let mut held = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    held.send(&endpoint.call(1, "fast__sleep", &json!({"ms": SLOW_MS}))).expect("sent");
    wait::until_equal("the call to be in flight", EXCHANGE_LIMIT, 1, || {
        gateway.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    let load = Load::start(Plan::mixed(gateway.address, endpoint.clone(), "fast__echo"));
    let killed = Instant::now();
    let orphans = gateway.kill_master();
    let second = gateway.setup.clone().spawn();
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "the second one was started too late to prove anything"
    );
    second.wait_ready();
    let took = killed.elapsed();
    load.wait_for(300);
    let report = load.stop();
    // Between the two masters nobody listens for a moment: a refused connection is right then, silence never is.
    let hung: Vec<_> = report.errors.iter().filter(|lost| lost.failure == Failure::TimedOut).collect();
    assert!(hung.is_empty(), "connections hung: {hung:#?}");
    let late: Vec<_> = report.errors.iter().filter(|lost| lost.at > killed + took).collect();
    assert!(late.is_empty(), "lost after the second one was ready: {late:#?}");
    let wrong: Vec<_> = report
        .errors
        .iter()
        .filter(|lost| matches!(lost.failure, Failure::Wrong(_) | Failure::Malformed(_)))
        .collect();
    assert!(wrong.is_empty(), "wrong answers: {wrong:#?}");
    let head = held.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
    assert_eq!(head.status, 200);
    note!("ready again {took:.1?} after the kill; {report}");
    wait::until_true("the orphans to leave", ORPHAN_TIMEOUT + Duration::from_secs(5), || {
        orphans.iter().all(|&pid| !process::alive(pid))
    });
    for _ in 0..20 {
        assert_eq!(second.exchange(&Request::new("GET", "/ready")).status(), 200);
    }
    let answer = second.exchange(&endpoint.call(2, "fast__echo", &json!({"message": "x"})));
    assert!(mcp::tool_text(&answer, 2).is_ok(), "{}", answer.text());
    second.stop();
    Ok(())
}

/// A call and a stream that outlast the timeout do not keep an orphan alive.
fn timeout() -> Verdict {
    let mut gateway = setup().set("GATEWAY_ORPHAN_TIMEOUT", "2").start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let mut slow = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    slow.send(&endpoint.call(1, "fast__sleep", &json!({"ms": 50_000}))).expect("sent");
    wait::until_equal("the call to be in flight", EXCHANGE_LIMIT, 1, || {
        gateway.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    let workers = gateway.kill_master();
    wait::until_true("nothing to remain after the orphan timeout", Duration::from_secs(15), || {
        workers.iter().all(|&pid| !process::alive(pid))
    });
    Ok(())
}
