//! Finding a master, asking it, and what can go wrong with that.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::system::ctl::{self, Refusal, Request};

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
    #[error(
        "the master at {path} did not answer within {} s: it is stopped or stuck (`ps -o pid,stat,args -C forkgate`)",
        TIMEOUT.as_secs(), path = .path.display()
    )]
    Silent { path: PathBuf },
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
    stream: BufReader<io::Take<UnixStream>>,
}

impl Connection {
    /// Asks the first of these masters that is there.
    pub(super) fn open(candidates: &[PathBuf], request: &Request) -> Result<Connection, CtlError> {
        for path in candidates {
            match connect(path, request) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(CtlError::of(path, error)),
                Ok(stream) => {
                    let stream = BufReader::new(stream.take(MAX_ANSWER));
                    return Ok(Connection { path: path.clone(), stream });
                }
            }
        }
        Err(CtlError::NoSocket(candidates.to_vec()))
    }

    /// The next line of the answer.
    pub(super) fn next(&mut self) -> Result<String, CtlError> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| CtlError::of(&self.path, error))?;
        if line.ends_with('\n') { Ok(line) } else { Err(CtlError::Closed { path: self.path.clone() }) }
    }

    /// Lines may be as long in coming as they like from now on.
    pub(super) fn is_patient(&mut self) -> Result<(), CtlError> {
        let stream = self.stream.get_ref().get_ref();
        stream.set_read_timeout(None).map_err(|error| CtlError::of(&self.path, error))
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
    pub(super) fn of(path: &Path, source: io::Error) -> CtlError {
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
