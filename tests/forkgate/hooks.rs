//! Hooks: each is run when it should be and is told what `docs/hooks.md` says; none of them can hold up the gateway.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::http::Request;
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "hooks_are_told_what_happened", limit: LIMIT, run: told },
    Test { name: "hooks_are_processes_of_their_own", limit: LIMIT, run: of_their_own },
    Test { name: "hooks_that_hang_fail_or_shout_hold_up_nobody", limit: LIMIT, run: bad_ones },
    Test { name: "hooks_run_four_at_a_time_and_wait_in_order", limit: LIMIT, run: at_once },
    Test { name: "hooks_go_on_over_an_upgrade", limit: LIMIT, run: over_an_upgrade },
];

/// Writes down what it is told.
const RECORDER: &str = "read -r told; printf '%s\\n' \"$told\" >>\"$1\"";
/// Waits for somebody, then does.
const PATIENT: &str = "read -r told; while [ ! -e \"$1.go\" ]; do sleep 0.05; done; printf '%s\\n' \"$told\" >>\"$1\"; echo done";
const HOOKS: [&str; 5] = ["ON_READY", "ON_RELOAD", "WORKER_READY", "WORKER_EXIT", "WORKER_KILLED"];

/// A script in the test's directory.
fn script(setup: &Setup, name: &str, text: &str) -> PathBuf {
    let path = setup.directory().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("the test's directory is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn record(setup: &Setup) -> PathBuf {
    setup.directory().join("record")
}

fn setting(hook: &str) -> String {
    format!("GATEWAY_HOOK_{hook}")
}

/// A command of a script and the record.
fn command(setup: &Setup, script: &Path) -> String {
    format!("{} '{}'", script.display(), record(setup).display())
}

/// What was written down so far.
fn recorded(setup: &Setup) -> Vec<Value> {
    let text = std::fs::read_to_string(record(setup)).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(line).collect()
}

/// Waits until something like it is written down.
#[track_caller]
fn wait_for(gateway: &Gateway, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, START_LIMIT, || recorded(&gateway.setup).into_iter().find(|told| is_it(told)))
}

fn told() -> Verdict {
    let mut setup = Setup::new().set("GATEWAY_GRACEFUL_TIMEOUT", "2");
    let recorder = script(&setup, "recorder", RECORDER);
    for hook in HOOKS {
        let command = command(&setup, &recorder);
        setup = setup.set(&setting(hook), command);
    }
    let mut gateway = setup.start();
    let (master, state_dir) = (gateway.pid(), gateway.setup.state_dir());
    let ready = wait_for(&gateway, "on_ready", |told| told["hook"] == "on_ready");
    assert_eq!(ready["workers"], 2, "{ready}");
    assert_eq!(ready["addresses"], json!([gateway.address.to_string()]), "{ready}");
    for field in ["version", "time", "forkgate", "took_ms"] {
        assert!(!ready[field].is_null(), "{field} of {ready}");
    }
    assert_eq!((&ready["master_pid"], &ready["state_dir"]), (&json!(master), &json!(state_dir)), "{ready}");
    for worker in gateway.status().serving() {
        wait_for(&gateway, "worker_ready", |told| {
            told["hook"] == "worker_ready"
                && (&told["slot"], &told["pid"], &told["generation"])
                    == (&json!(worker.slot), &json!(worker.pid), &json!(worker.generation))
        });
    }

    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "4711")]);
    gateway.reload();
    let done = wait_for(&gateway, "on_reload", |told| told["hook"] == "on_reload");
    assert_eq!(
        (&done["ok"], &done["error"], &done["settings_generation"]),
        (&json!(true), &Value::Null, &json!(2))
    );
    let changes = done["changes"].as_array().expect("a list");
    assert!(
        changes.iter().any(|change| change["name"] == "GATEWAY_MAX_REQUESTS" && change["new"] == "4711"),
        "{done}"
    );
    gateway.reload_with(&[("GATEWAY_MAX_REQUESTS", "many")]);
    let refused = wait_for(&gateway, "the refusal", |told| told["ok"] == false);
    assert!(
        refused["error"].as_str().is_some_and(|error| error.contains("GATEWAY_MAX_REQUESTS=many")),
        "{refused}"
    );
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "4711")]);

    let victim = gateway.wait_settled().workers[0].clone();
    process::signal(victim.pid, Signal::SIGKILL);
    let crash =
        wait_for(&gateway, "worker_exit", |told| told["pid"] == victim.pid && told["hook"] == "worker_exit");
    assert_eq!(
        [&crash["reason"], &crash["signal"], &crash["exit_code"], &crash["oom"], &crash["how"]],
        [&json!("crash"), &json!(9), &Value::Null, &json!(false), &json!("signal SIGKILL")],
        "{crash}"
    );

    // One that stands still cannot drain, and is killed for it.
    let stopped = gateway.wait_settled().workers[0].pid;
    process::signal(stopped, Signal::SIGSTOP);
    gateway.signal(Signal::SIGHUP);
    let killed = wait_for(&gateway, "worker_killed", |told| told["hook"] == "worker_killed");
    assert_eq!((&killed["pid"], &killed["reason"]), (&json!(stopped), &json!("drain")), "{killed}");
    let end = wait_for(&gateway, "its end", |told| told["pid"] == stopped && told["hook"] == "worker_exit");
    assert_eq!((&end["reason"], &end["signal"]), (&json!("killed"), &json!(9)), "{end}");

    let last: Vec<u32> = gateway.wait_settled().workers.iter().map(|worker| worker.pid).collect();
    let setup = gateway.setup.clone();
    gateway.drain();
    let told = recorded(&setup);
    for pid in last {
        let exit = told.iter().find(|told| told["pid"] == pid && told["hook"] == "worker_exit");
        let exit =
            exit.unwrap_or_else(|| panic!("the end of {pid} was told before the master left: {told:#?}"));
        assert_eq!((&exit["reason"], &exit["exit_code"]), (&json!("asked"), &json!(0)), "{exit}");
    }
    Ok(())
}

/// Says what it was started with.
const NAKED: &str = "echo group $(ps -o pgid= -p $$) $$; echo secret ${GATEWAY_JWT_SECRET-none}; \
                     echo hook $FORKGATE_HOOK of $GATEWAY_STATE_DIR; ls /proc/$$/fd | tr '\\n' ' '; echo; echo aloud >&2; \
                     cat";

fn of_their_own() -> Verdict {
    let setup = Setup::new();
    let naked = script(&setup, "naked", NAKED);
    let setup = setup.set("GATEWAY_HOOK_ON_READY", format!("{}", naked.display()));
    let state_dir = setup.state_dir();
    let gateway = setup.start();
    let says = |text: &str| {
        gateway.log_text().lines().any(|line| line.contains(text) && line.contains("hook=on_ready"))
    };
    wait::until_true("what it is told, in the log", START_LIMIT, || says("\"hook\":\"on_ready\""));
    for text in [
        "secret none",
        &format!("hook on_ready of {}", state_dir.display()),
        // The shell holds its script under a number of its own, which is 10 or more.
        "0 1 10 2",
        "aloud",
    ] {
        assert!(says(text), "no line says {text:?}:\n{}", gateway.log_text());
    }
    let log = gateway.log_text();
    let group = log.lines().find(|line| line.contains(": group ")).expect("its group");
    let ids: Vec<&str> = group.split(": group ").nth(1).expect("ids").split(' ').take(2).collect();
    assert_eq!(ids[0], ids[1], "a group of its own: {group}");
    gateway.stop();
    Ok(())
}

fn bad_ones() -> Verdict {
    let setup = Setup::new();
    let hang = script(&setup, "hang", "sleep 600 & echo $! >\"$1\"; sleep 600");
    let fail = script(&setup, "fail", "exit 3");
    let shout = script(&setup, "shout", "yes aloud | head -c 400000; echo the end");
    let gone = script(&setup, "gone", "true");
    let hanging = command(&setup, &hang);
    let gateway = setup
        .set("GATEWAY_HOOK_ON_READY", hanging.clone())
        .set("GATEWAY_HOOK_WORKER_READY", fail.display().to_string())
        .set("GATEWAY_HOOK_ON_RELOAD", shout.display().to_string())
        .set("GATEWAY_HOOK_WORKER_KILLED", gone.display().to_string())
        .start();
    let says = |gateway: &Gateway, text: &str| gateway.log_text().contains(text);
    wait::until_true("the failure to be told", START_LIMIT, || {
        says(&gateway, "hook worker_ready ended with exit code 3")
    });
    gateway.reload();
    wait::until_true("the shouting to be bounded", START_LIMIT, || {
        says(&gateway, "… and more, which is not told")
    });
    wait::until_true("the one that hangs to be killed", START_LIMIT, || {
        let answer = gateway.exchange(&Request::new("GET", "/ready"));
        assert_eq!(answer.status(), 200, "nobody waits for a hook");
        says(&gateway, "hook on_ready had not ended in time: its process group is killed")
    });
    let record = std::fs::read_to_string(record(&gateway.setup)).expect("it began");
    let left: u32 = record.trim().parse().expect("a process id");
    wait::until_true("what it had started to be gone", START_LIMIT, || !process::alive(left));
    let shouted = gateway.log_text().lines().filter(|line| line.contains("aloud")).count();
    assert!((1..=100).contains(&shouted), "{shouted} lines");
    wait::until_true("nobody to be left", START_LIMIT, || {
        process::children(gateway.pid()).len() == 2 && process::zombies(gateway.pid()).is_empty()
    });

    // One that hangs at the end is not waited for either, and nothing is left of it.
    let mut gateway = gateway;
    gateway.rewrite(&[("GATEWAY_HOOK_WORKER_EXIT", &hanging), ("GATEWAY_HOOK_ON_RELOAD", "off")]);
    gateway.reload();
    let log = gateway.log().to_owned();
    gateway.stop();
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("hooks are given up: the master ends"), "{log}");
    Ok(())
}

/// The scripts of this gateway's hooks that run now.
fn running(gateway: &Gateway, script: &Path) -> Vec<u32> {
    let script = script.display().to_string();
    let all = process::children(gateway.pid());
    all.into_iter().filter(|pid| process::command_line(*pid).contains(&script)).collect()
}

fn at_once() -> Verdict {
    const MOST: usize = 4;
    let setup = Setup::new().workers(3);
    let patient = script(&setup, "patient", PATIENT);
    let waits = command(&setup, &patient);
    let mut gateway = setup.start();
    // In force when this reload is over; the next one makes seven of them.
    gateway.rewrite(&[
        ("GATEWAY_HOOK_WORKER_READY", &waits),
        ("GATEWAY_HOOK_WORKER_EXIT", &waits),
        ("GATEWAY_HOOK_ON_RELOAD", &waits),
    ]);
    gateway.reload();
    let go = record(&gateway.setup).with_extension("go");
    std::fs::write(&go, "").expect("writable");
    wait_for(&gateway, "the first reload", |told| told["hook"] == "on_reload");
    std::fs::remove_file(&go).expect("it is there");
    std::fs::remove_file(record(&gateway.setup)).expect("it is there");
    gateway.reload();
    let most = running(&gateway, &patient).len();
    assert_eq!(most, MOST, "the others wait");
    std::fs::write(&go, "").expect("writable");
    let of = |hook: &str| recorded(&gateway.setup).iter().filter(|told| told["hook"] == hook).count();
    wait::until_equal("all of them", START_LIMIT, (3, 3, 1), || {
        assert!(running(&gateway, &patient).len() <= MOST);
        (of("worker_ready"), of("worker_exit"), of("on_reload"))
    });
    gateway.stop();
    Ok(())
}

fn over_an_upgrade() -> Verdict {
    let setup = Setup::new().installed();
    let patient = script(&setup, "patient", PATIENT);
    let waits = command(&setup, &patient);
    let gateway = setup.set("GATEWAY_HOOK_ON_RELOAD", waits).start();
    gateway.reload();
    let before = wait::until("the hook to run", START_LIMIT, || {
        Some(running(&gateway, &patient)).filter(|running| running.len() == 1)
    });
    let output = gateway.ctl(&["upgrade"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(gateway.status().upgrades, 1);
    assert_eq!(running(&gateway, &patient), before, "the same process");
    std::fs::write(record(&gateway.setup).with_extension("go"), "").expect("writable");
    wait_for(&gateway, "what it was told", |told| told["hook"] == "on_reload");
    wait::until_true("its words to be in the log", START_LIMIT, || {
        gateway.log_text().lines().any(|line| line.contains(": done ") && line.contains("hook=on_reload"))
    });
    wait::until_true("it to be reaped", START_LIMIT, || {
        process::children(gateway.pid()).len() == 2 && process::zombies(gateway.pid()).is_empty()
    });
    gateway.drain();
    Ok(())
}
