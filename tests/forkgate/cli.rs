//! The command line: exit codes, help, tokens.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use forkgate_tests::gateway::{STOP_LIMIT, Setup, Status};
use forkgate_tests::http::Request;
use forkgate_tests::process::Signal;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;

pub const TESTS: &[Test] = &[
    Test { name: "exit_code_64_for_wrong_usage", limit: Duration::from_secs(20), run: wrong_usage },
    Test { name: "exit_code_0_after_term_int_and_quit", limit: Duration::from_secs(90), run: orderly_ends },
    Test {
        name: "signals_without_a_meaning_change_nothing",
        limit: Duration::from_secs(60),
        run: meaningless_signals,
    },
    Test {
        name: "exit_code_3_or_4_when_a_worker_cannot_boot",
        limit: Duration::from_secs(60),
        run: worker_cannot_boot,
    },
    Test { name: "exit_code_1_when_the_port_is_taken", limit: Duration::from_secs(60), run: port_taken },
    Test { name: "help_names_every_command", limit: Duration::from_secs(20), run: help },
    Test { name: "tokens_expire_and_say_who", limit: Duration::from_secs(60), run: tokens },
];

fn wrong_usage() -> Verdict {
    let wrong: &[&[&str]] = &[
        &["--no-such-flag"],
        &["fly"],
        &["serve", "--nonsense"],
        &["token", "create"],
        &["token", "create", "--ttl", "x"],
        &["ctl"],
    ];
    for words in wrong {
        let output = Setup::new().bare_command().args(*words).output().expect("the binary starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{words:?}: {error}");
        assert!(!error.trim().is_empty(), "{words:?} says nothing");
    }
    Ok(())
}

fn help() -> Verdict {
    let output = Setup::new().bare_command().arg("--help").output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    for command in ["serve", "demo", "check", "token", "ctl"] {
        assert!(text.contains(command), "--help does not name {command}:\n{text}");
    }
    assert!(!text.contains("migrate"), "--help names what only the master starts:\n{text}");
    Ok(())
}

fn orderly_ends() -> Verdict {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut gateway = Setup::new().start();
        gateway.signal(signal);
        let status = gateway.wait_exit(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "after {signal}: {status}");
    }
    Ok(())
}

/// Other servers of this kind end workers on WINCH; the default of ALRM would end the master.
fn meaningless_signals() -> Verdict {
    let gateway = Setup::new().start();
    let before = gateway.wait_settled();
    for (signal, name) in [(Signal::SIGWINCH, "WINCH"), (Signal::SIGALRM, "ALRM")] {
        gateway.signal(signal);
        let said = format!("signal={name}");
        wait::until_true(&said, STOP_LIMIT, || gateway.log_text().contains(&said));
    }
    let after = gateway.wait_settled();
    let pids = |status: &Status| status.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>();
    assert_eq!(pids(&before), pids(&after));
    gateway.stop();
    Ok(())
}

/// Trying again may help (3), or will not before somebody changes something (4).
fn worker_cannot_boot() -> Verdict {
    type Spoil = fn(&std::path::Path) -> std::io::Result<()>;
    let spoils: [(i32, Spoil); 2] =
        [(3, |keys| std::fs::create_dir(keys)), (4, |keys| std::fs::write(keys, "this is not a key\n"))];
    for (code, spoil) in spoils {
        let setup = Setup::new();
        std::fs::create_dir_all(setup.state_dir()).expect("the test's directory is writable");
        spoil(&setup.state_dir().join("session.keys")).expect("writable");
        let mut gateway = setup.spawn();
        let status = gateway.wait_exit(STOP_LIMIT);
        let log = gateway.log_text();
        assert_eq!(status.code(), Some(code), "{log}");
        let why = log.lines().find(|line| line.contains("a worker did not start at all"));
        let says = |line: &str| line.contains(&format!("exit code {code}")) && line.contains("session.keys");
        assert!(why.is_some_and(says), "the log says why: {log}");
    }
    Ok(())
}

fn port_taken() -> Verdict {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = holder.local_addr().expect("a bound socket has an address").to_string();
    let mut gateway = Setup::new().set("GATEWAY_BIND", &taken).spawn();
    let status = gateway.wait_exit(STOP_LIMIT);
    assert_eq!(status.code(), Some(1), "{}", gateway.log_text());
    assert!(gateway.log_text().contains(&taken), "the log names the address: {}", gateway.log_text());
    Ok(())
}

fn tokens() -> Verdict {
    let gateway = Setup::new().start();
    let status = |token: &str| {
        let endpoint = forkgate_tests::mcp::Endpoint { path: "/mcp".to_owned(), token: token.to_owned() };
        gateway.exchange(&endpoint.modern(1, "tools/list", None, "", "")).status()
    };
    assert_eq!(status(&gateway.make_token(&["--sub", "alice", "--ttl", "1h"])), 200);
    let brief = gateway.make_token(&["--sub", "alice", "--ttl", "1s"]);
    forkgate_tests::wait::until_true("the token to expire", Duration::from_secs(70), || {
        status(&brief) == 401
    });
    let plain = gateway.make_token(&["--sub", "alice"]);
    let listing = gateway.exchange(
        &Request::new("POST", "/v1/gateways")
            .token(&plain)
            .json(r#"{"name":"x","url":"http://127.0.0.1:1/"}"#),
    );
    assert_eq!(listing.status(), 403, "a token without --admin changes nothing: {}", listing.text());
    let no_secret: &mut Command = &mut gateway.setup.bare_command();
    let output = no_secret.args(["token", "create", "--sub", "x"]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(4), "a token needs the secret");
    gateway.stop();
    Ok(())
}
