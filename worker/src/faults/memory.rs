//! Private memory that grows and is never given back.

use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Between two pieces.
const PAUSE: Duration = Duration::from_millis(100);
/// A leak stops here, so that a test without a limit does not take the machine along.
const MOST_BYTES: u64 = 1024 * MIB;

/// Allocates and touches so many MiB per second.
#[inline(never)]
pub(super) async fn leaking(mib_per_second: u64, until: Instant) {
    let piece = mib_per_second * MIB / (1000 / PAUSE.as_millis() as u64);
    let mut leaked = 0;
    while Instant::now() < until && leaked < MOST_BYTES {
        // Not zero: zeroed memory is not there before it is written to.
        std::mem::forget(vec![0x5a_u8; piece as usize]);
        leaked += piece;
        tokio::time::sleep(PAUSE).await;
    }
}
