//! The mission's sentence in a real systemd: set the limits in the unit's environment file, `systemctl reload`, see the
//! new values rule and the recycles happen, under load, nothing lost.

use std::path::PathBuf;
use std::time::Duration;

use forkgate_tests::gateway::START_LIMIT;
use forkgate_tests::http::Request;
use forkgate_tests::load::Load;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::{note, paths, wait};
use serde_json::Value;

use super::{Installed, UNIT, env_text};

pub const TESTS: &[Test] = &[Test {
    name: "systemd_reload_applies_the_limits_and_loses_nothing",
    limit: Duration::from_secs(150),
    run: mission,
}];

/// Recycles by count of requests, or none.
fn settings(max_requests: u64, jitter: u64) -> String {
    let limits = format!("GATEWAY_MAX_REQUESTS={max_requests}\nGATEWAY_MAX_REQUESTS_JITTER={jitter}\n");
    env_text(2) + &limits
}

fn mission() -> Verdict {
    skip::systemd()?;
    let installed = Installed::boot(&settings(1_000_000, 0));
    active_only_when_ready(&installed);
    installed.register_upstream();
    let load = Load::start(installed.plan());
    load.wait_for(500);
    let before = installed.status();
    assert_eq!(before.recycles.max_requests, 0, "a million requests are far away");

    installed.set(&settings(200, 40));
    let before_reload = installed.status().settings_generation;
    installed.systemd.must(&["systemctl", "reload", UNIT]);
    let reloaded = installed.status();
    assert_eq!(
        reloaded.settings_generation,
        before_reload + 1,
        "`systemctl reload` returned when it was done"
    );
    let after = wait::until("the new limits to rule and recycles to happen", START_LIMIT * 2, || {
        Some(installed.status()).filter(|status| status.recycles.max_requests >= 10)
    });
    let limits: Vec<u64> = after.serving().map(|worker| worker.request_limit).collect();
    assert!(limits.iter().all(|limit| (200..=240).contains(limit)), "{limits:?}");
    assert_eq!(after.recycles.reload, 2, "the reload replaced both workers");

    a_failed_reload_is_told(&installed);
    // The way back, so that nothing is left half changed.
    installed.set(&settings(0, 0));
    installed.systemd.must(&["systemctl", "reload", UNIT]);
    wait::until_true("the limits to be off", START_LIMIT, || {
        let status = installed.status();
        status.is_settled() && status.workers.iter().all(|worker| worker.request_limit == 0)
    });
    upgrades(&installed);
    let report = load.stop();
    note!("{} recycles after `systemctl reload`; {report}", after.recycles.max_requests);
    report.assert_nothing_lost();
    assert_eq!(installed.systemd.property(UNIT, "ActiveState"), "active");
    assert_eq!(installed.systemd.property(UNIT, "NRestarts"), "0");
    let said = installed.systemd.property(UNIT, "StatusText");
    note!("systemctl status says: {said}");
    assert!(said.starts_with("2/2 ready, settings generation "), "STATUS= is a sentence: {said:?}");
    stops_cleanly(&installed);
    Ok(())
}

/// Settings that are not valid: the administrator who asked is told, and the unit goes on as it was.
fn a_failed_reload_is_told(installed: &Installed) {
    let before = installed.status().settings_generation;
    installed.set(&settings(200, 40).replace("0.05", "soonish"));
    assert!(!installed.systemd.run(&["systemctl", "reload", UNIT]).status.success());
    assert_eq!(installed.systemd.property(UNIT, "ActiveState"), "active");
    let said = installed.systemd.property(UNIT, "StatusText");
    assert!(said.contains("reload refused: ") && said.contains("soonish"), "{said}");
    assert!(installed.systemd.journal().contains("soonish"), "the journal says it too");
    assert_eq!(installed.status().settings_generation, before);
}

/// `Type=notify`: whoever sees the unit active gets an answer at once, without trying twice.
fn active_only_when_ready(installed: &Installed) {
    installed.start();
    let answer = installed.exchange(&Request::new("GET", "/ready")).expect("an active unit answers");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(installed.status().ready >= 1, "active means: half of the workers are ready");
}

/// A package puts another file in the place of the running program; the unit stays what it is.
fn upgrades(installed: &Installed) {
    let executable = &installed.unit.executable;
    let main = installed.systemd.property(UNIT, "MainPID");
    installed.systemd.copy(&paths::forkgate(), &format!("{executable}.new"));
    installed.systemd.must(&["mv", &format!("{executable}.new"), executable]);
    installed.systemd.must(&["systemctl", "kill", "-s", "USR2", "--kill-whom=main", UNIT]);
    let status = wait::until("the upgrade to be done", START_LIMIT * 2, || {
        Some(installed.status()).filter(|status| status.recycles.upgrade >= 2 && status.state == "serving")
    });
    assert_eq!((status.upgrades, status.crashes), (1, 0), "{status:?}");
    assert_eq!(installed.systemd.property(UNIT, "MainPID"), main);
    assert_eq!(installed.systemd.property(UNIT, "ActiveState"), "active");
    let link = installed.systemd.must(&["readlink", &format!("/proc/{main}/exe")]);
    assert_eq!(link.trim(), executable, "the new file, not the one that was removed");
}

fn stops_cleanly(installed: &Installed) {
    let main: Value =
        installed.systemd.property(UNIT, "MainPID").parse::<u64>().map(Value::from).expect("a pid");
    installed.systemd.must(&["systemctl", "stop", UNIT]);
    assert_eq!(installed.systemd.property(UNIT, "ActiveState"), "inactive", "pid {main}");
    assert_eq!(installed.systemd.property(UNIT, "Result"), "success");
    let executable = PathBuf::from(&installed.unit.executable);
    let name = executable.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let left = String::from_utf8_lossy(&installed.systemd.run(&["pgrep", "-x", &name]).stdout).into_owned();
    assert!(left.trim().is_empty(), "left after `systemctl stop`: {left}");
}
