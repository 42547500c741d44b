//! Revision 2026-07-28: stateless, every request says who it is from and in which version.
//!
//! A request passes these checks in this order; the first that fails is answered (M is the reference on the protocol):
//! required `_meta` → version header equals body → version served → `Mcp-Method` → what the method is about → `Mcp-Name` →
//! method known and behind an advertised capability → `Mcp-Param-*` → dispatch.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::answers;
use super::envelope::{Envelope, Message, string};
use super::era::{VERSION_HEADER, VERSION_KEY, header};
use super::forward::{self, Caller, forward};
use super::headers;
use super::levels;
use super::params::Params;
use super::relay::Reading;
use super::rewrite::Forwarded;
use super::{Ground, note_message, silence};
use crate::answer;
use crate::auth::Principal;
use crate::body::Body;
use crate::catalog::Endpoint;
use crate::failure::{Era, Failure};
use crate::observe::note::Note;
use crate::revision::MODERN_VERSIONS;

const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

/// Answers a POST.
pub async fn post<G: Ground>(
    ground: &Rc<G>,
    endpoint: Endpoint,
    principal: Rc<Principal>,
    head: HeaderMap,
    body: Bytes,
    note: &Rc<Note>,
) -> Response<Body> {
    let reading = Reading::of(&**ground, &head, note);
    let ground = Rc::clone(ground);
    // Owns all that it needs, so that it can go on beside an event stream.
    let (own, ends, whole) = (reading.clone(), reading.clone(), body.clone());
    let answer = Box::pin(async move { answer(&ground, &endpoint, &principal, &head, &body, own).await });
    silence::bridge(answer, reading, move || cut_off(&ends, &whole)).await
}

/// The answer to a request that has no time left.
fn cut_off(reading: &Reading, body: &Bytes) -> Response<Body> {
    let envelope = Envelope::parse(body);
    let (id, is_tool_call) = match envelope.as_ref().map(|envelope| &envelope.message) {
        Ok(Message::Request { id, method }) => (Some(id.get()), method == "tools/call"),
        _ => (None, false),
    };
    reading.refuse(&Failure::CutOff, Era::Modern, id, is_tool_call)
}

async fn answer<G: Ground>(
    ground: &Rc<G>,
    endpoint: &Endpoint,
    principal: &Principal,
    head: &HeaderMap,
    body: &Bytes,
    reading: Reading,
) -> Response<Body> {
    let envelope = match Envelope::parse(body) {
        Ok(envelope) => envelope,
        Err(malformed) => return malformed.into_failure().respond(Era::Modern, None, false),
    };
    note_message(&envelope.message, &reading.note);
    match &envelope.message {
        // What a modern notification may ask for (cancelling) is said by closing the stream.
        Message::Notification { .. } => match check_version_header(head) {
            Ok(()) => answer::empty(StatusCode::ACCEPTED),
            Err(failure) => failure.respond(Era::Modern, None, false),
        },
        Message::Response { .. } => {
            let failure =
                Failure::InvalidRequest("a client sends requests and notifications, no responses".to_owned());
            failure.respond(Era::Modern, None, false)
        }
        Message::Request { id, method } => {
            let own = reading.clone();
            let answered = request(ground, endpoint, principal, head, &envelope, own, id.get(), method).await;
            answered.unwrap_or_else(|failure| {
                reading.refuse(&failure, Era::Modern, Some(id.get()), method == "tools/call")
            })
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what a request is made of")]
async fn request<G: Ground>(
    ground: &Rc<G>,
    endpoint: &Endpoint,
    principal: &Principal,
    head: &HeaderMap,
    envelope: &Envelope<'_>,
    reading: Reading,
    id: &str,
    method: &str,
) -> Result<Response<Body>, Failure> {
    let params = Params::of(envelope).map_err(|failure| match failure {
        Failure::InvalidParams(what) => Failure::UnreadableMeta(what),
        failure => failure,
    })?;
    let log_level = check_meta(head, params.as_ref())?;
    headers::check_mirror(head, headers::METHOD, method)?;
    let forwarded = Forwarded::from_method(method);
    let subject = match forwarded {
        Some(forwarded) => Some(forward::subject(forwarded, params.as_ref())?),
        None => None,
    };
    if let Some(name) = subject.as_deref().filter(|_| forwarded != Some(Forwarded::Complete)) {
        headers::check_mirror(head, headers::NAME, name)?;
    }
    if let (Some(forwarded), Some(subject)) = (forwarded, &subject) {
        reading.note.object(subject);
        let target = forward::target(&**ground, endpoint, principal, forwarded, params.as_ref(), subject)?;
        if forwarded == Forwarded::ToolsCall {
            let arguments = params.as_ref().and_then(|params| params.object.get("arguments"));
            headers::check_params(head, &target, arguments)?;
        }
        let caller = Caller { era: Era::Modern, version: None, log_level };
        return Ok(forward(ground, caller, forwarded, envelope, params.as_ref(), target, reading).await);
    }
    if method == "server/discover" {
        let offer = ground.offer(endpoint).ok_or_else(|| forward::no_such_endpoint(endpoint))?;
        return Ok(answer::json(StatusCode::OK, offer.discover(id)));
    }
    let kind = answers::list_kind(method).ok_or_else(|| Failure::NoSuchMethod(method.to_owned()))?;
    list(&**ground, endpoint, Era::Modern, id, kind, params.as_ref())
}

/// A list of the catalog: whole, so there is no cursor to come back with.
pub fn list<G: Ground>(
    ground: &G,
    endpoint: &Endpoint,
    era: Era,
    id: &str,
    kind: crate::catalog::Kind,
    params: Option<&Params<'_>>,
) -> Result<Response<Body>, Failure> {
    if params.and_then(|params| params.object.get("cursor")).is_some_and(|cursor| cursor.get() != "null") {
        return Err(Failure::InvalidParams("unknown `cursor`: lists come whole, without one".to_owned()));
    }
    let items = ground.with_view(endpoint, |view| view.list(kind, era));
    let items = items.ok_or_else(|| forward::no_such_endpoint(endpoint))?;
    Ok(answer::json(StatusCode::OK, answers::list(era, id, kind, &items)))
}

/// The version of the header is one that is served.
fn check_version_header(head: &HeaderMap) -> Result<(), Failure> {
    let version = header(head, VERSION_HEADER).unwrap_or_default();
    if MODERN_VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(Failure::UnsupportedVersion { requested: version.to_owned() })
}

/// Checks `_meta` and the version; gives the log level that was asked for.
fn check_meta(head: &HeaderMap, params: Option<&Params<'_>>) -> Result<Option<u8>, Failure> {
    let meta = params.and_then(|params| params.meta.as_ref());
    let meta = meta.ok_or(Failure::MissingMeta(VERSION_KEY))?;
    let version = meta.get(VERSION_KEY).and_then(string).ok_or(Failure::MissingMeta(VERSION_KEY))?;
    meta.object(CAPABILITIES_KEY).ok_or(Failure::MissingMeta(CAPABILITIES_KEY))?;
    let said = header(head, VERSION_HEADER).unwrap_or_default();
    if said != version {
        let what = format!("the MCP-Protocol-Version header says {said:?}, `_meta` {version:?}");
        return Err(Failure::HeaderMismatch(what));
    }
    check_version_header(head)?;
    match meta.get(LEVEL_KEY) {
        None => Ok(None),
        Some(raw) => {
            let level = string(raw).and_then(|name| levels::parse(&name));
            let invalid = || Failure::InvalidParams(format!("`{LEVEL_KEY}` is no log level"));
            level.map(Some).ok_or_else(invalid)
        }
    }
}
