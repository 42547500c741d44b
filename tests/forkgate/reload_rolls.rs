//! Reloads that meet something bad on their way: nothing is lost, and what was in force stays so.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup, Status};
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::starts::{Caught, Starts};
use forkgate_tests::{note, wait};
use nix::sys::stat::Mode;

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "reload_whose_check_is_killed_changes_nothing", limit: LIMIT, run: check_killed },
    Test { name: "reload_whose_check_hangs_changes_nothing", limit: LIMIT, run: check_hangs },
    Test { name: "reload_whose_first_worker_cannot_start_changes_nothing", limit: LIMIT, run: canary_fails },
    Test { name: "reload_whose_second_worker_cannot_start_is_taken_back", limit: LIMIT, run: second_fails },
    Test { name: "reload_whose_first_worker_hangs_changes_nothing", limit: LIMIT, run: canary_hangs },
    Test { name: "reload_whose_first_worker_is_killed_tries_again", limit: LIMIT, run: canary_killed },
    Test { name: "reload_that_fails_leaves_the_names_of_tools", limit: LIMIT, run: names_stay },
    Test { name: "reload_storm_leaks_nothing_and_loses_nothing", limit: LIMIT, run: storm },
    Test { name: "reload_in_the_middle_of_recycling_loses_nothing", limit: LIMIT, run: while_recycling },
    Test { name: "reload_ends_with_term_in_every_phase", limit: LIMIT, run: term_in_the_middle },
];

/// Keys for sessions, in the settings and not in the state directory.
fn keys() -> String {
    "5e".repeat(32)
}

/// Where the keys are when the settings name none.
fn key_file(gateway: &Gateway) -> PathBuf {
    gateway.setup.state_dir().join("session.keys")
}

/// Settings that no worker can start with, although a check cannot know it.
fn keys_that_cannot_be_made(gateway: &mut Gateway) {
    std::os::unix::fs::symlink("/nowhere/keys", key_file(gateway)).expect("the state directory is writable");
    gateway.setup = gateway.setup.clone().unset("GATEWAY_SESSION_KEYS");
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000")]);
}

fn pids(status: &Status) -> Vec<u32> {
    status.workers.iter().map(|worker| worker.pid).collect()
}

fn load(gateway: &Gateway) -> Load {
    let load = Load::start(Plan::mixed(gateway.address, gateway.federated(), "fast__echo"));
    load.wait_for(50);
    load
}

fn end(client: Child) -> (Option<i32>, String) {
    let output = client.wait_with_output().expect("an end");
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), words(&output.stdout) + &words(&output.stderr))
}

/// A reload that goes no further: a child of it waits in its start.
struct Held {
    /// Who has asked for it.
    client: Child,
    child: u32,
    caught: Caught,
    starts: Starts,
}

const CHECK: &str = "reload-check";
const CANARY: &str = "worker --slot 0";

/// Asks for a reload and holds it at its check, or at the first worker.
fn reload_and_hold(gateway: &Gateway, at: &str) -> Held {
    let known = process::children(gateway.pid());
    let starts = Starts::hold(&gateway.setup.state_dir());
    let client = gateway.begin_ctl(&["reload"]);
    let mut caught = starts.catch();
    if at == CANARY {
        caught.go_on();
        caught = starts.catch();
    }
    let child = wait::until(at, START_LIMIT, || {
        let is_it = |pid: &u32| !known.contains(pid) && process::command_line(*pid).contains(at);
        process::children(gateway.pid()).into_iter().find(is_it)
    });
    Held { client, child, caught, starts }
}

/// The reload has failed with these words, every worker is the one from before, and clients did not notice.
fn nothing_changed(
    gateway: &Gateway,
    before: &Status,
    load: Load,
    ended: (Option<i32>, String),
    words: &str,
) {
    assert!(ended.0 == Some(1) && ended.1.contains(words), "{ended:?}");
    load.wait_for(50);
    load.stop().assert_nothing_lost();
    let after = gateway.wait_settled();
    assert_eq!((pids(&after), after.settings_generation), (pids(before), before.settings_generation));
    assert_eq!(after.crashes, before.crashes);
}

fn check_killed() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let (before, load) = (gateway.wait_settled(), load(&gateway));
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000")]);
    let Held { client, child, caught, starts } = reload_and_hold(&gateway, CHECK);
    starts.release();
    assert!(process::signal(child, Signal::SIGKILL));
    drop(caught);
    nothing_changed(&gateway, &before, load, end(client), "died without a verdict");
    assert!(gateway.ctl(&["reload"]).status.success(), "the next one is as if nothing had been");
    gateway.stop();
    Ok(())
}

/// A file of settings on a disk that does not answer, as far as the check can see: a pipe that nobody writes to.
fn check_hangs() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_SESSION_KEYS", keys()).start();
    let _upstream = gateway.with_fast_upstream();
    let (before, load) = (gateway.wait_settled(), load(&gateway));
    nix::unistd::mkfifo(&key_file(&gateway), Mode::S_IRWXU).expect("the state directory is writable");
    gateway.setup = gateway.setup.clone().unset("GATEWAY_SESSION_KEYS");
    gateway.rewrite(&[]);
    let client = gateway.begin_ctl(&["reload"]);
    nothing_changed(&gateway, &before, load, end(client), "no verdict within 10 s");
    gateway.stop();
    Ok(())
}

fn canary_fails() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_SESSION_KEYS", keys()).start();
    let _upstream = gateway.with_fast_upstream();
    let (before, load) = (gateway.wait_settled(), load(&gateway));
    keys_that_cannot_be_made(&mut gateway);
    let client = gateway.begin_ctl(&["reload"]);
    nothing_changed(&gateway, &before, load, end(client), "session.keys");
    let status = gateway.ctl(&["status"]).stdout;
    let sentence = String::from_utf8_lossy(&status);
    assert!(sentence.contains("reload failed: the worker of slot 0"), "{sentence}");
    std::fs::remove_file(key_file(&gateway)).expect("removed");
    assert!(gateway.ctl(&["reload"]).status.success());
    gateway.stop();
    Ok(())
}

/// The first slot has moved when the second cannot: it moves back.
fn second_fails() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_SESSION_KEYS", keys()).start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.wait_settled();
    let load = load(&gateway);
    std::fs::write(key_file(&gateway), keys()).expect("the state directory is writable");
    gateway.setup = gateway.setup.clone().unset("GATEWAY_SESSION_KEYS");
    gateway.rewrite(&[]);
    // It cannot drain while it stands still, and for so long the second slot waits.
    let first = before.workers.iter().find(|worker| worker.slot == 0).expect("slot 0").pid;
    process::signal(first, Signal::SIGSTOP);
    let client = gateway.begin_ctl(&["reload"]);
    wait::until_true("the new one to serve", START_LIMIT, || {
        gateway.status().serving().any(|worker| worker.slot == 0 && worker.settings_generation == 2)
    });
    std::fs::write(key_file(&gateway), "rubbish").expect("the state directory is writable");
    process::signal(first, Signal::SIGCONT);
    let (code, said) = end(client);
    load.wait_for(50);
    load.stop().assert_nothing_lost();
    let after = gateway.wait_settled();
    assert!(
        code == Some(1) && said.contains("the worker of slot 1") && said.contains("session.keys"),
        "{said}"
    );
    assert!(after.workers.iter().all(|worker| worker.settings_generation == 1), "{after:?}");
    assert_eq!((after.settings_generation, after.recycles.reload, after.crashes), (1, 2, 0));
    gateway.stop();
    Ok(())
}

fn canary_hangs() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_BOOT_TIMEOUT", "2").start();
    let _upstream = gateway.with_fast_upstream();
    let (before, load) = (gateway.wait_settled(), load(&gateway));
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000")]);
    let held = reload_and_hold(&gateway, CANARY);
    nothing_changed(&gateway, &before, load, end(held.client), "within GATEWAY_BOOT_TIMEOUT");
    gateway.stop();
    Ok(())
}

/// Its death says nothing about the settings.
fn canary_killed() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let load = load(&gateway);
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "5000")]);
    let Held { client, child, caught, starts } = reload_and_hold(&gateway, CANARY);
    starts.release();
    assert!(process::signal(child, Signal::SIGKILL));
    drop(caught);
    let (code, said) = end(client);
    assert_eq!(code, Some(0), "{said}");
    load.wait_for(50);
    load.stop().assert_nothing_lost();
    let status = gateway.status();
    assert_eq!((status.settings_generation, status.crashes), (2, 0));
    assert!(gateway.log_text().contains("it is tried again"));
    gateway.stop();
    Ok(())
}

fn names_stay() -> Verdict {
    let mut gateway = Setup::new().set("GATEWAY_SESSION_KEYS", keys()).start();
    let _upstream = gateway.with_fast_upstream();
    keys_that_cannot_be_made(&mut gateway);
    gateway.rewrite(&[("GATEWAY_TOOL_NAME_SEPARATOR", "--")]);
    let (code, said) = end(gateway.begin_ctl(&["reload"]));
    assert!(code == Some(1) && said.contains("session.keys"), "{said}");
    gateway.wait_for_tool("fast__echo");
    let listed = gateway.api("GET", "/v1/tools", None).text();
    assert!(listed.contains("\"fast__echo\"") && !listed.contains("fast--echo"), "{listed}");
    std::fs::remove_file(key_file(&gateway)).expect("removed");
    assert!(gateway.ctl(&["reload"]).status.success());
    gateway.wait_for_tool("fast--echo");
    gateway.stop();
    Ok(())
}

/// What the master holds.
fn holdings(gateway: &Gateway) -> (usize, usize, usize) {
    let pid = gateway.pid();
    (process::descriptors(pid), process::threads(pid), process::children(pid).len())
}

/// Waits until nothing is left of those that have ended.
fn all_reaped(gateway: &Gateway) {
    gateway.wait_settled();
    wait::until_equal("children", START_LIMIT, 2, || process::unreaped(gateway.pid()).len());
}

fn storm() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    // Once, so that what is made by the first reload is there.
    assert!(gateway.ctl(&["reload"]).status.success());
    all_reaped(&gateway);
    let (before, load) = (holdings(&gateway), load(&gateway));
    for turn in 0..20 {
        gateway.reload_with(&[("GATEWAY_MAX_REQUESTS", &(5000 + turn).to_string())]);
    }
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "many")]);
    for _ in 0..20 {
        gateway.signal(Signal::SIGHUP);
        assert_eq!(gateway.ctl(&["reload"]).status.code(), Some(1));
    }
    gateway.rewrite(&[("GATEWAY_MAX_REQUESTS", "9000"), ("GATEWAY_MAX_REQUESTS_JITTER", "0")]);
    assert!(gateway.ctl(&["reload"]).status.success());
    load.wait_for(50);
    load.stop().assert_nothing_lost();
    let status = gateway.wait_settled();
    assert!(status.workers.iter().all(|worker| worker.request_limit == 9000), "{status:?}");
    note!("settings generation {} after 40 HUPs and 22 `ctl reload`", status.settings_generation);
    all_reaped(&gateway);
    wait::until_equal("descriptors, threads, children", START_LIMIT, before, || holdings(&gateway));
    gateway.stop();
    Ok(())
}

fn while_recycling() -> Verdict {
    let gateway = Setup::new()
        .set("GATEWAY_MAX_REQUESTS", "100")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "20")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.05")
        .start();
    let _upstream = gateway.with_fast_upstream();
    let load = load(&gateway);
    for turn in 1..=3 {
        wait::until_true("recycles", START_LIMIT, || {
            gateway.status().recycles.max_requests >= 2 * turn || load.lost() > 0
        });
        let (code, said) = end(gateway.begin_ctl(&["reload"]));
        assert_eq!(code, Some(0), "{said}");
    }
    let report = load.stop();
    note!("{} recycles among 3 reloads; {report}", gateway.status().recycles.max_requests);
    report.assert_nothing_lost();
    gateway.stop();
    Ok(())
}

fn term_in_the_middle() -> Verdict {
    for at in [CHECK, CANARY] {
        let mut gateway =
            Setup::new().set("GATEWAY_GRACEFUL_TIMEOUT", "3").set("GATEWAY_TOOL_TIMEOUT", "2").start();
        let held = reload_and_hold(&gateway, at);
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.wait_exit(START_LIMIT).code(), Some(0), "while there is a {at}");
        let (code, said) = end(held.client);
        assert!(code == Some(1) && said.contains("the gateway is stopping"), "{said}");
    }
    Ok(())
}
