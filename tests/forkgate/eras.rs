//! The two eras, message by message: what a client gets that speaks plain HTTP, before any SDK is in the way.

use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::{Connection, Request};
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::raw::{Plays, Raw, json_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    Test { name: "eras_modern_discovery_and_errors", limit: Duration::from_secs(60), run: modern },
    Test { name: "eras_legacy_handshake_and_ping", limit: Duration::from_secs(60), run: legacy },
    Test {
        name: "eras_dead_upstream_is_a_clear_error_in_time",
        limit: Duration::from_secs(60),
        run: dead_upstream,
    },
    Test {
        name: "eras_silent_upstream_meets_its_deadline",
        limit: Duration::from_secs(60),
        run: silent_upstream,
    },
    Test {
        name: "eras_upstream_session_is_renewed_once",
        limit: Duration::from_secs(60),
        run: session_renewed,
    },
];

fn code(answer: &forkgate_tests::http::Answer) -> Value {
    serde_json::from_slice::<Value>(&answer.body).unwrap_or_default()["error"]["code"].clone()
}

fn modern() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let discovered = gateway.exchange(&endpoint.modern(7, "server/discover", None, "", ""));
    let result = mcp::result(&discovered, 7).expect("discovery");
    assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
    assert!(result["capabilities"]["tools"].is_object(), "{result}");
    assert_eq!(result["resultType"], "complete");
    assert!(discovered.head.header("mcp-session-id").is_none(), "no sessions in this era");

    for removed in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such/method"] {
        let answer = gateway.exchange(&endpoint.modern(1, removed, None, "", ""));
        assert_eq!((answer.status(), code(&answer)), (404, json!(-32601)), "{removed}: {}", answer.text());
    }
    let request = endpoint.call(1, "fast__echo", &json!({"message": "x"}));
    let other_name = replace_header(&request, "Mcp-Name", "fast__add");
    let answer = gateway.exchange(&other_name);
    assert_eq!((answer.status(), code(&answer)), (400, json!(-32020)), "Mcp-Name: {}", answer.text());
    let other_version = replace_header(&request, "MCP-Protocol-Version", "2099-01-01");
    let answer = gateway.exchange(&other_version);
    assert_eq!(answer.status(), 400, "unknown version: {}", answer.text());
    assert!([json!(-32020), json!(-32022)].contains(&code(&answer)), "{}", answer.text());
    let unparsable = Request { body: b"{".to_vec(), ..request.clone() };
    let answer = gateway.exchange(&unparsable);
    assert_eq!((answer.status(), code(&answer)), (400, json!(-32700)), "{}", answer.text());
    let unknown = gateway.exchange(&endpoint.call(5, "fast__nothing", &json!({})));
    let said: Value = serde_json::from_slice(&unknown.body).expect("JSON");
    assert!(said["error"].is_object() || said["result"]["isError"] == true, "an unknown tool: {said}");
    gateway.stop();
    Ok(())
}

fn replace_header(request: &Request, name: &str, value: &str) -> Request {
    let mut request = request.clone();
    for header in request.headers.iter_mut().filter(|(key, _)| key == name) {
        header.1 = value.to_owned();
    }
    request
}

fn legacy() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    for version in ["2025-11-25", "2025-06-18", "2025-03-26"] {
        let hello = endpoint.initialize();
        let body = String::from_utf8_lossy(&hello.body).replace("2025-11-25", version);
        let answer = gateway.exchange(&Request { body: body.into_bytes(), ..hello });
        let result = mcp::result(&answer, 0).expect("initialize");
        assert_eq!(result["protocolVersion"], version);
        assert!(
            answer.head.header("mcp-session-id").is_some_and(|id| id.bytes().all(|b| b.is_ascii_graphic()))
        );
    }
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    let ping = connection.exchange(&endpoint.legacy(&session, 9, "ping", "{}")).expect("an answer");
    assert_eq!(mcp::result(&ping, 9).expect("ping"), json!({}));
    let unknown = connection.exchange(&endpoint.legacy(&session, 10, "no/such", "{}")).expect("an answer");
    assert_eq!(mcp::message(&unknown, 10).expect("a message")["error"]["code"], -32601, "{}", unknown.text());
    let foreign =
        connection.exchange(&endpoint.legacy("not-one-of-ours", 1, "ping", "{}")).expect("an answer");
    assert_eq!(foreign.status(), 404, "an unknown session: {}", foreign.text());
    gateway.stop();
    Ok(())
}

/// Calls in both eras; what was answered.
fn call_both(gateway: &Gateway, endpoint: &Endpoint, tool: &str, arguments: &Value) -> [Value; 2] {
    let modern = gateway.exchange(&endpoint.call(1, tool, arguments));
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    let legacy = connection.exchange(&endpoint.legacy_call(&session, 2, tool, arguments)).expect("an answer");
    let last = |answer: &_, id: u64| mcp::message(answer, id).unwrap_or_else(|failure| panic!("{failure}"));
    [last(&modern, 1), last(&legacy, 2)]
}

fn is_failure(message: &Value) -> bool {
    message["error"]["message"].is_string() || message["result"]["isError"] == true
}

fn dead_upstream() -> Verdict {
    let gateway = Setup::new().set("GATEWAY_TOOL_TIMEOUT", "5").start();
    let mut upstream = gateway.with_fast_upstream();
    upstream.kill();
    for message in call_both(&gateway, &gateway.federated(), "fast__echo", &json!({"message": "x"})) {
        assert!(is_failure(&message), "{message}");
        assert!(message.to_string().contains("fast"), "it names the upstream: {message}");
    }
    gateway.stop();
    Ok(())
}

fn silent_upstream() -> Verdict {
    let gateway = Setup::new().set("GATEWAY_TOOL_TIMEOUT", "1").start();
    let _upstream = gateway.with_fast_upstream();
    for message in call_both(&gateway, &gateway.federated(), "fast__sleep", &json!({"ms": 30_000})) {
        assert!(is_failure(&message), "{message}");
    }
    gateway.stop();
    Ok(())
}

/// An upstream that forgets its sessions (it was restarted): the gateway opens a new one and asks again, once.
fn session_renewed() -> Verdict {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};
    let calls = AtomicU32::new(0);
    let raw = Raw::start(Plays::Legacy, move |request, stream| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            let gone = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
            return stream.write_all(&json_answer("404 Not Found", gone));
        }
        let result = r#"{"content":[{"type":"text","text":"fine"}]}"#;
        stream.write_all(&forkgate_tests::raw::result_answer(request, result))
    });
    let gateway = Setup::new().workers(1).start();
    gateway.register("raw", &raw.url());
    gateway.wait_for_tool("raw__odd");
    let before = raw.requests("initialize").len();
    let answer = gateway.exchange(&gateway.federated().call(4, "raw__odd", &json!({})));
    assert_eq!(mcp::tool_text(&answer, 4).expect("the call was repeated"), "fine");
    assert_eq!(raw.requests("tools/call").len(), 2);
    let opened = raw.requests("initialize").len() - before;
    assert!((1..=2).contains(&opened), "sessions opened for the call: {opened}");
    gateway.stop();
    Ok(())
}
