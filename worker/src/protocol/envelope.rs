//! The JSON-RPC envelope, borrowed: which members an object has and where in the text their values stand.
//!
//! Values are never decoded unless somebody asks, so whatever a peer sent (big numbers, key order, unknown members)
//! is still there byte for byte when the text is spliced and sent on. Objects whose members decide something are
//! refused when a key appears twice: two readers of such a text could disagree.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::quote;

/// Deepest nesting of arrays and objects in a message: serde_json's own limit for typed values, which does not hold
/// for raw ones. Whoever reads the message after us may recurse.
pub const MAX_DEPTH: usize = 128;
/// Most members of an object whose keys the protocol defines: far more than any revision has.
const MAX_MEMBERS: usize = 256;
/// Most members of an object with keys of somebody's own, as a result has: each costs 40 bytes while we look at it.
const MAX_DATA_MEMBERS: usize = 1 << 16;

/// Why a text is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not UTF-8, or not JSON: -32700.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON, but not a JSON-RPC 2.0 message: -32600.
    #[error("the body is not a JSON-RPC 2.0 message: {0}")]
    NotRpc(String),
    /// An array.
    #[error("JSON-RPC batches are not served; send one message per request")]
    Batch,
}

/// An object's members in their order, values as they stand in the text.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    text: &'a str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// What a message is.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// It wants an answer.
    Request {
        /// String or number, as it stands in the text.
        id: &'a RawValue,
        /// `method`.
        method: Cow<'a, str>,
    },
    /// It wants none.
    Notification {
        /// `method`.
        method: Cow<'a, str>,
    },
    /// A result or an error.
    Response {
        /// Absent or null when the peer could not read the request's.
        id: Option<&'a RawValue>,
    },
}

/// A message and its members.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// All members.
    pub object: Object<'a>,
    /// What it is.
    pub message: Message<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads one message.
    pub fn parse(body: &'a [u8]) -> Result<Envelope<'a>, Malformed> {
        let text = std::str::from_utf8(body).map_err(|error| Malformed::NotJson(error.to_string()))?;
        check_depth(text)?;
        if text.trim_start().starts_with('[') {
            // A broken array is no batch but no JSON.
            let whole: Result<&RawValue, _> = serde_json::from_str(text);
            return Err(
                whole.map_or_else(|error| Malformed::NotJson(error.to_string()), |_| Malformed::Batch)
            );
        }
        let object = Object::parse(text)?;
        object.refuse_duplicates().map_err(Malformed::NotRpc)?;
        let message = Message::of(&object)?;
        Ok(Envelope { object, message })
    }

    /// The whole text.
    pub fn text(&self) -> &'a str {
        self.object.text
    }
}

impl<'a> Message<'a> {
    fn of(object: &Object<'a>) -> Result<Message<'a>, Malformed> {
        let not_rpc = |what: &str| Malformed::NotRpc(what.to_owned());
        if object.get("jsonrpc").and_then(string).as_deref() != Some("2.0") {
            return Err(not_rpc("`jsonrpc` must be \"2.0\""));
        }
        let id = object.get("id");
        let Some(method) = object.get("method") else {
            if object.get("result").is_some() == object.get("error").is_some() {
                return Err(not_rpc("it has neither a `method` nor one of `result` and `error`"));
            }
            return Ok(Message::Response { id: id.filter(|id| is_id(id)) });
        };
        let method = string(method).ok_or_else(|| not_rpc("`method` must be a string"))?;
        match id {
            None => Ok(Message::Notification { method }),
            Some(id) if is_id(id) => Ok(Message::Request { id, method }),
            Some(_) => Err(not_rpc("`id` must be a string or a number")),
        }
    }
}

fn is_id(raw: &RawValue) -> bool {
    matches!(raw.get().as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

fn check_depth(text: &str) -> Result<(), Malformed> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in text.as_bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Malformed::NotRpc(format!("it is nested more than {MAX_DEPTH} levels deep")));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// A raw JSON string's contents; none when the value is no string.
pub fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(text).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

impl<'a> Object<'a> {
    /// Takes an object apart; `text` is all of it.
    pub fn parse(text: &'a str) -> Result<Object<'a>, Malformed> {
        Object::parse_within(text, MAX_MEMBERS)
    }

    /// As [`Object::parse`], with as many members as somebody's own data may have.
    pub fn parse_data(raw: &'a RawValue) -> Result<Object<'a>, Malformed> {
        Object::parse_within(raw.get(), MAX_DATA_MEMBERS)
    }

    fn parse_within(text: &'a str, max_members: usize) -> Result<Object<'a>, Malformed> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer
            .deserialize_map(Members(max_members))
            .and_then(|members| deserializer.end().map(|()| members))
            .map_err(|error| match error.classify() {
                serde_json::error::Category::Data => Malformed::NotRpc(error.to_string()),
                _ => Malformed::NotJson(error.to_string()),
            })?;
        Ok(Object { text, members })
    }

    /// An object that is a value of another one; none when the value is no object.
    pub fn of(raw: &'a RawValue) -> Option<Object<'a>> {
        raw.get().starts_with('{').then(|| Object::parse(raw.get()).ok()).flatten()
    }

    /// The value of the first member with this key.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(name, _)| name == key).map(|&(_, value)| value)
    }

    /// A member that is an object.
    pub fn object(&self, key: &str) -> Option<Object<'a>> {
        self.get(key).and_then(Object::of)
    }

    /// All members in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|(name, value)| (&**name, *value))
    }

    /// The whole text of the object, from brace to brace.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The name of a key that appears twice, as an error text.
    pub fn refuse_duplicates(&self) -> Result<(), String> {
        for (index, (name, _)) in self.members.iter().enumerate() {
            if self.members[..index].iter().any(|(other, _)| other == name) {
                return Err(format!("the key {} appears twice", quote(name)));
            }
        }
        Ok(())
    }
}

/// Where `part` stands in `whole`, of which it is a slice.
pub fn span(whole: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    let end = start.wrapping_add(part.len());
    assert!(start <= end && end <= whole.len(), "not a slice of the text");
    start..end
}

/// Collects members, so many at most.
struct Members(usize);

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if members.len() == self.0 {
                return Err(serde::de::Error::custom(format!("an object has more than {} members", self.0)));
            }
            members.push((key.0, map.next_value()?));
        }
        Ok(members)
    }
}

/// The value of the first member with this key in an object of any size; the others are only read over.
pub fn member<'a>(raw: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    deserializer.deserialize_map(Find(key)).ok().flatten()
}

struct Find<'k>(&'k str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if found.is_none() && key.0 == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A key, borrowed unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(body: &str) -> String {
        match Envelope::parse(body.as_bytes()) {
            Ok(Envelope { message: Message::Request { id, method }, .. }) => {
                format!("request {} {method}", id.get())
            }
            Ok(Envelope { message: Message::Notification { method }, .. }) => {
                format!("notification {method}")
            }
            Ok(Envelope { message: Message::Response { id }, .. }) => {
                format!("response {:?}", id.map(RawValue::get))
            }
            Err(Malformed::NotJson(_)) => "-32700".to_owned(),
            Err(Malformed::NotRpc(_)) => "-32600".to_owned(),
            Err(Malformed::Batch) => "batch".to_owned(),
        }
    }

    #[test]
    fn every_shape_is_told_apart() {
        for (body, want) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "request 1 ping"),
            (r#" {"method":"ping","id":"a\"b","jsonrpc":"2.0"} "#, r#"request "a\"b" ping"#),
            (r#"{"jsonrpc":"2.0","id":1e400,"method":"ping"}"#, "request 1e400 ping"),
            (
                r#"{"jsonrpc":"2.0","id":18446744073709551616,"m\u0065thod":"p"}"#,
                "request 18446744073709551616 p",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
                "notification notifications/initialized",
            ),
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, r#"response Some("7")"#),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "response None"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "-32600"),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, "-32600"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, "-32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, "-32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":1}"#, "-32600"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "-32600"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "-32600"),
            (r#""text""#, "-32600"),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "batch"),
            ("[1", "-32700"),
            ("{", "-32700"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}x"#, "-32700"),
            ("", "-32700"),
        ] {
            assert_eq!(kind(body), want, "{body}");
        }
        assert!(matches!(Envelope::parse(b"\xff{}"), Err(Malformed::NotJson(_))));
    }

    #[test]
    fn nesting_is_bounded_although_raw_values_are_not() {
        let nested = |n: usize| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{}{}}}"#, "[".repeat(n), "]".repeat(n))
        };
        let raw: Result<&RawValue, _> = serde_json::from_str("[[[[[[[[[[]]]]]]]]]]");
        assert!(raw.is_ok());
        assert!(Envelope::parse(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(kind(&nested(MAX_DEPTH)), "-32600");
        assert_eq!(kind(&nested(1_000_000)), "-32600");
        let brackets = r#"{"jsonrpc":"2.0","id":"\"[[[","method":"m"}"#.replace("[[[", &"[".repeat(999));
        assert!(Envelope::parse(brackets.as_bytes()).is_ok(), "brackets in strings do not nest");
    }

    #[test]
    fn data_may_have_more_members_than_the_protocol_defines() {
        let many: Vec<String> = (0..1000).map(|n| format!(r#""k{n}":{n}"#)).collect();
        let many = format!(r#"{{{},"k\u0031":"late"}}"#, many.join(","));
        assert!(Object::parse(&many).is_err());
        let raw: &RawValue = serde_json::from_str(&many).expect("JSON");
        assert_eq!(Object::parse_data(raw).expect("data").members().count(), 1001);
        let found = |key| member(raw, key).map(RawValue::get);
        assert_eq!((found("k999"), found("k1"), found("k1000")), (Some("999"), Some("1"), None));
        let number: &RawValue = serde_json::from_str("5").expect("JSON");
        assert!(member(number, "k").is_none() && Object::parse_data(number).is_err());
        let endless = format!("{{{}}}", vec![r#""":1"#; MAX_DATA_MEMBERS + 1].join(","));
        let raw: &RawValue = serde_json::from_str(&endless).expect("JSON");
        assert!(Object::parse_data(raw).is_err_and(|why| why.to_string().contains("65536 members")));
    }

    #[test]
    fn values_are_slices_of_the_text() {
        let body = r#"{"jsonrpc" : "2.0", "id": 5 ,"method":"m"}"#;
        let envelope = Envelope::parse(body.as_bytes()).expect("parses");
        let Message::Request { id, .. } = envelope.message else { panic!("a request") };
        assert_eq!(&body[span(body, id.get())], "5");
    }
}
