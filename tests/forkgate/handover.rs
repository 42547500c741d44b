//! Connections move from a worker that is replaced to the next one: clients that keep theirs never see a close.

use std::net::SocketAddr;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, STOP_LIMIT, Setup, Status};
use forkgate_tests::http::{Connection, Failure, Peer, Request};
use forkgate_tests::mcp;
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{note, paths, wait};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "handover_keeps_every_connection", limit: LIMIT, run: every_connection },
    Test { name: "handover_off_announces_every_close", limit: LIMIT, run: off },
    Test { name: "handover_takes_along_what_was_half_sent", limit: LIMIT, run: half_sent },
    Test { name: "handover_leaves_behind_what_was_not_read", limit: LIMIT, run: unread },
    Test { name: "handover_works_for_every_kind_of_address", limit: LIMIT, run: kinds },
    Test { name: "handover_moves_2000_idle_connections", limit: LIMIT, run: many },
    Test { name: "handover_to_an_heir_that_is_killed_loses_only_its_own", limit: LIMIT, run: killed_heir },
    Test { name: "handover_to_the_next_slot_when_one_goes_away", limit: LIMIT, run: fewer_workers },
    Test { name: "handover_from_workers_of_the_program_before", limit: LIMIT, run: upgrade },
    Test { name: "handover_ends_with_the_service", limit: LIMIT, run: service_ends },
];

/// A grace that nobody may have to wait for: who leaves earlier has waited for no idle client.
const LONG_GRACE: &str = "50s";

fn version() -> Request {
    Request::new("GET", "/version")
}

fn open(gateway: &Gateway) -> Connection {
    Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection")
}

/// Connections that have asked once and are idle.
fn idle(gateway: &Gateway, count: usize) -> Vec<Connection> {
    let opened = (0..count).map(|number| {
        let mut connection = open(gateway);
        let asked = connection.exchange(&version());
        asked.unwrap_or_else(|failure| panic!("connection {number}: {failure}"));
        connection
    });
    opened.collect()
}

/// An operator's TERM to the worker of a slot; waits until it has left.
fn replace(gateway: &Gateway, slot: u32) {
    let old = gateway.wait_settled().workers[slot as usize].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    wait::until_true("the old worker to leave", LIMIT, || !process::alive(old));
}

/// Clients that call a tool again and again, each on its one connection, while workers are recycled by request count 20
/// times and the settings are reloaded 5 times.
fn every_connection() -> Verdict {
    const CLIENTS: usize = 6;
    let gateway = Setup::new()
        .set("GATEWAY_MAX_REQUESTS", "60")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "10")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.01")
        .set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE)
        .start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| open(&gateway)).collect();
    let session = endpoint.open_session(&mut clients[0]).expect("a session");
    let before = gateway.status();
    let mut id = 0;
    let mut round = || {
        for client in &mut clients {
            id += 1;
            let arguments = json!({"message": format!("number {id}")});
            let call = match id % 2 {
                0 => endpoint.legacy_call(&session, id, "fast__echo", &arguments),
                _ => endpoint.call(id, "fast__echo", &arguments),
            };
            let answer = client.exchange(&call).unwrap_or_else(|failure| panic!("call {id}: {failure}"));
            assert_eq!(mcp::tool_text(&answer, id), Ok(format!("number {id}")));
            assert!(!client.close_announced, "the answer to call {id} announces a close");
        }
    };
    wait::until_true("20 recycles", LIMIT, || {
        round();
        gateway.status().recycles.max_requests >= 20
    });
    for _ in 0..5 {
        let generation = gateway.status().settings_generation;
        gateway.signal(Signal::SIGHUP);
        wait::until_true("the reload", LIMIT, || {
            round();
            let status = gateway.status();
            status.settings_generation > generation
                && status.ready == status.target
                && status.serving().all(|worker| worker.settings_generation == status.settings_generation)
        });
    }
    let after = gateway.status();
    note!("{id} calls, {} recycles, {} moves", after.recycles.max_requests, after.handed_over);
    assert_eq!(after.accepted, before.accepted, "nobody has connected again");
    assert_eq!(after.crashes, 0);
    assert!(after.handed_over > CLIENTS as u64, "{after:?}");
    gateway.stop();
    Ok(())
}

fn off() -> Verdict {
    let gateway = Setup::new()
        .set("GATEWAY_CONNECTION_HANDOVER", "false")
        .set("GATEWAY_MAX_REQUESTS", "60")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.01")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let endpoint = gateway.federated();
    let mut clients: Vec<Connection> = (0..4).map(|_| open(&gateway)).collect();
    let (mut id, mut announced) = (0, 0);
    wait::until_true("10 recycles", LIMIT, || {
        for client in &mut clients {
            id += 1;
            let call = endpoint.call(id, "fast__echo", &json!({"message": "m"}));
            let answer = client.exchange(&call).unwrap_or_else(|failure| panic!("call {id}: {failure}"));
            assert_eq!(answer.status(), 200);
            if client.close_announced {
                announced += 1;
                *client = open(&gateway);
            }
        }
        gateway.status().recycles.max_requests >= 10
    });
    assert!(announced > 0, "workers that left had clients");
    assert_eq!(gateway.status().handed_over, 0);
    gateway.stop();
    Ok(())
}

/// One worker, four connections of clients and one of an operator: one that has said nothing, one that is idle, one within a request's head, and one whose
/// next request came behind the one that was being answered when its worker was told to leave.
fn half_sent() -> Verdict {
    let gateway = Setup::new().workers(1).set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE).start();
    let mut clients = idle(&gateway, 3);
    let mut silent = open(&gateway);
    let mut operator = Connection::open(gateway.admin, EXCHANGE_LIMIT).expect("a connection");
    assert_eq!(operator.exchange(&version()).expect("an answer").status(), 200);
    let text = format!("GET /version HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    let (begin, rest) = text.split_at(21);
    clients[1].send_bytes(begin.as_bytes()).expect("sent");
    clients[2].send_bytes(format!("{text}{begin}").as_bytes()).expect("sent");
    let head = clients[2].head().expect("answered although more came");
    clients[2].body(&head).expect("a body");
    wait::until_equal("the connections", LIMIT, 4, || gateway.status().workers[0].connections);
    replace(&gateway, 0);
    assert_eq!(gateway.wait_settled().handed_over, 4);
    for client in &mut clients[1..] {
        client.send_bytes(rest.as_bytes()).expect("sent");
        let head = client.head().expect("an answer by the next worker");
        assert_eq!((head.status, head.announces_close()), (200, false));
        client.body(&head).expect("a body");
    }
    for client in clients.iter_mut().chain([&mut silent, &mut operator]) {
        assert_eq!(client.exchange(&version()).expect("an answer").status(), 200);
    }
    gateway.stop();
    Ok(())
}

/// A request is refused, while its worker leaves, before its body has come: one without a token, one that grows too large.
/// What follows is the rest of a body: no worker may take it for a request, although it looks like one.
fn unread() -> Verdict {
    const LIMIT_OF_BODY: usize = 1024;
    let gateway = Setup::new()
        .workers(1)
        .set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE)
        .set("GATEWAY_MAX_BODY", "1K")
        .start();
    let head = |rest: &str| format!("POST /mcp HTTP/1.1\r\nHost: {}\r\n{rest}\r\n\r\n", gateway.address);
    let mut stranger = open(&gateway);
    let mut large = open(&gateway);
    let bearer = format!("Authorization: Bearer {}", gateway.token());
    large.send_bytes(head(&format!("{bearer}\r\nTransfer-Encoding: chunked")).as_bytes()).expect("sent");
    stranger.send_bytes(head("Content-Length: 60000").as_bytes()).expect("sent");
    wait::until_equal("both requests", LIMIT, 2, || gateway.status().workers[0].in_flight);
    let old = gateway.status().workers[0].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    wait::until_true("the worker to drain", LIMIT, || {
        gateway.status().workers.iter().any(|worker| worker.pid == old && worker.state == "draining")
    });
    let mut chunk = b"ffff\r\n".to_vec();
    chunk.resize(chunk.len() + LIMIT_OF_BODY + 1, b' ');
    large.send_bytes(&chunk).expect("sent");
    let smuggled = format!("GET /version HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    for (connection, status) in [(&mut large, 413), (&mut stranger, 401)] {
        let head = connection.head().expect("an answer");
        assert_eq!((head.status, head.announces_close()), (status, true));
        connection.body(&head).expect("a body");
        // It may be closed already.
        let _ = connection.send_bytes(smuggled.as_bytes());
        match connection.head() {
            Err(Failure::Closed | Failure::Reset) => {}
            other => panic!("after {status} the rest of a body was answered: {other:?}"),
        }
    }
    wait::until_true("the old worker to leave", LIMIT, || !process::alive(old));
    assert_eq!(gateway.wait_settled().handed_over, 0);
    gateway.stop();
    Ok(())
}

/// IPv4, IPv6, a unix socket: over three replacements each connection is the first one.
fn kinds() -> Verdict {
    let setup = Setup::new().workers(1).set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE);
    let path = setup.state_dir().parent().expect("a directory").join("http.sock");
    let four = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let six = skip::ipv6_address()?;
    let gateway = setup.set("GATEWAY_BIND", format!("{four},{six},unix:{}", path.display())).start();
    let peers = [Peer::from(four), Peer::from(six), Peer::from(path)];
    let open = |peer: &Peer| Connection::open(peer, EXCHANGE_LIMIT).expect("a connection");
    let mut clients = peers.each_ref().map(open);
    for turn in 0..=3 {
        for (client, peer) in clients.iter_mut().zip(&peers) {
            let answer = client.exchange(&version()).unwrap_or_else(|failure| panic!("{peer:?}: {failure}"));
            assert_eq!((answer.status(), client.close_announced), (200, false), "{peer:?}");
        }
        assert_eq!(gateway.wait_settled().handed_over, 3 * turn);
        replace(&gateway, 0);
    }
    gateway.stop();
    Ok(())
}

fn many() -> Verdict {
    const IDLE: usize = 2000;
    process::raise_descriptor_limit();
    let gateway = Setup::new().set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE).start();
    let mut clients = idle(&gateway, IDLE);
    let begun = std::time::Instant::now();
    gateway.reload();
    note!("{IDLE} idle connections: both workers replaced within {:.1} s", begun.elapsed().as_secs_f64());
    let status = gateway.status();
    assert_eq!(status.handed_over, IDLE as u64);
    assert_eq!(status.workers.iter().map(|worker| worker.connections).sum::<u64>(), IDLE as u64);
    for client in &mut clients {
        assert_eq!(client.exchange(&version()).expect("an answer").status(), 200);
        assert!(!client.close_announced);
    }
    gateway.stop();
    Ok(())
}

/// What the heir has said that it has dies with it; what it has not stays with the worker that leaves, and is served.
fn killed_heir() -> Verdict {
    const IDLE: usize = 2000;
    process::raise_descriptor_limit();
    let gateway = Setup::new().workers(1).set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE).start();
    let mut clients = idle(&gateway, IDLE);
    let old = gateway.wait_settled().workers[0].pid;
    assert!(process::signal(old, Signal::SIGTERM), "worker {old} is there");
    let heir = wait::until("the heir", LIMIT, || {
        process::children(gateway.pid()).into_iter().find(|pid| *pid != old)
    });
    wait::until_true("the first moves", LIMIT, || {
        !process::accepted_clients(heir, gateway.address.port()).is_empty()
    });
    assert!(process::signal(heir, Signal::SIGKILL), "the heir is there");
    wait::until_true("the heir's end", LIMIT, || !process::alive(heir));
    // The worker that leaves answers.
    let (mut answered, mut lost) = (0, 0);
    for client in &mut clients {
        match client.exchange(&version()) {
            Ok(_) => {
                answered += 1;
                // Answered before it knew of the heir's end: the connection has its grace, unless it asks again.
                wait::until_true("the announced close", LIMIT, || {
                    if !client.close_announced {
                        client.exchange(&version()).expect("an answer");
                    }
                    client.close_announced
                });
            }
            Err(Failure::Closed | Failure::Reset) => lost += 1,
            Err(failure) => panic!("{failure}"),
        }
    }
    let moved = gateway.wait_settled().handed_over;
    note!("of {IDLE} idle connections {moved} had moved; {answered} were answered, {lost} lost");
    assert_eq!((answered + lost, lost), (IDLE as u64, moved));
    gateway.stop();
    Ok(())
}

/// TTOU: the connections of the slot that goes away are the next one's.
fn fewer_workers() -> Verdict {
    const IDLE: usize = 40;
    let gateway = Setup::new().set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE).start();
    let mut clients = idle(&gateway, IDLE);
    let leaver = gateway.wait_settled().workers.pop().expect("two workers");
    gateway.signal(Signal::SIGTTOU);
    wait::until_equal("the workers", LIMIT, 1, || gateway.status().workers.len());
    let status = gateway.wait_settled();
    assert!(leaver.connections > 0, "chance left it out");
    assert_eq!((status.handed_over, status.workers[0].connections), (leaver.connections, IDLE as u64));
    for client in &mut clients {
        assert_eq!(client.exchange(&version()).expect("an answer").status(), 200);
        assert!(!client.close_announced);
    }
    gateway.stop();
    Ok(())
}

/// USR2: a master that has become another process image introduces workers that it did not start.
fn upgrade() -> Verdict {
    const IDLE: usize = 20;
    let gateway = Setup::new().installed().set("GATEWAY_KEEPALIVE_GRACE", LONG_GRACE).start();
    let mut clients = idle(&gateway, IDLE);
    let before = gateway.wait_settled();
    gateway.install(&std::fs::read(paths::forkgate()).expect("the binary under test is there"), 0o755);
    gateway.signal(Signal::SIGUSR2);
    let after = wait::until("every worker to be a new one", LIMIT, || {
        let old = |pid| before.workers.iter().any(|worker| worker.pid == pid);
        let is_done = |now: &Status| {
            now.upgrades == 1 && now.is_settled() && !now.workers.iter().any(|worker| old(worker.pid))
        };
        Some(gateway.status()).filter(is_done)
    });
    assert_eq!((after.handed_over, after.accepted), (IDLE as u64, before.accepted));
    for client in &mut clients {
        assert_eq!(client.exchange(&version()).expect("an answer").status(), 200);
        assert!(!client.close_announced);
    }
    gateway.stop();
    Ok(())
}

/// Where everybody leaves there is no heir: answers announce the close, idle connections have their grace.
fn service_ends() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_KEEPALIVE_GRACE", "1s").start();
    let mut clients = idle(&gateway, 8);
    gateway.signal(Signal::SIGTERM);
    wait::until_true("the close to be announced", LIMIT, || {
        let answer = clients[0].exchange(&version()).expect("an answer");
        answer.head.announces_close()
    });
    for client in &mut clients[1..] {
        assert!(client.exchange(&version()).expect("an answer").head.announces_close());
    }
    assert_eq!(gateway.wait_exit(STOP_LIMIT).code(), Some(0));
    Ok(())
}
