//! Serves the requests of one port: route → Host and Origin → token → `may` → body → protocol or admin API.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};

use super::caught::{Panicked, caught};
use super::cors::Cors;
use super::host::HostPolicy;
use super::in_flight::{Answer, InFlight};
use super::limits::{discard, read_body};
use super::refusal::{Reader, Refusal};
use super::routes::{self, Route};
use super::welcome;
use crate::auth::{self, Action, AuthError, Object, Principal};
use crate::body::Body;
use crate::catalog::Endpoint;
use crate::gateway::Shared;
use crate::lifecycle::essential::Duty;
use crate::lifecycle::task;
use crate::net::activity::Limits;
use crate::net::request_body::RequestBody;
use crate::observe;
use crate::observe::note::{Kind, Note};
use crate::observe::throttle::Throttle;
use crate::{admin, answer, protocol};

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `GATEWAY_BIND`: clients.
    Main,
    /// `GATEWAY_ADMIN_BIND`: operators; everything of the main port is served here too.
    Admin,
}

impl Port {
    /// What its accept loop does.
    pub fn accept_duty(self) -> Duty {
        match self {
            Port::Main => Duty::AcceptMain,
            Port::Admin => Duty::AcceptAdmin,
        }
    }
}

/// What the requests share that come in by the listeners of one port, those that only this host reaches or the others.
pub struct Edge {
    gateway: Shared,
    port: Port,
    hosts: HostPolicy,
    limits: Limits,
    /// Only this host reaches the listener: status and metrics need no token.
    is_local: bool,
    refused_tokens: Throttle,
}

impl Edge {
    /// `is_local`: only this host reaches the listeners.
    pub fn new(gateway: &Shared, port: Port, is_local: bool) -> Edge {
        let settings = &gateway.settings;
        let (hosts, origins) = (&settings.allowed_hosts, &settings.allowed_origins);
        let hosts = match port {
            Port::Main => HostPolicy::for_clients(is_local, hosts, origins),
            Port::Admin => HostPolicy::for_operators(is_local, hosts, origins),
        };
        Edge::with_hosts(gateway, port, is_local, hosts)
    }

    /// For what a worker asks itself: what the main port's clients may, and nothing of it counts.
    pub(crate) fn for_self_probe(gateway: &Shared) -> Edge {
        let settings = &gateway.settings;
        let hosts = HostPolicy::for_clients(true, &settings.allowed_hosts, &settings.allowed_origins);
        Edge::with_hosts(gateway, Port::Admin, true, hosts)
    }

    fn with_hosts(gateway: &Shared, port: Port, is_local: bool, hosts: HostPolicy) -> Edge {
        let settings = &gateway.settings;
        Edge {
            gateway: Shared::clone(gateway),
            port,
            hosts,
            limits: Limits {
                head: settings.header_timeout,
                send: settings.sse_send_timeout,
                grace: settings.keepalive_grace,
            },
            is_local,
            refused_tokens: Throttle::new(Duration::from_secs(1)),
        }
    }

    pub(super) fn gateway(&self) -> &Shared {
        &self.gateway
    }

    /// Which port this is.
    pub fn port(&self) -> Port {
        self.port
    }

    /// What the listener is called between two workers, of which one may be of another version.
    pub fn door(&self) -> u8 {
        let port = match self.port {
            Port::Main => 0,
            Port::Admin => 1,
        };
        port | if self.is_local { 0 } else { 2 }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// True while the event loop is so far behind that further calls would only wait.
    fn is_starved(&self) -> bool {
        self.gateway.row().evidence.starved.load(Relaxed) != 0
    }

    fn authenticate(&self, head: &Parts) -> Result<Rc<Principal>, Refusal> {
        self.gateway.auth.authenticate(&head.headers).map_err(|error| {
            if error != AuthError::Missing
                && let Some(suppressed) = self.refused_tokens.allow()
            {
                tracing::info!(reason = %error, path = head.uri.path(), suppressed, "token refused");
            }
            Refusal::NoPrincipal(error)
        })
    }
}

/// Answers one request.
pub(super) async fn handle(
    edge: Rc<Edge>,
    mut in_flight: InFlight,
    request: Request<RequestBody>,
) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    let route = routes::find(head.uri.path(), edge.port);
    let reader = if matches!(route, Some(Route::Mcp(_))) { Reader::Mcp } else { Reader::Rest };
    let mut last_words = edge.gateway.lifecycle.last_words();
    let response = tokio::select! {
        // The handler first: it knows better what to say at the end.
        biased;
        response = caught(respond(&edge, &mut in_flight, route, head, body)) => response,
        () = last_words.due() => Ok(Refusal::CutOff.answer(reader)),
    };
    let response = response.unwrap_or_else(|Panicked| Refusal::Defect.answer(reader));
    Ok(in_flight.answered(response))
}

async fn respond(
    edge: &Edge,
    in_flight: &mut InFlight,
    route: Option<Route>,
    head: Parts,
    body: RequestBody,
) -> Response<Body> {
    let mut body = Some(body);
    let is_probe = route.as_ref().is_some_and(Route::is_probe);
    if is_probe {
        in_flight.is_probe();
    }
    let methods = route.as_ref().and_then(Route::methods_for_pages);
    let cors = methods.and_then(|_| Cors::of(&head, &edge.hosts));
    let preflight = cors.as_ref().zip(methods).and_then(|(cors, methods)| cors.preflight(&head, methods));
    let mut response = match route {
        _ if let Some(answer) = preflight => answer,
        None => Refusal::NoSuchPath(head.uri.path().chars().take(200).collect()).answer(Reader::Rest),
        Some(route @ (Route::Welcome | Route::Health | Route::Ready | Route::Version)) => {
            probe(edge, &route, &head)
        }
        Some(Route::Mcp(endpoint)) => mcp(edge, endpoint, head, &mut body, in_flight.note())
            .await
            .unwrap_or_else(|refusal| refusal.answer(Reader::Mcp)),
        Some(Route::Api(route)) => api(edge, route, head, &mut body, in_flight.note())
            .await
            .unwrap_or_else(|refusal| refusal.answer(Reader::Rest)),
        Some(route @ (Route::Status | Route::Metrics)) => {
            observed(edge, &route, &head).unwrap_or_else(|refusal| refusal.answer(Reader::Rest))
        }
        #[cfg(feature = "faults")]
        Some(Route::Fault(name)) => {
            fault(&name, &head).await.unwrap_or_else(|refusal| refusal.answer(Reader::Rest))
        }
    };
    if let Some(cors) = cors {
        cors.allow(&mut response);
    }
    if let Some(unread) = body {
        discard(unread).await;
    }
    if edge.port == Port::Admin && !is_probe {
        // On the main port the end of a request counts it.
        task::worked(1);
    }
    response
}

/// The welcome page and probes need neither token nor a known `Host`: whoever checks a container addresses it by number.
fn probe(edge: &Edge, route: &Route, head: &Parts) -> Response<Body> {
    if let Err(refusal) = read_only(head) {
        return refusal.answer(Reader::Rest);
    }
    match route {
        Route::Welcome => welcome::page(edge.port),
        Route::Version => {
            let text = concat!("{\"name\":\"forkgate\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
            answer::json(StatusCode::OK, Bytes::from_static(text.as_bytes()))
        }
        Route::Ready if edge.gateway.lifecycle.announces_close() => {
            answer::json(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"{\"status\":\"draining\"}"))
        }
        Route::Ready if edge.is_starved() => {
            answer::json(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"{\"status\":\"overloaded\"}"))
        }
        Route::Ready => answer::json(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ready\"}")),
        _ => answer::json(StatusCode::OK, Bytes::from_static(b"{\"status\":\"healthy\"}")),
    }
}

fn read_only(head: &Parts) -> Result<(), Refusal> {
    let fine = head.method == Method::GET || head.method == Method::HEAD;
    if fine { Ok(()) } else { Err(Refusal::NoSuchMethod("GET, HEAD")) }
}

async fn read(body: &mut Option<RequestBody>, max: u64) -> Result<Bytes, Refusal> {
    match body.take() {
        Some(body) => read_body(body, max).await,
        None => Ok(Bytes::new()),
    }
}

async fn mcp(
    edge: &Edge,
    endpoint: Endpoint,
    head: Parts,
    body: &mut Option<RequestBody>,
    note: &Rc<Note>,
) -> Result<Response<Body>, Refusal> {
    protocol::identify(&head, note);
    if edge.is_starved() {
        return Err(Refusal::Overloaded);
    }
    edge.hosts.check(&head)?;
    let principal = edge.authenticate(&head)?;
    note.caller(&principal.subject);
    let object = match &endpoint {
        Endpoint::Federated => Object::Gateway,
        Endpoint::Server(id) => Object::Server(id),
        Endpoint::Upstream(name) => Object::Upstream(name),
    };
    if !auth::may(&principal, Action::Use, object) {
        return Err(Refusal::NotAllowed("this endpoint"));
    }
    let body = if head.method == Method::POST {
        read(body, edge.gateway.settings.max_body).await?
    } else if head.method == Method::GET || head.method == Method::DELETE {
        Bytes::new()
    } else {
        return Err(Refusal::NoSuchMethod(routes::MCP_METHODS));
    };
    // Boxed: a connection that is idle does not hold the memory of a handler.
    Ok(Box::pin(protocol::serve(&edge.gateway, endpoint, principal, head, body, note)).await)
}

async fn api(
    edge: &Edge,
    route: admin::ApiRoute,
    mut head: Parts,
    body: &mut Option<RequestBody>,
    note: &Note,
) -> Result<Response<Body>, Refusal> {
    note.kind(Kind::Api);
    edge.hosts.check(&head)?;
    let principal = edge.authenticate(&head)?;
    note.caller(&principal.subject);
    let (action, what) = match head.method {
        Method::GET | Method::HEAD => (Action::Read, "reading the registry"),
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
            (Action::Change, "changing the registry")
        }
        _ => return Err(Refusal::NoSuchMethod("GET, HEAD, POST, PUT, PATCH, DELETE")),
    };
    if !auth::may(&principal, action, Object::Gateway) {
        return Err(Refusal::NotAllowed(what));
    }
    let body = match action {
        Action::Change => read(body, edge.gateway.settings.max_body).await?,
        _ => Bytes::new(),
    };
    if head.method == Method::HEAD {
        // Handlers know GET; hyper leaves the body of an answer to HEAD away.
        head.method = Method::GET;
    }
    Ok(Box::pin(admin::serve(&edge.gateway, principal, route, head, body)).await)
}

/// Status and metrics.
fn observed(edge: &Edge, route: &Route, head: &Parts) -> Result<Response<Body>, Refusal> {
    edge.hosts.check(head)?;
    if !edge.is_local {
        let principal = edge.authenticate(head)?;
        if !auth::may(&principal, Action::Observe, Object::Gateway) {
            return Err(Refusal::NotAllowed("status and metrics on an address that others can reach"));
        }
    }
    read_only(head)?;
    Ok(match route {
        Route::Status => observe::status(&edge.gateway),
        _ => observe::metrics(&edge.gateway),
    })
}

/// Harms this worker, for tests.
#[cfg(feature = "faults")]
async fn fault(name: &str, head: &Parts) -> Result<Response<Body>, Refusal> {
    if head.method != Method::POST {
        return Err(Refusal::NoSuchMethod("POST"));
    }
    let committed = crate::faults::commit(name, head.uri.query()).await;
    committed.ok_or_else(|| Refusal::NoSuchPath(head.uri.path().chars().take(200).collect()))
}
