//! Recycling: by age; and hundreds of recycles leave no trace in the master: descriptors, memory, threads and children
//! stay flat.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, wait};

pub const TESTS: &[Test] = &[
    Test { name: "old_workers_are_replaced", limit: Duration::from_secs(60), run: old_workers },
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

#[derive(Debug)]
struct Measured {
    descriptors: usize,
    threads: usize,
    children: usize,
    private: u64,
}

/// Nobody is coming or going: what is there then, stays.
fn measure(gateway: &Gateway) -> Measured {
    gateway.wait_settled();
    wait::until_equal("the children", Duration::from_secs(30), 2, || process::children(gateway.pid()).len());
    let pid = gateway.pid();
    // The connection of the last `ctl status` may not be closed yet: the least of some looks is what stays.
    let mut looks = Vec::new();
    wait::until_true("some looks", Duration::from_secs(10), || {
        looks.push(process::descriptors(pid));
        looks.len() == 30
    });
    Measured {
        descriptors: looks.into_iter().min().expect("some looks"),
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
    assert_eq!(after.threads, before.threads);
    assert_eq!(after.children, before.children);
    assert!(after.private <= before.private + MEMORY_SLACK, "{} bytes more", after.private - before.private);
    gateway.stop();
    Ok(())
}
