//! The edge as a client sees it: real connections, as [`Client`]s, a gateway without upstreams behind it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forkgate_shared::control::{ControlSocket, FromChild, Received, RecycleReason};
use forkgate_shared::rows::{RequestEra, RequestOutcome, method_index};
use forkgate_shared::settings::Settings;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::client::Client;
use super::in_flight::InFlight;
use super::serve::{Edge, Port};
use crate::answer;
use crate::auth;
use crate::fixtures;
use crate::gateway::Shared;
use crate::lifecycle::task;
use crate::revision::Era;

/// A worker's parts without its process, and the master's end of its control socket.
struct World {
    gateway: Shared,
    address: SocketAddr,
    master: ControlSocket,
    _state: tempfile::TempDir,
}

async fn world(port: Port, alter: impl Fn(&mut Settings)) -> World {
    world_at(port, true, alter).await
}

async fn world_at(port: Port, is_local: bool, alter: impl Fn(&mut Settings)) -> World {
    let (gateway, master, state) = fixtures::gateway(alter);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let edge = Rc::new(Edge::new(&gateway, port, is_local));
    task::spawn("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            Client::accepted(&edge, stream, None).serve();
        }
    });
    World { gateway, address, master, _state: state }
}

impl World {
    fn token(&self, admin: bool) -> String {
        auth::mint(&self.gateway.settings, "alice", admin, Duration::from_secs(60)).expect("token")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    /// One request on a connection of its own; the whole answer.
    async fn ask(&self, head: &str, token: Option<&str>, body: &str) -> String {
        let mut client = self.connect().await;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let host = if head.contains("\r\n") { "" } else { "\r\nHost: localhost" };
        let request = format!(
            "{head}{host}\r\n{token}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("answer");
        answer
    }

    async fn status(&self, head: &str, token: Option<&str>, body: &str) -> u16 {
        let answer = self.ask(head, token, body).await;
        answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("{answer:?}"))
    }
}

#[tokio::test]
async fn the_way_in() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |settings| settings.max_body = 1000).await;
            let (user, admin) = (world.token(false), world.token(true));
            let (user, admin) = (Some(user.as_str()), Some(admin.as_str()));
            let large = "x".repeat(1001);
            for (head, token, body, status) in [
                ("GET /health HTTP/1.1", None, "", 200),
                ("GET /ready HTTP/1.1\r\nHost: 10.1.2.3", None, "", 200),
                ("POST /version HTTP/1.1", None, "{}", 405),
                ("GET /nowhere HTTP/1.1", user, "", 404),
                ("GET /status HTTP/1.1", admin, "", 404),
                ("POST /mcp HTTP/1.1\r\nHost: evil.com", user, "{}", 421),
                ("POST /mcp HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.com", user, "{}", 403),
                ("POST /mcp HTTP/1.1", None, "{}", 401),
                ("POST /mcp HTTP/1.1", Some("wrong"), "{}", 401),
                ("PUT /mcp HTTP/1.1", user, "{}", 405),
                ("POST /mcp HTTP/1.1", user, &large, 413),
                ("POST /v1/gateways/ HTTP/1.1", user, "{}", 403),
                ("POST /v1/gateways/ HTTP/1.1", None, "{}", 401),
                ("OPTIONS /gateways HTTP/1.1", admin, "", 405),
            ] {
                assert_eq!(world.status(head, token, body).await, status, "{head}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_can_use_the_gateway() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |settings| {
                settings.allowed_origins = vec!["https://app.example.com".to_owned()];
            })
            .await;
            let token = world.token(true);
            let from = |line: &str, origin: &str| {
                format!(
                    "{line} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST"
                )
            };
            let app = "https://app.example.com";
            let allowed = "access-control-allow-origin: https://app.example.com\r\n";
            for (line, methods) in
                [("OPTIONS /mcp", "GET, POST, DELETE"), ("OPTIONS /v1/gateways", "GET, HEAD, POST")]
            {
                let answer = world.ask(&from(line, app), None, "").await;
                assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains(allowed), "{answer}");
                let methods = format!("access-control-allow-methods: {methods}\r\n");
                assert!(answer.contains(&methods) && answer.contains("vary: Origin\r\n"), "{answer}");
                let refused = world.ask(&from(line, "https://evil.com"), None, "").await;
                assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
                assert!(!refused.contains("access-control"), "{refused}");
            }
            for (line, token) in [("POST /mcp", Some(token.as_str())), ("POST /mcp", None)] {
                let answer = world.ask(&from(line, app), token, "{}").await;
                assert!(answer.contains(allowed), "{answer}");
                assert!(answer.contains("access-control-expose-headers: mcp-session-id, "), "{answer}");
                let own = world.ask(&from(line, "http://localhost"), token, "{}").await;
                assert!(!own.contains("access-control"), "{own}");
            }
            let probe = world.ask(&from("GET /health", app), None, "").await;
            assert!(!probe.contains("access-control"), "{probe}");
        })
        .await;
}

#[tokio::test]
async fn a_token_in_the_query_is_no_token() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let head = format!("POST /mcp?access_token={} HTTP/1.1", world.token(false));
            let answer = world.ask(&head, None, "{}").await;
            assert!(
                answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer"),
                "{answer}"
            );
            assert!(answer.contains("forkgate token create --sub NAME"), "{answer}");
        })
        .await;
}

#[tokio::test]
async fn operators_see_the_numbers_on_the_admin_port() {
    LocalSet::new()
        .run_until(async {
            let open = world(Port::Admin, |_| {}).await;
            assert_eq!(open.status("GET /status HTTP/1.1", None, "").await, 200);
            assert_eq!(open.status("GET /metrics HTTP/1.1\r\nHost: evil.com", None, "").await, 421);
            let exposed = world_at(Port::Admin, false, |_| {}).await;
            let (user, admin) = (exposed.token(false), exposed.token(true));
            for (token, status) in [(None, 401), (Some(user.as_str()), 403), (Some(admin.as_str()), 200)] {
                assert_eq!(exposed.status("GET /metrics HTTP/1.1", token, "").await, status);
            }
        })
        .await;
}

#[tokio::test]
async fn requests_count_towards_the_limit_and_probes_do_not() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let row = world.gateway.row();
            row.request_limit.store(2, Relaxed);
            for head in
                ["GET /health HTTP/1.1", "GET /ready HTTP/1.1", "GET /version HTTP/1.1", "GET /x HTTP/1.1"]
            {
                world.ask(head, None, "").await;
            }
            assert_eq!(row.counters.requests.load(Relaxed), 1);
            assert!(matches!(world.master.recv::<FromChild>().expect("recv"), Received::WouldBlock));
            world.ask("GET /y HTTP/1.1", None, "").await;
            let asked = FromChild::WantRecycle { reason: RecycleReason::MaxRequests };
            let received = world.master.recv::<FromChild>().expect("recv");
            assert!(matches!(received, Received::Message(message, None) if message == asked));
            assert_eq!(row.counters.status[3].load(Relaxed), 2, "two 404");
            assert_eq!(row.counters.accepted.load(Relaxed), 5);
            assert_eq!((row.in_flight.load(Relaxed), row.in_flight_ring[0].started_ns.load(Relaxed)), (0, 0));
        })
        .await;
}

#[tokio::test]
async fn every_request_is_counted_once_whatever_becomes_of_it() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| ()).await;
            let user = world.token(false);
            assert_eq!(world.status("GET /health HTTP/1.1", None, "").await, 200);
            assert_eq!(world.status("HEAD /nowhere HTTP/1.1", None, "").await, 404);
            assert_eq!(world.status("POST /mcp HTTP/1.1", None, "{}").await, 401);
            assert_eq!(world.status("POST /v1/gateways HTTP/1.1", Some(&user), "{}").await, 403);
            let edge = Rc::new(Edge::new(&world.gateway, Port::Main, true));
            let begin = || InFlight::begin(&edge, &Rc::default(), &http::Method::POST, "/mcp");
            let row = world.gateway.row();
            let left = begin();
            left.note().era(Era::Legacy);
            left.note().caller("alice");
            let entry = &row.in_flight_ring[0];
            assert!(entry.caller.get() == "alice" && entry.started_ns.load(Relaxed) > 0);
            drop(left);
            assert_eq!(entry.started_ns.load(Relaxed), 0);
            let unread = begin().answered(answer::json(StatusCode::OK, "{}"));
            drop(unread);
            assert_eq!(row.counters.requests.load(Relaxed), 5);
            use RequestOutcome::{Abandoned, Refused};
            let (api, other) = (method_index("api"), method_index("other"));
            for (era, method, outcome) in [
                (RequestEra::None, other, Refused),
                (RequestEra::Legacy, other, Refused),
                (RequestEra::None, api, Refused),
                (RequestEra::Legacy, other, Abandoned),
                (RequestEra::None, other, Abandoned),
            ] {
                let cell = row.counters.requests_by.cell(era, method, outcome);
                assert_eq!(cell.load(Relaxed), 1, "{era:?} {method} {outcome:?}");
            }
            let timed: u64 = row.counters.own_time.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
            assert_eq!(timed, 1, "the one of MCP that was answered");
        })
        .await;
}

#[tokio::test]
async fn while_draining_every_answer_announces_the_close() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let mut client = world.connect().await;
            let request = b"GET /ready HTTP/1.1\r\n\r\n";
            let mut answer = [0; 4096];
            client.write_all(request).await.expect("write");
            let n = client.read(&mut answer).await.expect("read");
            let before = String::from_utf8_lossy(&answer[..n]).into_owned();
            assert!(before.starts_with("HTTP/1.1 200") && !before.contains("connection: close"), "{before}");
            world.gateway.lifecycle.drain(None);
            client.write_all(request).await.expect("the idle connection has its grace");
            let n = client.read(&mut answer).await.expect("read");
            let after = String::from_utf8_lossy(&answer[..n]).into_owned();
            assert!(after.starts_with("HTTP/1.1 503") && after.contains("connection: close"), "{after}");
            assert_eq!(client.read(&mut answer).await.expect("a clean end"), 0);
            drop(client);
            world.gateway.lifecycle.connections().all_closed().await;
            assert_eq!(world.gateway.row().connections.load(Relaxed), 0);
        })
        .await;
}

#[tokio::test]
async fn a_request_whose_body_is_still_on_its_way_is_answered_at_the_end() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let mut client = world.connect().await;
            let head = format!(
                "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n{{",
                world.token(false)
            );
            client.write_all(head.as_bytes()).await.expect("write");
            while world.gateway.row().in_flight.load(Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            world.gateway.lifecycle.drain(None);
            world.gateway.lifecycle.say_last_words();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("a clean end");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection: close"), "{answer}");
            assert!(answer.contains("-32603") && answer.contains("GATEWAY_GRACEFUL_TIMEOUT"), "{answer}");
        })
        .await;
}

#[tokio::test]
async fn a_refused_request_does_not_cost_the_connection_unless_it_says_so() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let mut client = world.connect().await;
            for length in [60_000, 60_000, 100_000] {
                let head =
                    format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
                client.write_all(head.as_bytes()).await.expect("write");
                client.write_all(&vec![b'x'; length]).await.expect("write");
                let mut answer = [0; 4096];
                let n = client.read(&mut answer).await.expect("read");
                let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
                assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
                assert_eq!(answer.contains("connection: close"), length == 100_000, "{answer}");
            }
        })
        .await;
}

#[tokio::test]
async fn an_overloaded_worker_turns_calls_away_and_says_when_to_come_back() {
    LocalSet::new()
        .run_until(async {
            let world = world(Port::Main, |_| {}).await;
            let token = world.token(false);
            let starved = &world.gateway.row().evidence.starved;
            starved.store(1, Relaxed);
            let answer = world.ask("POST /mcp HTTP/1.1", Some(&token), "{}").await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 5\r\n"), "{answer}");
            // Only an administrator may do the last one: that is still looked at.
            for (head, status) in [("GET /ready", 503), ("GET /health", 200), ("POST /v1/gateways", 403)] {
                assert_eq!(
                    world.status(&format!("{head} HTTP/1.1"), Some(&token), "").await,
                    status,
                    "{head}"
                );
            }
            starved.store(0, Relaxed);
            assert_eq!(world.status("GET /ready HTTP/1.1", None, "").await, 200);
        })
        .await;
}
