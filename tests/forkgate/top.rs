//! `forkgate ctl top` in a real terminal, against a real gateway.

use std::process::Stdio;
use std::time::Duration;

use forkgate_tests::gateway::{Gateway, START_LIMIT, Setup};
use forkgate_tests::http::Request;
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::terminal::Terminal;
use forkgate_tests::{paths, wait};

const LIMIT: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    Test { name: "top_shows_the_slots_and_does_what_keys_say", limit: LIMIT, run: keys },
    Test {
        name: "top_goes_on_when_the_master_is_upgraded_stopped_or_gone",
        limit: Duration::from_secs(120),
        run: master,
    },
    Test { name: "top_leaves_a_clean_terminal", limit: LIMIT, run: clean },
    Test { name: "top_fits_terminals_of_all_sizes", limit: LIMIT, run: sizes },
    Test { name: "top_without_a_terminal_says_what_to_use", limit: LIMIT, run: no_terminal },
];

/// What the last line says while the slots are shown.
const KEYS: &str = "r recycle";

fn command(gateway: &Gateway) -> String {
    let socket = gateway.setup.state_dir().join("ctl.sock");
    format!("{} ctl top --interval 200ms --socket {}", paths::forkgate().display(), socket.display())
}

/// A terminal that shows this gateway.
fn open(gateway: &Gateway, columns: u16, lines: u16) -> Result<Terminal, forkgate_tests::skip::Skip> {
    let terminal = Terminal::open(columns, lines)?;
    terminal.type_command(&command(gateway));
    terminal.wait_for_words(KEYS);
    Ok(terminal)
}

/// The process that serves a slot.
fn pid_of(gateway: &Gateway, slot: u32) -> u32 {
    let status = gateway.wait_settled();
    status.serving().find(|worker| worker.slot == slot).expect("a worker of each slot").pid
}

/// True when the table's line of this process says that.
fn line_says(screen: &str, pid: u32, words: &str) -> bool {
    let pid = pid.to_string();
    // The slot comes first, if the line has one.
    let is_of = |line: &str| line.trim_start_matches('>').split_whitespace().take(2).any(|word| word == pid);
    screen.lines().any(|line| is_of(line) && line.contains(words))
}

/// True when something on the screen has a foreground colour of its own.
fn has_colours(screen: &str) -> bool {
    let sequences = screen.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
    let mut codes = sequences.flat_map(|(codes, _)| codes.split(';')).filter_map(|code| code.parse().ok());
    codes.any(|code: u32| matches!(code, 30..=38 | 90..=97))
}

fn keys() -> Verdict {
    let gateway = Setup::new().start();
    let terminal = open(&gateway, 80, 24)?;
    let first = [pid_of(&gateway, 0), pid_of(&gateway, 1)];
    let screen =
        terminal.wait_for("both slots", |screen| first.iter().all(|pid| line_says(screen, *pid, "serving")));
    for words in ["forkgate 0.", ", serving: 2/2 ready", &format!("listening on {}", gateway.address)] {
        assert!(screen.contains(words), "{words:?} is missing:\n{screen}");
    }
    for _ in 0..20 {
        gateway.exchange(&Request::new("GET", "/nothing/here"));
    }
    terminal.wait_for_words("requests 20, connections 2");

    terminal.press("p");
    let screen = terminal.wait_for("a pause", |screen| line_says(screen, first[0], "paused"));
    assert!(screen.contains("slot 0 gets no new clients"), "what was done is said:\n{screen}");
    assert_eq!(gateway.status().held_back[0].why, "paused");
    terminal.press("Down");
    terminal.wait_for("the selection", |screen| screen.lines().any(|line| line.starts_with(">   1 ")));
    terminal.press("p");
    terminal.wait_for_words("not done: slot 1 is the last one that takes new clients");
    terminal.press("Up");
    terminal.press("p");
    terminal.wait_for("the end of the pause", |screen| line_says(screen, first[0], "serving"));
    assert_eq!(gateway.status().held_back, []);

    terminal.press("r");
    terminal.wait_for_words("recycle slot 0?");
    terminal.press("n");
    terminal.wait_for_words("slot 0 is not recycled");
    terminal.press("r");
    terminal.wait_for_words("recycle slot 0?");
    terminal.press("y");
    let next = wait::until("another worker of slot 0", START_LIMIT, || {
        Some(pid_of(&gateway, 0)).filter(|pid| *pid != first[0])
    });
    let screen = terminal.wait_for("the next worker", |screen| {
        line_says(screen, next, "serving") && !line_says(screen, first[0], "")
    });
    assert!(line_says(&screen, first[1], "serving"), "the other one stays:\n{screen}");
    assert_eq!(gateway.status().recycles.operator, 1);

    terminal.press("w");
    terminal.wait_for_words("not done: no worker of slot 0 was killed or died yet");
    assert!(process::signal(next, Signal::SIGABRT));
    wait::until_true("a report", START_LIMIT, || gateway.ctl(&["why", "0"]).status.success());
    terminal.press("w");
    let screen = terminal.wait_for_words("slot 0: why its last worker was killed or died");
    assert!(screen.contains(&format!("worker 0 (pid {next}, ")) && screen.contains("died: "), "{screen}");
    // So low that it does not fit.
    terminal.resize(80, 12);
    terminal
        .wait_for("the first lines alone", |screen| screen.contains("died: ") && !screen.contains("file: "));
    terminal.press("End");
    terminal
        .wait_for("the last lines alone", |screen| !screen.contains("died: ") && screen.contains("file: "));
    terminal.resize(80, 24);
    terminal.press("q");
    terminal.wait_for_words(KEYS);
    terminal.press("?");
    terminal.wait_for_words("recycle the slot");
    terminal.press("q");
    terminal.wait_for_words(KEYS);
    terminal.press("q");
    assert_eq!(terminal.what_is_left(), Vec::<String>::new());
    gateway.stop();
    Ok(())
}

fn master() -> Verdict {
    let mut gateway = Setup::new().installed().start();
    let terminal = open(&gateway, 100, 24)?;
    let upgrade = gateway.ctl(&["upgrade"]);
    assert!(upgrade.status.success(), "{}", String::from_utf8_lossy(&upgrade.stderr));
    terminal.wait_for_words("(upgraded once)");

    gateway.signal(Signal::SIGSTOP);
    terminal.wait_for_words("the master has not answered for ");
    terminal.wait_for_words("did not answer within 5 s");
    gateway.signal(Signal::SIGCONT);
    terminal.wait_for_words(", serving: 2/2 ready");

    let orphans = gateway.kill_master();
    let screen = terminal.wait_for_words("nobody listens at ");
    assert!(screen.contains("trying again"), "{screen}");
    terminal.press("p");
    terminal.wait_for_words("not done: nobody listens");
    wait::until_true("the orphans to leave", START_LIMIT, || !orphans.iter().any(|pid| process::alive(*pid)));
    let next = gateway.setup.clone().start();
    let master = format!(", pid {}, ", next.pid());
    terminal.wait_for_words(&master);
    terminal.press("q");
    assert_eq!(terminal.what_is_left(), Vec::<String>::new());
    next.stop();
    Ok(())
}

fn clean() -> Verdict {
    let gateway = Setup::new().start();
    for (signal, environment) in
        [(Signal::SIGTERM, ""), (Signal::SIGINT, "NO_COLOR=1 "), (Signal::SIGHUP, "NO_COLOR= ")]
    {
        let terminal = Terminal::open(80, 24)?;
        terminal.type_command("echo what was there before");
        terminal.type_command(&format!("{environment}{}", command(&gateway)));
        terminal.wait_for_words(KEYS);
        terminal.wait_for_words("serving");
        let screen = terminal.coloured_screen();
        assert_eq!(has_colours(&screen), environment != "NO_COLOR=1 ", "{environment}: {screen:?}");
        let top = terminal.program().expect("it runs");
        assert!(process::signal(top, signal));
        wait::until_true("its end", START_LIMIT, || !process::alive(top));
        let before = |screen: &str| screen.contains("\nwhat was there before\n");
        terminal.wait_for("the screen of before", before);
        assert_eq!(terminal.what_is_left(), Vec::<String>::new(), "after {signal}");
    }
    gateway.stop();
    Ok(())
}

fn sizes() -> Verdict {
    let gateway = Setup::new().start();
    let terminal = open(&gateway, 80, 24)?;
    terminal.wait_for_words("─ slot 0 ─");
    terminal.resize(160, 30);
    // The histories of the slots have titles of their own there.
    terminal.wait_for("a wide table", |screen| {
        screen.lines().any(|line| line.contains("state") && line.contains("requests/s"))
    });
    terminal.resize(60, 12);
    terminal.wait_for("a small table", |screen| {
        !screen.contains("requests/s") && screen.contains("listening on") && screen.contains("serving")
    });
    terminal.resize(20, 4);
    terminal.wait_for_words("too small");
    terminal.resize(80, 24);
    terminal.wait_for_words("─ slot 0 ─");
    terminal.press("q");
    assert_eq!(terminal.what_is_left(), Vec::<String>::new());
    gateway.stop();
    Ok(())
}

fn no_terminal() -> Verdict {
    let setup = Setup::new();
    let top = |words: &[&str]| {
        let mut command = setup.command();
        command.args(["ctl", "top"]).args(words).stdin(Stdio::null());
        let output = command.output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = top(&[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("needs a terminal") && error.contains("`forkgate ctl status --json`"), "{error}");
    let (code, error) = top(&["--interval", "1ms"]);
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("allowed: 200ms to 1m"), "{error}");

    let terminal = Terminal::open(160, 24)?;
    terminal.type_command(&format!("{} ctl top --socket /nowhere/ctl.sock", paths::forkgate().display()));
    terminal.wait_for_words("there is no control socket at /nowhere/ctl.sock");
    assert_eq!(terminal.what_is_left(), Vec::<String>::new());
    Ok(())
}
