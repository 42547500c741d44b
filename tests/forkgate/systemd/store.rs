//! Sockets outlive their master: systemd keeps them and gives them to the next one, with whoever waits in them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT};
use forkgate_tests::http::Connection;
use forkgate_tests::load::{Load, Report};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::sockets::{self, Which};
use forkgate_tests::systemd::Systemd;
use forkgate_tests::{note, wait};
use serde_json::json;

use super::{Installed, PORT, UNIT, env_text};

pub const TESTS: &[Test] = &[
    Test { name: "systemd_kill_9_of_the_master_loses_nothing", limit: Duration::from_secs(120), run: kill_9 },
    Test { name: "systemd_restart_loses_nothing", limit: Duration::from_secs(120), run: restart },
];

/// A unix socket beside the port; systemd gives the state directory to forkgate's user.
const PATH: &str = "/var/lib/forkgate/http.sock";
/// Where the gateway moves to in the end.
const OTHER_PORT: u16 = 4446;
/// How long the call takes that is under way when the master is killed.
const SLOW_MS: u64 = 6000;

fn settings(workers: usize, port: u16) -> String {
    format!("{}GATEWAY_BIND=127.0.0.1:{port},unix:{PATH}\n", env_text(workers))
}

/// The sockets that listen at a port, by their numbers.
fn listening(installed: &Installed, port: u16) -> BTreeSet<u64> {
    let sockets = installed.systemd.in_network(|| sockets::of_port(port, Which::Listening));
    sockets.into_iter().map(|socket| socket.inode).collect()
}

fn stored(installed: &Installed) -> String {
    installed.systemd.property(UNIT, "NFileDescriptorStore")
}

fn assert_answers_at_the_path(installed: &Installed) {
    let said = installed.systemd.must(&["curl", "-sf", "--unix-socket", PATH, "http://localhost/ready"]);
    assert!(!said.is_empty(), "a client of the unix socket");
}

/// Kills the master under load; what clients saw until the next one had all its workers.
fn kill_under_load(installed: &Installed, what: &str) -> Report {
    let load = Load::start(installed.plan());
    load.wait_for(300);
    let before = installed.main_pid();
    let killed = Instant::now();
    installed.signal_master("KILL");
    installed.another_master(before);
    let took = killed.elapsed();
    load.wait_for(300);
    let report = load.stop();
    note!(
        "{what}: settled {took:.1?} after the kill, {} answers took over 0.5 s; {report}",
        report.slow_answers
    );
    report.assert_nothing_lost();
    report
}

fn kill_9() -> Verdict {
    skip::systemd()?;
    let installed = Installed::serving(&settings(3, PORT));
    installed.settled();
    let sockets = listening(&installed, PORT);
    assert_eq!(
        (sockets.len(), stored(&installed).as_str()),
        (3, "5"),
        "one per slot, the unix socket, the admin port"
    );
    nothing_for_the_manager_reaches_workers(&installed);

    let mut slow = installed
        .systemd
        .in_network(|| Connection::open(Systemd::address(PORT), EXCHANGE_LIMIT).expect("a connection"));
    slow.send(&installed.endpoint().call(7, "fast__sleep", &json!({"ms": SLOW_MS}))).expect("sent");
    wait::until_equal("the call to be in flight", EXCHANGE_LIMIT, 1, || {
        installed.status().workers.iter().map(|worker| worker.in_flight).sum()
    });
    kill_under_load(&installed, "kill -9");
    assert_eq!(listening(&installed, PORT), sockets, "the very same sockets");
    let head = slow.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
    assert_eq!(head.status, 200);
    assert_eq!(installed.systemd.property(UNIT, "NRestarts"), "1");
    assert_answers_at_the_path(&installed);

    // One slot fewer: who waits in its queue is served, then it goes, from the store too.
    installed.set(&settings(2, PORT));
    let before = installed.main_pid();
    let load = Load::start(installed.plan());
    installed.signal_master("KILL");
    installed.another_master(before);
    wait::until_equal("the third slot to be gone", START_LIMIT, (2, "4".to_owned()), || {
        (listening(&installed, PORT).len(), stored(&installed))
    });
    load.wait_for(300);
    let report = load.stop();
    note!("kill -9 and one slot fewer: {report}");
    report.assert_nothing_lost();
    assert!(listening(&installed, PORT).is_subset(&sockets));

    // Another address: the sockets of the old one fit nothing any more.
    installed.set(&settings(2, OTHER_PORT));
    installed.systemd.must(&["systemctl", "restart", UNIT]);
    assert_eq!((listening(&installed, PORT).len(), listening(&installed, OTHER_PORT).len()), (0, 2));
    wait::until_equal("the store to follow", START_LIMIT, "4".to_owned(), || stored(&installed));
    assert!(installed.systemd.journal().contains("fits no address of the settings"));
    assert_answers_at_the_path(&installed);

    installed.systemd.must(&["systemctl", "stop", UNIT]);
    assert_eq!(stored(&installed), "0", "an orderly stop is the end of the store");
    assert!(listening(&installed, OTHER_PORT).is_empty());
    Ok(())
}

/// What systemd tells the master by its environment is not for others.
fn nothing_for_the_manager_reaches_workers(installed: &Installed) {
    for worker in installed.status().workers {
        let environment = installed.systemd.must(&["cat", &format!("/proc/{}/environ", worker.pid)]);
        let names: BTreeSet<&str> =
            environment.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
        assert!(names.contains("PATH"), "it is readable: {names:?}");
        let told = |name: &&&str| {
            ["NOTIFY_", "WATCHDOG_", "LISTEN_", "FDSTORE"].iter().any(|start| name.starts_with(start))
        };
        assert_eq!(names.iter().find(told), None, "worker {}", worker.slot);
    }
}

fn restart() -> Verdict {
    skip::systemd()?;
    let installed = Installed::serving(&settings(2, PORT));
    let sockets = listening(&installed, PORT);
    let load = Load::start(installed.plan());
    load.wait_for(300);
    let began = Instant::now();
    installed.systemd.must(&["systemctl", "restart", UNIT]);
    let took = began.elapsed();
    load.wait_for(300);
    let report = load.stop();
    note!("systemctl restart: {took:.1?}, {} answers took over 0.5 s; {report}", report.slow_answers);
    report.assert_nothing_lost();
    assert_eq!(listening(&installed, PORT), sockets, "the very same sockets");
    assert_answers_at_the_path(&installed);
    Ok(())
}
