//! The control socket: operators ask, the master answers; one JSON line each way, never waited for.
//!
//! Mode 0600, and the peer must be the master's own user or root. Bounded: clients, bytes, time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use forkgate_shared::report::Report;
use forkgate_shared::status::Status;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use crate::supervisor::Ns;

/// Clients at once; `ctl` is for people and probes.
const MAX_CLIENTS: usize = 16;
/// Longest request. The longest answer is a crash report: little more than a megabyte.
const MAX_REQUEST: usize = 64 * 1024;
/// An answer that is larger is given to one client at a time.
const LARGE: usize = 64 * 1024;
/// From connect to the end of the answer.
const TIMEOUT: Ns = 5 * 1_000_000_000;
/// After an accept that failed for want of descriptors or memory: the client still waits in the queue, and a poller that
/// reports it again at once would take a whole CPU until somebody gives something back.
const REST: Ns = 1_000_000_000;
/// The socket's name within its directory.
pub const SOCKET: &str = "ctl.sock";

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the master and its workers are doing.
    Status,
    /// Why the last worker of a slot was killed or died.
    Why {
        /// The slot.
        slot: u32,
    },
}

/// What can be asked, for a client that asked for something else.
pub const KNOWN: &str = r#"{"command":"status"}, {"command":"why","slot":0}"#;

/// What is answered to [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The master's process id.
    pub pid: u32,
    /// `starting`, `serving`, `reloading` or `stopping`.
    pub state: String,
    /// The sentence of `systemctl status`.
    pub sentence: String,
    /// Seconds since the master started.
    pub uptime_s: f64,
    /// The table.
    #[serde(flatten)]
    pub status: Status,
}

/// What is answered to [`Request::Why`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Where the report is.
    pub path: PathBuf,
    /// The report.
    pub report: Report,
}

/// What is answered to a request that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}

/// Says that there is no such slot, if so.
pub fn no_such_slot(slot: u32, status: &Status) -> Option<String> {
    let is_there = u64::from(slot) < status.target || status.workers.iter().any(|worker| worker.slot == slot);
    let last = status.target.saturating_sub(1);
    (!is_there).then(|| format!("there is no slot {slot}: slots have the numbers 0 to {last}"))
}

/// Where the control socket is: in `$RUNTIME_DIRECTORY` when systemd made one, else in the state directory.
pub fn path(runtime_directory: Option<&str>, state_dir: &Path) -> PathBuf {
    let first = runtime_directory.and_then(|list| list.split(':').next()).filter(|dir| !dir.is_empty());
    first.map_or(state_dir, Path::new).join(SOCKET)
}

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    deadline: Ns,
}

/// What a turn of a client's connection came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Wait for more to read.
    Read,
    /// Wait for room to write.
    Write,
    /// It is over: close.
    Over,
}

/// The listening socket and its clients; the file is removed when dropped.
#[derive(Debug)]
pub struct Ctl {
    path: PathBuf,
    listener: UnixListener,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Nobody is accepted before.
    rests_until: Option<Ns>,
}

/// A short name for a socket whose path may be long: an address holds 108 bytes (unix(7)), a path more. The name is
/// good for as long as the descriptor is open.
pub fn short_name(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let name = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file);
    Ok((directory, name))
}

impl Ctl {
    /// Listens. A file of that name is a dead master's: the caller holds the lock.
    pub fn listen(path: &Path) -> io::Result<Ctl> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_directory, name) = short_name(path)?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(name);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Ctl { path: path.to_owned(), listener, clients: BTreeMap::new(), next: 0, rests_until: None })
    }

    /// The listening socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Accepts one client, if one may come in; gives its number. An error stays: the same client would be met again.
    pub fn accept(&mut self, now: Ns) -> io::Result<Option<u64>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_the_clients(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.clients.len() >= MAX_CLIENTS || !may_ask(&stream) || stream.set_nonblocking(true).is_err() {
            return Ok(None);
        }
        let id = self.next;
        self.next += 1;
        let client = Client { stream, request: Vec::new(), answer: Vec::new(), deadline: now + TIMEOUT };
        self.clients.insert(id, client);
        Ok(Some(id))
    }

    /// Accepts nobody for a while; the caller takes the socket out of what it waits for.
    pub fn rest(&mut self, now: Ns) {
        self.rests_until = Some(now + REST);
    }

    /// True once, when the rest is over: the caller waits for clients again.
    pub fn has_rested(&mut self, now: Ns) -> bool {
        self.rests_until.take_if(|until| *until <= now).is_some()
    }

    /// A client's descriptor.
    pub fn client(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|client| client.stream.as_fd())
    }

    /// Goes on with a client whose connection is ready; `answer` makes the answer once the request is whole.
    pub fn turn(&mut self, id: u64, answer: impl FnOnce(&[u8]) -> Vec<u8>) -> Turn {
        let Some(client) = self.clients.get_mut(&id) else { return Turn::Over };
        match client.turn(answer) {
            Ok(Turn::Over) | Err(_) => {
                self.clients.remove(&id);
                Turn::Over
            }
            Ok(turn) => turn,
        }
    }

    /// True while a client has yet to take most of a large answer: no other one is made meanwhile. It has seconds for it.
    pub fn owes_much(&self) -> bool {
        self.clients.values().any(|client| client.answer.len() > LARGE)
    }

    /// Closes clients that are over their time.
    pub fn expire(&mut self, now: Ns) {
        self.clients.retain(|_, client| client.deadline > now);
    }

    /// When [`Ctl::expire`] or [`Ctl::has_rested`] is due.
    pub fn next_deadline(&self) -> Option<Ns> {
        self.clients.values().map(|client| client.deadline).chain(self.rests_until).min()
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    fn turn(&mut self, answer: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<Turn> {
        while self.answer.is_empty() {
            let mut bytes = [0u8; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Turn::Over),
                Ok(len) => self.request.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Read),
                Err(error) => return Err(error),
            }
            if let Some(end) = self.request.iter().position(|byte| *byte == b'\n') {
                self.answer = answer(&self.request[..end]);
                self.answer.push(b'\n');
                break;
            }
            if self.request.len() > MAX_REQUEST {
                return Ok(Turn::Over);
            }
        }
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(len) => drop(self.answer.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Write),
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::Over)
    }
}

/// True when only the client is to blame, who is out of the queue then.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

fn may_ask(stream: &UnixStream) -> bool {
    let peer = getsockopt(stream, PeerCredentials);
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_request_in_pieces_is_answered_once_and_the_file_goes_with_the_socket() {
        let dir = tempfile::tempdir().expect("dir");
        let at = path(None, dir.path());
        fs::write(&at, "left behind").expect("write");
        let mut ctl = Ctl::listen(&at).expect("listen");
        assert_eq!(fs::metadata(&at).expect("metadata").permissions().mode() & 0o777, 0o600);
        let mut client = UnixStream::connect(&at).expect("connect");
        let id = ctl.accept(0).expect("accept").expect("a client");
        assert_eq!(ctl.turn(id, |_| panic!("not whole yet")), Turn::Read);
        client.write_all(b"{\"command\":").expect("write");
        assert_eq!(ctl.turn(id, |_| panic!("not whole yet")), Turn::Read);
        client.write_all(b"\"status\"}\nrest").expect("write");
        let echo = |request: &[u8]| {
            assert_eq!(serde_json::from_slice::<Request>(request).expect("request"), Request::Status);
            b"answer".to_vec()
        };
        assert_eq!(ctl.turn(id, echo), Turn::Over);
        let mut answer = [0; 7];
        client.read_exact(&mut answer).expect("read");
        assert_eq!(&answer, b"answer\n");
        drop(ctl);
        assert!(!at.exists());
    }

    #[test]
    fn a_large_answer_is_owed_until_it_was_taken_or_its_time_is_over() {
        let dir = tempfile::tempdir().expect("dir");
        let at = path(None, dir.path());
        let mut ctl = Ctl::listen(&at).expect("listen");
        let ask = |ctl: &mut Ctl| {
            let mut client = UnixStream::connect(&at).expect("connect");
            client.write_all(b"why\n").expect("write");
            let id = ctl.accept(0).expect("accept").expect("a client");
            assert_eq!(ctl.turn(id, |_| vec![b'x'; 4 << 20]), Turn::Write, "more than a socket holds");
            (client, id)
        };
        assert!(!ctl.owes_much());
        let (mut client, id) = ask(&mut ctl);
        assert!(ctl.owes_much());
        let mut bytes = vec![0; 64 * 1024];
        while ctl.turn(id, |_| panic!("once")) != Turn::Over {
            assert!(client.read(&mut bytes).expect("read") > 0);
        }
        assert!(!ctl.owes_much());
        let (_client, _) = ask(&mut ctl);
        ctl.expire(TIMEOUT - 1);
        assert!(ctl.owes_much());
        ctl.expire(TIMEOUT);
        assert!(!ctl.owes_much());
    }

    #[test]
    fn what_a_client_is_told_can_be_asked() {
        let known = serde_json::from_str::<Vec<Request>>(&format!("[{KNOWN}]")).expect("requests");
        assert_eq!(known, [Request::Status, Request::Why { slot: 0 }]);
        for other in
            [r#"{"command":"why"}"#, r#"{"command":"why","slot":-1}"#, r#"{"command":"why","slot":"0"}"#]
        {
            assert!(serde_json::from_str::<Request>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_slot_that_was_never_there_is_told_from_one_without_a_report() {
        let (rows, _fd) = forkgate_shared::rows::Rows::create(4).expect("rows");
        rows.base().target.store(2, std::sync::atomic::Ordering::Relaxed);
        let status = Status::read(&rows);
        assert_eq!(no_such_slot(1, &status), None);
        let words = no_such_slot(9, &status);
        assert_eq!(words.as_deref(), Some("there is no slot 9: slots have the numbers 0 to 1"));
    }

    #[test]
    fn a_path_may_be_longer_than_an_address_of_a_socket() {
        let dir = tempfile::tempdir().expect("dir");
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).expect("directory");
        let at = path(None, &deep);
        let mut ctl = Ctl::listen(&at).expect("listen");
        let (_directory, name) = short_name(&at).expect("name");
        let _client = UnixStream::connect(name).expect("connect");
        assert!(at.exists() && matches!(ctl.accept(0), Ok(Some(_))));
    }

    #[test]
    fn clients_are_bounded_in_number_size_and_time() {
        let dir = tempfile::tempdir().expect("dir");
        let at = path(None, dir.path());
        let mut ctl = Ctl::listen(&at).expect("listen");
        let mut clients: Vec<UnixStream> =
            (0..=MAX_CLIENTS).map(|_| UnixStream::connect(&at).expect("connect")).collect();
        let ids: Vec<_> = clients.iter().filter_map(|_| ctl.accept(7).expect("accept")).collect();
        assert_eq!(ids.len(), MAX_CLIENTS);
        clients[0].write_all(&vec![b'x'; MAX_REQUEST + 4096]).expect("write");
        assert_eq!(ctl.turn(ids[0], |_| panic!("never whole")), Turn::Over);
        assert_eq!(ctl.next_deadline(), Some(7 + TIMEOUT));
        ctl.expire(7 + TIMEOUT);
        assert_eq!(ctl.next_deadline(), None);
    }

    #[test]
    fn a_socket_that_cannot_accept_rests_and_then_listens_again() {
        let dir = tempfile::tempdir().expect("dir");
        let mut ctl = Ctl::listen(&path(None, dir.path())).expect("listen");
        assert!(matches!(ctl.accept(0), Ok(None)), "nobody there is no failure");
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(!is_the_clients(&io::Error::from_raw_os_error(errno)));
        }
        ctl.rest(7);
        assert_eq!((ctl.has_rested(8), ctl.next_deadline()), (false, Some(7 + REST)));
        assert_eq!((ctl.has_rested(7 + REST), ctl.next_deadline()), (true, None));
        assert!(!ctl.has_rested(8 + REST), "once");
    }

    #[test]
    fn the_runtime_directory_comes_first() {
        let state = Path::new("/state");
        assert_eq!(path(Some("/run/a:/run/b"), state), Path::new("/run/a/ctl.sock"));
        assert_eq!(path(Some(""), state), Path::new("/state/ctl.sock"));
        assert_eq!(path(None, state), Path::new("/state/ctl.sock"));
    }
}
