//! What clients leave behind: calls without a reader are bounded, streams end without waiting for one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::bench::*;
use crate::body::Body;
use crate::lifecycle::calls::MOST_ABANDONED;
use crate::protocol::Ground;
use crate::protocol::relay::KEEPALIVE;

#[test]
fn no_call_begins_while_too_many_run_without_their_clients() {
    run(async {
        let (url, log) = upstream(legacy_script(|_| Says::Hang)).await;
        let bench = bench(&url, legacy_era());
        let abandon = |_| {
            let call = bench.lifecycle().calls().enter("tools/call").expect("room");
            call.client_left();
            call
        };
        let abandoned: Vec<_> = (0..MOST_ABANDONED).map(abandon).collect();
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        let response = bench.legacy(call).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "5");
        drop(abandoned);
        tokio::select! {
            _ = bench.legacy(call) => panic!("the upstream hangs"),
            () = async { while !log.borrow().iter().any(|got| got.rpc() == "tools/call") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            } } => {}
        }
    });
}

#[test]
fn a_stream_that_nobody_reads_ends_with_its_session_and_with_the_worker() {
    run(async {
        for drains in [false, true] {
            let mut bench = bench("http://127.0.0.1:1/mcp", legacy_era());
            let keepalive = Duration::from_millis(1);
            let settings = forkgate_shared::settings::Settings {
                sse_keepalive_interval: keepalive,
                ..(*bench.settings).clone()
            };
            Rc::get_mut(&mut bench).expect("the only owner").settings = Arc::new(settings);
            let session = bench.session().await;
            let headers = [("mcp-session-id", session.as_str())];
            let Body::Stream(chunks) = bench.send("GET", &headers, "").await.into_body() else {
                panic!("a stream")
            };
            // Full: the keep-alive waits for the reader from now on.
            let mut seen = 0;
            while std::mem::replace(&mut seen, chunks.len()) != chunks.len() || seen < 2 {
                tokio::time::sleep(keepalive * 20).await;
            }
            assert!(!chunks.is_closed());
            match drains {
                true => bench.lifecycle().drain(None),
                false => assert_eq!(bench.send("DELETE", &headers, "").await.status(), StatusCode::OK),
            }
            let ended = async {
                while !chunks.is_closed() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the stream ends");
        }
    });
}

/// The wait for its turn is long here; whoever reads is not left in silence, and a session that ends ends its stream.
#[test]
fn a_stream_that_waits_for_its_turn_to_end_stays_alive_and_has_a_session() {
    run(async {
        let mut bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        let settings = forkgate_shared::settings::Settings {
            stream_drain: Duration::from_secs(1_000_000),
            ..(*bench.settings).clone()
        };
        Rc::get_mut(&mut bench).expect("the only owner").settings = Arc::new(settings);
        let session = bench.session().await;
        let headers = [("mcp-session-id", session.as_str())];
        let Body::Stream(mut chunks) = bench.send("GET", &headers, "").await.into_body() else {
            panic!("a stream")
        };
        assert!(chunks.recv().await.is_some(), "it is open");
        bench.lifecycle().drain(None);
        for _ in 0..3 {
            assert_eq!(chunks.recv().await.as_deref(), Some(&KEEPALIVE[..]));
        }
        assert_eq!(bench.send("DELETE", &headers, "").await.status(), StatusCode::OK);
        while chunks.recv().await.is_some() {}
    });
}
