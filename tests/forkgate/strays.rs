//! Children that the master did not start: it reaps them and thinks no more of them, whatever their exit code.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::wait;

pub const TESTS: &[Test] = &[
    Test {
        name: "children_that_the_master_did_not_start_are_reaped",
        limit: Duration::from_secs(60),
        run: inherited,
    },
    Test { name: "process_1_reaps_what_others_leave", limit: Duration::from_secs(60), run: process_1 },
];

/// A shell with children, which becomes what it is told to: its children are the new program's, which knows none of them.
/// Some end at once, some with the code of a worker that cannot start, one by a signal.
const BECOME: &str = r#"(exit 3) & (exit 4) & (sleep 0.5; exit 3) & (sleep 1; exec sh -c 'kill -9 $$') & (sleep 1.5; exit 0) & exec "$@""#;
/// Leaves a child behind that will end with the code of a worker that cannot start.
const LEAVE: &str = "(sleep 0.2; exit 3) & exit 0";
const LEFT: usize = 20;

fn serving(gateway: &Gateway) -> Vec<u32> {
    gateway.status().workers.iter().map(|worker| worker.pid).collect()
}

/// Only the workers are left, and nobody waits to be reaped.
fn wait_alone(gateway: &Gateway, workers: usize) {
    wait::until_true("all strays to be reaped", START_LIMIT, || {
        process::children(gateway.pid()).len() == workers && process::zombies(gateway.pid()).is_empty()
    });
}

fn inherited() -> Verdict {
    let gateway = Setup::new().through(&["sh", "-c", BECOME, "sh"]).start();
    let before = serving(&gateway);
    wait_alone(&gateway, before.len());
    let status = gateway.wait_settled();
    assert_eq!((serving(&gateway), status.crashes), (before, 0), "{status:?}");
    gateway.reload();
    gateway.drain();
    Ok(())
}

/// As in a container without an init: orphans of the whole namespace become the master's children.
fn process_1() -> Verdict {
    skip::process_namespace()?;
    let gateway = Setup::new().as_init(&[]).start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let before = process::children(gateway.pid());
    let master = gateway.pid().to_string();
    for _ in 0..LEFT {
        let mut enter = std::process::Command::new("nsenter");
        let left = enter.args(["--target", &master, "--pid", "sh", "-c", LEAVE]).status();
        assert!(left.expect("nsenter starts").success(), "a process enters the namespace");
    }
    wait_alone(&gateway, before.len());
    gateway.reload();
    wait_alone(&gateway, before.len());
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    assert_eq!(gateway.wait_settled().crashes, 0);
    gateway.drain();
    Ok(())
}
