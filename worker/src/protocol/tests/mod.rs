//! Both servers against a scripted upstream: what goes out, what comes back, byte for byte.

mod abandoned;
mod bench;

use std::rc::Rc;
use std::time::Duration;

use forkgate_shared::rows::Outcome;
use http::StatusCode;

use self::bench::*;
use super::Ground;
use crate::catalog::UpstreamEra;
use crate::lifecycle::task;

const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#;
/// Texts that do not survive a parser that keeps values.
const ODD: &str =
    r#"{ "z":1e400 , "a":18446744073709551616,"a":1.0,"\u0061":"\ud83d\ude00", "vendor/x":[ ] }"#;

/// The last event of a stream.
fn event(stream: &str) -> serde_json::Value {
    let last = stream.rsplit("data: ").next().expect("an event");
    value(last.split("\n\n").next().expect("its data"))
}

#[test]
fn legacy_to_legacy_keeps_every_byte_but_ids_names_and_tokens() {
    run(async {
        let (url, log) = upstream(legacy_script(|got| {
            Says::Json(
                200,
                format!(
                    r#"{{"result":{{"x":{ODD},"content":[]}}, "id" : {} ,"jsonrpc":"2.0","extra":{ODD}}}"#,
                    got.id()
                ),
            )
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let body = format!(
            r#"{{"jsonrpc":"2.0", "extra":{ODD}, "id":"a\u0041", "method":"tools/call","params":{{"arguments":{ODD}, "name":"up__echo","_meta":{{"progressToken": "tok","acme.com/k":{ODD}}}}}}}"#
        );
        let response = bench.legacy(&body).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(
            text(response).await,
            format!(
                r#"{{"result":{{"x":{ODD},"content":[]}}, "id" : "a\u0041" ,"jsonrpc":"2.0","extra":{ODD}}}"#
            )
        );
        let got = log.borrow().last().expect("a call").clone();
        let id = got.id();
        let want = body.replace(r#""a\u0041""#, &id).replace("up__echo", "echo").replace(r#""tok""#, &id);
        assert_eq!(got.body, want);
        assert_eq!(got.header("mcp-session-id"), "up-session");
        assert_eq!(got.header("mcp-protocol-version"), "2025-11-25");
        assert_eq!(got.header("x-secret"), "s3cret");
        assert_eq!(bench.outcomes(Outcome::Ok), 1);
    });
}

#[test]
fn calls_at_once_share_one_session_which_is_opened_anew_when_the_upstream_forgot_it() {
    run(async {
        let forgotten = Rc::new(std::cell::Cell::new(false));
        let forgets = Rc::clone(&forgotten);
        let (url, log) = upstream(legacy_script(move |got| {
            if forgets.replace(false) {
                return Says::Json(404, String::new());
            }
            Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id()))
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        tokio::join!(bench.legacy(call), bench.legacy(call), bench.legacy(call));
        let count = |what: &str| log.borrow().iter().filter(|got| got.rpc() == what).count();
        assert_eq!((count("initialize"), count("tools/call")), (1, 3));
        forgotten.set(true);
        assert_eq!(value(&text(bench.legacy(call).await).await)["result"], serde_json::json!({}));
        assert_eq!((count("initialize"), count("tools/call")), (2, 5));
        bench.upstreams.close().await;
        assert_eq!(log.borrow().last().expect("a farewell").method, http::Method::DELETE);
    });
}

#[test]
fn a_modern_client_works_with_a_legacy_upstream() {
    run(async {
        let (url, log) = upstream(legacy_script(|got| match got.rpc().as_str() {
            "resources/read" => Says::Json(
                200,
                format!(
                    r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32002,"message":"no","data":{ODD}}}}}"#,
                    got.id()
                ),
            ),
            _ => Says::Json(
                200,
                format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[],"_meta":{{"a":1}}}}}}"#,
                    got.id()
                ),
            ),
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{{"_meta":{{{META},"traceparent":"00-x"}},"name":"up__echo"}}}}"#
        );
        let response = bench.modern("tools/call", Some("up__echo"), &body).await;
        let answer = value(&text(response).await);
        assert_eq!(answer["id"], 5);
        assert_eq!(answer["result"]["resultType"], "complete");
        assert_eq!(answer["result"]["_meta"]["a"], 1);
        assert_eq!(answer["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "forkgate");
        let got = log.borrow().last().expect("a call").clone();
        assert!(
            got.body.ends_with(r#""params":{"_meta":{"traceparent":"00-x"},"name":"echo"}}"#),
            "{}",
            got.body
        );
        assert_eq!(got.header("mcp-method"), "");

        let body = format!(
            r#"{{"jsonrpc":"2.0","id":6,"method":"resources/read","params":{{"uri":"test://x","_meta":{{{META}}}}}}}"#
        );
        let response = bench.modern("resources/read", Some("test://x"), &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            text(response).await,
            format!(r#"{{"jsonrpc":"2.0","id":6,"error":{{"code":-32602,"message":"no","data":{ODD}}}}}"#)
        );
        assert_eq!(bench.outcomes(Outcome::RpcError), 1);
    });
}

#[test]
fn a_legacy_client_works_with_a_modern_upstream() {
    run(async {
        let (url, log) = upstream(|got| {
            let id = got.id();
            match got.rpc().as_str() {
                "resources/read" => Says::Json(400, format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no"}}}}"#)),
                "prompts/get" => Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required","requestState":"s"}}}}"#)),
                _ if got.body.contains("ask") => Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required","requestState":"s"}}}}"#)),
                _ => Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{ODD}],"structuredContent":[1]}}}}"#)),
            }
        })
        .await;
        let bench = bench(&url, UpstreamEra::Modern);
        let response = bench.legacy(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__ümlaut","_meta":{"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"k":1}}}"#).await;
        assert_eq!(
            text(response).await,
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{ODD}]}}}}"#)
        );
        let got = log.borrow().last().expect("a call").clone();
        assert_eq!(got.header("mcp-protocol-version"), "2026-07-28");
        assert_eq!(got.header("mcp-method"), "tools/call");
        assert_eq!(got.header("mcp-name"), "=?base64?w7xtbGF1dA==?=");
        let meta = &value(&got.body)["params"]["_meta"];
        assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], serde_json::json!({}));
        assert_eq!(
            (&meta["k"], &meta["io.modelcontextprotocol/protocolVersion"]),
            (&1.into(), &"2026-07-28".into())
        );

        let call = |method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
        };
        let response = bench.legacy(&call("resources/read", r#"{"uri":"test://x"}"#)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(value(&text(response).await)["error"]["code"], -32002);
        let asked = value(&text(bench.legacy(&call("tools/call", r#"{"name":"up__ask"}"#)).await).await);
        assert_eq!(asked["result"]["isError"], true);
        let asked = value(&text(bench.legacy(&call("prompts/get", r#"{"name":"up__p"}"#)).await).await);
        assert_eq!(asked["error"]["code"], -32603);
    });
}

#[test]
fn modern_to_modern_passes_input_required_and_its_retry_untouched() {
    run(async {
        let (url, log) = upstream(|got| {
            Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"resultType":"input_required","requestState":"\u0041=","inputRequests":{ODD}}}}}"#, got.id()))
        })
        .await;
        let bench = bench(&url, UpstreamEra::Modern);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{{"name":"up__echo","inputResponses":{ODD},"requestState":"\u0041=","_meta":{{{META}}}}}}}"#
        );
        let response = bench.modern("tools/call", Some("up__echo"), &body).await;
        assert_eq!(
            text(response).await,
            format!(
                r#"{{"jsonrpc":"2.0","id":"x","result":{{"resultType":"input_required","requestState":"\u0041=","inputRequests":{ODD}}}}}"#
            )
        );
        let got = log.borrow().last().expect("a call").clone();
        assert_eq!(got.body, body.replace(r#""x""#, &got.id()).replace("up__echo", "echo"));
    });
}

#[test]
fn an_answer_becomes_a_stream_only_when_there_is_something_before_the_response() {
    run(async {
        let (url, log) = upstream(legacy_script(|got| {
            let id = got.id();
            let response = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            if got.body.contains("quiet") {
                return Says::Events(vec![response]);
            }
            Says::Events(vec![
                r#"{"jsonrpc":"2.0","id":"u1","method":"ping"}"#.into(),
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":1e400,"x":1}}}}"#),
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":99999,"progress":1}}"#.into(),
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#.into(),
                r#"{"jsonrpc":"2.0","id":"u2","method":"sampling/createMessage","params":{}}"#.into(),
                response,
            ])
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = |name: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__{name}","_meta":{{"progressToken":"tok"}}}}}}"#
            )
        };
        let response = bench.legacy(&call("quiet")).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(text(response).await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);

        let response = bench.legacy(&call("loud")).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let stream: String = text(response).await.split(": keep-alive\n\n").collect();
        let want = [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tok","progress":1e400,"x":1}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ];
        assert_eq!(stream, want.map(|message| format!("event: message\ndata: {message}\n\n")).concat());
        let replies: Vec<Got> = log.borrow().iter().filter(|got| got.rpc().is_empty()).cloned().collect();
        assert_eq!(replies[0].body, r#"{"jsonrpc":"2.0","id":"u1","result":{}}"#);
        assert_eq!(value(&replies[1].body)["error"]["code"], -32601);

        let session = bench.session().await;
        let headers = [("mcp-session-id", &*session), ("accept", "application/json")];
        let response = bench.send("POST", &headers, &call("loud")).await;
        assert_eq!(response.headers()["content-type"], "application/json", "no stream for who takes none");
    });
}

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
            drain.lifecycle.drain();
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
        let offer = super::answers::Offer::of([&silent].into_iter(), true);
        assert!(!offer.serves("logging/setLevel") && offer.serves("tools/call"));
    });
}

#[test]
fn an_upstream_that_fails_is_named_and_counted() {
    run(async {
        let (url, log) = upstream(legacy_script(|got| match got.body.contains("hang") {
            true => Says::Hang,
            false => Says::Json(500, "secret stack trace".into()),
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = |name: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__{name}"}}}}"#)
        };
        let answer = value(&text(bench.legacy(&call("x")).await).await);
        assert_eq!(answer["error"]["code"], -32603);
        assert_eq!(answer["error"]["message"], "upstream up: it answered with HTTP status 500");
        let answer = event(&text(bench.legacy(&call("hang")).await).await);
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("in time")), "{answer}");
        assert_eq!((bench.outcomes(Outcome::Failed), bench.outcomes(Outcome::TimedOut)), (1, 1));
        while !log.borrow().iter().any(|got| got.rpc() == "notifications/cancelled") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn an_answer_that_makes_no_sense_is_not_passed_on() {
    for nonsense in [
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":77777,"result":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":"boom"}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":1},"result":{}}"#,
        r#"{"jsonrpc":"2.0"}"#,
        "<html>",
    ] {
        run(async {
            let (url, _) = upstream(legacy_script(move |_| Says::Json(200, nonsense.into()))).await;
            let bench = bench(&url, legacy_era());
            let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__x"}}"#;
            let answer = value(&text(bench.legacy(call).await).await);
            assert_eq!(
                (&answer["id"], &answer["error"]["code"]),
                (&1.into(), &(-32603).into()),
                "{nonsense}"
            );
            assert_eq!(bench.outcomes(Outcome::Failed), 1, "{nonsense}");
        });
    }
}

#[test]
fn a_modern_client_that_hangs_up_cancels_and_a_legacy_one_does_not() {
    run(async {
        let (url, log) = upstream(legacy_script(|_| Says::Hang)).await;
        let bench = bench(&url, legacy_era());
        let count = |what: &str| log.borrow().iter().filter(|got| got.rpc() == what).count();
        let wait_for = async |what: &str, n: usize| {
            while count(what) < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let legacy = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        tokio::select! {
            _ = bench.legacy(legacy) => panic!("the upstream hangs"),
            () = wait_for("tools/call", 1) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count("notifications/cancelled"), 0, "a disconnect is no cancellation");
        assert_eq!(bench.lifecycle().calls().describe_abandoned().len(), 1, "and a drain waits for it");
        let modern = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__echo","_meta":{{{META}}}}}}}"#
        );
        tokio::select! {
            _ = bench.modern("tools/call", Some("up__echo"), &modern) => panic!("the upstream hangs"),
            () = wait_for("tools/call", 2) => {}
        }
        wait_for("notifications/cancelled", 1).await;
    });
}

#[test]
fn a_session_that_cannot_be_opened_is_tried_once_for_all_who_wait() {
    run(async {
        let (url, log) = upstream(|got| match got.rpc().as_str() {
            "initialize" => Says::Hang,
            _ => Says::Json(404, String::new()),
        })
        .await;
        let bench = bench(&url, legacy_era());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        let (a, b, c) = tokio::join!(bench.legacy(call), bench.legacy(call), bench.legacy(call));
        for response in [a, b, c] {
            let answer = event(&text(response).await);
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            assert!(message.contains("did not answer initialize"), "{answer}");
            assert_eq!(answer["error"]["data"]["retrySafe"], true);
        }
        assert_eq!(log.borrow().iter().filter(|got| got.rpc() == "initialize").count(), 1);
    });
}

#[test]
fn a_silent_upstream_keeps_its_client_with_comments_in_both_eras() {
    run(async {
        let release: Rc<tokio::sync::Notify> = Rc::default();
        let held = Rc::clone(&release);
        let (url, log) = upstream(legacy_script(move |got| {
            let status = if got.body.contains("broken") { 500 } else { 200 };
            let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"late":1}}}}"#, got.id());
            Says::Held(Rc::clone(&held), status, text)
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = |name: &str, meta: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{{"name":"up__{name}"{meta}}}}}"#
            )
        };
        let meta = format!(r#","_meta":{{{META}}}"#);
        for name in ["fine", "broken"] {
            let legacy = bench.legacy(&call(name, "")).await;
            let modern = bench.modern("tools/call", Some(&format!("up__{name}")), &call(name, &meta)).await;
            while log.borrow().iter().filter(|got| got.body.contains(name)).count() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            release.notify_waiters();
            for response in [legacy, modern] {
                assert_eq!(
                    (response.status(), &response.headers()["content-type"]),
                    (StatusCode::OK, &http::HeaderValue::from_static("text/event-stream"))
                );
                let stream = text(response).await;
                assert!(stream.starts_with(": keep-alive\n\n"), "{stream}");
                let answer = event(&stream);
                assert_eq!((&answer["id"], answer["error"].is_object()), (&"c".into(), name == "broken"));
            }
        }
        let modern = bench.modern("tools/call", Some("up__left"), &call("left", &meta)).await;
        drop(modern);
        while !log.borrow().iter().any(|got| got.rpc() == "notifications/cancelled") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let session = bench.session().await;
        let headers = [("mcp-session-id", &*session), ("accept", "application/json")];
        let body = call("patient", "");
        let (response, ()) = tokio::join!(bench.send("POST", &headers, &body), async {
            while !log.borrow().iter().any(|got| got.body.contains("patient")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(2 * bench.settings.sse_keepalive_interval).await;
            release.notify_waiters();
        });
        assert_eq!(response.headers()["content-type"], "application/json");
    });
}

#[test]
fn a_stream_that_is_given_up_cancels_for_a_modern_client_only_and_always_ends_with_a_response() {
    run(async {
        let (url, log) = upstream(legacy_script(|got| {
            let id = got.id();
            Says::EventThenHang(format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":1}}}}"#
            ))
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let cancelled = || log.borrow().iter().filter(|got| got.rpc() == "notifications/cancelled").count();
        let modern = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__echo","_meta":{{"progressToken":1,{META}}}}}}}"#
        );
        let response = bench.modern("tools/call", Some("up__echo"), &modern).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        drop(response);
        while cancelled() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let legacy = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"up__echo","_meta":{"progressToken":1}}}"#;
        drop(bench.legacy(legacy).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(cancelled(), 1, "a disconnect is no cancellation");
        let stream = text(bench.legacy(legacy).await).await;
        let last = event(&stream);
        assert_eq!((&last["id"], &last["error"]["code"]), (&2.into(), &(-32603).into()), "{stream}");
    });
}

#[test]
fn an_upstream_that_changed_its_era_is_probed_anew() {
    run(async {
        let (url, _log) = upstream(legacy_script(|got| {
            if got.header("mcp-session-id").is_empty() {
                return Says::Json(
                    400,
                    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"not initialized"}}"#
                        .into(),
                );
            }
            Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"ok":1}}}}"#, got.id()))
        }))
        .await;
        let bench = bench(&url, UpstreamEra::Modern);
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        assert_eq!(value(&text(bench.legacy(call).await).await)["result"]["ok"], 1);
    });
}
