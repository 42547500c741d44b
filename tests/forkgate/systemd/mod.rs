//! forkgate in a real systemd: the unit of this repository, in a box of its own.

pub mod activation;
pub mod mission;
pub mod store;
pub mod time;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, Status};
use forkgate_tests::http::{self, Request};
use forkgate_tests::load::Plan;
use forkgate_tests::mcp::Endpoint;
use forkgate_tests::runner::current_test;
use forkgate_tests::systemd::Systemd;
use forkgate_tests::{paths, token, wait};
use serde_json::json;

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

/// Settings of a gateway with so many workers.
fn env_text(workers: usize) -> String {
    format!(
        "GATEWAY_JWT_SECRET={}\nSSRF_ALLOW_LOCALHOST=true\nGATEWAY_WORKERS={workers}\nGATEWAY_RECYCLE_MIN_INTERVAL=0.05\n\
         GATEWAY_STREAM_DRAIN=0.5\n",
        token::SECRET
    )
}

struct Installed {
    systemd: Systemd,
    unit: Unit,
}

impl Installed {
    /// A box with the unit installed and the upstream running; nothing of forkgate runs.
    fn boot(settings: &str) -> Installed {
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
        systemd.write(&unit.env_file, settings);
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

    /// The same, active, with the upstream registered.
    fn serving(settings: &str) -> Installed {
        let installed = Installed::boot(settings);
        installed.start();
        installed.register_upstream();
        installed
    }

    /// Starts the unit and waits until it is active.
    fn start(&self) {
        self.systemd.must(&["systemctl", "start", "--no-block", UNIT]);
        wait::until("the unit to be active", START_LIMIT, || {
            match self.systemd.property(UNIT, "ActiveState").as_str() {
                "active" => Some(()),
                "failed" => panic!("the unit failed:\n{}", self.systemd.journal()),
                _ => None,
            }
        });
    }

    /// Changes the settings, without telling anybody.
    fn set(&self, settings: &str) {
        self.systemd.write(&self.unit.env_file, settings);
    }

    /// Adds to the unit.
    fn drop_in(&self, text: &str) {
        self.systemd.write(&format!("/etc/systemd/system/{UNIT}.d/test.conf"), text);
        self.systemd.must(&["systemctl", "daemon-reload"]);
    }

    /// The master's pid in the box; 0 while there is none.
    fn main_pid(&self) -> u32 {
        self.systemd.property(UNIT, "MainPID").parse().expect("a pid")
    }

    /// Sends the master a signal.
    fn signal_master(&self, signal: &str) {
        self.systemd.must(&["systemctl", "kill", "-s", signal, "--kill-whom=main", UNIT]);
    }

    /// Waits for another master than `before`, with all its workers.
    fn another_master(&self, before: u32) -> Status {
        wait::until_true("systemd to start another master", START_LIMIT, || {
            let main = self.main_pid();
            main != 0 && main != before && self.systemd.property(UNIT, "ActiveState") == "active"
        });
        self.settled()
    }

    fn settled(&self) -> Status {
        wait::until("all workers to be ready, and none on its way", START_LIMIT * 2, || {
            Some(self.status()).filter(Status::is_settled)
        })
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { path: "/mcp".to_owned(), token: self.token(&[]) }
    }

    /// All kinds of clients, within the box.
    fn plan(&self) -> Plan {
        let network = Some(self.systemd.network());
        Plan { network, ..Plan::mixed(Systemd::address(PORT), self.endpoint(), "fast__echo") }
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
