//! One MCP client on one keep-alive connection.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper::header::{HeaderMap, HeaderValue, ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::answer::{answer, CallResult, InitResult, ListResult};
use crate::args::{Era, Verify};
use crate::sockets::Registered;
use crate::Shared;

const MODERN: &str = "2026-07-28";
const META: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"mcpload","version":"0.1.0"},"#,
    r#""io.modelcontextprotocol/clientCapabilities":{}}"#
);

/// Why a request (or a handshake) did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server had closed the idle connection before the request was sent.
    Closed,
    Connect,
    Timeout,
    Io,
    Http(u16),
    Rpc(i64),
    ToolError,
    Mismatch,
    Parse,
}

impl Failure {
    pub fn kind(&self) -> String {
        match self {
            Failure::Closed => "closed".into(),
            Failure::Connect => "connect".into(),
            Failure::Timeout => "timeout".into(),
            Failure::Io => "io".into(),
            Failure::Http(s) => format!("http_{s}"),
            Failure::Rpc(c) => format!("rpc_{c}"),
            Failure::ToolError => "tool_error".into(),
            Failure::Mismatch => "mismatch".into(),
            Failure::Parse => "parse".into(),
        }
    }

    /// Must the connection be opened anew (with a new session)?
    pub fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Failure::Closed | Failure::Connect | Failure::Timeout | Failure::Io | Failure::Http(404)
        )
    }
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<()>,
    session: Option<HeaderValue>,
    /// Version to name in `MCP-Protocol-Version` (era 2025: as negotiated).
    version: HeaderValue,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub struct Client {
    sh: Rc<Shared>,
    open: Option<Open>,
}

impl Client {
    pub fn new(sh: Rc<Shared>) -> Self {
        Client { sh, open: None }
    }

    pub fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|o| !o.sender.is_closed())
    }

    pub fn close(&mut self) {
        self.open = None;
    }

    /// Connects and does the era's handshake, all within one request timeout.
    pub async fn open(&mut self) -> Result<(), Failure> {
        let modern = self.sh.args.era == Era::Modern;
        self.open_with(!modern).await
    }

    /// Only connects, for a stream that needs no handshake.
    pub async fn open_bare(&mut self) -> Result<(), Failure> {
        self.open_with(false).await
    }

    async fn open_with(&mut self, shake: bool) -> Result<(), Failure> {
        self.close();
        let limit = self.sh.args.timeout;
        match tokio::time::timeout(limit, self.open_inner(shake)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(f)) => {
                self.close();
                // Nothing was idle here, so a closed connection is a broken one.
                Err(if f == Failure::Closed { Failure::Io } else { f })
            }
            Err(_) => {
                self.close();
                Err(Failure::Timeout)
            }
        }
    }

    async fn open_inner(&mut self, shake: bool) -> Result<(), Failure> {
        let stream = TcpStream::connect(self.sh.args.addr).await.map_err(|_| Failure::Connect)?;
        let _ = stream.set_nodelay(true);
        let fd = stream.as_raw_fd();
        let (sender, conn) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
        let driver = tokio::task::spawn_local(async move {
            let _registered = Registered::new(fd);
            let _ = conn.await;
        });
        self.open = Some(Open { sender, driver, session: None, version: HeaderValue::from_static(MODERN) });
        if !shake {
            return Ok(());
        }

        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"mcpload","version":"0.1.0"}}}}}}"#,
            self.sh.args.protocol
        );
        let (head, text) = self.post(body, None).await?;
        let result =
            answer(&head, &text, "0", |r| serde_json::from_str::<InitResult>(r).map_err(|_| Failure::Parse))?;
        let open = self.open.as_mut().expect("just opened");
        open.session = head.headers.get("mcp-session-id").cloned();
        open.version = HeaderValue::from_str(&result.protocol_version).map_err(|_| Failure::Parse)?;
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let (head, _) = self.post(body.into(), None).await?;
        if head.status.is_success() {
            Ok(())
        } else {
            Err(Failure::Http(head.status.as_u16()))
        }
    }

    /// Sends the configured request once and checks its answer.
    pub async fn request(&mut self) -> Result<(), Failure> {
        let sh = self.sh.clone();
        let a = &sh.args;
        let n = sh.unique();
        let id = n.to_string();
        let modern = a.era == Era::Modern;
        let mut body = String::with_capacity(512);
        body.push_str(r#"{"jsonrpc":"2.0","id":"#);
        body.push_str(&id);
        body.push_str(r#","method":""#);
        body.push_str(&a.method);
        body.push_str(r#"","params":{"#);
        let mut arguments = String::new();
        if a.method == "tools/call" {
            arguments = a.tool_args.replace("{n}", &id);
            body.push_str(r#""name":""#);
            body.push_str(&a.tool);
            body.push_str(r#"","arguments":"#);
            body.push_str(&arguments);
            if modern {
                body.push(',');
            }
        }
        if modern {
            body.push_str(META);
        }
        body.push_str("}}");

        let (head, text) = match tokio::time::timeout(a.timeout, self.post(body, Some(&a.method))).await {
            Ok(r) => r?,
            Err(_) => return Err(Failure::Timeout),
        };
        answer(&head, &text, &id, |result| match a.method.as_str() {
            "tools/call" => {
                let r: CallResult = serde_json::from_str(result).map_err(|_| Failure::Parse)?;
                if r.is_error {
                    return Err(Failure::ToolError);
                }
                if a.verify == Verify::Echo {
                    #[derive(Deserialize)]
                    struct Message<'a> {
                        #[serde(borrow)]
                        message: std::borrow::Cow<'a, str>,
                    }
                    let want: Message = serde_json::from_str(&arguments).map_err(|_| Failure::Parse)?;
                    if r.content.len() != 1 || r.content[0].text != want.message {
                        return Err(Failure::Mismatch);
                    }
                }
                Ok(())
            }
            "tools/list" => {
                let r: ListResult = serde_json::from_str(result).map_err(|_| Failure::Parse)?;
                if r.tools.is_empty() {
                    return Err(Failure::Mismatch);
                }
                Ok(())
            }
            _ => Ok(()),
        })
    }

    /// Opens an SSE stream on this connection and reads it until the server ends it.
    pub async fn hold_stream(&mut self) -> Result<(), Failure> {
        let sh = self.sh.clone();
        let open = self.open.as_mut().ok_or(Failure::Connect)?;
        let req = if let Some(path) = &sh.args.stream_path {
            let mut r = build(&sh, open, Method::GET, None, String::new());
            *r.uri_mut() = path.parse().map_err(|_| Failure::Connect)?;
            r
        } else if sh.args.era == Era::Modern {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{},"method":"subscriptions/listen","params":{{"notifications":{{"toolsListChanged":true}},{META}}}}}"#,
                sh.unique()
            );
            build(&sh, open, Method::POST, Some("subscriptions/listen"), body)
        } else {
            build(&sh, open, Method::GET, None, String::new())
        };
        let send = open.sender.send_request(req);
        let resp = match tokio::time::timeout(sh.args.timeout, send).await {
            Ok(r) => r.map_err(|_| Failure::Io)?,
            Err(_) => return Err(Failure::Timeout),
        };
        if resp.status() != StatusCode::OK {
            return Err(Failure::Http(resp.status().as_u16()));
        }
        sh.report.borrow_mut().streams_opened += 1;
        let mut body = resp.into_body();
        while let Some(f) = body.frame().await {
            match f {
                Ok(f) => {
                    if let Some(d) = f.data_ref() {
                        sh.report.borrow_mut().stream_bytes += d.len() as u64;
                    }
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Ends the session, as a well-behaved client does.
    pub async fn delete_session(&mut self) {
        let sh = self.sh.clone();
        let Some(open) = self.open.as_mut() else { return };
        if open.session.is_none() || open.sender.is_closed() {
            return;
        }
        let req = build(&sh, open, Method::DELETE, None, String::new());
        let send = open.sender.send_request(req);
        if let Ok(Ok(r)) = tokio::time::timeout(Duration::from_secs(5), send).await {
            let _ = tokio::time::timeout(Duration::from_secs(5), r.into_body().collect()).await;
        }
    }

    async fn post(
        &mut self,
        body: String,
        method: Option<&str>,
    ) -> Result<(hyper::http::response::Parts, Bytes), Failure> {
        let sh = self.sh.clone();
        let open = self.open.as_mut().ok_or(Failure::Closed)?;
        open.sender.ready().await.map_err(|_| Failure::Closed)?;
        sh.report.borrow_mut().bytes_out += body.len() as u64;
        let req = build(&sh, open, Method::POST, method, body);
        let sent = Instant::now();
        let resp: Response<Incoming> = open.sender.send_request(req).await.map_err(|e| {
            // A keep-alive connection that the server was just closing fails at once, before any of
            // the request was taken; everything else is a broken request.
            if e.is_canceled() || (e.is_closed() && sent.elapsed() < Duration::from_millis(1)) {
                Failure::Closed
            } else {
                Failure::Io
            }
        })?;
        let (head, body) = resp.into_parts();
        let bytes = body.collect().await.map_err(|_| Failure::Io)?.to_bytes();
        sh.report.borrow_mut().bytes_in += bytes.len() as u64;
        Ok((head, bytes))
    }
}

fn build(
    sh: &Shared,
    open: &Open,
    http_method: Method,
    rpc_method: Option<&str>,
    body: String,
) -> Request<Full<Bytes>> {
    let a = &sh.args;
    let post = http_method == Method::POST;
    let stream = http_method == Method::GET;
    let mut req = Request::new(Full::new(Bytes::from(body)));
    *req.method_mut() = http_method;
    *req.uri_mut() = a.path.parse().expect("the path was given as part of a URL");
    let h: &mut HeaderMap = req.headers_mut();
    h.insert(HOST, a.authority.clone());
    if post {
        h.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        h.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    } else if stream {
        h.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    match a.era {
        Era::Legacy => {
            if let Some(s) = &open.session {
                h.insert("mcp-session-id", s.clone());
            }
            // Before the handshake has chosen a version there is none to name.
            if open.version != MODERN {
                h.insert("mcp-protocol-version", open.version.clone());
            }
        }
        Era::Modern => {
            h.insert("mcp-protocol-version", open.version.clone());
            if let Some(m) = rpc_method {
                h.insert("mcp-method", HeaderValue::from_str(m).expect("methods are ASCII"));
                if m == "tools/call" {
                    if let Ok(v) = HeaderValue::from_str(&a.tool) {
                        h.insert("mcp-name", v);
                    }
                }
            }
        }
    }
    for (k, v) in &a.headers {
        h.insert(k.clone(), v.clone());
    }
    req
}
