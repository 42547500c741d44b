//! `forkgate ctl reload`: the one who asks is told how it ended.

use std::process::Output;
use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, Setup, Status};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;
use serde_json::Value;

pub const TESTS: &[Test] = &[
    Test {
        name: "ctl_reload_returns_when_all_workers_have_the_new_settings",
        limit: Duration::from_secs(60),
        run: success,
    },
    Test { name: "ctl_reload_check_only_changes_nothing", limit: Duration::from_secs(60), run: check_only },
    Test { name: "ctl_reload_gives_the_reason_of_a_failure", limit: Duration::from_secs(60), run: failure },
    Test {
        name: "ctl_reload_waits_for_the_one_after_the_one_under_way",
        limit: Duration::from_secs(60),
        run: one_after_the_other,
    },
    Test {
        name: "ctl_reload_ends_with_the_gateway",
        limit: Duration::from_secs(60),
        run: ends_with_the_gateway,
    },
];

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line of `--json`.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", words(&output.stdout)))
}

fn success() -> Verdict {
    let mut gateway = Setup::new().start();
    let before = gateway.status();
    let secret = "another-secret-that-is-long-enough-for-the-check-0123456789";
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000"), ("GATEWAY_JWT_SECRET", secret)]);
    let output = gateway.ctl(&["reload"]);
    let (said, progress) = (words(&output.stdout), words(&output.stderr));
    assert!(output.status.success(), "{said}{progress}");
    assert!(
        said.contains("GATEWAY_MAX_REQUESTS 1000000 -> 5000") && said.contains("GATEWAY_JWT_SECRET"),
        "{said}"
    );
    assert!(!said.contains(secret) && !gateway.log_text().contains(secret), "secrets are masked");
    assert!(progress.contains("slot 1"), "{progress}");
    let after = gateway.status();
    let generation = before.settings_generation + 1;
    assert!(said.contains(&format!("(settings generation {generation})")), "{said}");
    let new: Vec<u32> = after.serving().map(|worker| worker.pid).collect();
    assert_eq!((after.settings_generation, new.len()), (generation, 2));
    assert!(after.serving().all(|worker| worker.settings_generation == generation));
    assert!(before.workers.iter().all(|worker| !new.contains(&worker.pid)));
    gateway.stop();
    Ok(())
}

fn check_only() -> Verdict {
    let mut gateway = Setup::new().start();
    let before = gateway.status();
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000"), ("DATABASE_URL", "sqlite:////dev/null")]);
    let output = gateway.ctl(&["reload", "--check-only"]);
    let said = words(&output.stdout);
    assert!(output.status.success(), "{said}{}", words(&output.stderr));
    assert!(
        said.contains("GATEWAY_MAX_REQUESTS 1000000 -> 5000") && said.contains("can be put into force"),
        "{said}"
    );
    assert!(said.contains("warning: DATABASE_URL: ") && said.contains("not a regular file"), "{said}");
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "many")]);
    let output = gateway.ctl(&["reload", "--check-only", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["error"].as_str().is_some_and(|error| error.contains("many")));
    assert!(gateway.log_text().contains("check refused: GATEWAY_MAX_REQUESTS=many"));
    let after = gateway.wait_settled();
    let pids = |status: &Status| status.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>();
    assert_eq!((pids(&after), after.settings_generation), (pids(&before), before.settings_generation));
    assert!(!words(&gateway.ctl(&["status"]).stdout).contains("reload"), "it was no reload");
    gateway.stop();
    Ok(())
}

fn failure() -> Verdict {
    let mut gateway = Setup::new().start();
    let before = gateway.status();
    gateway.rewrite(&[("GATEWAY_GRACEFUL_TIMEOUT", "soonish"), ("GATEWAY_WORKRES", "4")]);
    let output = gateway.ctl(&["reload"]);
    let said = words(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("soonish") && said.contains("GATEWAY_WORKRES") && said.contains("GATEWAY_WORKERS?")
    );
    let output = gateway.ctl(&["reload", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer = json(&output);
    assert_eq!((&answer["ok"], &answer["settings_generation"]), (&Value::Bool(false), &Value::from(1)));
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("soonish")), "{answer}");
    assert!(output.stderr.is_empty(), "{}", words(&output.stderr));
    let after = gateway.status();
    assert!(words(&gateway.ctl(&["status"]).stdout).contains("reload refused: "));
    assert_eq!(before.settings_generation, after.settings_generation);
    gateway.stop();
    Ok(())
}

/// What was asked while a reload ran has read the files after that, and all who asked meanwhile share it.
fn one_after_the_other() -> Verdict {
    let mut gateway = Setup::new().start();
    // It cannot drain while it stands still, and for so long the second slot waits.
    let held = gateway.status().workers.iter().find(|worker| worker.slot == 0).expect("slot 0").pid;
    assert!(process::signal(held, Signal::SIGSTOP));
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000")]);
    let first = gateway.begin_ctl(&["reload", "--json"]);
    wait::until_true("the first to roll", START_LIMIT, || {
        gateway.log_text().contains("reload: GATEWAY_MAX_REQUESTS 1000000 -> 5000")
    });
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "6000")]);
    let others: Vec<_> = (0..3).map(|_| gateway.begin_ctl(&["reload", "--json"])).collect();
    wait::until_equal("orders", START_LIMIT, 4, || {
        gateway.log_text().matches("ordered over the control socket").count()
    });
    assert!(process::signal(held, Signal::SIGCONT));
    let generation = |client: std::process::Child| {
        let output = client.wait_with_output().expect("an end");
        assert!(output.status.success(), "{}", words(&output.stderr));
        json(&output)["settings_generation"].as_u64()
    };
    assert_eq!(generation(first), Some(2));
    for other in others {
        assert_eq!(generation(other), Some(3));
    }
    assert!(gateway.status().serving().all(|worker| (6000..=6600).contains(&worker.request_limit)));
    gateway.stop();
    Ok(())
}

/// Who waits when the end comes is told, and so is who asks after that.
fn ends_with_the_gateway() -> Verdict {
    let mut gateway = Setup::new().workers(1).start();
    // A worker that stands still never drains: the reload after the one that replaced it waits for its end.
    let worker = process::children(gateway.pid())[0];
    assert!(process::signal(worker, Signal::SIGSTOP));
    assert!(gateway.ctl(&["reload"]).status.success());
    let client = gateway.begin_ctl(&["reload", "--json"]);
    wait::until_true("the second reload to begin", START_LIMIT, || {
        gateway.log_text().matches("no setting differs").count() == 2
    });
    gateway.signal(Signal::SIGINT);
    assert_eq!(gateway.wait_exit(START_LIMIT).code(), Some(0));
    let output = client.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["error"], "the gateway is stopping");
    let output = gateway.ctl(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output.stderr).contains("no master is running"), "{}", words(&output.stderr));
    Ok(())
}
