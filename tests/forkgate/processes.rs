//! What the processes are: whose, with which umask and CPUs, and the file that names the master.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{Skip, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{http, wait};

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "processes_have_what_the_settings_say", limit: LIMIT, run: as_the_settings_say },
    Test { name: "pid_file_is_written_locked_kept_and_removed", limit: LIMIT, run: pid_file },
    Test { name: "started_by_root_it_becomes_the_user", limit: LIMIT, run: becomes_the_user },
    Test { name: "only_root_can_become_somebody_else", limit: LIMIT, run: only_root },
];

/// Debian's and everybody's.
const NOBODY: u32 = 65534;
/// `CAP_NET_BIND_SERVICE`, as `/proc/PID/status` writes it.
const NET_BIND_ONLY: &str = "0000000000000400";
const NONE: &str = "0000000000000000";

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("{field} of {pid}: {text}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn workers(gateway: &Gateway) -> Vec<u32> {
    gateway.status().serving().map(|worker| worker.pid).collect()
}

fn as_the_settings_say() -> Verdict {
    let cpus = {
        let allowed = status(std::process::id(), "Cpus_allowed_list");
        let first = allowed.split(['-', ',']).next().expect("a CPU").to_owned();
        let last = allowed.rsplit(['-', ',']).next().expect("a CPU").to_owned();
        [first, last]
    };
    let setup = Setup::new().set("GATEWAY_UMASK", "027").set("GATEWAY_CPU_AFFINITY", cpus.join(","));
    let gateway = setup.start();
    let of_slots = || {
        let status_now = gateway.status();
        let mut of_slots: Vec<(u32, u32)> =
            status_now.serving().map(|worker| (worker.slot, worker.pid)).collect();
        of_slots.sort_unstable();
        of_slots.into_iter().map(|(_, pid)| status(pid, "Cpus_allowed_list")).collect::<Vec<_>>()
    };
    assert_eq!(of_slots(), cpus);
    for pid in workers(&gateway) {
        assert_eq!((status(pid, "NoNewPrivs").as_str(), status(pid, "Umask").as_str()), ("1", "0027"));
        assert_eq!(status(pid, "CapAmb"), NONE);
    }
    assert_eq!(status(gateway.pid(), "Umask"), "0027");
    assert!(status(gateway.pid(), "Cpus_allowed_list") == status(std::process::id(), "Cpus_allowed_list"));

    let mut gateway = gateway;
    gateway.rewrite(&[("GATEWAY_CPU_AFFINITY", "auto"), ("GATEWAY_UMASK", "077")]);
    let said = gateway.ctl(&["reload"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("GATEWAY_UMASK 027 -> 077 (needs a restart)"), "{said}");
    let status_now = gateway.wait_settled();
    for worker in status_now.serving() {
        assert!(status(worker.pid, "Cpus_allowed_list").parse::<u32>().is_ok(), "one CPU");
    }
    gateway.stop();
    Ok(())
}

fn read(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

fn pid_file() -> Verdict {
    let setup = Setup::new().installed();
    let path = setup.directory().join("forkgate.pid");
    let named = path.display().to_string();
    // Left behind, with the number of somebody who lives.
    std::fs::write(&path, format!("{}\n", std::process::id())).expect("writable");
    let gateway = setup.set("GATEWAY_PIDFILE", &named).start();
    assert_eq!(read(&path), Some(gateway.pid()));
    assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o644);

    let refused = |setup: Setup, words: &[&str]| {
        let mut second = setup.set("GATEWAY_PIDFILE", &named).spawn();
        let code = second.wait_exit(START_LIMIT).code();
        let said = second.log_text();
        assert_eq!(code, Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word} in {said}");
        }
    };
    refused(Setup::new(), &[&format!("pid {}", gateway.pid()), &named]);
    assert_eq!(read(&path), Some(gateway.pid()));
    let output = gateway.ctl(&["upgrade"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read(&path), Some(gateway.pid()));
    refused(Setup::new(), &[&format!("pid {}", gateway.pid()), &named]);

    gateway.drain();
    assert!(!path.exists(), "removed at the end");
    std::fs::write(&path, "something that somebody needs\n").expect("writable");
    refused(Setup::new(), &["is no pid file", &named]);
    std::fs::remove_file(&path).expect("it is there");

    // A master that is killed leaves it behind.
    let mut killed = Setup::new().set("GATEWAY_PIDFILE", &named).start();
    let (before, orphans) = (killed.pid(), killed.kill_master());
    assert_eq!(read(&path), Some(before));
    let next = Setup::new().set("GATEWAY_PIDFILE", &named).start();
    assert_eq!(read(&path), Some(next.pid()));
    next.drain();
    wait::until_true("the orphans to leave", START_LIMIT, || orphans.iter().all(|&pid| !process::alive(pid)));
    Ok(())
}

fn root() -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Skip("only root can become somebody else".to_owned()))
    }
}

/// A directory that root has made for the state, with nothing in it yet.
fn empty_state(setup: &Setup) -> PathBuf {
    let state = setup.state_dir();
    std::fs::create_dir_all(&state).expect("the test's directory is writable");
    state
}

fn becomes_the_user() -> Verdict {
    root()?;
    let setup = Setup::new().installed();
    let state = empty_state(&setup);
    let (pidfile, log) = (setup.directory().join("forkgate.pid"), setup.directory().join("gateway.log"));
    let http = format!("unix:{}", state.join("http.sock").display());
    let gateway = setup
        .set("GATEWAY_USER", "nobody")
        .set("GATEWAY_PIDFILE", pidfile.display().to_string())
        .set("GATEWAY_LOG_FILE", log.display().to_string());
    let bind = format!("127.0.0.1:{},{http}", free_port());
    let gateway = gateway.set("GATEWAY_BIND", bind).start();
    let all = |gateway: &Gateway| [vec![gateway.pid()], workers(gateway)].concat();
    let check = |gateway: &Gateway| {
        for pid in all(gateway) {
            for field in ["Uid", "Gid"] {
                assert_eq!(
                    status(pid, field),
                    [NOBODY.to_string().as_str(); 4].join(" "),
                    "{field} of {pid}"
                );
            }
        }
        for field in ["CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(gateway.pid(), field), NET_BIND_ONLY, "{field} of the master");
        }
        for pid in workers(gateway) {
            for field in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                let wanted = if field == "CapInh" { NET_BIND_ONLY } else { NONE };
                assert_eq!(status(pid, field), wanted, "{field} of a worker");
            }
        }
    };
    check(&gateway);
    for path in
        [&state, &log, &pidfile, &state.join("forkgate.db"), &state.join("http.sock"), &state.join("lock")]
    {
        let owner =
            std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).uid();
        assert_eq!(owner, NOBODY, "{}", path.display());
    }

    // What comes later comes all the same: another slot, other settings, another program, another worker.
    gateway.signal(Signal::SIGTTIN);
    wait::until_equal("a third worker", START_LIMIT, 3, || workers(&gateway).len());
    gateway.reload();
    let output = gateway.ctl(&["upgrade"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check(&gateway);
    let victim = workers(&gateway)[0];
    process::signal(victim, Signal::SIGKILL);
    wait::until_true("its successor", START_LIMIT, || {
        !workers(&gateway).contains(&victim) && workers(&gateway).len() == 3
    });

    // Nobody outlives the master without knowing: the signal of its death is not lost with the rights.
    let mut gateway = gateway;
    let state = gateway.setup.state_dir();
    let orphans = gateway.kill_master();
    wait::until_true("the workers to leave", START_LIMIT, || orphans.iter().all(|&pid| !process::alive(pid)));
    assert!(state.join("lock").exists(), "as after any kill");
    Ok(())
}

fn only_root() -> Verdict {
    root()?;
    // Whoever starts it is somebody else already.
    let setup = Setup::new().set("GATEWAY_USER", "root");
    let mut gateway =
        setup.through(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]).spawn();
    let code = gateway.wait_exit(START_LIMIT).code();
    let said = gateway.log_text();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("GATEWAY_USER=root: only root can become somebody else"), "{said}");
    // The state directory of another one is not taken.
    let setup = Setup::new().set("GATEWAY_USER", "nobody");
    std::fs::write(empty_state(&setup).join("somebodys"), "").expect("writable");
    let mut gateway = setup.spawn();
    assert_eq!(gateway.wait_exit(START_LIMIT).code(), Some(1));
    let said = gateway.log_text();
    assert!(said.contains("GATEWAY_USER=nobody has to own it: chown -R nobody"), "{said}");
    let answer = http::once(gateway.address, &http::Request::new("GET", "/health"), Duration::from_secs(1));
    assert!(answer.is_err(), "nobody listens");
    Ok(())
}
