//! SIGHUP: new values rule, a broken file changes nothing.

use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, Setup};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;

pub const TESTS: &[Test] = &[
    Test { name: "reload_applies_new_values", limit: Duration::from_secs(60), run: applies_new_values },
    Test {
        name: "reload_with_a_broken_file_keeps_serving",
        limit: Duration::from_secs(60),
        run: broken_file,
    },
    Test { name: "reload_keeps_the_registry", limit: Duration::from_secs(60), run: keeps_the_registry },
    Test { name: "reload_renames_tools_everywhere", limit: Duration::from_secs(60), run: another_separator },
    Test { name: "scaling_by_ttin_and_ttou", limit: Duration::from_secs(60), run: scaling },
    Test {
        name: "idle_requests_do_not_recycle",
        limit: Duration::from_secs(60),
        run: health_checks_do_not_count,
    },
];

fn applies_new_values() -> Verdict {
    let mut gateway =
        Setup::new().set("GATEWAY_MAX_REQUESTS", "100000").set("GATEWAY_MAX_REQUESTS_JITTER", "10").start();
    let limits = |status: &forkgate_tests::gateway::Status| -> Vec<u64> {
        status.workers.iter().map(|worker| worker.request_limit).collect()
    };
    let before = gateway.status();
    assert!(limits(&before).iter().all(|limit| (100_000..=100_010).contains(limit)), "{:?}", limits(&before));
    gateway.reload_with(&[("GATEWAY_MAX_REQUESTS", "5000"), ("GATEWAY_MAX_REQUESTS_JITTER", "500")]);
    let after = gateway.wait_settings_after(before.settings_generation);
    assert!(limits(&after).iter().all(|limit| (5000..=5500).contains(limit)), "{:?}", limits(&after));
    let old: Vec<u32> = before.workers.iter().map(|worker| worker.pid).collect();
    assert!(after.workers.iter().all(|worker| !old.contains(&worker.pid)), "every worker was replaced");
    assert_eq!(after.recycles.reload, 2);
    gateway.reload_with(&[("GATEWAY_WORKERS", "3")]);
    wait::until_equal("the workers", START_LIMIT, 3, || gateway.status().ready);
    gateway.stop();
    Ok(())
}

fn broken_file() -> Verdict {
    let mut gateway = Setup::new().start();
    let before = gateway.wait_settled();
    for (name, value) in [("GATEWAY_GRACEFUL_TIMEOUT", "soonish"), ("GATEWAY_WORKRES", "4")] {
        let good = gateway.setup.clone();
        gateway.reload_with(&[(name, value)]);
        wait::until_true("the refusal to be logged", START_LIMIT, || gateway.log_text().contains(name));
        gateway.setup = good;
    }
    std::fs::remove_file(gateway.setup.env_file()).expect("removed");
    let lines = gateway.log_text().lines().count();
    gateway.signal(Signal::SIGHUP);
    wait::until_true("the missing file to be logged", START_LIMIT, || {
        gateway.log_text().lines().count() > lines
    });
    let after = gateway.wait_settled();
    let pids = |status: &forkgate_tests::gateway::Status| {
        status.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>()
    };
    assert_eq!(pids(&before), pids(&after), "no worker was replaced");
    assert_eq!(before.settings_generation, after.settings_generation);
    gateway.reload_with(&[]);
    gateway.wait_settings_after(before.settings_generation);
    gateway.stop();
    Ok(())
}

/// A registry in the state directory stays with that, and the log says so of both.
fn keeps_the_registry() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.status().settings_generation;
    let first = gateway.setup.clone();
    let other = gateway.setup.directory().join("other-state").display().to_string();
    gateway.reload_with(&[("GATEWAY_STATE_DIR", &other)]);
    gateway.setup = first;
    gateway.wait_settings_after(before);
    gateway.wait_for_tool("fast__echo");
    let log = gateway.log_text();
    for name in ["GATEWAY_STATE_DIR", "DATABASE_URL"] {
        let line = log.lines().find(|line| line.contains(&format!("reload: {name} ")));
        assert!(line.is_some_and(|line| line.contains("(needs a restart)")), "{name}: {line:?}");
    }
    gateway.stop();
    Ok(())
}

/// The names that clients see and the ones that administrators see are the same, after every reload.
fn another_separator() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    for (separator, tool) in [("--", "fast--echo"), ("__", "fast__echo")] {
        let before = gateway.status().settings_generation;
        gateway.reload_with(&[("GATEWAY_TOOL_NAME_SEPARATOR", separator)]);
        gateway.wait_settings_after(before);
        gateway.wait_for_tool(tool);
        let listed = gateway.api("GET", "/v1/tools", None).text();
        assert!(listed.contains(&format!("\"{tool}\"")), "{tool} in {listed}");
    }
    gateway.stop();
    Ok(())
}

fn scaling() -> Verdict {
    let gateway = Setup::new().start();
    for (signal, wanted) in [
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTIN, 4),
        (Signal::SIGTTOU, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
        (Signal::SIGTTOU, 1),
    ] {
        gateway.signal(signal);
        wait::until_equal("the target", START_LIMIT, wanted, || gateway.status().target);
        let status = gateway.wait_settled();
        assert_eq!(status.workers.len() as u64, wanted);
        assert_eq!(process::children(gateway.pid()).len() as u64, wanted, "processes");
    }
    gateway.stop();
    Ok(())
}

fn health_checks_do_not_count() -> Verdict {
    let gateway =
        Setup::new().set("GATEWAY_MAX_REQUESTS", "5").set("GATEWAY_MAX_REQUESTS_JITTER", "0").start();
    let before = gateway.status();
    for _ in 0..50 {
        assert_eq!(gateway.exchange(&forkgate_tests::http::Request::new("GET", "/health")).status(), 200);
    }
    let after = gateway.wait_settled();
    assert_eq!(before.recycles.max_requests, after.recycles.max_requests, "health checks recycle nobody");
    gateway.stop();
    Ok(())
}
