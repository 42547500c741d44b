//! `fetch` and the pool against a scripted upstream.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forkgate_shared::rows::Rows;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::fetch::{FetchError, FetchRequest, Fetched, fetch, fetch_within};
use super::{Answer, Built, UpstreamError, Upstreams, fixture};
use crate::catalog::UpstreamEra;
use crate::lifecycle::task;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends");
    });
}

fn upstreams() -> Upstreams {
    let (rows, _fd) = Rows::create(1).expect("rows");
    let mut settings = fixture::settings();
    settings.tool_timeout = Duration::from_secs(2);
    Upstreams::new(&Arc::new(settings), Arc::new(rows), 0).expect("upstreams")
}

/// One HTTP request after another on a connection; `answer` gives status and body, `None` closes without one.
async fn server(
    answer: impl Fn(usize, &str) -> Option<(u16, String)> + 'static,
) -> (String, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/mcp?key=secret", listener.local_addr().expect("address"));
    let connections: Rc<Cell<usize>> = Rc::default();
    let (count, answer) = (Rc::clone(&connections), Rc::new(answer));
    task::spawn("test server", async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            count.set(count.get() + 1);
            let (answer, number) = (Rc::clone(&answer), count.get());
            task::spawn("test connection", async move {
                let mut buffer = Vec::new();
                while let Some(body) = read_request(&mut tcp, &mut buffer).await {
                    let Some((status, text)) = answer(number, &body) else { return };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                        text.len()
                    );
                    if tcp.write_all((head + &text).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, connections)
}

async fn read_request(tcp: &mut tokio::net::TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
            });
            let length = length.map_or(0, |length| length.parse::<usize>().expect("a length"));
            if body.len() >= length {
                let body = body[..length].to_owned();
                buffer.drain(..head.len() + 4 + length);
                return Some(body);
            }
        }
        if tcp.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn id_of(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    value["id"].to_string()
}

fn result(body: &str, result: &str) -> Option<(u16, String)> {
    Some((200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id_of(body))))
}

fn error(body: &str, status: u16, code: i64) -> Option<(u16, String)> {
    Some((
        status,
        format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{code},"message":"m"}}}}"#, id_of(body)),
    ))
}

async fn fetch_from(
    answer: impl Fn(usize, &str) -> Option<(u16, String)> + 'static,
) -> Result<Fetched, FetchError> {
    let (url, _) = server(answer).await;
    let request = FetchRequest { url, headers: Vec::new(), deadline: Duration::from_secs(3) };
    fetch(&upstreams(), request).await
}

const DISCOVERED: &str = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}},"instructions":"i"}"#;

#[test]
fn every_page_is_read_and_items_stay_as_they_were() {
    run(async {
        let pages = Rc::new(Cell::new(0));
        let fetched = fetch_from(move |_, body| {
            if body.contains("server/discover") {
                return result(body, DISCOVERED);
            }
            if body.contains("templates") {
                return error(body, 404, -32601);
            }
            if body.contains("resources/list") {
                return result(body, r#"{"resources":[{"uri":"a:b", "x" :1e400}]}"#);
            }
            let page = pages.get();
            pages.set(page + 1);
            assert_eq!(body.contains("\"cursor\""), page > 0);
            let next = if page < 2 { format!(r#","nextCursor":"c{page}""#) } else { String::new() };
            result(body, &format!(r#"{{"tools":[{{"name":"t{page}"}},{{"name":"u{page}"}}]{next}}}"#))
        })
        .await
        .expect("fetches");
        assert_eq!(fetched.era, UpstreamEra::Modern);
        assert_eq!(fetched.server_info.get(), r#"{"name":"s"}"#);
        assert_eq!(fetched.instructions.as_deref(), Some("i"));
        assert_eq!(fetched.tools.len(), 6);
        assert_eq!(fetched.resources[0].get(), r#"{"uri":"a:b", "x" :1e400}"#);
        assert!(fetched.templates.is_empty() && fetched.prompts.is_empty());
    });
}

#[test]
fn a_catalog_that_cannot_be_read_says_which_list_failed() {
    run(async {
        let looping = fetch_from(|_, body| match body.contains("server/discover") {
            true => result(body, DISCOVERED),
            false => result(body, r#"{"tools":[{}],"nextCursor":"same"}"#),
        });
        let broken = fetch_from(|_, body| match body.contains("server/discover") {
            true => result(body, DISCOVERED),
            false => error(body, 200, -32603),
        });
        for (fetched, want) in [(looping.await, "never ends"), (broken.await, "error -32603")] {
            match fetched {
                Err(FetchError::List { method: "tools/list", why }) => assert!(why.contains(want), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        let endless = fetch_from(|_, body| match body.contains("server/discover") {
            true => result(body, DISCOVERED),
            false => result(body, &format!(r#"{{"tools":[],"nextCursor":"{}"}}"#, id_of(body))),
        });
        assert!(matches!(endless.await, Err(FetchError::List { .. })));
    });
}

#[test]
fn all_pages_of_all_lists_together_are_bounded() {
    run(async {
        let (url, _) = server(|_, body| match body.contains("server/discover") {
            true => result(body, DISCOVERED),
            false if body.contains("templates") => error(body, 404, -32601),
            false if body.contains("resources/list") => result(body, r#"{"resources":[]}"#),
            false => {
                let next = if body.contains("\"cursor\"") { "" } else { r#","nextCursor":"c""# };
                result(body, &format!(r#"{{"tools":[{{"x":"{}"}}]{next}}}"#, "x".repeat(1000)))
            }
        })
        .await;
        let fetch = async |bytes| {
            let request =
                FetchRequest { url: url.clone(), headers: Vec::new(), deadline: Duration::from_secs(3) };
            fetch_within(&upstreams(), request, bytes).await
        };
        assert_eq!(fetch(3000).await.expect("fits").tools.len(), 2);
        assert!(matches!(fetch(2000).await, Err(FetchError::TooLarge)));
    });
}

#[test]
fn eras_are_told_by_evidence_only() {
    run(async {
        for (status, code, want) in [(401, 0, "401"), (403, 0, "403"), (400, -32020, "-32020")] {
            let fetched = fetch_from(move |_, body| error(body, status, code)).await;
            let text = fetched.expect_err("no evidence").to_string();
            assert!(text.contains(want), "{text}");
        }
        for (status, code) in
            [(200, -32601), (400, -32602), (400, -32000), (404, -32601), (500, 1), (400, -32022)]
        {
            let fetched = fetch_from(move |_, body| {
                if body.contains("server/discover") {
                    let (status, text) = error(body, status, code)?;
                    return Some((
                        status,
                        text.replace(
                            r#""message":"m""#,
                            r#""message":"m","data":{"supported":["2025-06-18"]}"#,
                        ),
                    ));
                }
                match body.contains("initialize\"") {
                    true => result(
                        body,
                        r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{}}"#,
                    ),
                    false if body.contains("notifications/") => Some((202, String::new())),
                    false => result(body, r#"{"tools":[]}"#),
                }
            })
            .await;
            let fetched = fetched.unwrap_or_else(|error| panic!("{status} {code}: {error}"));
            assert_eq!(fetched.era, UpstreamEra::Legacy { version: "2025-06-18".into() });
        }
        let nowhere = FetchRequest {
            url: "http://127.0.0.1:1/".into(),
            headers: vec![],
            deadline: Duration::from_secs(3),
        };
        let text = fetch(&upstreams(), nowhere).await.expect_err("nobody listens").to_string();
        assert!(text.contains("cannot be reached"), "{text}");
        let metadata = FetchRequest {
            url: "http://169.254.169.254/".into(),
            headers: vec![],
            deadline: Duration::from_secs(3),
        };
        let refused = fetch(&upstreams(), metadata).await;
        assert!(
            matches!(refused, Err(FetchError::Upstream(UpstreamError::AddressRefused(_)))),
            "{refused:?}"
        );
        for url in ["ftp://x/", "nonsense", "http://"] {
            let bad = FetchRequest { url: url.into(), headers: vec![], deadline: Duration::from_secs(3) };
            assert!(matches!(
                fetch(&upstreams(), bad).await,
                Err(FetchError::Upstream(UpstreamError::BadUrl(_)))
            ));
        }
    });
}

#[test]
fn connections_are_reused_and_a_dead_one_costs_nothing_that_was_not_sent() {
    run(async {
        let calls: Rc<RefCell<Vec<usize>>> = Rc::default();
        let seen = Rc::clone(&calls);
        let (url, connections) = server(move |connection, body| {
            seen.borrow_mut().push(connection);
            let is_third = seen.borrow().len() == 3;
            if is_third { None } else { result(body, "{}") }
        })
        .await;
        let upstreams = upstreams();
        let mut entry = (*fixture::entry(&url)).clone();
        entry.era = UpstreamEra::Modern;
        let entry = Arc::new(entry);
        let call = async |may_repeat: bool| {
            let build = |_: &UpstreamEra, id: u64| Built {
                body: format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#).into(),
                headers: Vec::new(),
            };
            upstreams.call(&entry, may_repeat, build).await
        };
        for _ in 0..2 {
            assert!(matches!(call(false).await.expect("answers").answer, Answer::Json(_)));
        }
        assert_eq!(connections.get(), 1);
        let broken = call(false).await.err().expect("the upstream closed it, who knows what it did");
        assert!(matches!(broken, UpstreamError::Broken(_)), "{broken:?}");
        assert!(!broken.is_before_processing());
        assert!(call(false).await.is_ok());
        assert_eq!((calls.borrow().len(), connections.get()), (4, 2));
    });
}

#[test]
fn a_request_that_may_be_repeated_is_repeated_once_on_a_fresh_connection() {
    run(async {
        let requests: Rc<Cell<usize>> = Rc::default();
        let seen = Rc::clone(&requests);
        let (url, connections) = server(move |connection, body| {
            seen.set(seen.get() + 1);
            // The first three connections die under their second request.
            if seen.get() > 3 && connection <= 3 { None } else { result(body, "{}") }
        })
        .await;
        let upstreams = upstreams();
        let mut entry = (*fixture::entry(&url)).clone();
        entry.era = UpstreamEra::Modern;
        let entry = Arc::new(entry);
        let call = async || {
            let build = |_: &UpstreamEra, id: u64| Built {
                body: format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"prompts/get"}}"#).into(),
                headers: Vec::new(),
            };
            upstreams.call(&entry, true, build).await.is_ok()
        };
        assert!(size_of_val(&call()) < 4096, "what few calls need is boxed: every call moves this");
        assert_eq!(tokio::join!(call(), call(), call()), (true, true, true));
        assert_eq!((requests.get(), connections.get()), (3, 3));
        assert!(call().await);
        assert_eq!((requests.get(), connections.get()), (5, 4));
    });
}

#[test]
fn an_answer_over_the_limit_is_refused() {
    run(async {
        let (url, _) = server(|_, body| result(body, &format!(r#"{{"x":"{}"}}"#, "x".repeat(2 << 20)))).await;
        let upstreams = upstreams();
        let mut entry = (*fixture::entry(&url)).clone();
        entry.era = UpstreamEra::Modern;
        let build = |_: &UpstreamEra, id: u64| Built {
            body: format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#).into(),
            headers: Vec::new(),
        };
        let called = upstreams.call(&Arc::new(entry), false, build).await;
        assert_eq!(called.err(), Some(UpstreamError::TooLarge(1 << 20)));
    });
}
