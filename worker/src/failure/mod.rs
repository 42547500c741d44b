//! What an MCP client is told instead of a result. The text is here; status, code and retry hint are the [`table`]'s.

pub mod table;

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::body::Body;
use crate::json::quote;
pub use crate::revision::Era;
use crate::revision::{LEGACY_VERSIONS, MODERN_VERSIONS};
use crate::upstream::UpstreamError;
pub use table::{Cause, Retry, Row};

/// Something that a client is told instead of a result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The path exists, the virtual server or upstream does not.
    #[error("no such endpoint: {0}; it is not registered here")]
    NoSuchEndpoint(String),
    /// The path exists, the method does not.
    #[error("this endpoint takes {0}")]
    MethodNotAllowed(&'static str),
    /// The `Accept` header excludes what this endpoint gives.
    #[error("this endpoint answers {0}; the Accept header excludes it")]
    NotAcceptable(&'static str),
    /// A defect of ours.
    #[error("internal error: {0}")]
    Internal(String),

    /// The body is no JSON.
    #[error("{0}")]
    Parse(String),
    /// The body is no JSON-RPC message.
    #[error("{0}")]
    InvalidRequest(String),
    /// `params` lack something or have it wrong.
    #[error("invalid params: {0}")]
    InvalidParams(String),
    /// A modern request without a required `_meta` field.
    #[error("invalid params: `_meta` lacks {0}")]
    MissingMeta(&'static str),
    /// A modern request whose `params` or `_meta` cannot be read, so that the required fields are missing.
    #[error("invalid params: {0}")]
    UnreadableMeta(String),
    /// A header of a modern request is missing, malformed or says something else than the body.
    #[error("{0}")]
    HeaderMismatch(String),
    /// A protocol version that is not served.
    #[error("protocol version {requested} is not supported")]
    UnsupportedVersion {
        /// What the client asked for.
        requested: String,
    },
    /// No such method in this era, or one behind a capability that is not advertised.
    #[error("method not found: {0}")]
    NoSuchMethod(String),
    /// No such tool at this endpoint.
    #[error("unknown tool: {0}")]
    NoSuchTool(String),
    /// No such prompt at this endpoint.
    #[error("unknown prompt: {0}")]
    NoSuchPrompt(String),
    /// Nobody at this endpoint reads this URI.
    #[error("resource not found: {0}")]
    NoSuchResource(String),
    /// A legacy request without `Mcp-Session-Id`.
    #[error(
        "the Mcp-Session-Id header is missing; send initialize first and repeat the id that it answers with"
    )]
    SessionMissing,
    /// A session that never was, has ended, or belongs to somebody else.
    #[error("session not found; send initialize to open a new one")]
    SessionUnknown,
    /// The session table is full.
    #[error("all sessions are in use; try again later")]
    SessionsFull,
    /// The worker has to leave before the call has its answer.
    #[error(
        "the gateway replaces the worker that made this call, and its time to finish is over (GATEWAY_GRACEFUL_TIMEOUT); \
         whether the call was carried out is not known"
    )]
    CutOff,
    /// Too many calls whose clients hung up still run.
    #[error("too many calls whose clients have left are still running; try again later")]
    CallsFull,
    /// A modern upstream asks its caller something, which this client's revision cannot be asked that way.
    #[error(
        "{upstream} needs more input from the user, which it can only ask clients of protocol 2026-07-28 for; \
         connect with such a client, or give all inputs in the arguments"
    )]
    InputRequired {
        /// Who asks.
        upstream: String,
    },
    /// An upstream did not do its part.
    #[error("upstream {upstream}: {cause}")]
    Upstream {
        /// Its registered name.
        upstream: String,
        /// What happened.
        cause: UpstreamError,
    },
}

impl Failure {
    /// Why, for the table.
    pub fn cause(&self) -> Cause {
        match self {
            Failure::NoSuchEndpoint(_) => Cause::NotFound,
            Failure::MethodNotAllowed(_) => Cause::MethodNotAllowed,
            Failure::NotAcceptable(_) => Cause::NotAcceptable,
            Failure::Internal(_) => Cause::Internal,
            Failure::Parse(_) => Cause::NotJson,
            Failure::InvalidRequest(_) | Failure::SessionMissing => Cause::NotARequest,
            Failure::InvalidParams(_) | Failure::NoSuchTool(_) | Failure::NoSuchPrompt(_) => {
                Cause::InvalidParams
            }
            Failure::MissingMeta(_) | Failure::UnreadableMeta(_) => Cause::MissingMeta,
            Failure::HeaderMismatch(_) => Cause::HeaderMismatch,
            Failure::UnsupportedVersion { .. } => Cause::UnsupportedVersion,
            Failure::NoSuchMethod(_) => Cause::NoSuchMethod,
            Failure::NoSuchResource(_) => Cause::NoSuchResource,
            Failure::SessionUnknown => Cause::SessionUnknown,
            Failure::SessionsFull | Failure::CallsFull => Cause::Unavailable,
            Failure::CutOff => Cause::CutOff,
            Failure::InputRequired { .. } => Cause::InputRequired,
            Failure::Upstream { cause, .. } if cause.is_before_processing() => Cause::UpstreamUntouched,
            Failure::Upstream { .. } => Cause::UpstreamFailed,
        }
    }

    fn row(&self, era: Era) -> Row {
        self.cause().row(era)
    }

    /// The `data` of the JSON-RPC error, as JSON text.
    fn data(&self, era: Era) -> Option<String> {
        match self {
            Failure::UnsupportedVersion { requested } => {
                let legacy = if era == Era::Legacy { LEGACY_VERSIONS } else { &[] };
                let supported = MODERN_VERSIONS.iter().chain(legacy);
                let supported: Vec<String> = supported.map(|version| quote(version)).collect();
                Some(format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), quote(requested)))
            }
            Failure::CutOff => Some(r#"{"retrySafe":false}"#.to_owned()),
            Failure::NoSuchResource(uri) => Some(format!(r#"{{"uri":{}}}"#, quote(uri))),
            Failure::Upstream { upstream, .. } => {
                let safe = self.row(era).retry != Retry::No;
                Some(format!(r#"{{"upstream":{},"retrySafe":{safe}}}"#, quote(upstream)))
            }
            _ => None,
        }
    }

    /// The JSON-RPC message that tells this to the client; `id` is the request's, as JSON text.
    pub fn message(&self, era: Era, id: Option<&str>, is_tool_call: bool) -> Vec<u8> {
        let row = self.row(era);
        let text = quote(&self.to_string());
        let id = match (id, era) {
            (Some(id), _) => format!(r#""id":{id},"#),
            (None, Era::Legacy) => r#""id":null,"#.to_owned(),
            (None, Era::Modern) => String::new(),
        };
        if row.is_tool_error && is_tool_call {
            let result_type = if era == Era::Modern { r#""resultType":"complete","# } else { "" };
            return format!(
                r#"{{"jsonrpc":"2.0",{id}"result":{{{result_type}"content":[{{"type":"text","text":{text}}}],"isError":true}}}}"#
            )
            .into_bytes();
        }
        let data = self.data(era).map_or_else(String::new, |data| format!(r#","data":{data}"#));
        format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":{},"message":{text}{data}}}}}"#, row.code)
            .into_bytes()
    }

    /// The whole answer on an MCP endpoint.
    pub fn respond(&self, era: Era, id: Option<&str>, is_tool_call: bool) -> Response<Body> {
        self.answer(era, Bytes::from(self.message(era, id, is_tool_call)))
    }

    fn answer(&self, era: Era, body: Bytes) -> Response<Body> {
        let row = self.row(era);
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Retry::After(seconds) = row.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Failure::MethodNotAllowed(allow) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_failed_before_it_was_asked_may_be_asked_again() {
        let told = |cause| {
            let failure = Failure::Upstream { upstream: "u".into(), cause };
            let body = failure.message(Era::Legacy, Some("\"a\""), true);
            let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((&value["id"], &value["error"]["data"]["upstream"]), (&"a".into(), &"u".into()));
            value["error"]["data"]["retrySafe"] == true
        };
        assert!(told(UpstreamError::Unreachable("refused".into())));
        assert!(!told(UpstreamError::TimedOut));
    }

    #[test]
    fn a_call_without_time_is_an_error_in_both_eras_and_not_to_be_repeated_blindly() {
        for (era, status) in [(Era::Legacy, 200), (Era::Modern, 503)] {
            assert_eq!(Failure::CutOff.respond(era, Some("7"), true).status().as_u16(), status);
            let body: serde_json::Value =
                serde_json::from_slice(&Failure::CutOff.message(era, Some("7"), true)).expect("JSON");
            assert_eq!((&body["id"], &body["error"]["code"]), (&7.into(), &(-32603).into()));
            assert_eq!(body["error"]["data"]["retrySafe"], false);
        }
    }

    #[test]
    fn what_a_model_should_read_is_a_result_of_its_call() {
        let failure = Failure::InputRequired { upstream: "u".into() };
        let body: serde_json::Value =
            serde_json::from_slice(&failure.message(Era::Legacy, Some("1"), true)).expect("JSON");
        assert_eq!(body["result"]["isError"], true);
        let body: serde_json::Value =
            serde_json::from_slice(&failure.message(Era::Legacy, Some("1"), false)).expect("JSON");
        assert_eq!(body["error"]["code"], crate::revision::INTERNAL_ERROR);
    }

    #[test]
    fn an_unreadable_id_is_null_or_absent_by_era() {
        let failure = Failure::Parse("x".into());
        assert!(String::from_utf8_lossy(&failure.message(Era::Legacy, None, false)).contains(r#""id":null"#));
        assert!(!String::from_utf8_lossy(&failure.message(Era::Modern, None, false)).contains("id\":"));
    }
}
