//! What is turned down at the door: texts and headers; the status is the table of failures'.
//!
//! Bodies are `{"detail": "…", "message": "…"}` as ContextForge's; on an MCP path the text also stands in a JSON-RPC error without id,
//! which is what MCP clients show.

use http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response};
use serde_json::json;

use crate::answer;
use crate::auth::AuthError;
use crate::body::Body;
use crate::failure::{Cause, Era, Retry};

/// Why a request goes no further than the edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such path on this port.
    #[error(
        "nothing is served at {0}; MCP clients connect to /mcp, /servers/{{id}}/mcp or /upstreams/{{name}}/mcp"
    )]
    NoSuchPath(String),
    /// The path exists, the method does not.
    #[error("this path answers {0}")]
    NoSuchMethod(&'static str),
    /// A `Host` that is not ours.
    #[error(
        "the Host `{0}` is not one of this gateway's names; if it should be, add it to GATEWAY_ALLOWED_HOSTS"
    )]
    WrongHost(String),
    /// An `Origin` that is not ours.
    #[error("the Origin `{0}` is not allowed; if it should be, add it to GATEWAY_ALLOWED_ORIGINS")]
    WrongOrigin(String),
    /// Two values where one decides: what checks the first may not be what uses the second.
    #[error("the {0} header may be given once only")]
    RepeatedHeader(&'static str),
    /// No token, or not a good one.
    #[error(
        "{0}; send `Authorization: Bearer TOKEN` with a token made by `forkgate token create --sub NAME`"
    )]
    NoPrincipal(AuthError),
    /// A good token that does not suffice.
    #[error("{0} needs an administrator's token, made by `forkgate token create --sub NAME --admin`")]
    NotAllowed(&'static str),
    /// A body over the limit of `GATEWAY_MAX_BODY`.
    #[error("the request body is larger than {0} bytes (GATEWAY_MAX_BODY)")]
    BodyTooLarge(u64),
    /// A body that stopped arriving.
    #[error("the request body did not arrive in time")]
    SlowBody,
    /// A body that broke off, or is not framed as HTTP says.
    #[error("the request body is incomplete or malformed")]
    BrokenBody,
    /// The event loop is far behind.
    #[error("this worker is overloaded; try again in a few seconds")]
    Overloaded,
    /// The worker has to leave before the request has its answer.
    #[error(
        "the gateway replaces the worker that has this request, and its time to finish is over (GATEWAY_GRACEFUL_TIMEOUT); \
         whether the request was carried out is not known"
    )]
    CutOff,
    /// The handler panicked.
    #[error("the request met a defect of the gateway; its log says where")]
    Defect,
}

/// Who reads the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// An MCP client.
    Mcp,
    /// Anybody else.
    Rest,
}

impl Refusal {
    /// Why, for the table of failures.
    pub fn cause(&self) -> Cause {
        match self {
            Refusal::NoSuchPath(_) => Cause::NotFound,
            Refusal::NoSuchMethod(_) => Cause::MethodNotAllowed,
            Refusal::WrongHost(_) => Cause::WrongHost,
            Refusal::WrongOrigin(_) | Refusal::NotAllowed(_) => Cause::Forbidden,
            Refusal::NoPrincipal(_) => Cause::NotAuthenticated,
            Refusal::BodyTooLarge(_) => Cause::BodyTooLarge,
            Refusal::SlowBody => Cause::BodyTooSlow,
            Refusal::BrokenBody => Cause::BodyBroken,
            Refusal::RepeatedHeader(_) => Cause::NotARequest,
            Refusal::Overloaded => Cause::Unavailable,
            Refusal::CutOff => Cause::CutOff,
            Refusal::Defect => Cause::Internal,
        }
    }

    /// The whole answer.
    pub fn answer(&self, reader: Reader) -> Response<Body> {
        let detail = self.to_string();
        let row = self.cause().row(Era::Modern);
        let body = match reader {
            Reader::Rest => json!({ "detail": detail, "message": detail }),
            Reader::Mcp => json!({
                "jsonrpc": "2.0",
                "error": { "code": row.code, "message": detail },
                "detail": detail,
            }),
        };
        let mut response = answer::json(row.status, body.to_string());
        let headers = response.headers_mut();
        if let Retry::After(seconds) = row.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Refusal::NoPrincipal(AuthError::Missing) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"forkgate\""));
            }
            Refusal::NoPrincipal(error) => {
                let text = format!(
                    "Bearer realm=\"forkgate\", error=\"invalid_token\", error_description=\"{}\"",
                    error.to_string().replace(['"', '\\'], "'")
                );
                let fallback = HeaderValue::from_static("Bearer realm=\"forkgate\", error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, HeaderValue::try_from(text).unwrap_or(fallback));
            }
            Refusal::NoSuchMethod(allow) => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            // The rest of the body is (or may be) on its way: nothing further can be read on this connection.
            Refusal::BodyTooLarge(_) | Refusal::SlowBody | Refusal::BrokenBody | Refusal::Defect => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: Response<Body>) -> serde_json::Value {
        let Body::Full(bytes) = response.into_body() else { panic!("a body") };
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn every_refusal_has_its_status_and_says_what_to_do() {
        let table = [
            (Refusal::NoSuchPath("/x".to_owned()), 404, "/mcp"),
            (Refusal::NoSuchMethod("GET, POST"), 405, "GET, POST"),
            (Refusal::WrongHost("h".to_owned()), 421, "GATEWAY_ALLOWED_HOSTS"),
            (Refusal::WrongOrigin("o".to_owned()), 403, "GATEWAY_ALLOWED_ORIGINS"),
            (Refusal::NoPrincipal(AuthError::Missing), 401, "forkgate token create --sub NAME"),
            (Refusal::NoPrincipal(AuthError::Expired), 401, "expired"),
            (Refusal::NotAllowed("changing the registry"), 403, "--admin"),
            (Refusal::BodyTooLarge(7), 413, "GATEWAY_MAX_BODY"),
            (Refusal::SlowBody, 408, "in time"),
            (Refusal::BrokenBody, 400, "incomplete"),
            (Refusal::RepeatedHeader("origin"), 400, "origin"),
            (Refusal::Overloaded, 503, "try again"),
            (Refusal::CutOff, 503, "GATEWAY_GRACEFUL_TIMEOUT"),
            (Refusal::Defect, 500, "log"),
        ];
        for (refusal, status, words) in table {
            assert_eq!(refusal.answer(Reader::Rest).status().as_u16(), status, "{refusal:?}");
            let rest = text(refusal.answer(Reader::Rest));
            assert!(rest["detail"].as_str().expect("detail").contains(words), "{rest}");
            let mcp = text(refusal.answer(Reader::Mcp));
            assert_eq!(mcp["error"]["message"], rest["detail"]);
            assert!(mcp.get("id").is_none());
        }
    }

    #[test]
    fn headers_that_go_with_a_status() {
        let missing = Refusal::NoPrincipal(AuthError::Missing).answer(Reader::Mcp);
        assert_eq!(missing.headers()[WWW_AUTHENTICATE], "Bearer realm=\"forkgate\"");
        let named = Refusal::NoPrincipal(AuthError::MissingClaim("a\"b\n".to_owned())).answer(Reader::Mcp);
        assert!(named.headers()[WWW_AUTHENTICATE].to_str().expect("text").contains("invalid_token"));
        assert_eq!(Refusal::NoSuchMethod("GET").answer(Reader::Rest).headers()[ALLOW], "GET");
        assert_eq!(Refusal::SlowBody.answer(Reader::Rest).headers()[CONNECTION], "close");
        assert_eq!(Refusal::Overloaded.answer(Reader::Mcp).headers()[RETRY_AFTER], "5");
        assert!(!Refusal::SlowBody.answer(Reader::Mcp).headers().contains_key(RETRY_AFTER));
    }
}
