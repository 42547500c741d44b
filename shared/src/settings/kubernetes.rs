//! Names that Kubernetes injects for a Service whose name begins with `gateway` (the "Docker links" variables).

/// True for `GATEWAY[_X]_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT_80_TCP[_ADDR|_PORT|_PROTO]`, and for
/// `GATEWAY_PORT` itself.
pub fn is_injected(name: &str) -> bool {
    if !name.starts_with("GATEWAY_") {
        return false;
    }
    name == "GATEWAY_PORT"
        || name.starts_with("GATEWAY_PORT_")
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || is_link_port(name)
}

/// True for `GATEWAY_X_PORT`, whose value Kubernetes makes a URL; a plain number is somebody's own.
pub fn is_injected_with(name: &str, value: &str) -> bool {
    let link = name.starts_with("GATEWAY_") && name.ends_with("_PORT");
    let url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    is_injected(name) || (link && url)
}

/// `GATEWAY_X_PORT_80_TCP` and what hangs on it.
fn is_link_port(name: &str) -> bool {
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let mut words = port.split('_');
    let numbered =
        words.next().is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()));
    numbered && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_injects_is_told_from_settings() {
        for name in [
            "GATEWAY_PORT",
            "GATEWAY_PORT_4444_TCP",
            "GATEWAY_PORT_4444_TCP_ADDR",
            "GATEWAY_SERVICE_HOST",
            "GATEWAY_SERVICE_PORT",
            "GATEWAY_SERVICE_PORT_HTTP",
            "GATEWAY_API_SERVICE_HOST",
            "GATEWAY_API_PORT_80_TCP_PROTO",
        ] {
            assert!(is_injected(name), "{name}");
        }
        for name in ["GATEWAY_WORKERS", "GATEWAY_PORTS", "GATEWAY_BIND", "SERVICE_HOST"] {
            assert!(!is_injected(name), "{name}");
        }
        assert!(is_injected_with("GATEWAY_API_PORT", "tcp://10.0.0.1:80"));
        assert!(!is_injected_with("GATEWAY_API_PORT", "80"));
    }
}
