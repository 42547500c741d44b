//! The answer to a forwarded request, as it comes: JSON while the upstream has sent nothing but the response, an event
//! stream from its first other message on.
//!
//! What a client that hangs up means depends on its era: a modern client's call is cancelled, a legacy client's goes on.

use bytes::Bytes;
use forkgate_shared::rows::Outcome;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use std::rc::Rc;
use std::time::Duration;

use super::Ground;
use super::forward::takes_events;
use super::rewrite::{Incoming, Plan};
use crate::answer;
use crate::body::{Body, StreamWriter};
use crate::catalog::UpstreamEra;
use crate::failure::{Era, Failure};
use crate::lifecycle::LastWords;
use crate::lifecycle::calls::DetachedCall;
use crate::lifecycle::task;
use crate::observe::note::Note;
use crate::observe::throttle::Throttle;
use crate::upstream::exchange::Events;
use crate::upstream::sse::write_event;
use crate::upstream::{Answer, Answered, OpenCall, UpstreamError};

/// A comment: keeps proxies from closing a silent stream, means nothing to clients.
pub const KEEPALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// How the client takes its answer, and where it is noted what became of its request.
#[derive(Clone)]
pub struct Reading {
    /// `Accept` admits event streams; else everything before the response is dropped.
    pub takes_events: bool,
    /// `SSE_KEEPALIVE_INTERVAL`.
    pub keepalive: Duration,
    /// Of a legacy call, which outlives its client's connection: held until the last message was relayed.
    pub detached: Option<Rc<DetachedCall>>,
    /// Of the request.
    pub note: Rc<Note>,
    /// When it must be answered, however far it is.
    pub last_words: LastWords,
}

impl Reading {
    /// What a request says about how it wants to be answered.
    pub fn of<G: Ground>(ground: &G, head: &HeaderMap, note: &Rc<Note>) -> Reading {
        Reading {
            takes_events: takes_events(head),
            keepalive: ground.settings().sse_keepalive_interval,
            detached: None,
            note: Rc::clone(note),
            last_words: ground.lifecycle().last_words(),
        }
    }

    /// The answer that is a failure.
    pub fn refuse(
        &self,
        failure: &Failure,
        era: Era,
        id: Option<&str>,
        is_tool_call: bool,
    ) -> Response<Body> {
        if id.is_some() {
            self.note.rpc_error();
        }
        failure.respond(era, id, is_tool_call)
    }

    fn upstream_said(&self, outcome: Outcome, took_ns: u64) {
        self.note.upstream_had_it(took_ns);
        if outcome == Outcome::RpcError {
            self.note.rpc_error();
        }
    }
}

/// Headers of an event stream.
pub fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// An upstream's event stream and what to do with its messages.
struct Source {
    plan: Plan,
    events: Events,
    era: UpstreamEra,
    id: u64,
    call: OpenCall,
    reading: Reading,
}

/// What came next.
enum Step {
    Response(Vec<u8>, http::StatusCode),
    Notification(Vec<u8>),
}

/// The answer to a client.
pub async fn answer(plan: Plan, called: Result<Answered, UpstreamError>, reading: Reading) -> Response<Body> {
    let Answered { answer, era, id, mut call } = match called {
        Ok(answered) => answered,
        Err(cause) => {
            reading.note.untimed();
            return failed(&plan, &upstream_failure(&plan, cause), &reading);
        }
    };
    let events = match answer {
        Answer::Events(events) => events,
        Answer::Json(body) => {
            task::worked(1);
            return match plan.incoming(&body, &era, id) {
                Ok(Incoming::Response(message, status, outcome)) => {
                    reading.upstream_said(outcome, call.close(outcome));
                    respond(message, status)
                }
                Ok(_) => {
                    reading.note.upstream_had_it(call.close(Outcome::Failed));
                    let cause = UpstreamError::Nonsense("its answer is not the response".to_owned());
                    failed(&plan, &upstream_failure(&plan, cause), &reading)
                }
                Err(failure) => {
                    reading.note.upstream_had_it(call.close(outcome_of(&failure)));
                    failed(&plan, &failure, &reading)
                }
            };
        }
    };
    let mut source = Source { plan, events, era, id, call, reading };
    loop {
        match source.step().await {
            Ok(Step::Response(message, status)) => {
                source.events.finish();
                return respond(message, status);
            }
            Ok(Step::Notification(_)) if !source.reading.takes_events => {}
            Ok(Step::Notification(first)) => return source.stream(first),
            Err(failure) => return failed(&source.plan, &failure, &source.reading),
        }
    }
}

fn respond(message: Vec<u8>, status: http::StatusCode) -> Response<Body> {
    answer::json(status, message)
}

fn failed(plan: &Plan, failure: &Failure, reading: &Reading) -> Response<Body> {
    log(plan, failure);
    reading.refuse(failure, plan.era, Some(&plan.id), plan.is_tool_call())
}

thread_local! {
    /// An upstream that is down fails every call: one line a second says so.
    static FAILED_CALLS: Throttle = Throttle::new(Duration::from_secs(1));
}

fn log(plan: &Plan, failure: &Failure) {
    if let Some(suppressed) = FAILED_CALLS.with(Throttle::allow) {
        let (upstream, method) = (&plan.upstream.name, plan.method.method());
        tracing::warn!(%upstream, method, error = %failure, suppressed, "a call failed");
    }
}

fn upstream_failure(plan: &Plan, cause: UpstreamError) -> Failure {
    Failure::Upstream { upstream: plan.upstream.name.clone(), cause }
}

fn outcome_of(failure: &Failure) -> Outcome {
    match failure {
        // The upstream did what it should.
        Failure::InputRequired { .. } => Outcome::Ok,
        _ => Outcome::Failed,
    }
}

impl Source {
    /// The next message for the client; questions of the upstream are answered on the way. After a response or an error
    /// there is nothing more.
    async fn step(&mut self) -> Result<Step, Failure> {
        loop {
            let message = match self.events.next().await {
                Ok(Some(message)) => message,
                Ok(None) => {
                    return Err(self
                        .end(UpstreamError::Broken("its event stream ended without a response".to_owned())));
                }
                Err(cause) => return Err(self.end(cause)),
            };
            match self.plan.incoming(&message, &self.era, self.id) {
                Ok(Incoming::Response(message, status, outcome)) => {
                    self.reading.upstream_said(outcome, self.call.close(outcome));
                    return Ok(Step::Response(message, status));
                }
                Ok(Incoming::Notification(message)) => return Ok(Step::Notification(message)),
                Ok(Incoming::Nothing) => {}
                Ok(Incoming::Question(reply)) => self.call.post_back(Bytes::from(reply)).await,
                Err(failure) => {
                    self.reading.note.upstream_had_it(self.call.close(outcome_of(&failure)));
                    return Err(failure);
                }
            }
        }
    }

    fn end(&mut self, cause: UpstreamError) -> Failure {
        // A call that ran out of time is still being worked on: the upstream is told when `call` is dropped.
        self.call.fail(&cause);
        self.reading.note.untimed();
        upstream_failure(&self.plan, cause)
    }

    /// Goes on as an event stream, in a task of its own.
    fn stream(self, first: Vec<u8>) -> Response<Body> {
        let (writer, body) = Body::stream();
        task::spawn("relay an upstream's events", async move {
            self.reading.note.worked_on_here();
            match self.plan.era {
                Era::Legacy => self.pump(&writer, first).await,
                Era::Modern => {
                    let gone = writer.clone();
                    // Whichever ends first drops the other, and with it the call: a hang-up is a cancellation.
                    tokio::select! {
                        () = gone.closed() => {}
                        () = self.pump(&writer, first) => {}
                    }
                }
            }
        });
        event_stream(body)
    }

    /// Every stream ends with a response, ours if the upstream gives none: a client would wait for it for ever.
    async fn pump(mut self, writer: &StreamWriter, first: Vec<u8>) {
        let (keepalive, detached) = (self.reading.keepalive, self.reading.detached.clone());
        let mut last_words = self.reading.last_words.clone();
        // A reader that is gone changes nothing here: a legacy call goes on, a modern one is dropped by `stream`.
        let tell = async |message: Bytes| {
            if writer.send(message).await.is_err()
                && let Some(call) = &detached
            {
                call.client_left();
            }
        };
        let relay = async |message: &[u8]| {
            tell(write_event(message).into()).await;
        };
        relay(&first).await;
        loop {
            let step = {
                let next = self.step();
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        step = &mut next => break step,
                        () = last_words.due() => break Err(Failure::CutOff),
                        () = tokio::time::sleep(keepalive) => tell(KEEPALIVE).await,
                    }
                }
            };
            match step {
                Ok(Step::Notification(message)) => relay(&message).await,
                Ok(Step::Response(message, _)) => {
                    relay(&message).await;
                    self.events.finish();
                    return;
                }
                Err(failure) => {
                    log(&self.plan, &failure);
                    self.reading.note.rpc_error();
                    let message =
                        failure.message(self.plan.era, Some(&self.plan.id), self.plan.is_tool_call());
                    relay(&message).await;
                    return;
                }
            }
        }
    }
}
