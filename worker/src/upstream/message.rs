//! What an upstream's message is, as far as this layer needs to know.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A message's members, those that matter.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// Of a request or a response.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// Of a request or a notification.
    #[serde(borrow, default)]
    pub method: Option<Cow<'a, str>>,
    /// Of a response.
    #[serde(borrow, default)]
    pub result: Option<&'a RawValue>,
    /// Of a response.
    #[serde(borrow, default)]
    pub error: Option<RpcError<'a>>,
}

/// A JSON-RPC error.
#[derive(Debug, Deserialize)]
pub struct RpcError<'a> {
    /// `code`.
    #[serde(default)]
    pub code: i64,
    /// `message`.
    #[serde(borrow, default)]
    pub message: Cow<'a, str>,
    /// `data`.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads a message; none when it is no JSON object.
    pub fn parse(text: &'a [u8]) -> Option<Message<'a>> {
        serde_json::from_slice(text).ok()
    }

    /// True for a response.
    pub fn is_response(&self) -> bool {
        self.method.is_none() && (self.result.is_some() || self.error.is_some())
    }
}

/// The code of a body that is a JSON-RPC error.
pub fn error_code(body: &[u8]) -> Option<i64> {
    Message::parse(body)?.error.map(|error| error.code)
}

/// At most `limit` characters of an upstream's text, for our own messages.
pub fn excerpt(text: &str, limit: usize) -> String {
    let mut short: String = text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
