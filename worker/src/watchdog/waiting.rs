//! Waiting for a CPU that the kernel has not counted yet.
//!
//! The time of a wait is added to `schedstat` when the wait ends. On a crowded machine a wait may last longer than a look is
//! from the next: a thread that is ready to run, and neither ran nor was counted as waiting since the last look, waits.

use super::window::Sample;

/// Adds the wait that goes on.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    last: Option<Sample>,
    /// How long the wait has lasted.
    pending_ns: u64,
    /// What was said last: it does not shrink when a wait turns out to be none.
    said_ns: u64,
}

impl Waiting {
    /// The sample with the wait that goes on in `delay_ns`.
    pub(super) fn add(&mut self, sample: &Sample) -> Sample {
        let waits = |last: &Sample| {
            let ready = sample.state == 'R' && last.state == 'R' && sample.cpu_ns > 0;
            ready && (sample.cpu_ns, sample.delay_ns) == (last.cpu_ns, last.delay_ns)
        };
        self.pending_ns = match &self.last {
            Some(last) if waits(last) => self.pending_ns + sample.now_ns.saturating_sub(last.now_ns),
            _ => 0,
        };
        self.last = Some(*sample);
        self.said_ns = self.said_ns.max(sample.delay_ns + self.pending_ns);
        Sample { delay_ns: self.said_ns, ..*sample }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_while_it_lasts_and_once() {
        let mut waiting = Waiting::default();
        let mut said = |now_ns, cpu_ns, delay_ns, state| {
            waiting.add(&Sample { now_ns, cpu_ns, delay_ns, state, ..Sample::default() }).delay_ns
        };
        assert_eq!(said(0, 10, 5, 'R'), 5);
        assert_eq!(said(100, 10, 5, 'R'), 105, "ready, and nothing moved");
        assert_eq!(said(200, 10, 5, 'R'), 205);
        assert_eq!(said(300, 11, 260, 'R'), 260, "now the kernel has counted it");
        assert_eq!(said(400, 90, 260, 'R'), 260, "it ran");
        assert_eq!(said(500, 90, 260, 'S'), 260, "it sleeps");
        assert_eq!(said(600, 90, 260, 'R'), 260, "it has just woken");
        assert_eq!(said(700, 90, 260, 'R'), 360);
        assert_eq!(said(800, 190, 260, 'R'), 360, "it ran, and the kernel counted late");
        assert_eq!(said(900, 190, 260, 'R'), 360);
    }

    #[test]
    fn a_thread_that_nobody_counts_is_not_said_to_wait() {
        let mut waiting = Waiting::default();
        for now_ns in 0..9 {
            let sample = Sample { now_ns, state: 'R', ..Sample::default() };
            assert_eq!(waiting.add(&sample).delay_ns, 0);
        }
    }
}
