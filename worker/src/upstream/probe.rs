//! Which era an upstream speaks: `server/discover` first, then `initialize`.
//!
//! | answer to `server/discover` | verdict |
//! |---|---|
//! | a result that lists 2026-07-28 | modern |
//! | error -32020, -32021 or -32022 without legacy versions | modern, but unusable: an error |
//! | 401, 403, no connection, deadline | no evidence: an error |
//! | anything else | not modern: `initialize` decides |

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::UpstreamError;
use super::calls::{SESSION_ID, Upstreams, request_headers};
use super::message::{Message, excerpt};
use super::peer::Peer;
use super::session::UpstreamSession;
use crate::catalog::UpstreamEra;
use crate::revision::{LEGACY_VERSIONS, MODERN, MODERN_CODES, NEWEST_LEGACY};

/// Characters of an upstream's own error text that we repeat.
const EXCERPT: usize = 300;

/// `clientInfo` of everything that the gateway asks in its own name.
pub const CLIENT_INFO: &str =
    concat!(r#"{"name":"forkgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What an upstream says about itself.
pub struct Found {
    /// The era it speaks.
    pub era: UpstreamEra,
    /// `serverInfo`.
    pub server_info: Box<RawValue>,
    /// `capabilities`.
    pub capabilities: Box<RawValue>,
    /// `instructions`.
    pub instructions: Option<String>,
    /// The session that `initialize` opened; after [`probe`] it is in the peer's slot.
    pub session: Option<UpstreamSession>,
}

/// An answer to one of our own questions.
pub(super) enum Reply {
    /// The response message.
    Message(Bytes, HeaderMap),
    /// A status that is no success, and what the body says.
    Refused(StatusCode, Bytes),
}

/// Members of the result of `server/discover` and of `initialize`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    #[serde(default)]
    supported_versions: Vec<String>,
    #[serde(default)]
    protocol_version: Option<String>,
    #[serde(borrow, default)]
    server_info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<AboutMeta<'a>>,
}

#[derive(Deserialize)]
struct AboutMeta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

fn nonsense(what: impl Into<String>) -> UpstreamError {
    UpstreamError::Nonsense(what.into())
}

/// Finds out. A session that is opened on the way stays in the peer's slot.
pub(super) async fn probe(upstreams: &Upstreams, peer: &Rc<Peer>) -> Result<Found, UpstreamError> {
    if let Some(found) = discover(upstreams, peer).await? {
        return Ok(found);
    }
    let mut found = initialize(upstreams, peer).await?;
    peer.session.set(found.session.take());
    Ok(found)
}

/// The members that a modern request's `_meta` must have, without braces.
pub fn modern_meta() -> String {
    format!(
        r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{CLIENT_INFO},"io.modelcontextprotocol/clientCapabilities":{{}}"#
    )
}

async fn discover(upstreams: &Upstreams, peer: &Rc<Peer>) -> Result<Option<Found>, UpstreamError> {
    let id = upstreams.next_id();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"server/discover","params":{{"_meta":{{{}}}}}}}"#,
        modern_meta()
    );
    let method = (HeaderName::from_static("mcp-method"), HeaderValue::from_static("server/discover"));
    let headers = request_headers(peer, &UpstreamEra::Modern, None, vec![method]);
    let body = match ask(upstreams, peer, headers, body.into(), id).await? {
        Reply::Message(body, _) | Reply::Refused(_, body) => body,
    };
    let Some(message) = Message::parse(&body) else { return Ok(None) };
    if let Some(error) = message.error {
        let offers_legacy =
            error.data.is_some_and(|data| LEGACY_VERSIONS.iter().any(|version| data.get().contains(version)));
        if MODERN_CODES.contains(&error.code) && !offers_legacy {
            let text = excerpt(&error.message, EXCERPT);
            return Err(nonsense(format!("error {} to server/discover: {text}", error.code)));
        }
        return Ok(None);
    }
    let Some(about) = message.result.and_then(|result| serde_json::from_str::<About>(result.get()).ok())
    else {
        return Ok(None);
    };
    if !about.supported_versions.iter().any(|version| version == MODERN) {
        return Ok(None);
    }
    let server_info = about.server_info.or(about.meta.and_then(|meta| meta.server_info));
    Ok(Some(Found {
        era: UpstreamEra::Modern,
        server_info: owned_or_empty(server_info),
        capabilities: owned_or_empty(about.capabilities),
        instructions: about.instructions,
        session: None,
    }))
}

/// `initialize` and `notifications/initialized`.
pub(super) async fn initialize(upstreams: &Upstreams, peer: &Rc<Peer>) -> Result<Found, UpstreamError> {
    let id = upstreams.next_id();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{NEWEST_LEGACY}","capabilities":{{}},"clientInfo":{CLIENT_INFO}}}}}"#
    );
    let era = UpstreamEra::Legacy { version: NEWEST_LEGACY.to_owned() };
    let headers = request_headers(peer, &era, None, Vec::new());
    let (body, headers) = match ask(upstreams, peer, headers, body.into(), id).await? {
        Reply::Message(body, headers) => (body, headers),
        Reply::Refused(status, body) => {
            return Err(match Message::parse(&body).and_then(|message| message.error) {
                Some(error) => UpstreamError::InitializeRefused(excerpt(&error.message, EXCERPT)),
                None if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => {
                    UpstreamError::InitializeRefused(format!(
                        "HTTP status {}; is this the URL of its Streamable HTTP endpoint (HTTP+SSE is not served yet)?",
                        status.as_u16()
                    ))
                }
                None => UpstreamError::Status(status.as_u16()),
            });
        }
    };
    let message =
        Message::parse(&body).ok_or_else(|| nonsense("the answer to initialize is no JSON-RPC message"))?;
    if let Some(error) = message.error {
        return Err(UpstreamError::InitializeRefused(excerpt(&error.message, EXCERPT)));
    }
    let about: About<'_> = message
        .result
        .and_then(|result| serde_json::from_str(result.get()).ok())
        .ok_or_else(|| nonsense("the result of initialize has another shape"))?;
    let version = about.protocol_version.unwrap_or_default();
    if !LEGACY_VERSIONS.contains(&version.as_str()) {
        let version = excerpt(&version, EXCERPT);
        return Err(nonsense(format!("it negotiates protocol version {version:?}, which is not supported")));
    }
    let session = UpstreamSession { id: headers.get(SESSION_ID).cloned(), version: version.clone() };
    let found = Found {
        era: UpstreamEra::Legacy { version },
        server_info: owned_or_empty(about.server_info),
        capabilities: owned_or_empty(about.capabilities),
        instructions: about.instructions,
        session: Some(session),
    };
    let headers = request_headers(peer, &found.era, found.session.as_ref(), Vec::new());
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    upstreams.send(peer, Method::POST, headers, body, true).await?.discard().await;
    Ok(found)
}

fn owned_or_empty(raw: Option<&RawValue>) -> Box<RawValue> {
    raw.map_or_else(|| RawValue::from_string("{}".to_owned()).expect("JSON"), ToOwned::to_owned)
}

/// Sends one of our own requests and waits for its response, whichever form it comes in. 401 and 403 are errors.
pub(super) async fn ask(
    upstreams: &Upstreams,
    peer: &Rc<Peer>,
    headers: HeaderMap,
    body: Bytes,
    id: u64,
) -> Result<Reply, UpstreamError> {
    let limit = upstreams.settings().max_answer;
    let deadline = Instant::now() + upstreams.settings().tool_timeout;
    let exchange = upstreams.send(peer, Method::POST, headers, body, true).await?;
    let status = exchange.status;
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(UpstreamError::Unauthorized(status.as_u16()));
    }
    let headers = exchange.headers.clone();
    if status != StatusCode::OK {
        return Ok(Reply::Refused(status, exchange.bytes(limit).await?));
    }
    if !exchange.is_event_stream() {
        return Ok(Reply::Message(exchange.bytes(limit).await?, headers));
    }
    let own_id = id.to_string();
    let mut events = exchange.events(limit, deadline);
    while let Some(message) = events.next().await? {
        let is_ours = Message::parse(&message)
            .is_some_and(|message| message.is_response() && message.id.is_none_or(|id| id.get() == own_id));
        if is_ours {
            events.finish();
            return Ok(Reply::Message(message, headers));
        }
    }
    Err(UpstreamError::Broken("its event stream ended without a response".to_owned()))
}
