//! Closed-loop clients of three kinds that check every answer and count every way to lose one.
//!
//! | kind | does | an error is |
//! |---|---|---|
//! | fresh | connects for each request | anything but the right answer |
//! | keep-alive | one request after another on one connection | the same, and a close that no answer had announced |
//! | stream | holds a session's standing stream open | its end by anything but a clean last chunk, or a failed reopening |

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::{Connection, Failure, Peer};
use crate::latency::Latency;
use crate::mcp::{self, Endpoint};
use crate::wait;

/// How long any client waits for anything before it counts a hang.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a stream is listened to before the client looks whether it should stop.
const STREAM_TURN: Duration = Duration::from_millis(200);
/// Errors that are kept with their details; all are counted.
const KEPT_ERRORS: usize = 2_000;
/// From this on an answer counts as slow: nothing that works takes so long.
pub const SLOW: Duration = Duration::from_millis(500);
/// Slow answers that are kept with their details; all are counted.
const KEPT_SLOW: usize = 2_000;
/// Pause of a client that lost something, as a real one makes: it would else only count how fast it is refused.
const PAUSE_AFTER_LOSS: Duration = Duration::from_millis(10);
/// Fresh connections from one source address before the next is used: a port is unusable for a minute.
const PER_SOURCE: u64 = 8_000;

/// The kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table of the module says it")]
pub enum Kind {
    Fresh,
    KeepAlive,
    Stream,
}

/// What went wrong, where and when.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Whose it was.
    pub kind: Kind,
    /// How.
    pub failure: Failure,
    /// The client's own address, when it had a connection.
    pub client: Option<SocketAddr>,
    /// When it was noticed.
    pub at: Instant,
}

/// A right answer that took its time.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// The client's own address.
    pub client: SocketAddr,
    /// When the client began: to connect, or to send where it was connected.
    pub began: Instant,
    /// Until it had the answer.
    pub took: Duration,
}

/// Who is to make load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The gateway.
    pub peer: Peer,
    /// Where and as whom.
    pub endpoint: Endpoint,
    /// A tool that returns `message`.
    pub echo: String,
    /// Clients that connect anew for each request.
    pub fresh: usize,
    /// Clients that keep their connection.
    pub keep_alive: usize,
    /// Open streams.
    pub streams: usize,
    /// From an answer to the same client's next request.
    pub pause: Duration,
    /// Network namespace to run in (`/proc/PID/ns/net`).
    pub network: Option<PathBuf>,
}

impl Plan {
    /// The three kinds together, as many as two cores bear beside the gateway.
    pub fn mixed(peer: impl Into<Peer>, endpoint: Endpoint, echo: &str) -> Plan {
        let (pause, network) = (Duration::ZERO, None);
        Plan {
            peer: peer.into(),
            endpoint,
            echo: echo.to_owned(),
            fresh: 4,
            keep_alive: 6,
            streams: 6,
            pause,
            network,
        }
    }

    /// Three or four requests per second: less than what shows the watchdog that a busy loop gets something done.
    pub fn light(peer: impl Into<Peer>, endpoint: Endpoint, echo: &str) -> Plan {
        let pause = Duration::from_millis(600);
        Plan { fresh: 1, keep_alive: 1, streams: 1, pause, ..Plan::mixed(peer, endpoint, echo) }
    }
}

#[derive(Default)]
struct Counts {
    answered: [AtomicU64; 2],
    streams_opened: AtomicU64,
    streams_ended: AtomicU64,
    announced_closes: AtomicU64,
    lost: AtomicU64,
    slow: AtomicU64,
}

struct Shared {
    plan: Plan,
    stop: AtomicBool,
    counts: Counts,
    errors: Mutex<Vec<Lost>>,
    slow: Mutex<Vec<Slow>>,
    latency: Latency,
}

impl Shared {
    /// One more right answer.
    fn answered(&self, kind: Kind, client: SocketAddr, began: Instant) {
        self.counts.answered[kind as usize].fetch_add(1, Relaxed);
        let took = began.elapsed();
        self.latency.record(took);
        if took < SLOW {
            return;
        }
        self.counts.slow.fetch_add(1, Relaxed);
        let mut slow = self.slow.lock().expect("no client panics with the lock");
        if slow.len() < KEPT_SLOW {
            slow.push(Slow { client, began, took });
        }
    }

    fn running(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    fn rest(&self) {
        if !self.plan.pause.is_zero() {
            std::thread::sleep(self.plan.pause);
        }
    }

    fn lose(&self, kind: Kind, failure: Failure, client: Option<SocketAddr>) {
        self.counts.lost.fetch_add(1, Relaxed);
        let mut errors = self.errors.lock().expect("no client panics with the lock");
        if errors.len() < KEPT_ERRORS {
            errors.push(Lost { kind, failure, client, at: Instant::now() });
        }
        drop(errors);
        std::thread::sleep(PAUSE_AFTER_LOSS);
    }
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What clients saw.
#[derive(Debug)]
#[expect(missing_docs, reason = "plain counts")]
pub struct Report {
    pub fresh: u64,
    pub keep_alive: u64,
    pub streams_opened: u64,
    pub streams_ended: u64,
    pub announced_closes: u64,
    pub lost: u64,
    pub errors: Vec<Lost>,
    /// Right answers after [`SLOW`] or later.
    pub slow_answers: u64,
    pub slow: Vec<Slow>,
    /// How long right answers took: median and 99th percentile.
    pub p50: Duration,
    pub p99: Duration,
}

impl Load {
    /// Starts the clients; returns when each kind has got its first answers.
    pub fn start(plan: Plan) -> Load {
        let (fresh, keep_alive, streams) = (plan.fresh, plan.keep_alive, plan.streams);
        let shared = Arc::new(Shared {
            plan,
            stop: AtomicBool::new(false),
            counts: Counts::default(),
            errors: Mutex::new(Vec::new()),
            slow: Mutex::new(Vec::new()),
            latency: Latency::default(),
        });
        let mut threads = Vec::new();
        for (kind, clients) in [(Kind::Fresh, fresh), (Kind::KeepAlive, keep_alive), (Kind::Stream, streams)]
        {
            for number in 0..clients {
                let shared = shared.clone();
                threads.push(std::thread::spawn(move || client(&shared, kind, number as u8)));
            }
        }
        let load = Load { shared, threads };
        wait::until_true("every kind of client to be served", PATIENCE, || {
            let counts = &load.shared.counts;
            (fresh == 0 || counts.answered[0].load(Relaxed) > 0)
                && (keep_alive == 0 || counts.answered[1].load(Relaxed) > 0)
                && counts.streams_opened.load(Relaxed) >= streams as u64
                || counts.lost.load(Relaxed) > 0
        });
        load
    }

    /// Right answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.counts.answered.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Waits until `more` further requests have been answered.
    pub fn wait_for(&self, more: u64) {
        let wanted = self.answered() + more;
        wait::until_true("the clients to be served", PATIENCE * 4, || self.answered() >= wanted);
    }

    /// Errors so far.
    pub fn lost(&self) -> u64 {
        self.shared.counts.lost.load(Relaxed)
    }

    /// Ends the clients, each after the answer it waits for.
    pub fn stop(mut self) -> Report {
        self.end();
        let counts = &self.shared.counts;
        Report {
            fresh: counts.answered[0].load(Relaxed),
            keep_alive: counts.answered[1].load(Relaxed),
            streams_opened: counts.streams_opened.load(Relaxed),
            streams_ended: counts.streams_ended.load(Relaxed),
            announced_closes: counts.announced_closes.load(Relaxed),
            lost: counts.lost.load(Relaxed),
            errors: std::mem::take(&mut *self.shared.errors.lock().expect("no client panics with the lock")),
            slow_answers: counts.slow.load(Relaxed),
            slow: std::mem::take(&mut *self.shared.slow.lock().expect("no client panics with the lock")),
            p50: self.shared.latency.quantile(0.5),
            p99: self.shared.latency.quantile(0.99),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} answers on fresh connections, {} on kept ones ({} announced closes), {} streams opened ({} ended), {} lost",
            self.fresh,
            self.keep_alive,
            self.announced_closes,
            self.streams_opened,
            self.streams_ended,
            self.lost
        )
    }
}

impl Report {
    /// Zero refused, reset, wrong, cut, hung or closed without a word.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let shown: Vec<&Lost> = self.errors.iter().take(12).collect();
        assert_eq!(self.lost, 0, "{self}: {shown:#?}");
    }
}

fn client(shared: &Shared, kind: Kind, number: u8) {
    if let Some(network) = &shared.plan.network {
        let namespace = std::fs::File::open(network).expect("the network namespace exists");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("root may enter a namespace");
    }
    match kind {
        Kind::Fresh => fresh(shared, number),
        Kind::KeepAlive => keep_alive(shared, number),
        Kind::Stream => stream(shared, number),
    }
}

/// A loopback address of this client's own, another one after every [`PER_SOURCE`] connections.
fn source(kind: Kind, number: u8, connections: u64) -> Ipv4Addr {
    let turn = (connections / PER_SOURCE % 200) as u8;
    Ipv4Addr::new(127, 1 + kind as u8, turn, 1 + number)
}

fn call(shared: &Shared, connection: &mut Connection, session: Option<&str>, id: u64) -> Result<(), Failure> {
    let plan = &shared.plan;
    let sent = format!("message {id}");
    let arguments = json!({"message": sent});
    let request = match session {
        Some(session) => plan.endpoint.legacy_call(session, id, &plan.echo, &arguments),
        None => plan.endpoint.call(id, &plan.echo, &arguments),
    };
    let got = mcp::tool_text(&connection.exchange(&request)?, id)?;
    if got == sent { Ok(()) } else { Err(Failure::Wrong(format!("sent {sent:?}, got {got:?}"))) }
}

/// Alternates between the eras, so that each connection proves that any worker serves any session.
fn fresh(shared: &Shared, number: u8) {
    let (mut id, mut session) = (u64::from(number) << 32, None);
    while shared.running() {
        id += 1;
        let began = Instant::now();
        let opened =
            Connection::open_from(source(Kind::Fresh, number, id & 0xffff_ffff), &shared.plan.peer, PATIENCE);
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(failure) => {
                shared.lose(Kind::Fresh, failure, None);
                continue;
            }
        };
        let mut exchange = || -> Result<(), Failure> {
            if session.is_none() {
                session = Some(shared.plan.endpoint.open_session(&mut connection)?);
                if connection.close_announced {
                    return Ok(());
                }
            }
            call(shared, &mut connection, session.as_deref().filter(|_| id.is_multiple_of(2)), id)
        };
        match exchange() {
            Ok(()) => shared.answered(Kind::Fresh, connection.local, began),
            Err(failure) => shared.lose(Kind::Fresh, failure, Some(connection.local)),
        }
        shared.rest();
    }
}

fn keep_alive(shared: &Shared, number: u8) {
    let (mut id, mut opened) = ((1 << 40) + (u64::from(number) << 32), 0);
    let mut session = None;
    while shared.running() {
        opened += 1;
        match Connection::open_from(source(Kind::KeepAlive, number, opened), &shared.plan.peer, PATIENCE) {
            Ok(mut connection) => {
                if let Err(failure) = converse(shared, &mut connection, &mut session, &mut id) {
                    shared.lose(Kind::KeepAlive, failure, Some(connection.local));
                }
            }
            Err(failure) => shared.lose(Kind::KeepAlive, failure, None),
        }
    }
}

/// Request after request until the server announces its close; a close without that is a failure.
fn converse(
    shared: &Shared,
    connection: &mut Connection,
    session: &mut Option<String>,
    id: &mut u64,
) -> Result<(), Failure> {
    if session.is_none() {
        *session = Some(shared.plan.endpoint.open_session(connection)?);
    }
    while shared.running() {
        if connection.close_announced {
            shared.counts.announced_closes.fetch_add(1, Relaxed);
            return Ok(());
        }
        *id += 1;
        let began = Instant::now();
        call(shared, connection, session.as_deref(), *id)?;
        shared.answered(Kind::KeepAlive, connection.local, began);
        shared.rest();
    }
    Ok(())
}

fn stream(shared: &Shared, number: u8) {
    let (mut opened, mut session) = (0, None);
    while shared.running() {
        opened += 1;
        match Connection::open_from(source(Kind::Stream, number, opened), &shared.plan.peer, PATIENCE) {
            Ok(mut connection) => {
                if let Err(failure) = listen(shared, &mut connection, &mut session) {
                    shared.lose(Kind::Stream, failure, Some(connection.local));
                }
            }
            Err(failure) => shared.lose(Kind::Stream, failure, None),
        }
    }
}

/// Opens the session's stream and reads it to its clean end.
fn listen(shared: &Shared, connection: &mut Connection, session: &mut Option<String>) -> Result<(), Failure> {
    let id = match session {
        Some(id) => id,
        None => session.insert(shared.plan.endpoint.open_session(connection)?),
    };
    if connection.close_announced {
        return Ok(());
    }
    connection.send(&shared.plan.endpoint.listen(id))?;
    let head = connection.head()?;
    if head.status != 200 {
        let body = connection.body(&head)?;
        return Err(mcp::wrong("the standing stream", &crate::http::Answer { head, body }));
    }
    shared.counts.streams_opened.fetch_add(1, Relaxed);
    while shared.running() {
        match connection.chunk(STREAM_TURN) {
            Ok(Some(_)) | Err(Failure::TimedOut) => {}
            Ok(None) => {
                shared.counts.streams_ended.fetch_add(1, Relaxed);
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
