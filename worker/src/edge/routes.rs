//! The one table of paths: aliases, `/v1` twins and trailing slashes end here.
//!
//! | path (each also under `/v1`, each also with a trailing `/`) | served on | what |
//! |---|---|---|
//! | `/mcp` | both ports | the federated MCP endpoint |
//! | `/servers/{id}/mcp` | both | a virtual server |
//! | `/upstreams/{name}/mcp` | both | one upstream |
//! | `/` | both | a page that says what this is |
//! | `/health`, `/healthz` · `/ready`, `/readyz` · `/version` | both | probes, open without a token |
//! | `/gateways`, `/tools`, `/servers`, `/resources`, `/prompts`, each with what follows | both | the admin API |
//! | `/status` · `/metrics`, `/metrics/prometheus` | admin port | operators |
//! | `/_fault/{name}` | both, in builds with the feature `faults` | tests |
//!
//! A segment that stands for an id or a name is percent-decoded.

use super::serve::Port;
use crate::admin::{ApiRoute, Collection};
use crate::catalog::Endpoint;

/// Methods of an MCP endpoint.
pub(super) const MCP_METHODS: &str = "GET, POST, DELETE";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Route {
    Mcp(Endpoint),
    Api(ApiRoute),
    Welcome,
    Health,
    Ready,
    Version,
    Status,
    Metrics,
    #[cfg(feature = "faults")]
    Fault(String),
}

impl Route {
    /// The methods that pages of other origins may use: of MCP and of the API, which ask for a token.
    pub(super) fn methods_for_pages(&self) -> Option<&'static str> {
        match self {
            Route::Mcp(_) => Some(MCP_METHODS),
            Route::Api(route) => Some(route.methods()),
            Route::Welcome
            | Route::Health
            | Route::Ready
            | Route::Version
            | Route::Status
            | Route::Metrics => None,
            #[cfg(feature = "faults")]
            Route::Fault(_) => None,
        }
    }

    /// True for what monitors ask for: nobody counts it.
    pub(super) fn is_probe(&self) -> bool {
        matches!(self, Route::Welcome | Route::Health | Route::Ready | Route::Version)
    }
}

/// Finds the route of a path; none when nothing is served there on this port.
pub(super) fn find(path: &str, port: Port) -> Option<Route> {
    if path == "/mcp" {
        return Some(Route::Mcp(Endpoint::Federated));
    }
    let path = path.strip_prefix('/')?;
    if path.is_empty() {
        return Some(Route::Welcome);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = path.strip_prefix("v1/").unwrap_or(path);
    let mut segments = path.split('/');
    let route = match (segments.next()?, segments.next(), segments.next()) {
        ("mcp", None, None) => Route::Mcp(Endpoint::Federated),
        ("servers", Some(id), Some("mcp")) => Route::Mcp(Endpoint::Server(decode(id)?)),
        ("upstreams", Some(name), Some("mcp")) => Route::Mcp(Endpoint::Upstream(decode(name)?)),
        ("health" | "healthz", None, None) => Route::Health,
        ("ready" | "readyz", None, None) => Route::Ready,
        ("version", None, None) => Route::Version,
        ("status", None, None) if port == Port::Admin => Route::Status,
        ("metrics", None | Some("prometheus"), None) if port == Port::Admin => Route::Metrics,
        #[cfg(feature = "faults")]
        ("_fault", Some(name), None) => Route::Fault(decode(name)?),
        (name, _, _) => return api(name, path),
    };
    segments.next().is_none().then_some(route)
}

/// The API of a collection; it gets the rest of the path and knows what of it exists.
fn api(name: &str, path: &str) -> Option<Route> {
    let collection = collection(name)?;
    let id = match path.split_once('/') {
        Some((_, rest)) => Some(decode(rest)?),
        None => None,
    };
    Some(Route::Api(ApiRoute { collection, id }))
}

fn collection(name: &str) -> Option<Collection> {
    Some(match name {
        "gateways" => Collection::Gateways,
        "tools" => Collection::Tools,
        "servers" => Collection::Servers,
        "resources" => Collection::Resources,
        "prompts" => Collection::Prompts,
        _ => return None,
    })
}

/// Percent-decodes a segment. None when it is empty, when an escape is broken, when the result is not UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digit = |index: usize| (*tail.get(index)? as char).to_digit(16);
            bytes.push((digit(0)? * 16 + digit(1)?) as u8);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(collection: Collection, id: Option<&str>) -> Option<Route> {
        Some(Route::Api(ApiRoute { collection, id: id.map(str::to_owned) }))
    }

    #[test]
    fn every_path_with_its_twins() {
        let server = Some(Route::Mcp(Endpoint::Server("s1".to_owned())));
        let upstream = Some(Route::Mcp(Endpoint::Upstream("a b".to_owned())));
        let table: Vec<(&str, Option<Route>)> = vec![
            ("/mcp", Some(Route::Mcp(Endpoint::Federated))),
            ("/servers/s1/mcp", server),
            ("/upstreams/a%20b/mcp", upstream),
            ("/health", Some(Route::Health)),
            ("/healthz", Some(Route::Health)),
            ("/ready", Some(Route::Ready)),
            ("/version", Some(Route::Version)),
            ("/status", Some(Route::Status)),
            ("/metrics", Some(Route::Metrics)),
            ("/metrics/prometheus", Some(Route::Metrics)),
            ("/gateways", api(Collection::Gateways, None)),
            ("/gateways/g%2F1", api(Collection::Gateways, Some("g/1"))),
            ("/gateways/g1/state", api(Collection::Gateways, Some("g1/state"))),
            ("/tools", api(Collection::Tools, None)),
            ("/servers", api(Collection::Servers, None)),
            ("/servers/s1", api(Collection::Servers, Some("s1"))),
            ("/resources/r", api(Collection::Resources, Some("r"))),
            ("/prompts", api(Collection::Prompts, None)),
        ];
        for (path, expected) in table {
            for twin in [path.to_owned(), format!("{path}/"), format!("/v1{path}"), format!("/v1{path}/")] {
                assert_eq!(find(&twin, Port::Admin), expected, "{twin}");
            }
        }
    }

    #[test]
    fn nothing_else_is_a_path() {
        for path in [
            "",
            "//",
            "//",
            "mcp",
            "/mcpx",
            "/mcp/x",
            "/v1",
            "/v1/v1/mcp",
            "/servers//mcp",
            "/upstreams/a",
            "/servers/a/mcp/b",
            "/upstreams/a/b/mcp",
            "/gateways//",
            "/gateways/%zz",
            "/gateways/%f",
            "/gateways/%ff",
            "/metrics/x",
            "/nothing",
            "*",
        ] {
            assert_eq!(find(path, Port::Admin), None, "{path}");
        }
    }

    #[test]
    fn operators_paths_are_on_the_admin_port_only() {
        for path in ["/status", "/metrics", "/metrics/prometheus"] {
            assert_eq!(find(path, Port::Main), None, "{path}");
        }
        assert_eq!(find("/health", Port::Main), Some(Route::Health));
    }
}
