//! The demo's upstream: an MCP server of both eras over Streamable HTTP on a loopback port of the kernel's choice.
//!
//! A request with `MCP-Protocol-Version: 2026-07-28` is modern: stateless, with `_meta` and mirrored headers that must
//! agree with the body. Any other is legacy: `initialize`, then a session. Bounds: connections, sessions, body size.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::offer::{self, Outcome};
use crate::answer::json_of;
use crate::body::Body;
use crate::lifecycle::task;

/// The modern revision.
pub const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Connections at a time; the gateway keeps a few per worker.
const MAX_CONNECTIONS: usize = 256;
/// Sessions that are remembered; the oldest one is forgotten, and its client initialises again.
const MAX_SESSIONS: usize = 256;
/// Largest request.
const MAX_BODY: usize = 1024 * 1024;
/// From the end of one request to the end of the next one's head.
const IDLE: Duration = Duration::from_secs(60);
/// One step of a countdown.
const STEP: Duration = Duration::from_millis(100);
/// After an accept that failed, which it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The legacy sessions that were opened and not closed.
#[derive(Default)]
struct Sessions(RefCell<VecDeque<String>>);

impl Sessions {
    fn open(&self) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut open = self.0.borrow_mut();
        if open.len() >= MAX_SESSIONS {
            open.pop_front();
        }
        open.push_back(id.clone());
        id
    }

    fn contains(&self, id: &str) -> bool {
        self.0.borrow().iter().any(|open| open == id)
    }

    fn close(&self, id: &str) -> bool {
        let mut open = self.0.borrow_mut();
        let before = open.len();
        open.retain(|other| other != id);
        open.len() < before
    }
}

/// Binds the port; the URL of the endpoint, and the listener for [`serve`].
pub async fn bind() -> io::Result<(String, TcpListener)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    Ok((url, listener))
}

/// Serves for ever.
pub async fn serve(listener: TcpListener) {
    let sessions = Rc::new(Sessions::default());
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the demo's upstream cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let sessions = Rc::clone(&sessions);
        task::spawn("demo connection", async move {
            let service = service_fn(move |request| {
                let sessions = Rc::clone(&sessions);
                async move { Ok::<_, Infallible>(respond(&sessions, request).await) }
            });
            // A peer that breaks off is no event of interest.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

async fn respond(sessions: &Sessions, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path() != "/mcp" {
        return empty(StatusCode::NOT_FOUND);
    }
    // A browser's page has no business here (DNS rebinding).
    if head.headers.contains_key(ORIGIN) {
        return empty(StatusCode::FORBIDDEN);
    }
    match head.method {
        Method::POST => {}
        Method::DELETE => {
            let closed = header(&head.headers, "mcp-session-id").is_some_and(|id| sessions.close(id));
            return empty(if closed { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND });
        }
        _ => {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
            return response;
        }
    }
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes)
    else {
        return empty(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return error(StatusCode::BAD_REQUEST, &Value::Null, -32700, "the body is not JSON", Value::Null);
    };
    let Some(method) = message["method"].as_str() else {
        return error(StatusCode::BAD_REQUEST, &message["id"], -32600, "not a request", Value::Null);
    };
    if message["id"].is_null() {
        return empty(StatusCode::ACCEPTED);
    }
    match header(&head.headers, "mcp-protocol-version") {
        Some(MODERN) => modern(&head.headers, method, &message),
        Some(version) if !LEGACY.contains(&version) => {
            let data = json!({ "supported": [MODERN], "requested": version });
            error(StatusCode::BAD_REQUEST, &message["id"], -32022, "unsupported protocol version", data)
        }
        _ => legacy(sessions, &head.headers, method, &message),
    }
}

fn modern(headers: &HeaderMap, method: &str, message: &Value) -> Response<Body> {
    let (id, params) = (&message["id"], &message["params"]);
    if let Err((code, text)) = check_modern(headers, method, params) {
        return error(StatusCode::BAD_REQUEST, id, code, text, Value::Null);
    }
    let outcome = if method == "server/discover" {
        Outcome::Result(json!({
            "supportedVersions": [MODERN], "capabilities": offer::capabilities(), "instructions": offer::INSTRUCTIONS
        }))
    } else {
        offer::answer(method, params)
    };
    let complete = |mut result: Value| {
        result["resultType"] = json!("complete");
        result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": offer::server_info() });
        // The six results that a client may keep; nothing here depends on who asks.
        if !matches!(method, "tools/call" | "prompts/get") {
            result["ttlMs"] = json!(60_000);
            result["cacheScope"] = json!("public");
        }
        result
    };
    finish(outcome, id, params, complete)
}

/// What 2026-07-28 has a server check before it looks at the method: the code and text of the refusal.
fn check_modern(headers: &HeaderMap, method: &str, params: &Value) -> Result<(), (i64, &'static str)> {
    let meta = &params["_meta"];
    match meta["io.modelcontextprotocol/protocolVersion"].as_str() {
        Some(MODERN) => {}
        Some(_) => return Err((-32020, "MCP-Protocol-Version differs from _meta")),
        None => return Err((-32602, "_meta lacks io.modelcontextprotocol/protocolVersion")),
    }
    if !meta["io.modelcontextprotocol/clientCapabilities"].is_object() {
        return Err((-32602, "_meta lacks io.modelcontextprotocol/clientCapabilities"));
    }
    if header(headers, "mcp-method") != Some(method) {
        return Err((-32020, "Mcp-Method is missing or differs from the method"));
    }
    let mirrored = match method {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        _ => return Ok(()),
    };
    match (header(headers, "mcp-name").and_then(decode), mirrored) {
        (Some(name), Some(mirrored)) if name == mirrored => Ok(()),
        (_, None) => Ok(()),
        _ => Err((-32020, "Mcp-Name is missing or differs from the name")),
    }
}

/// A header value that may be in the form `=?base64?…?=`.
fn decode(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => {
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()
        }
        None => Some(value.to_owned()),
    }
}

fn legacy(sessions: &Sessions, headers: &HeaderMap, method: &str, message: &Value) -> Response<Body> {
    let (id, params) = (&message["id"], &message["params"]);
    if method == "initialize" {
        let asked = params["protocolVersion"].as_str().unwrap_or_default();
        let version = LEGACY.iter().find(|version| **version == asked).unwrap_or(&LEGACY[0]);
        let result = json!({
            "protocolVersion": version, "capabilities": offer::capabilities(), "serverInfo": offer::server_info(),
            "instructions": offer::INSTRUCTIONS
        });
        let mut response = finish(Outcome::Result(result), id, params, |result| result);
        if let Ok(session) = HeaderValue::from_str(&sessions.open()) {
            response.headers_mut().insert("mcp-session-id", session);
        }
        return response;
    }
    match header(headers, "mcp-session-id") {
        None => {
            return error(StatusCode::BAD_REQUEST, id, -32600, "no session: initialize first", Value::Null);
        }
        Some(session) if !sessions.contains(session) => {
            return error(
                StatusCode::NOT_FOUND,
                id,
                -32600,
                "this session has ended: initialize again",
                Value::Null,
            );
        }
        Some(_) => {}
    }
    let outcome = if method == "ping" { Outcome::Result(json!({})) } else { offer::answer(method, params) };
    finish(outcome, id, params, |result| result)
}

/// Writes an outcome; `complete` adds what the era wants in a result.
fn finish(outcome: Outcome, id: &Value, params: &Value, complete: impl Fn(Value) -> Value) -> Response<Body> {
    match outcome {
        Outcome::Result(result) => {
            json_of(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": id, "result": complete(result) }))
        }
        Outcome::Error(code, text) => {
            let modern = params["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
            let status = match code {
                -32601 if modern => StatusCode::NOT_FOUND,
                _ => StatusCode::OK,
            };
            error(status, id, code, &text, Value::Null)
        }
        Outcome::Countdown(from) => {
            let result = complete(offer::text(format!("Counted down from {from}.")));
            let last = json!({ "jsonrpc": "2.0", "id": id, "result": result });
            countdown(from, params["_meta"]["progressToken"].clone(), last)
        }
    }
}

/// A stream of progress notifications, where they were asked for, and the answer. It ends when its reader is gone.
fn countdown(from: u64, token: Value, last: Value) -> Response<Body> {
    let (writer, body) = Body::stream();
    task::spawn("demo countdown", async move {
        for done in 1..=from {
            tokio::select! {
                () = writer.closed() => return,
                () = tokio::time::sleep(STEP) => {}
            }
            if token.is_null() {
                continue;
            }
            let note = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": {
                "progressToken": token, "progress": done, "total": from, "message": format!("{} to go", from - done)
            } });
            if writer.send(event(&note)).await.is_err() {
                return;
            }
        }
        // The reader may have gone just now; then nobody misses the answer.
        let _ = writer.send(event(&last)).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

fn error(status: StatusCode, id: &Value, code: i64, text: &str, data: Value) -> Response<Body> {
    let mut error = json!({ "code": code, "message": text });
    if !data.is_null() {
        error["data"] = data;
    }
    let mut message = json!({ "jsonrpc": "2.0", "error": error });
    if !id.is_null() {
        message["id"] = id.clone();
    }
    json_of(status, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_session_makes_way() {
        let sessions = Sessions::default();
        let first = sessions.open();
        assert!(sessions.contains(&first));
        let last = (0..MAX_SESSIONS).map(|_| sessions.open()).last().expect("some");
        assert!(!sessions.contains(&first));
        assert!(sessions.close(&last) && !sessions.close(&last));
    }
}
