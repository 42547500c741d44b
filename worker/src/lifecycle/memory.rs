//! A process's private memory: what its end would give back.
//!
//! Resident size is not it: pages shared with other workers count in every one of them. `smaps_rollup` (proc(5)) has
//! the sums; reading it walks the page tables, so it is done off the event loop.

use std::io;

use forkgate_shared::proc;

/// Private bytes of this process. Blocks for about a millisecond per GiB mapped.
pub(super) fn private_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    proc::private_bytes(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/self/smaps_rollup has no Private_* lines")
    })
}

/// Samples over the limit in a row after which a worker asks to be replaced: one peak is no leak.
const CONSECUTIVE: u32 = 3;

/// Counts samples over a limit.
#[derive(Debug, Default)]
pub(super) struct OverLimit {
    in_a_row: u32,
}

impl OverLimit {
    /// Takes a sample; true once [`CONSECUTIVE`] samples in a row were over.
    pub(super) fn sample(&mut self, bytes: u64, limit: Option<u64>) -> bool {
        self.in_a_row = if limit.is_some_and(|limit| bytes > limit) { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= CONSECUTIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_private_memory() {
        assert!(private_bytes().expect("readable") > 4096);
    }

    #[test]
    fn only_samples_in_a_row_count() {
        let mut over = OverLimit::default();
        let feed = |over: &mut OverLimit, samples: &[u64]| -> Vec<bool> {
            samples.iter().map(|bytes| over.sample(*bytes, Some(10))).collect()
        };
        assert_eq!(
            feed(&mut over, &[11, 11, 10, 11, 11, 11, 9]),
            [false, false, false, false, false, true, false]
        );
        assert!((0..9).all(|_| !over.sample(u64::MAX, None)));
    }
}
