//! Upstreams that fail, hang, change or talk nonsense; clients that leave.

use std::rc::Rc;
use std::time::Duration;

use forkgate_shared::rows::Outcome;
use http::StatusCode;

use super::bench::*;
use super::*;

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
