//! What the revisions of MCP define and everything here agrees on: their names, the two eras they fall into, error codes.

/// The stateless revision.
pub const MODERN: &str = "2026-07-28";
/// Modern revisions that are served.
pub const MODERN_VERSIONS: &[&str] = &[MODERN];
/// Revisions with `initialize`, newest first.
pub const LEGACY_VERSIONS: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// What `initialize` asks upstreams for, and offers to clients that ask for something else.
pub const NEWEST_LEGACY: &str = LEGACY_VERSIONS[0];

/// Which half of the protocol a client speaks: with or without `initialize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Revisions up to 2025-11-25: `initialize`, sessions.
    Legacy,
    /// Revision 2026-07-28: stateless, `_meta` in every request.
    Modern,
}

/// JSON-RPC's "parse error".
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC's "invalid request".
pub const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC's "method not found".
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC's "invalid params".
pub const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC's "internal error".
pub const INTERNAL_ERROR: i64 = -32603;
/// What legacy revisions call a resource that is not there.
pub const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;
/// `HeaderMismatch`.
pub const HEADER_MISMATCH: i64 = -32020;
/// `MissingRequiredClientCapability`.
pub const MISSING_CAPABILITY: i64 = -32021;
/// `UnsupportedProtocolVersion`.
pub const UNSUPPORTED_VERSION: i64 = -32022;
/// What only a modern server sends.
pub const MODERN_CODES: [i64; 3] = [HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION];
