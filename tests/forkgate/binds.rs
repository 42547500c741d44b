//! Where the gateway listens: several addresses, unix sockets, and a reload that changes them under load.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{self, Failure, Peer, Request};
use forkgate_tests::load::{Load, Plan, Report};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{note, wait};

const LIMIT: Duration = Duration::from_secs(120);

pub const TESTS: &[Test] = &[
    Test { name: "binds_of_three_kinds_lose_nothing", limit: LIMIT, run: three_kinds },
    Test { name: "binds_changed_by_hup_lose_nobody", limit: LIMIT, run: changed_under_load },
    Test { name: "binds_that_cannot_be_had_are_refused", limit: LIMIT, run: refused },
    Test { name: "binds_change_by_hup_without_roots_rights", limit: LIMIT, run: without_rights },
    Test { name: "binds_of_a_failed_reload_are_taken_back", limit: LIMIT, run: taken_back },
    Test { name: "binds_of_the_admin_port_change_by_hup", limit: LIMIT, run: admin_port },
    Test { name: "binds_unix_socket_file_comes_and_goes", limit: LIMIT, run: unix_file },
    Test { name: "binds_and_a_pause_survive_an_upgrade", limit: LIMIT, run: upgraded },
];

/// A path for a unix socket: short, in a directory that the runner removes.
fn socket_path(setup: &Setup) -> PathBuf {
    setup.state_dir().parent().expect("a directory").join("http.sock")
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A few clients of each kind at one address.
fn load_at(gateway: &Gateway, peer: impl Into<Peer>) -> Load {
    let mixed = Plan::mixed(peer, gateway.federated(), "fast__echo");
    Load::start(Plan { fresh: 2, keep_alive: 2, streams: 2, ..mixed })
}

fn is_refused(peer: impl Into<Peer>) -> bool {
    http::once(peer, &Request::new("GET", "/ready"), EXCHANGE_LIMIT).err() == Some(Failure::Refused)
}

fn is_served(peer: impl Into<Peer>) -> bool {
    let answer = http::once(peer, &Request::new("GET", "/ready"), EXCHANGE_LIMIT);
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// Waits until the reload is through and the addresses are these, none on its way out.
fn wait_for_addresses(gateway: &Gateway, before: u64, wanted: &[String]) {
    wait::until_true(&format!("the addresses to be {wanted:?}"), START_LIMIT, || {
        let status = gateway.status();
        let mut found = status.addresses.clone();
        found.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort();
        status.settings_generation > before && found == wanted
    });
}

/// IPv4, IPv6 and a unix socket at once, over recycles, a reload and changes of the number of workers.
fn three_kinds() -> Verdict {
    let setup = Setup::new()
        .set("GATEWAY_MAX_REQUESTS", "150")
        .set("GATEWAY_MAX_REQUESTS_JITTER", "30")
        .set("GATEWAY_RECYCLE_MIN_INTERVAL", "0.05");
    let path = socket_path(&setup);
    let (four, six) = (free_address(), skip::ipv6_address()?);
    let gateway = setup.set("GATEWAY_BIND", format!("{four},{six},unix:{}", path.display())).start();
    let file = std::fs::symlink_metadata(&path).expect("the socket's file");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    let _upstream = gateway.with_fast_upstream();
    let loads = [load_at(&gateway, four), load_at(&gateway, six), load_at(&gateway, path.clone())];
    let before = gateway.status();
    wait::until_true("workers to be recycled under load", LIMIT, || {
        gateway.status().recycles.max_requests >= before.recycles.max_requests + 6
            || loads.iter().any(|load| load.lost() > 0)
    });
    gateway.signal(Signal::SIGHUP);
    wait::until_true("the reload to be through", START_LIMIT, || {
        gateway.status().settings_generation > before.settings_generation
    });
    for (signal, wanted) in [(Signal::SIGTTIN, 3), (Signal::SIGTTOU, 2)] {
        gateway.signal(signal);
        wait::until_true("the number of workers to change", START_LIMIT, || {
            let status = gateway.status();
            let slots: std::collections::BTreeSet<u32> = status.workers.iter().map(|w| w.slot).collect();
            status.target == wanted && slots.len() as u64 == wanted && status.ready >= wanted
        });
        loads.iter().for_each(|load| load.wait_for(20));
    }
    for load in loads {
        let report = load.stop();
        note!("{report}");
        report.assert_nothing_lost();
        assert!(report.fresh > 20 && report.keep_alive > 20 && report.streams_opened > 1, "{report}");
    }
    assert_eq!(gateway.status().crashes, 0);
    gateway.drain();
    assert!(!path.exists(), "the file goes with the gateway");
    Ok(())
}

/// Who was connected has lost nothing, and who was not is refused.
fn assert_only_refused(report: &Report) {
    let others: Vec<_> =
        report.errors.iter().filter(|lost| lost.failure != Failure::Refused).take(9).collect();
    assert!(others.is_empty(), "{report}: {others:#?}");
    assert!(report.fresh > 10 && report.keep_alive > 10, "{report}");
}

fn changed_under_load() -> Verdict {
    let mut gateway = Setup::new().start();
    let _upstream = gateway.with_fast_upstream();
    let (first, second) = (gateway.address, free_address());
    let path = socket_path(&gateway.setup);
    let unix = format!("unix:{}", path.display());
    let at_first = load_at(&gateway, first);
    assert!(is_refused(second));
    let before = gateway.status().settings_generation;
    gateway.reload_with(&[("GATEWAY_BIND", &format!("{second},{unix}"))]);
    wait_for_addresses(&gateway, before, &[second.to_string(), unix.clone()]);
    assert!(is_refused(first), "removed");
    let report = at_first.stop();
    note!("removed address: {report}");
    assert_only_refused(&report);
    assert!(report.lost > 0, "its clients came back");

    let (at_second, at_unix) = (load_at(&gateway, second), load_at(&gateway, path.clone()));
    let before = gateway.status().settings_generation;
    gateway.reload_with(&[("GATEWAY_BIND", &format!("{second},{first}")), ("GATEWAY_BACKLOG", "512")]);
    wait_for_addresses(&gateway, before, &[first.to_string(), second.to_string()]);
    assert!(is_served(first), "added again");
    assert!(!path.exists(), "the file of a removed unix socket");
    at_second.wait_for(50);
    let report = at_second.stop();
    note!("address that stayed: {report}");
    report.assert_nothing_lost();
    let report = at_unix.stop();
    note!("removed unix socket: {report}");
    let gone = |lost: &&forkgate_tests::load::Lost| lost.client.is_some();
    let on_connections: Vec<_> = report.errors.iter().filter(gone).collect();
    assert!(on_connections.is_empty(), "{report}: {on_connections:#?}");
    assert_eq!(gateway.status().crashes, 0);
    gateway.drain();
    Ok(())
}

/// What cannot be listened on changes nothing, and is named.
/// As under the unit, whose user may not put filters on TCP sockets where the kernel guards them.
fn without_rights() -> Verdict {
    if !nix::unistd::geteuid().is_root() {
        return Err(skip::Skip("only root can become somebody else".to_owned()));
    }
    let mut gateway = Setup::new().set("GATEWAY_USER", "nobody").start();
    let (first, second) = (gateway.address, free_address());
    gateway.rewrite(&[("GATEWAY_BIND", &format!("{first},{second}"))]);
    gateway.reload();
    assert!(is_served(first) && is_served(second), "{}", gateway.log_text());
    gateway.signal(Signal::SIGTTIN);
    wait::until_equal("a third worker", START_LIMIT, 3, || gateway.status().ready);
    for _ in 0..20 {
        assert!(is_served(second), "whichever worker it is");
    }
    gateway.rewrite(&[("GATEWAY_BIND", &second.to_string())]);
    gateway.reload();
    wait::until_true("the removed one to refuse", START_LIMIT, || is_refused(first));
    assert!(is_served(second));
    gateway.drain();
    Ok(())
}

fn refused() -> Verdict {
    let mut gateway = Setup::new().start();
    let before = gateway.wait_settled();
    let address = gateway.address;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("an address").port();
    let file = gateway.setup.directory().join("not-a-socket");
    std::fs::write(&file, "precious").expect("written");
    let free = free_address();
    for (bind, words) in [
        (
            format!("{address},{free},127.0.0.1:{port}"),
            format!("127.0.0.1:{port} is in use by another process"),
        ),
        (format!("{address},unix:{}", file.display()), "a file that is not a socket".to_owned()),
        (format!("{address},unix:/nowhere/at/all.sock"), "its directory is not there".to_owned()),
        (format!("{address},{address}"), "cannot both be listened on".to_owned()),
    ] {
        gateway.reload_with(&[("GATEWAY_BIND", &bind)]);
        wait::until_true(&format!("the refusal {words:?}"), START_LIMIT, || {
            gateway.log_text().contains(&words)
        });
        assert!(is_served(address), "it serves on");
        assert!(is_refused(free), "nothing is half done");
    }
    let after = gateway.wait_settled();
    assert_eq!(after.settings_generation, before.settings_generation);
    let pids = |status: &forkgate_tests::gateway::Status| -> Vec<u32> {
        status.workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!(pids(&after), pids(&before), "no worker was replaced");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "precious");
    drop(taken);
    gateway.reload_with(&[("GATEWAY_BIND", &format!("{address},127.0.0.1:{port}"))]);
    let now_free = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for_addresses(&gateway, before.settings_generation, &[address.to_string(), now_free.to_string()]);
    assert!(is_served(now_free));
    gateway.stop();
    Ok(())
}

/// Who connects is not answered, not even with a refusal.
fn is_deaf(address: SocketAddr) -> bool {
    let connected = TcpStream::connect_timeout(&address, Duration::from_millis(300));
    connected.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// Settings that only a worker fails with, when another one serves with them already: what they added has met nobody and
/// can be had again at once, and where the gateway was nobody is lost.
fn taken_back() -> Verdict {
    let session_keys = "5e".repeat(32);
    let mut gateway = Setup::new().set("GATEWAY_SESSION_KEYS", &*session_keys).start();
    let _upstream = gateway.with_fast_upstream();
    let before = gateway.wait_settled();
    let (address, added, path) = (gateway.address, free_address(), socket_path(&gateway.setup));
    let unix = format!("unix:{}", path.display());
    let load = load_at(&gateway, address);
    load.wait_for(50);
    let keys = gateway.setup.state_dir().join("session.keys");
    std::fs::write(&keys, &session_keys).expect("the state directory is writable");
    gateway.setup = gateway.setup.clone().unset("GATEWAY_SESSION_KEYS");
    gateway.rewrite(&[("GATEWAY_BIND", &format!("{address},{added},{unix}"))]);
    // It cannot drain while it stands still, and for so long the second slot waits.
    let first = before.workers.iter().find(|worker| worker.slot == 0).expect("slot 0").pid;
    process::signal(first, Signal::SIGSTOP);
    let client = gateway.begin_ctl(&["reload"]);
    wait::until_true("the new one to serve", START_LIMIT, || {
        gateway.status().serving().any(|worker| worker.slot == 0 && worker.settings_generation == 2)
    });
    let not_yet = [address.to_string(), format!("{added} (not yet)"), format!("{unix} (not yet)")];
    assert_eq!(gateway.status().addresses, not_yet);
    assert!(is_deaf(added) && is_refused(path.clone()));
    assert!(TcpListener::bind(added).is_err(), "nobody else can take it");
    std::fs::write(&keys, "rubbish").expect("the state directory is writable");
    process::signal(first, Signal::SIGCONT);
    let ended = client.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.code() == Some(1) && said.contains("session.keys"), "{said}");
    assert!(is_refused(added) && !path.exists());
    drop(TcpListener::bind(added).expect("free again"));
    let after = gateway.wait_settled();
    assert_eq!((after.addresses, after.crashes), (vec![address.to_string()], 0));
    load.wait_for(50);
    let report = load.stop();
    note!("{report}");
    report.assert_nothing_lost();
    std::fs::write(&keys, &session_keys).expect("the state directory is writable");
    gateway.reload_with(&[]);
    wait_for_addresses(&gateway, after.settings_generation, &[address.to_string(), added.to_string(), unix]);
    assert!(is_served(added) && is_served(path));
    gateway.stop();
    Ok(())
}

fn admin_port() -> Verdict {
    let mut gateway = Setup::new().start();
    let (old, new) = (gateway.admin, free_address());
    assert!(is_served(old) && is_refused(new));
    let before = gateway.status().settings_generation;
    gateway.reload_with(&[("GATEWAY_ADMIN_BIND", &new.to_string())]);
    gateway.wait_settings_after(before);
    wait::until_true("the admin port to move", START_LIMIT, || is_served(new) && is_refused(old));
    gateway.stop();
    Ok(())
}

/// A dead master's file makes way, a living gateway's does not.
fn unix_file() -> Verdict {
    let setup = Setup::new();
    let path = socket_path(&setup);
    let unix = format!("unix:{}", path.display());
    let with_unix = |setup: Setup| {
        let bind = format!("127.0.0.1:{},{unix}", free_port());
        setup.set("GATEWAY_BIND", bind)
    };
    let mut first = with_unix(setup.clone()).start();
    assert!(is_served(path.clone()));
    let mut second = with_unix(Setup::new()).spawn();
    let status = second.wait_exit(START_LIMIT);
    assert_eq!(status.code(), Some(1), "somebody listens there");
    let log = second.log_text();
    assert!(log.contains("is in use by another process"), "{log}");
    assert!(is_served(path.clone()), "the first serves on");
    let orphans = first.kill_master();
    wait::until_true("the orphans to let go of the socket", START_LIMIT, || is_refused(path.clone()));
    assert!(path.exists(), "nobody was left to remove it");
    let third = with_unix(setup).start();
    assert!(is_served(path.clone()));
    third.stop();
    assert!(!path.exists());
    wait::until_true("the orphans to end", START_LIMIT, || {
        orphans.iter().all(|pid| !forkgate_tests::process::alive(*pid))
    });
    Ok(())
}

/// Another program finds all sockets, the one that is on its way out, and what an operator wanted.
fn upgraded() -> Verdict {
    let setup = Setup::new().installed();
    let path = socket_path(&setup);
    let (stays, goes, unix) = (free_address(), free_address(), format!("unix:{}", path.display()));
    let mut gateway = setup.set("GATEWAY_BIND", format!("{stays},{goes},{unix}")).start();
    let _upstream = gateway.with_fast_upstream();
    let loads = [load_at(&gateway, stays), load_at(&gateway, path.clone())];
    let paused = gateway.setup.command().args(["ctl", "pause", "1"]).status().expect("the binary starts");
    assert!(paused.success());
    let before = gateway.status().settings_generation;
    gateway.reload_with(&[("GATEWAY_BIND", &format!("{stays},{unix}"))]);
    wait::until_true("the reload to be over", START_LIMIT, || {
        let status = gateway.status();
        status.settings_generation > before && status.state == "serving"
    });
    gateway.signal(Signal::SIGUSR2);
    wait::until_true("the upgrade to be done", START_LIMIT, || {
        let status = gateway.status();
        status.upgrades == 1 && status.state == "serving"
    });
    wait_for_addresses(&gateway, before, &[stays.to_string(), unix.clone()]);
    assert!(is_refused(goes));
    let held = gateway.status().held_back;
    assert!(held.iter().any(|held| held.slot == 1 && held.why == "paused"), "{held:?}");
    for load in loads {
        load.wait_for(50);
        let report = load.stop();
        note!("{report}");
        report.assert_nothing_lost();
    }
    gateway.drain();
    assert!(!path.exists(), "the file goes with the gateway");
    Ok(())
}
