//! MCP messages: envelopes, the checks of 2026-07-28, the methods of both eras.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, CONTENT_TYPE};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::body::{empty, reply, Reply, Stream, JSON, NO_STORE, SSE};
use crate::state::{bump, State};

/// Protocol revision served statelessly.
pub const MODERN: &str = "2026-07-28";
/// Revisions served with the `initialize` handshake, newest first.
pub const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Longest honoured `sleep`.
pub const MAX_SLEEP_MS: u64 = 60_000;

pub const TOOLS: &str = concat!(
    r#"[{"name":"echo","description":"Returns the message unchanged","inputSchema":{"type":"object","properties":{"message":{"type":"string","description":"Text to return"}},"required":["message"]}},"#,
    r#"{"name":"add","description":"Adds two numbers","inputSchema":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]}},"#,
    r#"{"name":"sleep","description":"Answers after ms milliseconds","inputSchema":{"type":"object","properties":{"ms":{"type":"integer","minimum":0,"maximum":60000}},"required":["ms"]}}]"#
);

#[derive(Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize, Default)]
pub struct Params<'a> {
    #[serde(borrow, default)]
    name: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "protocolVersion")]
    protocol_version: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize, Default)]
pub struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
pub struct EchoArgs<'a> {
    /// Kept as raw JSON: it goes back unchanged, without unescaping and escaping.
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
pub struct AddArgs {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
pub struct SleepArgs {
    ms: u64,
}

/// A JSON-RPC outcome: the text of `result`, or an error.
pub enum Outcome {
    Result(String),
    Error { status: StatusCode, code: i32, message: String, data: Option<String> },
}

impl Outcome {
    fn error(status: StatusCode, code: i32, message: impl Into<String>) -> Self {
        Outcome::Error { status, code, message: message.into(), data: None }
    }
}

pub fn json_string(s: &str) -> String {
    serde_json::to_string(s).expect("a string always serialises")
}

/// Wraps an outcome as a JSON-RPC message (and as one SSE event when `sse`).
pub fn envelope(id: &str, outcome: Outcome, sse: bool) -> Reply {
    let mut out = String::with_capacity(256);
    if sse {
        out.push_str("event: message\ndata: ");
    }
    out.push_str(r#"{"jsonrpc":"2.0","id":"#);
    out.push_str(id);
    let mut status = StatusCode::OK;
    match outcome {
        Outcome::Result(r) => {
            out.push_str(r#","result":"#);
            out.push_str(&r);
        }
        Outcome::Error { status: s, code, message, data } => {
            status = s;
            out.push_str(r#","error":{"code":"#);
            out.push_str(&code.to_string());
            out.push_str(r#","message":"#);
            out.push_str(&json_string(&message));
            if let Some(d) = data {
                out.push_str(r#","data":"#);
                out.push_str(&d);
            }
            out.push('}');
        }
    }
    out.push('}');
    if sse {
        out.push_str("\n\n");
        let mut r = reply(status, Some(SSE), out);
        r.headers_mut().insert(hyper::header::CACHE_CONTROL, NO_STORE);
        r
    } else {
        reply(status, Some(JSON), out)
    }
}

pub fn text_result(modern: bool, raw_text: &str, is_error: bool) -> String {
    let mut s = String::with_capacity(raw_text.len() + 96);
    s.push('{');
    if modern {
        s.push_str(r#""resultType":"complete","#);
    }
    s.push_str(r#""content":[{"type":"text","text":"#);
    s.push_str(raw_text);
    s.push_str(r#"}],"isError":"#);
    s.push_str(if is_error { "true}" } else { "false}" });
    s
}

/// Formats a number as JSON does: without a fraction when it is a whole number.
pub fn number(x: f64) -> String {
    if x.fract() == 0.0 && x.abs() < 9.0e15 {
        format!("{}", x as i64)
    } else {
        serde_json::to_string(&x).unwrap_or_else(|_| "null".into())
    }
}

pub async fn call_tool(p: &Params<'_>, modern: bool) -> Outcome {
    let args = p.arguments.map_or("{}", RawValue::get);
    let bad = |e: serde_json::Error| {
        Outcome::Result(text_result(modern, &json_string(&format!("invalid arguments: {e}")), true))
    };
    match p.name.as_deref() {
        Some("echo") => match serde_json::from_str::<EchoArgs>(args) {
            Ok(a) if a.message.get().starts_with('"') => {
                Outcome::Result(text_result(modern, a.message.get(), false))
            }
            Ok(_) => Outcome::Result(text_result(modern, r#""message must be a string""#, true)),
            Err(e) => bad(e),
        },
        Some("add") => match serde_json::from_str::<AddArgs>(args) {
            Ok(a) => Outcome::Result(text_result(modern, &json_string(&number(a.a + a.b)), false)),
            Err(e) => bad(e),
        },
        Some("sleep") => match serde_json::from_str::<SleepArgs>(args) {
            Ok(a) => {
                let ms = a.ms.min(MAX_SLEEP_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Outcome::Result(text_result(modern, &json_string(&format!("slept {ms}")), false))
            }
            Err(e) => bad(e),
        },
        Some(other) => Outcome::error(StatusCode::OK, -32602, format!("Unknown tool: {other}")),
        None => Outcome::error(StatusCode::OK, -32602, "params.name is missing"),
    }
}

pub fn header<'a>(h: &'a HeaderMap, name: &str) -> Option<&'a str> {
    h.get(name).and_then(|v| v.to_str().ok())
}

/// The checks that revision 2026-07-28 asks of a server that reads the body.
pub fn modern_check(h: &HeaderMap, method: &str, p: &Params<'_>) -> Result<(), Outcome> {
    let mismatch = |m: String| Outcome::error(StatusCode::BAD_REQUEST, -32020, m);
    let declared = p.meta.as_ref().and_then(|m| m.protocol_version.as_deref());
    let in_header = header(h, "mcp-protocol-version");
    let version = match (in_header, declared) {
        (Some(a), Some(b)) if a == b => a,
        (a, b) => {
            return Err(mismatch(format!(
                "Header mismatch: MCP-Protocol-Version {a:?} does not match body value {b:?}"
            )))
        }
    };
    if version != MODERN {
        return Err(Outcome::Error {
            status: StatusCode::BAD_REQUEST,
            code: -32022,
            message: "Unsupported protocol version".into(),
            data: Some(format!(r#"{{"supported":["{MODERN}"],"requested":{}}}"#, json_string(version))),
        });
    }
    if header(h, "mcp-method") != Some(method) {
        return Err(mismatch(format!(
            "Header mismatch: Mcp-Method {:?} does not match body value '{method}'",
            header(h, "mcp-method")
        )));
    }
    if method == "tools/call" && header(h, "mcp-name") != p.name.as_deref() {
        return Err(mismatch(format!(
            "Header mismatch: Mcp-Name {:?} does not match body value {:?}",
            header(h, "mcp-name"),
            p.name
        )));
    }
    Ok(())
}

pub async fn mcp_post(state: &Rc<State>, headers: &HeaderMap, body: &[u8], sse: bool) -> Reply {
    let env: Envelope = match serde_json::from_slice(body) {
        Ok(e) => e,
        Err(e) => {
            let o = Outcome::error(StatusCode::BAD_REQUEST, -32700, format!("Parse error: {e}"));
            return envelope("null", o, false);
        }
    };
    let params = env.params.unwrap_or_default();
    let Some(method) = env.method.as_deref() else {
        // A client's response to a server request: nothing here ever asks, so just accept it.
        return empty(StatusCode::ACCEPTED);
    };
    let modern = method != "initialize"
        && (params.meta.as_ref().is_some_and(|m| m.protocol_version.is_some())
            || header(headers, "mcp-protocol-version") == Some(MODERN));
    let Some(id) = env.id.map(RawValue::get) else {
        return empty(StatusCode::ACCEPTED);
    };

    if modern {
        bump(&state.n.modern);
        if let Err(o) = modern_check(headers, method, &params) {
            return envelope(id, o, false);
        }
    } else if let Some(s) = header(headers, "mcp-session-id") {
        if method != "initialize" && !state.sessions.borrow().contains(s) {
            return envelope(id, Outcome::error(StatusCode::NOT_FOUND, -32001, "Session not found"), false);
        }
    }

    let outcome = match method {
        "tools/call" => {
            bump(&state.n.calls);
            call_tool(&params, modern).await
        }
        "tools/list" => {
            bump(&state.n.lists);
            Outcome::Result(if modern {
                format!(r#"{{"resultType":"complete","tools":{TOOLS},"ttlMs":300000,"cacheScope":"public"}}"#)
            } else {
                format!(r#"{{"tools":{TOOLS}}}"#)
            })
        }
        "ping" if !modern => Outcome::Result("{}".into()),
        "initialize" => {
            bump(&state.n.initializes);
            let asked = params.protocol_version.as_deref().unwrap_or(LEGACY[0]);
            let version = LEGACY.iter().find(|v| **v == asked).unwrap_or(&LEGACY[0]);
            let o = Outcome::Result(format!(
                r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":false}}}},"serverInfo":{{"name":"fastup","version":"{}"}},"instructions":{}}}"#,
                env!("CARGO_PKG_VERSION"),
                json_string(&state.instructions),
            ));
            let mut r = envelope(id, o, sse);
            let sid = HeaderValue::from_str(&state.new_session()).expect("hex is a valid header");
            r.headers_mut().insert("mcp-session-id", sid);
            return r;
        }
        "server/discover" => Outcome::Result(format!(
            r#"{{"resultType":"complete","supportedVersions":["{MODERN}"],"capabilities":{{"tools":{{}}}},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"fastup","version":"{}"}}}},"instructions":{},"ttlMs":3600000,"cacheScope":"public"}}"#,
            env!("CARGO_PKG_VERSION"),
            json_string(&state.instructions),
        )),
        "subscriptions/listen" if modern => {
            let first = format!(
                "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":{{\"io.modelcontextprotocol/subscriptionId\":{id}}},\"notifications\":{{}}}}}}\n\n"
            );
            return sse_stream(state, Some(first.into()));
        }
        // Many clients and gateways ask for these whatever the capabilities say.
        "resources/list" => Outcome::Result(listing(modern, "resources")),
        "resources/templates/list" => Outcome::Result(listing(modern, "resourceTemplates")),
        "prompts/list" => Outcome::Result(listing(modern, "prompts")),
        "logging/setLevel" => Outcome::Result("{}".into()),
        other => {
            let status = if modern { StatusCode::NOT_FOUND } else { StatusCode::OK };
            Outcome::error(status, -32601, format!("Method not found: {other}"))
        }
    };
    // An error that carries an HTTP error status is always plain JSON.
    let as_sse = sse && !matches!(&outcome, Outcome::Error { status, .. } if *status != StatusCode::OK);
    envelope(id, outcome, as_sse)
}

pub fn listing(modern: bool, key: &str) -> String {
    if modern {
        format!(r#"{{"resultType":"complete","{key}":[],"ttlMs":300000,"cacheScope":"public"}}"#)
    } else {
        format!(r#"{{"{key}":[]}}"#)
    }
}

pub fn sse_stream(state: &Rc<State>, first: Option<Bytes>) -> Reply {
    let mut r = Response::new(Stream::open(state, first));
    let h = r.headers_mut();
    h.insert(CONTENT_TYPE, SSE);
    h.insert(hyper::header::CACHE_CONTROL, NO_STORE);
    h.insert("x-accel-buffering", HeaderValue::from_static("no"));
    r
}
