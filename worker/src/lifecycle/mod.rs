//! A worker's life: boot, serve, drain; and what makes it ask for replacement.
//!
//! | phase | accepts connections | answers | leaves when |
//! |---|---|---|---|
//! | serving | yes | keep-alive | told to drain, or the master is gone |
//! | draining | no | with `Connection: close`, unless connections move to an heir | nothing is open and no call runs, or the graceful timeout passed |
//! | last words | no | as draining; what is still worked on is answered with the reason | as draining |

pub mod boot;
pub mod calls;
pub(crate) mod check;
pub mod control;
mod drain;
pub mod essential;
pub(crate) mod inherited;
mod leaving;
mod memory;
pub(crate) mod recycle;
mod self_probe;
mod succession;
pub mod task;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use self::calls::DetachedCalls;
use self::essential::Essential;
use crate::net::handover::heir::Heir;
use crate::net::open::OpenConnections;

/// Where in its life a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts and answers.
    Serving,
    /// Accepts no more; finishes what it has.
    Draining,
    /// The time is nearly over: whoever waits for an answer is told that there will be none.
    LastWords,
}

/// Waits for the moment in which a request has to be answered, however far it is. Owned by who waits.
#[derive(Clone)]
pub struct LastWords(watch::Receiver<Phase>);

impl LastWords {
    /// Resolves in that moment. May be dropped while it waits.
    pub async fn due(&mut self) {
        // Without its sender the worker is over.
        let _ = self.0.wait_for(|phase| *phase == Phase::LastWords).await;
    }
}

/// The worker's phase, to read and to wait for; and what is open, which decides when it may leave.
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    connections: Rc<OpenConnections>,
    calls: Rc<DetachedCalls>,
    /// Of the main port, whose requests the row counts.
    standing_streams: Cell<u64>,
    /// One bit per entry of the row's in-flight ring; set = free.
    pub(crate) free_ring_entries: Cell<u32>,
    /// Who must be there for as long as the worker serves.
    pub(crate) essential: Arc<Essential>,
    /// Private memory is so far over its limit that the worker should be killed; the sampler's word for the watchdog.
    pub(crate) over_memory: Arc<AtomicBool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            phase: watch::Sender::new(Phase::Serving),
            connections: Rc::default(),
            calls: Rc::default(),
            standing_streams: Cell::default(),
            free_ring_entries: Cell::new(u32::MAX),
            essential: Arc::default(),
            over_memory: Arc::default(),
        }
    }
}

impl Lifecycle {
    /// True once the worker finishes what it has.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Begins the drain; again is nothing new, an heir that comes too late included.
    pub fn drain(&self, heir: Option<Rc<Heir>>) {
        let begins = !self.is_draining();
        self.enter(Phase::Draining);
        match heir {
            Some(heir) if begins => self.connections.move_to(heir),
            Some(_) => {}
            None => self.connections.announce(),
        }
    }

    /// Whoever waits for an answer is told that there will be none. Connections with an heir outlive this worker: they move
    /// until its end.
    pub fn say_last_words(&self) {
        self.enter(Phase::LastWords);
        if self.connections.heir().is_none() {
            self.connections.announce();
        }
    }

    /// To wait for the last words with.
    pub fn last_words(&self) -> LastWords {
        LastWords(self.phase.subscribe())
    }

    /// A later phase is never taken back.
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            *current = phase.max(*current);
            later
        });
    }

    /// A client of the main port has opened an event stream with GET, that no call has become.
    pub(crate) fn standing_stream_opened(&self) {
        self.standing_streams.set(self.standing_streams.get() + 1);
    }

    /// Its request is over.
    pub(crate) fn standing_stream_ended(&self) {
        self.standing_streams.set(self.standing_streams.get() - 1);
    }

    /// How many event streams of the main port are open that clients opened with GET.
    pub(crate) fn standing_streams(&self) -> u64 {
        self.standing_streams.get()
    }

    /// True when answers are to say that their connection will be closed.
    pub fn announces_close(&self) -> bool {
        self.connections.announcing_since_ns().is_some()
    }

    /// Resolves when the drain begins, at once when it has begun.
    pub async fn drained_from(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`, so the wait ends only by the phase.
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// The client connections of both ports.
    pub fn connections(&self) -> &Rc<OpenConnections> {
        &self.connections
    }

    /// The calls that outlive a connection.
    pub fn calls(&self) -> &Rc<DetachedCalls> {
        &self.calls
    }

    /// Resolves when no connection is open and no call runs.
    pub async fn all_over(&self) {
        // In this order: a call begins on a connection, and none is accepted any more.
        self.connections.all_closed().await;
        self.calls.all_over().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn at_the_last_words_the_close_is_announced_unless_connections_still_move() {
        let (line, _heirs) = forkgate_shared::control::worker_line().expect("line");
        let heir = Rc::new(Heir::new(line).expect("heir"));
        for (heir, announces) in [(Some(heir), false), (None, true)] {
            let lifecycle = Lifecycle::default();
            let moves = heir.is_some();
            lifecycle.drain(heir);
            lifecycle.say_last_words();
            lifecycle.last_words().due().await;
            assert_eq!(
                (lifecycle.announces_close(), lifecycle.connections().heir().is_some()),
                (announces, moves)
            );
        }
    }
}
