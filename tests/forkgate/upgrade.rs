//! The master becomes another program: same pid, same sockets, nothing lost; or nothing changes, with the reason.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup, Status};
use forkgate_tests::http::Connection;
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::raw::{Plays, Raw, result_answer};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::{note, wait};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "upgrade_under_load_loses_nothing", limit: LIMIT, run: under_load },
    Test { name: "upgrades_leave_no_trace", limit: LIMIT, run: no_trace },
    Test { name: "upgrade_to_what_is_no_forkgate_changes_nothing", limit: LIMIT, run: no_forkgate },
    Test { name: "upgrade_whose_workers_do_not_start_goes_back", limit: LIMIT, run: goes_back },
    Test { name: "upgrade_whose_workers_die_goes_back", limit: LIMIT, run: goes_back_after_a_death },
    Test { name: "upgrade_bears_signals_and_deaths", limit: LIMIT, run: signals_and_deaths },
    Test { name: "upgrade_keeps_a_worker_that_drains", limit: LIMIT, run: a_drainer },
    Test { name: "upgrade_is_refused_while_a_reload_runs", limit: LIMIT, run: during_a_reload },
];

/// The whole program under test.
fn program() -> Vec<u8> {
    std::fs::read(forkgate_tests::paths::forkgate()).expect("the binary under test is there")
}

/// What is installed now.
fn installed(gateway: &Gateway) -> u64 {
    std::fs::metadata(gateway.setup.installed_binary()).expect("a binary is installed").ino()
}

/// Waits until so many upgrades are done, and every worker runs the master's program.
#[track_caller]
fn wait_upgraded(gateway: &Gateway, upgrades: u64) -> Status {
    let same = |status: &Status| {
        let master = process::program(gateway.pid());
        status.workers.iter().all(|worker| process::program(worker.pid) == master)
    };
    wait::until("the upgrade to be done", START_LIMIT, || {
        Some(gateway.status()).filter(|status| {
            status.upgrades == upgrades && status.state == "serving" && status.is_settled() && same(status)
        })
    })
}

/// Waits for the refusal with this number, from 1; the log and the status say why.
#[track_caller]
fn wait_refused(gateway: &Gateway, number: usize, why: &str) -> Status {
    let refusals = || {
        let log = gateway.log_text();
        log.lines().filter(|line| line.contains("upgrade refused: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    wait::until_equal("the refusals", START_LIMIT, number, || refusals().len());
    let status = gateway.status();
    for said in [&refusals()[number - 1], &status.sentence] {
        assert!(said.contains("upgrade refused: ") && said.contains(why), "{why}: {said}");
    }
    assert_eq!(status.state, "serving");
    status
}

fn pids(status: &Status) -> Vec<u32> {
    status.workers.iter().map(|worker| worker.pid).collect()
}

fn under_load() -> Verdict {
    let gateway = Setup::new().installed().start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.status();
    assert_eq!(before.upgrades, 0);
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(300);
    let old = installed(&gateway);
    gateway.install(&program(), 0o755);
    assert_ne!(installed(&gateway), old);
    assert_eq!(process::program(gateway.pid()), Some(old), "what is installed is not what runs");
    gateway.signal(Signal::SIGUSR2);
    let after = wait_upgraded(&gateway, 1);
    load.wait_for(300);
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    assert_eq!(process::program(gateway.pid()), Some(installed(&gateway)));
    assert_eq!((after.pid, after.recycles.upgrade, after.crashes), (gateway.pid(), 2, 0), "{after:?}");
    assert!(pids(&after).iter().all(|pid| !pids(&before).contains(pid)), "every worker is a new one");
    assert!(after.requests >= before.requests, "counters go on");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", gateway.pid())).expect("comm");
    assert_eq!(name.trim(), "forkgate", "its name is as before");
    assert!(process::command_line(gateway.pid()).contains(" serve --env-file "), "and so are its arguments");
    // It is a master like any other.
    gateway.reload();
    gateway.drain();
    Ok(())
}

fn no_trace() -> Verdict {
    const UPGRADES: u64 = 10;
    /// How much private memory may differ: pages that an allocator happens to keep.
    const MEMORY_SLACK: u64 = 1 << 20;
    let gateway = Setup::new().workers(1).installed().start();
    let mut measured = Vec::new();
    for round in 1..=UPGRADES {
        gateway.install(&program(), 0o755);
        gateway.signal(Signal::SIGUSR2);
        wait_upgraded(&gateway, round);
        // The connection of the last `ctl status` may not be closed yet: the least of some looks is what stays.
        let mut looks = Vec::new();
        wait::until_true("some looks", Duration::from_secs(10), || {
            looks.push(process::descriptors(gateway.pid()));
            looks.len() == 20
        });
        let descriptors = looks.into_iter().min().expect("some looks");
        measured.push((descriptors, process::private_bytes(gateway.pid()), process::threads(gateway.pid())));
    }
    note!("descriptors, bytes, threads of the master: {measured:?}");
    let (first, last) = (measured[0], measured[measured.len() - 1]);
    assert_eq!((first.0, first.2), (last.0, last.2), "{measured:?}");
    assert!(last.1 <= first.1 + MEMORY_SLACK, "{measured:?}");
    assert_eq!(process::children(gateway.pid()).len(), 1);
    let environment =
        std::fs::read(format!("/proc/{}/environ", gateway.status().workers[0].pid)).expect("environ");
    assert!(
        !String::from_utf8_lossy(&environment).contains("FORKGATE_HANDOVER"),
        "children know nothing of it"
    );
    gateway.stop();
    Ok(())
}

/// Whatever is installed by mistake: the master says what is wrong with it, and nothing else happens.
fn no_forkgate() -> Verdict {
    let gateway = Setup::new().installed().start();
    let before = gateway.wait_settled();
    let whole = program();
    let other_machine = [&whole[..18], &[0xf3, 0x00], &whole[20..]].concat();
    let refused = [
        (&b"garbage"[..], 0o755, "no program for this machine"),
        (b"", 0o755, "no program for this machine"),
        (b"#!/bin/sh\nexit 0\n", 0o755, "no program for this machine"),
        (&std::fs::read("/bin/true").expect("/bin/true"), 0o755, "no forkgate that can take over"),
        (&other_machine, 0o755, "no program for this machine"),
        (&whole[..1 << 16], 0o755, ""),
        (&whole, 0o644, "is it executable"),
    ];
    let count = refused.len();
    for (number, (bytes, mode, why)) in (1..).zip(refused) {
        gateway.install(bytes, mode);
        gateway.signal(Signal::SIGUSR2);
        wait_refused(&gateway, number, why);
    }
    std::fs::remove_file(gateway.setup.installed_binary()).expect("removed");
    gateway.signal(Signal::SIGUSR2);
    wait_refused(&gateway, count + 1, "No such file");
    std::fs::create_dir(gateway.setup.installed_binary()).expect("directory");
    gateway.signal(Signal::SIGUSR2);
    wait_refused(&gateway, count + 2, "this is not a file");
    std::fs::remove_dir(gateway.setup.installed_binary()).expect("removed");
    gateway.install(&whole, 0o755);
    let after = gateway.wait_settled();
    assert_eq!((pids(&before), after.upgrades), (pids(&after), 0), "no worker was replaced");
    assert_eq!(process::children(gateway.pid()).len(), 2, "no child of a check is left");
    gateway.signal(Signal::SIGUSR2);
    let after = wait_upgraded(&gateway, 1);
    assert!(!after.sentence.contains("refused"), "{}", after.sentence);
    gateway.stop();
    Ok(())
}

/// The program under test with `what` made something else, at the same length, wherever it stands.
fn with(what: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = program();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, what).collect();
    assert!(
        !places.is_empty(),
        "{:?} stands in it no more: change something else",
        String::from_utf8_lossy(what)
    );
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
    bytes
}

/// It passes the check, and its workers cannot start: they know catalogs by another word.
fn goes_back() -> Verdict {
    let gateway = Setup::new().installed().start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.wait_settled();
    let old = process::program(gateway.pid());
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(200);
    gateway.install(&with(b"fgcatlg", b"fgcatlG"), 0o755);
    gateway.signal(Signal::SIGUSR2);
    let after = wait_refused(&gateway, 1, "runs again");
    assert!(after.sentence.contains("reading the catalog"), "the worker's own words: {}", after.sentence);
    load.wait_for(200);
    load.stop().assert_nothing_lost();
    assert_eq!(process::program(gateway.pid()), old, "the program before");
    assert_eq!((after.pid, after.upgrades, after.crashes), (gateway.pid(), 1, 0), "{after:?}");
    let after = gateway.wait_settled();
    assert_eq!(pids(&before), pids(&after), "its workers were never replaced");
    gateway.install(&program(), 0o755);
    gateway.signal(Signal::SIGUSR2);
    wait_upgraded(&gateway, 2);
    gateway.drain();
    Ok(())
}

/// Its workers start, and die at once: the name of a thread of theirs is one that no thread can have.
fn goes_back_after_a_death() -> Verdict {
    let gateway = Setup::new().workers(3).installed().start();
    let before = gateway.wait_settled();
    let old = process::program(gateway.pid());
    gateway.install(&with(b"fg-contr", b"fg\0contr"), 0o755);
    gateway.signal(Signal::SIGUSR2);
    wait_refused(&gateway, 1, "runs again");
    let after = gateway.wait_settled();
    assert_eq!(process::program(gateway.pid()), old, "the program before");
    assert!(after.workers.iter().all(|worker| process::program(worker.pid) == old), "everywhere");
    assert_eq!(pids(&before)[1..], pids(&after)[1..], "one slot had moved, the others never did");
    gateway.stop();
    Ok(())
}

/// What happens in the middle of it is not lost: signals are heard by whichever program is there, deaths are noticed.
fn signals_and_deaths() -> Verdict {
    let gateway = Setup::new().installed().start();
    for round in 1..=3 {
        let victim = gateway.wait_settled().workers[0].pid;
        let mut command = gateway.setup.command();
        command.args(["ctl", "upgrade"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let asking = command.spawn().expect("the binary starts");
        process::signal(victim, Signal::SIGKILL);
        gateway.signal(Signal::SIGTTIN);
        wait::until_equal("the target", START_LIMIT, 3, || gateway.status().target);
        gateway.signal(Signal::SIGTTOU);
        wait::until_equal("the target", START_LIMIT, 2, || gateway.status().target);
        let output = asking.wait_with_output().expect("it ends");
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        wait::until_true("two workers and no other child", START_LIMIT, || {
            let status = gateway.status();
            let is_calm = status.upgrades == round && status.state == "serving" && status.is_settled();
            is_calm && !pids(&status).contains(&victim) && process::children(gateway.pid()).len() == 2
        });
    }
    gateway.signal(Signal::SIGUSR2);
    // Both are pending at once: it ends in good order, whichever program takes it.
    gateway.drain();
    Ok(())
}

/// A worker that still answers an old call is the other program's child like all others: it is waited for, and reaped.
fn a_drainer() -> Verdict {
    let gateway = Setup::new().workers(2).installed().start();
    let (say, hear) = std::sync::mpsc::sync_channel::<()>(0);
    let hear = std::sync::Mutex::new(hear);
    let upstream = Raw::start(Plays::Legacy, move |request, stream| {
        let _ = hear.lock().expect("no thread panics with the lock").recv_timeout(Duration::from_secs(60));
        stream.write_all(&result_answer(request, r#"{"content":[]}"#))
    });
    gateway.register("raw", &upstream.url());
    gateway.wait_for_tool("raw__odd");
    let endpoint = gateway.federated();
    let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT * 3).expect("a connection");
    let session = endpoint.open_session(&mut connection).expect("a session");
    connection.send(&endpoint.legacy_call(&session, 1, "raw__odd", &json!({}))).expect("sent");
    wait::until_equal("the call to arrive", EXCHANGE_LIMIT, 1, || upstream.requests("tools/call").len());
    let busy = gateway.status();
    let busy = busy.workers.iter().find(|worker| worker.in_flight > 0).expect("somebody holds the call").pid;
    process::signal(busy, Signal::SIGTERM);
    wait::until_true("its drain", START_LIMIT, || {
        let status = gateway.status();
        status.ready == 2
            && status.workers.iter().any(|worker| worker.pid == busy && worker.state == "draining")
    });
    gateway.signal(Signal::SIGUSR2);
    wait::until_equal("the other program", START_LIMIT, 1, || gateway.status().upgrades);
    assert!(process::alive(busy), "it answers still");
    say.send(()).expect("the upstream waits");
    let head = connection.head().expect("the answer of a worker of the program before");
    assert_eq!(head.status, 200);
    wait_upgraded(&gateway, 1);
    assert!(!process::alive(busy));
    gateway.stop();
    Ok(())
}

fn during_a_reload() -> Verdict {
    let gateway = Setup::new().installed().start();
    let before = gateway.status().settings_generation;
    gateway.signal(Signal::SIGHUP);
    gateway.signal(Signal::SIGUSR2);
    gateway.wait_settings_after(before);
    let status = wait_refused(&gateway, 1, "a reload is under way; nothing was changed, try again");
    assert_eq!(status.upgrades, 0);
    gateway.stop();
    Ok(())
}
