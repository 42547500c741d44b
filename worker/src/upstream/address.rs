//! Which addresses an upstream may have.
//!
//! Invariant: asked about the very address that is then connected to, after the name was resolved, so that a name which
//! resolves differently a second time gains nothing (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forkgate_shared::settings::Settings;

/// True when the settings let the gateway connect to `ip`. Link-local addresses (the cloud's metadata service among
/// them), multicast and the unspecified address are refused whatever the settings say.
pub fn allowed(ip: IpAddr, settings: &Settings) -> bool {
    let ip = ip.to_canonical();
    if is_never(ip) {
        return false;
    }
    if ip.is_loopback() {
        return settings.ssrf_allow_localhost;
    }
    !is_private(ip) || settings.ssrf_allow_private_networks
}

/// Metadata services that stand outside link-local space: Alibaba's, and AWS's over IPv6.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn is_never(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            v4.is_unspecified()
                || v4.octets()[0] == 0
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] >= 240
                || v4 == METADATA_V4
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6 == METADATA_V6
                || embedded(v6).is_some_and(|v4| is_never(IpAddr::V4(v4)))
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_private()
                // Shared address space (RFC 6598), protocol assignments (RFC 6890), benchmarking (RFC 2544).
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b & 0xfe) == 18)
        }
        IpAddr::V6(v6) => {
            v6.is_unique_local()
                // Site-local (RFC 3879: deprecated, still routed inside) and local-use NAT64 (RFC 8215), whose embedded
                // address its network may put elsewhere.
                || (v6.segments()[0] & 0xffc0) == 0xfec0
                || v6.segments()[..3] == [0x64, 0xff9b, 1]
                || embedded(v6).is_some_and(|v4| v4.is_loopback() || is_private(IpAddr::V4(v4)))
        }
    }
}

/// The IPv4 address that a NAT64 (64:ff9b::/96, and 64:ff9b:1::/48 as far as it is laid out the same way), 6to4 (2002::/16) or IPv4-compatible address leads to.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, .., high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if !v6.is_loopback() => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::upstream::fixture;

    #[test]
    fn the_table() {
        for (ip, localhost, private, want) in [
            ("93.184.216.34", false, false, true),
            ("127.0.0.1", false, true, false),
            ("127.9.9.9", true, false, true),
            ("::1", true, false, true),
            ("::1", false, true, false),
            ("::ffff:127.0.0.1", false, true, false),
            ("10.0.0.1", true, false, false),
            ("10.0.0.1", false, true, true),
            ("192.168.1.1", false, false, false),
            ("172.16.0.1", false, false, false),
            ("100.64.0.1", false, false, false),
            ("fd00::1", false, false, false),
            ("fd00::1", false, true, true),
            ("169.254.169.254", true, true, false),
            ("::ffff:169.254.169.254", true, true, false),
            ("64:ff9b::a9fe:a9fe", true, true, false),
            ("64:ff9b::7f00:1", true, false, false),
            ("64:ff9b::a00:1", true, false, false),
            ("64:ff9b::5db8:d822", false, false, true),
            ("64:ff9b:1::5db8:d822", true, false, false),
            ("64:ff9b:1::a00:1", false, true, true),
            ("64:ff9b:1::a9fe:a9fe", true, true, false),
            ("64:ff9b:2::1", false, false, true),
            ("::ffff:10.0.0.1", true, false, false),
            ("::10.0.0.1", true, false, false),
            ("2002:a00:1::1", true, false, false),
            ("fec0::1", true, false, false),
            ("feff::1", true, false, false),
            ("fec0::1", false, true, true),
            ("2002:a9fe:a9fe::1", true, true, false),
            ("fd00:ec2::254", true, true, false),
            ("100.100.100.200", true, true, false),
            ("fe80::1", true, true, false),
            ("0.0.0.0", true, true, false),
            ("::", true, true, false),
            ("224.0.0.1", true, true, false),
            ("2606:2800:220:1::1", false, false, true),
        ] {
            let mut settings = fixture::settings();
            settings.ssrf_allow_localhost = localhost;
            settings.ssrf_allow_private_networks = private;
            assert_eq!(
                allowed(ip.parse().expect("an address"), &settings),
                want,
                "{ip} {localhost} {private}"
            );
        }
    }
}
