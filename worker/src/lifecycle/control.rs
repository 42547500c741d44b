//! The line to the master: what a worker says on it, and what its event loop is told. Who hears is a thread of its own,
//! `thread`.

mod thread;

use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc as mpsc_std;
use std::time::Duration;

use forkgate_shared::control::{ControlError, ControlSocket, FromChild, RecycleReason};
use forkgate_shared::verdict::Verdict;
use nix::sys::signal::SigSet;
use tokio::sync::{mpsc, watch};

pub use self::thread::{Listener, block_signals};
use crate::net::accept::Added;

/// Orders that may wait for the event loop. All but two mean leaving: a loop that has not read so many has been told. A line
/// to another worker for which there is no room is closed, and the other goes on without.
const QUEUE: usize = 16;

/// What the event loop is told.
#[derive(Debug)]
pub enum Order {
    /// Stop accepting, finish, leave.
    Drain,
    /// The slot goes away.
    Retire,
    /// Stop accepting and let clients go, but stay.
    StepAside,
    /// The master is gone.
    Orphan,
    /// Leave at once.
    Quit,
    /// A newer catalog.
    Catalog(Arc<NewCatalog>),
    /// A line to the worker that takes this one's connections when it leaves.
    Heir(OwnedFd),
    /// A line from a worker that leaves.
    Predecessor(OwnedFd),
}

/// Reports that the master asks for, by the verdict they are about.
pub type ReportOrders = mpsc_std::Receiver<Verdict>;

/// A catalog as it comes from the master.
#[derive(Debug)]
pub struct NewCatalog {
    /// Registry generation.
    pub generation: u64,
    /// The snapshot, a sealed memfd.
    pub memfd: OwnedFd,
}

/// The event loop's end of the line.
pub struct Orders {
    leave: mpsc::Receiver<Order>,
    catalog: watch::Receiver<Option<Arc<NewCatalog>>>,
    added: watch::Receiver<Added>,
}

impl Orders {
    /// Orders that a test gives.
    #[cfg(test)]
    pub(super) fn channel() -> (mpsc::Sender<Order>, Orders) {
        let (sender, leave) = mpsc::channel(QUEUE);
        let (_, catalog) = watch::channel(None);
        let (_, added) = watch::channel(Added::Waits);
        (sender, Orders { leave, catalog, added })
    }

    /// What becomes of listeners that do not listen yet.
    pub(super) fn added(&self) -> watch::Receiver<Added> {
        self.added.clone()
    }

    /// The next order; of several catalogs only the newest. None when the thread could say nothing more. May be dropped
    /// while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<Order> {
        loop {
            tokio::select! {
                biased;
                order = self.leave.recv() => return order,
                Ok(()) = self.catalog.changed() => {
                    if let Some(catalog) = &*self.catalog.borrow_and_update() {
                        return Some(Order::Catalog(Arc::clone(catalog)));
                    }
                }
            }
        }
    }
}

/// Sends; receiving is a thread of its own.
pub struct Control {
    socket: Arc<ControlSocket>,
    asked: Cell<bool>,
}

impl Control {
    /// Takes over the inherited socket.
    pub fn new(socket: OwnedFd) -> Control {
        Control::over(ControlSocket::from_fd(socket))
    }

    /// Talks over this socket.
    pub(crate) fn over(socket: ControlSocket) -> Control {
        Control { socket: Arc::new(socket), asked: Cell::new(false) }
    }

    /// Tells the master something.
    pub fn send(&self, message: &FromChild) -> Result<(), ControlError> {
        self.socket.send(message, None)
    }

    /// Hands a newly compiled catalog to the master, who passes it on to every worker, this one included.
    pub fn publish_catalog(&self, generation: u64, memfd: BorrowedFd<'_>) -> Result<(), ControlError> {
        self.socket.send(&FromChild::Catalog { generation }, Some(memfd))
    }

    /// Asks to be replaced. Once: a worker with two reasons has one.
    pub fn want_recycle(&self, reason: RecycleReason) {
        if self.asked.replace(true) {
            return;
        }
        tracing::info!(reason = reason.as_str(), "asking to be replaced");
        if let Err(error) = self.send(&FromChild::WantRecycle { reason }) {
            tracing::warn!(%error, "the master could not be asked");
        }
    }

    /// As [`Control::send`], but a master that is gone is no error: the thread hears of that too, and makes an orphan.
    pub fn send_if_alive(&self, message: &FromChild) -> Result<(), ControlError> {
        match self.send(message) {
            Err(error) if error.is_gone() => Ok(()),
            sent => sent,
        }
    }

    /// The line itself, for the watchdog's thread.
    pub(crate) fn socket(&self) -> Arc<ControlSocket> {
        Arc::clone(&self.socket)
    }

    /// Prepares the thread. The watchdog's thread gets what is asked of it through the receiver. `signals` are the ones
    /// that [`block_signals`] has blocked in every thread.
    pub fn listener(
        &self,
        signals: SigSet,
        orphan_timeout: Duration,
    ) -> io::Result<(Listener, Orders, ReportOrders)> {
        Listener::new(Arc::clone(&self.socket), signals, orphan_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkgate_shared::control::Received;
    use std::os::fd::AsFd;

    #[test]
    fn a_worker_asks_once() {
        let (master, child) = ControlSocket::pair().expect("pair");
        let control = Control::over(child);
        control.want_recycle(RecycleReason::Memory);
        control.want_recycle(RecycleReason::Age);
        let first = master.recv::<FromChild>().expect("recv");
        let asked = FromChild::WantRecycle { reason: RecycleReason::Memory };
        assert!(matches!(first, Received::Message(message, None) if message == asked));
        assert!(matches!(master.recv::<FromChild>().expect("recv"), Received::WouldBlock));
    }

    #[test]
    fn a_published_catalog_carries_its_descriptor() {
        let (master, child) = ControlSocket::pair().expect("pair");
        let control = Control::over(child);
        let memfd = forkgate_shared::memfd::immutable("test", b"x").expect("memfd");
        control.publish_catalog(3, memfd.as_fd()).expect("sent");
        let received = master.recv::<FromChild>().expect("recv");
        assert!(matches!(received, Received::Message(FromChild::Catalog { generation: 3 }, Some(_))));
    }
}
