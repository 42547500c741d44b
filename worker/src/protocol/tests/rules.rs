//! Sessions, versions, and the order in which a modern request is checked.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;

use super::bench::*;
use super::*;

#[test]
fn sessions_end_everywhere_and_belong_to_somebody() {
    run(async {
        let bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert_eq!(bench.send("POST", &[], ping).await.status(), 400);
        assert_eq!(bench.send("POST", &[("mcp-session-id", "made-up")], ping).await.status(), 404);
        let id = bench.session().await;
        let session = [("mcp-session-id", id.as_str())];
        assert_eq!(
            text(bench.send("POST", &session, ping).await).await,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#
        );
        let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(bench.send("POST", &session, note).await.status(), 202);
        let unknown = bench.send("POST", &session, r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#).await;
        assert_eq!(unknown.status(), 200);
        assert_eq!(value(&text(unknown).await)["error"]["code"], -32601);
        let stream = bench.send("GET", &session, "").await;
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(bench.send("DELETE", &session, "").await.status(), 200);
        assert_eq!(bench.send("DELETE", &session, "").await.status(), 404);
        assert_eq!(bench.send("POST", &session, ping).await.status(), 404);
        assert!(text(stream).await.starts_with("retry: 1000\n\n"), "and the stream ends");
        let batch = bench.send("POST", &session, &format!("[{ping}]")).await;
        assert_eq!(batch.status(), 400);
        assert_eq!(value(&text(batch).await)["error"]["code"], -32600);
    });
}

#[test]
fn a_draining_worker_ends_session_streams() {
    run(async {
        let bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        let id = bench.session().await;
        let stream = bench.send("GET", &[("mcp-session-id", &id)], "").await;
        let drain = Rc::clone(&bench);
        task::spawn("drain", async move {
            tokio::time::sleep(Duration::from_millis(120)).await;
            drain.lifecycle.drain(None);
        });
        assert!(text(stream).await.contains(": keep-alive\n\n"));
    });
}

#[test]
fn versions_are_negotiated_and_never_to_2026() {
    run(async {
        let bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        for (asked, want) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2026-07-28", "2025-11-25"),
            ("1999", "2025-11-25"),
        ] {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{asked}","capabilities":{{}}}}}}"#
            );
            let answer = value(&text(bench.send("POST", &[], &body).await).await);
            assert_eq!(answer["result"]["protocolVersion"], want);
            assert_eq!(answer["result"]["capabilities"]["logging"], serde_json::json!({}));
            assert!(answer["result"]["capabilities"]["tools"]["listChanged"].is_null());
        }
    });
}

#[test]
fn the_modern_ladder() {
    run(async {
        let bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        let meta = format!(r#"{{"_meta":{{{META}}}}}"#);
        let other = meta.replace("2026-07-28", "2099-01-01");
        let named = format!(r#"{{"name":"up__echo","_meta":{{{META}}}}}"#);
        let regional =
            format!(r#"{{"name":"up__regional","arguments":{{"region":"eu"}},"_meta":{{{META}}}}}"#);
        let forbidden = format!(r#"{{"name":"up__forbidden","_meta":{{{META}}}}}"#);
        let v = ("mcp-protocol-version", "2026-07-28");
        for (headers, method, params, status, code) in [
            (&[][..], "tools/list", &*meta, 400, -32020),
            (&[v], "tools/list", "{}", 400, -32602),
            (&[v], "tools/list", "[]", 400, -32602),
            (&[v], "tools/list", r#"{"_meta":"x"}"#, 400, -32602),
            (&[v], "tools/list", r#"{"_meta":{"a":1,"a":1}}"#, 400, -32602),
            (&[v], "tools/call", &meta, 400, -32020),
            (&[v, ("mcp-method", "tools/call")], "tools/call", &meta, 200, -32602),
            (
                &[v],
                "tools/list",
                r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#,
                400,
                -32602,
            ),
            (&[v], "tools/list", &other, 400, -32020),
            (&[("mcp-protocol-version", "2099-01-01")], "tools/list", &other, 400, -32022),
            (&[v], "tools/list", &meta, 400, -32020),
            (&[v, ("mcp-method", "tools/call")], "tools/list", &meta, 400, -32020),
            (&[v, ("mcp-method", "initialize")], "initialize", &meta, 404, -32601),
            (&[v, ("mcp-method", "ping")], "ping", &meta, 404, -32601),
            (&[v, ("mcp-method", "logging/setLevel")], "logging/setLevel", &meta, 404, -32601),
            (&[v, ("mcp-method", "resources/subscribe")], "resources/subscribe", &meta, 404, -32601),
            (&[v, ("mcp-method", "subscriptions/listen")], "subscriptions/listen", &meta, 404, -32601),
            (&[v, ("mcp-method", "tools/call")], "tools/call", &named, 400, -32020),
            (&[v, ("mcp-method", "tools/call"), ("mcp-name", "echo")], "tools/call", &named, 400, -32020),
            (
                &[v, ("mcp-method", "tools/call"), ("mcp-name", "up__regional")],
                "tools/call",
                &regional,
                400,
                -32020,
            ),
            (
                &[v, ("mcp-method", "tools/call"), ("mcp-name", "up__forbidden")],
                "tools/call",
                &forbidden,
                200,
                -32602,
            ),
            (&[v, ("mcp-method", "tools/list"), ("mcp-session-id", "ignored")], "tools/list", &meta, 200, 0),
            (&[v, ("mcp-method", "server/discover")], "server/discover", &meta, 200, 0),
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            let response = bench.send("POST", headers, &body).await;
            let got = response.status().as_u16();
            let answer = value(&text(response).await);
            let got_code = answer["error"]["code"].as_i64().unwrap_or(0);
            assert_eq!((got, got_code), (status, code), "{method} {headers:?}: {answer}");
            if code == 0 {
                assert_eq!(answer["result"]["resultType"], "complete");
                assert_eq!(answer["result"]["cacheScope"], "private");
                assert!(answer["result"]["ttlMs"].is_u64());
            }
        }
        for method in ["GET", "DELETE", "PUT"] {
            assert_eq!(bench.send(method, &[v], "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
        }
        let note = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}"#;
        assert_eq!(bench.send("POST", &[v], note).await.status(), 202);
        let unknown = [("mcp-protocol-version", "1999-01-01")];
        let refused = bench.send("POST", &unknown, note).await;
        assert_eq!(refused.status(), 400);
        let answer = value(&text(refused).await);
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&(-32022).into(), &serde_json::Value::Null));
        assert_eq!(bench.send("POST", &[v], r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await.status(), 400);
    });
}

#[test]
fn a_method_behind_a_capability_that_is_not_advertised_is_not_found() {
    run(async {
        // The upstream of this bench has logging and no completions.
        let bench = bench("http://127.0.0.1:1/mcp", legacy_era());
        let body = |method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
        };
        let complete = format!(r#"{{"ref":{{"type":"ref/prompt","name":"up__p"}},"_meta":{{{META}}}}}"#);
        let response =
            bench.modern("completion/complete", None, &body("completion/complete", &complete)).await;
        assert_eq!(response.status(), 404);
        assert_eq!(value(&text(response).await)["error"]["code"], -32601);
        let legacy = body("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"up__p"}}"#);
        let response = bench.legacy(&legacy).await;
        assert_eq!(response.status(), 200);
        assert_eq!(value(&text(response).await)["error"]["code"], -32601);

        let set_level = body("logging/setLevel", r#"{"level":"info"}"#);
        assert!(value(&text(bench.legacy(&set_level).await).await)["error"].is_null());
        let mut silent = (*bench.entry).clone();
        silent.capabilities = "{}".to_owned();
        let offer = crate::protocol::answers::Offer::of([&silent].into_iter(), true);
        assert!(!offer.serves("logging/setLevel") && offer.serves("tools/call"));
    });
}
