//! Time that passes for some and not for others: processes that somebody stops, and clocks that jump. Nobody is killed for
//! what he could not help.
//!
//! The clock of the machine cannot be set without harm to it. What is real here: the monotonic clocks of a time namespace,
//! a whole gateway that stands still while the clock goes on, and CLOCK_REALTIME stepped under running processes by
//! libfaketime.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forkgate_tests::crash_report;
use forkgate_tests::fault::Victim;
use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::http::Request;
use forkgate_tests::load::{Load, Lost, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{Skip, Verdict};
use forkgate_tests::{note, wait};

use crate::watchdog_spares::{Calm, impatient, pass};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "watchdog_bears_a_master_that_was_stopped", limit: LIMIT, run: stopped_master },
    Test { name: "watchdog_bears_a_gateway_that_was_suspended", limit: LIMIT, run: suspended },
    Test { name: "watchdog_leaves_a_stopped_worker_alone", limit: LIMIT, run: stopped_worker },
    Test { name: "watchdog_leaves_a_worker_under_a_debugger_alone", limit: LIMIT, run: debugged_worker },
    Test { name: "watchdog_works_where_the_clocks_are_far_ahead", limit: LIMIT, run: far_ahead },
    Test { name: "watchdog_bears_steps_of_the_wall_clock", limit: LIMIT, run: stepped },
];

/// Longer than both limits of [`impatient`], and than the watchdog waits for a silent worker.
const STANDSTILL: Duration = Duration::from_secs(7);
/// Some looks of everybody at everything.
const AFTERMATH: Duration = Duration::from_secs(3);

fn light(gateway: &Gateway) -> Load {
    Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"))
}

fn stopped_master() -> Verdict {
    let gateway = impatient(Setup::new()).start();
    let _upstream = gateway.with_fast_upstream();
    let (calm, load) = (Calm::of(&gateway), light(&gateway));
    gateway.signal(Signal::SIGSTOP);
    pass(STANDSTILL, &load);
    gateway.signal(Signal::SIGCONT);
    pass(AFTERMATH, &load);
    load.stop().assert_nothing_lost();
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

fn suspended() -> Verdict {
    let gateway = impatient(Setup::new()).start();
    let _upstream = gateway.with_fast_upstream();
    let (calm, load) = (Calm::of(&gateway), light(&gateway));
    let all: Vec<u32> = [gateway.pid()].into_iter().chain(process::descendants(gateway.pid())).collect();
    for &pid in &all {
        process::signal(pid, Signal::SIGSTOP);
    }
    wait::until_true("all to stand still", START_LIMIT, || all.iter().all(|&pid| process::is_stopped(pid)));
    pass(STANDSTILL, &load);
    for &pid in &all {
        process::signal(pid, Signal::SIGCONT);
    }
    pass(AFTERMATH, &load);
    load.stop().assert_nothing_lost();
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}

/// Who stops a worker, and lets it go.
trait Stopper {
    fn stop(&mut self, pid: u32);
    fn release(&mut self, pid: u32);
}

struct Operator;

impl Stopper for Operator {
    fn stop(&mut self, pid: u32) {
        process::signal(pid, Signal::SIGSTOP);
    }

    fn release(&mut self, pid: u32) {
        process::signal(pid, Signal::SIGCONT);
    }
}

struct Debugger(Option<Child>);

impl Stopper for Debugger {
    fn stop(&mut self, pid: u32) {
        let mut gdb = Command::new("gdb");
        gdb.args([
            "--nx",
            "--readnever",
            "--quiet",
            "-iex",
            "set debuginfod enabled off",
            "-p",
            &pid.to_string(),
        ]);
        gdb.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.0 = Some(gdb.spawn().expect("gdb starts"));
    }

    /// At the end of its input gdb detaches and leaves.
    fn release(&mut self, _pid: u32) {
        if let Some(mut gdb) = self.0.take() {
            drop(gdb.stdin.take());
            let left = wait::within(START_LIMIT, || gdb.try_wait().expect("the child is ours"));
            if left.is_none() {
                let _ = gdb.kill();
                let _ = gdb.wait();
            }
        }
    }
}

fn stopped_worker() -> Verdict {
    left_alone(&mut Operator)
}

fn debugged_worker() -> Verdict {
    let there = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        return Err(Skip("gdb is not installed".to_owned()));
    }
    left_alone(&mut Debugger(None))
}

/// Others serve in its place, and when it runs again it may finish what it holds.
fn left_alone(stopper: &mut impl Stopper) -> Verdict {
    let gateway = impatient(Setup::new()).start();
    let _upstream = gateway.with_fast_upstream();
    let load = light(&gateway);
    let worker = gateway.status().workers[0].clone();
    stopper.stop(worker.pid);
    wait::until_true("the worker to stand still", START_LIMIT, || process::stands_still(worker.pid));
    let held = process::accepted_clients(worker.pid, gateway.address.port());
    let replaced = || {
        let status = gateway.status();
        let mut others =
            status.serving().filter(|other| other.slot == worker.slot && other.pid != worker.pid);
        others.next().is_some()
    };
    wait::until_true("another worker to serve in its place", START_LIMIT, replaced);
    pass(STANDSTILL, &load);
    assert!(process::stands_still(worker.pid), "the worker was killed, or let go");
    stopper.release(worker.pid);
    wait::until_true("the worker to finish and leave", START_LIMIT, || !process::alive(worker.pid));
    let status = gateway.wait_settled();
    assert!(status.kills.values().all(|&count| count == 0) && status.crashes == 0, "{status:?}");
    assert_eq!(status.recycles.suspect, 1, "{status:?}");
    load.wait_for(6);
    let report = load.stop();
    note!("{report}");
    assert_lost_only(&report.errors, &held);
    gateway.stop();
    Ok(())
}

fn assert_lost_only(errors: &[Lost], held: &HashSet<SocketAddr>) {
    let others: Vec<&Lost> =
        errors.iter().filter(|lost| lost.client.is_none_or(|client| !held.contains(&client))).collect();
    assert!(others.is_empty(), "lost on connections of others: {others:#?}");
}

/// A year, in a time namespace: nothing compares a clock with one of another kind or place.
fn far_ahead() -> Verdict {
    const UNSHARE: [&str; 7] =
        ["unshare", "--time", "--monotonic", "31536000", "--boottime", "31536000", "--"];
    let tried = Command::new(UNSHARE[0]).args(&UNSHARE[1..]).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return Err(Skip("no time namespace can be made here (root, unshare, Linux 5.6)".to_owned()));
    }
    let gateway = impatient(Setup::with_faults()).through(&UNSHARE).start();
    let _upstream = gateway.with_fast_upstream();
    let (calm, load) = (Calm::of(&gateway), light(&gateway));
    pass(AFTERMATH, &load);
    calm.assert_kept(&gateway);
    let victim = Victim::harm(&gateway, "spin", "seconds=600", "fast__echo");
    wait::until_true("the spin to be found", START_LIMIT, || {
        !crash_report::of(&gateway, victim.pid).is_empty()
    });
    wait::until_true("the worker to be gone", START_LIMIT, || !process::alive(victim.pid));
    let status = gateway.wait_settled();
    assert_eq!((status.kills["spin"], status.crashes), (1, 0), "{status:?}");
    let report = load.stop();
    let unexplained: Vec<&Lost> = report.errors.iter().filter(|lost| !victim.explains(lost)).collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    drop(victim);
    gateway.stop();
    Ok(())
}

/// How many minutes the clock of the gateway is ahead, by a line that it logs. (hyper's `Date` stands still when the clock is
/// set back.)
fn minutes_ahead(gateway: &Gateway) -> i64 {
    const DAY: i64 = 24 * 60;
    let before = gateway.log_text().len();
    let line = wait::until("a refused token to be logged", START_LIMIT, || {
        gateway.exchange(&Request::new("POST", "/mcp").token("nonsense"));
        gateway.log_text()[before..].lines().find(|line| line.contains("token refused")).map(str::to_owned)
    });
    // `2026-11-20T13:45:20.123Z …`
    let number = |at: usize| line.get(at..at + 2).and_then(|text| text.parse::<i64>().ok());
    let shown = number(11).zip(number(14)).unwrap_or_else(|| panic!("no time in {line}"));
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let real = since_1970.as_secs() as i64 / 60 % DAY;
    (shown.0 * 60 + shown.1 - real + DAY + DAY / 2) % DAY - DAY / 2
}

/// Twenty minutes ahead, then forty back: less than the tokens of the clients bear.
fn stepped() -> Verdict {
    const LIBRARIES: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib64/faketime/libfaketime.so.1",
    ];
    let Some(library) = LIBRARIES.into_iter().find(|path| Path::new(path).exists()) else {
        return Err(Skip("libfaketime is not installed (apt-get install faketime)".to_owned()));
    };
    let setup = impatient(Setup::new());
    let clock = setup.directory().join("clock");
    let step = |by: &str| std::fs::write(&clock, by).expect("the test's directory is writable");
    step("+0");
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    let (preload, no_cache, real) =
        (format!("LD_PRELOAD={library}"), "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1");
    let gateway = setup.through(&["env", &preload, &file, no_cache, real]).start();
    let _upstream = gateway.with_fast_upstream();
    let (calm, load) = (Calm::of(&gateway), light(&gateway));
    for (by, minutes) in [("+20m", 20), ("-20m", -20), ("+0", 0)] {
        step(by);
        pass(AFTERMATH, &load);
        let off = minutes_ahead(&gateway);
        assert!(
            (off - minutes).abs() <= 1,
            "the clock of the gateway should be {by}, it is {off} minutes ahead"
        );
    }
    load.stop().assert_nothing_lost();
    calm.assert_kept(&gateway);
    gateway.stop();
    Ok(())
}
