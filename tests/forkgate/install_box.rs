//! `forkgate install` on a machine that runs systemd: install, serve, reload, rotate logs, uninstall, nothing left.

use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT};
use forkgate_tests::http::{self, Request};
use forkgate_tests::runner::{Test, current_test};
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::systemd::Systemd;
use forkgate_tests::{note, paths, wait};
use serde_json::Value;

pub const TESTS: &[Test] = &[
    Test { name: "install_serves_and_uninstall_leaves_nothing", limit: LIMIT, run: system },
    Test { name: "install_for_one_user_serves_and_leaves_nothing", limit: LIMIT, run: user },
    Test { name: "journal_has_priorities_and_fields", limit: LIMIT, run: journal },
    Test { name: "logrotate_moves_the_log_and_it_is_opened_anew", limit: LIMIT, run: rotates },
    Test { name: "hardened_unit_is_tight_and_runs_npx", limit: LIMIT, run: hardened },
];

const LIMIT: Duration = Duration::from_secs(120);
const UNIT: &str = "forkgate.service";
const ENV: &str = "/etc/forkgate/forkgate.env";
const PORT: u16 = 4444;
/// The binary under test, where nothing is installed.
const PROGRAM: &str = "/opt/forkgate";
/// The highest score that the hardened variant may have in `systemd-analyze security`; less is tighter.
const HARDENED_SCORE: f64 = 2.0;

/// A booted system.
struct Host {
    systemd: Systemd,
}

impl Host {
    fn boot() -> Host {
        let systemd = Systemd::boot(&Systemd::directory(&current_test()), &[]);
        // The box does not see what lies in this machine's temporary directory.
        systemd.copy(&paths::forkgate(), PROGRAM);
        Host { systemd }
    }

    /// Runs the binary under test inside.
    #[track_caller]
    fn forkgate(&self, words: &[&str]) -> String {
        self.systemd.must(&[&[PROGRAM], words].concat())
    }

    /// Installs, with two workers and nobody to wait for at an end, and starts the service.
    fn install(&self, more: &[&str], settings: &str) {
        self.forkgate(&[&["install", "--system", "--yes"], more].concat());
        self.append(ENV, &format!("GATEWAY_WORKERS=2\nGATEWAY_STREAM_DRAIN=0.5\n{settings}"));
        self.systemd.must(&["systemctl", "enable", "--now", UNIT]);
    }

    fn append(&self, path: &str, text: &str) {
        self.systemd.must(&["sh", "-c", &format!("printf '%s' '{text}' >> {path}")]);
    }

    fn ready(&self) -> u16 {
        let request = Request::new("GET", "/ready");
        let answer = self.systemd.in_network(|| http::once(Systemd::address(PORT), &request, EXCHANGE_LIMIT));
        answer.expect("an active unit answers").status()
    }

    /// All that is in these directories, a line per name.
    fn names(&self) -> Vec<String> {
        const WHERE: &str = "/etc /usr/local /var/lib /var/log /var/cache /run /home /root";
        // What other services and the making of a user (its backups and lock) leave is no matter here.
        let find = format!(
            "find {WHERE} -xdev -regextype posix-extended \
            ! -regex '.*-|/etc/.pwd.lock|/run/systemd/.*|/run/(udev|user)/.*|/var/log/(journal|btmp|wtmp|lastlog).*|/var/lib/systemd/.*' \
            | sort"
        );
        self.systemd.must(&["sh", "-c", &find]).lines().map(str::to_owned).collect()
    }

    /// Entries of the journal that match.
    fn journal(&self, matches: &[&str]) -> Vec<Value> {
        let words = [&["journalctl", "--no-pager", "-o", "json"], matches].concat();
        let text = self.systemd.must(&words);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn system() -> Verdict {
    skip::systemd()?;
    let host = Host::boot();
    let before = host.names();
    host.install(&[], "");
    assert_eq!(host.ready(), 200);
    let owner = host.systemd.must(&["stat", "-c", "%a %U:%G", "/etc/forkgate", ENV]);
    assert_eq!(owner, "750 root:forkgate\n640 root:forkgate\n");
    assert_eq!(host.systemd.property(UNIT, "User"), "forkgate");
    let status = host.systemd.must(&["/usr/local/bin/forkgate", "ctl", "status"]);
    assert!(status.contains("serving"), "{status}");
    let health = host.systemd.must(&["/usr/local/bin/forkgate", "health", "--env-file", ENV]);
    assert_eq!(health, "ready\n");
    host.systemd.must(&["systemd-analyze", "verify", "/etc/systemd/system/forkgate.service"]);
    host.systemd.must(&["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/forkgate.conf"]);
    let secret = host.systemd.must(&["cat", ENV]);
    assert!(host.forkgate(&["install", "--system"]).contains("nothing to do"));
    host.append(ENV, "GATEWAY_MAX_REQUESTS=12345\n");
    host.systemd.must(&["systemctl", "reload", UNIT]);
    assert!(host.forkgate(&["install", "--system"]).contains("nothing to do"), "settings are yours");
    let now = host.systemd.must(&["cat", ENV]);
    assert_eq!(now, format!("{secret}GATEWAY_MAX_REQUESTS=12345\n"));

    let said = host.forkgate(&["uninstall", "--system", "--yes"]);
    assert!(said.contains("kept") && said.contains("--purge"), "{said}");
    assert_ne!(host.systemd.property(UNIT, "ActiveState"), "active");
    assert_eq!(host.systemd.property(UNIT, "LoadState"), "not-found");
    assert_eq!(host.systemd.must(&["cat", ENV]), now, "settings are kept");
    host.systemd.must(&["test", "-s", "/var/lib/forkgate/forkgate.db"]);

    host.forkgate(&["uninstall", "--system", "--yes", "--purge"]);
    assert_eq!(host.names(), before, "nothing is left");
    let user = host.systemd.run(&["getent", "passwd", "forkgate"]);
    assert_eq!(user.status.code(), Some(2), "{}", String::from_utf8_lossy(&user.stdout));
    assert!(host.forkgate(&["uninstall", "--system", "--yes", "--purge"]).contains("nothing to remove"));
    Ok(())
}

const USER: &str = "tester";

fn user() -> Verdict {
    skip::systemd()?;
    let host = Host::boot();
    host.systemd.must(&["useradd", "--create-home", "--shell", "/bin/sh", USER]);
    let uid = host.systemd.must(&["id", "-u", USER]).trim().to_owned();
    let runtime = format!("/run/user/{uid}");
    host.systemd.must(&["install", "-d", "-m", "700", "-o", USER, "-g", USER, &runtime]);
    // What a login would start.
    let variable = format!("--setenv=XDG_RUNTIME_DIR={runtime}");
    let manager = ["systemd-run", "--unit=manager", "--uid=tester", "-p", "Delegate=yes", &variable];
    host.systemd.must(&[&manager[..], &["/lib/systemd/systemd", "--user"]].concat());
    wait::until_true("the user's service manager", START_LIMIT, || {
        host.systemd.run(&["test", "-S", &format!("{runtime}/systemd/private")]).status.success()
    });
    let (runtime, id) = (format!("XDG_RUNTIME_DIR={runtime}"), format!("--reuid={uid}"));
    let as_user = [
        "setpriv",
        &id,
        &format!("--regid={uid}"),
        "--clear-groups",
        "env",
        "-i",
        "HOME=/home/tester",
        &runtime,
        "PATH=/usr/bin:/bin",
    ]
    .map(str::to_owned);
    let must = |words: &[&str]| {
        let all: Vec<&str> = as_user.iter().map(String::as_str).chain(words.iter().copied()).collect();
        host.systemd.must(&all)
    };
    let find = ["find", "/home/tester"];
    let before = must(&find);
    must(&[PROGRAM, "install", "--user", "--yes", "--now"]);
    assert_eq!(host.ready(), 200);
    let unit = "/home/tester/.config/systemd/user/forkgate.service";
    must(&["systemd-analyze", "--user", "verify", unit]);
    let mode = must(&["stat", "-c", "%a %U", "/home/tester/.config/forkgate/forkgate.env"]);
    assert_eq!(mode, "600 tester\n");
    must(&["systemctl", "--user", "reload", "forkgate"]);
    let status = must(&["/home/tester/.local/bin/forkgate", "ctl", "status"]);
    assert!(status.contains("serving"), "{status}");
    assert!(must(&[PROGRAM, "install", "--user"]).contains("nothing to do"));
    must(&[PROGRAM, "uninstall", "--user", "--yes"]);
    must(&["test", "-e", "/home/tester/.config/forkgate/forkgate.env"]);
    must(&[PROGRAM, "uninstall", "--user", "--yes", "--purge"]);
    // The manager's own directory of links may stay.
    let left = must(&find);
    let left: Vec<&str> = left.lines().filter(|name| !before.lines().any(|known| known == *name)).collect();
    assert!(!left.iter().any(|name| name.contains("forkgate") || name.ends_with("/bin")), "{left:?}");
    Ok(())
}

fn journal() -> Verdict {
    skip::systemd()?;
    let host = Host::boot();
    host.install(&[], "GATEWAY_LOG_LEVEL=debug\n");
    let of_slot = wait::until("a worker's entry", START_LIMIT, || {
        let entries = host.journal(&["-u", "forkgate", "FORKGATE_SLOT=1", "FORKGATE_ROLE=worker"]);
        (!entries.is_empty()).then_some(entries)
    });
    let main = host.systemd.property(UNIT, "MainPID");
    for entry in &of_slot {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "forkgate", "{entry}");
        assert!(entry["MESSAGE"].as_str().is_some_and(|text| text.starts_with("worker 1: ")), "{entry}");
        assert_ne!(entry["_PID"], Value::from(main.as_str()), "{entry}");
    }
    let of_master = host.journal(&["-u", "forkgate", "FORKGATE_ROLE=master"]);
    assert!(of_master.iter().all(|entry| entry["_PID"] == main.as_str()), "{of_master:?}");
    let about_slot = of_master.iter().filter(|entry| entry["FORKGATE_SLOT"] == "1").count();
    assert!(about_slot > 0, "what the master says of a slot is found by the slot: {of_master:?}");
    let errors = host.journal(&["-u", "forkgate", "-p", "err", "_COMM=forkgate"]);
    assert!(errors.is_empty(), "{errors:?}");

    host.append(ENV, "GATEWAY_WORKERS=many\n");
    assert!(!host.systemd.run(&["systemctl", "reload", UNIT]).status.success());
    let errors = host.journal(&["-u", "forkgate", "-p", "warning"]);
    let told = |entry: &Value| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("many"));
    assert!(errors.iter().any(told), "what went wrong has its priority: {errors:?}");
    Ok(())
}

const LOG: &str = "/var/log/forkgate/gateway.log";

fn rotates() -> Verdict {
    skip::systemd()?;
    skip::logrotate()?;
    let host = Host::boot();
    host.install(&[], &format!("GATEWAY_LOG_FILE={LOG}\n"));
    let size = |path: &str| host.systemd.run(&["test", "-s", path]).status.success();
    assert!(size(LOG), "lines go to the file");
    host.systemd.must(&["logrotate", "--force", "/etc/logrotate.d/forkgate"]);
    assert!(size(&format!("{LOG}.1")), "the file was moved");
    wait::until_true("the master to open it anew", START_LIMIT, || size(LOG));
    let owner = host.systemd.must(&["stat", "-c", "%U", LOG]);
    assert_eq!(owner, "forkgate\n");
    let open = || {
        let moved = format!("{LOG}.1");
        let script =
            format!("for pid in $(pgrep -x forkgate); do readlink /proc/$pid/fd/*; done | grep -c {moved}");
        let output = host.systemd.run(&["sh", "-c", &script]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    wait::until_true("nobody to write to the old file", START_LIMIT, || open() == "0");
    Ok(())
}

/// The number in the last line of `systemd-analyze security`.
fn score(host: &Host, unit: &[&str]) -> f64 {
    let text = host.systemd.must(&[&["systemd-analyze", "security", "--no-pager"], unit].concat());
    let line = text.lines().find(|line| line.contains("Overall exposure level")).expect("a score").to_owned();
    let number = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    number.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// What a child of the gateway may still do: run npx, have its code compiled, keep a cache, ask for addresses, connect.
const SERVER: &str = r#"#!/usr/bin/env node
let sum = 0; for (let n = 0; n < 3e7; n++) sum += n % 7;
const fs = require("fs"), os = require("os"), net = require("net");
fs.writeFileSync(process.env.npm_config_cache + "/kept", String(sum));
fs.writeFileSync(os.homedir() + "/kept", String(os.cpus().length));
console.log(Object.keys(os.networkInterfaces()).join());
const child = require("child_process").spawnSync("sh", ["-c", "exit 7"]);
const socket = net.connect(4444, "127.0.0.1", () => { socket.destroy(); process.exit(child.status === 7 ? 0 : 1); });
"#;
/// Over the gateway's own unit and its hardening: what runs instead of it.
const INSTEAD: &str = "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStartPre=\nExecReload=\nExecStart=\n\
    ExecStart=/usr/bin/env npx --yes --offline --package=/srv/hello.tgz hello\n";

fn hardened() -> Verdict {
    skip::systemd()?;
    skip::npx()?;
    let host = Host::boot();
    host.install(&["--hardened"], "");
    assert_eq!(host.ready(), 200);
    let tight = score(&host, &[UNIT]);
    let unit = paths::root().join("systemd").join(UNIT);
    // Under another name, for the drop-in is found by the name.
    host.systemd.copy(&unit, "/srv/plain.service");
    let plain = score(&host, &["--offline=true", "/srv/plain.service"]);
    note!("systemd-analyze security: {plain} as it is, {tight} hardened");
    assert!(tight <= HARDENED_SCORE && tight < plain, "{tight}");
    host.systemd.must(&["systemd-analyze", "verify", "/etc/systemd/system/forkgate.service"]);
    host.append(ENV, "GATEWAY_MAX_REQUESTS=4321\n");
    host.systemd.must(&["systemctl", "reload", UNIT]);

    host.systemd.write(
        "/srv/hello/package.json",
        r#"{"name": "hello", "version": "1.0.0", "bin": {"hello": "hello.js"}}"#,
    );
    host.systemd.write("/srv/hello/hello.js", SERVER);
    host.systemd.must(&["tar", "-C", "/srv", "-czf", "/srv/hello.tgz", "hello"]);
    let (system, child) = ("/etc/systemd/system", "child.service");
    host.systemd.must(&["cp", &format!("{system}/{UNIT}"), &format!("{system}/{child}")]);
    host.systemd.must(&["cp", "-r", &format!("{system}/{UNIT}.d"), &format!("{system}/{child}.d")]);
    host.systemd.write(&format!("{system}/{child}.d/instead.conf"), INSTEAD);
    host.systemd.must(&["systemctl", "daemon-reload"]);
    host.systemd.must(&["systemctl", "start", child]);
    host.systemd.must(&["test", "-s", "/var/cache/forkgate/npm/kept"]);
    host.systemd.must(&["test", "-s", "/var/lib/forkgate/kept"]);
    host.systemd.must(&["systemctl", "stop", UNIT]);
    assert_eq!(host.systemd.property(UNIT, "Result"), "success");
    Ok(())
}
