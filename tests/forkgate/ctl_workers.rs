//! `forkgate ctl worker SLOT …`: a worker is replaced, killed, looked at, and whoever asked is told how that ended.

use std::path::Path;
use std::time::Duration;

use forkgate_tests::crash_report;
use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{Connection, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, wait};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "ctl_recycle_ends_when_the_new_worker_serves", limit: LIMIT, run: recycle },
    Test { name: "ctl_kill_replaces_first_and_reports", limit: LIMIT, run: kill },
    Test { name: "ctl_dump_reports_a_worker_that_lives_on", limit: LIMIT, run: dump },
    Test { name: "ctl_shows_all_workers_and_one_slot", limit: LIMIT, run: shown },
    Test { name: "ctl_is_readable_with_64_workers", limit: Duration::from_secs(180), run: many },
];

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pid_of(gateway: &Gateway, slot: u64) -> u64 {
    let (_, answer) = gateway.ctl_json(&["workers"]);
    let workers = answer["workers"].as_array().expect("workers").clone();
    let found = workers.iter().find(|worker| worker["slot"] == slot && worker["place"] == "primary");
    found.and_then(|worker| worker["pid"].as_u64()).unwrap_or_else(|| panic!("no worker in {answer}"))
}

fn recycle() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let old = [pid_of(&gateway, 0), pid_of(&gateway, 1)];
    let (done, answer) = gateway.ctl_json(&["worker", "0", "recycle"]);
    assert!(done, "{answer}");
    assert_eq!((&answer["ok"], &answer["slot"], &answer["pid"]), (&json!(true), &json!(0), &json!(old[0])));
    assert_eq!(answer["new_pid"], pid_of(&gateway, 0), "it serves already");
    assert_ne!(answer["new_pid"], old[0]);
    let output = gateway.ctl(&["worker", "1", "recycle"]);
    let (said, progress) = (words(&output.stdout), words(&output.stderr));
    assert!(output.status.success() && said.contains("slot 1 has a new worker: pid "), "{said}{progress}");
    assert!(progress.contains("a replacement starts in slot 1 (operator)"), "{progress}");
    assert_ne!(pid_of(&gateway, 1), old[1]);
    for (slot, why) in [("7", "there is no slot 7"), ("99", "there is no slot 99")] {
        let (done, answer) = gateway.ctl_json(&["worker", slot, "recycle"]);
        assert!(!done && answer["error"].as_str().is_some_and(|error| error.contains(why)), "{answer}");
    }
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    assert_eq!(gateway.wait_settled().recycles.operator, 2);
    gateway.stop();
    Ok(())
}

fn kill() -> Verdict {
    let gateway = Setup::new().start();
    let old = pid_of(&gateway, 1);
    let output = gateway.ctl(&["worker", "1", "kill"]);
    assert_eq!(output.status.code(), Some(64), "there is no terminal to ask at");
    assert!(words(&output.stderr).contains("--yes") && pid_of(&gateway, 1) == old);
    let (done, answer) = gateway.ctl_json(&["worker", "1", "kill", "--yes"]);
    assert!(done, "{answer}");
    assert!(!process::alive(old as u32), "it is gone when that is said");
    assert_eq!((&answer["slot"], &answer["pid"]), (&json!(1), &json!(old)));
    assert_eq!(answer["new_pid"], pid_of(&gateway, 1));
    let report = answer["report"].as_str().expect("a report").to_owned();
    let text = crash_report::rendered(&gateway, Path::new(&report));
    assert!(
        text.contains("was killed: an operator ordered it") && text.contains("last lines of its log"),
        "{text}"
    );
    assert!(crash_report::why(&gateway, 1).contains(&report));
    let status = gateway.wait_settled();
    assert_eq!((status.kills["operator"], status.crashes, status.ready), (1, 0, 2));
    let log = gateway.log_text();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what} in {log}"));
    assert!(at("an operator wants this worker dead") < at("killed by an operator's order"));
    gateway.stop();
    Ok(())
}

fn dump() -> Verdict {
    let gateway = Setup::new().workers(1).start();
    let mut client = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let before = gateway.status();
    let output = gateway.ctl(&["worker", "0", "dump"]);
    assert!(output.status.success(), "{}", words(&output.stderr));
    let path = words(&output.stdout).trim().to_owned();
    assert!(path.ends_with("-dump.json"), "{path}");
    let text = crash_report::rendered(&gateway, Path::new(&path));
    assert!(text.contains("lives on: an operator ordered this report"), "{text}");
    let reports = crash_report::all(&gateway);
    assert_eq!((reports.len(), reports[0].mode), (1, 0o600));
    let inside = reports[0].report.inside.as_ref().expect("the worker told about itself");
    assert!(!inside.stacks.is_empty(), "{inside:?}");
    // Nothing happened to it, and it is no reason of a death.
    client.exchange(&Request::new("GET", "/health")).expect("the same connection goes on");
    let after = gateway.status();
    assert_eq!(before.workers[0].pid, after.workers[0].pid);
    assert!(after.kills.values().all(|count| *count == 0) && after.crashes == 0);
    let output = gateway.ctl(&["why", "0"]);
    assert!(words(&output.stderr).contains("no worker of slot 0 was killed or died yet"));
    // Several at once share one report.
    let clients: Vec<_> = (0..3).map(|_| gateway.begin_ctl(&["worker", "0", "dump", "--json"])).collect();
    for client in clients {
        let output = client.wait_with_output().expect("an end");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
        assert!(output.status.success() && answer["report"].is_string(), "{answer}");
    }
    gateway.stop();
    Ok(())
}

fn shown() -> Verdict {
    let gateway = Setup::new().start();
    let status = gateway.status();
    let (_, answer) = gateway.ctl_json(&["workers"]);
    assert_eq!((&answer["pid"], &answer["target"]), (&json!(gateway.pid()), &json!(2)));
    let workers = answer["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 2);
    for (worker, known) in workers.iter().zip(&status.workers) {
        let of_row =
            [("slot", json!(known.slot)), ("pid", json!(known.pid)), ("generation", json!(known.generation))];
        let others = [
            ("place", json!("primary")),
            ("phase", json!("running")),
            ("reason", Value::Null),
            ("share", json!(1.0)),
            ("held_back", Value::Null),
            ("accept_queue", json!(0)),
            ("watchdog", json!("")),
        ];
        for (name, value) in of_row.iter().chain(&others) {
            assert_eq!(&worker[*name], value, "{name} of {worker}");
        }
    }
    assert!(gateway.ctl(&["worker", "1", "pause"]).status.success());
    // A worker that stands still drains for as long as it does.
    let held = status.workers[0].pid;
    assert!(process::signal(held, Signal::SIGSTOP));
    assert!(gateway.ctl_json(&["worker", "0", "recycle"]).0);
    let table = words(&gateway.ctl(&["workers"]).stdout);
    let line = |words: &[&str]| {
        let found =
            table.lines().any(|line| words.iter().all(|word| line.split_whitespace().any(|w| w == *word)));
        assert!(found, "{words:?} in\n{table}");
    };
    line(&["slot", "pid", "place", "phase", "why"]);
    line(&[&held.to_string(), "leaving", "draining", "operator"]);
    line(&["1", "primary", "running", "paused"]);
    let (_, slot) = gateway.ctl_json(&["worker", "0"]);
    assert_eq!((&slot["slot"], &slot["open"], &slot["paused"]), (&json!(0), &json!(true), &json!(false)));
    assert_eq!(slot["workers"].as_array().map(Vec::len), Some(2), "{slot}");
    assert!(slot["workers"][0]["event_loop"]["tasks"].is_u64(), "{slot}");
    let text = words(&gateway.ctl(&["worker", "0"]).stdout);
    assert!(
        text.contains(&format!("worker pid {held}")) && text.contains("leaving, draining: operator"),
        "{text}"
    );
    let paused = words(&gateway.ctl(&["worker", "1"]).stdout);
    assert!(paused.contains("paused by an operator") && paused.contains("0 % of its share"), "{paused}");
    let output = gateway.ctl(&["worker", "5"]);
    assert!(!output.status.success() && words(&output.stderr).contains("there is no slot 5"));
    assert!(process::signal(held, Signal::SIGCONT));
    gateway.wait_settled();
    gateway.stop();
    Ok(())
}

/// The most workers there may be: a line each, none too long for a terminal, and answers at once.
fn many() -> Verdict {
    let gateway = Setup::new().workers(64).set("GATEWAY_BOOT_TIMEOUT", "120s").spawn();
    wait::until("64 workers", Duration::from_secs(120), || {
        let status = gateway.try_status()?;
        (status.state == "serving" && status.is_settled()).then_some(())
    });
    let table = words(&gateway.ctl(&["workers"]).stdout);
    assert_eq!(table.lines().count(), 65, "{table}");
    let widest = table.lines().map(str::len).max().unwrap_or(0);
    assert!(widest <= 110, "{widest} columns:\n{table}");
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let begun = std::time::Instant::now();
            assert!(gateway.ctl(&["status"]).status.success());
            begun.elapsed()
        })
        .collect();
    times.sort();
    note!(
        "ctl status with 64 workers: median {:?}, longest {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    let (done, answer) = gateway.ctl_json(&["worker", "63", "recycle"]);
    assert!(done, "{answer}");
    wait::until_equal("the old one to leave", START_LIMIT, 64, || gateway.status().workers.len());
    gateway.stop();
    Ok(())
}
