//! Calls whose clients hung up are bounded.

use std::time::Duration;

use http::StatusCode;

use super::bench::*;
use crate::lifecycle::calls::MOST_ABANDONED;
use crate::protocol::Ground;

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
