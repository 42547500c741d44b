//! A client's connection: accepted here, handed over by a worker that left, or back from an heir that did not take it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forkgate_shared::rows::Counters;
use http::Request;
use tokio::sync::OwnedSemaphorePermit;

use super::in_flight::InFlight;
use super::serve::{Edge, Port, handle};
use crate::lifecycle::task;
use crate::net::activity::{Activity, Phase, Rest};
use crate::net::connection::{self, Driven};
use crate::net::handover::heir::Leaver;
use crate::net::handover::wire::Packet;
use crate::net::io::{ByteCounters, ClientIo};
use crate::net::open::Registered;
use crate::net::request_body::RequestBody;
use crate::net::stream::ClientStream;

/// A connection with its places in the books; they are given back when it is dropped.
pub struct Client {
    edge: Rc<Edge>,
    io: ClientIo,
    activity: Rc<Activity>,
    open: Open,
    place: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// A connection that was accepted; it is counted.
    pub fn accepted(
        edge: &Rc<Edge>,
        stream: impl Into<ClientStream>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Client {
        if edge.port() == Port::Main {
            Counters::add(&edge.gateway().row().counters.accepted, 1);
        }
        Client::enter(edge, stream.into(), Activity::default(), place)
    }

    /// A connection that a predecessor hands over: it was counted there.
    pub fn handed_over(
        edge: &Rc<Edge>,
        descriptor: OwnedFd,
        packet: Packet,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Client> {
        let stream = ClientStream::from_fd(descriptor)?;
        let mut client = Client::enter(edge, stream, Activity::resumed(packet.rest), Some(place));
        client.io.put_back(packet.bytes);
        Ok(client)
    }

    fn enter(
        edge: &Rc<Edge>,
        stream: ClientStream,
        activity: Activity,
        place: Option<OwnedSemaphorePermit>,
    ) -> Client {
        let gateway = edge.gateway();
        let activity = Rc::new(activity);
        let open = Open::new(edge, &activity);
        let counters = (edge.port() == Port::Main)
            .then(|| ByteCounters::new(Arc::clone(&gateway.rows), gateway.row_index));
        let io = ClientIo::new(stream, Rc::clone(&activity), counters);
        Client { edge: Rc::clone(edge), io, activity, open, place }
    }

    /// Serves it in a task of its own, until it ends or has moved to the heir.
    pub fn serve(self) {
        task::spawn("client-connection", async move {
            let Client { edge, io, activity, open, place } = self;
            let answer = |request: Request<RequestBody>| {
                let in_flight = InFlight::begin(&edge, &activity, request.method(), request.uri().path());
                handle(Rc::clone(&edge), in_flight, request)
            };
            let connections = edge.gateway().lifecycle.connections();
            match connection::drive(io, Rc::clone(&activity), connections, edge.limits(), answer).await {
                Driven::Ended(end) => {
                    tracing::debug!(?end, "connection closed");
                    drop((open, place));
                }
                Driven::Leaves(io, heir, turn) => {
                    heir.give(Box::new(Client { edge, io, activity, open, place }), turn).await;
                }
            }
        });
    }
}

impl Leaver for Client {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }

    fn packet(&self) -> Packet {
        // Nothing has happened to it since it was taken apart at rest.
        let (phase, since_ns) = self.activity.phase();
        debug_assert!(matches!(phase, Phase::Silent | Phase::Idle | Phase::Head));
        Packet { door: self.edge.door(), rest: Rest { phase, since_ns }, bytes: self.io.ahead().clone() }
    }

    fn moved(self: Box<Self>) {
        if self.edge.port() == Port::Main {
            Counters::add(&self.edge.gateway().row().counters.handed_over, 1);
        }
    }

    fn stays(self: Box<Self>) {
        self.activity.announce();
        self.serve();
    }
}

/// A connection in the registry and in the row's numbers, until it is dropped.
struct Open {
    edge: Rc<Edge>,
    _registered: Registered,
}

impl Open {
    fn new(edge: &Rc<Edge>, activity: &Rc<Activity>) -> Open {
        let gateway = edge.gateway();
        if edge.port() == Port::Main {
            gateway.row().connections.fetch_add(1, Relaxed);
        }
        let registered = gateway.lifecycle.connections().register(Rc::clone(activity));
        Open { edge: Rc::clone(edge), _registered: registered }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.edge.port() == Port::Main {
            self.edge.gateway().row().connections.fetch_sub(1, Relaxed);
        }
    }
}
