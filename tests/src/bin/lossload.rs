//! The clients of [`forkgate_tests::load`] as a program, for `bench/lossless`: whatever they are pointed at, they check and
//! count the same.
//!
//! `lossload PEER PATH TOKEN ECHO-TOOL FRESH KEEP-ALIVE STREAMS PAUSE-MS` prints `ready` when every client is served, goes on
//! until its standard input ends, and prints what it has seen as one line of JSON.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use forkgate_tests::http::Failure;
use forkgate_tests::load::{Kind, Load, Lost, Plan, Report};
use forkgate_tests::mcp::Endpoint;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = plan(&words) else {
        eprintln!("usage: lossload PEER PATH TOKEN ECHO-TOOL FRESH KEEP-ALIVE STREAMS PAUSE-MS");
        return ExitCode::from(64);
    };
    let (load, started) = (Load::start(plan), Instant::now());
    println!("ready");
    // What comes is of no interest, only that nothing comes any more; an error is an end too.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", seen(&load.stop(), seconds));
    ExitCode::SUCCESS
}

fn plan(words: &[String]) -> Option<Plan> {
    let [peer, path, token, echo, fresh, keep_alive, streams, pause_ms] = words else { return None };
    let endpoint = Endpoint { path: path.clone(), token: token.clone() };
    Some(Plan {
        fresh: fresh.parse().ok()?,
        keep_alive: keep_alive.parse().ok()?,
        streams: streams.parse().ok()?,
        pause: Duration::from_millis(pause_ms.parse().ok()?),
        ..Plan::mixed(peer.parse::<std::net::SocketAddr>().ok()?, endpoint, echo)
    })
}

fn seen(report: &Report, seconds: f64) -> Value {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    json!({
        "seconds": seconds,
        "fresh": report.fresh,
        "keep_alive": report.keep_alive,
        "streams_opened": report.streams_opened,
        "streams_ended": report.streams_ended,
        "lost": report.lost,
        "errors": {
            "fresh": kinds(report, Kind::Fresh),
            "keep_alive": kinds(report, Kind::KeepAlive),
            "stream": kinds(report, Kind::Stream),
        },
        "slow": report.slow_answers,
        "slow_ms": report.slow.iter().map(|slow| ms(slow.took)).collect::<Vec<_>>(),
        "p50_ms": ms(report.p50),
        "p99_ms": ms(report.p99),
    })
}

/// The errors of one kind of clients, by how it went wrong; details are left out.
fn kinds(report: &Report, kind: Kind) -> BTreeMap<&'static str, u64> {
    let mut found = BTreeMap::new();
    for Lost { failure, .. } in report.errors.iter().filter(|lost| lost.kind == kind) {
        let name = match failure {
            Failure::Refused => "refused",
            Failure::Reset => "reset",
            Failure::Closed => "closed",
            Failure::Cut => "cut",
            Failure::TimedOut => "hung",
            Failure::Malformed(_) => "malformed",
            Failure::Wrong(_) => "wrong",
            Failure::Io(_) => "other",
        };
        *found.entry(name).or_default() += 1;
    }
    found
}
