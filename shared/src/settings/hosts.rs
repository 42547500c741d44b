//! Addresses to listen on, and the names and origins under which clients may come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why an address, a host or an origin is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Not `ADDRESS:PORT`.
    #[error("not an IP address with a port")]
    Address,
    /// Not an IP address.
    #[error("not an IP address; host names are not resolved")]
    Ip,
    /// Not a port.
    #[error("not a port")]
    Port,
    /// An allowed host that no `Host` header can be.
    #[error("{0:?} is not a host name or IP address; it is written without scheme, port and path")]
    Host(String),
    /// An allowed origin that no `Origin` header can be.
    #[error("{0:?} is not an origin; one looks like https://app.example.com:8443")]
    Origin(String),
    /// A path at which no unix socket can be made.
    #[error(
        "a unix socket is written as unix: and an absolute path of at most {0} bytes, such as unix:/run/forkgate/http.sock"
    )]
    SocketPath(usize),
    /// Two addresses to listen on of which one covers the other.
    #[error("{0} and {1} cannot both be listened on")]
    SameBind(String, String),
    /// More addresses to listen on than a worker has descriptors for.
    #[error("at most {0} addresses")]
    TooManyBinds(usize),
    /// `*` among origins.
    #[error("* would let any web page use a visitor's gateway; list the origins")]
    AnyOrigin,
}

/// `127.0.0.1:4444`, `[::]:4444` or `localhost:4444`. Port 0 means: any free one.
pub fn socket_address(text: &str) -> Result<SocketAddr, HostError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or(HostError::Address)?;
    match (host.eq_ignore_ascii_case("localhost"), port.parse()) {
        (true, Ok(port)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => Err(HostError::Address),
    }
}

/// An IP address, with or without brackets, or `localhost`.
pub fn ip(text: &str) -> Result<IpAddr, HostError> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| HostError::Ip)
}

/// A port of an address to listen on.
pub fn port(text: &str) -> Result<u16, HostError> {
    text.parse().map_err(|_| HostError::Port)
}

/// True when both cannot be listened on: same port, and one covers the other. Port 0 never collides.
pub fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || (a.is_unspecified() && a.is_ipv4() == b.is_ipv4());
    one.port() != 0
        && one.port() == other.port()
        && (covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}

/// The names that a gateway on a loopback address is called by: a web page elsewhere that resolves its own name to
/// 127.0.0.1 (DNS rebinding) is none of them.
pub fn loopback_names() -> Vec<String> {
    vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string(), format!("[{}]", Ipv6Addr::LOCALHOST)]
}

/// Allowed `Host` names in lower case, IPv6 in brackets; empty for `*`.
pub fn allowed_hosts(items: &[String]) -> Result<Vec<String>, HostError> {
    if items.iter().any(|item| item == "*") {
        return Ok(Vec::new());
    }
    items.iter().map(|item| allowed_host(item)).collect()
}

fn allowed_host(item: &str) -> Result<String, HostError> {
    if let Ok(ip) = ip(item) {
        return Ok(match ip {
            _ if item.eq_ignore_ascii_case("localhost") => "localhost".to_owned(),
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        });
    }
    let name = item.to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(HostError::Host(item.to_owned()));
    }
    Ok(name)
}

/// Allowed `Origin`s as a browser writes them: no path, no default port.
pub fn allowed_origins(items: &[String]) -> Result<Vec<String>, HostError> {
    items.iter().map(|item| allowed_origin(item)).collect()
}

fn allowed_origin(item: &str) -> Result<String, HostError> {
    if item == "*" {
        return Err(HostError::AnyOrigin);
    }
    let refused = || HostError::Origin(item.to_owned());
    let parsed = url::Url::parse(item).map_err(|_| refused())?;
    let plain = parsed.path() == "/" && parsed.query().is_none() && parsed.username().is_empty();
    if !plain || !parsed.origin().is_tuple() || !matches!(parsed.scheme(), "http" | "https") {
        return Err(refused());
    }
    Ok(parsed.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(socket_address("localhost:1").map(|a| a.to_string()), Ok("127.0.0.1:1".to_owned()));
        assert_eq!(socket_address("[::]:4444").map(|a| a.port()), Ok(4444));
        for text in ["4444", ":4444", "127.0.0.1", "example.com:80", "127.0.0.1:99999", "::1:4444:"] {
            assert_eq!(socket_address(text), Err(HostError::Address), "{text}");
        }
        assert_eq!(ip("[::1]"), Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(ip("myhost"), Err(HostError::Ip));
    }

    #[test]
    fn a_wildcard_address_collides_with_every_address_of_its_family() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("address");
        assert!(collide(at("0.0.0.0:1"), at("127.0.0.1:1")));
        assert!(collide(at("127.0.0.1:1"), at("127.0.0.1:1")));
        assert!(!collide(at("127.0.0.1:1"), at("127.0.0.2:1")));
        assert!(!collide(at("127.0.0.1:1"), at("127.0.0.1:2")));
        assert!(!collide(at("[::]:1"), at("127.0.0.1:1")));
        assert!(!collide(at("127.0.0.1:0"), at("127.0.0.1:0")));
    }

    #[test]
    fn hosts_and_origins_are_normalised_or_refused() {
        assert_eq!(
            allowed_hosts(&items("Gateway.Example.com,::1,127.0.0.1,localhost")),
            Ok(items("gateway.example.com,[::1],127.0.0.1,localhost"))
        );
        assert_eq!(allowed_hosts(&items("a,*")), Ok(Vec::new()));
        for text in ["a:80", "http://a", "a/b", "a b"] {
            assert!(allowed_hosts(&items(text)).is_err(), "{text}");
        }
        assert_eq!(
            allowed_origins(&items("http://localhost:3000,https://APP.example.com:443/")),
            Ok(items("http://localhost:3000,https://app.example.com"))
        );
        for text in ["app.example.com", "https://a/b", "null", "file:///x", "ftp://a"] {
            assert!(allowed_origins(&items(text)).is_err(), "{text}");
        }
        assert_eq!(allowed_origins(&items("*")), Err(HostError::AnyOrigin));
    }
}
