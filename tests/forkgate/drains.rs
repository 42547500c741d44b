//! A drain ends: streams within their bound, calls with an answer, and what it waits for is named.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup, Worker};
use forkgate_tests::http::{Connection, Head, Request};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::raw::{Plays, Raw, result_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, wait};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "drain_of_1000_streams_keeps_to_its_bound", limit: LIMIT, run: thousand_streams },
    Test { name: "drain_answers_calls_that_have_no_time_left", limit: LIMIT, run: no_time_left },
    Test { name: "drain_names_what_it_waits_for", limit: LIMIT, run: named },
    Test { name: "quick_stop_answers_calls_in_progress", limit: LIMIT, run: quick_stop },
];

/// An upstream whose tool `odd` answers when it is told to, and how it is told.
fn slow_upstream() -> (Raw, SyncSender<()>) {
    let (release, released) = sync_channel(1);
    let released: Mutex<Receiver<()>> = Mutex::new(released);
    let upstream = Raw::start(Plays::Legacy, move |request, stream| {
        // Without its sender the test is over.
        let _ = released.lock().expect("no thread panics with the lock").recv();
        stream.write_all(&result_answer(request, r#"{"content":[]}"#))
    });
    (upstream, release)
}

fn open(gateway: &Gateway) -> Connection {
    Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection")
}

/// A call of that tool, sent; `accept` decides whether its answer may become a stream.
fn call(gateway: &Gateway, modern: bool, accept: &str) -> Connection {
    let endpoint = gateway.federated();
    let mut connection = open(gateway);
    let mut request = if modern {
        endpoint.call(7, "raw__odd", &json!({}))
    } else {
        let session = endpoint.open_session(&mut connection).expect("a session");
        endpoint.legacy_call(&session, 7, "raw__odd", &json!({}))
    };
    for (name, value) in &mut request.headers {
        if name == "Accept" {
            accept.clone_into(value);
        }
    }
    connection.send(&request).expect("sent");
    connection
}

/// The message that an answer holds: as JSON, or in the last event of its stream.
fn message(connection: &mut Connection) -> (Head, Value) {
    let head = connection.head().expect("a head");
    let body = String::from_utf8(connection.body(&head).expect("a whole body")).expect("text");
    let text = body.rsplit("data: ").next().expect("text");
    let value = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {body}"));
    (head, value)
}

fn leaving(gateway: &Gateway) -> Option<Worker> {
    gateway.status().workers.into_iter().find(|worker| worker.state == "draining")
}

/// Streams end, each at its own moment and cleanly, the worker leaves; the connections have moved and open new ones.
fn thousand_streams() -> Verdict {
    const STREAMS: usize = 1000;
    process::raise_descriptor_limit();
    let gateway = Setup::new().workers(1).set("GATEWAY_STREAM_DRAIN", "3s").start();
    let endpoint = gateway.federated();
    let session = endpoint.open_session(&mut open(&gateway)).expect("a session");
    let listen = |connection: &mut Connection| {
        connection.send(&endpoint.listen(&session)).expect("sent");
        let head = connection.head().expect("a head");
        assert_eq!((head.status, head.announces_close()), (200, false));
    };
    let mut streams: Vec<Connection> = (0..STREAMS).map(|_| open(&gateway)).collect();
    streams.iter_mut().for_each(listen);
    let old = gateway.wait_settled().workers[0].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    wait::until_true("some streams to end before the others", LIMIT, || {
        leaving(&gateway).is_some_and(|worker| worker.streams > 0 && worker.streams < STREAMS as u64)
    });
    let begun = std::time::Instant::now();
    wait::until_true("the old worker to leave", Duration::from_secs(10), || !process::alive(old));
    note!(
        "{STREAMS} streams: the worker left {:.1} s after the first had ended",
        begun.elapsed().as_secs_f64()
    );
    for stream in &mut streams {
        while stream.chunk(EXCHANGE_LIMIT).expect("a clean end").is_some() {}
    }
    streams.iter_mut().for_each(listen);
    gateway.stop();
    Ok(())
}

/// Both eras, answers that are JSON and answers that have become streams: all end with an error that says why, and their
/// connections move: none is told to come again.
fn no_time_left() -> Verdict {
    let gateway = Setup::new()
        .workers(1)
        .set("GATEWAY_GRACEFUL_TIMEOUT", "4s")
        .set("SSE_KEEPALIVE_INTERVAL", "0.2")
        .start();
    let (upstream, _release) = slow_upstream();
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let mut calls: Vec<(bool, bool, Connection)> = Vec::new();
    for modern in [false, true] {
        for stream in [false, true] {
            let accept = if stream { "application/json, text/event-stream" } else { "application/json" };
            calls.push((modern, stream, call(&gateway, modern, accept)));
        }
    }
    wait::until_equal("the calls to arrive", LIMIT, 4, || upstream.requests("tools/call").len());
    let old = gateway.status().workers[0].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    for (modern, stream, connection) in &mut calls {
        let (modern, stream) = (*modern, *stream);
        let (head, answer) = message(connection);
        let what = format!("modern {modern}, stream {stream}: {answer}");
        assert_eq!(head.status, if modern && !stream { 503 } else { 200 }, "{what}");
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32603)), "{what}");
        let text = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(text.contains("GATEWAY_GRACEFUL_TIMEOUT"), "{what}");
        assert_eq!(answer["error"]["data"]["retrySafe"], false, "{what}");
        assert!(!head.announces_close(), "{what}");
    }
    wait::until_true("the old worker to leave", LIMIT, || !process::alive(old));
    let status = gateway.wait_settled();
    assert_eq!((status.crashes, status.kills["drain"]), (0, 0), "it leaves by itself");
    for (_, _, connection) in &mut calls {
        let answer = connection.exchange(&Request::new("GET", "/version")).expect("its connection has moved");
        assert_eq!(answer.status(), 200);
    }
    gateway.stop();
    Ok(())
}

/// `ctl status` shows how much is open and until when, the log names it when half of the time is over; then the call ends.
fn named() -> Verdict {
    let gateway = Setup::new().workers(1).set("GATEWAY_GRACEFUL_TIMEOUT", "8s").start();
    let (upstream, release) = slow_upstream();
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let mut connection = call(&gateway, true, "application/json");
    wait::until_equal("the call to arrive", LIMIT, 1, || upstream.requests("tools/call").len());
    let old = gateway.status().workers[0].pid;
    assert!(gateway.status().workers[0].leaves_in_s.is_none());
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    let worker = wait::until("the worker to leave", LIMIT, || leaving(&gateway));
    assert_eq!((worker.pid, worker.in_flight, worker.connections), (old, 1, 1));
    assert!(worker.leaves_in_s.is_some_and(|seconds| seconds > 0.0 && seconds <= 8.0), "{worker:?}");
    wait::until_true("the log to name the call", LIMIT, || {
        let log = gateway.log_text();
        log.contains("half of the time is over") && log.contains("tools/call raw__odd of tests")
    });
    release.send(()).expect("the upstream listens");
    let (head, answer) = message(&mut connection);
    assert_eq!((head.status, answer["result"].is_object()), (200, true), "{answer}");
    wait::until_true("the old worker to leave", LIMIT, || !process::alive(old));
    let answer = connection.exchange(&Request::new("GET", "/version")).expect("its connection has moved");
    assert_eq!(answer.status(), 200);
    gateway.stop();
    Ok(())
}

fn quick_stop() -> Verdict {
    let gateway = Setup::new().workers(1).start();
    let (upstream, _release) = slow_upstream();
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let mut calls = [false, true].map(|modern| call(&gateway, modern, "application/json"));
    wait::until_equal("the calls to arrive", LIMIT, 2, || upstream.requests("tools/call").len());
    gateway.stop();
    for connection in &mut calls {
        let (_, answer) = message(connection);
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32603)), "{answer}");
    }
    Ok(())
}
