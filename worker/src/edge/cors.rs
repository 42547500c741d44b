//! Pages of another origin (Fetch standard, "CORS protocol"): what a browser must hear from MCP and the registry API before it
//! lets a page use them.
//!
//! Invariants: nothing here lets a request in; which origins may call is [`HostPolicy`]'s, and a preflight learns nothing
//! but that. Cookies mean nothing to the gateway, so credentials are never allowed: a page brings its token.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::host::HostPolicy;
use crate::answer;
use crate::body::Body;

/// What clients of MCP and of the API send.
const ALLOWED_HEADERS: &str = "authorization, content-type, accept, mcp-protocol-version, mcp-session-id, mcp-method, \
                               mcp-name, last-event-id";
/// Tool parameters that a 2026-07-28 client mirrors in headers; their names are the tool's.
const PARAMETER_PREFIX: &str = "mcp-param-";
/// Most parameter headers that one preflight is answered for; a tool has a few.
const MAX_PARAMETER_HEADERS: usize = 32;
/// What a page's client reads of an answer besides its type.
const EXPOSED_HEADERS: &str = "mcp-session-id, www-authenticate, retry-after";
/// Seconds for which a browser need not ask again; Chromium's most.
const MAX_AGE_S: u16 = 7200;

/// The page's origin; it may call, and it is not the gateway's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cors(HeaderValue);

impl Cors {
    /// None for a request that comes from no page, from a page of this very origin, or from one that may not call.
    pub(super) fn of(head: &Parts, hosts: &HostPolicy) -> Option<Cors> {
        let origin = head.headers.get(ORIGIN)?;
        let (_, authority) = origin.to_str().ok()?.split_once("://")?;
        let is_own = super::host::requested(head).is_some_and(|host| host.eq_ignore_ascii_case(authority));
        (!is_own && hosts.check(head).is_ok()).then(|| Cors(origin.clone()))
    }

    /// The answer to a preflight of a path with these methods; none for a request that is no preflight.
    pub(super) fn preflight(&self, head: &Parts, methods: &'static str) -> Option<Response<Body>> {
        if head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = answer::empty(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(head));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(MAX_AGE_S));
        Some(response)
    }

    /// Lets the page read an answer.
    pub(super) fn allow(self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// The fixed list, and the parameter headers that were asked for.
fn allowed_headers(head: &Parts) -> HeaderValue {
    let asked = head.headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = asked.filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let mut allowed = ALLOWED_HEADERS.to_owned();
    for name in names.filter(|name| name.as_str().starts_with(PARAMETER_PREFIX)).take(MAX_PARAMETER_HEADERS) {
        allowed.push_str(", ");
        allowed.push_str(name.as_str());
    }
    HeaderValue::try_from(allowed).unwrap_or(HeaderValue::from_static(ALLOWED_HEADERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(origin: Option<&str>, asked: Option<&str>) -> Parts {
        let mut builder = http::Request::builder().method("OPTIONS").header("host", "gw.example.com:4444");
        if let Some(origin) = origin {
            builder = builder.header(ORIGIN, origin);
        }
        if let Some(asked) = asked {
            builder = builder.header(ACCESS_CONTROL_REQUEST_METHOD, "POST");
            builder = builder.header(ACCESS_CONTROL_REQUEST_HEADERS, asked);
        }
        builder.body(()).expect("request").into_parts().0
    }

    fn hosts() -> HostPolicy {
        let listed = ["https://app.example.com".to_owned()];
        HostPolicy::for_clients(false, &["gw.example.com".to_owned()], &listed)
    }

    #[test]
    fn only_pages_of_another_origin_that_may_call_are_answered() {
        for (origin, is_answered) in [
            (None, false),
            (Some("https://app.example.com"), true),
            (Some("http://gw.example.com:3000"), true),
            (Some("http://gw.example.com:4444"), false),
            (Some("https://evil.com"), false),
            (Some("null"), false),
        ] {
            assert_eq!(Cors::of(&request(origin, None), &hosts()).is_some(), is_answered, "{origin:?}");
        }
    }

    #[test]
    fn a_preflight_hears_methods_headers_and_the_parameters_it_asked_for() {
        let head =
            request(Some("https://app.example.com"), Some("authorization,Mcp-Param-City, x-other,b\"ad"));
        let cors = Cors::of(&head, &hosts()).expect("it may call");
        let response = cors.preflight(&head, "GET, POST").expect("a preflight");
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET, POST");
        let allowed = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().expect("text");
        assert_eq!(allowed, format!("{ALLOWED_HEADERS}, mcp-param-city"));
        let head = request(Some("https://app.example.com"), None);
        assert!(cors.preflight(&head, "GET").is_none(), "OPTIONS alone is no preflight");
    }
}
