//! Calls that the upstream keeps for itself while the gateway is reloaded: who took them stays and answers them, new clients
//! go to others, and then the old workers leave. Ten times.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, Setup};
use forkgate_tests::http::{Answer, Connection, Request};
use forkgate_tests::process::Signal;
use forkgate_tests::raw::{Plays, Raw, result_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{mcp, process, wait};
use serde_json::json;

pub const TESTS: &[Test] = &[Test {
    name: "calls_that_the_upstream_holds_outlive_reloads",
    limit: Duration::from_secs(120),
    run: outlive,
}];

const ROUNDS: usize = 10;
const CALLS: usize = 3;
/// Enough that each worker gets some, all but certainly.
const NEW_CLIENTS: usize = 24;

/// Lets the calls of a round go when it is opened for that round.
#[derive(Default)]
struct Gate {
    opened: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self, round: usize) {
        let mut opened = self.opened.lock().expect("nobody panics with it");
        while *opened <= round {
            opened = self.changed.wait(opened).expect("nobody panics with it");
        }
    }

    fn open(&self, round: usize) {
        *self.opened.lock().expect("nobody panics with it") = round + 1;
        self.changed.notify_all();
    }
}

fn outlive() -> Verdict {
    let gateway = Setup::new().set("GATEWAY_KEEPALIVE_GRACE", "0.5").start();
    let gate = Arc::new(Gate::default());
    let (waiting, arrived) = (Arc::clone(&gate), Arc::new(Mutex::new(0)));
    let counted = Arc::clone(&arrived);
    let upstream = Raw::start(Plays::Modern, move |request, stream| {
        let round = {
            let mut arrived = counted.lock().expect("nobody panics with it");
            *arrived += 1;
            (*arrived - 1) / CALLS
        };
        waiting.pass(round);
        stream.write_all(&result_answer(
            request,
            r#"{"content":[{"type":"text","text":"late"}],"resultType":"complete"}"#,
        ))
    });
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let (endpoint, port) = (gateway.federated(), gateway.address.port());
    let connect = || Connection::open(gateway.address, START_LIMIT).expect("a connection");
    for round in 0..ROUNDS {
        let before = gateway.wait_settled();
        let old: Vec<u32> = before.workers.iter().map(|worker| worker.pid).collect();
        let mut idle = connect();
        idle.exchange(&Request::new("GET", "/health")).expect("an answer");
        let mut held: Vec<Connection> = (0..CALLS).map(|_| connect()).collect();
        for (id, connection) in held.iter_mut().enumerate() {
            connection.send(&endpoint.call(id as u64, "raw__odd", &json!({}))).expect("sent");
        }
        wait::until_equal("the calls to arrive", EXCHANGE_LIMIT, (round + 1) * CALLS, || {
            *arrived.lock().expect("nobody panics with it")
        });
        let holders: Vec<u32> = old.iter().copied().filter(|&pid| holds(pid, port, &held)).collect();
        gateway.signal(Signal::SIGHUP);
        let leaving = wait::until("a worker with such a call to be replaced", START_LIMIT, || {
            let workers = gateway.status().workers;
            let leaving =
                workers.iter().find(|worker| worker.state == "draining" && holders.contains(&worker.pid));
            leaving.map(|worker| worker.pid)
        });
        // New clients are served, by others.
        let mut new: Vec<Connection> = (0..NEW_CLIENTS).map(|_| connect()).collect();
        for connection in &mut new {
            let answer = connection.exchange(&Request::new("GET", "/ready")).expect("an answer");
            assert_eq!(answer.status(), 200);
        }
        assert!(!holds(leaving, port, &new), "a worker that leaves has a new client");
        assert!(holders.iter().all(|&pid| process::alive(pid)), "who holds a call stays");
        // Who was idle finds out at his next request at the latest, and comes back.
        if idle.is_closed() || idle.exchange(&Request::new("GET", "/health")).is_err() {
            idle = connect();
        }
        drop((idle, new));
        gate.open(round);
        for (id, connection) in held.iter_mut().enumerate() {
            let head = connection.head().unwrap_or_else(|failure| panic!("a held call was lost: {failure}"));
            let body =
                connection.body(&head).unwrap_or_else(|failure| panic!("a held call was cut: {failure}"));
            let text = mcp::tool_text(&Answer { head, body }, id as u64).expect("the upstream's answer");
            assert_eq!(text, "late");
        }
        drop(held);
        let after = gateway.wait_settings_after(before.settings_generation);
        assert!(old.iter().all(|&pid| !process::alive(pid)), "the old workers are gone: {after:?}");
    }
    let status = gateway.wait_settled();
    assert_eq!((status.crashes, status.kills.values().sum::<u64>()), (0, 0), "{status:?}");
    gateway.drain();
    Ok(())
}

fn holds(pid: u32, port: u16, connections: &[Connection]) -> bool {
    let accepted = process::accepted_clients(pid, port);
    connections.iter().any(|connection| accepted.contains(&connection.local))
}
