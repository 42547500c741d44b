//! Who takes this worker's connections over when it leaves, and whose it takes over.
//!
//! The master introduces a worker that leaves and its heir to each other: each gets one end of a line (see
//! [`crate::net::handover`]). A worker goes on taking over while it leaves itself, as long as it has an heir of its own: what it
//! takes moves on.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::task;
use crate::edge::client::Client;
use crate::edge::serve::Edge;
use crate::gateway::Gateway;
use crate::net::accept::Room;
use crate::net::handover::heir::{Heir, PATIENCE};
use crate::net::handover::predecessor;
use crate::net::handover::wire::Packet;

/// What clients come in by, each with the bound on its connections.
pub(super) type Ports = Vec<(Rc<Edge>, Rc<Room>)>;

/// See the module.
pub(super) struct Succession {
    ports: Rc<Ports>,
    line_to_heir: RefCell<Option<OwnedFd>>,
    takes_over: RefCell<Vec<JoinHandle<()>>>,
    enough: watch::Sender<bool>,
}

impl Succession {
    pub(super) fn new(ports: Ports) -> Succession {
        Succession {
            ports: Rc::new(ports),
            line_to_heir: RefCell::default(),
            takes_over: RefCell::default(),
            enough: watch::Sender::new(false),
        }
    }

    /// A line to the worker that is to take over, if this one leaves.
    pub(super) fn named(&self, line: OwnedFd) {
        self.line_to_heir.replace(Some(line));
    }

    /// The heir that was named last, listened to from now on.
    pub(super) fn heir(&self, gateway: &Gateway) -> Option<Rc<Heir>> {
        let heir = match Heir::new(self.line_to_heir.take()?) {
            Ok(heir) => Rc::new(heir),
            Err(error) => {
                tracing::warn!(%error, "connections cannot move to the next worker: their close is announced");
                return None;
            }
        };
        let (listened_to, connections) = (Rc::clone(&heir), Rc::clone(gateway.lifecycle.connections()));
        task::spawn("heir", async move { listened_to.listen(PATIENCE, || connections.announce()).await });
        Some(heir)
    }

    /// Takes over what a worker that leaves sends.
    pub(super) fn take_over(&self, line: OwnedFd) {
        let (ports, mut enough) = (Rc::clone(&self.ports), self.enough.subscribe());
        let takes = task::spawn("predecessor", async move {
            let enough = async move {
                // The sender lives as long as the worker.
                let _ = enough.wait_for(|enough| *enough).await;
            };
            if let Err(error) =
                predecessor::take_over(line, enough, |fd, packet| enter(&ports, fd, packet)).await
            {
                tracing::debug!(%error, "the line from a worker that leaves has ended");
            }
        });
        let mut takes_over = self.takes_over.borrow_mut();
        takes_over.retain(|task| !task.is_finished());
        takes_over.push(takes);
    }

    /// Nothing further is taken over but what is on its way.
    pub(super) fn enough(&self) {
        self.enough.send_replace(true);
    }

    /// As [`Succession::enough`], and waits for what is on its way. False when nothing can have come.
    pub(super) async fn stopped(&self) -> bool {
        self.enough();
        let takes_over = self.takes_over.take();
        let any = !takes_over.is_empty();
        for task in takes_over {
            if let Err(error) = task.await {
                tracing::error!(%error, "taking over failed");
            }
        }
        any
    }
}

/// Makes room for a connection; gives what starts serving it.
fn enter(ports: &Ports, descriptor: OwnedFd, packet: Packet) -> Option<impl FnOnce() + use<>> {
    let (edge, room) = ports.iter().find(|(edge, _)| edge.door() == packet.door)?;
    let place = room.place_now()?;
    match Client::handed_over(edge, descriptor, packet, place) {
        Ok(client) => Some(move || client.serve()),
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be taken over");
            None
        }
    }
}
