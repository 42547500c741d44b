//! What a worker cannot do without ends, and everything else in it goes on: its watchdog, the loop that accepts. It serves
//! well, or looks as if it did; it is replaced.

use std::time::Duration;

use forkgate_tests::crash_report::{self, Cause};
use forkgate_tests::fault::Victim;
use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Lost, Plan};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{process, wait};

use crate::watchdog_spares::impatient;

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "watchdog_that_is_dead_costs_its_worker_the_life", limit: LIMIT, run: dead_watchdog },
    Test {
        name: "worker_that_accepts_nobody_is_replaced_without_a_kill",
        limit: LIMIT,
        run: dead_accept_loop,
    },
];

fn light(gateway: &Gateway) -> Load {
    Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"))
}

/// Nobody looks at its loop any more: the master sees that, and has nobody to ask what goes on inside.
fn dead_watchdog() -> Verdict {
    let gateway = impatient(Setup::with_faults()).start();
    let _upstream = gateway.with_fast_upstream();
    let load = light(&gateway);
    // Some seconds, so that the row has a past.
    load.wait_for(8);
    let victim = Victim::harm(&gateway, "watchdog-dead", "", "fast__echo");
    let file = wait::until("the report", START_LIMIT, || crash_report::of(&gateway, victim.pid).pop());
    let cause = Cause::Verdict { verdict: "silent".to_owned(), enforced: true };
    assert_eq!((&file.report.cause, file.mode), (&cause, 0o600));
    assert!(file.report.inside.is_none(), "who told that? {:#?}", file.report.inside);
    assert!(!file.report.evidence.is_empty(), "what it saw before it died stands in the row");
    wait::until_true("the worker to be gone", START_LIMIT, || !process::alive(victim.pid));
    let status = gateway.wait_settled();
    let kills: Vec<(&str, u64)> =
        status.kills.iter().filter(|kill| *kill.1 > 0).map(|kill| (kill.0.as_str(), *kill.1)).collect();
    assert_eq!((kills, status.crashes), (vec![("silent", 1)], 0), "{status:?}");
    load.wait_for(6);
    let report = load.stop();
    let unexplained: Vec<&Lost> = report.errors.iter().filter(|lost| !victim.explains(lost)).collect();
    assert!(unexplained.is_empty(), "lost on connections of others: {unexplained:#?}");
    drop(victim);
    gateway.stop();
    Ok(())
}

/// Who waits in its accept queue is served by the next one.
fn dead_accept_loop() -> Verdict {
    let gateway = impatient(Setup::with_faults()).start();
    let _upstream = gateway.with_fast_upstream();
    let load = light(&gateway);
    let victim = Victim::harm(&gateway, "accept-dead", "", "fast__echo");
    wait::until_true("the worker to be gone", START_LIMIT, || !process::alive(victim.pid));
    let status = gateway.wait_settled();
    assert_eq!((status.recycles.essential_task, status.crashes), (1, 0), "{status:?}");
    assert!(status.kills.values().all(|&count| count == 0), "{status:?}");
    assert!(crash_report::all(&gateway).is_empty(), "nobody died, nobody is reported");
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    drop(victim);
    gateway.stop();
    Ok(())
}
