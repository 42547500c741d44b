//! The watchdog finds what is wrong with a worker, says whose fault it is, and replaces it: each fault with 1, 2 and 4
//! workers, with light traffic, also to the worker that is harmed. Nobody else loses a request.
//!
//! Runs of each: `FORKGATE_RUNS`, else 1, and 5 in the longer form. `FORKGATE_TIMES` names a file that gets a line per run,
//! for `bench/watchdog`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use forkgate_tests::crash_report::{self, Cause};
use forkgate_tests::fault::Victim;
use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::load::{Load, Lost, Plan};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, paths, process, wait};

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "watchdog_finds_a_future_that_wakes_itself", limit: LIMIT, run: || found(&SPIN) },
    Test { name: "watchdog_finds_a_loop_of_yields", limit: LIMIT, run: || found(&YIELD_SPIN) },
    Test { name: "watchdog_finds_tasks_that_keep_each_other_awake", limit: LIMIT, run: || found(&PING_PONG) },
    Test {
        name: "watchdog_finds_a_reader_that_never_notices_the_end",
        limit: LIMIT,
        run: || found(&EOF_SPIN),
    },
    Test { name: "watchdog_finds_a_spin_in_a_callback", limit: LIMIT, run: || found(&CALLBACK_SPIN) },
    Test { name: "watchdog_finds_a_blocked_poll", limit: LIMIT, run: || found(&STALL) },
    Test {
        name: "watchdog_finds_a_poll_that_burns",
        limit: LIMIT,
        run: || found_alone(&STALL_CPU, &[1, 2, 4]),
    },
    Test { name: "watchdog_finds_a_burning_callback", limit: LIMIT, run: burning_callback },
    Test { name: "watchdog_finds_an_uninterruptible_poll", limit: LIMIT, run: || found(&UNINTERRUPTIBLE) },
    Test { name: "watchdog_finds_a_leak", limit: LIMIT, run: || found(&LEAK) },
    Test { name: "watchdog_keeps_its_default_limits", limit: LIMIT, run: default_limits },
    Test { name: "watchdog_names_the_request_that_stalls", limit: LIMIT, run: in_a_request },
];

/// A fault and what is to come of it.
struct Case {
    fault: &'static str,
    query: &'static str,
    verdict: &'static str,
    class: Class,
    /// Part of the first culprit's function, or of its task; none where nothing on a stack is to blame.
    culprit: Option<&'static str>,
}

/// Which limit it runs into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Stall,
    Spin,
    Memory,
}

const fn case(fault: &'static str, verdict: &'static str, class: Class, culprit: &'static str) -> Case {
    // Longer than any test: it is the watchdog that has to end it.
    Case { fault, query: "seconds=600", verdict, class, culprit: Some(culprit) }
}

const SPIN: Case = case("spin", "spin", Class::Spin, "faults::spin::self_waking");
const YIELD_SPIN: Case = case("yield-spin", "spin", Class::Spin, "faults::spin::yielding");
const PING_PONG: Case = case("pingpong", "spin", Class::Spin, "faults::spin::ping_pong");
const EOF_SPIN: Case = case("eof-spin", "spin", Class::Spin, "faults::spin::reading_at_the_end");
const CALLBACK_SPIN: Case =
    case("callback-spin", "spin", Class::Spin, "faults::callback::spinning_in_a_callback");
const STALL: Case = case("stall", "stall_blocked", Class::Stall, "faults::stall::blocked_in_a_poll");
const STALL_CPU: Case = case("stall-cpu", "stall_cpu", Class::Stall, "faults::stall::burning_in_a_poll");
const CALLBACK: Case = case("callback", "stall_cpu", Class::Stall, "faults::callback::burning_in_a_callback");
/// No signal reaches it, so there is no stack: its task is named.
const UNINTERRUPTIBLE: Case =
    case("stall-uninterruptible", "stall_uninterruptible", Class::Stall, "stall-uninterruptible");
const LEAK: Case = Case {
    fault: "leak",
    query: "seconds=600&rate=200",
    verdict: "memory",
    class: Class::Memory,
    culprit: None,
};

/// When the watchdog loses its patience.
#[derive(Clone, Copy)]
struct Limits {
    stall: Duration,
    spin: Duration,
}

/// Short ones, so that the tests take minutes.
const SHORT: Limits = Limits { stall: Duration::from_secs(3), spin: Duration::from_secs(4) };
/// What holds when nothing is set.
const DEFAULT: Limits = Limits { stall: Duration::from_secs(10), spin: Duration::from_secs(15) };
/// After its limit a fault is found within this.
const SLACK: Duration = Duration::from_secs(3);
/// How long a report may take, and a margin for the file to be seen.
const REPORT_LIMIT: Duration = Duration::from_secs(7);
/// What a report may take: five seconds, and what it takes to notice that they are over.
const REPORT_BUDGET_MS: u64 = 5_500;
/// From the report to the end of the worker: SIGABRT, 5 s, SIGKILL, and two busy cores.
const END_LIMIT: Duration = Duration::from_secs(20);

impl Limits {
    fn of(self, class: Class) -> Duration {
        match class {
            Class::Stall => self.stall,
            Class::Spin => self.spin,
            // Some samples of memory, and a leak that needs a second.
            Class::Memory => Duration::from_secs(5),
        }
    }

    fn set(self, setup: Setup) -> Setup {
        let seconds = |span: Duration| span.as_secs().to_string();
        setup.set("GATEWAY_STALL_TIMEOUT", seconds(self.stall)).set("GATEWAY_SPIN_WINDOW", seconds(self.spin))
    }
}

fn runs() -> usize {
    let given = std::env::var("FORKGATE_RUNS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if paths::soaking() { 5 } else { 1 })
}

/// With 1, 2 and 4 workers at the same time.
fn found(case: &Case) -> Verdict {
    for _ in 0..runs() {
        std::thread::scope(|scope| {
            for workers in [1, 2, 4] {
                scope.spawn(move || once(case, SHORT.set(Setup::with_faults().workers(workers)), SHORT));
            }
        });
    }
    Ok(())
}

/// With so many workers, one gateway after the other: the time that a poll waits for a CPU does not count, so those that
/// burn would be found later beside each other.
fn found_alone(case: &Case, workers: &[usize]) -> Verdict {
    for _ in 0..runs() {
        for &workers in workers {
            once(case, SHORT.set(Setup::with_faults().workers(workers)), SHORT);
        }
    }
    Ok(())
}

/// The longer form has the other numbers of workers too: the fault differs from `stall-cpu` by its stack alone.
fn burning_callback() -> Verdict {
    found_alone(&CALLBACK, if paths::soaking() { &[1, 2, 4] } else { &[2] })
}

fn default_limits() -> Verdict {
    std::thread::scope(|scope| {
        for case in [&SPIN, &STALL] {
            scope.spawn(move || once(case, Setup::with_faults(), DEFAULT));
        }
    });
    Ok(())
}

/// One fault, from the order to the day after.
fn once(case: &Case, setup: Setup, limits: Limits) {
    let setup = match case.class {
        Class::Memory => setup.set("GATEWAY_MAX_RSS", "64M").set("GATEWAY_MEMORY_SAMPLE_INTERVAL", "0.2"),
        _ => setup,
    };
    let gateway = setup.start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let quiet = gateway.log_text().len();
    let victim = Victim::harm(&gateway, case.fault, case.query, "fast__echo");
    let ordered = Instant::now();
    let limit = limits.of(case.class) + SLACK;
    let ready = format!("worker {} ready", victim.slot);
    let mut standby = None;
    let file = wait::until(&format!("the report on {}", case.fault), limit + REPORT_LIMIT, || {
        if standby.is_none() && gateway.log_text()[quiet..].contains(&ready) {
            standby = Some(ordered.elapsed());
        }
        crash_report::of(&gateway, victim.pid).pop()
    });
    let found = file.begun().duration_since(victim.began).unwrap_or_default();
    // The time that a poll waits for a CPU is not the poll's fault, and does not count.
    let waited = if case.class == Class::Stall { file.report.waited_for_cpu() } else { Duration::ZERO };
    assert!(found <= limit + waited, "{} was found after {found:?}, {waited:?} of it waiting", case.fault);
    assert_report(case, &gateway, &file);
    let answered = victim.answered().len();
    // It steps aside after the first third of the window, and then says goodbye; the test of the mode that only observes has
    // traffic through the whole window.
    assert!(case.class != Class::Spin || answered >= 1, "no request was answered while it span");
    wait::until_true("the worker to be gone", END_LIMIT, || !process::alive(victim.pid));
    let gone = ordered.elapsed();
    let status = gateway.wait_settled();
    let kills: Vec<(&str, u64)> =
        status.kills.iter().filter(|kill| *kill.1 > 0).map(|kill| (kill.0.as_str(), *kill.1)).collect();
    // One that leaks over both limits may have been recycled, and have left, before its report was done.
    let recycled = case.class == Class::Memory && kills.is_empty() && status.recycles.memory == 1;
    assert!(recycled || kills == [(case.verdict, 1)], "{status:?}");
    assert_eq!(status.crashes, 0, "{status:?}");
    // The day after.
    load.wait_for(6);
    let report = load.stop();
    let unexplained: Vec<&Lost> = report.errors.iter().filter(|lost| !victim.explains(lost)).collect();
    assert!(unexplained.is_empty(), "{}: lost on connections of others: {unexplained:#?}", case.fault);
    let culprit = file.report.culprits.first().map_or("none", |culprit| culprit.function.as_str());
    let times = Times { standby, found, gone, report_ms: file.report.took_ms, report_bytes: file.size };
    note!("{} with {} workers: {times}; culprit {culprit}; {report}", case.fault, status.target);
    times.keep(case, status.target);
    drop(victim);
    gateway.stop();
}

/// How long it took.
struct Times {
    /// From the order until another worker served in the place of the harmed one; none when that was not seen.
    standby: Option<Duration>,
    /// From the order to the final verdict.
    found: Duration,
    /// From the order until the harmed worker was gone.
    gone: Duration,
    report_ms: u64,
    report_bytes: u64,
}

impl Times {
    /// Adds a line to the file of times, where there is one: fault, workers, milliseconds three times, those of the report,
    /// its bytes.
    fn keep(&self, case: &Case, workers: u64) {
        let Some(path) = std::env::var_os("FORKGATE_TIMES") else { return };
        let standby = self.standby.map_or_else(|| "-".to_owned(), |span| span.as_millis().to_string());
        let line = format!(
            "{} {workers} {standby} {} {} {} {}\n",
            case.fault,
            self.found.as_millis(),
            self.gone.as_millis(),
            self.report_ms,
            self.report_bytes
        );
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let kept = file.and_then(|mut file| file.write_all(line.as_bytes()));
        kept.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "replaced after {:.1} s, found after {:.1} s, gone after {:.1} s, report {} ms, {} KiB",
            self.standby.unwrap_or_default().as_secs_f64(),
            self.found.as_secs_f64(),
            self.gone.as_secs_f64(),
            self.report_ms,
            self.report_bytes / 1024
        )
    }
}

fn assert_report(case: &Case, gateway: &Gateway, file: &crash_report::File) {
    let report = &file.report;
    assert_eq!(file.mode, 0o600, "{}", file.path.display());
    let cause = Cause::Verdict { verdict: case.verdict.to_owned(), enforced: true };
    assert_eq!(report.cause, cause, "{report:#?}");
    assert!(report.took_ms <= REPORT_BUDGET_MS, "the report took {} ms", report.took_ms);
    assert!(!report.evidence.is_empty(), "no evidence: {report:#?}");
    let (rendered, why) = (
        crash_report::rendered(gateway, &file.path),
        wait::until("ctl why to know", START_LIMIT, || Some(crash_report::why(gateway, report.slot))),
    );
    if let Some(planted) = case.culprit {
        let first = report.culprits.first().unwrap_or_else(|| panic!("nobody is to blame: {report:#?}"));
        let task = first.task.as_deref().unwrap_or_default();
        assert!(
            first.function.contains(planted) || task.contains(planted),
            "{planted} was planted: {:#?}; see {}",
            report.culprits,
            file.path.display()
        );
        for text in [&rendered, &why] {
            assert!(text.contains(planted), "{planted} is not named:\n{text}");
        }
    }
}

/// The fault is in the request's own task: the report says for whom the worker was at work.
fn in_a_request() -> Verdict {
    let gateway = SHORT.set(Setup::with_faults().workers(1)).start();
    let address = gateway.address;
    let order = forkgate_tests::fault::order("stall-cpu", "seconds=600&in=request");
    let asking = std::thread::spawn(move || forkgate_tests::http::once(address, &order, LIMIT).is_err());
    let file =
        wait::until("the report", SHORT.stall + SLACK + REPORT_LIMIT, || crash_report::all(&gateway).pop());
    let first = file.report.culprits.first().expect("somebody is to blame");
    assert!(first.function.contains("faults::stall::burning_in_a_poll"), "{first:?}");
    let request = first.request.as_deref().unwrap_or_default();
    assert!(request.contains("/_fault/stall-cpu"), "{first:?} {:?}", file.report.in_flight);
    let known =
        |request: &crash_report::Request| request.method == "POST" && request.object == "/_fault/stall-cpu";
    assert!(file.report.in_flight.iter().any(known), "{:?}", file.report.in_flight);
    wait::until_true("the worker to be gone", END_LIMIT, || asking.is_finished());
    assert!(
        asking.join().expect("the client does not panic"),
        "no answer came from a worker that was killed"
    );
    gateway.wait_settled();
    gateway.stop();
    Ok(())
}
