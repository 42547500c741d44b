//! Recycling: by age; and hundreds of recycles leave no trace in the master: descriptors, memory, memory files, threads and
//! children stay flat, and nobody waits to be reaped.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, Setup};
use forkgate_tests::http::Connection;
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::raw::{Plays, Raw, result_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[
    Test { name: "old_workers_are_replaced", limit: Duration::from_secs(60), run: old_workers },
    Test {
        name: "a_call_whose_client_hung_up_is_waited_for",
        limit: Duration::from_secs(60),
        run: abandoned_call,
    },
    Test {
        name: "a_worker_that_gets_term_is_replaced",
        limit: Duration::from_secs(60),
        run: term_to_a_worker,
    },
    Test { name: "recycles_leave_no_trace_in_the_master", limit: Duration::from_secs(180), run: no_trace },
];

/// Recycles before the first measurement: allocators and caches have their working size then.
const WARM: u64 = 40;
/// How much private memory may differ: pages that an allocator happens to keep.
const MEMORY_SLACK: u64 = 1 << 20;
/// How long the abandoned call takes: longer than a reload that waits for nothing.
const SLOW: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Measured {
    descriptors: usize,
    memory_files: usize,
    threads: usize,
    children: usize,
    private: u64,
}

/// Nobody is coming or going: what is there then, stays.
fn measure(gateway: &Gateway) -> Measured {
    gateway.wait_settled();
    wait::until_equal("the children", Duration::from_secs(30), 2, || process::children(gateway.pid()).len());
    let pid = gateway.pid();
    wait::until_true("everybody to be reaped", Duration::from_secs(30), || process::zombies(pid).is_empty());
    // The connection of the last `ctl status` may not be closed yet: the least of some looks is what stays.
    let mut looks = Vec::new();
    wait::until_true("some looks", Duration::from_secs(10), || {
        looks.push(process::descriptors(pid));
        looks.len() == 30
    });
    Measured {
        descriptors: looks.into_iter().min().expect("some looks"),
        memory_files: process::memory_files(pid),
        threads: process::threads(pid),
        children: process::children(pid).len(),
        private: process::private_bytes(pid),
    }
}

fn recycle(gateway: &Gateway, more: u64) {
    let wanted = gateway.status().recycles.max_requests + more;
    let load =
        Load::start(Plan { streams: 0, ..Plan::mixed(gateway.address, gateway.federated(), "fast__echo") });
    wait::until_true(&format!("{more} recycles"), Duration::from_secs(1200), || {
        gateway.status().recycles.max_requests >= wanted || load.lost() > 0
    });
    load.stop().assert_nothing_lost();
}

fn old_workers() -> Verdict {
    let gateway =
        Setup::new().set("GATEWAY_WORKER_LIFETIME", "1s").set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.1").start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    let first: Vec<u32> = gateway.status().workers.iter().map(|worker| worker.pid).collect();
    let status = wait::until("every first worker to be replaced", Duration::from_secs(30), || {
        Some(gateway.status()).filter(|now| now.workers.iter().all(|worker| !first.contains(&worker.pid)))
    });
    load.stop().assert_nothing_lost();
    assert!(status.recycles.age >= 2 && status.crashes == 0, "{status:?}");
    gateway.stop();
    Ok(())
}

/// A legacy client that hangs up has cancelled nothing, and a reload does not do it for him: the upstream's connection is
/// still there when the answer is.
fn abandoned_call() -> Verdict {
    let gateway = Setup::new().start();
    let heard = Arc::new(Mutex::new(None));
    let told = Arc::clone(&heard);
    let upstream = Raw::start(Plays::Legacy, move |request, stream| {
        std::thread::sleep(SLOW);
        stream.set_nonblocking(true)?;
        let gone = matches!(stream.peek(&mut [0]), Ok(0));
        stream.set_nonblocking(false)?;
        *told.lock().expect("no thread panics with the lock") = Some(!gone);
        stream.write_all(&result_answer(request, r#"{"content":[]}"#))
    });
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let endpoint = gateway.federated();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    connection.send(&endpoint.legacy_call(&session, 1, "raw__odd", &json!({}))).expect("sent");
    wait::until_equal("the call to arrive", EXCHANGE_LIMIT, 1, || upstream.requests("tools/call").len());
    drop(connection);
    gateway.reload();
    assert_eq!(*heard.lock().expect("no thread panics with the lock"), Some(true), "the upstream was heard");
    gateway.stop();
    Ok(())
}

/// Twice, so that the interval, an hour long, would show if it held for an operator.
fn term_to_a_worker() -> Verdict {
    let gateway = Setup::new().set("GATEWAY_RECYCLE_MIN_INTERVAL", "1h").start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    for round in 1..=2 {
        load.wait_for(500);
        let asked = gateway.wait_settled().workers[0].pid;
        assert!(process::signal(asked, Signal::SIGTERM), "worker {asked} is there");
        wait::until_equal("the replacement", Duration::from_secs(20), round, || {
            gateway.status().recycles.operator
        });
        wait::until_true("the old worker to leave", Duration::from_secs(20), || !process::alive(asked));
    }
    load.stop().assert_nothing_lost();
    let status = gateway.wait_settled();
    assert_eq!((status.crashes, status.recycles.operator), (0, 2), "{status:?}");
    gateway.stop();
    Ok(())
}

fn no_trace() -> Verdict {
    let gateway = Setup::new()
        .set("GATEWAY_MAX_REQUESTS", "30")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "10")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.01")
        .start();
    let _upstream = gateway.with_fast_upstream();
    recycle(&gateway, WARM);
    let before = measure(&gateway);
    recycle(&gateway, if paths::soaking() { 3000 } else { 300 });
    let after = measure(&gateway);
    note!("after {WARM} recycles {before:?}");
    note!("after {} recycles {after:?}", gateway.status().recycles.max_requests);
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.memory_files, before.memory_files);
    assert_eq!(after.threads, before.threads);
    assert_eq!(after.children, before.children);
    assert!(after.private <= before.private + MEMORY_SLACK, "{} bytes more", after.private - before.private);
    gateway.stop();
    Ok(())
}
