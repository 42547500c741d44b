//! `forkgate ctl events`: what has happened is there for whoever asks, and nobody who listens can hold the master up.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, STOP_LIMIT, Setup};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "ctl_events_tell_the_life_of_a_worker", limit: LIMIT, run: life },
    Test { name: "ctl_events_go_on_over_an_upgrade_to_the_end", limit: LIMIT, run: follow },
    Test { name: "ctl_events_wait_for_no_reader", limit: LIMIT, run: no_reader },
];

fn parse(text: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn events(gateway: &Gateway) -> Vec<Value> {
    let output = gateway.ctl(&["events", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout)
}

/// The names of the events about a process.
fn about(events: &[Value], pid: u32) -> Vec<&str> {
    events.iter().filter(|event| event["pid"] == pid).filter_map(|event| event["event"].as_str()).collect()
}

fn life() -> Verdict {
    let gateway = Setup::new().start();
    let old = gateway.status().workers[0].pid;
    assert!(gateway.ctl_json(&["worker", "0", "recycle"]).0);
    gateway.wait_settled();
    let crashed = gateway.status().workers[1].pid;
    assert!(process::signal(crashed, Signal::SIGKILL));
    wait::until_true("its end to be told", START_LIMIT, || {
        events(&gateway).iter().any(|event| event["event"] == "crashed")
    });
    let all = events(&gateway);
    assert_eq!(about(&all, old), ["started", "ready", "draining", "gone"], "{all:?}");
    assert_eq!(about(&all, crashed), ["started", "ready", "gone", "reported"], "{all:?}");
    let find = |name: &str, slot: u32| {
        let found = all.iter().find(|event| event["event"] == name && event["slot"] == slot);
        found.unwrap_or_else(|| panic!("no {name} of slot {slot} in {all:?}"))
    };
    assert_eq!(
        (&find("recycling", 0)["reason"], &find("draining", 0)["reason"]),
        (&json!("operator"), &json!("operator"))
    );
    assert_eq!(find("gone", 1)["reason"], "signal SIGKILL");
    find("crashed", 1);
    let seqs: Vec<u64> = all.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&gateway.ctl(&["events"]).stdout).into_owned();
    assert!(
        text.lines().any(|line| line.contains("ready") && line.contains(&format!("pid {old}"))),
        "{text}"
    );
    gateway.stop();
    Ok(())
}

fn follow() -> Verdict {
    let mut gateway = Setup::new().installed().start();
    let follower = gateway.begin_ctl(&["events", "--follow", "--json"]);
    let output = gateway.ctl(&["upgrade"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(gateway.ctl(&["drain"]).status.success());
    assert_eq!(gateway.wait_exit(STOP_LIMIT).code(), Some(0));
    let output = follower.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = parse(&output.stdout);
    assert!(output.status.success(), "{said}");
    let seqs: Vec<u64> = all.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>(), "each once, none is missing: {said}");
    let at = |name: &str| {
        all.iter().position(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name} in {all:?}"))
    };
    assert!(at("serving") < at("upgrade_ended") && at("upgrade_ended") < at("stopping"), "{all:?}");
    assert_eq!(at("stopped"), all.len() - 1, "the last word");
    Ok(())
}

/// Readers that never read: the others are served as if they were not there, and they are told what they missed.
fn no_reader() -> Verdict {
    const TURNS: usize = 400;
    let gateway = Setup::new().start();
    let socket = gateway.setup.state_dir().join("ctl.sock");
    let mut silent: Vec<UnixStream> = (0..16)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("the socket is there");
            stream.write_all(b"{\"command\":\"events\",\"follow\":true}\n").expect("a request");
            stream
        })
        .collect();
    wait::until_true("all places to be taken", START_LIMIT, || {
        let output = gateway.ctl(&["events"]);
        String::from_utf8_lossy(&output.stderr).contains("too many clients read events")
    });
    let order = |command: &str| {
        let mut stream = UnixStream::connect(&socket).expect("the socket is there");
        stream.set_read_timeout(Some(EXCHANGE_LIMIT)).expect("a limit");
        stream
            .write_all(format!("{{\"command\":\"{command}\",\"slot\":1}}\n").as_bytes())
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("done"), "{answer}");
    };
    for _ in 0..TURNS {
        order("pause");
        order("resume");
    }
    drop(silent.split_off(1));
    let all = wait::until("a place", START_LIMIT, || {
        let output = gateway.ctl(&["events", "--json"]);
        output.status.success().then(|| parse(&output.stdout))
    });
    let paused = all.iter().filter(|event| event["event"] == "paused").count();
    assert_eq!(paused, TURNS);
    gateway.stop();
    Ok(())
}
