//! Every signal in every state: the service goes on, and TERM, INT and QUIT end it in time. And what the signals are for that have no
//! test of their own elsewhere: USR1 and ABRT.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use forkgate_tests::crash_report::{self, Cause};
use forkgate_tests::gateway::{EXCHANGE_LIMIT, Gateway, START_LIMIT, Setup};
use forkgate_tests::http::{self, Request};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::starts::{Caught, Starts};
use forkgate_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    Test { name: "signals_in_every_state_of_the_master", limit: LIMIT, run: master_in_every_state },
    Test {
        name: "signals_int_and_quit_end_every_state_of_the_master",
        limit: LIMIT,
        run: quick_in_every_state,
    },
    Test { name: "signals_to_a_worker", limit: LIMIT, run: to_a_worker },
    Test { name: "signals_usr1_opens_the_log_file_anew", limit: LIMIT, run: reopens_the_log },
    Test { name: "signals_abrt_writes_the_masters_state_down", limit: LIMIT, run: dumps_the_state },
];

/// Everything that does not end the master.
const TO_MASTER: [Signal; 10] = [
    Signal::SIGUSR1,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGABRT,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR2,
    Signal::SIGHUP,
];
/// Everything that means nothing to a worker.
const NOTHING_TO_WORKER: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGPIPE,
];
const GRACEFUL: Duration = Duration::from_secs(3);
/// What the workers get after INT and QUIT.
const QUICK: Duration = Duration::from_secs(2);
/// Two busy cores.
const MARGIN: Duration = Duration::from_secs(5);

/// What holds a gateway in its state; dropped at the end.
enum Held {
    Nothing,
    Client { _connection: TcpStream },
    Start { _caught: Caught },
}

/// A state, and how a gateway gets into it and stays there.
struct State {
    name: &'static str,
    enter: fn(&Gateway) -> Held,
}

const STATES: [State; 8] = [
    State { name: STARTING, enter: |_| Held::Nothing },
    State { name: "serving", enter: |_| Held::Nothing },
    State { name: "reloading: checking", enter: checking },
    State { name: "reloading: rolling", enter: rolling },
    State { name: "upgrading", enter: upgrading },
    State { name: "recycling", enter: recycling },
    State { name: "draining", enter: draining },
    State { name: "degraded", enter: degraded },
];

const STARTING: &str = "starting";

/// Whoever starts now waits in its start, for ever if nobody lets it go.
fn hold_starts(gateway: &Gateway) -> Starts {
    Starts::hold(&gateway.setup.state_dir())
}

fn first_worker(gateway: &Gateway) -> u32 {
    gateway.status().serving().next().expect("one serves").pid
}

fn says(gateway: &Gateway, word: &str) {
    wait::until_true(&format!("{word} in the sentence"), START_LIMIT, || {
        gateway.status().sentence.contains(word)
    });
}

fn checking(gateway: &Gateway) -> Held {
    let starts = hold_starts(gateway);
    gateway.signal(Signal::SIGHUP);
    let caught = starts.catch();
    says(gateway, "reloading");
    Held::Start { _caught: caught }
}

/// The check is through, the first worker with the new settings boots.
fn rolling(gateway: &Gateway) -> Held {
    let starts = hold_starts(gateway);
    gateway.signal(Signal::SIGHUP);
    starts.catch().go_on();
    let caught = starts.catch();
    says(gateway, "reloading");
    Held::Start { _caught: caught }
}

/// The master is the other program, whose first worker boots.
fn upgrading(gateway: &Gateway) -> Held {
    let starts = hold_starts(gateway);
    gateway.signal(Signal::SIGUSR2);
    let caught = starts.catch();
    assert_eq!(gateway.status().upgrades, 1);
    Held::Start { _caught: caught }
}

fn recycling(gateway: &Gateway) -> Held {
    let starts = hold_starts(gateway);
    process::signal(first_worker(gateway), Signal::SIGTERM);
    let caught = starts.catch();
    says(gateway, "recycling slot");
    Held::Start { _caught: caught }
}

/// A worker that was told to leave has a request whose body does not come.
fn draining(gateway: &Gateway) -> Held {
    let mut client = TcpStream::connect(gateway.address).expect("a connection");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{",
        gateway.token()
    );
    client.write_all(head.as_bytes()).expect("sent");
    let busy = wait::until("the request to be in flight", START_LIMIT, || {
        gateway.status().workers.iter().find(|worker| worker.in_flight > 0).map(|worker| worker.pid)
    });
    process::signal(busy, Signal::SIGTERM);
    wait::until_true("a worker to drain", START_LIMIT, || {
        gateway.status().workers.iter().any(|worker| worker.pid == busy && worker.state == "draining")
    });
    Held::Client { _connection: client }
}

fn degraded(gateway: &Gateway) -> Held {
    std::fs::write(gateway.setup.state_dir().join("session.keys"), "this is not a key\n").expect("writable");
    process::signal(first_worker(gateway), Signal::SIGKILL);
    wait::until_true("a crash loop", START_LIMIT, || gateway.status().degraded);
    Held::Nothing
}

fn master_in_every_state() -> Verdict {
    in_all_states(&|state, mut gateway| {
        let starts = state.name == STARTING;
        for signal in TO_MASTER {
            gateway.signal(signal);
            // An answer means that the signal before it was taken.
            let status = gateway.status();
            assert!(starts || status.ready > 0, "{} after {signal}: {status:?}", state.name);
            if !starts {
                let ready = http::once(gateway.address, &Request::new("GET", "/ready"), EXCHANGE_LIMIT);
                assert!(ready.is_ok_and(|answer| answer.status() == 200), "{} after {signal}", state.name);
            }
        }
        ends(state, &mut gateway, Signal::SIGTERM, GRACEFUL);
    });
    Ok(())
}

fn quick_in_every_state() -> Verdict {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        in_all_states(&|state, mut gateway| ends(state, &mut gateway, signal, QUICK));
    }
    Ok(())
}

/// A gateway in each state, all at the same time.
fn in_all_states(then: &(impl Fn(&State, Gateway) + Sync)) {
    std::thread::scope(|scope| {
        for state in &STATES {
            scope.spawn(|| in_state(state, then));
        }
    });
}

fn in_state(state: &State, then: impl Fn(&State, Gateway)) {
    let setup = Setup::new().set("GATEWAY_GRACEFUL_TIMEOUT", "3s").set("GATEWAY_KEEPALIVE_GRACE", "1s");
    let starts = state.name == STARTING;
    if starts {
        std::fs::create_dir_all(setup.state_dir()).expect("the test's directory is writable");
        let _ = Starts::hold(&setup.state_dir());
    }
    let gateway = setup.spawn();
    if starts {
        wait::until_true("the master to answer", START_LIMIT, || {
            gateway.setup.state_dir().join("ctl.sock").exists() && gateway.status().state == "starting"
        });
    } else {
        gateway.wait_ready();
    }
    let held = (state.enter)(&gateway);
    then(state, gateway);
    drop(held);
}

/// The signal ends it within this time, with code 0, and nobody is left.
fn ends(state: &State, gateway: &mut Gateway, signal: Signal, within: Duration) {
    let family = process::descendants(gateway.pid());
    let since = Instant::now();
    gateway.signal(signal);
    let status = gateway.wait_exit(within + MARGIN);
    assert_eq!(status.code(), Some(0), "{} {signal}: {status} after {:?}", state.name, since.elapsed());
    let left: Vec<u32> = family.into_iter().filter(|&pid| process::alive(pid)).collect();
    assert!(left.is_empty(), "{} {signal}: {left:?} are left", state.name);
}

fn to_a_worker() -> Verdict {
    let gateway = Setup::new().start();
    let before = gateway.status();
    let serving = first_worker(&gateway);
    for signal in NOTHING_TO_WORKER {
        process::signal(serving, signal);
    }
    // One that starts, too.
    let starts = hold_starts(&gateway);
    let other = before.serving().find(|worker| worker.pid != serving).expect("there are two").pid;
    process::signal(other, Signal::SIGABRT);
    let caught = starts.catch();
    let booting = wait::until("a worker to boot", START_LIMIT, || {
        let status = gateway.status();
        status.workers.iter().find(|worker| ![serving, other].contains(&worker.pid)).map(|worker| worker.pid)
    });
    for signal in NOTHING_TO_WORKER {
        process::signal(booting, signal);
    }
    starts.release();
    caught.go_on();
    let mut after: Vec<u32> = gateway.wait_settled().serving().map(|worker| worker.pid).collect();
    after.sort_unstable();
    let mut wanted = [serving, booting];
    wanted.sort_unstable();
    assert_eq!(after, wanted, "the one that served and the one that started");
    let report = crash_report::of(&gateway, other).pop().expect("ABRT ends a worker, with a report").report;
    assert_eq!(report.cause, Cause::Died { how: "signal SIGABRT".to_owned() });
    for (signal, crashes) in [(Signal::SIGINT, 2), (Signal::SIGQUIT, 3)] {
        process::signal(first_worker(&gateway), signal);
        wait::until_equal("the crashes", START_LIMIT, crashes, || gateway.status().crashes);
        gateway.wait_settled();
    }
    gateway.stop();
    Ok(())
}

fn reopens_the_log() -> Verdict {
    let setup = Setup::new();
    let (log, moved) = (setup.directory().join("gateway.log"), setup.directory().join("gateway.log.1"));
    let gateway = setup.set("GATEWAY_LOG_FILE", log.display().to_string()).start();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(std::fs::metadata(&log).expect("made").permissions().mode() & 0o777, 0o640);
    assert_eq!(gateway.log_text(), "", "nothing goes to stderr");
    std::fs::rename(&log, &moved).expect("moved, as logrotate does");
    gateway.signal(Signal::SIGUSR1);
    wait::until_true("everybody to write to the new file", START_LIMIT, || {
        read(&log).lines().any(|line| line.contains("log file opened anew") && line.contains("workers=2"))
    });
    let before = read(&moved);
    for role in ["master[", "worker 0[", "worker 1["] {
        assert!(before.lines().any(|line| line.contains(role)), "{role}:\n{before}");
    }
    let worker = gateway.status().serving().find(|worker| worker.slot == 1).expect("it serves").pid;
    process::signal(worker, Signal::SIGTERM);
    wait::until_true("the worker's own line", START_LIMIT, || {
        read(&log).contains("TERM: asking to be replaced")
    });
    gateway.wait_settled();
    // By hand, one worker alone.
    std::fs::rename(&log, gateway.setup.directory().join("gateway.log.2")).expect("moved");
    let worker = gateway.status().serving().find(|worker| worker.slot == 0).expect("it serves").pid;
    process::signal(worker, Signal::SIGUSR1);
    wait::until_true("the worker to make the file", START_LIMIT, || log.exists());
    gateway.signal(Signal::SIGUSR1);
    wait::until_true("the others to follow", START_LIMIT, || read(&log).contains("workers=2"));
    assert_eq!(read(&moved), before, "nobody has written to the old file since");
    for line in [&before, &read(&log)].into_iter().flat_map(|text| text.lines()) {
        assert!(line.len() > 24 && line.as_bytes()[23] == b'Z', "a whole line: {line}");
    }
    gateway.stop();
    Ok(())
}

fn dumps_the_state() -> Verdict {
    let gateway = Setup::new().start();
    let path = gateway.setup.state_dir().join("master-state.json");
    gateway.signal(Signal::SIGABRT);
    wait::until_true("the state to be written", START_LIMIT, || path.exists());
    assert_eq!(std::fs::metadata(&path).expect("made").permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).expect("readable");
    let dump: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let pids: Vec<u64> = gateway.status().workers.iter().map(|worker| u64::from(worker.pid)).collect();
    let children = dump["children"].as_array().expect("children");
    assert!(pids.iter().all(|pid| children.iter().any(|child| child["pid"] == *pid)), "{pids:?}: {text}");
    assert_eq!(dump["status"]["state"], "serving", "{text}");
    assert_eq!(dump["supervisor"]["slots"].as_object().map(serde_json::Map::len), Some(2), "{text}");
    assert!(!text.contains(forkgate_tests::token::SECRET), "no secret");
    gateway.wait_settled();
    gateway.stop();
    Ok(())
}
