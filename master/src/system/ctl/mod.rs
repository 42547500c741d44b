//! The control socket: operators ask, the master answers; it never waits for a client.
//!
//! Most answers are given at once. An operation (a reload) is answered when it has ended: its client waits, is told how far
//! it is, and is forgotten when it leaves. A client waits for the first run that begins after it asked.
//!
//! Mode 0600, and the peer must be the master's own user or root: who else gets through is told so. Whoever changes something
//! is named in the log, see [`audit`]. Bounded: clients, those that wait, bytes, time; who finds no place waits in the socket's
//! queue.

mod audit;
mod client;
mod messages;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};

use serde::{Deserialize, Serialize};

pub use audit::{Ordered, Peer, log_stranger};
use client::Client;
pub use messages::{
    Answer, Carried, Details, Done, Ending, EventLoop, HeldBack, InForce, InForceSetting, KNOWN, Missed,
    Operation, Outcome, Progress, Refusal, Request, Slot, Why, Worker, Workers, line, no_such_slot, refusal,
};

use super::history::History;
use super::upgrade::{Adopter, Keeper, Kept};
use crate::supervisor::Ns;

/// Clients at once; `ctl` is for people and probes, and a probe on every host of a fleet may run at the same second.
const MAX_CLIENTS: usize = 160;
/// Of these, clients that wait for an operation: the others still find a place.
const MAX_WAITING: usize = 128;
/// And of these, clients that read events.
const MAX_READERS: usize = 16;
/// An answer that is larger (a crash report: little more than a megabyte) is given to one client at a time.
const LARGE: usize = 64 * 1024;
/// After an accept that failed for want of descriptors or memory: the client still waits in the queue, and a poller that
/// reports it again at once would take a whole CPU until somebody gives something back.
const REST: Ns = 1_000_000_000;
/// The socket's name within its directory.
pub const SOCKET: &str = "ctl.sock";

/// Where the control socket is: in `$RUNTIME_DIRECTORY` when systemd made one, else in the state directory.
pub fn path(runtime_directory: Option<&str>, state_dir: &Path) -> PathBuf {
    let first = runtime_directory.and_then(|list| list.split(':').next()).filter(|dir| !dir.is_empty());
    first.map_or(state_dir, Path::new).join(SOCKET)
}

/// What a turn of a client's connection came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Wait for more to read.
    Read,
    /// Wait for room to write.
    Write,
    /// The request is whole: [`Ctl::reply`] is next.
    Asked(Vec<u8>),
    /// It is over: the connection is closed.
    Over,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    /// This line is the answer.
    Now(Vec<u8>),
    /// The answer comes when the next run of this has ended; until then this is what is done. The order is for the log.
    Later(Operation, String, Option<Ordered>),
    /// The answer is events: those after this number, up to that one or without an end.
    Events(u64, Option<u64>),
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    path: PathBuf,
    listener: Kept,
    next: u64,
    clients: Vec<(u64, client::Saved)>,
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
    /// Nobody is accepted before one of the clients is gone.
    is_full: bool,
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
        let clients = BTreeMap::new();
        Ok(Ctl { path: path.to_owned(), listener, clients, next: 0, rests_until: None, is_full: false })
    }

    /// Writes it down, with the clients and what they are owed, large answers and events excepted: who waits for these asks
    /// again.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        let clients =
            self.clients.iter().filter(|(_, client)| client.owed() <= LARGE && !client.is_reading());
        let clients = clients.map(|(id, client)| (*id, client.save(keeper))).collect();
        Saved { path: self.path.clone(), listener: keeper.keep(&self.listener), next: self.next, clients }
    }

    /// It again.
    pub fn restore(saved: Saved, adopter: &mut Adopter) -> io::Result<Ctl> {
        let clients = saved.clients.into_iter().map(|(id, client)| Ok((id, client.restore(adopter)?)));
        let clients = clients.collect::<io::Result<_>>()?;
        let listener = UnixListener::from(adopter.adopt(saved.listener)?);
        let (next, rests_until, is_full) = (saved.next, None, false);
        Ok(Ctl { path: saved.path, listener, clients, next, rests_until, is_full })
    }

    /// The clients, and whether they wait for room to write.
    pub fn clients(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, bool)> {
        self.clients.iter().map(|(id, client)| (*id, client.as_fd(), client.owed() > 0))
    }

    /// The listening socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Accepts one client, if one may come in; gives its number. An error stays, and so does who finds no place: the same
    /// client would be met again.
    pub fn accept(&mut self, now: Ns) -> io::Result<Option<u64>> {
        self.is_full = self.clients.len() >= MAX_CLIENTS;
        if self.is_full {
            return Ok(None);
        }
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_the_clients(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(peer) = Peer::of(&stream) else { return Ok(None) };
        if stream.set_nonblocking(true).is_err() {
            return Ok(None);
        }
        let id = self.next;
        self.next += 1;
        self.clients.insert(id, Client::new(stream, peer, now));
        Ok(Some(id))
    }

    /// There is no place: the caller takes the socket out of what it waits for.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Who a client is.
    pub fn peer(&self, id: u64) -> Option<Peer> {
        self.clients.get(&id).map(Client::peer)
    }

    /// What a client ordered and is waiting for.
    pub fn order(&self, id: u64) -> Option<&Ordered> {
        self.clients.get(&id).and_then(Client::order)
    }

    /// Accepts nobody for a while; the caller takes the socket out of what it waits for.
    pub fn rest(&mut self, now: Ns) {
        self.rests_until = Some(now + REST);
    }

    /// True once, when the rest is over or there is a place again: the caller waits for clients again.
    pub fn listens_again(&mut self, now: Ns) -> bool {
        let has_place = self.is_full && self.clients.len() < MAX_CLIENTS;
        self.is_full &= !has_place;
        self.rests_until.take_if(|until| *until <= now).is_some() || has_place
    }

    /// A client's descriptor.
    pub fn client(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(Client::as_fd)
    }

    /// Goes on with a client whose connection is ready.
    pub fn turn(&mut self, id: u64) -> Turn {
        let Some(client) = self.clients.get_mut(&id) else { return Turn::Over };
        match client.turn() {
            Ok(Turn::Over) | Err(_) => {
                self.clients.remove(&id);
                Turn::Over
            }
            Ok(turn) => turn,
        }
    }

    /// Answers a client that asked, or makes it wait.
    pub fn reply(&mut self, id: u64, reply: Reply, now: Ns) -> Turn {
        let Some(client) = self.clients.get_mut(&id) else { return Turn::Over };
        match reply {
            Reply::Now(line) => client.answer(&line, now),
            Reply::Events(after, until) => client.read(after, until),
            Reply::Later(operation, progress, order) => {
                client.wait(operation, order);
                client.tell(&line(&Progress { progress }));
            }
        }
        self.turn(id)
    }

    /// Those that read events.
    pub fn readers(&self) -> Vec<u64> {
        let readers = self.clients.iter().filter(|(_, client)| client.is_reading());
        readers.map(|(id, _)| *id).collect()
    }

    /// True while another client may read events.
    pub fn may_read(&self) -> bool {
        self.readers().len() < MAX_READERS
    }

    /// Gives a reader of events what it has room for; true when it has something to take.
    pub fn feed(&mut self, id: u64, history: &History, now: Ns) -> bool {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_reading()) else {
            return false;
        };
        client.feed(history, now);
        !client.is_reading() || client.owed() > 0
    }

    /// Somebody waits for a run of this.
    pub fn is_awaited(&self, what: Operation) -> bool {
        self.clients.values().any(|client| client.waits_for() == Some(what))
    }

    /// True while another client may wait for an operation.
    pub fn may_wait(&self) -> bool {
        self.clients.values().filter(|client| client.waits_for().is_some()).count() < MAX_WAITING
    }

    /// A run of an operation begins: who asked for one before now waits for this one.
    pub fn begins(&mut self, what: Operation) {
        self.clients.values_mut().for_each(|client| client.begins(what));
    }

    /// Tells those that wait for the present run how far it is; gives their numbers, each with a turn to come.
    pub fn tell(&mut self, what: Operation, progress: &str) -> Vec<u64> {
        let line = line(&Progress { progress: progress.to_owned() });
        self.of_this_run(what, |client| client.tell(&line))
    }

    /// The present run has ended: answers those that wait for it; gives their numbers, each with a turn to come.
    pub fn ends(&mut self, what: Operation, outcome: &impl Ending, now: Ns) -> Vec<u64> {
        let line = line(outcome);
        self.of_this_run(what, |client| client.answer(&line, now))
    }

    /// Nothing will be done any more that these operations are.
    pub fn ends_all(&mut self, these: impl Fn(Operation) -> bool, outcome: &Outcome, now: Ns) -> Vec<u64> {
        let line = line(outcome);
        let waiting = self.clients.iter_mut().filter(|(_, client)| client.waits_for().is_some_and(&these));
        let answered = waiting.map(|(id, client)| {
            client.answer(&line, now);
            *id
        });
        answered.collect()
    }

    fn of_this_run(&mut self, what: Operation, act: impl Fn(&mut Client)) -> Vec<u64> {
        let waiting = self.clients.iter_mut().filter(|(_, client)| client.waits_for_this(what));
        let told = waiting.map(|(id, client)| {
            act(client);
            *id
        });
        told.collect()
    }

    /// True while a client has yet to take most of a large answer: no other one is made meanwhile. It has seconds for it.
    pub fn owes_much(&self) -> bool {
        self.clients.values().any(|client| client.owed() > LARGE)
    }

    /// Closes clients that are over their time.
    pub fn expire(&mut self, now: Ns) {
        self.clients.retain(|_, client| client.deadline().is_none_or(|deadline| deadline > now));
    }

    /// When [`Ctl::expire`] or [`Ctl::listens_again`] is due.
    pub fn next_deadline(&self) -> Option<Ns> {
        self.clients.values().filter_map(Client::deadline).chain(self.rests_until).min()
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// True when only the client is to blame, who is out of the queue then.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

#[cfg(test)]
mod tests;
