//! What a person sees who opens the gateway's address in a browser: what this is and where to go on. No token, no secret.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

use super::serve::Port;
use crate::body::Body;

const BEGIN: &str = concat!(
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">",
    "<title>forkgate</title><style>body{font:16px/1.6 system-ui,sans-serif;max-width:42em;margin:4em auto;padding:0 1em;",
    "color:#222;background:#fff}code{background:#f2f2f2;padding:.1em .3em;border-radius:3px}li{margin:.3em 0}",
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}code{background:#2a2a2a}a{color:#8bf}}</style>",
    "<h1>forkgate ",
    env!("CARGO_PKG_VERSION"),
    "</h1><p>This is an MCP gateway. Point an MCP client at <code>/mcp</code> of this address, with a token made by ",
    "<code>forkgate token create --sub NAME</code>.</p><ul>",
    "<li><code>/mcp</code>: every registered server; tools are called <code>SERVER__NAME</code></li>",
    "<li><code>/servers/ID/mcp</code>, <code>/upstreams/NAME/mcp</code>: a virtual server, a single server</li>",
    "<li><code>/v1/gateways</code>, <code>/v1/tools</code>, <code>/v1/servers</code>: the registry</li>",
    "<li><a href=\"/health\">/health</a>, <a href=\"/ready\">/ready</a>, <a href=\"/version\">/version</a></li>",
);
const OPERATORS: &str = "<li><a href=\"/status\">/status</a>, <a href=\"/metrics\">/metrics</a></li>";
const END: &str = "</ul></html>\n";

/// The page.
pub(super) fn page(port: Port) -> Response<Body> {
    let operators = if port == Port::Admin { OPERATORS } else { "" };
    let mut response = Response::new(Body::full(Bytes::from([BEGIN, operators, END].concat())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert("content-security-policy", HeaderValue::from_static(policy));
    response
}
