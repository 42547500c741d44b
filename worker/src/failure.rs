//! The one table of failures: cause → HTTP status, JSON-RPC code or `isError`, retry hint, per era. No code outside
//! invents one.
//!
//! Reasons for the less obvious rows: a legacy client treats a status other than 2xx as a broken transport (some hang
//! on it), so whatever happens to a request inside a session is told in a 200; a modern client is owed real statuses
//! where the 2026-07-28 revision names them (basic/index, "Error Codes"). 404 ends a legacy session, so nothing but an
//! unknown session answers it there.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::edge::body::Body;
use crate::protocol::envelope::quote;
use crate::upstream::UpstreamError;

/// Which half of the protocol a client speaks: with or without `initialize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Revisions up to 2025-11-25: `initialize`, sessions.
    Legacy,
    /// Revision 2026-07-28: stateless, `_meta` in every request.
    Modern,
}

/// May the client try again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again, or might do twice what was asked once.
    No,
    /// Nothing has happened yet.
    Safe,
    /// As `Safe`, but not before so many seconds (`Retry-After`).
    After(u32),
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Status of the answer; ignored once an event stream has begun.
    pub status: StatusCode,
    /// JSON-RPC error code.
    pub code: i64,
    /// For a `tools/call`: a result with `isError`, which a model gets to read, instead of a JSON-RPC error.
    pub is_tool_error: bool,
    /// See [`Retry`].
    pub retry: Retry,
}

/// Something that a client is told instead of a result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// No such path.
    #[error("nothing is served at {0}; MCP clients connect to /mcp")]
    NoSuchPath(String),
    /// The path exists, the virtual server or upstream does not.
    #[error("no such endpoint: {0}; it is not registered here")]
    NoSuchEndpoint(String),
    /// The path exists, the method does not.
    #[error("this endpoint takes {0}")]
    MethodNotAllowed(&'static str),
    /// No usable token.
    #[error("{0}")]
    NotAuthenticated(String),
    /// A good token that does not suffice.
    #[error("{0}")]
    Forbidden(String),
    /// The `Host` header names another machine (DNS rebinding).
    #[error("requests for host {0} are not served here; add it to GATEWAY_ALLOWED_HOSTS")]
    HostRefused(String),
    /// The `Origin` header names a site that may not call us.
    #[error("requests from {0} are not allowed; add it to GATEWAY_ALLOWED_ORIGINS")]
    OriginRefused(String),
    /// The request body is larger than `GATEWAY_MAX_BODY`.
    #[error("the request body is larger than {0} bytes (GATEWAY_MAX_BODY)")]
    BodyTooLarge(u64),
    /// The request body did not arrive in time, or broke off.
    #[error("the request body did not arrive: {0}")]
    BodyIncomplete(String),
    /// The `Accept` header excludes what this endpoint gives.
    #[error("this endpoint answers {0}; the Accept header excludes it")]
    NotAcceptable(&'static str),
    /// A value that the admin API cannot use.
    #[error("{0}")]
    Invalid(String),
    /// The admin API has no such object.
    #[error("{0}")]
    NotFound(String),
    /// The object exists already, or is being changed by somebody else.
    #[error("{0}")]
    Conflict(String),
    /// The registry cannot be used right now.
    #[error("{0}")]
    Unavailable(String),
    /// The admin API could not use an upstream.
    #[error("{0}")]
    BadGateway(String),
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

/// Seconds after which a client may try a full or unavailable gateway again.
const RETRY_AFTER_S: u32 = 5;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
/// What legacy revisions call a resource that is not there.
pub const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;
/// `HeaderMismatch`.
pub const HEADER_MISMATCH: i64 = -32020;
/// `MissingRequiredClientCapability`.
pub const MISSING_CAPABILITY: i64 = -32021;
/// `UnsupportedProtocolVersion`.
pub const UNSUPPORTED_VERSION: i64 = -32022;

impl Failure {
    /// The table.
    pub fn row(&self, era: Era) -> Row {
        let row = |status, code, retry| Row { status, code, is_tool_error: false, retry };
        // In a session, or about a name: the transport is fine.
        let told = |code, retry| row(StatusCode::OK, code, retry);
        match (self, era) {
            (Failure::NoSuchPath(_) | Failure::NoSuchEndpoint(_) | Failure::NotFound(_), _) => {
                row(StatusCode::NOT_FOUND, INVALID_REQUEST, Retry::No)
            }
            (Failure::MethodNotAllowed(_), _) => {
                row(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, Retry::No)
            }
            (Failure::NotAuthenticated(_), _) => row(StatusCode::UNAUTHORIZED, INVALID_REQUEST, Retry::No),
            (Failure::Forbidden(_) | Failure::OriginRefused(_), _) => {
                row(StatusCode::FORBIDDEN, INVALID_REQUEST, Retry::No)
            }
            (Failure::HostRefused(_), _) => row(StatusCode::MISDIRECTED_REQUEST, INVALID_REQUEST, Retry::No),
            (Failure::BodyTooLarge(_), _) => row(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, Retry::No),
            (Failure::BodyIncomplete(_), _) => row(StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, Retry::Safe),
            (Failure::NotAcceptable(_), _) => row(StatusCode::NOT_ACCEPTABLE, INVALID_REQUEST, Retry::No),
            (Failure::Invalid(_), _) => row(StatusCode::UNPROCESSABLE_ENTITY, INVALID_PARAMS, Retry::No),
            (Failure::Conflict(_), _) => row(StatusCode::CONFLICT, INVALID_REQUEST, Retry::Safe),
            (Failure::Unavailable(_) | Failure::SessionsFull, _) => {
                row(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, Retry::After(RETRY_AFTER_S))
            }
            (Failure::BadGateway(_), _) => row(StatusCode::BAD_GATEWAY, INTERNAL_ERROR, Retry::No),
            (Failure::Internal(_), Era::Modern) => {
                row(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR, Retry::No)
            }
            (Failure::Internal(_), Era::Legacy) => told(INTERNAL_ERROR, Retry::No),

            (Failure::Parse(_), _) => row(StatusCode::BAD_REQUEST, PARSE_ERROR, Retry::No),
            (Failure::InvalidRequest(_) | Failure::SessionMissing, _) => {
                row(StatusCode::BAD_REQUEST, INVALID_REQUEST, Retry::No)
            }
            (Failure::MissingMeta(_), _) => row(StatusCode::BAD_REQUEST, INVALID_PARAMS, Retry::No),
            (Failure::HeaderMismatch(_), _) => row(StatusCode::BAD_REQUEST, HEADER_MISMATCH, Retry::No),
            (Failure::UnsupportedVersion { .. }, _) => {
                row(StatusCode::BAD_REQUEST, UNSUPPORTED_VERSION, Retry::No)
            }
            (Failure::SessionUnknown, _) => row(StatusCode::NOT_FOUND, INVALID_REQUEST, Retry::No),
            (Failure::NoSuchMethod(_), Era::Modern) => {
                row(StatusCode::NOT_FOUND, METHOD_NOT_FOUND, Retry::No)
            }
            (Failure::NoSuchMethod(_), Era::Legacy) => told(METHOD_NOT_FOUND, Retry::No),
            (Failure::InvalidParams(_) | Failure::NoSuchTool(_) | Failure::NoSuchPrompt(_), _) => {
                told(INVALID_PARAMS, Retry::No)
            }
            (Failure::NoSuchResource(_), Era::Modern) => told(INVALID_PARAMS, Retry::No),
            (Failure::NoSuchResource(_), Era::Legacy) => told(LEGACY_RESOURCE_NOT_FOUND, Retry::No),
            (Failure::InputRequired { .. }, _) => {
                Row { is_tool_error: true, ..told(INTERNAL_ERROR, Retry::No) }
            }
            (Failure::Upstream { cause, .. }, _) => {
                told(INTERNAL_ERROR, if cause.is_before_processing() { Retry::Safe } else { Retry::No })
            }
        }
    }

    /// The HTTP status of an answer that is this failure.
    pub fn status(&self, era: Era) -> StatusCode {
        self.row(era).status
    }

    /// The `data` of the JSON-RPC error, as JSON text.
    fn data(&self, era: Era) -> Option<String> {
        match self {
            Failure::UnsupportedVersion { requested } => {
                let supported = match era {
                    Era::Modern => crate::protocol::era::MODERN_VERSIONS,
                    Era::Legacy => crate::protocol::era::ALL_VERSIONS,
                };
                let supported: Vec<String> = supported.iter().map(|version| quote(version)).collect();
                Some(format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), quote(requested)))
            }
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

    /// The whole answer on the admin API: ContextForge's shape, `{"detail": "…"}`.
    pub fn respond_rest(&self) -> Response<Body> {
        let body = format!(r#"{{"detail":{}}}"#, quote(&self.to_string()));
        self.answer(Era::Modern, Bytes::from(body))
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
        match self {
            Failure::MethodNotAllowed(allow) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Failure::NotAuthenticated(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use Era::{Legacy, Modern};
        let upstream = |cause| Failure::Upstream { upstream: "u".into(), cause };
        let unsupported = Failure::UnsupportedVersion { requested: "1999".into() };
        let unreachable = UpstreamError::Unreachable("refused".into());
        for (failure, era, status, code, retry) in [
            (Failure::NoSuchPath("/x".into()), Modern, 404, -32600, Retry::No),
            (Failure::NotAuthenticated("no token".into()), Legacy, 401, -32600, Retry::No),
            (Failure::OriginRefused("http://evil".into()), Modern, 403, -32600, Retry::No),
            (Failure::HostRefused("evil".into()), Modern, 421, -32600, Retry::No),
            (Failure::BodyTooLarge(1), Legacy, 413, -32600, Retry::No),
            (Failure::Conflict("busy".into()), Modern, 409, -32600, Retry::Safe),
            (Failure::BadGateway("x".into()), Modern, 502, -32603, Retry::No),
            (Failure::Parse("x".into()), Legacy, 400, -32700, Retry::No),
            (Failure::InvalidRequest("x".into()), Modern, 400, -32600, Retry::No),
            (Failure::MissingMeta("x"), Modern, 400, -32602, Retry::No),
            (Failure::HeaderMismatch("x".into()), Modern, 400, -32020, Retry::No),
            (unsupported, Modern, 400, -32022, Retry::No),
            (Failure::NoSuchMethod("x".into()), Modern, 404, -32601, Retry::No),
            (Failure::NoSuchMethod("x".into()), Legacy, 200, -32601, Retry::No),
            (Failure::NoSuchTool("x".into()), Modern, 200, -32602, Retry::No),
            (Failure::NoSuchTool("x".into()), Legacy, 200, -32602, Retry::No),
            (Failure::NoSuchResource("x:y".into()), Modern, 200, -32602, Retry::No),
            (Failure::NoSuchResource("x:y".into()), Legacy, 200, -32002, Retry::No),
            (Failure::SessionMissing, Legacy, 400, -32600, Retry::No),
            (Failure::SessionUnknown, Legacy, 404, -32600, Retry::No),
            (Failure::SessionsFull, Legacy, 503, -32603, Retry::After(RETRY_AFTER_S)),
            (upstream(unreachable), Legacy, 200, -32603, Retry::Safe),
            (upstream(UpstreamError::TimedOut), Modern, 200, -32603, Retry::No),
        ] {
            let row = failure.row(era);
            assert_eq!(
                (row.status.as_u16(), row.code, row.retry),
                (status, code, retry),
                "{failure:?} {era:?}"
            );
            let body = failure.message(era, Some("\"a\""), true);
            let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(value["error"]["code"], code);
            assert_eq!(value["id"], "a");
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
        assert_eq!(body["error"]["code"], INTERNAL_ERROR);
    }

    #[test]
    fn an_unreadable_id_is_null_or_absent_by_era() {
        let failure = Failure::Parse("x".into());
        assert!(String::from_utf8_lossy(&failure.message(Era::Legacy, None, false)).contains(r#""id":null"#));
        assert!(!String::from_utf8_lossy(&failure.message(Era::Modern, None, false)).contains("id\":"));
    }
}
