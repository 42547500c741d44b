//! The one table of failures: cause → HTTP status, JSON-RPC code, retry hint, per era. Every error that a client can meet
//! names its cause; no code outside this file invents a status or a code.
//!
//! Reasons for the less obvious rows: a legacy client treats a status other than 2xx as a broken transport (some hang
//! on it), so whatever happens to a request inside a session is told in a 200; a modern client is owed real statuses
//! where the 2026-07-28 revision names them (basic/index, "Error Codes"). 404 ends a legacy session, so nothing but an
//! unknown session answers it there.

use http::StatusCode;

use crate::revision::{
    Era, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, LEGACY_RESOURCE_NOT_FOUND,
    METHOD_NOT_FOUND, MISSING_CAPABILITY, PARSE_ERROR, UNSUPPORTED_VERSION,
};

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

/// Why a client does not get what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No such path, endpoint or object.
    NotFound,
    /// The path exists, the HTTP method does not.
    MethodNotAllowed,
    /// No token, or not a good one.
    NotAuthenticated,
    /// A good token that does not suffice, or an `Origin` that may not call.
    Forbidden,
    /// A `Host` that is not ours (DNS rebinding).
    WrongHost,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body stopped arriving.
    BodyTooSlow,
    /// The body broke off, or is not framed as HTTP says.
    BodyBroken,
    /// The `Accept` header excludes what there is.
    NotAcceptable,
    /// A field has a value that cannot be used.
    Unprocessable,
    /// It exists already.
    Conflict,
    /// Somebody else is changing it right now.
    Locked,
    /// Too much is going on, or the database is away.
    Unavailable,
    /// The worker leaves, and what was asked is not done; it may be half done.
    CutOff,
    /// An upstream cannot be read.
    BadGateway,
    /// A defect of ours.
    Internal,
    /// The body is no JSON.
    NotJson,
    /// The body is no JSON-RPC message, or lacks what every one has.
    NotARequest,
    /// `params` lack something or have it wrong; or a tool or prompt of that name is not there.
    InvalidParams,
    /// A modern request without a required `_meta` field.
    MissingMeta,
    /// A header of a modern request is missing, malformed or says something else than the body.
    HeaderMismatch,
    /// A protocol version that is not served.
    UnsupportedVersion,
    /// A session that never was, has ended, or belongs to somebody else.
    SessionUnknown,
    /// No such JSON-RPC method in this era, or one behind a capability that is not advertised.
    NoSuchMethod,
    /// Nobody reads this URI.
    NoSuchResource,
    /// An upstream's question that this client cannot be asked.
    InputRequired,
    /// An upstream failed before it can have done anything.
    UpstreamUntouched,
    /// An upstream failed, and may have done what was asked.
    UpstreamFailed,
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

/// Seconds after which a client may try a full or unavailable gateway again.
const RETRY_AFTER_S: u32 = 5;

/// Seconds after which a change may be tried again that met a lock: locks are held for milliseconds, by an operator's
/// `sqlite3` for a little longer.
const RETRY_LOCKED_AFTER_S: u32 = 1;

impl Cause {
    /// The table.
    pub fn row(self, era: Era) -> Row {
        use {Cause as C, Era as E, StatusCode as S};
        let (status, code, retry) = match (self, era) {
            (C::NotFound, _) => (S::NOT_FOUND, INVALID_REQUEST, Retry::No),
            (C::MethodNotAllowed, _) => (S::METHOD_NOT_ALLOWED, INVALID_REQUEST, Retry::No),
            (C::NotAuthenticated, _) => (S::UNAUTHORIZED, INVALID_REQUEST, Retry::No),
            (C::Forbidden, _) => (S::FORBIDDEN, INVALID_REQUEST, Retry::No),
            (C::WrongHost, _) => (S::MISDIRECTED_REQUEST, INVALID_REQUEST, Retry::No),
            (C::BodyTooLarge, _) => (S::PAYLOAD_TOO_LARGE, INVALID_REQUEST, Retry::No),
            (C::BodyTooSlow, _) => (S::REQUEST_TIMEOUT, INVALID_REQUEST, Retry::Safe),
            (C::BodyBroken, _) => (S::BAD_REQUEST, INVALID_REQUEST, Retry::Safe),
            (C::NotAcceptable, _) => (S::NOT_ACCEPTABLE, INVALID_REQUEST, Retry::No),
            (C::Unprocessable, _) => (S::UNPROCESSABLE_ENTITY, INVALID_PARAMS, Retry::No),
            (C::Conflict, _) => (S::CONFLICT, INVALID_REQUEST, Retry::No),
            (C::Locked, _) => (S::CONFLICT, INVALID_REQUEST, Retry::After(RETRY_LOCKED_AFTER_S)),
            (C::Unavailable, _) => (S::SERVICE_UNAVAILABLE, INTERNAL_ERROR, Retry::After(RETRY_AFTER_S)),
            (C::CutOff, E::Modern) => (S::SERVICE_UNAVAILABLE, INTERNAL_ERROR, Retry::No),
            (C::CutOff, E::Legacy) => (S::OK, INTERNAL_ERROR, Retry::No),
            (C::BadGateway, _) => (S::BAD_GATEWAY, INTERNAL_ERROR, Retry::No),
            (C::Internal, E::Modern) => (S::INTERNAL_SERVER_ERROR, INTERNAL_ERROR, Retry::No),
            (C::Internal, E::Legacy) => (S::OK, INTERNAL_ERROR, Retry::No),
            (C::NotJson, _) => (S::BAD_REQUEST, PARSE_ERROR, Retry::No),
            (C::NotARequest, _) => (S::BAD_REQUEST, INVALID_REQUEST, Retry::No),
            (C::InvalidParams, _) => (S::OK, INVALID_PARAMS, Retry::No),
            (C::MissingMeta, _) => (S::BAD_REQUEST, INVALID_PARAMS, Retry::No),
            (C::HeaderMismatch, _) => (S::BAD_REQUEST, HEADER_MISMATCH, Retry::No),
            (C::UnsupportedVersion, _) => (S::BAD_REQUEST, UNSUPPORTED_VERSION, Retry::No),
            (C::SessionUnknown, _) => (S::NOT_FOUND, INVALID_REQUEST, Retry::No),
            (C::NoSuchMethod, E::Modern) => (S::NOT_FOUND, METHOD_NOT_FOUND, Retry::No),
            (C::NoSuchMethod, E::Legacy) => (S::OK, METHOD_NOT_FOUND, Retry::No),
            (C::NoSuchResource, E::Modern) => (S::OK, INVALID_PARAMS, Retry::No),
            (C::NoSuchResource, E::Legacy) => (S::OK, LEGACY_RESOURCE_NOT_FOUND, Retry::No),
            (C::InputRequired | C::UpstreamFailed, _) => (S::OK, INTERNAL_ERROR, Retry::No),
            (C::UpstreamUntouched, _) => (S::OK, INTERNAL_ERROR, Retry::Safe),
        };
        Row { status, code, is_tool_error: self == C::InputRequired, retry }
    }
}

/// The status under which an upstream's own JSON-RPC error is passed on.
pub fn status_of_upstream_code(era: Era, code: i64) -> StatusCode {
    match (era, code) {
        (Era::Modern, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        (Era::Modern, MISSING_CAPABILITY) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_that_the_revisions_name() {
        use Era::{Legacy, Modern};
        for (cause, era, status, code, retry) in [
            (Cause::NotFound, Modern, 404, -32600, Retry::No),
            (Cause::NotAuthenticated, Legacy, 401, -32600, Retry::No),
            (Cause::Forbidden, Modern, 403, -32600, Retry::No),
            (Cause::WrongHost, Modern, 421, -32600, Retry::No),
            (Cause::BodyTooLarge, Legacy, 413, -32600, Retry::No),
            (Cause::Conflict, Modern, 409, -32600, Retry::No),
            (Cause::Locked, Modern, 409, -32600, Retry::After(1)),
            (Cause::BadGateway, Modern, 502, -32603, Retry::No),
            (Cause::NotJson, Legacy, 400, -32700, Retry::No),
            (Cause::NotARequest, Modern, 400, -32600, Retry::No),
            (Cause::MissingMeta, Modern, 400, -32602, Retry::No),
            (Cause::HeaderMismatch, Modern, 400, -32020, Retry::No),
            (Cause::UnsupportedVersion, Modern, 400, -32022, Retry::No),
            (Cause::NoSuchMethod, Modern, 404, -32601, Retry::No),
            (Cause::NoSuchMethod, Legacy, 200, -32601, Retry::No),
            (Cause::InvalidParams, Modern, 200, -32602, Retry::No),
            (Cause::InvalidParams, Legacy, 200, -32602, Retry::No),
            (Cause::NoSuchResource, Modern, 200, -32602, Retry::No),
            (Cause::NoSuchResource, Legacy, 200, -32002, Retry::No),
            (Cause::SessionUnknown, Legacy, 404, -32600, Retry::No),
            (Cause::Unavailable, Legacy, 503, -32603, Retry::After(RETRY_AFTER_S)),
            (Cause::CutOff, Legacy, 200, -32603, Retry::No),
            (Cause::CutOff, Modern, 503, -32603, Retry::No),
            (Cause::UpstreamUntouched, Legacy, 200, -32603, Retry::Safe),
            (Cause::UpstreamFailed, Modern, 200, -32603, Retry::No),
        ] {
            let row = cause.row(era);
            assert_eq!(
                (row.status.as_u16(), row.code, row.retry),
                (status, code, retry),
                "{cause:?} {era:?}"
            );
        }
    }
}
