//! How long things took, counted in buckets that are an eighth of a doubling wide: many threads record, a quantile is right
//! to 9 %.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per doubling.
const PER_DOUBLING: usize = 8;
/// Doublings of a microsecond: up to an hour and a bit.
const DOUBLINGS: usize = 32;

/// The counts.
pub struct Latency {
    buckets: Vec<AtomicU64>,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: (0..PER_DOUBLING * DOUBLINGS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let micros = took.as_secs_f64() * 1e6;
        let bucket = (micros.max(1.0).log2() * PER_DOUBLING as f64) as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)].fetch_add(1, Relaxed);
    }

    /// The upper end of the bucket in which this part (0 to 1) of what was recorded is reached; zero when there is nothing.
    pub fn quantile(&self, part: f64) -> Duration {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in counts.into_iter().enumerate() {
            seen += count;
            if count > 0 && seen >= wanted {
                return Duration::from_secs_f64(((bucket + 1) as f64 / PER_DOUBLING as f64).exp2() / 1e6);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.quantile(0.99), Duration::ZERO);
        for milli in 1..=1000 {
            latency.record(Duration::from_millis(milli));
        }
        for (part, right) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let found = latency.quantile(part).as_secs_f64() / right;
            assert!((1.0..=1.1).contains(&found), "{part}: {found}");
        }
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(1 << 30));
    }
}
