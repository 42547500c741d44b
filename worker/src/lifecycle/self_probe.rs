//! Before a worker says that it is ready it asks itself something: what clients will ask, through the way that their
//! requests take, from the bytes of a connection to the bytes of the answer.
//!
//! So the first worker of a reload is a canary: settings that a worker boots with and cannot serve with fail here, and its
//! predecessor serves on. Nothing of it is counted as a request, and no client is served before.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::auth;
use crate::edge::client::Client;
use crate::edge::serve::Edge;
use crate::gateway::Shared;
use crate::lifecycle::task;
use crate::net::stream::ClientStream;
use crate::revision::MODERN_VERSIONS;

/// How long all of it may take; it takes less than a millisecond, but for a machine that swaps.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long its token is valid.
const TOKEN_TTL: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// The name by which programs on this host may always call it.
const LOCAL: &str = "localhost";
/// What its requests go by in logs and in the token.
const NAME: &str = "forkgate-self-probe";

/// Why a worker does not trust itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no connection to itself: {0}")]
    Connect(std::io::Error),
    #[error("no token can be made with GATEWAY_JWT_SECRET: {0}")]
    Token(auth::AuthError),
    #[error("no answer to {what} within {} s", TIMEOUT.as_secs())]
    Late { what: &'static str },
    #[error("{what} was not answered: {source}")]
    Broken { what: &'static str, source: hyper::Error },
    #[error("{what} was answered with {status} and not with {wanted}: {text}")]
    Wrong { what: &'static str, status: StatusCode, wanted: &'static str, text: String },
}

/// Asks this worker for its health, and with a token of its own for what it serves.
pub(super) async fn run(gateway: &Shared) -> Result<(), ProbeError> {
    let what = std::cell::Cell::new("GET /health");
    let asked = tokio::time::timeout(TIMEOUT, ask(gateway, &what)).await;
    asked.map_err(|_| ProbeError::Late { what: what.get() })?
}

async fn ask(gateway: &Shared, what: &std::cell::Cell<&'static str>) -> Result<(), ProbeError> {
    let (ours, theirs) = UnixStream::pair().map_err(ProbeError::Connect)?;
    Client::accepted(&Rc::new(Edge::for_self_probe(gateway)), ClientStream::Unix(theirs), None).serve();
    let broken = |source| ProbeError::Broken { what: what.get(), source };
    let (mut client, connection) = http1::handshake(TokioIo::new(ours)).await.map_err(broken)?;
    // It ends with the last answer, or with the client.
    task::spawn("self-probe", async move { drop(connection.await) });
    let health = Request::get("/health").header(HOST, LOCAL).body(Full::default());
    let answer = exchange(&mut client, health.expect("a request"), what.get()).await?;
    expect(&answer, what.get(), "a healthy one", |value| value["status"] == "healthy")?;

    what.set("POST /mcp server/discover");
    let token = auth::mint(&gateway.settings, NAME, false, TOKEN_TTL).map_err(ProbeError::Token)?;
    let answer = exchange(&mut client, discover(&token), what.get()).await?;
    expect(&answer, what.get(), "what it serves", |value| value["result"].is_object())
}

fn discover(token: &str) -> Request<Full<Bytes>> {
    let version = MODERN_VERSIONS[0];
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": NAME, "version": env!("CARGO_PKG_VERSION")},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}})
        .to_string();
    Request::post("/mcp")
        .header(HOST, LOCAL)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(ACCEPT, "application/json, text/event-stream")
        .header(CONTENT_TYPE, "application/json")
        .header("mcp-protocol-version", version)
        .header("mcp-method", "server/discover")
        .header(CONNECTION, "close")
        .body(Full::from(body))
        .expect("a request")
}

async fn exchange(
    client: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    what: &'static str,
) -> Result<Response<Bytes>, ProbeError> {
    let answer = client.send_request(request).await.map_err(|source| ProbeError::Broken { what, source })?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes());
    // An answer that breaks off or is endless is not the one that is expected.
    Ok(Response::from_parts(head, body.unwrap_or_default()))
}

fn expect(
    answer: &Response<Bytes>,
    what: &'static str,
    wanted: &'static str,
    is_right: impl Fn(&Value) -> bool,
) -> Result<(), ProbeError> {
    let status = answer.status();
    let value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if status == StatusCode::OK && is_right(&value) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer.body()).chars().take(300).collect();
    Err(ProbeError::Wrong { what, status, wanted, text })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use forkgate_shared::rows::{RequestEra, RequestOutcome, method_index};
    use forkgate_shared::settings::Settings;
    use tokio::task::LocalSet;

    use super::*;
    use crate::fixtures;

    async fn probed(alter: impl Fn(&mut Settings), prepare: impl Fn(&Shared)) -> (Shared, Option<String>) {
        let (gateway, _master, _state) = fixtures::gateway(alter);
        prepare(&gateway);
        let failure = LocalSet::new().run_until(run(&gateway)).await.err();
        (gateway, failure.map(|error| error.to_string()))
    }

    #[tokio::test]
    async fn a_sound_worker_trusts_itself_and_counts_nothing_of_it() {
        for hosts in [vec![], vec!["gateway.example".to_owned()]] {
            let (gateway, failure) =
                probed(|settings| settings.allowed_hosts.clone_from(&hosts), |_| ()).await;
            assert_eq!(failure, None);
            let row = gateway.row();
            let counters = &row.counters;
            let method = method_index("server/discover");
            let counted =
                counters.requests_by.cell(RequestEra::Modern, method, RequestOutcome::Ok).load(Relaxed)
                    + counters.status.iter().map(|cell| cell.load(Relaxed)).sum::<u64>()
                    + counters.accepted.load(Relaxed)
                    + counters.bytes_in.load(Relaxed)
                    + row.in_flight.load(Relaxed)
                    + row.connections.load(Relaxed);
            assert_eq!(counted, 0);
        }
    }

    #[tokio::test]
    async fn what_a_worker_cannot_serve_is_named() {
        let (_, failure) = probed(|settings| settings.max_body = 100, |_| ()).await;
        let failure = failure.expect("too small for any request");
        assert!(failure.starts_with("POST /mcp server/discover was answered with 413 "), "{failure}");
        let overloaded = |gateway: &Shared| gateway.row().evidence.starved.store(1, Relaxed);
        let (_, failure) = probed(|_| (), overloaded).await;
        assert!(failure.is_some_and(|failure| failure.contains("503")));
    }
}
