//! The row table is full: scaling is refused in words, service and recycling go on.

use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, wait};

pub const TESTS: &[Test] = &[Test {
    name: "full_row_table_refuses_scaling_and_serves_on",
    limit: Duration::from_secs(90),
    run: full,
}];

/// Slots beyond the configured number that the table has rows for.
const SPARE_SLOTS: u64 = 4;

fn full() -> Verdict {
    let gateway = Setup::new().workers(1).start();
    let _upstream = gateway.with_fast_upstream();
    let load =
        Load::start(Plan { streams: 2, ..Plan::mixed(gateway.address, gateway.federated(), "fast__echo") });
    let most = 1 + SPARE_SLOTS;
    for wanted in 2..=most {
        gateway.signal(Signal::SIGTTIN);
        wait::until_equal("the workers", START_LIMIT, wanted, || gateway.status().ready);
    }
    let quiet = gateway.log_text().len();
    for _ in 0..5 {
        gateway.signal(Signal::SIGTTIN);
        load.wait_for(20);
    }
    let refusal = wait::until("the refusal to be logged", START_LIMIT, || {
        let said = gateway.log_text()[quiet..].to_owned();
        said.lines()
            .find(|line| line.contains("row") || line.contains("TTIN") || line.contains("scale"))
            .map(str::to_owned)
    });
    note!("said: {refusal}");
    let status = gateway.wait_settled();
    assert_eq!((status.target, status.ready), (most, most));
    assert_eq!(process::children(gateway.pid()).len() as u64, most);
    assert_eq!(status.row_capacity, 10, "2 N + 8");
    // Every slot in use, and still each worker is replaced.
    gateway.reload();
    let status = gateway.wait_settled();
    assert_eq!(status.recycles.reload, most);
    for wanted in (1..most).rev() {
        gateway.signal(Signal::SIGTTOU);
        wait::until_equal("the workers", START_LIMIT, wanted, || gateway.wait_settled().ready);
    }
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    gateway.stop();
    Ok(())
}
