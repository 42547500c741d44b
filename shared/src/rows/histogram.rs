//! A histogram of durations in shared memory, in Prometheus' shape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets in nanoseconds; what is longer is in the last one.
pub const BOUNDS_NS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Durations, counted by size.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    /// Not cumulative: each duration is in one bucket, the last for those over all bounds.
    pub buckets: [AtomicU64; BOUNDS_NS.len() + 1],
    /// Nanoseconds in all.
    pub sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, ns: u64) {
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        self.buckets.iter().chain([&self.sum_ns])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_of_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::default();
        for ns in [0, 100_000, 100_001, u64::from(u32::MAX) * 100] {
            histogram.observe(ns);
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BOUNDS_NS.len()]), (2, 1, 1));
    }
}
