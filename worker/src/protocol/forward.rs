//! Requests that an upstream answers: find who, check, build, call, relay.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::Ground;
use super::envelope::{Envelope, Message, string};
use super::headers;
use super::params::Params;
use super::relay::{self, Reading};
use super::rewrite::{Forwarded, Plan};
use crate::auth::Principal;
use crate::body::Body;
use crate::catalog::{Endpoint, Target, UpstreamEra, View};
use crate::failure::{Era, Failure};
use crate::upstream::Built;

/// The name or URI that a request is about, when its method has one that routes it.
pub fn subject<'a>(
    method: Forwarded,
    params: Option<&Params<'a>>,
) -> Result<std::borrow::Cow<'a, str>, Failure> {
    let params = params.ok_or_else(|| Failure::InvalidParams("`params` are missing".to_owned()))?;
    match method {
        Forwarded::ToolsCall | Forwarded::PromptsGet => params.string("name"),
        Forwarded::ResourcesRead => params.string("uri"),
        Forwarded::Complete => {
            let to = params
                .object
                .object("ref")
                .ok_or_else(|| Failure::InvalidParams("`ref` must be an object".to_owned()))?;
            to.refuse_duplicates().map_err(Failure::InvalidParams)?;
            let key = match to.get("type").and_then(string).as_deref() {
                Some("ref/prompt") => "name",
                Some("ref/resource") => "uri",
                _ => {
                    return Err(Failure::InvalidParams(
                        "`ref.type` must be ref/prompt or ref/resource".to_owned(),
                    ));
                }
            };
            let value = to.get(key).and_then(string);
            value.ok_or_else(|| Failure::InvalidParams(format!("`ref.{key}` must be a string")))
        }
    }
}

/// Who answers, if the endpoint offers the method at all.
pub fn target<G: Ground>(
    ground: &G,
    endpoint: &Endpoint,
    principal: &Principal,
    method: Forwarded,
    params: Option<&Params<'_>>,
    subject: &str,
) -> Result<Target, Failure> {
    // What else is forwarded is always offered.
    if method == Forwarded::Complete {
        check_offered(ground, endpoint, method.method())?;
    }
    let is_prompt = || {
        let to = params.and_then(|params| params.object.object("ref"));
        to.is_some_and(|to| to.get("name").is_some())
    };
    let find = |view: &dyn View| match method {
        Forwarded::ToolsCall => view
            .tool(subject)
            .filter(|_| ground.may_call(principal, subject))
            .ok_or_else(|| Failure::NoSuchTool(subject.to_owned())),
        Forwarded::PromptsGet => {
            view.prompt(subject).ok_or_else(|| Failure::NoSuchPrompt(subject.to_owned()))
        }
        Forwarded::Complete if is_prompt() => {
            view.prompt(subject).ok_or_else(|| Failure::NoSuchPrompt(subject.to_owned()))
        }
        Forwarded::ResourcesRead | Forwarded::Complete => {
            view.resource(subject).ok_or_else(|| Failure::NoSuchResource(subject.to_owned()))
        }
    };
    ground.with_view(endpoint, find).unwrap_or_else(|| Err(no_such_endpoint(endpoint)))
}

/// Refuses a method behind a capability that this endpoint does not advertise.
pub fn check_offered<G: Ground>(ground: &G, endpoint: &Endpoint, method: &str) -> Result<(), Failure> {
    let offer = ground.offer(endpoint).ok_or_else(|| no_such_endpoint(endpoint))?;
    if offer.serves(method) { Ok(()) } else { Err(Failure::NoSuchMethod(method.to_owned())) }
}

/// The failure of an endpoint that the catalog does not know.
pub fn no_such_endpoint(endpoint: &Endpoint) -> Failure {
    Failure::NoSuchEndpoint(match endpoint {
        Endpoint::Federated => "/mcp".to_owned(),
        Endpoint::Server(id) => format!("/servers/{id}/mcp"),
        Endpoint::Upstream(name) => format!("/upstreams/{name}/mcp"),
    })
}

/// Who asks, as far as the upstream and the answer are concerned.
pub struct Caller {
    /// Its era.
    pub era: Era,
    /// The version of a legacy client's session.
    pub version: Option<Box<str>>,
    /// The least severe log level that it wants.
    pub log_level: Option<u8>,
}

/// Calls the upstream and relays what it says.
pub async fn forward<G: Ground>(
    ground: &Rc<G>,
    caller: Caller,
    method: Forwarded,
    envelope: &Envelope<'_>,
    params: Option<&Params<'_>>,
    target: Target,
    reading: Reading,
) -> Response<Body> {
    let Message::Request { id, .. } = envelope.message else {
        return Failure::Internal("only requests are forwarded".to_owned()).respond(caller.era, None, false);
    };
    let plan = Plan {
        era: caller.era,
        version: caller.version,
        method,
        id: id.get().into(),
        progress_token: params.and_then(Params::progress_token).map(|token| token.get().into()),
        log_level: caller.log_level,
        upstream: target.upstream.clone(),
    };
    reading.note.upstream(target.upstream.index);
    let arguments = params.and_then(|params| params.object.get("arguments"));
    let build = |upstream_era: &UpstreamEra, id: u64| Built {
        body: Bytes::from(plan.request(envelope, params, &target.name, upstream_era, id)),
        headers: match upstream_era {
            UpstreamEra::Modern => headers::outgoing(method, &target, arguments),
            UpstreamEra::Legacy { .. } => Vec::new(),
        },
    };
    // Everything but a tool only reads.
    let may_repeat = method != Forwarded::ToolsCall;
    let called = ground.upstreams().call(&target.upstream, may_repeat, build).await;
    relay::answer(plan, called, reading).await
}

/// True when the `Accept` header admits event streams; a client that says nothing takes anything.
pub fn takes_events(headers: &HeaderMap) -> bool {
    accepts(headers, "text/event-stream", "text/*")
}

fn accepts(headers: &HeaderMap, kind: &str, family: &str) -> bool {
    let mut values = headers.get_all(http::header::ACCEPT).iter().peekable();
    values.peek().is_none()
        || values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|item| {
            let item = item.split(';').next().unwrap_or_default().trim();
            item.eq_ignore_ascii_case(kind) || item.eq_ignore_ascii_case(family) || item == "*/*"
        })
}
