//! What the watchdog does when it only watches, when it is off, when a worker dies by itself, and when a handler panics.

use std::time::{Duration, Instant, SystemTime};

use forkgate_tests::crash_report::{self, Cause};
use forkgate_tests::fault::{self, Victim};
use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{self, Connection, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{paths, wait};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// What a worker has answered before it dies.
const REQUESTS: u64 = 5;

pub const TESTS: &[Test] = &[
    Test { name: "watchdog_that_observes_reports_and_kills_nobody", limit: LIMIT, run: observe },
    Test { name: "watchdog_that_is_off_does_nothing", limit: LIMIT, run: off },
    Test { name: "watchdog_reports_deaths_from_the_row", limit: LIMIT, run: deaths },
    Test { name: "panic_in_a_handler_is_a_500_and_no_death", limit: LIMIT, run: panic },
    Test { name: "faults_need_a_word_to_start", limit: LIMIT, run: faults_need_a_word },
];

/// Shortest windows that the settings allow and that leave room for a suspicion.
fn impatient(setup: Setup) -> Setup {
    setup.set("GATEWAY_STALL_TIMEOUT", "2").set("GATEWAY_SPIN_WINDOW", "3")
}

fn pids(gateway: &Gateway) -> Vec<u32> {
    gateway.status().workers.iter().map(|worker| worker.pid).collect()
}

fn observe() -> Verdict {
    let gateway = impatient(Setup::with_faults()).set("GATEWAY_WATCHDOG", "observe").start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let before = pids(&gateway);
    let victim = Victim::harm(&gateway, "spin", "seconds=8", "fast__echo");
    let file =
        wait::until("the report", Duration::from_secs(20), || crash_report::of(&gateway, victim.pid).pop());
    let cause = Cause::Verdict { verdict: "spin".to_owned(), enforced: false };
    assert_eq!(file.report.cause, cause);
    assert_answered_throughout(&victim, file.begun());
    let slot = victim.slot as usize;
    wait::until_true("the spin to end, and the watchdog to see it", Duration::from_secs(30), || {
        let status = gateway.status();
        status.workers.iter().all(|worker| worker.watchdog.is_empty()) && status.workers[slot].busy < 0.5
    });
    let status = gateway.wait_settled();
    assert_eq!(pids(&gateway), before, "nobody was replaced: {status:?}");
    assert!(status.kills.values().all(|&count| count == 0) && status.recycles.suspect == 0, "{status:?}");
    load.wait_for(6);
    load.stop().assert_nothing_lost();
    drop(victim);
    gateway.stop();
    Ok(())
}

/// Nobody sends its clients elsewhere here: the verdict is true although requests came in, and were answered, up to the
/// end of the window. A loop that spins may keep one waiting for a while.
fn assert_answered_throughout(victim: &Victim, found: SystemTime) {
    let whole = found.duration_since(victim.began).expect("it was found after it had begun");
    let answered = victim.answered();
    let since = answered.iter().filter_map(|at| at.duration_since(victim.began).ok());
    let times: Vec<_> = since.filter(|at| *at < whole).collect();
    let late = times.iter().filter(|at| **at > whole * 2 / 3).count();
    assert!(times.len() >= 2 && late >= 1, "answered after {times:?} of {whole:?}");
}

fn off() -> Verdict {
    let gateway = impatient(Setup::with_faults()).set("GATEWAY_WATCHDOG", "off").start();
    let _upstream = gateway.with_fast_upstream();
    let before = pids(&gateway);
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    // Twice as long as the watchdog would bear it, and the answer says that it is over.
    let pid = fault::plant(&mut connection, "stall-cpu", "seconds=6&in=request");
    assert!(before.contains(&pid));
    let status = gateway.wait_settled();
    assert_eq!(pids(&gateway), before, "{status:?}");
    assert!(status.kills.values().all(|&count| count == 0) && status.crashes == 0, "{status:?}");
    assert!(crash_report::all(&gateway).is_empty(), "nobody looks, nobody reports");
    gateway.stop();
    Ok(())
}

/// A worker that is gone cannot tell anything: what it was doing, for whom and since when, stands in its row.
fn deaths() -> Verdict {
    let gateway = Setup::with_faults().start();
    let _upstream = gateway.with_fast_upstream();
    for (turn, (name, how)) in
        [("abort", "SIGABRT"), ("exit", "exit code 7"), ("kill", "SIGKILL")].iter().enumerate()
    {
        let (mut connection, pid) = of_a_worker_at_work(&gateway);
        if *name == "kill" {
            process::signal(pid, Signal::SIGKILL);
        } else {
            let order = fault::order(name, "in=request");
            assert!(connection.exchange(&order).is_err(), "no answer comes from a worker that is gone");
        }
        let file =
            wait::until("the report of the death", START_LIMIT, || crash_report::of(&gateway, pid).pop());
        let report = &file.report;
        assert_eq!((file.mode, &report.cause), (0o600, &Cause::Died { how: died(&file, how) }));
        assert!(report.inside.is_none(), "a dead worker tells nothing");
        assert!(report.worker.requests >= REQUESTS && !report.evidence.is_empty(), "{report:#?}");
        if *name != "kill" {
            let object = format!("/_fault/{name}");
            let known = report.in_flight.iter().find(|request| request.object == object);
            let request = known.unwrap_or_else(|| panic!("{object} is not in flight: {report:#?}"));
            assert!(report.worker.in_flight >= 1 && request.method == "POST", "{report:#?}");
            assert!(request.since_s >= fault::HEAD_START.as_secs_f64(), "{request:?}");
        }
        let rendered = crash_report::rendered(&gateway, &file.path);
        assert!(rendered.contains(how), "{rendered}");
        let why = crash_report::why(&gateway, report.slot);
        assert!(why.contains(how), "{why}");
        wait::until_equal("the crashes", START_LIMIT, turn as u64 + 1, || gateway.status().crashes);
        gateway.wait_settled();
    }
    gateway.stop();
    Ok(())
}

/// A connection to a worker that has answered some requests over more than a second, and so has a past in its row; its
/// process id.
fn of_a_worker_at_work(gateway: &Gateway) -> (Connection, u32) {
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
    let begun = Instant::now();
    let mut answered = 0;
    wait::until_true("a worker to have a past", START_LIMIT, || {
        answered += 1;
        let call = gateway.federated().call(answered, "fast__echo", &json!({"message": "here"}));
        connection.exchange(&call).expect("an answer");
        // A reading a second.
        answered >= REQUESTS && begun.elapsed() > Duration::from_secs(2)
    });
    let port = gateway.address.port();
    let mine = |pid: &u32| process::accepted_clients(*pid, port).contains(&connection.local);
    let pid = pids(gateway).into_iter().find(mine).expect("a worker holds the connection");
    (connection, pid)
}

/// How it died, checked to name the signal or the code.
fn died(file: &crash_report::File, how: &str) -> String {
    match &file.report.cause {
        Cause::Died { how: said } if said.contains(how) => said.clone(),
        other => panic!("died of {how}, reported as {other:?}"),
    }
}

fn panic() -> Verdict {
    let gateway = Setup::with_faults().workers(1).start();
    let before = pids(&gateway);
    for _ in 0..3 {
        let answer = gateway.exchange(&fault::order("panic", ""));
        assert_eq!(answer.status(), 500, "{}", answer.text());
    }
    let answer = gateway.exchange(&Request::new("GET", "/health"));
    assert_eq!((answer.status(), pids(&gateway)), (200, before));
    assert_eq!(gateway.status().crashes, 0);
    let metrics =
        http::once(gateway.admin, &Request::new("GET", "/metrics"), EXCHANGE_LIMIT).expect("metrics");
    assert!(metrics.text().contains("\nforkgate_panics_total 3\n"), "{}", metrics.text());
    gateway.stop();
    Ok(())
}

/// A binary for tests that strays into production does not start there, and one for production knows the word and does
/// nothing about it.
fn faults_need_a_word() -> Verdict {
    for command in [&["serve"][..], &["demo"]] {
        let mut armed = Setup::with_faults().unset("GATEWAY_FAULTS").command();
        let output = armed.args(command).output().expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{command:?}: {said}");
        assert!(said.contains("harm itself") && said.contains("GATEWAY_FAULTS=1"), "{command:?}: {said}");
    }
    let version = Setup::with_faults().bare_command().arg("--version").output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&version.stdout).trim().ends_with("+faults"));
    let plain = Setup::new().set("GATEWAY_FAULTS", "1").start();
    assert!(paths::forkgate() != paths::forkgate_faults());
    let answer = plain.exchange(&fault::order("exit", ""));
    assert_eq!(answer.status(), 404, "{}", answer.text());
    assert!(!plain.log_text().contains("GATEWAY_FAULTS"), "{}", plain.log_text());
    plain.stop();
    Ok(())
}
