//! Host and Origin: what a browser that was lured here cannot fake (DNS rebinding, MCP transports "Security").
//!
//! Names are compared without port and without regard to case. An empty list of hosts accepts any `Host`; an `Origin`
//! must then name the very host that the request names.

use http::header::{HOST, ORIGIN};
use http::request::Parts;

use super::refusal::Refusal;

/// The names by which a listener that only its own host reaches is called there: clients of a unix socket write
/// `localhost`.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Headers of which one value decides who may do what, or how a message is read.
const SINGLE: [&str; 5] = ["authorization", "host", "mcp-protocol-version", "mcp-session-id", "origin"];

/// Which hosts and origins a listener accepts.
pub(super) struct HostPolicy {
    /// Lower case, without port; empty = any.
    hosts: Vec<String>,
    /// Lower case, as browsers send them.
    origins: Vec<String>,
}

impl HostPolicy {
    /// For a listener that clients use: the settings' list as it is, and the loopback names where there is a list and the
    /// listener is reachable by them (`is_local`).
    pub(super) fn for_clients(is_local: bool, hosts: &[String], origins: &[String]) -> HostPolicy {
        let mut policy = HostPolicy::listed(hosts, origins);
        if !policy.hosts.is_empty() && is_local {
            policy.add_loopback();
        }
        policy
    }

    /// For the admin listener: on loopback its names are always checked, whatever the clients' list says, because
    /// what it shows is open to everybody who gets through.
    pub(super) fn for_operators(is_local: bool, hosts: &[String], origins: &[String]) -> HostPolicy {
        let mut policy = HostPolicy::listed(hosts, origins);
        if is_local {
            policy.add_loopback();
        }
        policy
    }

    fn listed(hosts: &[String], origins: &[String]) -> HostPolicy {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        HostPolicy { hosts: lower(hosts), origins: lower(origins) }
    }

    fn add_loopback(&mut self) {
        for name in LOOPBACK_NAMES {
            if !self.hosts.iter().any(|host| host == name) {
                self.hosts.push(name.to_owned());
            }
        }
    }

    /// Lets a request pass or says why not.
    pub(super) fn check(&self, head: &Parts) -> Result<(), Refusal> {
        // Repeated values are the difference between these two counts; the usual request has none at all.
        if head.headers.len() != head.headers.keys_len()
            && let Some(name) =
                SINGLE.into_iter().find(|name| head.headers.get_all(*name).iter().nth(1).is_some())
        {
            return Err(Refusal::RepeatedHeader(name));
        }
        let host = requested(head);
        let name = host.and_then(name_of).unwrap_or_default();
        if !self.hosts.is_empty() && !contains(&self.hosts, name) {
            return Err(Refusal::WrongHost(shown(host.unwrap_or_default())));
        }
        let Some(origin) = head.headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        if self.accepts_origin(origin, name) { Ok(()) } else { Err(Refusal::WrongOrigin(shown(origin))) }
    }

    fn accepts_origin(&self, origin: &str, requested: &str) -> bool {
        if contains(&self.origins, origin) {
            return true;
        }
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let Some(name) = authority.and_then(name_of) else { return false };
        if self.hosts.is_empty() { name.eq_ignore_ascii_case(requested) } else { contains(&self.hosts, name) }
    }
}

/// Host and port that a request names.
pub(super) fn requested(head: &Parts) -> Option<&str> {
    // With an absolute request target the Host field is to be ignored (RFC 9112 §3.2.2).
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(HOST).and_then(|host| host.to_str().ok()),
    }
}

fn contains(list: &[String], name: &str) -> bool {
    list.iter().any(|entry| entry.eq_ignore_ascii_case(name))
}

/// The name in `name[:port]`; an IPv6 address keeps its brackets. None for what is no such thing.
fn name_of(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, port) = authority.split_at(end);
    let port_is_fine =
        port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let name_is_fine = !name.is_empty() && !name.contains(['/', '@', '?', '#', ' ']);
    (port_is_fine && name_is_fine).then_some(name)
}

/// As much of a client's header as an answer repeats.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, origin: Option<&str>) -> Parts {
        let mut builder = http::Request::builder().uri("/mcp").header(HOST, host);
        if let Some(origin) = origin {
            builder = builder.header(ORIGIN, origin);
        }
        builder.body(()).expect("request").into_parts().0
    }

    fn policy(is_local: bool, hosts: &[&str], origins: &[&str]) -> HostPolicy {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        HostPolicy::for_clients(is_local, &owned(hosts), &owned(origins))
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let policy = policy(true, &["gw.example.com"], &[]);
        for good in
            ["gw.example.com", "GW.example.com:80", "localhost:4444", "127.0.0.1:9", "[::1]:4444", "[::1]"]
        {
            assert!(policy.check(&request(good, None)).is_ok(), "{good}");
        }
        for bad in
            ["evil.com", "gw.example.com.evil.com", "", "gw.example.com:x", "user@localhost", "[::1", "::1"]
        {
            let refused = policy.check(&request(bad, None)).expect_err(bad);
            assert!(matches!(refused, Refusal::WrongHost(_)), "{bad}");
        }
    }

    #[test]
    fn an_empty_list_accepts_any_host_but_not_any_origin() {
        let policy = policy(false, &[], &["https://ui.example.com"]);
        assert!(policy.check(&request("anything:1", None)).is_ok());
        assert!(policy.check(&request("a.example", Some("http://a.example:3000"))).is_ok());
        assert!(policy.check(&request("a.example", Some("https://ui.example.com"))).is_ok());
        assert!(policy.check(&request("a.example", Some("http://evil.com"))).is_err());
    }

    #[test]
    fn an_origin_must_be_one_of_ours() {
        let policy = policy(true, &["localhost"], &["app://desktop"]);
        for good in ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:80", "app://desktop"] {
            assert!(policy.check(&request("localhost", Some(good))).is_ok(), "{good}");
        }
        for bad in [
            "http://evil.com",
            "null",
            "",
            "http://localhost.evil.com",
            "ftp://localhost",
            "http://localhost/x",
        ] {
            let refused = policy.check(&request("localhost", Some(bad))).expect_err(bad);
            assert!(matches!(refused, Refusal::WrongOrigin(_)), "{bad}");
        }
    }

    #[test]
    fn what_decides_is_said_once() {
        let policy = policy(true, &["localhost"], &[]);
        for name in SINGLE {
            let mut head = request("localhost", Some("http://localhost"));
            head.headers.append(name, http::HeaderValue::from_static("http://localhost"));
            head.headers.append(name, http::HeaderValue::from_static("http://evil.com"));
            assert_eq!(policy.check(&head), Err(Refusal::RepeatedHeader(name)));
        }
        let mut head = request("localhost", None);
        head.headers.append("accept", http::HeaderValue::from_static("application/json"));
        head.headers.append("accept", http::HeaderValue::from_static("text/event-stream"));
        assert!(policy.check(&head).is_ok());
    }

    #[test]
    fn the_operators_port_on_loopback_is_never_open_to_any_name() {
        let policy = HostPolicy::for_operators(true, &[], &[]);
        assert!(policy.check(&request("localhost:4445", None)).is_ok());
        assert!(policy.check(&request("rebound.evil.com", None)).is_err());
    }

    #[test]
    fn an_absolute_target_counts_instead_of_the_host_field() {
        let policy = policy(true, &["localhost"], &[]);
        let head = http::Request::builder().uri("http://evil.com/mcp").header(HOST, "localhost");
        assert!(policy.check(&head.body(()).expect("request").into_parts().0).is_err());
    }
}
