//! Both servers against a scripted upstream: what goes out, what comes back, byte for byte.

mod abandoned;
mod bench;
mod failures;
mod last_words;
mod noted;
mod rules;

use std::rc::Rc;

use forkgate_shared::rows::Outcome;

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
