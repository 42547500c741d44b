//! Crash reports: what the master knows of a worker, put together with what the worker finds out about itself.
//!
//! The master's part is made at once, so that it shows what led to the verdict. The worker has [`BUDGET`] for its part; without
//! it the report is written as it is. Everything that comes from the worker, its row included, is untrusted.

mod bounds;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forkgate_shared::calendar::rfc3339;
use forkgate_shared::memfd::Bytes;
use forkgate_shared::report::{
    Cause, Culprit, Inside, Outside, Report, Request, VERSION, WorkerFacts, culprits,
};
use forkgate_shared::rows::{InFlight, Row};
use nix::sys::signal::Signal;

use super::outside::Look;
use super::pidfd::Ending;
use super::proc_fs;
use crate::supervisor::{ChildId, Ns};

/// From the order to the end, with or without the worker's part. The worker gives up a second earlier.
const BUDGET: Ns = 5_000_000_000;
/// Longest part that is taken from a worker, in bytes.
const MAX_INSIDE: u64 = 1 << 20;
/// Lines of the kernel's stack that are kept.
const MAX_KERNEL_STACK: usize = 48;

/// Which worker a report is about, as the master knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its slot.
    pub slot: u32,
    /// Which child.
    pub id: ChildId,
    /// Process id.
    pub pid: i32,
    /// When it was started.
    pub spawned: Ns,
}

/// The master's part. `since`: when what the verdict says began; `millis`: the time since 1970.
pub fn compose(
    subject: &Subject,
    cause: Cause,
    row: &Row,
    since: Option<Ns>,
    now: Ns,
    millis: u64,
) -> Report {
    let in_flight = in_flight(row, now);
    Report {
        version: VERSION,
        time: rfc3339(millis),
        forkgate: env!("CARGO_PKG_VERSION").to_owned(),
        cause,
        slot: subject.slot,
        generation: subject.id.0,
        pid: u64::from(subject.pid.unsigned_abs()),
        age_s: seconds(now, subject.spawned),
        since_s: since.filter(|since| *since != 0 && *since <= now).map(|since| seconds(now, since)),
        culprits: culprits(None, &in_flight),
        worker: facts(row),
        evidence: row.evidence.history(),
        outside: None,
        in_flight,
        inside: None,
        took_ms: 0,
    }
}

/// What `/proc` says of a worker that lives; the shares are of the time since the first look.
pub fn outside(pid: i32, first: Option<&Look>, now: Option<&Look>, accept_queue: u32) -> Outside {
    let stat = proc_fs::main_thread(pid);
    let line = |file| proc_fs::read(pid, file).unwrap_or_default().trim().to_owned();
    let (on_cpu, waiting_for_cpu) = match (first, now) {
        (Some(first), Some(now)) => now.shares_since(first),
        _ => (0.0, 0.0),
    };
    Outside {
        state: stat.map_or_else(String::new, |stat| stat.state.to_string()),
        wchan: Some(line("wchan")).filter(|wchan| wchan != "0").unwrap_or_default(),
        syscall: line("syscall").split(' ').next().unwrap_or_default().to_owned(),
        kernel_stack: line("stack").lines().take(MAX_KERNEL_STACK).map(str::to_owned).collect(),
        on_cpu,
        waiting_for_cpu,
        accept_queue,
        threads: stat.map_or(0, |stat| stat.threads),
    }
}

/// The worker's part, from the memfd that it sent; what cannot be understood is a gap.
pub fn read_inside(fd: Option<OwnedFd>) -> Inside {
    let gap = |why: String| Inside { gaps: vec![why], ..Inside::default() };
    let Some(fd) = fd else { return gap("the worker sent no report with its message".to_owned()) };
    match nix::sys::stat::fstat(&fd).map(|stat| u64::try_from(stat.st_size).unwrap_or(u64::MAX)) {
        Ok(0..=MAX_INSIDE) => {}
        Ok(bytes) => return gap(format!("the worker's own report has {bytes} bytes: too many")),
        Err(error) => return gap(format!("the worker's own report cannot be read: {error}")),
    }
    match Bytes::open(&fd).map(|bytes| serde_json::from_slice::<Inside>(bytes.as_ref())) {
        Ok(Ok(mut inside)) => {
            bounds::cut(&mut inside);
            inside
        }
        Ok(Err(error)) => gap(format!("the worker's own report is not understood: {error}")),
        Err(error) => gap(format!("the worker's own report cannot be read: {error}")),
    }
}

/// `signal SIGSEGV`, `exit code 1`.
pub fn how(ending: Ending) -> String {
    match ending {
        Ending::Signal(number) => match Signal::try_from(number) {
            Ok(signal) => format!("signal {signal}"),
            Err(_) => ending.to_string(),
        },
        Ending::Code(_) => ending.to_string(),
    }
}

/// A culprit in one line of the log.
pub fn in_words(culprit: &Culprit) -> String {
    let parts = [
        Some(culprit.function.clone()),
        culprit.place.as_ref().map(|place| format!("at {place}")),
        culprit.task.as_ref().map(|task| format!("in task {task}")),
        culprit.request.as_ref().map(|request| format!("for {request}")),
    ];
    let words = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    words.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A report that waits for the worker's part.
#[derive(Debug)]
pub struct Unfinished {
    report: Report,
    began: Ns,
    /// The same, in milliseconds since 1970: part of the file's name.
    pub millis: u64,
}

impl Unfinished {
    /// The whole report.
    pub fn finish(self, inside: Option<Inside>, now: Ns) -> Report {
        Report {
            culprits: culprits(inside.as_ref(), &self.report.in_flight),
            inside,
            took_ms: now.saturating_sub(self.began) / 1_000_000,
            ..self.report
        }
    }
}

/// The reports that wait, at most one per worker.
#[derive(Debug, Default)]
pub struct Reports(BTreeMap<ChildId, Unfinished>);

impl Reports {
    /// This one waits from now on, at most [`BUDGET`].
    pub fn begin(&mut self, id: ChildId, report: Report, now: Ns, millis: u64) {
        self.0.insert(id, Unfinished { report, began: now, millis });
    }

    /// True while a worker's report waits for its part.
    pub fn waits_for(&self, id: ChildId) -> bool {
        self.0.contains_key(&id)
    }

    /// It waits no more.
    pub fn take(&mut self, id: ChildId) -> Option<Unfinished> {
        self.0.remove(&id)
    }

    /// The workers whose time is over.
    pub fn overdue(&self, now: Ns) -> Vec<ChildId> {
        let over = self.0.iter().filter(|(_, unfinished)| unfinished.began + BUDGET <= now);
        over.map(|(id, _)| *id).collect()
    }

    /// When [`Reports::overdue`] has something.
    pub fn next_deadline(&self) -> Option<Ns> {
        self.0.values().map(|unfinished| unfinished.began + BUDGET).min()
    }
}

fn seconds(now: Ns, then: Ns) -> f64 {
    now.saturating_sub(then) as f64 / 1e9
}

fn facts(row: &Row) -> WorkerFacts {
    let of = |cell: &AtomicU64| cell.load(Relaxed);
    WorkerFacts {
        requests: of(&row.counters.requests),
        connections: of(&row.connections),
        in_flight: of(&row.in_flight),
        streams: of(&row.streams),
        tasks: of(&row.evidence.tasks),
        private_bytes: of(&row.private_bytes),
        longest_poll_ms: of(&row.evidence.longest_poll_ns) / 1_000_000,
        lag_ms: of(&row.evidence.lag_ns) / 1_000_000,
        settings_generation: of(&row.settings_generation),
        catalog_generation: of(&row.catalog_generation),
    }
}

/// The requests that the row describes, oldest first.
pub fn in_flight(row: &Row, now: Ns) -> Vec<Request> {
    let mut entries: Vec<(u64, &InFlight)> =
        row.in_flight_ring.iter().map(|entry| (entry.started_ns.load(Relaxed), entry)).collect();
    entries.retain(|(started, _)| *started != 0);
    entries.sort_by_key(|(started, _)| *started);
    let request = |(started, entry): (u64, &InFlight)| Request {
        method: entry.method.get(),
        object: entry.object.get(),
        caller: entry.caller.get(),
        upstream: Some(entry.upstream.load(Relaxed)).filter(|upstream| *upstream != u64::MAX),
        since_s: seconds(now, started),
        task: entry.task.load(Relaxed),
    };
    entries.into_iter().map(request).collect()
}

#[cfg(test)]
pub mod tests {
    use forkgate_shared::memfd;
    use forkgate_shared::rows::{HISTORY, IN_FLIGHT, Reading};
    use forkgate_shared::verdict::Verdict;

    use super::*;

    const SECOND: Ns = 1_000_000_000;
    const NOW: Ns = 1000 * SECOND;

    /// A report about this slot and generation.
    pub fn about(slot: u32, generation: u64, row: &Row) -> Report {
        let subject = Subject { slot, id: ChildId(generation), pid: 4711, spawned: NOW - 60 * SECOND };
        let cause = Cause::Verdict { verdict: Verdict::Spin, enforced: true };
        compose(&subject, cause, row, Some(NOW - 15 * SECOND), NOW, 0)
    }

    #[test]
    fn a_report_says_what_the_row_says() {
        let row = Row::default();
        row.counters.requests.store(12, Relaxed);
        row.evidence.lag_ns.store(2_500_000, Relaxed);
        row.evidence.push(Reading { at_ns: 5, units: 9, ..Reading::default() });
        for (index, (started, object)) in
            [(NOW - SECOND, "young"), (NOW - 9 * SECOND, "old")].iter().enumerate()
        {
            let entry = &row.in_flight_ring[index * 7];
            entry.started_ns.store(*started, Relaxed);
            entry.upstream.store(if index == 0 { u64::MAX } else { 3 }, Relaxed);
            entry.method.set("tools/call");
            entry.object.set(object);
            entry.caller.set("alice");
            entry.task.store(77, Relaxed);
        }
        let report = about(2, 9, &row);
        assert_eq!((report.slot, report.generation, report.pid), (2, 9, 4711));
        assert_eq!((report.age_s, report.since_s), (60.0, Some(15.0)));
        assert_eq!((report.worker.requests, report.worker.lag_ms), (12, 2));
        assert_eq!(report.evidence.iter().map(|reading| reading.units).collect::<Vec<_>>(), [9]);
        let requests: Vec<_> =
            report.in_flight.iter().map(|r| (r.object.as_str(), r.upstream, r.since_s)).collect();
        assert_eq!(requests, [("old", Some(3), 9.0), ("young", None, 1.0)]);
        assert_eq!(report.time, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn nothing_that_stands_in_a_row_breaks_a_report() {
        let row = Row::default();
        let wild = [
            &row.counters.requests,
            &row.connections,
            &row.evidence.longest_poll_ns,
            &row.evidence.since_ns,
            &row.evidence.claim,
            &row.evidence.readings,
        ];
        wild.into_iter().for_each(|cell| cell.store(u64::MAX, Relaxed));
        let most = u64::MAX;
        let reading =
            Reading { at_ns: most, span_ns: most, busy_ns: most, units: most, ..Reading::default() };
        row.evidence.readings.store(0, Relaxed);
        (0..HISTORY).for_each(|_| row.evidence.push(reading));
        for entry in &row.in_flight_ring {
            entry.started_ns.store(u64::MAX, Relaxed);
            entry.method.set("a\n\u{1b}[31mb");
            entry.object.set(&"\u{7}".repeat(999));
        }
        let mut report = about(u32::MAX, u64::MAX, &row);
        report.since_s = None;
        assert_eq!((report.in_flight.len(), report.evidence.len()), (IN_FLIGHT, HISTORY));
        assert!(report.in_flight.iter().all(|request| request.since_s == 0.0));
        let text = serde_json::to_string(&report).expect("json");
        assert!(!text.contains('\u{1b}') && !text.contains("\\u001b") && !text.contains("\\u0007"), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("read back"), report);
    }

    #[test]
    fn a_time_that_cannot_be_is_no_time() {
        let subject = Subject { slot: 0, id: ChildId(1), pid: 1, spawned: NOW + SECOND };
        for since in [None, Some(0), Some(NOW + 1), Some(u64::MAX)] {
            let cause = Cause::Died { how: String::new() };
            let report = compose(&subject, cause, &Row::default(), since, NOW, 0);
            assert_eq!((report.since_s, report.age_s), (None, 0.0), "{since:?}");
        }
    }

    #[test]
    fn what_a_worker_sends_is_taken_or_is_a_gap() {
        let sealed = |bytes: &[u8]| Some(memfd::immutable("test", bytes).expect("memfd"));
        let inside = Inside { tasks_total: 9, ..Inside::default() };
        let good = serde_json::to_vec(&inside).expect("json");
        assert_eq!(read_inside(sealed(&good)), inside);
        let endless = Inside { log: vec![String::new(); 10_000], ..Inside::default() };
        let taken = read_inside(sealed(&serde_json::to_vec(&endless).expect("json")));
        assert!(taken.log.len() < 1000 && taken.gaps.len() == 1, "{} lines", taken.log.len());
        let open = memfd::fixed_size("test", good.len() as u64).expect("memfd");
        nix::unistd::write(&open, &good).expect("write");
        let pipe = std::io::pipe().expect("pipe").0;
        let file = tempfile::tempfile().expect("file");
        file.set_len(64).expect("length");
        let large = [good.clone(), vec![b' '; MAX_INSIDE as usize]].concat();
        for (name, fd) in [
            ("none", None),
            ("empty", sealed(b"")),
            ("garbage", sealed(b"\xff\x00{")),
            ("another thing", sealed(b"[1,2]")),
            ("deep", sealed("[".repeat(100_000).as_bytes())),
            ("large", sealed(&large)),
            ("not sealed", Some(open)),
            ("a pipe", Some(OwnedFd::from(pipe))),
            ("a file", Some(OwnedFd::from(file))),
        ] {
            let gaps = read_inside(fd).gaps;
            assert_eq!(gaps.len(), 1, "{name}: {gaps:?}");
        }
    }

    #[test]
    fn a_report_waits_for_its_time_and_is_whole_then() {
        let (mut reports, id, row) = (Reports::default(), ChildId(9), Row::default());
        reports.begin(id, about(2, 9, &row), NOW, 5);
        assert!(reports.waits_for(id));
        assert_eq!(reports.next_deadline(), Some(NOW + BUDGET));
        assert_eq!(reports.overdue(NOW + BUDGET - 1), []);
        assert_eq!(reports.overdue(NOW + BUDGET), [id]);
        let unfinished = reports.take(id).expect("it waits");
        let report =
            unfinished.finish(Some(Inside { tasks_total: 4, ..Inside::default() }), NOW + 2 * SECOND);
        assert_eq!((report.took_ms, report.inside.map(|inside| inside.tasks_total)), (2000, Some(4)));
        assert!(reports.take(id).is_none() && reports.next_deadline().is_none());
    }

    #[test]
    fn an_end_has_the_name_of_its_signal() {
        for (ending, text) in [
            (Ending::Signal(libc::SIGSEGV), "signal SIGSEGV"),
            (Ending::Signal(35), "signal 35"),
            (Ending::Code(1), "exit code 1"),
        ] {
            assert_eq!(how(ending), text);
        }
    }

    #[test]
    fn a_culprit_is_one_line() {
        let culprit = Culprit {
            function: "parse\nfake line".to_owned(),
            place: Some("a.rs:7".to_owned()),
            share: 1.0,
            task: None,
            request: Some("tools/call x for alice".to_owned()),
        };
        assert_eq!(in_words(&culprit), "parse\u{fffd}fake line at a.rs:7 for tools/call x for alice");
    }

    #[test]
    fn this_process_is_seen_from_outside() {
        let pid = std::process::id() as i32;
        let row = Row::default();
        let look = Look::take(pid, &row, NOW).expect("it lives");
        let first = Look { at: NOW - SECOND, cpu: look.cpu.saturating_sub(SECOND / 4), ..look };
        let seen = outside(pid, Some(&first), Some(&look), 3);
        assert!(seen.threads > 1 && seen.accept_queue == 3 && !seen.state.is_empty(), "{seen:?}");
        assert!((0.0..=1.0).contains(&seen.on_cpu), "{seen:?}");
        let gone = outside(-1, None, None, 0);
        assert_eq!(gone, Outside::default());
    }
}
