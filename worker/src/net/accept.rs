//! Accept loops: one per listener, and how they stop.
//!
//! | order | the loop |
//! |---|---|
//! | open | accepts while there is room |
//! | emptying | accepts what is queued, closes this process's copy of the listener |
//! | closed | closes the copy now; the queue lives on in the master and in the replacement |

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::observe::throttle::Throttle;

/// Unsent bytes that the kernel holds per connection before it says that it is full: enough to fill a fast link
/// between two turns of the event loop, little enough that a reader who stopped is noticed soon.
const NOTSENT_LOWAT: u32 = 32 * 1024;

/// When a silent peer is probed (a host that vanished says nothing, and an idle connection has no deadline of ours), how
/// often, and how many unanswered probes end the connection: two minutes in all.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// How long accepting rests when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What an accept loop is told. Later variants win over earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accepting {
    /// Accept.
    Open,
    /// Nobody else will serve this queue: the slot goes away and the kernel chooses others already, or the master is
    /// gone.
    Emptying,
    /// The slot's queue is served by others.
    Closed,
}

/// A listener of this process and the bound on its connections.
pub struct Acceptor {
    listener: TcpListener,
    room: Rc<Room>,
    orders: watch::Receiver<Accepting>,
}

/// Places for connections: beyond them the kernel's queue holds the clients.
pub struct Room {
    places: std::sync::Arc<Semaphore>,
    full: Throttle,
}

impl Room {
    /// Room for this many connections.
    pub fn new(places: usize) -> Room {
        let places = places.min(Semaphore::MAX_PERMITS);
        Room {
            places: std::sync::Arc::new(Semaphore::new(places)),
            full: Throttle::new(Duration::from_secs(1)),
        }
    }

    /// A place, if there is one.
    pub fn place_now(&self) -> Option<OwnedSemaphorePermit> {
        std::sync::Arc::clone(&self.places).try_acquire_owned().ok()
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        if self.places.available_permits() == 0
            && let Some(suppressed) = self.full.allow()
        {
            tracing::warn!(
                suppressed,
                "no room for another connection: further clients wait in the accept queue; raise the limit of open \
                 files (LimitNOFILE) or the number of workers"
            );
        }
        let places = std::sync::Arc::clone(&self.places);
        places.acquire_owned().await.expect("the semaphore is never closed")
    }
}

impl Acceptor {
    /// Takes over an inherited listener. Options set here are inherited by every accepted connection (tcp(7)), which
    /// saves the system calls for each.
    pub fn new(
        listener: OwnedFd,
        room: Rc<Room>,
        orders: watch::Receiver<Accepting>,
    ) -> io::Result<Acceptor> {
        let listener = std::net::TcpListener::from(listener);
        let socket = SockRef::from(&listener);
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        let probes =
            TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        socket.set_tcp_keepalive(&probes)?;
        Ok(Acceptor { listener: TcpListener::from_std(listener)?, room, orders })
    }

    /// Accepts until ordered otherwise; every connection is handed to `serve`, with the place that it takes.
    pub async fn run(mut self, serve: impl Fn(TcpStream, Option<OwnedSemaphorePermit>)) {
        let exhausted = Throttle::new(Duration::from_secs(1));
        loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Accepting::Open => {}
                Accepting::Emptying => return self.empty(&serve),
                Accepting::Closed => return,
            }
            let next = async {
                let place = self.room.place().await;
                (self.listener.accept().await, place)
            };
            tokio::select! {
                biased;
                changed = self.orders.changed() => if changed.is_err() { return },
                (accepted, place) = next => match accepted {
                    Ok((stream, _)) => serve(stream, Some(place)),
                    Err(error) if is_exhaustion(&error) => {
                        if let Some(suppressed) = exhausted.allow() {
                            tracing::error!(%error, suppressed, "cannot accept; trying again every 50 ms");
                        }
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                    // The client gave up before it was accepted, or the network reported an error of its own.
                    Err(error) => tracing::debug!(%error, "accept"),
                },
            }
        }
    }

    /// Accepts what is queued, straight from the kernel (the runtime's idea of readiness may be older), then closes.
    fn empty(self, serve: &impl Fn(TcpStream, Option<OwnedSemaphorePermit>)) {
        let listener = match self.listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the accept queue cannot be emptied"),
        };
        loop {
            match listener.accept().and_then(|(stream, _)| adopt(stream)) {
                Ok(stream) => serve(stream, self.room.place_now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhaustion(&error) => {
                    return tracing::error!(%error, "clients in the accept queue are lost");
                }
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
    }
}

fn adopt(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn listener() -> (OwnedFd, std::net::SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        (listener.into(), address)
    }

    #[tokio::test]
    async fn emptying_serves_the_queue_and_closes_the_copy() {
        let (fd, address) = listener();
        let (orders, receiver) = watch::channel(Accepting::Emptying);
        let acceptor = Acceptor::new(fd, Rc::new(Room::new(8)), receiver).expect("acceptor");
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(address).expect("connect")).collect();
        let served = Cell::new(0);
        acceptor
            .run(|stream, _| {
                let socket = SockRef::from(&stream);
                let found = (
                    socket.tcp_nodelay().expect("option"),
                    socket.tcp_notsent_lowat().expect("option"),
                    socket.keepalive().expect("option"),
                    socket.tcp_keepalive_time().expect("option"),
                );
                assert_eq!(found, (true, NOTSENT_LOWAT, true, PROBE_AFTER), "inherited from the listener");
                served.set(served.get() + 1);
            })
            .await;
        assert_eq!(served.get(), clients.len());
        assert!(std::net::TcpStream::connect(address).is_err(), "the only copy is closed");
        drop(orders);
    }

    #[tokio::test]
    async fn without_room_clients_wait_in_the_queue() {
        let (fd, address) = listener();
        let (orders, receiver) = watch::channel(Accepting::Open);
        let room = Rc::new(Room::new(1));
        let acceptor = Acceptor::new(fd, Rc::clone(&room), receiver).expect("acceptor");
        let _clients: Vec<_> =
            (0..2).map(|_| std::net::TcpStream::connect(address).expect("connect")).collect();
        let held = std::cell::RefCell::new(Vec::new());
        let first = tokio::sync::Notify::new();
        let run = acceptor.run(|stream, place| {
            held.borrow_mut().push((stream, place));
            first.notify_one();
        });
        let watcher = async {
            first.notified().await;
            // The loop has had every chance to run: it waits for a place.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert_eq!(held.borrow().len(), 1);
            held.borrow_mut().clear();
            first.notified().await;
            orders.send_replace(Accepting::Closed);
        };
        tokio::join!(run, watcher);
    }
}
