//! `ctl` against masters that say what they say.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use forkgate_shared::rows::Rows;
use forkgate_shared::status::Status;
use forkgate_shared::verdict::{Claim, Stage, Verdict};

use super::connect::candidates;
use super::operate::wait_for;
use super::table::table;
use super::*;
use crate::system::ctl::{self, Answer, HeldBack, Outcome, Progress};

#[test]
fn errors_say_where_and_what_to_do() {
    let dir = tempfile::tempdir().expect("dir");
    let paths = candidates(None, dir.path());
    let missing = ask::<Answer>(&paths[..1], &Request::Status).expect_err("nobody").to_string();
    assert!(
        missing.contains(&paths[0].display().to_string()) && missing.contains("--socket PATH"),
        "{missing}"
    );
    drop(UnixListener::bind(&paths[0]).expect("bind"));
    assert!(matches!(ask::<Answer>(&paths[..1], &Request::Status), Err(CtlError::Dead { .. })));
    let own = std::process::id() as i32;
    for pid in [None, Some(own), Some(i32::MAX)] {
        let silent = CtlError::of(&paths[0], pid, io::ErrorKind::WouldBlock.into()).to_string();
        assert!(silent.contains("did not answer within 5 s"), "{silent}");
        assert_eq!(silent.contains(&format!("kill -ABRT {own}")), pid == Some(own), "{silent}");
    }
}

#[test]
fn a_master_that_answers_is_shown_as_a_table() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(ctl::SOCKET);
    let listener = UnixListener::bind(&path).expect("bind");
    let (rows, _fd) = Rows::create(4).expect("rows");
    rows.base().upgrades.store(1, std::sync::atomic::Ordering::Relaxed);
    let row = rows.row(2);
    row.state.store(2, std::sync::atomic::Ordering::Relaxed);
    row.pid.store(4711, std::sync::atomic::Ordering::Relaxed);
    row.streams.store(77, std::sync::atomic::Ordering::Relaxed);
    row.abandoned_calls.store(3, std::sync::atomic::Ordering::Relaxed);
    row.leaves_by_ns.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    row.evidence.busy_permille.store(998, std::sync::atomic::Ordering::Relaxed);
    let claim = Claim { verdict: Verdict::Spin, stage: Stage::Suspect };
    row.evidence.claim.store(claim.pack(), std::sync::atomic::Ordering::Relaxed);
    let status = Status::read(&rows);
    let answer = Answer {
        pid: 9,
        state: "serving".to_owned(),
        sentence: "1/1 ready".to_owned(),
        uptime_s: 3661.0,
        addresses: vec!["127.0.0.1:4444".to_owned()],
        held_back: vec![HeldBack { slot: 1, share: 0.25, why: "slow_start".to_owned() }],
        status,
    };
    let master = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("read");
        let mut bytes = serde_json::to_vec(&answer).expect("json");
        bytes.push(b'\n');
        (&stream).write_all(&bytes).expect("write");
        line
    });
    let paths = [dir.path().join("none"), path];
    let (line, answer) = ask::<Answer>(&paths, &Request::Status).expect("answer");
    assert_eq!(master.join().expect("master"), "{\"command\":\"status\"}\n");
    assert!(line.contains("\"uptime_s\":3661.0"), "{line}");
    let text = table(&answer);
    assert!(
        text.starts_with("forkgate 0.1.0 (upgraded once), pid 9, up 1h1m, serving: 1/1 ready\n"),
        "{text}"
    );
    assert!(text.contains("serving") && text.contains("4711"), "{text}");
    let listening =
        "\nlistening on 127.0.0.1:4444; slot 1 gets 25 % of its share of new clients: slow_start\n";
    assert!(text.contains(listening), "{text}");
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().rev().take(2).map(squeezed).collect();
    assert!(lines[0].contains(" 77 3 in ") && lines[1].contains(" streams abandoned leaves "), "{text}");
    assert!(lines[0].ends_with(" 100% spin suspect") && lines[1].ends_with(" loop watchdog"), "{text}");
}

#[test]
fn a_master_that_refuses_gives_its_reason() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(ctl::SOCKET);
    let listener = UnixListener::bind(&path).expect("bind");
    let master = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("read");
        (&stream).write_all(b"{\"error\":\"no worker of slot 1 died yet\"}\n").expect("write");
        line
    });
    let refused = ask::<Why>(&[path], &Request::Why { slot: 1 }).expect_err("refused");
    assert_eq!(refused.to_string(), "no worker of slot 1 died yet");
    assert_eq!(master.join().expect("master"), "{\"command\":\"why\",\"slot\":1}\n");
}

/// A master that answers whoever asks next with these lines, and gives what it was asked.
fn master(lines: Vec<Vec<u8>>) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<String>) {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join(ctl::SOCKET);
    let listener = UnixListener::bind(&path).expect("bind");
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("read");
        lines.iter().for_each(|bytes| (&stream).write_all(bytes).expect("write"));
        line
    });
    (dir, path, asked)
}

#[test]
fn an_operation_has_progress_and_then_an_outcome() {
    let progress = |text: &str| ctl::line(&Progress { progress: text.to_owned() });
    let failed = Outcome::failure("slot 1 did not start");
    let (_dir, path, asked) = master(vec![progress("a"), progress("b"), ctl::line(&failed)]);
    let seen = RefCell::new(Vec::new());
    let (line, outcome) = wait_for::<Outcome>(&Request::Reload { check_only: false }, &[path], |text| {
        seen.borrow_mut().push(text.to_owned())
    })
    .expect("answer");
    assert_eq!(asked.join().expect("master"), "{\"command\":\"reload\",\"check_only\":false}\n");
    assert_eq!((seen.into_inner().join(" "), outcome), ("a b".to_owned(), failed));
    assert!(line.starts_with("{\"ok\":false,\"error\":\"slot 1 did not start\""), "{line}");

    let (_dir, path, _asked) = master(vec![progress("a")]);
    let ended =
        wait_for::<Outcome>(&Request::Reload { check_only: false }, &[path], |_| ()).expect_err("no outcome");
    assert!(ended.to_string().contains("ended before it had an answer"), "{ended}");

    let (_dir, path, _asked) = master(vec![ctl::refusal("not understood")]);
    let refused =
        wait_for::<Outcome>(&Request::Reload { check_only: false }, &[path], |_| ()).expect_err("refused");
    assert_eq!(refused.to_string(), "not understood");
}
