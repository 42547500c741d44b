//! Legacy sessions: valid on every worker and across a restart, bound to their owner, gone for good after DELETE.

use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::note;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use serde_json::json;

pub const TESTS: &[Test] = &[
    Test { name: "sessions_are_valid_on_every_worker", limit: Duration::from_secs(60), run: every_worker },
    Test { name: "sessions_survive_a_restart_and_a_reload", limit: Duration::from_secs(90), run: restart },
    Test { name: "sessions_end_everywhere_with_delete", limit: Duration::from_secs(60), run: delete },
    Test {
        name: "sessions_stream_ends_with_delete",
        limit: Duration::from_secs(60),
        run: delete_ends_stream,
    },
    Test { name: "sessions_belong_to_their_owner", limit: Duration::from_secs(60), run: owner },
    Test {
        name: "sessions_standing_stream_gets_keep_alives",
        limit: Duration::from_secs(60),
        run: keep_alives,
    },
];

/// Connections that, over four workers, leave one of them out with a chance of (3/4)^60.
const CONNECTIONS: usize = 60;

fn open(gateway: &Gateway, endpoint: &Endpoint) -> String {
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    endpoint.open_session(&mut connection).expect("a session")
}

fn ping(gateway: &Gateway, endpoint: &Endpoint, session: &str) -> u16 {
    gateway.exchange(&endpoint.legacy(session, 1, "ping", "{}")).status()
}

fn every_worker() -> Verdict {
    let gateway = Setup::new().workers(4).start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let session = open(&gateway, &endpoint);
    let before = gateway.status();
    for id in 0..CONNECTIONS as u64 {
        let sent = format!("number {id}");
        let answer =
            gateway.exchange(&endpoint.legacy_call(&session, id, "fast__echo", &json!({"message": sent})));
        assert_eq!(mcp::tool_text(&answer, id).unwrap_or_else(|failure| panic!("{failure}")), sent);
    }
    let after = gateway.status();
    let served: Vec<u64> = after
        .workers
        .iter()
        .zip(&before.workers)
        .map(|(after, before)| after.requests - before.requests)
        .collect();
    assert!(
        served.len() == 4 && served.iter().all(|&count| count > 0),
        "every worker served the session: {served:?}"
    );
    note!("one session, {CONNECTIONS} connections, by worker: {served:?}");
    gateway.stop();
    Ok(())
}

fn restart() -> Verdict {
    let gateway = Setup::new().start();
    let endpoint = gateway.federated();
    let (session, ended) = (open(&gateway, &endpoint), open(&gateway, &endpoint));
    assert!(matches!(gateway.exchange(&endpoint.delete(&ended)).status(), 200 | 204));
    gateway.reload();
    assert_eq!(ping(&gateway, &endpoint, &session), 200, "after a reload");
    let setup = gateway.setup.clone();
    gateway.stop();
    let gateway = setup.start();
    for _ in 0..20 {
        assert_eq!(ping(&gateway, &endpoint, &session), 200, "after a restart");
        assert_eq!(ping(&gateway, &endpoint, &ended), 404, "an ended session stays ended after a restart");
    }
    gateway.stop();
    Ok(())
}

fn delete() -> Verdict {
    let gateway = Setup::new().workers(4).start();
    let endpoint = gateway.federated();
    for _ in 0..5 {
        let session = open(&gateway, &endpoint);
        assert_eq!(ping(&gateway, &endpoint, &session), 200);
        let answer = gateway.exchange(&endpoint.delete(&session));
        assert!(matches!(answer.status(), 200 | 204), "DELETE: {} {}", answer.status(), answer.text());
        for _ in 0..CONNECTIONS {
            assert_eq!(ping(&gateway, &endpoint, &session), 404, "DELETE is final once it has answered");
        }
        assert_eq!(gateway.exchange(&endpoint.delete(&session)).status(), 404, "a second DELETE");
        assert_eq!(gateway.exchange(&endpoint.listen(&session)).status(), 404, "its stream");
    }
    gateway.stop();
    Ok(())
}

/// With a keep-alive every hour it is the end of the session that the stream notices.
fn delete_ends_stream() -> Verdict {
    let gateway = Setup::new().set("SSE_KEEPALIVE_INTERVAL", "1h").start();
    let endpoint = gateway.federated();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    connection.send(&endpoint.listen(&session)).expect("sent");
    assert_eq!(connection.head().expect("the stream's head").status, 200);
    assert!(matches!(gateway.exchange(&endpoint.delete(&session)).status(), 200 | 204));
    while connection.chunk(EXCHANGE_LIMIT).expect("the stream ends cleanly and in time").is_some() {}
    gateway.stop();
    Ok(())
}

fn owner() -> Verdict {
    let gateway = Setup::new().start();
    let endpoint = gateway.federated();
    let session = open(&gateway, &endpoint);
    let other = Endpoint { token: gateway.make_token(&["--sub", "somebody-else"]), ..endpoint.clone() };
    let (foreign, unknown) = (
        gateway.exchange(&other.legacy(&session, 1, "ping", "{}")),
        gateway.exchange(&other.legacy("no-such-session", 1, "ping", "{}")),
    );
    assert_eq!((foreign.status(), foreign.text()), (404, unknown.text()), "as if it did not exist");
    let renewed = Endpoint { token: gateway.make_token(&["--sub", "tests"]), ..endpoint.clone() };
    assert_eq!(ping(&gateway, &renewed, &session), 200, "its owner with a newer token");
    gateway.stop();
    Ok(())
}

fn keep_alives() -> Verdict {
    let gateway = Setup::new().set("SSE_KEEPALIVE_INTERVAL", "1").start();
    let endpoint = gateway.federated();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    connection.send(&endpoint.listen(&session)).expect("sent");
    let head = connection.head().expect("the stream's head comes at once");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut lines = 0;
    while lines < 3 {
        let chunk =
            connection.chunk(EXCHANGE_LIMIT).expect("a keep-alive in time").expect("the stream stays open");
        lines += String::from_utf8_lossy(&chunk).lines().filter(|line| line.starts_with(':')).count();
    }
    gateway.stop();
    Ok(())
}
