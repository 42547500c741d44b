//! The mission's sentence in a real systemd: set the limits in the unit's environment file, `systemctl reload`, see the
//! new values rule and the recycles happen, under load, nothing lost.

use std::path::PathBuf;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, Status};
use forkgate_tests::http::{self, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::mcp::Endpoint;
use forkgate_tests::runner::{Test, current_test};
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::systemd::Systemd;
use forkgate_tests::{note, paths, token, wait};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[Test {
    name: "systemd_reload_applies_the_limits_and_loses_nothing",
    limit: Duration::from_secs(150),
    run: mission,
}];

const UNIT: &str = "forkgate.service";
const UPSTREAM_UNIT: &str = "upstream.service";
const PORT: u16 = 4444;
const UPSTREAM_PORT: u16 = 9100;

/// The words of the unit's `ExecStart=` and the env file that it names.
struct Unit {
    executable: String,
    env_file: String,
}

fn read_unit() -> Unit {
    let path = paths::root().join("systemd").join(UNIT);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line =
        text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("the unit has ExecStart=");
    let words: Vec<&str> = line.split_whitespace().collect();
    let env_file = words.iter().position(|word| *word == "--env-file").and_then(|at| words.get(at + 1));
    Unit {
        executable: words[0].to_owned(),
        env_file: (*env_file.expect("ExecStart= passes --env-file, so that a reload reads it again"))
            .to_owned(),
    }
}

fn env_text(max_requests: u64, jitter: u64) -> String {
    format!(
        "GATEWAY_JWT_SECRET={}\nSSRF_ALLOW_LOCALHOST=true\nGATEWAY_WORKERS=2\nGATEWAY_RECYCLE_MIN_INTERVAL=0.05\n\
         GATEWAY_STREAM_DRAIN=0.5\n\
         GATEWAY_MAX_REQUESTS={max_requests}\nGATEWAY_MAX_REQUESTS_JITTER={jitter}\n",
        token::SECRET
    )
}

struct Installed {
    systemd: Systemd,
    unit: Unit,
}

impl Installed {
    fn boot() -> Installed {
        let unit = read_unit();
        let directory = Systemd::directory(&current_test());
        let systemd = Systemd::boot(&directory, &[paths::root().join("systemd").join(UNIT)]);
        systemd.copy(&paths::forkgate(), &unit.executable);
        systemd.copy(&paths::fastup(), "/usr/local/bin/fastup");
        // What the unit's comments tell an administrator to do.
        systemd.must(&[
            "useradd",
            "--system",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            "forkgate",
        ]);
        systemd.write(&unit.env_file, &env_text(1_000_000, 0));
        systemd.must(&["chown", "root:forkgate", &unit.env_file]);
        systemd.must(&["chmod", "640", &unit.env_file]);
        systemd.write(
            &format!("/etc/systemd/system/{UPSTREAM_UNIT}"),
            &format!("[Service]\nExecStart=/usr/local/bin/fastup --listen 127.0.0.1:{UPSTREAM_PORT}\n"),
        );
        systemd.must(&["systemctl", "daemon-reload"]);
        systemd.must(&["systemctl", "start", UPSTREAM_UNIT]);
        Installed { systemd, unit }
    }

    fn exchange(&self, request: &Request) -> Result<http::Answer, http::Failure> {
        self.systemd.in_network(|| http::once(Systemd::address(PORT), request, EXCHANGE_LIMIT))
    }

    /// `ctl status --json`, as an administrator of the machine runs it.
    fn status(&self) -> Status {
        let state = self.systemd.property(UNIT, "StateDirectory");
        let file = format!("--env-file={}", self.unit.env_file);
        let state = format!("GATEWAY_STATE_DIR=/var/lib/{state}");
        let words = ["env", &state, &self.unit.executable, "ctl", "status", "--json", &file];
        let text = self.systemd.must(&words);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ctl status --json said {error}: {text}"))
    }

    /// A token, made inside with the unit's own settings.
    fn token(&self, more: &[&str]) -> String {
        let secret = format!("GATEWAY_JWT_SECRET={}", token::SECRET);
        let mut words =
            vec!["env", &secret, self.unit.executable.as_str(), "token", "create", "--sub", "tests"];
        words.extend_from_slice(more);
        self.systemd.must(&words).trim().to_owned()
    }

    fn register_upstream(&self) {
        let body = json!({"name": "fast", "url": format!("http://127.0.0.1:{UPSTREAM_PORT}/mcp")});
        let request =
            Request::new("POST", "/v1/gateways").token(&self.token(&["--admin"])).json(body.to_string());
        let answer = self.exchange(&request).expect("an answer");
        assert!(matches!(answer.status(), 200 | 201), "{} {}", answer.status(), answer.text());
    }
}

fn mission() -> Verdict {
    skip::systemd()?;
    let installed = Installed::boot();
    active_only_when_ready(&installed);
    installed.register_upstream();
    let endpoint = Endpoint { path: "/mcp".to_owned(), token: installed.token(&[]) };
    let plan = Plan {
        network: Some(installed.systemd.network()),
        ..Plan::mixed(Systemd::address(PORT), endpoint, "fast__echo")
    };
    let load = Load::start(plan);
    load.wait_for(500);
    let before = installed.status();
    assert_eq!(before.recycles.max_requests, 0, "a million requests are far away");

    installed.systemd.write(&installed.unit.env_file, &env_text(200, 40));
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
    installed.systemd.write(&installed.unit.env_file, &env_text(0, 0));
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
    assert!(said.contains('2'), "STATUS= says how many workers there are: {said:?}");
    stops_cleanly(&installed);
    Ok(())
}

/// Settings that are not valid: the administrator who asked is told, and the unit goes on as it was.
fn a_failed_reload_is_told(installed: &Installed) {
    let before = installed.status().settings_generation;
    installed.systemd.write(&installed.unit.env_file, &env_text(200, 40).replace("0.05", "soonish"));
    assert!(!installed.systemd.run(&["systemctl", "reload", UNIT]).status.success());
    assert_eq!(installed.systemd.property(UNIT, "ActiveState"), "active");
    let said = installed.systemd.property(UNIT, "StatusText");
    assert!(said.contains("reload refused: ") && said.contains("soonish"), "{said}");
    assert!(installed.systemd.journal().contains("soonish"), "the journal says it too");
    assert_eq!(installed.status().settings_generation, before);
}

/// `Type=notify`: whoever sees the unit active gets an answer at once, without trying twice.
fn active_only_when_ready(installed: &Installed) {
    installed.systemd.must(&["systemctl", "start", "--no-block", UNIT]);
    wait::until("the unit to be active", START_LIMIT, || {
        match installed.systemd.property(UNIT, "ActiveState").as_str() {
            "active" => Some(()),
            "failed" => panic!("the unit failed:\n{}", installed.systemd.journal()),
            _ => None,
        }
    });
    let answer = installed.exchange(&Request::new("GET", "/ready")).expect("an active unit answers");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(installed.status().ready, 2, "active means: the workers are ready");
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
