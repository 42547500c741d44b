//! The upstream over real connections, in both eras.

use super::upstream::{MODERN, bind, serve};
use super::*;

/// Runs a test against an upstream that serves.
fn with_upstream<F: Future>(body: impl FnOnce(Client) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async {
        let (url, listener) = bind().await.expect("bind");
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp")).expect("url");
        let client = Client::new(address.parse().expect("address"), String::new());
        task::spawn("test upstream", serve(listener));
        body(client).await;
    });
}

async fn modern(client: &Client, method: &str, name: Option<&str>, mut params: Value) -> Answer {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", method)];
    headers.extend(name.map(|name| ("mcp-name", name)));
    client.request(Method::POST, "/mcp", &headers, Some(&body)).await.expect("an answer")
}

#[test]
fn a_modern_client_is_served_without_a_session() {
    with_upstream(|client| async move {
        let discovered = modern(&client, "server/discover", None, json!({})).await;
        assert_eq!(discovered.json["result"]["supportedVersions"], json!([MODERN]));
        assert_eq!(discovered.json["result"]["cacheScope"], "public");
        let called = modern(
            &client,
            "tools/call",
            Some("echo"),
            json!({ "name": "echo", "arguments": { "message": "ö" } }),
        )
        .await;
        assert_eq!(called.json["result"]["content"][0]["text"], "ö");
        assert_eq!(called.json["result"]["resultType"], "complete");
        let unknown = modern(&client, "tasks/list", None, json!({})).await;
        assert_eq!((unknown.status, &unknown.json["error"]["code"]), (StatusCode::NOT_FOUND, &json!(-32601)));
        let mismatch = modern(&client, "tools/call", Some("add"), json!({ "name": "echo" })).await;
        assert_eq!(
            (mismatch.status, &mismatch.json["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!(-32020))
        );
        let encoded = modern(&client, "tools/call", Some("=?base64?bm93?="), json!({ "name": "now" })).await;
        assert_eq!(encoded.status, StatusCode::OK);
    });
}

#[test]
fn a_countdown_streams_progress_and_then_the_answer() {
    with_upstream(|client| async move {
        let params =
            json!({ "name": "countdown", "arguments": { "from": 2 }, "_meta": { "progressToken": 7 } });
        let answer = modern(&client, "tools/call", Some("countdown"), params).await;
        assert_eq!(answer.text.matches("notifications/progress").count(), 2, "{}", answer.text);
        assert_eq!(answer.json["result"]["content"][0]["text"], "Counted down from 2.");
    });
}

#[test]
fn a_legacy_client_needs_a_session_and_may_end_it() {
    with_upstream(|client| async move {
        let post = async |headers: &[(&'static str, &str)], method: &str| {
            let body = json!({ "jsonrpc": "2.0", "id": 2, "method": method, "params": { "protocolVersion": "2025-06-18" } });
            client.request(Method::POST, "/mcp", headers, Some(&body)).await.expect("an answer")
        };
        assert_eq!(post(&[], "tools/list").await.status, StatusCode::BAD_REQUEST);
        let opened = post(&[], "initialize").await;
        assert_eq!(opened.json["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(post(&[("mcp-session-id", "nobody's")], "tools/list").await.status, StatusCode::NOT_FOUND);
        let future = post(&[("mcp-protocol-version", "2030-01-01")], "tools/list").await;
        assert_eq!(future.json["error"]["code"], -32022);
    });
}
