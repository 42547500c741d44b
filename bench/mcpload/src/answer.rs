//! Answers: JSON or one event of a stream, checked against the request's id.

use hyper::header::CONTENT_TYPE;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::Failure;

#[derive(Deserialize)]
pub struct Message<'a> {
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub result: Option<&'a RawValue>,
    #[serde(default)]
    pub error: Option<RpcError>,
}

#[derive(Deserialize)]
pub struct RpcError {
    pub code: i64,
}

#[derive(Deserialize)]
pub struct CallResult<'a> {
    #[serde(borrow, default)]
    pub content: Vec<Content<'a>>,
    #[serde(default, rename = "isError")]
    pub is_error: bool,
}

#[derive(Deserialize)]
pub struct Content<'a> {
    #[serde(borrow, default)]
    pub text: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
pub struct ListResult<'a> {
    #[serde(borrow)]
    pub tools: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
pub struct InitResult {
    #[serde(rename = "protocolVersion")]
    pub protocol_version: String,
}

/// The payloads of the SSE events in `body` (multi-line data joined with newlines).
pub fn sse_events(body: &str) -> Vec<String> {
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    for line in body.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)) {
        if line.is_empty() {
            events.extend(data.take());
        } else if let Some(d) = line.strip_prefix("data:") {
            let d = d.strip_prefix(' ').unwrap_or(d);
            match &mut data {
                None => data = Some(d.to_string()),
                Some(s) => {
                    s.push('\n');
                    s.push_str(d);
                }
            }
        }
    }
    events.extend(data.take());
    events
}

/// Finds the answer to `id` in a response, and hands its `result` to `check`.
pub fn answer<T>(
    head: &hyper::http::response::Parts,
    body: &[u8],
    id: &str,
    check: impl FnOnce(&str) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::Parse)?;
    let is_sse = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("text/event-stream"));
    let events;
    let text = if is_sse {
        events = sse_events(text);
        let mine = events
            .iter()
            .find(|e| serde_json::from_str::<Message>(e).is_ok_and(|m| m.id.is_some_and(|i| i.get() == id)));
        match mine {
            Some(e) => e.as_str(),
            None if head.status.is_success() => return Err(Failure::Mismatch),
            None => return Err(Failure::Http(head.status.as_u16())),
        }
    } else {
        text
    };
    let message: Result<Message, _> = serde_json::from_str(text);
    if !head.status.is_success() {
        return Err(match message {
            Ok(Message { error: Some(e), .. }) if head.status != StatusCode::NOT_FOUND => {
                Failure::Rpc(e.code)
            }
            _ => Failure::Http(head.status.as_u16()),
        });
    }
    let m = message.map_err(|_| Failure::Parse)?;
    if let Some(e) = m.error {
        return Err(Failure::Rpc(e.code));
    }
    match (m.id, m.result) {
        (Some(i), Some(r)) if i.get() == id => check(r.get()),
        _ => Err(Failure::Mismatch),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    #[test]
    fn sse_bodies_are_split_into_events() {
        let body = ": open\r\n\r\nevent: message\r\nid: 1\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:{}\n\n";
        assert_eq!(sse_events(body), ["{\"a\":\n1}", "{}"]);
        assert_eq!(sse_events("data: last"), ["last"]);
        assert!(sse_events(":\n\n").is_empty());
    }

    fn parts(status: u16, content_type: &str) -> hyper::http::response::Parts {
        Response::builder().status(status).header(CONTENT_TYPE, content_type).body(()).unwrap().into_parts().0
    }

    fn check(status: u16, content_type: &str, body: &str) -> Result<String, Failure> {
        answer(&parts(status, content_type), body.as_bytes(), "7", |r| Ok(r.to_string()))
    }

    #[test]
    fn answers_are_checked() {
        let json = "application/json";
        let sse = "text/event-stream; charset=utf-8";
        let good = r#"{"jsonrpc":"2.0","id":7,"result":{"x":1}}"#;
        assert_eq!(check(200, json, good).unwrap(), r#"{"x":1}"#);
        let event = format!("data: {{\"method\":\"n\"}}\n\nevent: message\ndata: {good}\n\n");
        assert_eq!(check(200, sse, &event).unwrap(), r#"{"x":1}"#);
        let other = r#"{"jsonrpc":"2.0","id":8,"result":{}}"#;
        assert_eq!(check(200, json, other), Err(Failure::Mismatch));
        assert_eq!(check(200, sse, &format!("data: {other}\n\n")), Err(Failure::Mismatch));
        let error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}"#;
        assert_eq!(check(200, json, error), Err(Failure::Rpc(-32601)));
        assert_eq!(check(404, json, error), Err(Failure::Http(404)));
        assert_eq!(check(503, json, "busy"), Err(Failure::Http(503)));
        assert_eq!(check(200, json, "{"), Err(Failure::Parse));
    }
}
