//! A scripted upstream: records the very bytes of each request and answers with the very bytes it is told to.
//!
//! It plays just enough of one era to be registered (one tool, one resource, one prompt); everything else is the script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// How long a connection of the gateway may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Requests that are kept.
const KEPT: usize = 1000;

/// The era it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plays {
    /// `initialize`, sessions; answers `server/discover` with an error.
    Legacy,
    /// 2026-07-28 only.
    Modern,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Request line and headers.
    pub head: String,
    /// Body, byte for byte.
    pub body: Vec<u8>,
}

/// Only these are read: a body may hold numbers that no value can.
#[derive(Default, Deserialize)]
struct Envelope {
    method: Option<String>,
    id: Option<Box<RawValue>>,
}

impl Recorded {
    /// The body's `method`; empty when there is none.
    pub fn method(&self) -> String {
        self.envelope().method.unwrap_or_default()
    }

    /// The text of the body's `id`.
    pub fn id(&self) -> String {
        self.envelope().id.map_or_else(|| "null".to_owned(), |id| id.get().to_owned())
    }

    fn envelope(&self) -> Envelope {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What the script does with a request that the play does not know: it writes the whole answer.
pub type Script = dyn Fn(&Recorded, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// A running scripted upstream; its threads end with the test's process.
pub struct Raw {
    /// Where it listens.
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<Recorded>>>,
}

impl Raw {
    /// Starts it.
    pub fn start(
        plays: Plays,
        script: impl Fn(&Recorded, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Raw {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let (kept, script): (_, Arc<Script>) = (recorded.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, script) = (kept.clone(), script.clone());
                std::thread::spawn(move || serve(stream, plays, &kept, &*script));
            }
        });
        Raw { address, recorded }
    }

    /// The URL to register.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The requests with that method, so far.
    pub fn requests(&self, method: &str) -> Vec<Recorded> {
        let recorded = self.recorded.lock().expect("no thread panics with the lock");
        recorded.iter().filter(|request| request.method() == method).cloned().collect()
    }
}

/// Serves one connection until it ends; errors only end it.
fn serve(mut stream: TcpStream, plays: Plays, kept: &Mutex<Vec<Recorded>>, script: &Script) {
    let _ = stream.set_read_timeout(Some(IDLE_LIMIT));
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut received) {
        {
            let mut kept = kept.lock().expect("no thread panics with the lock");
            if kept.len() < KEPT {
                kept.push(request.clone());
            }
        }
        let done = match play(plays, &request) {
            Some(bytes) => stream.write_all(&bytes),
            None => script(&request, &mut stream),
        };
        if done.is_err() {
            return;
        }
    }
}

fn next_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<Recorded> {
    let mut buffer = [0u8; 16 * 1024];
    loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..at]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
                })
                .unwrap_or(0);
            if received.len() >= at + 4 + length {
                let request: Vec<u8> = received.drain(..at + 4 + length).collect();
                return Some(Recorded { head, body: request[at + 4..].to_vec() });
            }
        }
        match stream.read(&mut buffer) {
            Ok(got) if got > 0 => received.extend_from_slice(&buffer[..got]),
            _ => return None,
        }
    }
}

/// A JSON answer.
pub fn json_answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A JSON-RPC result, written as it is.
pub fn result_answer(request: &Recorded, result: &str) -> Vec<u8> {
    json_answer("200 OK", &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id()))
}

const CAPABILITIES: &str = r#"{"tools":{},"resources":{},"prompts":{},"com.example/odd":{"n":1e400}}"#;
const TOOLS: &str = r#"[{"name":"odd","title":"Odd","x-vendor":{"n":12345678901234567890123},"inputSchema":{"type":"object"}}]"#;
const RESOURCES: &str = r#"[{"uri":"raw://one","name":"one","x-vendor":[1.0,1e2]}]"#;
const PROMPTS: &str = r#"[{"name":"ask","x-vendor":"\u00e9"}]"#;

/// What every upstream must answer to be registered; none for what is left to the script.
fn play(plays: Plays, request: &Recorded) -> Option<Vec<u8>> {
    let extra = if plays == Plays::Modern {
        r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#
    } else {
        ""
    };
    let list =
        |field: &str, entries: &str| result_answer(request, &format!(r#"{{"{field}":{entries}{extra}}}"#));
    if request.head.starts_with("GET ") || request.head.starts_with("DELETE ") {
        return Some(json_answer("405 Method Not Allowed", "{}"));
    }
    match (request.method().as_str(), plays) {
        ("server/discover", Plays::Modern) => Some(result_answer(
            request,
            &format!(r#"{{"supportedVersions":["2026-07-28"],"capabilities":{CAPABILITIES}{extra}}}"#),
        )),
        ("server/discover", Plays::Legacy) => Some(json_answer(
            "400 Bad Request",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}"#,
        )),
        ("initialize", Plays::Legacy) => {
            let hello = format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{CAPABILITIES},"serverInfo":{{"name":"raw","version":"1"}}}}"#
            );
            let answer = String::from_utf8(result_answer(request, &hello)).expect("text");
            Some(answer.replacen("\r\n", "\r\nMcp-Session-Id: raw-session\r\n", 1).into_bytes())
        }
        ("initialize", Plays::Modern) => Some(json_answer(
            "404 Not Found",
            &format!(
                r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32601,"message":"Method not found"}}}}"#,
                request.id()
            ),
        )),
        ("notifications/initialized" | "notifications/cancelled", _) => {
            Some(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec())
        }
        ("ping", Plays::Legacy) => Some(result_answer(request, "{}")),
        ("tools/list", _) => Some(list("tools", TOOLS)),
        ("resources/list", _) => Some(list("resources", RESOURCES)),
        ("resources/templates/list", _) => Some(list("resourceTemplates", "[]")),
        ("prompts/list", _) => Some(list("prompts", PROMPTS)),
        _ => None,
    }
}
