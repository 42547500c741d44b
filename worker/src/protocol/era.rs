//! Which era a POST belongs to.
//!
//! | `MCP-Protocol-Version` | message | era |
//! |---|---|---|
//! | 2026-07-28 | any | modern |
//! | a legacy version | any | legacy |
//! | absent | `initialize` | legacy |
//! | absent | `_meta` names a modern version | refused: the header is missing (-32020) |
//! | absent | other | legacy (with a session at the session's version, else 2025-03-26 is assumed) |
//! | anything else | any | modern, whose checks then refuse it |

use http::HeaderMap;

use super::envelope::{Message, Object, string};
use crate::failure::{Era, Failure};
use crate::revision::LEGACY_VERSIONS;

/// Header with the protocol version.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// `_meta` key with the protocol version.
pub const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// A header as text, without surrounding blanks; none also when it is no text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The era that the version header alone speaks for: how a body is answered that cannot be read.
pub fn by_header(headers: &HeaderMap) -> Era {
    match header(headers, VERSION_HEADER) {
        None => Era::Legacy,
        Some(version) if LEGACY_VERSIONS.contains(&version) => Era::Legacy,
        Some(_) => Era::Modern,
    }
}

/// The table above.
pub fn classify(
    headers: &HeaderMap,
    message: &Message<'_>,
    params: Option<&Object<'_>>,
) -> Result<Era, Failure> {
    if headers.contains_key(VERSION_HEADER) {
        return Ok(by_header(headers));
    }
    if matches!(message, Message::Request { method, .. } if method == "initialize") {
        return Ok(Era::Legacy);
    }
    let version = params.and_then(|params| params.object("_meta")).and_then(|meta| meta.get(VERSION_KEY));
    let version = version.and_then(string);
    match version {
        Some(version) if !LEGACY_VERSIONS.contains(&&*version) => Err(Failure::HeaderMismatch(format!(
            "the MCP-Protocol-Version header is missing; `_meta` says {version}"
        ))),
        _ => Ok(Era::Legacy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::Envelope;

    #[test]
    fn the_table() {
        let modern = r#","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        for (version, method, params, want) in [
            (Some("2026-07-28"), "tools/list", "", Some(Era::Modern)),
            (Some("2026-07-28"), "initialize", "", Some(Era::Modern)),
            (Some(" 2025-06-18 "), "tools/list", modern, Some(Era::Legacy)),
            (Some("2024-11-05"), "initialize", "", Some(Era::Legacy)),
            (None, "initialize", modern, Some(Era::Legacy)),
            (None, "tools/list", modern, None),
            (None, "tools/list", "", Some(Era::Legacy)),
            (Some("1999-01-01"), "tools/list", "", Some(Era::Modern)),
            (Some(""), "initialize", "", Some(Era::Modern)),
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}"#);
            let envelope = Envelope::parse(body.as_bytes()).expect("parses");
            let mut headers = HeaderMap::new();
            if let Some(version) = version {
                headers.insert(VERSION_HEADER, version.parse().expect("a value"));
            }
            let got = classify(&headers, &envelope.message, envelope.object.object("params").as_ref());
            assert_eq!(got.ok(), want, "{version:?} {method} {params}");
        }
    }
}
