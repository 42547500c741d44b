//! No fault, though it looks like one: a request that costs much CPU and is honest about it. The watchdog must let it live.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time in all.
const WORK: Duration = Duration::from_millis(400);
/// CPU time between two moments in which the others may run.
const CHUNK: Duration = Duration::from_millis(10);

/// Burns [`WORK`] of CPU time in chunks.
pub(super) async fn honestly_slow() {
    let start = cpu_time();
    while cpu_time().saturating_sub(start) < WORK {
        chunk_of_work();
        tokio::task::yield_now().await;
    }
}

#[inline(never)]
fn chunk_of_work() {
    let end = cpu_time() + CHUNK;
    let mut state = 1u64;
    while cpu_time() < end {
        for turn in 0..1000 {
            state = black_box(state.rotate_left(5) ^ turn);
        }
    }
}

/// What this thread has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("CLOCK_THREAD_CPUTIME_ID exists on every Linux (clock_gettime(2))")
        .into()
}
