//! What the gateway does not understand it does not touch: unknown fields, big numbers, vendor `_meta`, odd spelling,
//! byte for byte, in both directions and both eras; and answers are relayed event by event.

use std::io::Write;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::{Answer, Connection};
use forkgate_tests::mcp;
use forkgate_tests::raw::{Plays, Raw, result_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;

pub const TESTS: &[Test] = &[
    Test {
        name: "bytes_survive_modern_to_modern",
        limit: Duration::from_secs(60),
        run: || survive(Plays::Modern, false),
    },
    Test {
        name: "bytes_survive_legacy_to_legacy",
        limit: Duration::from_secs(60),
        run: || survive(Plays::Legacy, true),
    },
    Test {
        name: "bytes_survive_modern_to_legacy",
        limit: Duration::from_secs(60),
        run: || survive(Plays::Legacy, false),
    },
    Test {
        name: "bytes_survive_legacy_to_modern",
        limit: Duration::from_secs(60),
        run: || survive(Plays::Modern, true),
    },
    Test { name: "bytes_of_listed_items_survive", limit: Duration::from_secs(60), run: listed_items },
    Test { name: "events_are_relayed_one_by_one", limit: Duration::from_secs(60), run: event_by_event },
];

/// Arguments that a parser that prints again would change: spacing, digits, escapes, order, repeated keys.
const ARGUMENTS: &str = concat!(
    r#"{"big":123456789012345678901234567890,"neg":-9223372036854775809,"f":1.10,"e":1E+2,"huge":1e400,"z":-0.0, "#,
    r#""s":"\u00e9\/\ud83d\ude00\u0000","b":1,"a":2,"nested":{"__proto__":null,"deep":[ [ [] ], {} ]}}"#
);
const VENDOR: &str = r#"{"n":12345678901234567890.10,"t":"\u0041", "k":[1 ,2]}"#;
const UNKNOWN: &str = r#"{"future":[ true,null ],"n":0.10}"#;
const CONTENT: &str = r#"[{"type":"text","text":"\u00e9\/","x-part":{"n":1.0e0}},{"type":"com.example/new","data":[123456789012345678901]}]"#;
const STRUCTURED: &str = r#"{"big":123456789012345678901234567890,"f":2.50, "u":"\u0041"}"#;

fn result_text(plays: Plays) -> String {
    let tail = if plays == Plays::Modern { r#","resultType":"complete""# } else { "" };
    format!(
        r#"{{"content":{CONTENT},"structuredContent":{STRUCTURED},"x-unknown":{UNKNOWN},"_meta":{{"com.example/vendor":{VENDOR}}}{tail}}}"#
    )
}

fn call(gateway: &Gateway, legacy: bool) -> Answer {
    let endpoint = gateway.endpoint("/upstreams/raw/mcp");
    if !legacy {
        let params = format!(r#""name":"odd","arguments":{ARGUMENTS},"x-unknown":{UNKNOWN}"#);
        let meta = format!(r#""com.example/vendor":{VENDOR}"#);
        return gateway.exchange(&endpoint.modern(41, "tools/call", Some("odd"), &params, &meta));
    }
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    let params = format!(
        r#"{{"name":"odd","arguments":{ARGUMENTS},"x-unknown":{UNKNOWN},"_meta":{{"com.example/vendor":{VENDOR}}}}}"#
    );
    connection.exchange(&endpoint.legacy(&session, 41, "tools/call", &params)).expect("an answer")
}

#[track_caller]
fn assert_holds(text: &str, parts: &[(&str, &str)]) {
    for (what, part) in parts {
        assert!(text.contains(part), "{what} is not there byte for byte:\n{part}\nin\n{text}");
    }
}

fn survive(plays: Plays, legacy: bool) -> Verdict {
    let raw = Raw::start(plays, move |request, stream| {
        stream.write_all(&result_answer(request, &result_text(plays)))
    });
    let gateway = Setup::new().start();
    gateway.register("raw", &raw.url());
    gateway.wait_for_tool("raw__odd");
    let answer = call(&gateway, legacy);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let calls = raw.requests("tools/call");
    let asked = calls.first().expect("the upstream was asked").text();
    assert_holds(
        &asked,
        &[
            ("arguments", &format!(r#""arguments":{ARGUMENTS}"#)),
            ("an unknown field of the request", &format!(r#""x-unknown":{UNKNOWN}"#)),
            ("vendor metadata of the request", &format!(r#""com.example/vendor":{VENDOR}"#)),
        ],
    );
    assert_holds(
        &answer.text(),
        &[
            ("content", &format!(r#""content":{CONTENT}"#)),
            ("structured content", &format!(r#""structuredContent":{STRUCTURED}"#)),
            ("an unknown field of the result", &format!(r#""x-unknown":{UNKNOWN}"#)),
            ("vendor metadata of the result", &format!(r#""com.example/vendor":{VENDOR}"#)),
        ],
    );
    if legacy == (plays == Plays::Legacy) {
        assert_holds(&answer.text(), &[("the whole result, within one era", &result_text(plays))]);
    } else {
        assert_eq!(
            answer.text().contains("resultType"),
            !legacy,
            "translated to the caller's era: {}",
            answer.text()
        );
    }
    gateway.stop();
    Ok(())
}

fn listed_items() -> Verdict {
    let raw = Raw::start(Plays::Legacy, |request, stream| stream.write_all(&result_answer(request, "{}")));
    let gateway = Setup::new().start();
    gateway.register("raw", &raw.url());
    gateway.wait_for_tool("raw__odd");
    for path in ["/mcp", "/upstreams/raw/mcp"] {
        let endpoint = gateway.endpoint(path);
        for (method, part) in [
            ("tools/list", r#""x-vendor":{"n":12345678901234567890123}"#),
            ("resources/list", r#""x-vendor":[1.0,1e2]"#),
            ("prompts/list", r#""x-vendor":"\u00e9""#),
        ] {
            let answer = gateway.exchange(&endpoint.modern(1, method, None, "", ""));
            assert_holds(&answer.text(), &[(method, part)]);
        }
    }
    gateway.stop();
    Ok(())
}

/// The upstream sends its second event only when the client has the first: a gateway that collects would hang.
fn event_by_event() -> Verdict {
    let (go, wait) = sync_channel::<()>(1);
    let wait: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(wait));
    let raw = Raw::start(Plays::Legacy, move |request, stream| {
        let token =
            serde_json::from_slice::<serde_json::Value>(&request.body)?["params"]["_meta"]["progressToken"]
                .to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let progress = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
        );
        chunk(stream, &format!("event: message\ndata: {progress}\n\n"))?;
        let told = wait.lock().expect("one call").recv_timeout(Duration::from_secs(20));
        let text = if told.is_ok() { "after the first event" } else { "nobody saw the first event" };
        let id = request.id();
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
        );
        chunk(stream, &format!("event: message\ndata: {result}\n\n"))?;
        write!(stream, "0\r\n\r\n")
    });
    let gateway = Setup::new().start();
    gateway.register("raw", &raw.url());
    gateway.wait_for_tool("raw__odd");
    let endpoint = gateway.endpoint("/upstreams/raw/mcp");
    let request = endpoint.modern(
        6,
        "tools/call",
        Some("odd"),
        r#""name":"odd","arguments":{}"#,
        r#""progressToken":"tok""#,
    );
    let mut connection = Connection::open(gateway.address, Duration::from_secs(15)).expect("a connection");
    connection.send(&request).expect("sent");
    let head = connection.head().expect("the head comes with the first event");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut text = String::new();
    while !text.contains("notifications/progress") {
        let chunk = connection.chunk(Duration::from_secs(15)).expect("the first event").expect("not the end");
        text += &String::from_utf8_lossy(&chunk);
    }
    assert!(text.contains(r#""progressToken":"tok""#), "the caller's own token: {text}");
    go.send(()).expect("the upstream waits");
    while let Some(chunk) = connection.chunk(Duration::from_secs(15)).expect("the rest") {
        text += &String::from_utf8_lossy(&chunk);
    }
    let last = mcp::event_data(&text).pop().unwrap_or_default();
    assert!(last.contains("after the first event") && last.contains(r#""id":6"#), "{text}");
    gateway.stop();
    Ok(())
}

fn chunk(stream: &mut std::net::TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
    stream.flush()
}
