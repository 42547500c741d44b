//! Where the detector's samples come from: `/proc` of the loop's thread, the control group's quota, tokio's metrics,
//! the registry of tasks and this worker's row. Files are opened once and read again at their beginning.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use forkgate_shared::proc::{RunTimes, schedstat};
use forkgate_shared::rows::{Row, Rows, monotonic_ns};
use tokio::runtime::RuntimeMetrics;

use super::quota::Quota;
use super::window::Sample;
use crate::lifecycle::task::Registry;

/// Reads and writes that moved something and are one unit of work. A request has a handful; peers that send one byte at a
/// time make a hundred thousand a second.
const MOVES_PER_UNIT: u64 = 100;

/// The only worker thread of a current-thread runtime.
const LOOP: usize = 0;

/// Longest of the files; `stat` has at most 52 numbers.
pub(super) const LONGEST: usize = 2048;

/// See the module.
pub(super) struct Inputs {
    schedstat: Option<File>,
    stat: Option<File>,
    /// Of the watchdog's own thread.
    own_schedstat: Option<File>,
    own_delay_ns: u64,
    quota: Quota,
    metrics: RuntimeMetrics,
    registry: Arc<Registry>,
    rows: Arc<Rows>,
    row: usize,
    over_memory: Arc<AtomicBool>,
}

impl Inputs {
    /// Opens what there is to read of the thread `loop_tid`, and of the thread that calls this and will look. What cannot be
    /// opened is not looked at: without `schedstat` nothing is ever a spin or a runaway poll.
    pub(super) fn open(
        loop_tid: i32,
        metrics: RuntimeMetrics,
        registry: Arc<Registry>,
        (rows, row): (Arc<Rows>, usize),
        over_memory: Arc<AtomicBool>,
    ) -> Inputs {
        let of_thread = |name: &str| {
            let path = format!("/proc/self/task/{loop_tid}/{name}");
            let opened = File::open(&path);
            opened.inspect_err(|error| tracing::warn!(path, %error, "the watchdog sees less")).ok()
        };
        Inputs {
            schedstat: of_thread("schedstat"),
            stat: of_thread("stat"),
            own_schedstat: File::open("/proc/thread-self/schedstat").ok(),
            own_delay_ns: 0,
            quota: Quota::open(monotonic_ns()),
            metrics,
            registry,
            rows,
            row,
            over_memory,
        }
    }

    /// Looks; the time is now, and `planned_ns` was meant.
    pub(super) fn sample(&mut self, planned_ns: u64) -> Sample {
        let mut buffer = [0; LONGEST];
        let waited_ns = self.waited(&mut buffer);
        let row = self.rows.row(self.row);
        // The counters that a stall freezes before the time: what moves in between makes the loop look alive.
        let turns = self.metrics.worker_park_unpark_count(LOOP);
        let busy_ns = super::window::ns(self.metrics.worker_total_busy_duration(LOOP));
        let RunTimes { cpu: cpu_ns, delay: delay_ns } =
            self.schedstat.as_ref().and_then(|file| schedstat(read(file, &mut buffer)?)).unwrap_or_default();
        let state = self.stat.as_ref().and_then(|file| state(read(file, &mut buffer)?)).unwrap_or('?');
        let throttled_ns = self.quota.throttled_ns(monotonic_ns());
        let now_ns = monotonic_ns();
        Sample {
            now_ns,
            late_ns: now_ns.saturating_sub(planned_ns).saturating_sub(waited_ns),
            turns,
            busy_ns,
            cpu_ns,
            delay_ns,
            state,
            units: units(row, &self.registry),
            polls: self.registry.polls(),
            poll_since_ns: self.registry.current().since_ns,
            beat_ns: row.heartbeat_ns.load(Relaxed),
            throttled_ns,
            in_flight: row.in_flight.load(Relaxed),
            over_memory: self.over_memory.load(Relaxed),
        }
    }

    /// How long the watchdog's own thread has waited for a CPU since the last look.
    fn waited(&mut self, buffer: &mut [u8]) -> u64 {
        let own = self.own_schedstat.as_ref().and_then(|file| schedstat(read(file, buffer)?));
        let delay_ns = own.unwrap_or_default().delay;
        delay_ns.saturating_sub(std::mem::replace(&mut self.own_delay_ns, delay_ns))
    }
}

/// Units of work so far.
fn units(row: &Row, registry: &Registry) -> u64 {
    registry.work() + row.counters.small_work(registry.bytes_received()) + registry.moves() / MOVES_PER_UNIT
}

pub(super) fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = file.read_at(buffer, 0).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// The state in `stat`, behind a name in parentheses that may hold anything.
fn state(text: &str) -> Option<char> {
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use forkgate_shared::rows::BYTES_PER_UNIT;

    use super::*;

    #[test]
    fn what_the_files_say() {
        assert_eq!(state("7 (a) D (x) R 1 2"), Some('R'));
        assert_eq!(state("7 a"), None);
    }

    #[test]
    fn a_flood_of_probes_is_work_and_the_odd_one_is_hardly_any() {
        let (row, registry) = (Row::default(), Registry::new());
        row.counters.status[1].store(5, Relaxed);
        assert_eq!(units(&row, &registry), 0);
        row.counters.status[1].store(1005, Relaxed);
        row.counters.requests.store(5, Relaxed);
        row.counters.bytes_out.store(10 * BYTES_PER_UNIT, Relaxed);
        assert_eq!(units(&row, &registry), 100 + 10);
    }

    #[test]
    fn the_thread_of_a_loop_is_read_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let (rows, _fd) = Rows::create(1).expect("rows");
        let tid = nix::unistd::gettid().as_raw();
        let mut inputs = Inputs::open(
            tid,
            runtime.metrics(),
            Arc::new(Registry::new()),
            (Arc::new(rows), 0),
            Arc::default(),
        );
        let first = inputs.sample(0);
        // It was planned for when the machine started.
        assert!(first.state == 'R' && first.late_ns > first.now_ns / 2, "{first:?}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // The clock of a running thread moves with the scheduler's tick.
        while inputs.sample(0).cpu_ns == first.cpu_ns {
            assert!(std::time::Instant::now() < deadline, "the thread's time stands still");
        }
    }
}
