//! A storm of TTIN and TTOU, nobody waiting for anything: the number of workers ends where the signals left it, and no
//! client noticed, neither that slots came nor that they went.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, Setup, Status};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, wait};
use rand::RngExt;

pub const TESTS: &[Test] =
    &[Test { name: "storm_of_ttin_and_ttou_loses_nothing", limit: Duration::from_secs(180), run: storm }];

const WORKERS: u64 = 2;
/// Four more than configured are the most.
const MOST: u64 = WORKERS + 4;
/// Slots go one at a time, each within some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn bursts() -> usize {
    if paths::soaking() { 60 } else { 5 }
}

/// Signals until so many are meant to be there: those of one kind that arrive together may count as one.
fn aim(gateway: &Gateway, signal: Signal, wanted: u64) {
    wait::until_true("the number of workers that is aimed at", PATIENCE, || {
        let there = gateway.status().target == wanted;
        if !there {
            gateway.signal(signal);
        }
        there
    });
}

/// Waits until there are as many workers, slots and processes as are meant to be there.
fn settled(gateway: &Gateway, wanted: u64) -> Status {
    let port = gateway.address.port();
    wait::until(&format!("{wanted} workers and as many slots"), PATIENCE, || {
        let status = gateway.status();
        let slots = process::listening(port).len() as u64;
        let children = process::children(gateway.pid()).len() as u64;
        (status.is_settled() && (status.target, slots, children) == (wanted, wanted, wanted))
            .then_some(status)
    })
}

fn storm() -> Verdict {
    let gateway = Setup::new().workers(WORKERS as usize).start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    let mut sent = 0;
    for _ in 0..bursts() {
        for _ in 0..rand::rng().random_range(4..16) {
            gateway.signal(if rand::random() { Signal::SIGTTIN } else { Signal::SIGTTOU });
            sent += 1;
        }
        load.wait_for(60);
        let status = gateway.status();
        assert!((1..=MOST).contains(&status.target), "{status:?}");
        assert!(status.ready >= 1, "{status:?}");
    }
    // From wherever that ended: up, all the way down, and up and down before that is through.
    let up = if paths::soaking() { MOST } else { 4 };
    let way = if gateway.status().target > up { Signal::SIGTTOU } else { Signal::SIGTTIN };
    aim(&gateway, way, up);
    settled(&gateway, up);
    aim(&gateway, Signal::SIGTTOU, 1);
    settled(&gateway, 1);
    aim(&gateway, Signal::SIGTTIN, MOST);
    aim(&gateway, Signal::SIGTTOU, 2);
    aim(&gateway, Signal::SIGTTIN, 3);
    let status = settled(&gateway, 3);
    let report = load.stop();
    note!("{sent} signals in bursts: {report}");
    report.assert_nothing_lost();
    assert_eq!((status.crashes, status.kills.values().sum::<u64>()), (0, 0), "{status:?}");
    gateway.reload();
    gateway.drain();
    Ok(())
}
