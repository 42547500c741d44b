//! `forkgate ctl`: asks a running master over its control socket.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use forkgate_shared::status::WorkerStatus;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::output;
use super::report::{self, Style};
use crate::system::ctl::{self, Answer, Refusal, Request, Why};

/// A master answers within a turn of its loop; one that is stopped never does.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read: some hundred bytes per worker, or a report.
const MAX_ANSWER: u64 = 4 << 20;
/// Where the unit file's `RuntimeDirectory=` puts the socket; the shell of an operator has no `$RUNTIME_DIRECTORY`.
const SYSTEMD_DIRECTORY: &str = "/run/forkgate";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error(
        "no master is running here: there is no control socket at {}; start one with `forkgate serve`, or name its \
         socket with --socket PATH", tried(.0)
    )]
    NoSocket(Vec<PathBuf>),
    #[error("cannot talk to the master at {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("may not talk to the master at {path}: run this as the user that forkgate runs as, or as root", path = .path.display())]
    Forbidden { path: PathBuf },
    #[error(
        "nobody listens at {path}: the master that made it was killed; start one with `forkgate serve`", path = .path.display()
    )]
    Dead { path: PathBuf },
    #[error(
        "the master at {path} did not answer within {} s: it is stopped or stuck (`ps -o pid,stat,args -C forkgate`)",
        TIMEOUT.as_secs(), path = .path.display()
    )]
    Silent { path: PathBuf },
    #[error("the master at {path} closed the connection without an answer: it is busy with others; try again", path = .path.display())]
    Closed { path: PathBuf },
    #[error("the master at {path} gave an answer that this version does not understand: {source}", path = .path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Refused(String),
}

fn tried(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Where to look for a master: `socket`, else the first that exists of `$RUNTIME_DIRECTORY/ctl.sock`,
/// `<state_dir>/ctl.sock`, `/run/forkgate/ctl.sock`.
pub fn sockets(socket: Option<PathBuf>, state_dir: &Path) -> Vec<PathBuf> {
    let runtime = std::env::var("RUNTIME_DIRECTORY").ok();
    match socket {
        Some(path) => vec![path],
        None => candidates(runtime.as_deref(), state_dir),
    }
}

/// Prints the status of a running master: a table, or the JSON as the master gave it.
///
/// Exit code 1 with one line on stderr when there is no answer within 5 s.
pub fn status(json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Status), json, table)
}

/// Prints why the last worker of a slot was killed or died; else as [`status`].
pub fn why(slot: u32, json: bool, sockets: &[PathBuf]) -> ExitCode {
    shown(ask(sockets, &Request::Why { slot }), json, |why: &Why| {
        format!("{}\nfile: {}\n", report::render(&why.report, Style::of_stdout()), why.path.display())
    })
}

fn shown<A>(answer: Result<(String, A), CtlError>, json: bool, render: impl Fn(&A) -> String) -> ExitCode {
    match answer {
        Ok((line, _)) if json => output::print(&line),
        Ok((_, answer)) => output::print(&render(&answer)),
        Err(error) => {
            output::complain("error", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn candidates(runtime: Option<&str>, state_dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![
        ctl::path(runtime, state_dir),
        state_dir.join(ctl::SOCKET),
        Path::new(SYSTEMD_DIRECTORY).join(ctl::SOCKET),
    ];
    paths.dedup();
    paths
}

/// The answer of the first of these masters, as a line and understood.
fn ask<A: DeserializeOwned>(candidates: &[PathBuf], request: &Request) -> Result<(String, A), CtlError> {
    for path in candidates {
        let failed = |source: io::Error| CtlError::of(path, source);
        let line = match exchange(path, request) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result.map_err(failed)?,
        };
        if line.is_empty() {
            return Err(CtlError::Closed { path: path.clone() });
        }
        if let Ok(Refusal { error }) = serde_json::from_str(&line) {
            return Err(CtlError::Refused(error));
        }
        let answer = serde_json::from_str(&line)
            .map_err(|source| CtlError::Malformed { path: path.clone(), source })?;
        return Ok((line, answer));
    }
    Err(CtlError::NoSocket(candidates.to_vec()))
}

fn exchange(path: &Path, request: &Request) -> io::Result<String> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    let (_directory, name) = ctl::short_name(path)?;
    socket.connect_timeout(&SockAddr::unix(name)?, TIMEOUT)?;
    let mut stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = serde_json::to_vec(request)?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
    Ok(line)
}

impl CtlError {
    fn of(path: &Path, source: io::Error) -> CtlError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CtlError::Silent { path },
            io::ErrorKind::ConnectionRefused => CtlError::Dead { path },
            io::ErrorKind::PermissionDenied => CtlError::Forbidden { path },
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CtlError::Closed { path },
            _ => CtlError::Io { path, source },
        }
    }
}

const COLUMNS: [&str; 15] = [
    "slot",
    "row",
    "pid",
    "gen",
    "state",
    "age",
    "requests",
    "limit",
    "conns",
    "busy",
    "streams",
    "memory",
    "catalog/settings",
    "loop",
    "watchdog",
];

fn table(answer: &Answer) -> String {
    let status = &answer.status;
    let mut text = format!(
        "forkgate {}, pid {}, {} since {}: {}\n\
         requests {}, connections {}, crashes {}\n\
         killed: {}; recycled: {}\n\
         catalog generation {}, rows {} of {}\n\n",
        status.version,
        answer.pid,
        answer.state,
        span(answer.uptime_s),
        answer.sentence,
        status.requests,
        status.accepted,
        status.crashes,
        counts(&status.kills),
        counts(&status.recycles),
        status.catalog_generation,
        status.workers.len(),
        status.row_capacity,
    );
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(status.workers.iter().map(cells));
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The counts that are not zero, with their words.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let some = counts.iter().filter(|(_, count)| **count > 0);
    let words: Vec<String> = some.map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn cells(worker: &WorkerStatus) -> [String; COLUMNS.len()] {
    let limit = if worker.request_limit == 0 { "-".to_owned() } else { worker.request_limit.to_string() };
    let memory = match worker.private_bytes {
        0 => "-".to_owned(),
        bytes => format!("{:.1}M", bytes as f64 / f64::from(1 << 20)),
    };
    [
        worker.slot.to_string(),
        worker.row.to_string(),
        worker.pid.to_string(),
        worker.generation.to_string(),
        worker.state.clone(),
        span(worker.age_s),
        worker.requests.to_string(),
        limit,
        worker.connections.to_string(),
        worker.in_flight.to_string(),
        worker.streams.to_string(),
        memory,
        format!("{}/{}", worker.catalog_generation, worker.settings_generation),
        format!("{:.0}%", worker.busy * 100.0),
        if worker.watchdog.is_empty() { "-".to_owned() } else { worker.watchdog.clone() },
    ]
}

/// Two units are enough for people.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use forkgate_shared::rows::Rows;
    use forkgate_shared::status::Status;
    use forkgate_shared::verdict::{Claim, Stage, Verdict};

    use super::*;

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
        let silent = CtlError::of(&paths[0], io::ErrorKind::WouldBlock.into()).to_string();
        assert!(silent.contains("did not answer within 5 s"), "{silent}");
    }

    #[test]
    fn a_master_that_answers_is_shown_as_a_table() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(ctl::SOCKET);
        let listener = UnixListener::bind(&path).expect("bind");
        let (rows, _fd) = Rows::create(4).expect("rows");
        let row = rows.row(2);
        row.state.store(2, std::sync::atomic::Ordering::Relaxed);
        row.pid.store(4711, std::sync::atomic::Ordering::Relaxed);
        row.evidence.busy_permille.store(998, std::sync::atomic::Ordering::Relaxed);
        let claim = Claim { verdict: Verdict::Spin, stage: Stage::Suspect };
        row.evidence.claim.store(claim.pack(), std::sync::atomic::Ordering::Relaxed);
        let status = Status::read(&rows);
        let sentence = "1/1 ready".to_owned();
        let answer = Answer { pid: 9, state: "serving".to_owned(), sentence, uptime_s: 3661.0, status };
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
        assert!(text.starts_with("forkgate 0.1.0, pid 9, serving since 1h1m: 1/1 ready\n"), "{text}");
        assert!(text.contains("serving") && text.contains("4711"), "{text}");
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().rev().take(2).map(squeezed).collect();
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

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [(0.4, "0s"), (61.0, "1m1s"), (7260.0, "2h1m"), (90_000.0, "1d1h")] {
            assert_eq!(span(seconds), text);
        }
    }
}
