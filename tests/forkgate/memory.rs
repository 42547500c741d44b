//! A worker whose private memory grows past its limit is replaced, and what it holds is answered.

use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{mcp, note, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[Test {
    name: "leaking_worker_is_recycled_in_time",
    limit: Duration::from_secs(90),
    run: leaking_worker,
}];

/// Calls that are held at once, and how much each makes the worker keep.
const CALLS: u64 = 80;
const BYTES_EACH: usize = 1_000_000;
/// The limit: an idle worker is far below, one that holds all the calls far above.
const LIMIT_MIB: u64 = 48;

fn leaking_worker() -> Verdict {
    let gateway = Setup::new()
        .workers(1)
        .set("GATEWAY_MAX_RSS", LIMIT_MIB.to_string())
        .set("GATEWAY_MEMORY_SAMPLE_INTERVAL", "0.2")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.1")
        .set("GATEWAY_MAX_BODY", "8M")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.status();
    let worker = before.workers[0].pid;
    let idle = forkgate_tests::process::private_bytes(worker);
    assert!(idle < LIMIT_MIB << 20, "an idle worker has {idle} private bytes");
    let endpoint = gateway.federated();
    let padding = "x".repeat(BYTES_EACH);
    let mut held: Vec<Connection> = (0..CALLS)
        .map(|id| {
            let mut connection = Connection::open(gateway.address, START_LIMIT).expect("a connection");
            let arguments = json!({"ms": 8000, "padding": padding});
            connection.send(&endpoint.call(id, "fast__sleep", &arguments)).expect("sent");
            connection
        })
        .collect();
    let status = wait::until("the worker to be replaced for its memory", START_LIMIT, || {
        Some(gateway.status()).filter(|status| status.recycles.memory >= 1)
    });
    assert_eq!(status.crashes, 0);
    let mut answered = 0;
    for (id, connection) in held.iter_mut().enumerate() {
        let head = connection.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
        let body = connection.body(&head).unwrap_or_else(|failure| panic!("a held call was cut: {failure}"));
        let answer = forkgate_tests::http::Answer { head, body };
        mcp::tool_text(&answer, id as u64).unwrap_or_else(|failure| panic!("{failure}"));
        answered += 1;
    }
    wait::until_true("the old worker to leave", START_LIMIT, || !forkgate_tests::process::alive(worker));
    note!(
        "idle {} KiB, limit {LIMIT_MIB} MiB; {answered} held calls answered by the worker that was replaced",
        idle / 1024
    );
    let settled = gateway.wait_settled();
    assert_ne!(settled.workers[0].pid, worker);
    gateway.stop();
    Ok(())
}
