//! Who gets new clients: paused slots, workers that start slowly, streams that are evened out.

use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{Connection, Request};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, wait};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "paused_slot_gets_no_new_clients", limit: LIMIT, run: paused },
    Test { name: "slow_start_of_a_crashed_slot", limit: LIMIT, run: slow_start },
    Test { name: "lopsided_streams_are_evened_out", limit: LIMIT, run: lopsided },
];

/// A request that is counted and needs nothing.
fn counted() -> Request {
    Request::new("GET", "/nothing/here")
}

/// So many requests, each over a connection of its own.
fn knock(gateway: &Gateway, times: usize) {
    for _ in 0..times {
        assert_eq!(gateway.exchange(&counted()).status(), 404);
    }
}

/// Requests that each slot has answered.
fn requests(gateway: &Gateway) -> [u64; 2] {
    let status = gateway.status();
    [0, 1].map(|slot| {
        status.serving().filter(|worker| worker.slot == slot).map(|worker| worker.requests).sum::<u64>()
    })
}

fn ctl(gateway: &Gateway, words: &[&str]) -> (bool, String) {
    let mut command = gateway.setup.command();
    let output = command.arg("ctl").args(words).output().expect("the binary starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn paused() -> Verdict {
    let gateway = Setup::new().start();
    let mut known: Vec<Connection> = Vec::new();
    wait::until_true("a client of each slot", START_LIMIT, || {
        let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
        connection.exchange(&counted()).expect("an answer");
        known.push(connection);
        requests(&gateway).iter().all(|count| *count > 0)
    });
    let (done, text) = ctl(&gateway, &["pause", "1"]);
    assert!(done && text.contains("slot 1 gets no new clients"), "{text}");
    let held = gateway.status().held_back;
    assert_eq!((held.len(), held[0].slot, held[0].why.as_str()), (1, 1, "paused"));
    let (_, table) = ctl(&gateway, &["status"]);
    assert!(table.contains("slot 1 gets no new clients: paused"), "{table}");

    let before = requests(&gateway);
    knock(&gateway, 30);
    assert_eq!(requests(&gateway), [before[0] + 30, before[1]]);
    for connection in &mut known {
        connection.exchange(&counted()).expect("its worker goes on with those it has");
    }
    let both = requests(&gateway);
    assert!(both[1] > before[1], "some of them were slot 1's");

    let (done, text) = ctl(&gateway, &["pause", "0"]);
    assert!(!done && text.contains("the last one that takes new clients"), "{text}");
    let (done, text) = ctl(&gateway, &["pause", "7"]);
    assert!(!done && text.contains("there is no slot 7"), "{text}");
    drop(known);
    let generation = gateway.status().settings_generation;
    gateway.signal(Signal::SIGHUP);
    gateway.wait_settings_after(generation);
    let before = requests(&gateway);
    knock(&gateway, 10);
    assert_eq!(requests(&gateway)[1], before[1], "the next worker of that slot is paused too");

    let (done, text) = ctl(&gateway, &["resume", "1"]);
    assert!(done && text.contains("slot 1 gets new clients"), "{text}");
    assert_eq!(gateway.status().held_back, []);
    wait::until_true("slot 1 to get clients again", START_LIMIT, || {
        knock(&gateway, 5);
        requests(&gateway)[1] > before[1]
    });
    gateway.stop();
    Ok(())
}

/// A quarter at first: 1 of 5 with two slots, where chance alone gives 1 of 2.
fn slow_start() -> Verdict {
    const TIMES: u64 = 200;
    let gateway = Setup::new().set("GATEWAY_SLOW_START", "30s").start();
    let worker = gateway.status().workers.iter().find(|worker| worker.slot == 1).expect("slot 1").pid;
    assert!(process::signal(worker, Signal::SIGKILL));
    wait::until_true("the next worker to start slowly", START_LIMIT, || {
        let held = gateway.status().held_back;
        held.iter().any(|held| held.slot == 1 && held.why == "slow_start" && held.share == 0.25)
    });
    let before = requests(&gateway);
    knock(&gateway, TIMES as usize);
    let after = requests(&gateway);
    let got = after[1] - before[1];
    note!("{got} of {TIMES} clients came to the worker that had just started");
    assert_eq!(after[0] + after[1], before[0] + before[1] + TIMES);
    // Expected are 40, with a deviation of 6; by hash 100, with one of 7.
    assert!((5..=75).contains(&got), "{got} of {TIMES}");
    assert_eq!(gateway.status().crashes, 1);
    gateway.stop();
    Ok(())
}

/// Opens a session's standing stream.
fn open_stream(gateway: &Gateway) -> Connection {
    let endpoint = gateway.federated();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    connection.send(&endpoint.listen(&session)).expect("sent");
    assert_eq!(connection.head().expect("a head").status, 200);
    connection
}

fn streams(gateway: &Gateway) -> [u64; 2] {
    let status = gateway.status();
    [0, 1]
        .map(|slot| status.serving().filter(|worker| worker.slot == slot).map(|worker| worker.streams).sum())
}

fn lopsided() -> Verdict {
    const MANY: usize = 24;
    const MORE: usize = 8;
    let gateway = Setup::new().start();
    assert!(ctl(&gateway, &["pause", "1"]).0);
    let mut open: Vec<Connection> = (0..MANY).map(|_| open_stream(&gateway)).collect();
    assert_eq!(streams(&gateway), [MANY as u64, 0]);
    assert!(ctl(&gateway, &["resume", "1"]).0);
    let is_repaired =
        || gateway.status().held_back.iter().any(|held| held.slot == 0 && held.why == "streams");
    wait::until_true("slot 0 to be left alone", START_LIMIT, || {
        // Looked at once a second, and only while streams are being opened.
        let before = streams(&gateway);
        let seen = wait::within(Duration::from_secs(3), || is_repaired().then_some(())).is_some();
        if !seen {
            open.push(open_stream(&gateway));
            note!("one more, at {before:?}");
        }
        seen
    });
    let before = streams(&gateway);
    open.extend((0..MORE).map(|_| open_stream(&gateway)));
    assert_eq!(streams(&gateway), [before[0], before[1] + MORE as u64], "all to the other slot");
    drop(open);
    wait::until_equal("the slots that are held back", START_LIMIT, 0, || gateway.status().held_back.len());
    gateway.stop();
    Ok(())
}
