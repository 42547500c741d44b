//! A worker whose private memory grows past its limit is replaced, and what it holds is answered.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{mcp, note, process, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[Test {
    name: "leaking_worker_is_recycled_in_time",
    limit: Duration::from_secs(90),
    run: leaking_worker,
}];

/// Calls that are held at once, and how much each makes the worker keep.
const CALLS: u64 = 80;
const BYTES_EACH: usize = 1_000_000;
/// The limit, as a part of what a worker has that holds all the calls: under it, and over four fifths of it, where it would
/// be killed instead.
const LIMIT_SHARE: f64 = 0.9;

/// One worker that samples its memory often.
fn setup() -> Setup {
    Setup::new()
        .workers(1)
        .set("GATEWAY_MEMORY_SAMPLE_INTERVAL", "0.2")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.1")
        .set("GATEWAY_MAX_BODY", "8M")
}

/// Makes the worker hold all the calls, for so many milliseconds.
fn hold(gateway: &Gateway, ms: u64) -> Vec<Connection> {
    let endpoint = gateway.federated();
    let padding = "x".repeat(BYTES_EACH);
    let call = |id| {
        let mut connection = Connection::open(gateway.address, START_LIMIT).expect("a connection");
        let arguments = json!({"ms": ms, "padding": padding});
        connection.send(&endpoint.call(id, "fast__sleep", &arguments)).expect("sent");
        connection
    };
    (0..CALLS).map(call).collect()
}

/// Private bytes of a worker that holds all the calls, when they grow no more.
fn holding() -> u64 {
    let gateway = setup().set("GATEWAY_MAX_RSS", "off").start();
    let _upstream = gateway.with_fast_upstream();
    let held = hold(&gateway, 8000);
    let worker = gateway.status().workers[0].pid;
    let (mut last, mut same) = (0, 0);
    let bytes = wait::until("the worker to hold all the calls", START_LIMIT, || {
        let bytes = process::private_bytes(worker);
        same = if bytes <= last && gateway.status().workers[0].in_flight == CALLS { same + 1 } else { 0 };
        last = last.max(bytes);
        (same >= 5).then_some(last)
    });
    drop(held);
    gateway.stop();
    bytes
}

fn leaking_worker() -> Verdict {
    let limit = (holding() as f64 * LIMIT_SHARE) as u64 >> 20;
    let gateway = setup().set("GATEWAY_MAX_RSS", limit.to_string()).start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.status();
    let worker = before.workers[0].pid;
    let idle = process::private_bytes(worker);
    assert!(idle < limit << 20, "an idle worker has {idle} private bytes");
    let mut held = hold(&gateway, 8000);
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
    wait::until_true("the old worker to leave", START_LIMIT, || !process::alive(worker));
    note!(
        "idle {} KiB, limit {limit} MiB; {answered} held calls answered by the worker that was replaced",
        idle / 1024
    );
    let settled = gateway.wait_settled();
    assert_ne!(settled.workers[0].pid, worker);
    gateway.stop();
    Ok(())
}
