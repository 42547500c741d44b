//! A worker that has to leave answers whoever waits, in every form that an answer can have by then.

use std::time::Duration;

use super::META;
use super::bench::*;
use super::event;
use crate::body::Body;
use crate::lifecycle::task;

/// What the upstream does with the call before the time is over.
#[derive(Clone, Copy, Debug)]
enum Upstream {
    Silent,
    /// It has sent progress, so that the answer is an event stream that is relayed.
    Begun,
}

fn call(modern: bool) -> String {
    let meta = if modern { format!(",{META}") } else { String::new() };
    format!(
        r#"{{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{{"name":"up__echo","_meta":{{"progressToken":"tok"{meta}}}}}}}"#
    )
}

async fn cut_off(upstream_does: Upstream, modern: bool, accept: &str) {
    let (url, log) = upstream(legacy_script(move |got| match upstream_does {
        Upstream::Silent => Says::Hang,
        Upstream::Begun => Says::EventThenHang(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
            got.id()
        )),
    }))
    .await;
    let bench = bench(&url, legacy_era());
    let session = bench.session().await;
    let leaves = std::rc::Rc::clone(&bench);
    task::spawn("leave", async move {
        while !log.borrow().iter().any(|got| got.rpc() == "tools/call") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Long enough for the first event to be relayed, or for the silence to make a stream.
        tokio::time::sleep(Duration::from_millis(150)).await;
        leaves.lifecycle.drain(None);
        leaves.lifecycle.say_last_words();
    });
    let mut headers = vec![("accept", accept)];
    if modern {
        headers.extend([
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "up__echo"),
        ]);
    } else {
        headers.push(("mcp-session-id", &session));
    }
    let what = format!("{upstream_does:?}, modern: {modern}, {accept}");
    let response = bench.send("POST", &headers, &call(modern)).await;
    let (status, is_stream) = (response.status().as_u16(), matches!(response.body(), Body::Stream(_)));
    assert_eq!(is_stream, accept.contains("event-stream"), "{what}");
    assert_eq!(status, if modern && !is_stream { 503 } else { 200 }, "{what}");
    let said = text(response).await;
    let answer = if is_stream { event(&said) } else { value(&said) };
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&"c".into(), &(-32603).into()), "{what}: {said}");
    assert_eq!(answer["error"]["data"]["retrySafe"], false, "{what}: {said}");
}

#[test]
fn whoever_waits_for_an_answer_gets_one_before_the_worker_is_gone() {
    run(async {
        for modern in [false, true] {
            for upstream_does in [Upstream::Silent, Upstream::Begun] {
                cut_off(upstream_does, modern, "application/json").await;
                cut_off(upstream_does, modern, "application/json, text/event-stream").await;
            }
        }
    });
}
