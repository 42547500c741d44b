//! mcpload: closed-loop MCP streamable-HTTP load generator. See README.md.
#![expect(
    clippy::disallowed_methods,
    reason = "spawn_local: a single-threaded tool, no worker whose tasks need names"
)]

mod answer;
mod args;
mod client;
mod procs;
mod report;
mod sockets;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use args::Args;
use client::{Client, Failure};
use procs::{Group, Usage};
use report::Report;

/// What the connections share with the main task.
pub struct Shared {
    /// What was asked for.
    pub args: Args,
    /// What was found so far.
    pub report: RefCell<Report>,
    /// Answers count only while this is set.
    pub measuring: Cell<bool>,
    /// Ask the connections to finish their request and leave.
    pub stop: Cell<bool>,
    /// Connections that are through their handshake.
    pub ready: Cell<usize>,
    next_n: Cell<u64>,
    /// Holds the connections back until all are through their handshake (or the wait is over).
    pub start: tokio::sync::Notify,
    /// The hold is over.
    pub started: Cell<bool>,
}

impl Shared {
    /// A number unique to one request of this run.
    pub fn unique(&self) -> u64 {
        let n = self.next_n.get() + 1;
        self.next_n.set(n);
        n
    }

    async fn wait_start(&self) {
        while !self.started.get() {
            self.start.notified().await;
        }
    }
}

/// One closed-loop connection.
async fn load_loop(sh: Rc<Shared>) {
    let mut client = Client::new(sh.clone());
    let t = Instant::now();
    match client.open().await {
        Ok(()) => sh.report.borrow_mut().handshake(t.elapsed()),
        Err(f) => sh.report.borrow_mut().handshake_failed(f),
    }
    sh.ready.set(sh.ready.get() + 1);
    sh.wait_start().await;

    let think = Duration::from_millis(sh.args.think_ms);
    while !sh.stop.get() {
        if !client.is_open() {
            if sh.measuring.get() {
                sh.report.borrow_mut().reconnects += 1;
            }
            if let Err(f) = client.open().await {
                sh.report.borrow_mut().error(f, sh.measuring.get());
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        }
        let t = Instant::now();
        let outcome = client.request().await;
        let took = t.elapsed();
        let measuring = sh.measuring.get();
        match outcome {
            Ok(()) if measuring => sh.report.borrow_mut().ok(took),
            Ok(()) => {}
            Err(Failure::Closed) => client.close(), // closed while idle: reopen, not an error
            Err(f) => {
                let broken = f.breaks_connection();
                sh.report.borrow_mut().error(f, measuring);
                if broken {
                    client.close();
                }
                // Never spin on a server that fails at once.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
    }
    if sh.args.delete {
        client.delete_session().await;
    }
}

/// One SSE stream, held open until the run ends.
async fn stream_loop(sh: Rc<Shared>) {
    let mut client = Client::new(sh.clone());
    let opened = match sh.args.stream_path {
        Some(_) => client.open_bare().await,
        None => client.open().await,
    };
    if let Err(f) = opened {
        sh.report.borrow_mut().stream_failed(f);
        return;
    }
    match client.hold_stream().await {
        Ok(()) => sh.report.borrow_mut().streams_closed_early += 1,
        Err(f) => sh.report.borrow_mut().stream_failed(f),
    }
}

async fn wait_ok(sh: Rc<Shared>, limit: Duration) -> u8 {
    let t = Instant::now();
    let mut tries = 0u64;
    let mut last = String::new();
    while t.elapsed() < limit {
        tries += 1;
        let mut c = Client::new(sh.clone());
        let r = match c.open().await {
            Ok(()) => c.request().await,
            Err(f) => Err(f),
        };
        match r {
            Ok(()) => {
                let ms = t.elapsed().as_secs_f64() * 1e3;
                c.delete_session().await;
                println!(r#"{{"wait_ms":{ms:.1},"tries":{tries}}}"#);
                return 0;
            }
            Err(f) => last = f.kind(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(r#"{{"wait_ms":null,"tries":{tries},"last":"{last}"}}"#);
    1
}

async fn run(args: Args) -> u8 {
    let sh = Rc::new(Shared {
        report: RefCell::new(Report::new(&args)),
        args,
        measuring: Cell::new(false),
        stop: Cell::new(false),
        ready: Cell::new(0),
        next_n: Cell::new(0),
        start: tokio::sync::Notify::new(),
        started: Cell::new(false),
    });
    if let Some(limit) = sh.args.wait_ok {
        return wait_ok(sh.clone(), limit).await;
    }

    let groups: Vec<Group> = sh.args.cpu.clone();
    let idle: Vec<Usage> = groups.iter().map(Group::usage).collect();

    // Start-up: streams first, so that they are open during the whole run.
    let gap = match sh.args.connect_rate {
        0 => None,
        n => Some(Duration::from_secs_f64(1.0 / n as f64)),
    };
    let mut tasks = Vec::new();
    let mut stream_tasks = Vec::new();
    for _ in 0..sh.args.streams {
        stream_tasks.push(tokio::task::spawn_local(stream_loop(sh.clone())));
        if let Some(g) = gap {
            tokio::time::sleep(g).await;
        }
    }
    for _ in 0..sh.args.conns {
        tasks.push(tokio::task::spawn_local(load_loop(sh.clone())));
        if let Some(g) = gap {
            tokio::time::sleep(g).await;
        }
    }
    // Wait until every connection is through its handshake, a minute at most.
    let t = Instant::now();
    while sh.ready.get() < sh.args.conns && t.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sh.started.set(true);
    sh.start.notify_waiters();

    tokio::time::sleep(sh.args.warmup).await;
    let before: Vec<Usage> = groups.iter().map(Group::usage).collect();
    let own_before = procs::own_cpu();
    sh.measuring.set(true);
    let t = Instant::now();
    tokio::time::sleep(sh.args.duration).await;
    sh.measuring.set(false);
    let elapsed = t.elapsed();
    let after: Vec<Usage> = groups.iter().map(Group::usage).collect();
    let own = procs::own_cpu() - own_before;
    {
        let mut r = sh.report.borrow_mut();
        r.elapsed = elapsed;
        r.load_cpu_s = own;
        for (i, g) in groups.iter().enumerate() {
            r.group(g, idle[i], before[i], after[i]);
        }
    }

    // The end: abrupt, or orderly.
    if sh.args.abort {
        sh.report.borrow_mut().aborted = sockets::reset_all();
        for t in tasks.iter().chain(&stream_tasks) {
            t.abort();
        }
    } else {
        sh.stop.set(true);
        let limit = Instant::now() + sh.args.timeout + Duration::from_secs(5);
        for t in tasks {
            let left = limit.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(left, t).await;
        }
        for t in &stream_tasks {
            t.abort();
        }
    }
    // Let aborted tasks run their destructors, which close the sockets.
    tokio::time::sleep(Duration::from_millis(50)).await;

    // The CPU the servers use with no load at all.
    if !sh.args.watch.is_zero() {
        let seconds = sh.args.watch.as_secs_f64().round() as u64;
        let mut last: Vec<(Instant, Usage)> = groups.iter().map(|g| (Instant::now(), g.usage())).collect();
        for _ in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for (i, g) in groups.iter().enumerate() {
                let now = (Instant::now(), g.usage());
                let wall = (now.0 - last[i].0).as_secs_f64();
                let pct = 100.0 * (now.1.cpu_s - last[i].1.cpu_s) / wall;
                sh.report.borrow_mut().watched(i, pct, now.1);
                last[i] = now;
            }
        }
    }

    let r = sh.report.borrow();
    println!("{}", r.json(&sh.args));
    u8::from(r.ok == 0)
}

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(a) => a,
        Err(e) => {
            eprintln!("mcpload: {e}\nSee README.md for the options.");
            return ExitCode::from(2);
        }
    };
    procs::raise_file_limit();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    ExitCode::from(tokio::task::LocalSet::new().block_on(&rt, run(args)))
}
