//! `forkgate ctl scale`, `reopen`, `drain`: they return when it is done, and say what was done.

use std::process::Child;
use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, STOP_LIMIT, Setup};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "ctl_scale_counts_every_order_and_ends_when_all_are_ready", limit: LIMIT, run: scale },
    Test { name: "ctl_scale_down_loses_nothing", limit: LIMIT, run: scale_down },
    Test { name: "ctl_reopen_says_who_writes_to_the_new_file", limit: LIMIT, run: reopen },
    Test { name: "ctl_settings_say_what_is_in_force_and_what_waits", limit: LIMIT, run: settings },
    Test { name: "ctl_drain_ends_when_the_master_has_ended", limit: LIMIT, run: drain },
];

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, and the one line of `--json`.
fn end(client: Child) -> (Option<i32>, Value) {
    let output = client.wait_with_output().expect("an end");
    let text = words(&output.stdout);
    let answer = serde_json::from_str(text.lines().last().unwrap_or_default());
    (output.status.code(), answer.unwrap_or_else(|error| panic!("{error}: {text}{}", words(&output.stderr))))
}

fn scale() -> Verdict {
    let gateway = Setup::new().workers(1).start();
    let both = [gateway.begin_ctl(&["scale", "+1", "--json"]), gateway.begin_ctl(&["scale", "+1", "--json"])];
    let ends = both.map(end);
    let status = gateway.status();
    assert_eq!((status.target, status.ready), (3, 3), "two orders are two workers: {ends:?}");
    assert!(ends.iter().any(|(code, answer)| *code == Some(0) && answer["workers"] == 3), "{ends:?}");
    // Whoever wanted two is told that somebody else wanted three.
    for (code, answer) in &ends {
        assert!(*code == Some(0) || answer["workers"] == 3 && answer["error"].is_string(), "{answer}");
    }
    for (number, why) in
        [("0", "one worker has to stay"), ("-9", "one worker has to stay"), ("99", "too many")]
    {
        let (done, answer) = gateway.ctl_json(&["scale", number]);
        assert!(!done && answer["error"].as_str().is_some_and(|error| error.contains(why)), "{answer}");
    }
    let output = gateway.ctl(&["scale", "3"]);
    assert!(output.status.success(), "{}", words(&output.stderr));
    assert_eq!(words(&output.stdout), "3 workers, all ready\n", "so it is already");
    assert_eq!(gateway.ctl(&["scale", "many"]).status.code(), Some(64));
    // A reload keeps the number.
    assert!(gateway.ctl(&["reload"]).status.success());
    assert_eq!(gateway.wait_settled().ready, 3);
    gateway.stop();
    Ok(())
}

fn scale_down() -> Verdict {
    let gateway = Setup::new().workers(3).start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let output = gateway.ctl(&["scale", "-1"]);
    let (said, progress) = (words(&output.stdout), words(&output.stderr));
    assert!(output.status.success() && said == "2 workers, all ready\n", "{said}{progress}");
    assert!(progress.contains("slot 2 goes away") && progress.contains("slot 2 is gone"), "{progress}");
    assert_eq!(process::listening(gateway.address.port()).len(), 2, "its socket is gone");
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    gateway.wait_settled();
    gateway.stop();
    Ok(())
}

fn reopen() -> Verdict {
    let gateway = Setup::new().start();
    let (done, answer) = gateway.ctl_json(&["reopen"]);
    assert!(
        !done && answer["error"].as_str().is_some_and(|error| error.contains("GATEWAY_LOG_FILE")),
        "{answer}"
    );
    gateway.stop();

    let setup = Setup::new();
    let log = setup.directory().join("gateway.log");
    let gateway = setup.set("GATEWAY_LOG_FILE", log.display().to_string()).start();
    let moved = log.with_extension("1");
    std::fs::rename(&log, &moved).expect("the test's directory is writable");
    let (done, answer) = gateway.ctl_json(&["reopen"]);
    assert!(done && answer["done"] == "the log file is open anew, by the master and 2 workers", "{answer}");
    assert!(std::fs::read_to_string(&log).is_ok_and(|text| text.contains("log file opened anew")));
    // One that stands still does not answer; the others do.
    let worker = gateway.status().workers[0].pid;
    assert!(process::signal(worker, Signal::SIGSTOP));
    let (done, answer) = gateway.ctl_json(&["reopen"]);
    let why = format!("the worker with pid {worker} did not answer within 5 s");
    assert!(!done && answer["error"].as_str().is_some_and(|error| error.contains(&why)), "{answer}");
    assert!(process::signal(worker, Signal::SIGCONT));
    gateway.stop();
    Ok(())
}

fn settings() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_MAX_REQUESTS", "5000").start();
    let file = gateway.setup.env_file().display().to_string();
    let secret = forkgate_tests::token::SECRET;
    let of = |answer: &Value, name: &str| {
        let found =
            answer["settings"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name).cloned());
        found.unwrap_or_else(|| panic!("no {name} in {answer}"))
    };
    let (done, answer) = gateway.ctl_json(&["settings"]);
    assert!(done && answer["settings_generation"] == 1 && !answer.to_string().contains(secret), "{answer}");
    let requests = of(&answer, "GATEWAY_MAX_REQUESTS");
    let facts = (&requests["value"], &requests["default"], &requests["differs"], &requests["needs_restart"]);
    assert_eq!(facts, (&json!("5000"), &json!("1000000"), &json!(true), &json!(false)));
    assert!(requests["source"].as_str().is_some_and(|source| source.contains(&file)), "{requests}");
    let backlog = of(&answer, "GATEWAY_BACKLOG");
    assert_eq!((&backlog["source"], &backlog["differs"]), (&json!("default"), &json!(false)));
    assert_eq!(backlog["value"], backlog["default"]);
    assert_eq!(of(&answer, "GATEWAY_STATE_DIR")["needs_restart"], true);

    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "6000")]);
    let output = gateway.ctl(&["settings", "--diff"]);
    let said = words(&output.stdout);
    assert!(output.status.success(), "{said}{}", words(&output.stderr));
    assert!(said.contains("GATEWAY_MAX_REQUESTS=5000") && !said.contains("GATEWAY_BACKLOG"), "{said}");
    assert!(said.contains("a reload would change:\nGATEWAY_MAX_REQUESTS 5000 -> 6000\n"), "{said}");
    assert!(!said.contains(secret) && said.contains("GATEWAY_JWT_SECRET=*****"), "{said}");
    let (done, answer) = gateway.ctl_json(&["settings", "--diff"]);
    assert!(done && answer["files"]["changes"][0]["new"] == "6000", "{answer}");
    assert!(answer["settings"].as_array().is_some_and(|all| all.iter().all(|one| one["differs"] == true)));
    assert!(gateway.ctl(&["reload"]).status.success());
    let (_, answer) = gateway.ctl_json(&["settings"]);
    assert_eq!(
        (&answer["settings_generation"], of(&answer, "GATEWAY_MAX_REQUESTS")["value"].as_str()),
        (&json!(2), Some("6000"))
    );
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "many")]);
    let output = gateway.ctl(&["settings", "--diff"]);
    assert_eq!(output.status.code(), Some(1), "a reload would be refused");
    assert!(
        words(&output.stderr).contains("many") && words(&output.stdout).contains("GATEWAY_MAX_REQUESTS=6000")
    );
    gateway.stop();
    Ok(())
}

fn drain() -> Verdict {
    let mut gateway = Setup::new().start();
    // It cannot leave while it stands still.
    let held = gateway.status().workers[0].pid;
    assert!(process::signal(held, Signal::SIGSTOP));
    let pid = gateway.pid();
    let (first, second) = (gateway.begin_ctl(&["drain"]), gateway.begin_ctl(&["drain", "--json"]));
    wait::until_true("the end to begin", START_LIMIT, || {
        gateway.log_text().matches("verb=drain").count()
            + gateway.log_text().matches("verb=\"drain\"").count()
            >= 2
    });
    let other = gateway.ctl(&["worker", "1", "recycle"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(words(&other.stderr).contains("the gateway is stopping"), "{}", words(&other.stderr));
    assert!(process::alive(pid), "it waits for the one that is held");
    assert!(process::signal(held, Signal::SIGCONT));
    let (code, answer) = end(second);
    assert_eq!((code, &answer["ok"]), (Some(0), &json!(true)), "{answer}");
    assert!(!process::alive(pid), "it has ended when that is said");
    let output = first.wait_with_output().expect("an end");
    let (said, progress) = (words(&output.stdout), words(&output.stderr));
    assert!(
        output.status.success() && said.contains(&format!("the master (pid {pid}) ends")),
        "{said}{progress}"
    );
    assert!(
        progress.contains("workers left, with ") || progress.contains("worker left, with "),
        "{progress}"
    );
    assert_eq!(gateway.wait_exit(STOP_LIMIT).code(), Some(0));
    let output = gateway.ctl(&["drain"]);
    assert!(output.status.code() == Some(1) && words(&output.stderr).contains("no master is running"));
    Ok(())
}
