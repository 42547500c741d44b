//! A worker's parts around one scripted upstream.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::rows::{Outcome, Rows};
use forkgate_shared::sealed::KeyRing;
use forkgate_shared::sessions::{Sessions, create_file};
use forkgate_shared::settings::Settings;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::auth::Principal;
use crate::body::Body;
use crate::catalog::{Endpoint, Kind, Target, UpstreamEntry, UpstreamEra, View};
use crate::failure::Era;
use crate::lifecycle::{Lifecycle, task};
use crate::observe::note::Note;
use crate::protocol::answers::Offer;
use crate::protocol::envelope::{Object, string};
use crate::protocol::{Ground, identify, serve_on};
use crate::upstream::{Upstreams, fixture};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A worker's parts, as far as MCP goes, around one upstream.
pub(super) struct Bench {
    pub(super) settings: Arc<Settings>,
    pub(super) rows: Arc<Rows>,
    pub(super) sessions: Sessions,
    pub(super) upstreams: Upstreams,
    pub(super) lifecycle: Lifecycle,
    pub(super) entry: Arc<UpstreamEntry>,
    /// Of the newest request.
    pub(super) note: RefCell<Rc<Note>>,
    _dir: tempfile::TempDir,
}

impl View for Bench {
    fn list(&self, _kind: Kind, _era: Era) -> Bytes {
        Bytes::from_static(br#"[{"name":"up__echo"}]"#)
    }
    fn tool(&self, name: &str) -> Option<Target> {
        let name = name.strip_prefix("up__")?.to_owned();
        let header_params =
            if name == "regional" { vec![(vec!["region".to_owned()], "Region".to_owned())] } else { vec![] };
        Some(Target { upstream: Arc::clone(&self.entry), name, header_params })
    }
    fn prompt(&self, name: &str) -> Option<Target> {
        self.tool(name)
    }
    fn resource(&self, uri: &str) -> Option<Target> {
        let target =
            Target { upstream: Arc::clone(&self.entry), name: uri.to_owned(), header_params: vec![] };
        uri.starts_with("test://").then_some(target)
    }
}

impl Ground for Bench {
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
        (*endpoint == Endpoint::Federated).then(|| look(self))
    }
    fn offer(&self, endpoint: &Endpoint) -> Option<Offer> {
        self.with_view(endpoint, |_| Offer::of([&*self.entry].into_iter(), false))
    }
    fn may_call(&self, principal: &Principal, tool: &str) -> bool {
        principal.admin || tool != "up__forbidden"
    }
}

/// A request that an upstream got.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
    pub(super) method: http::Method,
}

impl Got {
    /// The JSON-RPC method.
    pub(super) fn rpc(&self) -> String {
        let method = Object::parse(&self.body).ok().and_then(|object| object.get("method"));
        method.and_then(string).map(|method| method.into_owned()).unwrap_or_default()
    }
    pub(super) fn id(&self) -> String {
        let id = Object::parse(&self.body).ok().and_then(|object| object.get("id"));
        id.map_or_else(|| "null".to_owned(), |id| id.get().to_owned())
    }
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What an upstream says to a request.
pub(super) enum Says {
    Json(u16, String),
    Session(&'static str, String),
    Events(Vec<String>),
    /// One event, and then nothing for ever.
    EventThenHang(String),
    Hang,
    /// As `Json`, once somebody says so.
    Held(Rc<Notify>, u16, String),
}

pub(super) type Log = Rc<RefCell<Vec<Got>>>;

/// An upstream that says what `script` gives for each request, and what it got.
pub(super) async fn upstream(script: impl Fn(&Got) -> Says + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/mcp", listener.local_addr().expect("address"));
    let log: Log = Rc::default();
    let (seen, script) = (Rc::clone(&log), Rc::new(script));
    task::spawn("test upstream", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (seen, script) = (Rc::clone(&seen), Rc::clone(&script));
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let (seen, script) = (Rc::clone(&seen), Rc::clone(&script));
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.expect("body").to_bytes();
                    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
                    let got = Got { headers: head.headers, body, method: head.method };
                    seen.borrow_mut().push(got.clone());
                    Ok::<_, Infallible>(say(script(&got)).await)
                }
            });
            task::spawn("test upstream connection", async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    (url, log)
}

pub(super) async fn say(says: Says) -> Response<Body> {
    let with_type = |status: u16, kind: &str, body: Body| {
        let response = Response::builder().status(status).header("content-type", kind);
        response.body(body).expect("response")
    };
    match says {
        Says::Json(status, text) => with_type(status, "application/json", Body::full(text)),
        Says::Session(id, text) => {
            let mut response = with_type(200, "application/json", Body::full(text));
            response.headers_mut().insert("mcp-session-id", http::HeaderValue::from_static(id));
            response
        }
        Says::Events(messages) => {
            let text: String =
                messages.iter().map(|m| format!("event: message\r\ndata: {m}\r\n\r\n")).collect();
            with_type(200, "text/event-stream; charset=utf-8", Body::full(text))
        }
        Says::EventThenHang(message) => {
            let (writer, body) = Body::stream();
            task::spawn("test stream", async move {
                let _ = writer.send(format!("data: {message}\n\n")).await;
                writer.closed().await;
            });
            with_type(200, "text/event-stream", body)
        }
        Says::Held(release, status, text) => {
            release.notified().await;
            with_type(status, "application/json", Body::full(text))
        }
        Says::Hang => std::future::pending().await,
    }
}

pub(super) fn initialized(got: &Got) -> Says {
    let id = got.id();
    Says::Session(
        "up-session",
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"u","version":"1"}}}}}}"#
        ),
    )
}

/// A legacy upstream whose calls are answered by `call`.
pub(super) fn legacy_script(call: impl Fn(&Got) -> Says) -> impl Fn(&Got) -> Says {
    move |got| match got.rpc().as_str() {
        _ if got.method == http::Method::DELETE => Says::Json(200, String::new()),
        "server/discover" => Says::Json(
            400,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Server not initialized"}}"#
                .into(),
        ),
        "initialize" => initialized(got),
        method if method.starts_with("notifications/") => Says::Json(202, String::new()),
        _ => call(got),
    }
}

pub(super) fn bench(url: &str, era: UpstreamEra) -> Rc<Bench> {
    let mut settings = fixture::settings();
    settings.tool_timeout = Duration::from_millis(700);
    let settings = Arc::new(settings);
    let dir = tempfile::tempdir().expect("tempdir");
    let file = create_file(&dir.path().join("sessions")).expect("table");
    let keys = KeyRing::parse(KEY, "test").expect("keys");
    let (rows, _fd) = Rows::create(1).expect("rows");
    let rows = Arc::new(rows);
    let mut entry = (*fixture::entry(url)).clone();
    entry.era = era;
    Rc::new(Bench {
        upstreams: Upstreams::new(&settings, Arc::clone(&rows), 0).expect("upstreams"),
        sessions: Sessions::open(file.into(), keys).expect("sessions"),
        lifecycle: Lifecycle::default(),
        entry: Arc::new(entry),
        settings,
        note: RefCell::new(Rc::new(Note::new(Arc::clone(&rows), 0, None))),
        rows,
        _dir: dir,
    })
}

pub(super) fn legacy_era() -> UpstreamEra {
    UpstreamEra::Legacy { version: "2025-11-25".to_owned() }
}

impl Bench {
    pub(super) async fn send(
        self: &Rc<Self>,
        method: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri("/mcp");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("request").into_parts();
        let principal = Principal { subject: "me".into(), admin: false, fingerprint: [1; 16] };
        let note = Rc::new(Note::new(Arc::clone(&self.rows), 0, Some(0)));
        identify(&head, &note);
        let body = Bytes::from(body.to_owned());
        *self.note.borrow_mut() = Rc::clone(&note);
        serve_on(self, Endpoint::Federated, Rc::new(principal), head, body, &note).await
    }

    pub(super) async fn session(self: &Rc<Self>) -> String {
        let response = self.send("POST", &[], r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#).await;
        assert_eq!(response.status(), 200);
        response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned()
    }

    pub(super) async fn legacy(self: &Rc<Self>, body: &str) -> Response<Body> {
        let session = self.session().await;
        self.send("POST", &[("mcp-session-id", &session)], body).await
    }

    pub(super) async fn modern(
        self: &Rc<Self>,
        method: &str,
        name: Option<&str>,
        body: &str,
    ) -> Response<Body> {
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        headers.extend(name.map(|name| ("mcp-name", name)));
        self.send("POST", &headers, body).await
    }

    pub(super) fn outcomes(&self, outcome: Outcome) -> u64 {
        let counters = &self.rows.row(0).counters;
        counters.upstream.0[0][outcome as usize].load(std::sync::atomic::Ordering::Relaxed)
    }
}

pub(super) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

pub(super) fn value(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs on the kind of runtime that a worker has.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends");
    });
}
