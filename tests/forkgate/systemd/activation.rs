//! Socket activation: systemd listens, and the service starts when somebody comes.

use std::time::Duration;

use forkgate_tests::http::Request;
use forkgate_tests::load::Load;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::sockets::{self, Which};
use forkgate_tests::{note, paths};

use super::{Installed, UNIT, env_text};

pub const TESTS: &[Test] = &[Test {
    name: "systemd_socket_activation_loses_nothing",
    limit: Duration::from_secs(120),
    run: activation,
}];

const SOCKET_UNIT: &str = "forkgate.socket";
/// A socket unit that the settings know nothing of.
const STRAY_UNIT: &str = "stray.socket";
const STRAY_PORT: u16 = 4999;

fn activation() -> Verdict {
    skip::systemd()?;
    let installed = Installed::boot(&env_text(3));
    let systemd = &installed.systemd;
    let example = paths::root().join("systemd/examples").join(SOCKET_UNIT);
    systemd.copy(&example, &format!("/etc/systemd/system/{SOCKET_UNIT}"));
    let stray = format!("[Socket]\nListenStream=127.0.0.1:{STRAY_PORT}\nService={UNIT}\n");
    systemd.write(&format!("/etc/systemd/system/{STRAY_UNIT}"), &stray);
    systemd.must(&["systemctl", "daemon-reload"]);
    systemd.must(&["systemctl", "start", SOCKET_UNIT, STRAY_UNIT]);
    assert_eq!(systemd.property(UNIT, "ActiveState"), "inactive");

    // The first client starts it, and is answered.
    let answer =
        installed.exchange(&Request::new("GET", "/ready")).expect("the first client waits and is served");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let status = installed.settled();
    assert!(status.addresses.iter().any(|address| address.contains("of a socket unit")), "{status:?}");
    a_stray_is_closed(&installed);

    installed.register_upstream();
    let load = Load::start(installed.plan());
    load.wait_for(200);
    for verb in ["restart", "reload"] {
        systemd.must(&["systemctl", verb, UNIT]);
        load.wait_for(200);
    }
    let before = installed.main_pid();
    installed.signal_master("KILL");
    installed.another_master(before);
    load.wait_for(200);
    let report = load.stop();
    note!("restart, reload and kill -9 of an activated service: {report}");
    report.assert_nothing_lost();

    // The kernel cannot choose among workers that share a socket, and the unit's socket is not ours to give up.
    let paused = systemd.run(&[
        "env",
        "GATEWAY_STATE_DIR=/var/lib/forkgate",
        &installed.unit.executable,
        "ctl",
        "pause",
        "0",
    ]);
    assert!(!paused.status.success(), "{}", String::from_utf8_lossy(&paused.stdout));
    installed.set(&format!("{}GATEWAY_BIND=127.0.0.1:4446\n", env_text(3)));
    assert!(!systemd.run(&["systemctl", "reload", UNIT]).status.success());
    let said = systemd.property(UNIT, "StatusText");
    assert!(said.contains("a socket unit listens"), "{said}");
    let answer = installed.exchange(&Request::new("GET", "/ready")).expect("it goes on");
    assert_eq!(answer.status(), 200);
    Ok(())
}

/// The master has no copy of a socket that is not its own; the log says so.
fn a_stray_is_closed(installed: &Installed) {
    let stray = installed.systemd.in_network(|| sockets::of_port(STRAY_PORT, Which::Listening));
    let name = format!("socket:[{}]", stray.first().expect("systemd listens there").inode);
    let open = installed.systemd.must(&["ls", "-l", &format!("/proc/{}/fd", installed.main_pid())]);
    assert!(!open.contains(&name), "{open}");
    assert!(installed.systemd.journal().contains("listens at no address of the settings"));
}
