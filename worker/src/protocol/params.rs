//! `params` of a request, as far as the gateway looks into them.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::envelope::{Envelope, Object, string};
use crate::failure::Failure;

/// `params` and their `_meta`.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    /// All members.
    pub object: Object<'a>,
    /// `_meta`.
    pub meta: Option<Object<'a>>,
}

impl<'a> Params<'a> {
    /// The params of a message that has some. A key that appears twice is refused: the upstream could read the other one.
    pub fn of(envelope: &Envelope<'a>) -> Result<Option<Params<'a>>, Failure> {
        let Some(raw) = envelope.object.get("params") else { return Ok(None) };
        let invalid = |what: &str| Failure::InvalidParams(what.to_owned());
        let object = Object::of(raw).ok_or_else(|| invalid("`params` must be an object"))?;
        object.refuse_duplicates().map_err(Failure::InvalidParams)?;
        let meta = match object.get("_meta") {
            None => None,
            Some(raw) => {
                let meta = Object::of(raw).ok_or_else(|| invalid("`_meta` must be an object"))?;
                meta.refuse_duplicates().map_err(Failure::InvalidParams)?;
                Some(meta)
            }
        };
        Ok(Some(Params { object, meta }))
    }

    /// A member that must be a string.
    pub fn string(&self, key: &str) -> Result<Cow<'a, str>, Failure> {
        let value = self.object.get(key).and_then(string);
        value.ok_or_else(|| Failure::InvalidParams(format!("`{key}` must be a string")))
    }

    /// `_meta.progressToken`, when it is a string or a number.
    pub fn progress_token(&self) -> Option<&'a RawValue> {
        let token = self.meta.as_ref()?.get("progressToken")?;
        matches!(token.get().as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')).then_some(token)
    }
}
