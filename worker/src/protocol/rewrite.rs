//! The named list of what is rewritten in a message that passes through, by byte splicing; all else stays as it was.
//!
//! | direction | what |
//! |---|---|
//! | request | `id`; the name or URI that is routed by; `_meta.progressToken`; `_meta`'s reserved keys, per era |
//! | progress | `params.progressToken` |
//! | result | `id`; `resultType`, `ttlMs`, `cacheScope`, `_meta`'s server info; `structuredContent` and content that old clients cannot read |
//! | error | `id`; `code` where the eras name the same thing differently |

use std::sync::Arc;

use forkgate_shared::rows::Outcome;
use http::StatusCode;

use super::answers::SERVER_INFO_MEMBER;
use super::downgrade::downgrade;
use super::envelope::{Envelope, Malformed, Message, Object, string};
use super::levels;
use super::params::Params;
use super::splice::Splice;
use crate::catalog::{UpstreamEntry, UpstreamEra};
use crate::failure::table::status_of_upstream_code;
use crate::failure::{Era, Failure};
use crate::json::quote;
use crate::revision::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, LEGACY_RESOURCE_NOT_FOUND, METHOD_NOT_FOUND,
    MISSING_CAPABILITY, UNSUPPORTED_VERSION,
};
use crate::upstream::UpstreamError;
use crate::upstream::probe::modern_meta;

/// Prefix of `_meta` keys that the protocol reserves.
const RESERVED_PREFIX: &str = "io.modelcontextprotocol/";
/// The reserved keys that make a request a modern one.
const MODERN_REQUEST_KEYS: [&str; 4] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/logLevel",
];
/// URL elicitation of 2025-11-25, which 2026-07-28 forbids to emit.
const URL_ELICITATION_REQUIRED: i64 = -32042;

/// A method that an upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `tools/call`, by `name`.
    ToolsCall,
    /// `prompts/get`, by `name`.
    PromptsGet,
    /// `resources/read`, by `uri`.
    ResourcesRead,
    /// `completion/complete`, by its `ref`.
    Complete,
}

impl Forwarded {
    /// The method with this name.
    pub fn from_method(method: &str) -> Option<Forwarded> {
        Some(match method {
            "tools/call" => Forwarded::ToolsCall,
            "prompts/get" => Forwarded::PromptsGet,
            "resources/read" => Forwarded::ResourcesRead,
            "completion/complete" => Forwarded::Complete,
            _ => return None,
        })
    }

    /// Its name.
    pub fn method(self) -> &'static str {
        match self {
            Forwarded::ToolsCall => "tools/call",
            Forwarded::PromptsGet => "prompts/get",
            Forwarded::ResourcesRead => "resources/read",
            Forwarded::Complete => "completion/complete",
        }
    }
}

/// What must be known to bring an upstream's messages back to the client. Owned: it may outlive the request's body.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The client's era.
    pub era: Era,
    /// The version that a legacy client's session has.
    pub version: Option<Box<str>>,
    /// What was asked for.
    pub method: Forwarded,
    /// The client's id, as JSON text.
    pub id: Box<str>,
    /// The client's progress token, as JSON text.
    pub progress_token: Option<Box<str>>,
    /// The least severe log level that the client wants (see [`levels`]); none = what the era has for a default.
    pub log_level: Option<u8>,
    /// Who answers.
    pub upstream: Arc<UpstreamEntry>,
}

/// What an upstream's message is to the client.
#[derive(Debug)]
pub enum Incoming {
    /// The response: the message for the client, its status while none was sent, and what it counts as.
    Response(Vec<u8>, StatusCode, Outcome),
    /// Something to pass on before it.
    Notification(Vec<u8>),
    /// Nothing for this client.
    Nothing,
    /// The upstream asks us; the answer to post back.
    Question(Vec<u8>),
}

impl Plan {
    /// True for `tools/call`, whose failures a model may read as a result.
    pub fn is_tool_call(&self) -> bool {
        self.method == Forwarded::ToolsCall
    }

    /// The request for the upstream.
    pub fn request(
        &self,
        envelope: &Envelope<'_>,
        params: Option<&Params<'_>>,
        name: &str,
        era: &UpstreamEra,
        id: u64,
    ) -> Vec<u8> {
        let mut splice = Splice::new(envelope.text());
        if let Message::Request { id: theirs, .. } = envelope.message {
            splice.replace(theirs.get(), id.to_string());
        }
        let reserved = self.reserved_for(era);
        let Some(params) = params else {
            if !reserved.is_empty() {
                splice.edit(&envelope.object, |_| false, &format!(r#""params":{{"_meta":{{{reserved}}}}}"#));
            }
            return splice.finish();
        };
        self.replace_name(&mut splice, params, name);
        if let Some(token) = params.progress_token() {
            splice.replace(token.get(), id.to_string());
        }
        match (&params.meta, era, self.era) {
            (None, ..) if reserved.is_empty() => {}
            (None, ..) => splice.edit(&params.object, |_| false, &format!(r#""_meta":{{{reserved}}}"#)),
            (Some(meta), UpstreamEra::Modern, Era::Legacy) => {
                splice.edit(meta, |key| key.starts_with(RESERVED_PREFIX), &reserved);
            }
            // Extensions need a gateway that routes their methods too: they are not passed on.
            (Some(meta), UpstreamEra::Modern, Era::Modern) => {
                if let Some(capabilities) = meta.object(MODERN_REQUEST_KEYS[2]) {
                    splice.edit(&capabilities, |key| key == "extensions", "");
                }
            }
            (Some(meta), UpstreamEra::Legacy { .. }, _) => {
                splice.edit(meta, |key| MODERN_REQUEST_KEYS.contains(&key), "");
            }
        }
        splice.finish()
    }

    /// The reserved `_meta` members that the gateway adds.
    fn reserved_for(&self, era: &UpstreamEra) -> String {
        if *era != UpstreamEra::Modern || self.era == Era::Modern {
            return String::new();
        }
        let mut members = modern_meta();
        if let Some(level) = self.log_level.and_then(levels::name) {
            members.push_str(&format!(r#","io.modelcontextprotocol/logLevel":"{level}""#));
        }
        members
    }

    fn replace_name(&self, splice: &mut Splice<'_>, params: &Params<'_>, name: &str) {
        let raw = match self.method {
            Forwarded::ToolsCall | Forwarded::PromptsGet => params.object.get("name"),
            Forwarded::ResourcesRead => params.object.get("uri"),
            Forwarded::Complete => {
                params.object.object("ref").and_then(|to| to.get("name").or_else(|| to.get("uri")))
            }
        };
        if let Some(raw) = raw.filter(|raw| string(raw).as_deref() != Some(name)) {
            splice.replace(raw.get(), quote(name));
        }
    }

    /// What an upstream's message is to this client; an error when it makes no sense.
    pub fn incoming(&self, text: &[u8], era: &UpstreamEra, id: u64) -> Result<Incoming, Failure> {
        let nonsense = |what: String| {
            let cause = UpstreamError::Nonsense(what);
            Failure::Upstream { upstream: self.upstream.name.clone(), cause }
        };
        let envelope = Envelope::parse(text).map_err(|error: Malformed| nonsense(error.to_string()))?;
        match &envelope.message {
            Message::Response { id: theirs } => {
                if theirs.is_some_and(|theirs| theirs.get() != id.to_string()) {
                    return Err(nonsense("it answers a request that was not asked".to_owned()));
                }
                match envelope.object.get("error") {
                    Some(error) if error.get().starts_with('{') => Ok(self.error(&envelope, era)),
                    Some(_) => Err(nonsense("its error is no object".to_owned())),
                    // Only an error may lack the id: of a request that could not be read.
                    None if theirs.is_none() => Err(nonsense("its result answers no request".to_owned())),
                    None => self.result(&envelope, era),
                }
            }
            Message::Notification { method } => Ok(self.notification(&envelope, method, id)),
            Message::Request { id: theirs, method } => Ok(Incoming::Question(answer(theirs.get(), method))),
        }
    }

    fn notification(&self, envelope: &Envelope<'_>, method: &str, id: u64) -> Incoming {
        let params = envelope.object.object("params");
        match method {
            "notifications/progress" => {
                let token = params.as_ref().and_then(|params| params.get("progressToken"));
                let (Some(token), Some(theirs)) = (token, &self.progress_token) else {
                    return Incoming::Nothing;
                };
                if token.get() != id.to_string() {
                    return Incoming::Nothing;
                }
                let mut splice = Splice::new(envelope.text());
                splice.replace(token.get(), &**theirs);
                Incoming::Notification(splice.finish())
            }
            "notifications/message" => {
                let level = params
                    .and_then(|params| params.get("level").and_then(string).and_then(|l| levels::parse(&l)));
                let is_wanted = match (self.log_level, self.era) {
                    (Some(least), _) => level.is_none_or(|level| level >= least),
                    (None, Era::Legacy) => true,
                    // 2026-07-28: never without `logLevel` in the request.
                    (None, Era::Modern) => false,
                };
                if is_wanted { Incoming::Notification(envelope.text().into()) } else { Incoming::Nothing }
            }
            // Facts about the upstream, not about this request; a client's own stream is where they belong.
            "notifications/cancelled" | "notifications/resources/updated" => Incoming::Nothing,
            _ if method.ends_with("/list_changed") => Incoming::Nothing,
            _ => Incoming::Notification(envelope.text().into()),
        }
    }

    fn respond<'a>(&'a self, envelope: &Envelope<'a>) -> Splice<'a> {
        let mut splice = Splice::new(envelope.text());
        match envelope.object.get("id") {
            Some(theirs) => splice.replace(theirs.get(), &*self.id),
            None => splice.edit(&envelope.object, |_| false, &format!(r#""id":{}"#, self.id)),
        }
        splice
    }

    fn error(&self, envelope: &Envelope<'_>, era: &UpstreamEra) -> Incoming {
        let mut splice = self.respond(envelope);
        let raw = envelope.object.object("error").and_then(|error| error.get("code"));
        let code = raw.and_then(|raw| raw.get().parse::<i64>().ok()).unwrap_or(INTERNAL_ERROR);
        let theirs = self.client_code(code, era);
        if let Some(raw) = raw.filter(|_| theirs != code) {
            splice.replace(raw.get(), theirs.to_string());
        }
        Incoming::Response(splice.finish(), status_of_upstream_code(self.era, theirs), Outcome::RpcError)
    }

    /// An upstream's error code in the client's era.
    fn client_code(&self, code: i64, era: &UpstreamEra) -> i64 {
        let is_from_modern = *era == UpstreamEra::Modern;
        match (self.era, code) {
            (Era::Modern, LEGACY_RESOURCE_NOT_FOUND) => INVALID_PARAMS,
            (Era::Modern, URL_ELICITATION_REQUIRED) => INTERNAL_ERROR,
            (Era::Legacy, INVALID_PARAMS) if is_from_modern && self.method == Forwarded::ResourcesRead => {
                LEGACY_RESOURCE_NOT_FOUND
            }
            (Era::Legacy, MISSING_CAPABILITY) if is_from_modern => INTERNAL_ERROR,
            // About what the gateway sent, not about what the client did.
            (_, HEADER_MISMATCH | UNSUPPORTED_VERSION) if is_from_modern => INTERNAL_ERROR,
            (_, code) => code,
        }
    }

    fn result(&self, envelope: &Envelope<'_>, era: &UpstreamEra) -> Result<Incoming, Failure> {
        let mut splice = self.respond(envelope);
        let nonsense = |what: String| {
            let cause = UpstreamError::Nonsense(what);
            Failure::Upstream { upstream: self.upstream.name.clone(), cause }
        };
        let result = envelope.object.get("result").ok_or_else(|| nonsense("it has no result".to_owned()))?;
        let result = Object::parse_data(result)
            .map_err(|error| nonsense(format!("its result cannot be read: {error}")))?;
        match (era, self.era) {
            (UpstreamEra::Legacy { .. }, Era::Legacy) => {}
            (UpstreamEra::Modern, Era::Legacy) => self.strip(&mut splice, &result)?,
            (_, Era::Modern) => {
                self.complete(&mut splice, &result, *era != UpstreamEra::Modern);
            }
        }
        if let Some(version) = &self.version {
            downgrade(&mut splice, &result, version);
        }
        Ok(Incoming::Response(splice.finish(), StatusCode::OK, Outcome::Ok))
    }

    /// Takes out of a modern result what a legacy client does not know.
    fn strip(&self, splice: &mut Splice<'_>, result: &Object<'_>) -> Result<(), Failure> {
        match result.get("resultType").and_then(string).as_deref() {
            None | Some("complete") => {}
            Some("input_required") => {
                return Err(Failure::InputRequired { upstream: self.upstream.name.clone() });
            }
            Some(other) => {
                let cause = UpstreamError::Nonsense(format!("unknown resultType {}", quote(other)));
                return Err(Failure::Upstream { upstream: self.upstream.name.clone(), cause });
            }
        }
        let is_cacheable = self.method == Forwarded::ResourcesRead;
        let drops_structured =
            result.get("structuredContent").is_some_and(|content| !content.get().starts_with('{'));
        let goes = |key: &str| match key {
            "resultType" => true,
            "ttlMs" | "cacheScope" => is_cacheable,
            "structuredContent" => drops_structured,
            _ => false,
        };
        splice.edit(result, goes, "");
        Ok(())
    }

    /// Adds to a result what the modern revision demands.
    fn complete(&self, splice: &mut Splice<'_>, result: &Object<'_>, is_from_legacy: bool) {
        let mut add: Vec<&str> = Vec::new();
        if result.get("resultType").is_none() {
            add.push(r#""resultType":"complete""#);
        }
        if self.method == Forwarded::ResourcesRead {
            if result.get("ttlMs").is_none() {
                add.push(r#""ttlMs":0"#);
            }
            if result.get("cacheScope").is_none() {
                add.push(r#""cacheScope":"private""#);
            }
        }
        let meta = result.get("_meta").and_then(|meta| Object::parse_data(meta).ok());
        let server_info = format!(r#""_meta":{{{SERVER_INFO_MEMBER}}}"#);
        match meta {
            _ if !is_from_legacy => {}
            None if result.get("_meta").is_none() => add.push(&server_info),
            None => {}
            Some(meta) => {
                let key = &SERVER_INFO_MEMBER[1..SERVER_INFO_MEMBER.find("\":").unwrap_or(1)];
                splice.edit(&meta, |theirs| theirs == key, SERVER_INFO_MEMBER);
            }
        }
        if !add.is_empty() {
            splice.edit(result, |_| false, &add.join(","));
        }
    }
}

/// Our answer to what an upstream asks in the middle of a call: we declared no capabilities, so only `ping` has one.
fn answer(id: &str, method: &str) -> Vec<u8> {
    if method == "ping" {
        return format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into_bytes();
    }
    let text = quote(&format!("{method} is not supported: the gateway declared no such capability"));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{METHOD_NOT_FOUND},"message":{text}}}}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests;
