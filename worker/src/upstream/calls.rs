//! Calls: a request to an upstream in the era it speaks, once, with everything that may be mended mended first.
//!
//! What is mended, each at most once per call: a session that the upstream forgot (it is opened anew), an era that
//! changed since registration (it is probed anew). In both cases the upstream refused the request without doing it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::rows::{Outcome, Rows, UPSTREAMS, monotonic_ns};
use forkgate_shared::settings::Settings;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::UpstreamError;
use super::connect::Connector;
use super::exchange::{self, Events, Exchange};
use super::gauge::ConnectionGauge;
use super::message;
use super::open_call::{OpenCall, Times};
use super::peer::Peer;
use super::peers::Peers;
use super::probe;
use super::session::UpstreamSession;
use crate::catalog::{UpstreamEntry, UpstreamEra};
use crate::lifecycle::task;
use crate::revision::{MODERN, MODERN_CODES};

pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// A body that only says what went wrong is read up to this many bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// Opening a session may take this long, and no more than half of a call's time: everybody who waits for it is to learn
/// why there is none before their own time is up.
const OPENING: Duration = Duration::from_secs(30);
/// An upstream that nobody called for this long is forgotten: it may no longer be registered.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How often unused upstreams are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How often idle connections are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Messages nobody waits for (cancellations, answers to pings, farewells) may take this long.
const COURTESY: Duration = Duration::from_secs(1);

/// A request as one era has it.
pub struct Built {
    /// The JSON-RPC message.
    pub body: Bytes,
    /// Headers of this request: `Mcp-Method` and its like.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What came back.
pub enum Answer {
    /// One message.
    Json(Bytes),
    /// Messages, the response among them.
    Events(Events),
}

/// An answer and what it needs to be read.
pub struct Answered {
    /// What came back.
    pub answer: Answer,
    /// The era that the upstream was spoken to in.
    pub era: UpstreamEra,
    /// The id that the request had.
    pub id: u64,
    /// The rest of the call.
    pub call: OpenCall,
}

/// Connections to upstreams. A clone is the same thing.
#[derive(Clone)]
pub struct Upstreams(Rc<Inner>);

struct Inner {
    settings: Arc<Settings>,
    rows: Arc<Rows>,
    row_index: usize,
    connector: Connector,
    peers: Peers,
    /// Ids are unique within this worker, so they are within each session it has.
    next_id: Cell<u64>,
    is_sweeping: Cell<bool>,
    is_forgetting: Cell<bool>,
}

pub(super) fn outcome_of(error: &UpstreamError) -> Outcome {
    if *error == UpstreamError::TimedOut { Outcome::TimedOut } else { Outcome::Failed }
}

/// What one attempt led to.
enum Attempt {
    Done(Answer),
    /// The upstream does not know the session any more.
    SessionGone(Refusal),
    /// It does not speak the era that it was spoken to in.
    OtherEra(Refusal),
}

/// What to tell the client if mending does not help either.
enum Refusal {
    Message(Bytes),
    Status(StatusCode),
}

impl Upstreams {
    /// Opens nothing: connections, TLS and sessions are made when they are needed.
    pub fn new(
        settings: &Arc<Settings>,
        rows: Arc<Rows>,
        row_index: usize,
    ) -> Result<Upstreams, UpstreamError> {
        Ok(Upstreams(Rc::new(Inner {
            settings: Arc::clone(settings),
            connector: Connector::new(
                Arc::clone(settings),
                ConnectionGauge::new(Arc::clone(&rows), row_index),
            ),
            rows,
            row_index,
            peers: Peers::default(),
            next_id: Cell::new(0),
            is_sweeping: Cell::new(false),
            is_forgetting: Cell::new(false),
        })))
    }

    /// Calls an upstream, within `GATEWAY_TOOL_TIMEOUT`. `build` makes the request for an era and an id. With
    /// `may_repeat` the request may be sent twice when a pooled connection dies under it.
    pub async fn call(
        &self,
        entry: &Arc<UpstreamEntry>,
        may_repeat: bool,
        build: impl Fn(&UpstreamEra, u64) -> Built,
    ) -> Result<Answered, UpstreamError> {
        let deadline = Instant::now() + self.0.settings.tool_timeout;
        let called = match self.peer(entry) {
            Ok(peer) => tokio::time::timeout_at(
                deadline,
                self.call_peer(&peer, entry.index, deadline, may_repeat, build),
            )
            .await
            .unwrap_or(Err(UpstreamError::TimedOut)),
            Err(error) => Err(error),
        };
        called.inspect_err(|error| self.count(entry.index, outcome_of(error)))
    }

    async fn call_peer(
        &self,
        peer: &Rc<Peer>,
        index: usize,
        deadline: Instant,
        may_repeat: bool,
        build: impl Fn(&UpstreamEra, u64) -> Built,
    ) -> Result<Answered, UpstreamError> {
        let (mut has_reopened, mut has_probed) = (false, false);
        // When the upstream got the first part of what this call needs.
        let mut since_ns = None;
        loop {
            let era = peer.era();
            if era != UpstreamEra::Modern && peer.session.current().is_none() {
                since_ns.get_or_insert_with(monotonic_ns);
            }
            let session = match self.session_for(peer, &era).await {
                Err(UpstreamError::InitializeRefused(_) | UpstreamError::Status(_)) if !has_probed => {
                    has_probed = true;
                    self.probe_again(peer).await?;
                    continue;
                }
                session => session?,
            };
            let id = self.next_id();
            let built = build(&era, id);
            let sent_ns = monotonic_ns();
            let times = Times { since_ns: *since_ns.get_or_insert(sent_ns), sent_ns };
            let mut call = OpenCall::new(self, peer, session.clone(), id, index, times);
            let headers = request_headers(peer, &era, session.as_deref(), built.headers);
            let answered = async {
                let exchange = self.send(peer, Method::POST, headers, built.body, may_repeat).await?;
                self.read_head(exchange, &era, session.is_some(), deadline).await
            };
            // An upstream that refused or broke off has nothing to cancel; one that is still at it has (see `Drop`).
            let attempt = answered.await.inspect_err(|_| call.forget())?;
            let refusal = match attempt {
                Attempt::Done(answer) => {
                    if matches!(answer, Answer::Json(_)) {
                        call.arrived();
                    }
                    return Ok(Answered { answer, era, id, call });
                }
                Attempt::SessionGone(refusal) => {
                    if let Some(session) = session.filter(|_| !has_reopened) {
                        call.forget();
                        has_reopened = true;
                        peer.session.forget(&session);
                        continue;
                    }
                    refusal
                }
                Attempt::OtherEra(refusal) => {
                    if !has_probed {
                        has_probed = true;
                        if self.probe_again(peer).await? {
                            continue;
                        }
                    }
                    refusal
                }
            };
            return match refusal {
                Refusal::Message(body) => Ok(Answered { answer: Answer::Json(body), era, id, call }),
                Refusal::Status(status) => {
                    call.forget();
                    Err(UpstreamError::Status(status.as_u16()))
                }
            };
        }
    }

    /// True when another era was found.
    async fn probe_again(&self, peer: &Rc<Peer>) -> Result<bool, UpstreamError> {
        let probe = async {
            let found = probe::probe(self, peer).await?;
            let is_new = found.era != peer.era();
            if is_new {
                tracing::info!(host = %peer.origin.host, era = ?found.era, "an upstream speaks another era than it was registered with");
                peer.set_era(found.era);
            }
            Ok(is_new)
        };
        Box::pin(peer.probing.share(probe)).await
    }

    async fn session_for(
        &self,
        peer: &Rc<Peer>,
        era: &UpstreamEra,
    ) -> Result<Option<Rc<UpstreamSession>>, UpstreamError> {
        match era {
            UpstreamEra::Modern => Ok(None),
            UpstreamEra::Legacy { .. } => {
                if let Some(session) = peer.session.current() {
                    return Ok(Some(session));
                }
                let limit = OPENING.min(self.0.settings.tool_timeout / 2);
                let late =
                    || UpstreamError::Unreachable(format!("it did not answer initialize within {limit:?}"));
                let open = async {
                    let opened = tokio::time::timeout(limit, probe::initialize(self, peer)).await;
                    opened
                        .map_err(|_| late())??
                        .session
                        .ok_or_else(|| UpstreamError::Nonsense("initialize opened no session".to_owned()))
                };
                // Boxed, as is all that few calls need: what every call moves stays small.
                Box::pin(peer.session.get_or_open(open)).await.map(Some)
            }
        }
    }

    /// Sorts an answer by its head; bodies other than event streams are read.
    async fn read_head(
        &self,
        exchange: Exchange,
        era: &UpstreamEra,
        has_session: bool,
        deadline: Instant,
    ) -> Result<Attempt, UpstreamError> {
        let limit = self.0.settings.max_answer;
        let status = exchange.status;
        if status == StatusCode::OK {
            return Ok(Attempt::Done(if exchange.is_event_stream() {
                Answer::Events(exchange.events(limit, deadline))
            } else {
                Answer::Json(exchange.bytes(limit).await?)
            }));
        }
        if status.is_success() {
            return Err(UpstreamError::Nonsense(format!(
                "HTTP status {} without an answer",
                status.as_u16()
            )));
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            exchange.discard().await;
            return Err(UpstreamError::Unauthorized(status.as_u16()));
        }
        let body = exchange.bytes(MAX_ERROR_BODY).await.unwrap_or_default();
        let code = message::error_code(&body);
        let refusal = if code.is_some() { Refusal::Message(body) } else { Refusal::Status(status) };
        Ok(match era {
            // Servers that keep sessions answer 404 for one they do not know, or 400 with a code of their own.
            UpstreamEra::Legacy { .. }
                if has_session
                    && (status == StatusCode::NOT_FOUND
                        || status == StatusCode::BAD_REQUEST && code == Some(-32000)) =>
            {
                Attempt::SessionGone(refusal)
            }
            UpstreamEra::Legacy { .. } if code.is_some_and(|code| MODERN_CODES.contains(&code)) => {
                Attempt::OtherEra(refusal)
            }
            UpstreamEra::Modern if !speaks_modern(code) && status.is_client_error() => {
                Attempt::OtherEra(refusal)
            }
            _ => match refusal {
                Refusal::Message(body) => Attempt::Done(Answer::Json(body)),
                Refusal::Status(status) => return Err(UpstreamError::Status(status.as_u16())),
            },
        })
    }

    pub(super) async fn send(
        &self,
        peer: &Rc<Peer>,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        may_repeat: bool,
    ) -> Result<Exchange, UpstreamError> {
        self.start_sweeping();
        exchange::send(&self.0.connector, peer, method, headers, body, may_repeat).await
    }

    /// Sends something that nobody waits for; failures are nobody's concern.
    pub(super) async fn courtesy(
        &self,
        peer: &Rc<Peer>,
        session: Option<&Rc<UpstreamSession>>,
        method: Method,
        body: Bytes,
    ) {
        let headers = request_headers(peer, &peer.era(), session.map(Rc::as_ref), Vec::new());
        let sent = async {
            if let Ok(exchange) = self.send(peer, method, headers, body, true).await {
                exchange.discard().await;
            }
        };
        // Late is as good as lost.
        let _ = tokio::time::timeout(COURTESY, sent).await;
    }

    /// Ends the sessions with all upstreams: the last thing a worker does, and within a second.
    pub async fn close(&self) {
        let farewells: Vec<_> = self
            .0
            .peers
            .take_all()
            .into_iter()
            .map(|peer| {
                let upstreams = self.clone();
                task::spawn("end an upstream session", async move { upstreams.end_session(&peer).await })
            })
            .collect();
        for farewell in farewells {
            // A farewell that panicked is one that was not sent.
            let _ = farewell.await;
        }
    }

    pub(super) async fn end_session(&self, peer: &Rc<Peer>) {
        if let Some(session) = peer.session.take().filter(|session| session.id.is_some()) {
            self.courtesy(peer, Some(&session), Method::DELETE, Bytes::new()).await;
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(super) fn next_id(&self) -> u64 {
        let id = self.0.next_id.get() + 1;
        self.0.next_id.set(id);
        id
    }

    pub(super) fn count(&self, index: usize, outcome: Outcome) {
        self.0.rows.row(self.0.row_index).counters.count_upstream(index, outcome);
    }

    /// Counts how long an upstream took for a response.
    pub(super) fn time(&self, index: usize, ns: u64) {
        let times = &self.0.rows.row(self.0.row_index).counters.upstream_time;
        times.0[index.min(UPSTREAMS - 1)].observe(ns);
    }

    fn peer(&self, entry: &Arc<UpstreamEntry>) -> Result<Rc<Peer>, UpstreamError> {
        let peer = self.0.peers.get(entry)?;
        self.start_forgetting();
        Ok(peer)
    }

    /// Ends the sessions of upstreams that are not used any more, also when nothing is called.
    fn start_forgetting(&self) {
        if self.0.is_forgetting.replace(true) {
            return;
        }
        let inner = Rc::downgrade(&self.0);
        task::spawn("unused upstreams", async move {
            loop {
                tokio::time::sleep(FORGET_EVERY).await;
                let Some(upstreams) = inner.upgrade().map(Upstreams) else { return };
                for peer in upstreams.0.peers.take_unused(FORGET_AFTER) {
                    upstreams.end_session(&peer).await;
                }
                if upstreams.0.peers.is_empty() {
                    upstreams.0.is_forgetting.set(false);
                    return;
                }
            }
        });
    }

    /// Closes idle connections in time also when nothing is called any more.
    fn start_sweeping(&self) {
        if self.0.is_sweeping.replace(true) {
            return;
        }
        let inner = Rc::downgrade(&self.0);
        task::spawn("idle upstream connections", async move {
            let mut quiet = 0;
            // Connections of the calls in flight come back later: stop only after two quiet rounds.
            while quiet < 2 {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(inner) = inner.upgrade() else { return };
                let has_idle = inner.peers.close_idle();
                quiet = if has_idle { 0 } else { quiet + 1 };
            }
            if let Some(inner) = inner.upgrade() {
                inner.is_sweeping.set(false);
            }
        });
    }
}

/// A modern server's own refusals; with anything else it is no modern server, or none any more.
fn speaks_modern(code: Option<i64>) -> bool {
    code.is_some_and(|code| MODERN_CODES.contains(&code) || (-32699..=-32600).contains(&code))
}

pub(super) fn request_headers(
    peer: &Peer,
    era: &UpstreamEra,
    session: Option<&UpstreamSession>,
    more: Vec<(HeaderName, HeaderValue)>,
) -> HeaderMap {
    let mut headers = peer.headers.clone();
    match (era, session) {
        (UpstreamEra::Modern, _) => {
            headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(MODERN));
        }
        (UpstreamEra::Legacy { .. }, Some(session)) => {
            if let Ok(version) = HeaderValue::try_from(session.version.as_str()) {
                headers.insert(PROTOCOL_VERSION, version);
            }
            if let Some(id) = &session.id {
                headers.insert(SESSION_ID, id.clone());
            }
        }
        (UpstreamEra::Legacy { .. }, None) => {}
    }
    for (name, value) in more {
        headers.append(name, value);
    }
    headers
}
