//! What is noted of a request: what metrics count it as, and what a crash report would show of it.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::{METHODS, RequestEra, RequestOutcome};
use tokio::sync::Notify;

use super::bench::*;
use super::*;
use crate::observe::note::RequestEnd;

/// Counts the newest request as the edge does; what it was counted as.
fn counted(bench: &Bench, status: u16) -> (RequestEra, &'static str, RequestOutcome) {
    let cells = || {
        [RequestEra::None, RequestEra::Legacy, RequestEra::Modern].into_iter().flat_map(|era| {
            (0..METHODS.len()).flat_map(move |method| {
                use RequestOutcome::*;
                [Ok, RpcError, Refused, Failed, Abandoned].map(|outcome| (era, method, outcome))
            })
        })
    };
    let counters = &bench.rows.row(0).counters;
    let read = |(era, method, outcome)| counters.requests_by.cell(era, method, outcome).load(Relaxed);
    let before: Vec<u64> = cells().map(read).collect();
    bench.note.borrow().count(RequestEnd::Answered(status), Some(1_000_000));
    let changed: Vec<_> = cells().zip(before).filter(|(cell, before)| read(*cell) != *before).collect();
    let [((era, method, outcome), _)] = changed[..] else { panic!("one cell changes: {changed:?}") };
    (era, METHODS[method], outcome)
}

#[test]
fn requests_are_counted_as_what_they_were_and_what_became_of_them() {
    run(async {
        let (url, _) = upstream(legacy_script(|got| {
            let id = got.id();
            match got.rpc().as_str() {
                _ if got.body.contains("down") => Says::Json(500, String::new()),
                "prompts/get" => Says::Json(
                    200,
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no"}}}}"#),
                ),
                "resources/read" => Says::Events(vec![
                    r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#
                        .into(),
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"no"}}}}"#),
                ]),
                _ => Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)),
            }
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let request = |method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
        };
        use RequestOutcome::{Ok, RpcError};
        for (method, params, outcome) in [
            ("ping", "{}", Ok),
            ("tools/list", "{}", Ok),
            ("tools/call", r#"{"name":"up__echo"}"#, Ok),
            ("tools/call", r#"{"name":"up__down"}"#, RpcError),
            ("tools/call", r#"{"name":"nobody"}"#, RpcError),
            ("prompts/get", r#"{"name":"up__p"}"#, RpcError),
            // Told in the middle of a stream whose status is 200.
            ("resources/read", r#"{"uri":"test://x"}"#, RpcError),
        ] {
            let response = bench.legacy(&request(method, params)).await;
            let status = response.status().as_u16();
            text(response).await;
            assert_eq!(counted(&bench, status), (RequestEra::Legacy, method, outcome), "{params}");
        }
        text(bench.legacy(&request("no/such", "{}")).await).await;
        assert_eq!(counted(&bench, 200), (RequestEra::Legacy, "other", RpcError));
        text(bench.legacy(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await).await;
        assert_eq!(counted(&bench, 202), (RequestEra::Legacy, "notification", Ok));
        text(bench.send("POST", &[], "no JSON").await).await;
        assert_eq!(counted(&bench, 400), (RequestEra::Legacy, "other", RequestOutcome::Refused));
        let session = bench.session().await;
        assert_eq!(counted(&bench, 200), (RequestEra::Legacy, "initialize", Ok));
        text(bench.send("DELETE", &[("mcp-session-id", &session)], "").await).await;
        assert_eq!(counted(&bench, 200), (RequestEra::Legacy, "end_session", Ok));
        let discover = format!(
            r#"{{"jsonrpc":"2.0","id":5,"method":"server/discover","params":{{"_meta":{{{META}}}}}}}"#
        );
        text(bench.modern("server/discover", None, &discover).await).await;
        assert_eq!(counted(&bench, 200), (RequestEra::Modern, "server/discover", Ok));
    });
}

#[test]
fn a_call_in_flight_says_what_for_whom_with_whom_and_in_which_task() {
    run(async {
        let release = Rc::new(Notify::new());
        let held = Rc::clone(&release);
        let (url, log) = upstream(legacy_script(move |got| {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id());
            Says::Held(Rc::clone(&held), 200, answer)
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo","arguments":{"password":"hunter2"}}}"#;
        let look = async {
            while !log.borrow().iter().any(|got| got.rpc() == "tools/call") {
                tokio::task::yield_now().await;
            }
            let entry = &bench.rows.row(0).in_flight_ring[0];
            assert_eq!((entry.method.get(), entry.object.get()), ("tools/call".into(), "up__echo".into()));
            assert_eq!(entry.upstream.load(Relaxed), bench.entry.index as u64);
            assert!(!format!("{entry:?}").contains("hunter2"));
            release.notify_one();
        };
        let (response, ()) = tokio::join!(bench.legacy(call), look);
        assert_eq!(response.status(), 200);
    });
}

#[test]
fn an_upstreams_time_is_counted_and_no_part_of_ours() {
    run(async {
        let (url, _) = upstream(legacy_script(|got| match got.body.contains("hang") {
            true => Says::Hang,
            false => Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id())),
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = |name: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__{name}"}}}}"#)
        };
        let counters = &bench.rows.row(0).counters;
        let timed = |histogram: &forkgate_shared::rows::Histogram| {
            histogram.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum::<u64>()
        };
        text(bench.legacy(&call("echo")).await).await;
        bench.note.borrow().count(RequestEnd::Answered(200), Some(u64::MAX / 2));
        let took = counters.upstream_time.0[0].sum_ns.load(Relaxed);
        let own = counters.own_time.sum_ns.load(Relaxed);
        assert!(took > 0 && u64::MAX / 2 - own >= took, "the session's opening was theirs too");
        assert_eq!((timed(&counters.upstream_time.0[0]), timed(&counters.own_time)), (1, 1));
        // Nobody knows how long an upstream had what it never answered.
        text(bench.legacy(&call("hang")).await).await;
        bench.note.borrow().count(RequestEnd::Answered(200), Some(1));
        assert_eq!((timed(&counters.upstream_time.0[0]), timed(&counters.own_time)), (1, 1));
        assert_eq!(bench.rows.row(0).counters.upstream.0[0][Outcome::TimedOut as usize].load(Relaxed), 1);
    });
}

#[test]
fn open_connections_are_counted_until_they_are_closed() {
    run(async {
        let (url, _) = upstream(legacy_script(|got| {
            Says::Json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id()))
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        let open = || bench.rows.row(0).upstream_connections.0[0].load(Relaxed);
        text(bench.legacy(call).await).await;
        assert_eq!(open(), 1);
        bench.upstreams.close().await;
        while open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn every_message_of_an_upstream_is_work_once_and_keepalives_are_none() {
    let registry = std::sync::Arc::new(task::Registry::new());
    task::install(std::sync::Arc::clone(&registry));
    run(async {
        let (url, _) = upstream(legacy_script(|got| {
            let event =
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
            match got.body.contains("forever") {
                true => Says::EventThenHang(event.into()),
                false => Says::Events(vec![
                    event.into(),
                    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id()),
                ]),
            }
        }))
        .await;
        let bench = bench(&url, legacy_era());
        let call = |name: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__{name}"}}}}"#)
        };
        let before = registry.work();
        text(bench.legacy(&call("echo")).await).await;
        assert_eq!(registry.work() - before, 2, "one event and the response");
        let before = registry.work();
        let stream = text(bench.legacy(&call("forever")).await).await;
        assert!(stream.contains(": keep-alive"), "{stream}");
        assert_eq!(registry.work() - before, 1, "one event");
    });
}

#[test]
fn what_an_upstream_sends_and_nobody_is_told_of_is_work_too() {
    const FLOOD: usize = 5000;
    let registry = std::sync::Arc::new(task::Registry::new());
    task::install(std::sync::Arc::clone(&registry));
    run(async {
        let (url, _) = upstream(|got| {
            let event =
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
            let response = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, got.id());
            let flood = std::iter::repeat_n(event.to_owned(), FLOOD);
            Says::Events(flood.chain([response]).collect())
        })
        .await;
        let bench = bench(&url, UpstreamEra::Modern);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{{"_meta":{{{META}}},"name":"up__echo"}}}}"#
        );
        let (work, bytes) = (registry.work(), registry.bytes_received());
        let response = bench.modern("tools/call", Some("up__echo"), &body).await;
        let told = text(response).await;
        assert!(!told.contains("notifications/message"), "the client asked for no log");
        assert_eq!(registry.work() - work, FLOOD as u64 + 1);
        let bytes = registry.bytes_received() - bytes;
        assert!(bytes > 80 * FLOOD as u64, "{bytes} bytes read");
    });
}
