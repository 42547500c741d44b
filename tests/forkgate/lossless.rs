//! The promise: no client notices that workers are replaced. Three kinds of clients, workers recycled every ~200
//! requests, ten SIGHUPs, TTIN and TTOU in turns, with 1, 2 and 4 workers.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::Signal;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, wait};

const LIMIT: Duration = Duration::from_secs(150);

pub const TESTS: &[Test] = &[
    Test { name: "lossless_with_1_worker", limit: LIMIT, run: || nothing_lost(1) },
    Test { name: "lossless_with_2_workers", limit: LIMIT, run: || nothing_lost(2) },
    Test { name: "lossless_with_4_workers", limit: LIMIT, run: || nothing_lost(4) },
];

/// Recycles by request count to see before the other phases begin.
fn recycles() -> u64 {
    if paths::soaking() { 400 } else { 15 }
}

/// SIGHUPs.
fn reloads() -> usize {
    if paths::soaking() { 60 } else { 10 }
}

/// Changes of the number of workers.
fn scalings() -> usize {
    if paths::soaking() { 60 } else { 6 }
}

fn nothing_lost(workers: usize) -> Verdict {
    let gateway = Setup::new()
        .workers(workers)
        .set("GATEWAY_MAX_REQUESTS", "200")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "40")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.05")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    wait::until_true("workers to be recycled under load", LIMIT, || {
        gateway.status().recycles.max_requests >= recycles() || load.lost() > 0
    });
    for _ in 0..reloads() {
        reload_under_load(&gateway);
        load.wait_for(50);
    }
    for turn in 0..scalings() {
        // Down first where there is a worker to spare, so that both directions start from the configured number.
        let down = (turn % 2 == 0) == (workers > 1);
        scale_under_load(&gateway, if down { Signal::SIGTTOU } else { Signal::SIGTTIN });
        load.wait_for(50);
    }
    let status = gateway.status();
    let report = load.stop();
    note!("{workers} workers: {report}");
    note!(
        "{} recycles by requests, {} by reload, {} changes of the number of workers, {} crashes",
        status.recycles.max_requests,
        status.recycles.reload,
        scalings(),
        status.crashes
    );
    report.assert_nothing_lost();
    assert_eq!(status.crashes, 0);
    assert!(report.fresh > 100 && report.keep_alive > 100 && report.streams_opened > 6, "{report}");
    gateway.drain();
    Ok(())
}

/// HUP, and every worker of the old settings is gone; workers may be recycled meanwhile, so nothing ever settles.
fn reload_under_load(gateway: &Gateway) {
    let before = gateway.status().settings_generation;
    gateway.signal(Signal::SIGHUP);
    wait::until_true("the reload to be through", START_LIMIT, || {
        let status = gateway.status();
        status.settings_generation > before
            && status.ready >= status.target
            && status.serving().all(|worker| worker.settings_generation == status.settings_generation)
    });
}

fn scale_under_load(gateway: &Gateway, signal: Signal) {
    let before = gateway.status().target;
    let wanted = if signal == Signal::SIGTTIN { before + 1 } else { before - 1 };
    gateway.signal(signal);
    wait::until_true("the change of the number of workers", START_LIMIT, || {
        let status = gateway.status();
        let slots: std::collections::BTreeSet<u32> =
            status.workers.iter().map(|worker| worker.slot).collect();
        status.target == wanted && status.ready >= wanted && slots.len() as u64 == wanted
    });
}
