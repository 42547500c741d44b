//! One client of the control socket, from its request to the last byte of its answer.
//!
//! | stage | begins with | ends with |
//! |---|---|---|
//! | asking | accept | a whole line; too much without one; its time |
//! | asked | the whole line | the reply |
//! | waiting | a reply that comes later | the end of the operation; the client left |
//! | reading | events are its reply | it has all that it asked for; the client left, or takes nothing for a minute |
//! | answering | the last line | its last byte is in the socket; its time |

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::super::history::History;
use super::super::upgrade::{Adopter, Keeper, Kept};
use super::messages::{Missed, Operation, line};
use super::{Ordered, Peer, Turn};
use crate::supervisor::Ns;

/// Longest request.
const MAX_REQUEST: usize = 64 * 1024;
/// A client that has not taken so much of what it was told is told no progress.
const MAX_UNREAD: usize = 16 * 1024;
/// From connect to the end of the request, and from the last line to its last byte.
pub(super) const TIMEOUT: Ns = 5 * 1_000_000_000;

/// A reader of events that leaves what it has in the socket for so long is given up; it may come again and is told then
/// how many it missed.
const TAKE_LIMIT: Ns = 60 * 1_000_000_000;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    stage: Stage,
    out: Vec<u8>,
    /// None while it waits: an operation ends by itself.
    deadline: Option<Ns>,
    peer: Peer,
    /// What it ordered and is waiting for.
    order: Option<Ordered>,
}

/// What is written down for another program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    stream: Kept,
    stage: Stage,
    out: Vec<u8>,
    deadline: Option<Ns>,
    #[serde(default)]
    peer: Option<Peer>,
    #[serde(default)]
    order: Option<Ordered>,
}

impl Saved {
    /// The client again.
    pub(super) fn restore(self, adopter: &mut Adopter) -> io::Result<Client> {
        let stream = UnixStream::from(adopter.adopt(self.stream)?);
        // A program that did not write down who it is had let it in.
        let peer = self.peer.map_or_else(|| Peer::of(&stream), Ok)?;
        let (stage, out, deadline, order) = (self.stage, self.out, self.deadline, self.order);
        Ok(Client { stream, stage, out, deadline, peer, order })
    }
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Stage {
    Asking(Vec<u8>),
    Asked,
    /// `begun`: the run that is under way is the one that it waits for.
    Waiting {
        operation: Operation,
        begun: bool,
    },
    /// `after`: the last event that it was given; `until`: the last one that it asked for.
    Reading {
        after: u64,
        until: Option<u64>,
    },
    Answering,
}

impl Client {
    pub(super) fn new(stream: UnixStream, peer: Peer, now: Ns) -> Client {
        let (stage, deadline) = (Stage::Asking(Vec::new()), Some(now + TIMEOUT));
        Client { stream, stage, out: Vec::new(), deadline, peer, order: None }
    }

    /// Writes it down.
    pub(super) fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved {
            stream: keeper.keep(&self.stream),
            stage: self.stage.clone(),
            out: self.out.clone(),
            deadline: self.deadline,
            peer: Some(self.peer),
            order: self.order.clone(),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn deadline(&self) -> Option<Ns> {
        self.deadline
    }

    /// Bytes that it has yet to take.
    pub(super) fn owed(&self) -> usize {
        self.out.len()
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn order(&self) -> Option<&Ordered> {
        self.order.as_ref()
    }

    pub(super) fn waits_for(&self) -> Option<Operation> {
        match self.stage {
            Stage::Waiting { operation, .. } => Some(operation),
            _ => None,
        }
    }

    /// True when the run that is under way is the one that it waits for.
    pub(super) fn waits_for_this(&self, what: Operation) -> bool {
        matches!(self.stage, Stage::Waiting { operation, begun: true } if operation == what)
    }

    /// A run begins.
    pub(super) fn begins(&mut self, what: Operation) {
        if let Stage::Waiting { operation, begun } = &mut self.stage
            && *operation == what
        {
            *begun = true;
        }
    }

    /// It waits for the next run.
    pub(super) fn wait(&mut self, operation: Operation, order: Option<Ordered>) {
        self.stage = Stage::Waiting { operation, begun: false };
        self.deadline = None;
        self.order = order;
    }

    /// It gets events, as it takes them.
    pub(super) fn read(&mut self, after: u64, until: Option<u64>) {
        self.stage = Stage::Reading { after, until };
        self.deadline = None;
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading { .. })
    }

    /// Gives it the events that it has room for. One that leaves what it has for too long is given up.
    pub(super) fn feed(&mut self, history: &History, now: Ns) {
        let Stage::Reading { after, until } = &mut self.stage else { return };
        if self.out.is_empty() {
            self.deadline = None;
        }
        while self.out.len() <= MAX_UNREAD
            && until.is_none_or(|until| *after < until)
            && let Some((missed, entry)) = history.after(*after)
        {
            if missed > 0 {
                self.out.extend(line(&Missed { missed }));
            }
            self.out.extend(line(entry));
            *after = entry.seq;
        }
        if until.is_some_and(|until| *after >= until) {
            self.stage = Stage::Answering;
        }
        if !self.out.is_empty() || matches!(self.stage, Stage::Answering) {
            self.deadline.get_or_insert(now + TAKE_LIMIT);
        }
    }

    /// Tells it something on the way, unless it does not listen.
    pub(super) fn tell(&mut self, line: &[u8]) {
        if self.out.len() <= MAX_UNREAD {
            self.out.extend_from_slice(line);
        }
    }

    /// Gives it its last line.
    pub(super) fn answer(&mut self, line: &[u8], now: Ns) {
        self.out.extend_from_slice(line);
        self.stage = Stage::Answering;
        self.deadline = Some(now + TIMEOUT);
    }

    /// Goes on with what its connection is ready for.
    pub(super) fn turn(&mut self) -> io::Result<Turn> {
        match &mut self.stage {
            Stage::Asking(request) => {
                if let Some(turn) = read_request(&mut self.stream, request)? {
                    if matches!(turn, Turn::Asked(_)) {
                        self.stage = Stage::Asked;
                    }
                    return Ok(turn);
                }
            }
            // Once: what it says now means nothing, but that it is there.
            Stage::Waiting { .. } | Stage::Reading { .. } => match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return Ok(Turn::Over),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            },
            Stage::Asked | Stage::Answering => {}
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<Turn> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Write),
                Err(error) => return Err(error),
            }
        }
        Ok(if matches!(self.stage, Stage::Answering) { Turn::Over } else { Turn::Read })
    }
}

/// What came of reading; none when nothing came of it yet.
fn read_request(stream: &mut UnixStream, request: &mut Vec<u8>) -> io::Result<Option<Turn>> {
    loop {
        let mut bytes = [0u8; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(Some(Turn::Over)),
            Ok(len) => request.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        if let Some(end) = request.iter().position(|byte| *byte == b'\n') {
            request.truncate(end);
            return Ok(Some(Turn::Asked(std::mem::take(request))));
        }
        if request.len() > MAX_REQUEST {
            return Ok(Some(Turn::Over));
        }
    }
}
