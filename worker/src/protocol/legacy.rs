//! Revisions 2024-11-05 … 2025-11-25 over Streamable HTTP: `initialize`, then requests that name a session.
//!
//! A session is valid on every worker and ended on every worker at once (see the session table). A client that hangs up
//! has cancelled nothing: a call runs in a task of its own, and the answer to the client only waits for it.

use std::rc::Rc;

use bytes::Bytes;
use forkgate_shared::sessions::{Session, SessionFacts};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;

use super::answers;
use super::envelope::{Envelope, Message};
use super::era::header;
use super::forward::{self, Caller, forward};
use super::levels;
use super::modern::list;
use super::params::Params;
use super::relay::Reading;
use super::rewrite::Forwarded;
use super::{Ground, silence, streams};
use crate::answer;
use crate::auth::Principal;
use crate::body::Body;
use crate::catalog::Endpoint;
use crate::failure::{Era, Failure};
use crate::lifecycle::calls::DetachedCall;
use crate::lifecycle::task;
use crate::revision::{LEGACY_VERSIONS, NEWEST_LEGACY};

const SESSION_HEADER: &str = "mcp-session-id";

/// Bits of [`SessionFacts::client_capabilities`], by the name of the capability.
const CAPABILITY_BITS: [(&str, u32); 3] = [("elicitation", 1), ("sampling", 2), ("roots", 4)];

/// Answers a POST.
pub async fn post<G: Ground>(
    ground: &Rc<G>,
    endpoint: &Endpoint,
    principal: &Rc<Principal>,
    head: &HeaderMap,
    envelope: &Envelope<'_>,
    body: &Bytes,
    reading: Reading,
) -> Response<Body> {
    let (id, is_tool_call) = match &envelope.message {
        Message::Request { id, method } => (Some(id.get()), method == "tools/call"),
        _ => (None, false),
    };
    let answered = match &envelope.message {
        Message::Request { id, method } if method == "initialize" => {
            initialize(&**ground, endpoint, principal, envelope, id.get())
        }
        Message::Request { id, method } => {
            let own = reading.clone();
            request(ground, endpoint, principal, head, envelope, body, id.get(), method, own).await
        }
        // `initialized`, `cancelled`, answers to what was never asked: nothing to do, nothing to say.
        Message::Notification { .. } | Message::Response { .. } => {
            session(&**ground, principal, head).map(|_| answer::empty(StatusCode::ACCEPTED))
        }
    };
    answered.unwrap_or_else(|failure| reading.refuse(&failure, Era::Legacy, id, is_tool_call))
}

fn initialize<G: Ground>(
    ground: &G,
    endpoint: &Endpoint,
    principal: &Principal,
    envelope: &Envelope<'_>,
    id: &str,
) -> Result<Response<Body>, Failure> {
    let missing = || Failure::InvalidParams("`params` are missing".to_owned());
    let params = Params::of(envelope)?.ok_or_else(missing)?;
    let asked = params.string("protocolVersion")?;
    let version = LEGACY_VERSIONS.iter().find(|version| **version == asked).unwrap_or(&NEWEST_LEGACY);
    let offer = ground.offer(endpoint).ok_or_else(|| forward::no_such_endpoint(endpoint))?;
    let declared = params.object.object("capabilities");
    let bits =
        CAPABILITY_BITS.iter().filter(|(name, _)| declared.as_ref().is_some_and(|d| d.get(name).is_some()));
    let facts = SessionFacts {
        version: (*version).to_owned(),
        client_capabilities: bits.fold(0, |all, (_, bit)| all | bit),
    };
    let session =
        ground.sessions().create(&principal.fingerprint, &facts).map_err(|_| Failure::SessionsFull)?;
    let mut response = answer::json(StatusCode::OK, offer.initialize(id, version));
    let session = HeaderValue::try_from(session).map_err(|error| Failure::Internal(error.to_string()))?;
    response.headers_mut().insert(HeaderName::from_static(SESSION_HEADER), session);
    Ok(response)
}

fn session<G: Ground>(ground: &G, principal: &Principal, head: &HeaderMap) -> Result<Session, Failure> {
    let id = header(head, SESSION_HEADER).ok_or(Failure::SessionMissing)?;
    ground.sessions().resume(id, &principal.fingerprint).map_err(|_| Failure::SessionUnknown)
}

#[expect(clippy::too_many_arguments, reason = "what a request is made of")]
async fn request<G: Ground>(
    ground: &Rc<G>,
    endpoint: &Endpoint,
    principal: &Rc<Principal>,
    head: &HeaderMap,
    envelope: &Envelope<'_>,
    body: &Bytes,
    id: &str,
    method: &str,
    reading: Reading,
) -> Result<Response<Body>, Failure> {
    let session = session(&**ground, principal, head)?;
    if let Some(forwarded) = Forwarded::from_method(method) {
        let call = Call {
            endpoint: endpoint.clone(),
            principal: Rc::clone(principal),
            method: forwarded,
            body: body.clone(),
            caller: Caller {
                era: Era::Legacy,
                log_level: Some(ground.sessions().log_level(&session)).filter(|level| *level > 0),
                version: Some(session.facts.version.into()),
            },
            reading,
        };
        return detached(ground, call, id).await;
    }
    if let Some(kind) = answers::list_kind(method) {
        let params = Params::of(envelope)?;
        return list(&**ground, endpoint, Era::Legacy, id, kind, params.as_ref());
    }
    match method {
        "ping" => Ok(answer::json(StatusCode::OK, answers::result(Era::Legacy, id, ""))),
        "logging/setLevel" => {
            forward::check_offered(&**ground, endpoint, method)?;
            let params = Params::of(envelope)?;
            let params = params.ok_or_else(|| Failure::InvalidParams("`level` is missing".to_owned()))?;
            let level = levels::parse(&params.string("level")?)
                .ok_or_else(|| Failure::InvalidParams("`level` is no log level".to_owned()))?;
            ground.sessions().set_log_level(&session, level);
            Ok(answer::json(StatusCode::OK, answers::result(Era::Legacy, id, "")))
        }
        _ => Err(Failure::NoSuchMethod(method.to_owned())),
    }
}

/// A call that outlives its client's connection: all that it needs is its own.
struct Call {
    endpoint: Endpoint,
    principal: Rc<Principal>,
    method: Forwarded,
    body: Bytes,
    caller: Caller,
    reading: Reading,
}

async fn detached<G: Ground>(ground: &Rc<G>, mut call: Call, id: &str) -> Result<Response<Body>, Failure> {
    let running = ground.lifecycle().calls().enter(call.method.method()).map_err(|_| Failure::CallsFull)?;
    let waiting = Waiting(Some(Rc::clone(&running)));
    let reading = call.reading.clone();
    call.reading.detached = Some(running);
    let (sender, answer) = oneshot::channel();
    let note = Rc::clone(&reading.note);
    let (id, is_tool_call): (Box<str>, _) = (id.into(), call.method == Forwarded::ToolsCall);
    let ground = Rc::clone(ground);
    task::spawn("legacy call", async move {
        note.worked_on_here();
        // Boxed: what is handed to the event loop is then small and cheap to move. If nobody waits any more, the call was
        // made all the same.
        let _ = sender.send(Box::pin(call.run(&ground)).await);
    });
    let (own, ends, cut_id) = (reading.clone(), reading.clone(), id.clone());
    let answer = Box::pin(async move {
        let unanswered = |_| Err(Failure::Internal("the call ended without an answer".to_owned()));
        let answered = answer.await.unwrap_or_else(unanswered);
        waiting.over();
        answered.unwrap_or_else(|failure| own.refuse(&failure, Era::Legacy, Some(&id), is_tool_call))
    });
    let cut_off = move || ends.refuse(&Failure::CutOff, Era::Legacy, Some(&cut_id), is_tool_call);
    Ok(silence::bridge(answer, reading, cut_off).await)
}

/// A client that waits for the answer to its call: dropped before that, it has left.
struct Waiting(Option<Rc<DetachedCall>>);

impl Waiting {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.client_left();
        }
    }
}

impl Call {
    async fn run<G: Ground>(self, ground: &Rc<G>) -> Result<Response<Body>, Failure> {
        let envelope = Envelope::parse(&self.body).map_err(|error| Failure::Internal(error.to_string()))?;
        let params = Params::of(&envelope)?;
        let subject = forward::subject(self.method, params.as_ref())?;
        self.reading.note.object(&subject);
        let target = forward::target(
            &**ground,
            &self.endpoint,
            &self.principal,
            self.method,
            params.as_ref(),
            &subject,
        )?;
        Ok(forward(ground, self.caller, self.method, &envelope, params.as_ref(), target, self.reading).await)
    }
}

/// Answers a GET: the session's own event stream.
pub fn get<G: Ground>(
    ground: &Rc<G>,
    endpoint: &Endpoint,
    principal: &Principal,
    head: &HeaderMap,
) -> Response<Body> {
    let opened = session(&**ground, principal, head).and_then(|session| {
        if !forward::takes_events(head) {
            return Err(Failure::NotAcceptable("text/event-stream"));
        }
        if ground.with_view(endpoint, |_| ()).is_none() {
            return Err(forward::no_such_endpoint(endpoint));
        }
        Ok(streams::open(ground, session))
    });
    opened.unwrap_or_else(|failure| failure.respond(Era::Legacy, None, false))
}

/// Answers a DELETE: ends the session, everywhere, before it answers.
pub fn delete<G: Ground>(ground: &G, principal: &Principal, head: &HeaderMap) -> Response<Body> {
    match session(ground, principal, head) {
        Ok(session) => {
            ground.sessions().terminate(&session);
            answer::empty(StatusCode::OK)
        }
        Err(failure) => failure.respond(Era::Legacy, None, false),
    }
}
