//! MCP as bytes: requests of both eras over a plain connection, and what their answers say.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Answer, Connection, Failure, Request};

/// The stateless revision.
pub const MODERN: &str = "2026-07-28";
/// The newest revision with sessions.
pub const LEGACY: &str = "2025-11-25";
/// What clients say they take.
pub const ACCEPT: &str = "application/json, text/event-stream";

/// How to speak to one MCP endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// For instance `/mcp`.
    pub path: String,
    /// The bearer token.
    pub token: String,
}

impl Endpoint {
    fn post(&self, body: String) -> Request {
        Request::new("POST", &self.path).token(&self.token).header("Accept", ACCEPT).json(body)
    }

    /// `initialize`.
    pub fn initialize(&self) -> Request {
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "forkgate-tests", "version": "1"}}});
        self.post(body.to_string())
    }

    /// A request within a legacy session; `params` is JSON text, used as it is.
    pub fn legacy(&self, session: &str, id: u64, method: &str, params: &str) -> Request {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        self.post(body).header("Mcp-Session-Id", session).header("MCP-Protocol-Version", LEGACY)
    }

    /// A notification within a legacy session.
    pub fn initialized(&self, session: &str) -> Request {
        self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned())
            .header("Mcp-Session-Id", session)
            .header("MCP-Protocol-Version", LEGACY)
    }

    /// The standing stream of a legacy session.
    pub fn listen(&self, session: &str) -> Request {
        Request::new("GET", &self.path)
            .token(&self.token)
            .header("Accept", "text/event-stream")
            .header("Mcp-Session-Id", session)
            .header("MCP-Protocol-Version", LEGACY)
    }

    /// The end of a legacy session.
    pub fn delete(&self, session: &str) -> Request {
        Request::new("DELETE", &self.path)
            .token(&self.token)
            .header("Mcp-Session-Id", session)
            .header("MCP-Protocol-Version", LEGACY)
    }

    /// A request of 2026-07-28. `params` is the text of a JSON object's members, `name` what `Mcp-Name` says, `meta` the
    /// text of further members of `_meta`.
    pub fn modern(&self, id: u64, method: &str, name: Option<&str>, params: &str, meta: &str) -> Request {
        let comma = |text: &str| if text.is_empty() { String::new() } else { format!(",{text}") };
        let body = format!(
            concat!(
                r#"{{"jsonrpc":"2.0","id":{},"method":"{}","params":{{"_meta":{{"#,
                r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
                r#""io.modelcontextprotocol/clientInfo":{{"name":"forkgate-tests","version":"1"}},"#,
                r#""io.modelcontextprotocol/clientCapabilities":{{}}{}}}{}}}}}"#
            ),
            id,
            method,
            comma(meta),
            comma(params)
        );
        let request = self.post(body).header("MCP-Protocol-Version", MODERN).header("Mcp-Method", method);
        match name {
            Some(name) => request.header("Mcp-Name", name),
            None => request,
        }
    }

    /// A modern `tools/call`.
    pub fn call(&self, id: u64, tool: &str, arguments: &Value) -> Request {
        let params = format!(r#""name":"{tool}","arguments":{arguments}"#);
        self.modern(id, "tools/call", Some(tool), &params, "")
    }

    /// A legacy `tools/call`.
    pub fn legacy_call(&self, session: &str, id: u64, tool: &str, arguments: &Value) -> Request {
        self.legacy(session, id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#))
    }

    /// Opens a legacy session; the session's id.
    pub fn open_session(&self, connection: &mut Connection) -> Result<String, Failure> {
        let hello = connection.exchange(&self.initialize())?;
        let session = hello.head.header("mcp-session-id").map(str::to_owned);
        let session = session.ok_or_else(|| wrong("initialize gave no session", &hello))?;
        if !connection.close_announced {
            let noted = connection.exchange(&self.initialized(&session))?;
            if noted.status() != 202 {
                return Err(wrong("notifications/initialized", &noted));
            }
        }
        Ok(session)
    }
}

/// A [`Failure::Wrong`] that shows the answer.
pub fn wrong(what: &str, answer: &Answer) -> Failure {
    let mut text = answer.text();
    text.truncate(text.char_indices().nth(600).map_or(text.len(), |(at, _)| at));
    Failure::Wrong(format!("{what}: HTTP {} {text}", answer.status()))
}

/// The JSON-RPC message that answers request `id`, whether it came as JSON or as the last of some events.
pub fn message(answer: &Answer, id: u64) -> Result<Value, Failure> {
    messages(answer)?
        .into_iter()
        .rfind(|message| message["id"] == id && message.get("method").is_none())
        .ok_or_else(|| wrong("no message with the id", answer))
}

/// Every JSON-RPC message of an answer.
pub fn messages(answer: &Answer) -> Result<Vec<Value>, Failure> {
    let parse = |text: &[u8]| serde_json::from_slice::<Value>(text).map_err(|_| wrong("not JSON", answer));
    if answer.head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return event_data(&answer.text()).iter().map(|data| parse(data.as_bytes())).collect();
    }
    Ok(vec![parse(&answer.body)?])
}

/// The data of the events in a stretch of an event stream; empty ones (primers) are left out.
pub fn event_data(text: &str) -> Vec<String> {
    text.replace("\r\n", "\n")
        .split("\n\n")
        .map(|event| {
            let data = event.lines().filter_map(|line| line.strip_prefix("data:"));
            data.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
        })
        .filter(|data| !data.is_empty())
        .collect()
}

/// The result that answers request `id`; an error of any kind is a [`Failure::Wrong`].
pub fn result(answer: &Answer, id: u64) -> Result<Value, Failure> {
    if answer.status() != 200 {
        return Err(wrong("not a result", answer));
    }
    let mut message = message(answer, id)?;
    match message.get_mut("result").map(Value::take) {
        Some(result) => Ok(result),
        None => Err(wrong("not a result", answer)),
    }
}

/// The text of a tool's answer.
pub fn tool_text(answer: &Answer, id: u64) -> Result<String, Failure> {
    let result = result(answer, id)?;
    match result["content"][0]["text"].as_str() {
        Some(text) if result["isError"] != true => Ok(text.to_owned()),
        _ => Err(wrong("not a tool's text", answer)),
    }
}

/// A modern list over a connection of its own: the names (or URIs).
pub fn list(
    peer: std::net::SocketAddr,
    endpoint: &Endpoint,
    kind: &str,
    timeout: Duration,
) -> Result<Vec<String>, Failure> {
    let answer =
        crate::http::once(peer, &endpoint.modern(1, &format!("{kind}/list"), None, "", ""), timeout)?;
    let result = result(&answer, 1)?;
    let field = if kind == "resources/templates" { "resourceTemplates" } else { kind };
    let entries = result[field].as_array().ok_or_else(|| wrong("no list", &answer))?;
    let key = if kind == "resources" { "uri" } else { "name" };
    Ok(entries.iter().filter_map(|entry| entry[key].as_str().map(str::to_owned)).collect())
}
