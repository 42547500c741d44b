//! Ten clients post 16 KiB each, every time over a new connection, while everything is restarted again and again.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{Connection, Failure};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{mcp, note, paths, wait};
use serde_json::json;

pub const TESTS: &[Test] =
    &[Test { name: "posts_of_16_kib_survive_restarts", limit: Duration::from_secs(120), run: posts }];

const CLIENTS: u8 = 10;
/// What each client posts at least.
const POSTS: u64 = 300;
const BYTES: usize = 16 * 1024;
/// Connections from one source address before the next is used: a port is unusable for a minute.
const PER_SOURCE: u64 = 8_000;

fn restarts() -> usize {
    if paths::soaking() { 150 } else { 6 }
}

/// What the clients share.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    posted: [AtomicU64; CLIENTS as usize],
    lost: Mutex<Vec<Failure>>,
}

/// Lets the clients end also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn posts() -> Verdict {
    let gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    gateway.token();
    let clients = Clients::default();
    let (address, endpoint) = (gateway.address, gateway.federated());
    let post = |client: u8, number: u64| -> Result<(), Failure> {
        let source = Ipv4Addr::new(127, 9, (number / PER_SOURCE) as u8, 1 + client);
        let message = format!("{client} {number} {}", "x".repeat(BYTES));
        let id = (u64::from(client) << 32) + number;
        let call = endpoint.call(id, "fast__echo", &json!({"message": message}));
        let answer = Connection::open_from(source, address, EXCHANGE_LIMIT)?.exchange(&call)?;
        let got = mcp::tool_text(&answer, id)?;
        if got == message { Ok(()) } else { Err(Failure::Wrong(format!("{} bytes came back", got.len()))) }
    };
    std::thread::scope(|scope| {
        let _stop = Stop(&clients.stop);
        for client in 0..CLIENTS {
            let (clients, post) = (&clients, &post);
            scope.spawn(move || {
                let posted = &clients.posted[usize::from(client)];
                while !clients.stop.load(Relaxed) || posted.load(Relaxed) < POSTS {
                    match post(client, posted.fetch_add(1, Relaxed)) {
                        Ok(()) => {}
                        Err(failure) => clients.lost.lock().expect("nobody panics with it").push(failure),
                    }
                }
            });
        }
        for turn in 0..restarts() {
            if turn % 2 == 0 { gateway.reload() } else { replace_one(&gateway) }
        }
    });
    let lost = clients.lost.into_inner().expect("nobody panics with it");
    let posted: u64 = clients.posted.iter().map(|count| count.load(Relaxed)).sum();
    note!("{posted} posts through {} restarts, {} lost", restarts(), lost.len());
    assert!(lost.is_empty(), "{} of {posted} lost: {:?}", lost.len(), &lost[..lost.len().min(12)]);
    let status = gateway.wait_settled();
    assert_eq!(status.crashes, 0, "{status:?}");
    gateway.drain();
    Ok(())
}

/// TERM to one worker, which asks for a replacement.
fn replace_one(gateway: &Gateway) {
    let old = gateway.wait_settled().workers[0].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    wait::until_true("the old worker to leave", START_LIMIT, || !process::alive(old));
}
