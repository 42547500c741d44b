//! MCP in both eras: from a message to its answer.
//!
//! `envelope` reads, `era` decides which half of the protocol speaks, `modern` and `legacy` are the two servers,
//! `forward` finds who answers, `rewrite` names what is changed in what passes through, `relay` brings the answer.

pub mod answers;
pub mod downgrade;
pub mod envelope;
pub mod era;
pub mod headers;
pub mod legacy;
pub mod levels;
pub mod modern;
pub mod params;
pub mod relay;
pub mod rewrite;
pub mod splice;

mod forward;
mod silence;
mod streams;

#[cfg(test)]
mod tests;

use std::rc::Rc;

use bytes::Bytes;
use forkgate_shared::sessions::Sessions;
use forkgate_shared::settings::Settings;
use http::{Method, Response};

use self::answers::Offer;
use self::envelope::{Envelope, Malformed, Message};
use self::relay::Reading;
use crate::auth::{self, Action, Object, Principal};
use crate::body::Body;
use crate::catalog::{Endpoint, View};
use crate::failure::{Era, Failure};
use crate::gateway::{Gateway, Shared};
use crate::lifecycle::Lifecycle;
use crate::observe::note::{Kind, Note};
use crate::upstream::Upstreams;

/// What MCP needs of the worker that it is served by.
pub trait Ground: 'static {
    /// The effective settings.
    fn settings(&self) -> &Settings;
    /// Legacy sessions.
    fn sessions(&self) -> &Sessions;
    /// Who answers.
    fn upstreams(&self) -> &Upstreams;
    /// Serving or draining.
    fn lifecycle(&self) -> &Lifecycle;
    /// Looks at what an endpoint offers; none when there is no such endpoint.
    fn with_view<R>(&self, endpoint: &Endpoint, look: impl FnOnce(&dyn View) -> R) -> Option<R>;
    /// What an endpoint can do; none when there is no such endpoint.
    fn offer(&self, endpoint: &Endpoint) -> Option<Offer>;
    /// May this caller use this tool?
    fn may_call(&self, principal: &Principal, tool: &str) -> bool;
}

impl Ground for Gateway {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    fn with_view<R>(&self, endpoint: &Endpoint, look: impl FnOnce(&dyn View) -> R) -> Option<R> {
        self.catalog.load().view(endpoint).map(look)
    }

    fn offer(&self, endpoint: &Endpoint) -> Option<Offer> {
        let catalog = self.catalog.load();
        let upstreams = catalog.upstreams_of(endpoint)?.iter().map(|upstream| &**upstream);
        Some(Offer::of(upstreams, matches!(endpoint, Endpoint::Upstream(_))))
    }

    fn may_call(&self, principal: &Principal, tool: &str) -> bool {
        auth::may(principal, Action::Use, Object::Tool(tool))
    }
}

/// Notes what the head of a request on an MCP endpoint says of it.
pub fn identify(head: &http::request::Parts, note: &Note) {
    note.era(era::by_header(&head.headers));
    if head.method == Method::GET {
        note.kind(Kind::Stream);
    } else if head.method == Method::DELETE {
        note.kind(Kind::EndSession);
    }
}

/// Answers a request on an MCP endpoint. Host, Origin, token, the right to use the endpoint and the size of the body
/// have been checked.
pub async fn serve(
    gateway: &Shared,
    endpoint: Endpoint,
    principal: Rc<Principal>,
    head: http::request::Parts,
    body: Bytes,
    note: &Rc<Note>,
) -> Response<Body> {
    serve_on(gateway, endpoint, principal, head, body, note).await
}

/// As [`serve`], on any ground.
pub async fn serve_on<G: Ground>(
    ground: &Rc<G>,
    endpoint: Endpoint,
    principal: Rc<Principal>,
    head: http::request::Parts,
    body: Bytes,
    note: &Rc<Note>,
) -> Response<Body> {
    let headers = &head.headers;
    let header_era = era::by_header(headers);
    match head.method {
        Method::POST if header_era == Era::Modern => {
            return modern::post(ground, endpoint, principal, head.headers, body, note).await;
        }
        Method::POST => {}
        Method::GET if header_era == Era::Legacy => {
            return legacy::get(ground, &endpoint, &principal, headers);
        }
        Method::DELETE if header_era == Era::Legacy => return legacy::delete(&**ground, &principal, headers),
        // 2026-07-28 has neither streams of a session nor sessions.
        Method::GET | Method::DELETE => {
            return Failure::MethodNotAllowed("POST").respond(Era::Modern, None, false);
        }
        _ => return Failure::MethodNotAllowed("POST, GET, DELETE").respond(header_era, None, false),
    }
    let envelope = match Envelope::parse(&body) {
        Ok(envelope) => envelope,
        Err(malformed) => return malformed.into_failure().respond(header_era, None, false),
    };
    note_message(&envelope.message, note);
    let params = envelope.object.object("params").filter(|_| !headers.contains_key(era::VERSION_HEADER));
    match era::classify(headers, &envelope.message, params.as_ref()) {
        // The header alone says modern, and was asked above.
        Ok(_) => {
            let reading = Reading::of(&**ground, headers, note);
            legacy::post(ground, &endpoint, &principal, headers, &envelope, &body, reading).await
        }
        Err(failure) => {
            note.era(Era::Modern);
            let id = match &envelope.message {
                Message::Request { id, .. } => Some(id.get()),
                _ => None,
            };
            Reading::of(&**ground, headers, note).refuse(&failure, Era::Modern, id, false)
        }
    }
}

fn note_message(message: &Message<'_>, note: &Note) {
    match message {
        Message::Request { method, .. } => note.method(method),
        Message::Notification { .. } => note.kind(Kind::Notification),
        Message::Response { .. } => note.kind(Kind::Response),
    }
}

impl Malformed {
    fn into_failure(self) -> Failure {
        match self {
            Malformed::NotJson(_) => Failure::Parse(self.to_string()),
            Malformed::NotRpc(_) | Malformed::Batch => Failure::InvalidRequest(self.to_string()),
        }
    }
}
