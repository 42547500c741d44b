//! Finding a master, asking it, and what can go wrong with that.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::system;
use crate::system::ctl::{self, Peer, Refusal, Request};

/// A master answers within a turn of its loop; one that is stopped never does.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read: some hundred bytes per worker, or a report.
const MAX_ANSWER: u64 = 4 << 20;
/// Where the unit file's `RuntimeDirectory=` puts the socket; the shell of an operator has no `$RUNTIME_DIRECTORY`.
const SYSTEMD_DIRECTORY: &str = "/run/forkgate";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
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
    #[error("the master {who} did not answer within {} s: {}", TIMEOUT.as_secs(), why_silent(*.pid), who = named(*.pid, .path))]
    Silent { path: PathBuf, pid: Option<i32> },
    #[error("the master at {path} closed the connection without an answer: it is busy with others; try again", path = .path.display())]
    Closed { path: PathBuf },
    #[error(
        "the master at {path} ended before it had an answer: the log says why", path = .path.display()
    )]
    Ended { path: PathBuf },
    #[error("the master at {path} gave an answer that this version does not understand: {source}", path = .path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Refused(String),
}

fn named(pid: Option<i32>, path: &Path) -> String {
    match pid {
        Some(pid) => format!("(pid {pid}) at {}", path.display()),
        None => format!("at {}", path.display()),
    }
}

/// What a process does that says nothing, and what can be done about it.
fn why_silent(pid: Option<i32>) -> String {
    let Some((pid, state)) = pid.and_then(|pid| Some((pid, system::state_of(pid)?))) else {
        return "it is stopped or stuck (`ps -o pid,stat,args -C forkgate`)".to_owned();
    };
    match state {
        'T' => format!("it is stopped (state T), somebody sent it STOP; `kill -CONT {pid}` lets it go on"),
        't' => "a debugger holds it (state t)".to_owned(),
        'D' => "it waits in the kernel (state D), perhaps for a disk that does not answer".to_owned(),
        'Z' | 'X' => "it has just ended; the log says why".to_owned(),
        state => format!(
            "it is stuck or gets no CPU (state {state}); `kill -ABRT {pid}` makes it write down what it knows, as soon as \
             it can"
        ),
    }
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

pub(super) fn candidates(runtime: Option<&str>, state_dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![
        ctl::path(runtime, state_dir),
        state_dir.join(ctl::SOCKET),
        Path::new(SYSTEMD_DIRECTORY).join(ctl::SOCKET),
    ];
    paths.dedup();
    paths
}

/// The answer of the first of these masters, as a line and understood.
pub(super) fn ask<A: DeserializeOwned>(
    candidates: &[PathBuf],
    request: &Request,
) -> Result<(String, A), CtlError> {
    let mut connection = Connection::open(candidates, request)?;
    let line = connection.next()?;
    if let Ok(Refusal { error }) = serde_json::from_str(&line) {
        return Err(CtlError::Refused(error));
    }
    let answer = serde_json::from_str(&line).map_err(|source| connection.malformed(source))?;
    Ok((line, answer))
}

/// A master that was asked.
pub(super) struct Connection {
    path: PathBuf,
    /// The master's process id, as the kernel says; none when it is in a namespace that cannot be seen from here.
    pid: Option<i32>,
    stream: BufReader<io::Take<UnixStream>>,
    /// Lines may be as long in coming as they like.
    is_patient: bool,
}

impl Connection {
    /// Asks the first of these masters that is there.
    pub(super) fn open(candidates: &[PathBuf], request: &Request) -> Result<Connection, CtlError> {
        let mut left_behind = None;
        for path in candidates {
            match connect(path, request) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    left_behind.get_or_insert(CtlError::of(path, None, error));
                }
                Err(error) => return Err(CtlError::of(path, None, error)),
                Ok(stream) => {
                    let pid = Peer::of(&stream).ok().map(|peer| peer.pid).filter(|pid| *pid > 0);
                    let stream = BufReader::new(stream.take(MAX_ANSWER));
                    return Ok(Connection { path: path.clone(), pid, stream, is_patient: false });
                }
            }
        }
        Err(left_behind.unwrap_or_else(|| CtlError::NoSocket(candidates.to_vec())))
    }

    /// The next line of the answer.
    pub(super) fn next(&mut self) -> Result<String, CtlError> {
        let mut line = String::new();
        // What came before an error stays in the line.
        while let Err(error) = self.stream.read_line(&mut line) {
            let error = CtlError::of(&self.path, self.pid, error);
            let waits = self.is_patient && matches!(error, CtlError::Silent { .. }) && !self.stands_still();
            if !waits {
                return Err(error);
            }
        }
        if line.ends_with('\n') { Ok(line) } else { Err(CtlError::Closed { path: self.path.clone() }) }
    }

    /// Lines may be as long in coming as they like from now on, unless the master stands still.
    pub(super) fn is_patient(&mut self) {
        self.is_patient = true;
        self.stream.get_mut().set_limit(u64::MAX);
    }

    /// Somebody stopped the master, or a debugger holds it: nothing will come.
    fn stands_still(&self) -> bool {
        self.pid.and_then(system::state_of).is_some_and(|state| matches!(state, 'T' | 't'))
    }

    /// The master's process id, when it can be seen from here.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Something in an answer was not understood.
    pub(super) fn malformed(&self, source: serde_json::Error) -> CtlError {
        CtlError::Malformed { path: self.path.clone(), source }
    }

    /// There will be no more.
    pub(super) fn ended(&self) -> CtlError {
        CtlError::Ended { path: self.path.clone() }
    }
}

fn connect(path: &Path, request: &Request) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    let (_directory, name) = ctl::short_name(path)?;
    socket.connect_timeout(&SockAddr::unix(name)?, TIMEOUT)?;
    let mut stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&ctl::line(request))?;
    Ok(stream)
}

impl CtlError {
    pub(super) fn of(path: &Path, pid: Option<i32>, source: io::Error) -> CtlError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CtlError::Silent { path, pid },
            io::ErrorKind::ConnectionRefused => CtlError::Dead { path },
            io::ErrorKind::PermissionDenied => CtlError::Forbidden { path },
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CtlError::Closed { path },
            _ => CtlError::Io { path, source },
        }
    }
}
