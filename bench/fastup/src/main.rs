//! fastup: a tiny MCP streamable-HTTP upstream for gateway benchmarks. See README.md.
//!
//! Everything runs on one thread, so shared state is plain `Rc<State>` with `Cell`s, and the hot path
//! (`tools/call echo`) is: parse the envelope with borrowed `RawValue`s, build one `Vec<u8>`, answer.
#![expect(
    clippy::disallowed_methods,
    reason = "spawn_local: a single-threaded tool, no worker whose tasks need names"
)]

mod body;
mod rpc;
mod state;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, ALLOW};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use body::{empty, reply, Reply, JSON};
use rpc::{header, mcp_post, number, sse_stream, MODERN};
use state::{bump, stats, Counters, OpenConnection, State};

/// Largest accepted request body.
const MAX_BODY: usize = 256 << 20;

async fn mcp(state: &Rc<State>, req: Request<Incoming>, sse: bool) -> Reply {
    match *req.method() {
        Method::POST => {
            let (head, body) = req.into_parts();
            match Limited::new(body, MAX_BODY).collect().await {
                Ok(b) => {
                    if !state.answer_after.is_zero() {
                        tokio::time::sleep(state.answer_after).await;
                    }
                    mcp_post(state, &head.headers, &b.to_bytes(), sse).await
                }
                Err(_) => empty(StatusCode::PAYLOAD_TOO_LARGE),
            }
        }
        Method::GET => {
            let h = req.headers();
            if header(h, "mcp-protocol-version") == Some(MODERN) {
                return not_allowed("POST");
            }
            if let Some(s) = header(h, "mcp-session-id") {
                if !state.sessions.borrow().contains(s) {
                    return empty(StatusCode::NOT_FOUND);
                }
            }
            if !header(h, "accept").is_some_and(|a| a.contains("text/event-stream")) {
                return empty(StatusCode::NOT_ACCEPTABLE);
            }
            sse_stream(state, Some(Bytes::from_static(b": open\n\n")))
        }
        Method::DELETE => {
            bump(&state.n.deletes);
            match header(req.headers(), "mcp-session-id") {
                Some(s) if state.sessions.borrow_mut().remove(s) => empty(StatusCode::NO_CONTENT),
                Some(_) => empty(StatusCode::NOT_FOUND),
                None => empty(StatusCode::BAD_REQUEST),
            }
        }
        _ => not_allowed("GET, POST, DELETE"),
    }
}

fn not_allowed(allow: &'static str) -> Reply {
    let mut r = empty(StatusCode::METHOD_NOT_ALLOWED);
    r.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    r
}

fn query_number(query: &str, key: &str) -> Option<f64> {
    query.split('&').find_map(|kv| kv.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

async fn serve(state: Rc<State>, req: Request<Incoming>) -> Result<Reply, Infallible> {
    bump(&state.n.requests);
    let r = match (req.method(), req.uri().path()) {
        (_, "/mcp" | "/mcp/") => {
            let sse = state.sse;
            mcp(&state, req, sse).await
        }
        (_, "/mcp-sse") => mcp(&state, req, true).await,
        (&Method::POST, "/rest/echo") => {
            bump(&state.n.rest);
            match Limited::new(req.into_body(), MAX_BODY).collect().await {
                Ok(b) => reply(StatusCode::OK, Some(JSON), b.to_bytes()),
                Err(_) => empty(StatusCode::PAYLOAD_TOO_LARGE),
            }
        }
        (&Method::GET, "/rest/add") => {
            bump(&state.n.rest);
            let q = req.uri().query().unwrap_or("");
            match (query_number(q, "a"), query_number(q, "b")) {
                (Some(a), Some(b)) => {
                    reply(StatusCode::OK, Some(JSON), format!(r#"{{"result":{}}}"#, number(a + b)))
                }
                _ => reply(StatusCode::BAD_REQUEST, Some(JSON), r#"{"error":"a and b must be numbers"}"#),
            }
        }
        (&Method::GET, "/health") => reply(StatusCode::OK, None, "ok"),
        (&Method::GET, "/stats") => reply(StatusCode::OK, Some(JSON), stats(&state)),
        _ => empty(StatusCode::NOT_FOUND),
    };
    Ok(r)
}

/// What the command line asks for.
struct Wanted {
    listen: SocketAddr,
    sse: bool,
    instructions: String,
    answer_after: Duration,
}

/// None when it is wrong.
fn parse(mut args: impl Iterator<Item = String>) -> Option<Wanted> {
    let mut wanted = Wanted {
        listen: ([127, 0, 0, 1], 9100).into(),
        sse: false,
        instructions: String::from("benchmark upstream"),
        answer_after: Duration::ZERO,
    };
    while let Some(a) = args.next() {
        match a.as_str() {
            "--listen" => wanted.listen = args.next()?.parse().ok()?,
            "--sse" => wanted.sse = true,
            "--instructions" => wanted.instructions = args.next()?,
            "--answer-after" => wanted.answer_after = Duration::from_millis(args.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let Some(wanted) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: fastup [--listen ADDR:PORT] [--sse] [--instructions TEXT] [--answer-after MS]");
        return ExitCode::from(2);
    };
    let listen = wanted.listen;
    match run(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastup: {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until TERM or Ctrl-C.
fn run(Wanted { listen, sse, instructions, answer_after }: Wanted) -> std::io::Result<()> {
    let epoch =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let state = Rc::new(State {
        sse,
        instructions,
        answer_after,
        sessions: RefCell::default(),
        next_session: Cell::new(0),
        epoch,
        n: Counters::default(),
    });

    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&rt, async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(4096)?;
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            let stream = tokio::select! {
                r = listener.accept() => match r {
                    Ok((s, _)) => s,
                    Err(_) => {
                        // Out of descriptors, most likely: wait for some to be given back.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
                _ = term.recv() => return Ok(()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let _ = stream.set_nodelay(true);
            let state = state.clone();
            tokio::task::spawn_local(async move {
                let _open = OpenConnection::new(&state);
                let service = service_fn(move |req| serve(state.clone(), req));
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .pipeline_flush(true)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}
