//! Keeps a repeated event from filling the log: at most one line per interval, which says how many were left out.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// One kind of event; one thread.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl Throttle {
    /// At most one line per `interval`.
    pub fn new(interval: Duration) -> Throttle {
        Throttle { interval, last: Cell::new(None), suppressed: Cell::new(0) }
    }

    /// Some when a line may be written now; it holds how many events were suppressed since the last one.
    pub fn allow(&self) -> Option<u64> {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now.duration_since(last) < self.interval) {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.suppressed.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_and_none_forgotten() {
        let throttle = Throttle::new(Duration::from_secs(3600));
        assert_eq!(throttle.allow(), Some(0));
        assert_eq!((throttle.allow(), throttle.allow()), (None, None));
        assert_eq!(throttle.suppressed.get(), 2);
        let eager = Throttle::new(Duration::ZERO);
        assert_eq!((eager.allow(), eager.allow()), (Some(0), Some(0)));
    }
}
