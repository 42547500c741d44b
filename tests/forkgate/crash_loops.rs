//! Workers that fail again and again: who serves goes on, who starts is slowed down, and what is wrong is said.
//!
//! What makes them fail is real: the file of the session keys, which every worker reads when it starts, is damaged, cannot
//! be read, or never answers.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, STOP_LIMIT, Setup, Status};
use forkgate_tests::http::{self, Request};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::starts::Starts;
use forkgate_tests::{note, wait};

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test {
        name: "crash_loop_leaves_the_healthy_alone_and_heals_itself",
        limit: LIMIT,
        run: leaves_the_healthy_alone,
    },
    Test { name: "crash_loop_ends_with_a_reload_that_repairs_it", limit: LIMIT, run: repaired_by_reload },
    Test { name: "crash_loop_of_all_is_bounded_and_gives_up", limit: LIMIT, run: gives_up },
    Test {
        name: "worker_killed_in_the_first_boot_is_started_again",
        limit: LIMIT,
        run: killed_in_first_boot,
    },
    Test { name: "stuck_boot_is_killed_and_the_others_serve", limit: LIMIT, run: stuck_boot },
    Test { name: "master_that_was_stopped_kills_nobody_who_boots", limit: LIMIT, run: stopped_master },
];

/// The file that every worker reads when it starts.
struct Keys {
    path: PathBuf,
    good: Vec<u8>,
}

impl Keys {
    fn of(gateway: &Gateway) -> Keys {
        let path = gateway.setup.state_dir().join("session.keys");
        let good = std::fs::read(&path).expect("the first worker has made it");
        Keys { path, good }
    }

    fn damage(&self) {
        std::fs::write(&self.path, "this is not a key\n").expect("the state directory is writable");
    }

    /// From now on reading it takes for ever.
    fn block(&self) {
        std::fs::remove_file(&self.path).expect("it is there");
        nix::unistd::mkfifo(self.path.as_os_str().as_bytes(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    }

    fn make_unreadable(&self) {
        std::fs::remove_file(&self.path).expect("it is there");
        std::fs::create_dir(&self.path).expect("the state directory is writable");
    }

    fn repair(&self) {
        let unfinished = self.path.with_extension("repaired");
        std::fs::write(&unfinished, &self.good).expect("the state directory is writable");
        std::fs::rename(&unfinished, &self.path).expect("the state directory is writable");
    }
}

fn kill_worker_of(gateway: &Gateway, slot: u32) -> u32 {
    let status = gateway.status();
    let pid = status.serving().find(|worker| worker.slot == slot).expect("it serves").pid;
    process::signal(pid, Signal::SIGKILL);
    pid
}

fn serving(status: &Status) -> BTreeSet<u32> {
    status.serving().map(|worker| worker.pid).collect()
}

fn wait_degraded(gateway: &Gateway) -> Status {
    wait::until("a crash loop to be seen", START_LIMIT, || {
        Some(gateway.status()).filter(|status| status.degraded)
    })
}

fn wait_recovered(gateway: &Gateway) -> Status {
    wait::until_true("the crash loop to be over", START_LIMIT, || !gateway.status().degraded);
    gateway.wait_settled()
}

fn page(gateway: &Gateway, path: &'static str) -> String {
    let answer = http::once(gateway.admin, &Request::new("GET", path), EXCHANGE_LIMIT).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text()
}

fn leaves_the_healthy_alone() -> Verdict {
    let gateway = Setup::new().workers(3).start();
    let _upstream = gateway.with_fast_upstream();
    let keys = Keys::of(&gateway);
    keys.damage();
    let killed = kill_worker_of(&gateway, 0);
    let others: BTreeSet<u32> = &serving(&gateway.status()) - &BTreeSet::from([killed]);
    let status = wait_degraded(&gateway);
    assert!(status.boot_failures >= 3, "{status:?}");
    assert_eq!((status.state.as_str(), status.ready), ("degraded", 2), "{status:?}");
    for word in ["2/3 ready", "crash loop", "session.keys", "exit code 4"] {
        assert!(status.sentence.contains(word), "{word}: {}", status.sentence);
    }
    assert!(page(&gateway, "/status").contains("\"degraded\":true"));
    assert!(page(&gateway, "/metrics").lines().any(|line| line == "forkgate_degraded 1"));
    let table = gateway.setup.command().args(["ctl", "status"]).output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&table.stdout).contains("degraded: 2/3 ready"), "{table:?}");
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(30);
    keys.repair();
    let after = wait_recovered(&gateway);
    load.stop().assert_nothing_lost();
    assert!(others.is_subset(&serving(&after)), "{others:?} are among {after:?}");
    assert_eq!((after.crashes, after.state.as_str(), after.oom_kills), (1, "serving", 0), "{after:?}");
    assert!(after.kills.values().all(|count| *count == 0), "{after:?}");
    let log = gateway.log_text();
    for line in
        ["a worker did not start: worker 0: exit code 4: settings: ", "degraded: ", "no longer degraded"]
    {
        assert!(log.contains(line), "{line}:\n{log}");
    }
    gateway.stop();
    Ok(())
}

fn repaired_by_reload() -> Verdict {
    let mut gateway = Setup::new().start();
    let keys = Keys::of(&gateway);
    keys.damage();
    kill_worker_of(&gateway, 1);
    let before = wait_degraded(&gateway).settings_generation;
    let key = "0123456789abcdef".repeat(4);
    gateway.reload_with(&[("GATEWAY_SESSION_KEYS", &key)]);
    let after = gateway.wait_settings_after(before);
    assert!(!after.degraded && after.state == "serving", "{after:?}");
    gateway.stop();
    Ok(())
}

/// All workers die, and none can start again: no fork bomb, and an end that whoever started it sees.
fn gives_up() -> Verdict {
    const WORKERS: u32 = 8;
    let mut gateway = Setup::new().workers(WORKERS as usize).set("GATEWAY_GIVE_UP", "5s").start();
    Keys::of(&gateway).make_unreadable();
    let pid = gateway.pid();
    process::children(pid).into_iter().for_each(|worker| _ = process::signal(worker, Signal::SIGKILL));
    let since = Instant::now();
    let mut most = 0;
    wait::until_true("the master to give up", STOP_LIMIT, || {
        most = most.max(process::children(pid).len());
        !process::alive(pid)
    });
    let (status, took) = (gateway.wait_exit(STOP_LIMIT), since.elapsed());
    let log = gateway.log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    let why = log.lines().find(|line| line.contains("giving up: no worker has been ready for 5 s"));
    assert!(
        why.is_some_and(|line| line.contains("exit code 3") && line.contains("session.keys")),
        "{why:?}\n{log}"
    );
    let tries = log.lines().filter(|line| line.contains("a worker did not start: ")).count();
    note!("{tries} tries of {WORKERS} slots in {:.1} s, {most} processes at once", took.as_secs_f64());
    // Each slot tries at 0.1, 0.3, 0.7, 1.5 and 3.1 s at the earliest.
    assert!((3..=WORKERS as usize * 6).contains(&tries), "{tries} tries");
    assert!(took >= Duration::from_secs(5) && most <= WORKERS as usize, "{took:?}, {most}");
    Ok(())
}

/// Nobody has been ready yet, and a kill says nothing of the program.
fn killed_in_first_boot() -> Verdict {
    let setup = Setup::new().workers(1);
    std::fs::create_dir_all(setup.state_dir()).expect("the test's directory is writable");
    let starts = Starts::hold(&setup.state_dir());
    let gateway = setup.spawn();
    let caught = starts.catch();
    starts.release();
    let booting = process::children(gateway.pid());
    assert!(booting.len() == 1 && process::signal(booting[0], Signal::SIGKILL), "{booting:?}");
    drop(caught);
    gateway.wait_ready();
    let status = gateway.status();
    assert_eq!((status.boot_failures, status.crashes), (1, 0), "{status:?}");
    gateway.stop();
    Ok(())
}

fn stuck_boot() -> Verdict {
    let gateway = Setup::new().workers(3).set("GATEWAY_BOOT_TIMEOUT", "2s").start();
    let _upstream = gateway.with_fast_upstream();
    let load = Load::start(Plan::light(gateway.address, gateway.federated(), "fast__echo"));
    let keys = Keys::of(&gateway);
    // Before the kill: what it holds of the load may be lost.
    load.stop();
    keys.block();
    let killed = kill_worker_of(&gateway, 2);
    let others: BTreeSet<u32> = &serving(&gateway.status()) - &BTreeSet::from([killed]);
    wait::until_true("a worker to boot", START_LIMIT, || {
        gateway.status().workers.iter().any(|worker| worker.slot == 2 && worker.pid != killed)
    });
    wait::until_true("the stuck boot to be killed", START_LIMIT, || gateway.status().kills["boot"] >= 1);
    assert_eq!(serving(&gateway.status()), others);
    keys.repair();
    let after = gateway.wait_settled();
    assert!(others.is_subset(&serving(&after)) && !after.degraded, "{after:?}");
    assert!(gateway.log_text().contains("not ready within GATEWAY_BOOT_TIMEOUT"));
    gateway.stop();
    Ok(())
}

/// A worker that becomes ready while the master is stopped has not missed its time, although the master hears of it late.
fn stopped_master() -> Verdict {
    const BOOT_TIMEOUT: Duration = Duration::from_secs(2);
    let gateway =
        Setup::new().set("GATEWAY_BOOT_TIMEOUT", "2s").set("GATEWAY_GRACEFUL_TIMEOUT", "2s").start();
    let keys = Keys::of(&gateway);
    keys.block();
    let killed = kill_worker_of(&gateway, 0);
    wait::until_true("a worker to boot", START_LIMIT, || {
        gateway.status().workers.iter().any(|worker| worker.slot == 0 && worker.pid != killed)
    });
    gateway.signal(Signal::SIGSTOP);
    wait::until_true("the master to stand still", START_LIMIT, || process::is_stopped(gateway.pid()));
    let since = Instant::now();
    let mut fifo = std::fs::File::options().write(true).open(&keys.path).expect("the worker reads it");
    fifo.write_all(&keys.good).expect("it takes the keys");
    drop(fifo);
    keys.repair();
    wait::until_true("the time to boot to pass", START_LIMIT, || since.elapsed() > 2 * BOOT_TIMEOUT);
    gateway.signal(Signal::SIGCONT);
    let after = gateway.wait_settled();
    assert!(after.kills.values().all(|count| *count == 0), "{after:?}");
    assert_eq!((after.crashes, after.boot_failures), (1, 0), "{after:?}");
    assert!(gateway.log_text().contains("this process stood still"));
    gateway.stop();
    Ok(())
}
