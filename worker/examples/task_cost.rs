//! What watching tasks costs: nanoseconds per spawn and per poll, bare tokio beside `lifecycle::task`.
//!
//!     cargo run --release -p forkgate-worker --example task_cost

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use forkgate_worker::lifecycle::task;
use tokio::task::{LocalSet, yield_now};

const SPAWNS: u32 = 1_000_000;
const POLLS: u32 = 1_000_000;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    task::install(Arc::new(task::Registry::new()));
    let measured = LocalSet::new().block_on(&runtime, async {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push([spawns(bare).await, spawns(watched).await, polls(bare).await, polls(watched).await]);
        }
        rounds
    });
    let best = |column: usize| measured.iter().map(|round| round[column]).fold(f64::MAX, f64::min);
    println!("ns per         bare  watched  difference");
    for (name, at) in [("spawn and end", 0), ("poll", 2)] {
        let (bare, watched) = (best(at), best(at + 1));
        println!("{name:<13} {bare:>5.0} {watched:>8.0} {:>11.0}", watched - bare);
    }
}

type Handle = tokio::task::JoinHandle<()>;

#[expect(clippy::disallowed_methods, reason = "what the watched one is compared with")]
fn bare(polls: u32) -> Handle {
    tokio::task::spawn_local(job(polls))
}

fn watched(polls: u32) -> Handle {
    task::spawn("job", job(polls))
}

async fn job(polls: u32) {
    for _ in 1..polls {
        yield_now().await;
    }
}

async fn spawns(spawn: impl Fn(u32) -> Handle) -> f64 {
    per(SPAWNS, async {
        for _ in 0..SPAWNS {
            let _ = spawn(1).await;
        }
    })
    .await
}

async fn polls(spawn: impl Fn(u32) -> Handle) -> f64 {
    per(POLLS, async {
        let _ = spawn(POLLS).await;
    })
    .await
}

async fn per(count: u32, work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_nanos() as f64 / f64::from(count)
}
