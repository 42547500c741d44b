//! One poll does not return.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Waits in the kernel, as a call of a blocking library does.
#[inline(never)]
pub(super) fn blocked_in_a_poll(span: Duration) {
    std::thread::sleep(span);
    // A call in the last place leaves no frame of its caller in an optimised build.
    black_box(span);
}

/// Uses a whole CPU, as a parser does that was written without bad input in mind.
#[inline(never)]
pub(super) fn burning_in_a_poll(until: Instant) {
    let mut state = 1u64;
    while Instant::now() < until {
        for turn in 0..1000 {
            state = black_box(state.rotate_left(5) ^ turn);
        }
    }
}
