//! Who may use the control socket, what is written down of it, and what happens when many do or nobody answers.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use forkgate_tests::gateway::{Gateway, Setup};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{Skip, Verdict};
use forkgate_tests::{paths, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// `nobody` of every Linux.
const NOBODY: u32 = 65534;

pub const TESTS: &[Test] = &[
    Test { name: "ctl_refuses_another_user", limit: LIMIT, run: another_user },
    Test { name: "ctl_leaves_an_audit_line_per_order", limit: LIMIT, run: audit },
    Test { name: "ctl_answers_a_hundred_at_once", limit: LIMIT, run: a_hundred },
    Test { name: "ctl_says_that_the_master_is_stopped", limit: LIMIT, run: stopped },
];

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn another_user() -> Verdict {
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip("needs root: only root can become another user".to_owned()));
    }
    let gateway = Setup::new().start();
    let socket = gateway.setup.state_dir().join("ctl.sock");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    // Somebody opens every door on the way to it, and a copy of the program.
    let program = gateway.setup.state_dir().with_file_name("forkgate");
    std::fs::copy(paths::forkgate(), &program).expect("copied");
    for path in [&program, &socket].into_iter().flat_map(|path| path.ancestors()) {
        if path.starts_with(std::env::temp_dir()) && path != std::env::temp_dir() {
            let open = std::fs::Permissions::from_mode(mode(path) | 0o777);
            std::fs::set_permissions(path, open).expect("root may");
        }
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().current_dir("/").arg("ctl").args(arguments).arg("--socket").arg(&socket);
        command.env("GATEWAY_STATE_DIR", "/tmp").uid(NOBODY).gid(NOBODY);
        command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
    };
    for arguments in [&["status"][..], &["worker", "0", "recycle"]] {
        let output = as_nobody(arguments);
        let said = words(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("user 65534 may not talk to this master: run this as user 0"), "{said}");
    }
    let refused = gateway.log_text().matches("a user who may not was refused at the control socket").count();
    assert_eq!((refused, gateway.status().recycles.operator), (2, 0));
    gateway.stop();
    Ok(())
}

/// The audit lines of a log in JSON: verb, arguments, outcome.
fn orders(gateway: &Gateway) -> Vec<Value> {
    let text = gateway.log_text();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "ordered over the control socket").collect()
}

/// Verb, arguments, outcome; without one it was refused or failed.
type Line = (&'static str, &'static str, &'static str);

fn audit() -> Verdict {
    let gateway = Setup::new().set("GATEWAY_LOG", "json").start();
    let wanted: &[(&[&str], &[Line])] = &[
        (&["status"], &[]),
        (&["workers"], &[]),
        (&["worker", "0"], &[]),
        (&["why", "0"], &[]),
        (&["pause", "1"], &[("pause", "slot=1", "done")]),
        (
            &["pause", "0"],
            &[(
                "pause",
                "slot=0",
                "refused: slot 0 is the last one that takes new clients: resume another one, or start one more worker \
                 (`forkgate ctl scale +1`)",
            )],
        ),
        (&["worker", "1", "resume"], &[("resume", "slot=1", "done")]),
        (&["worker", "1", "recycle"], &[("recycle", "slot=1", "begun"), ("recycle", "slot=1", "done")]),
        (&["worker", "0", "dump"], &[("dump", "slot=0", "begun"), ("dump", "slot=0", "done")]),
        (&["scale", "2"], &[("scale", "workers=2", "begun"), ("scale", "workers=2", "done")]),
        (&["scale", "-5"], &[("scale", "by=-5", "")]),
        (&["reload", "--check-only"], &[("reload", "check_only", "begun"), ("reload", "check_only", "done")]),
        (&["reopen"], &[("reopen", "", "begun"), ("reopen", "", "")]),
    ];
    let uid = nix::unistd::geteuid().as_raw();
    let mut known = 0;
    for (arguments, lines) in wanted {
        let client = gateway.begin_ctl(arguments);
        let pid = client.id();
        client.wait_with_output().expect("an end");
        let all = orders(&gateway);
        let new = &all[known..];
        assert_eq!(new.len(), lines.len(), "{arguments:?}: {new:?}");
        known = all.len();
        for (line, (verb, arguments_of, outcome)) in new.iter().zip(*lines) {
            assert_eq!(
                (&line["verb"], &line["arguments"]),
                (&(*verb).into(), &(*arguments_of).into()),
                "{line}"
            );
            assert_eq!((&line["uid"], &line["by_pid"]), (&uid.into(), &pid.into()), "{line}");
            let command = line["command"].as_str().expect("a command");
            assert!(command.ends_with(&format!("ctl {}", arguments.join(" "))), "{line}");
            let said = line["outcome"].as_str().expect("an outcome");
            let fits = if outcome.is_empty() {
                said.starts_with("refused: ") || said.starts_with("failed: ")
            } else {
                said == *outcome
            };
            assert!(fits, "{line}");
        }
    }
    gateway.stop();
    Ok(())
}

/// Status and orders, all at once: everybody is answered.
fn a_hundred() -> Verdict {
    let gateway = Setup::new().start();
    let clients: Vec<_> = (0..100)
        .map(|number| match number % 10 {
            0 => gateway.begin_ctl(&["reload", "--json"]),
            1 => gateway.begin_ctl(&["workers"]),
            _ => gateway.begin_ctl(&["status", "--json"]),
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().expect("an end");
        assert!(output.status.success(), "{}{}", words(&output.stdout), words(&output.stderr));
        assert!(!output.stdout.is_empty());
    }
    // All ten reloads share two runs, or three.
    let generation = gateway.wait_settled().settings_generation;
    assert!((2..=11).contains(&generation), "{generation}");
    gateway.stop();
    Ok(())
}

fn stopped() -> Verdict {
    let gateway = Setup::new().start();
    let pid = gateway.pid();
    // A worker that stands still keeps a drain waiting, and who waits for that is told too.
    let worker = gateway.status().workers[0].pid;
    assert!(process::signal(worker, Signal::SIGSTOP));
    let waiting = gateway.begin_ctl(&["drain"]);
    wait::until_true("the end to begin", LIMIT, || gateway.log_text().contains("stopping quick=false"));
    gateway.signal(Signal::SIGSTOP);
    wait::until_true("the master to stand still", LIMIT, || process::is_stopped(pid));
    let said = format!("the master (pid {pid}) at ");
    for output in [gateway.ctl(&["status"]), waiting.wait_with_output().expect("an end")] {
        let error = words(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&said) && error.contains("did not answer within 5 s"), "{error}");
        assert!(
            error.contains("it is stopped (state T)") && error.contains(&format!("kill -CONT {pid}")),
            "{error}"
        );
    }
    assert!(process::signal(pid, Signal::SIGCONT) && process::signal(worker, Signal::SIGCONT));
    drop(gateway);
    Ok(())
}
