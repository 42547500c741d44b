//! `forkgate ctl upgrade`: the one who asks is told how it ended, by whichever program the master is then.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use forkgate_tests::gateway::{START_LIMIT, Setup};
use forkgate_tests::http::Peer;
use forkgate_tests::load::{Load, Plan};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{paths, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "ctl_upgrade_waits_for_a_reload_and_for_its_own_end", limit: LIMIT, run: waits },
    Test { name: "ctl_upgrade_takes_the_binary_that_is_named", limit: LIMIT, run: named },
    Test { name: "ctl_upgrade_gives_the_reason_of_a_failure", limit: LIMIT, run: failure },
    Test { name: "ctl_upgrade_ends_with_the_gateway", limit: LIMIT, run: ends_with_the_gateway },
    Test { name: "ctl_upgrade_keeps_sockets_of_every_kind", limit: LIMIT, run: every_kind_of_socket },
];

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", words(&output.stdout), words(&output.stderr));
    words(&output.stdout) + &words(&output.stderr)
}

#[track_caller]
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}{}", words(&output.stdout), words(&output.stderr));
    words(&output.stderr)
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|file| file.ino())
}

fn waits() -> Verdict {
    let gateway = Setup::new().installed().start();
    let before = gateway.status();
    gateway.signal(Signal::SIGHUP);
    let said = succeeded(&gateway.ctl(&["upgrade"]));
    assert!(said.contains("runs, and so do all workers") && said.contains("starts in slot 1"), "{said}");
    let after = gateway.status();
    assert_eq!((after.upgrades, after.recycles.reload, after.recycles.upgrade), (1, 2, 2), "{after:?}");
    assert!(after.settings_generation > before.settings_generation, "the reload came first");
    let own = process::program(gateway.pid());
    assert!(after.serving().all(|worker| process::program(worker.pid) == own), "{after:?}");
    let output = gateway.ctl(&["upgrade", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(
        (output.status.code(), &answer["ok"], &answer["error"]),
        (Some(0), &Value::Bool(true), &Value::Null)
    );
    gateway.stop();
    Ok(())
}

fn named() -> Verdict {
    let gateway = Setup::new().installed().start();
    let other = gateway.setup.directory().join("another-forkgate");
    std::fs::copy(paths::forkgate(), &other).expect("copied");
    // The command's working directory is not the master's business.
    succeeded(&gateway.ctl(&["upgrade", "--binary", "another-forkgate"]));
    assert_eq!(process::program(gateway.pid()), inode(&other));
    std::fs::remove_file(gateway.setup.installed_binary()).expect("removed");
    succeeded(&gateway.ctl(&["upgrade"]));
    assert_eq!(
        process::program(gateway.pid()),
        inode(&other),
        "from now on this is where it was started from"
    );
    assert_eq!(gateway.status().upgrades, 2);
    gateway.stop();
    Ok(())
}

fn failure() -> Verdict {
    let gateway = Setup::new().installed().start();
    let before = gateway.status();
    gateway.install(b"#!/bin/sh\nexit 0\n", 0o755);
    let said = failed(&gateway.ctl(&["upgrade"]));
    assert!(said.contains("error: ") && said.contains("this is no program for this machine"), "{said}");
    let said = failed(&gateway.ctl(&["upgrade", "--binary", "/bin/true"]));
    assert!(said.contains("/bin/true: it is no forkgate that can take over"), "{said}");
    let answer: Value =
        serde_json::from_slice(&gateway.ctl(&["upgrade", "--binary", "/none", "--json"]).stdout)
            .expect("one line of JSON");
    assert!(answer["error"].as_str().is_some_and(|why| why.contains("No such file")), "{answer}");
    // Its workers cannot read the catalog: there and back, and the answer comes from the program before.
    let bytes = std::fs::read(paths::forkgate()).expect("the binary under test");
    let crippled = gateway.setup.directory().join("crippled");
    let mut other = bytes.clone();
    for at in memchr::memmem::find_iter(&bytes, b"fgcatlg") {
        other[at] = b'F';
    }
    std::fs::write(&crippled, other).expect("written");
    std::fs::set_permissions(&crippled, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let said = failed(&gateway.ctl(&["upgrade", "--binary", "crippled"]));
    assert!(said.contains("reading the catalog") && said.contains("runs again"), "{said}");
    let after = gateway.wait_settled();
    let pids = |status: &forkgate_tests::gateway::Status| -> Vec<u32> {
        status.workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!((pids(&before), after.crashes), (pids(&after), 0), "no worker was replaced");
    gateway.stop();
    Ok(())
}

fn ends_with_the_gateway() -> Verdict {
    let gateway = Setup::new().installed().start();
    let mut command = gateway.setup.command();
    command.args(["ctl", "upgrade"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let asking = command.spawn().expect("the binary starts");
    wait::until_true("the upgrade to begin", START_LIMIT, || gateway.log_text().contains("is asked whether"));
    gateway.drain();
    // It was done before the end, or it was not: whoever asked is told.
    let output = asking.wait_with_output().expect("it ends");
    let said = words(&output.stdout) + &words(&output.stderr);
    let told =
        ["the gateway is stopping", "runs, and so do all workers"].iter().any(|text| said.contains(text));
    assert!(told, "{said}");
    Ok(())
}

/// IPv4, IPv6 and a unix socket, under load.
fn every_kind_of_socket() -> Verdict {
    let setup = Setup::new().installed();
    let path = setup.state_dir().parent().expect("a directory").join("http.sock");
    let four = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let six = skip::ipv6_address()?;
    let gateway = setup.set("GATEWAY_BIND", format!("{four},{six},unix:{}", path.display())).start();
    let _upstream = gateway.with_fast_upstream();
    let peers: [Peer; 3] = [four.into(), six.into(), path.clone().into()];
    let loads = peers.map(|peer| {
        let mixed = Plan::mixed(peer, gateway.federated(), "fast__echo");
        Load::start(Plan { fresh: 2, keep_alive: 2, streams: 2, ..mixed })
    });
    gateway.install(&std::fs::read(paths::forkgate()).expect("the binary under test"), 0o755);
    succeeded(&gateway.ctl(&["upgrade"]));
    assert_eq!(process::program(gateway.pid()), inode(gateway.setup.installed_binary()));
    loads.iter().for_each(|load| load.wait_for(30));
    for load in loads {
        load.stop().assert_nothing_lost();
    }
    // The new program knows its sockets well enough to change and to close them.
    gateway.reload();
    gateway.drain();
    assert!(!path.exists(), "the file goes with the gateway");
    Ok(())
}
