//! Time limits of systemd: the watchdog, and how long a stop may take.

use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT};
use forkgate_tests::http::Connection;
use forkgate_tests::load::Load;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::systemd::Systemd;
use forkgate_tests::{note, wait};
use serde_json::json;

use super::{Installed, PORT, UNIT, env_text};

pub const TESTS: &[Test] = &[
    Test {
        name: "systemd_watchdog_replaces_a_master_that_stands_still",
        limit: Duration::from_secs(120),
        run: watchdog,
    },
    Test {
        name: "systemd_stop_may_take_as_long_as_the_settings_say",
        limit: Duration::from_secs(90),
        run: long_stop,
    },
];

fn watchdog() -> Verdict {
    skip::systemd()?;
    let installed = Installed::boot(&env_text(2));
    installed.drop_in("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n");
    installed.start();
    installed.register_upstream();
    let load = Load::start(installed.plan());
    let mut signs = installed.systemd.property(UNIT, "WatchdogTimestampMonotonic");
    for _ in 0..4 {
        signs = wait::until("the master to give signs of life under load", START_LIMIT, || {
            Some(installed.systemd.property(UNIT, "WatchdogTimestampMonotonic")).filter(|at| *at != signs)
        });
    }
    assert_eq!(installed.systemd.property(UNIT, "NRestarts"), "0");
    let before = installed.main_pid();
    installed.signal_master("STOP");
    installed.another_master(before);
    load.wait_for(300);
    let report = load.stop();
    note!(
        "the watchdog replaced a stopped master; {} answers took over 0.5 s; {report}",
        report.slow_answers
    );
    report.assert_nothing_lost();
    assert_eq!(installed.systemd.property(UNIT, "NRestarts"), "1");
    assert!(installed.systemd.journal().contains("Watchdog timeout"), "it was systemd's watchdog");
    Ok(())
}

/// A call that takes longer than `TimeoutStopSec=` is finished, because the master asks for more time while it may.
fn long_stop() -> Verdict {
    skip::systemd()?;
    let installed = Installed::boot(&env_text(1));
    installed.drop_in("[Service]\nTimeoutStopSec=2\n");
    installed.start();
    installed.register_upstream();
    let mut slow = installed
        .systemd
        .in_network(|| Connection::open(Systemd::address(PORT), EXCHANGE_LIMIT).expect("a connection"));
    slow.send(&installed.endpoint().call(1, "fast__sleep", &json!({"ms": 5000}))).expect("sent");
    wait::until_equal("the call to be in flight", EXCHANGE_LIMIT, 1, || {
        installed.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    installed.systemd.must(&["systemctl", "stop", UNIT]);
    assert_eq!(installed.systemd.property(UNIT, "Result"), "success", "nobody lost patience");
    let head = slow.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
    assert_eq!(head.status, 200);
    Ok(())
}
