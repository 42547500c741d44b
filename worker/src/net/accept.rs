//! Accept loops: one per listener, and how they stop.
//!
//! | order | the loop |
//! |---|---|
//! | open | accepts while there is room, once the address is in force |
//! | emptying | accepts what is queued, also if it has to wait for descriptors; closes this process's copy of the listener |
//! | closed | closes the copy now; the queue lives on in the master and in the replacement |
//!
//! A reload that adds an address makes its sockets first and brings them into force last. Whoever is started in between may
//! watch a TCP one from the start, for it is deaf until then; others do not listen yet. One that removes an address shuts its sockets down, for all processes at once, when
//! nobody waits in them any more: a loop whose listener was shut ends.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::stream::{ClientStream, Door, Listener, is_shut};
use crate::observe::throttle::Throttle;

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

/// What a reload means for the listeners of this process that do not listen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Nothing is decided.
    Waits,
    /// Their addresses are in force: they listen.
    InForce,
    /// They are given up.
    GivenUp,
}

/// What all accept loops are told.
#[derive(Clone)]
pub struct Orders {
    /// How to go on.
    pub accepting: watch::Receiver<Accepting>,
    /// What becomes of listeners that do not listen yet.
    pub added: watch::Receiver<Added>,
}

/// A listener of this process and the bound on its connections.
pub struct Acceptor {
    door: Door,
    room: Rc<Room>,
    orders: Orders,
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
    /// Takes over an inherited listener.
    pub fn new(door: Door, room: Rc<Room>, orders: Orders) -> Acceptor {
        Acceptor { door, room, orders }
    }

    /// The first listener to watch, or none when it is not needed any more.
    async fn open(door: Door, orders: &mut Orders) -> io::Result<Option<Listener>> {
        loop {
            let added = *orders.added.borrow_and_update();
            if door.is_listening() {
                return door.open().map(Some);
            }
            if added == Added::GivenUp || *orders.accepting.borrow_and_update() != Accepting::Open {
                return Ok(None);
            }
            tokio::select! {
                changed = orders.added.changed() => if changed.is_err() { return Ok(None) },
                changed = orders.accepting.changed() => if changed.is_err() { return Ok(None) },
            }
        }
    }

    /// Accepts until ordered otherwise, or until the master shuts the listener; every connection is handed to `serve`, with
    /// the place that it takes.
    pub async fn run(self, serve: impl Fn(ClientStream, Option<OwnedSemaphorePermit>)) {
        let Acceptor { door, room, mut orders } = self;
        let listener = match Acceptor::open(door, &mut orders).await {
            Ok(Some(listener)) => listener,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "a listener cannot be taken over"),
        };
        let exhausted = Throttle::new(Duration::from_secs(1));
        loop {
            let order = *orders.accepting.borrow_and_update();
            match order {
                Accepting::Open => {}
                Accepting::Emptying => {
                    return match listener.into_plain() {
                        Ok(listener) => {
                            let serve = |stream| serve(stream, room.place_now());
                            empty(|| listener.accept(), &mut orders.accepting, &exhausted, serve).await;
                        }
                        Err(error) => tracing::error!(%error, "the accept queue cannot be emptied"),
                    };
                }
                Accepting::Closed => return,
            }
            let next = async {
                let place = room.place().await;
                (listener.accept().await, place)
            };
            tokio::select! {
                biased;
                changed = orders.accepting.changed() => if changed.is_err() { return },
                (accepted, place) = next => match accepted {
                    Ok(stream) => serve(stream, Some(place)),
                    Err(error) if is_shut(&error) => return,
                    Err(error) if is_exhaustion(&error) => pause(&error, &exhausted).await,
                    // The client gave up before it was accepted, or the network reported an error of its own.
                    Err(error) => tracing::debug!(%error, "accept"),
                },
            }
        }
    }
}

/// Accepts what is queued, straight from the kernel (the runtime's idea of readiness may be older). A process that is out of
/// descriptors tries again, for as long as it lives and is not told to close.
async fn empty(
    accept: impl Fn() -> io::Result<ClientStream>,
    accepting: &mut watch::Receiver<Accepting>,
    exhausted: &Throttle,
    serve: impl Fn(ClientStream),
) {
    loop {
        match accept() {
            Ok(stream) => serve(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_shut(&error) => return,
            Err(error) if is_exhaustion(&error) => tokio::select! {
                _ = accepting.wait_for(|order| *order == Accepting::Closed) => return,
                () = pause(&error, exhausted) => {}
            },
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

async fn pause(error: &io::Error, exhausted: &Throttle) {
    if let Some(suppressed) = exhausted.allow() {
        tracing::error!(%error, suppressed, "cannot accept; trying again every 50 ms");
    }
    tokio::time::sleep(EXHAUSTED_PAUSE).await;
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::super::stream::{NOTSENT_LOWAT, PROBE_AFTER};
    use super::*;
    use socket2::{Domain, SockRef, Socket, Type};
    use std::cell::{Cell, RefCell};
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::net::UnixStream;
    use tokio::sync::Notify;

    fn listener() -> (Door, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        (Door::new(listener.into()).expect("door"), address)
    }

    struct Master {
        accepting: watch::Sender<Accepting>,
        added: watch::Sender<Added>,
    }

    fn orders(accepting: Accepting) -> (Master, Orders) {
        let (accepting, of_accepting) = watch::channel(accepting);
        let (added, of_added) = watch::channel(Added::Waits);
        (Master { accepting, added }, Orders { accepting: of_accepting, added: of_added })
    }

    /// Every chance to run.
    async fn let_others_run() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn emptying_serves_the_queue_and_closes_the_copy() {
        let (door, address) = listener();
        let (master, receiver) = orders(Accepting::Emptying);
        let acceptor = Acceptor::new(door, Rc::new(Room::new(8)), receiver);
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).expect("connect")).collect();
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
        assert!(TcpStream::connect(address).is_err(), "the only copy is closed");
        drop(master);
    }

    #[tokio::test]
    async fn emptying_waits_for_descriptors_unless_it_is_told_to_close() {
        for closes in [false, true] {
            let (accepting, mut told) = watch::channel(Accepting::Emptying);
            let (stream, _client) = tokio::net::UnixStream::pair().expect("pair");
            let stream = Cell::new(Some(ClientStream::Unix(stream)));
            let looks = Cell::new(0);
            let accept = || {
                looks.set(looks.get() + 1);
                match looks.get() {
                    1 if closes => _ = accepting.send_replace(Accepting::Closed),
                    1 | 2 => {}
                    _ => return stream.take().ok_or_else(|| io::ErrorKind::WouldBlock.into()),
                }
                Err(io::Error::from_raw_os_error(libc::EMFILE))
            };
            let served = Cell::new(0);
            let exhausted = Throttle::new(Duration::from_secs(1));
            empty(accept, &mut told, &exhausted, |_| served.set(served.get() + 1)).await;
            assert_eq!((served.get(), looks.get()), if closes { (0, 1) } else { (1, 4) });
        }
    }

    #[tokio::test]
    async fn without_room_clients_wait_in_the_queue() {
        let (door, address) = listener();
        let (master, receiver) = orders(Accepting::Open);
        let room = Rc::new(Room::new(1));
        let acceptor = Acceptor::new(door, Rc::clone(&room), receiver);
        let _clients: Vec<_> = (0..2).map(|_| TcpStream::connect(address).expect("connect")).collect();
        let held = RefCell::new(Vec::new());
        let first = Notify::new();
        let run = acceptor.run(|stream, place| {
            held.borrow_mut().push((stream, place));
            first.notify_one();
        });
        let watcher = async {
            first.notified().await;
            // It waits for a place.
            let_others_run().await;
            assert_eq!(held.borrow().len(), 1);
            held.borrow_mut().clear();
            first.notified().await;
            master.accepting.send_replace(Accepting::Closed);
        };
        tokio::join!(run, watcher);
    }

    #[tokio::test]
    async fn a_unix_socket_that_is_shut_gives_up_its_queue_first() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("http.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let masters_copy = listener.try_clone().expect("copy");
        let door = Door::new(listener.into()).expect("door");
        assert!(door.is_local() && door.is_listening());
        let _clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).expect("connect")).collect();
        SockRef::from(&masters_copy).shutdown(std::net::Shutdown::Both).expect("shut");
        assert!(UnixStream::connect(&path).is_err(), "no more");
        let (_master, receiver) = orders(Accepting::Open);
        let served = Cell::new(0);
        let count = |stream, _| {
            assert!(matches!(stream, ClientStream::Unix(_)));
            served.set(served.get() + 1);
        };
        Acceptor::new(door, Rc::new(Room::new(8)), receiver).run(count).await;
        assert_eq!(served.get(), 3);
    }

    #[tokio::test]
    async fn a_tcp_listener_that_is_shut_ends_its_loop() {
        let listener = std::net::TcpListener::bind("[::1]:0").expect("bind");
        let masters_copy = listener.try_clone().expect("copy");
        let (_master, receiver) = orders(Accepting::Open);
        let acceptor =
            Acceptor::new(Door::new(listener.into()).expect("door"), Rc::new(Room::new(8)), receiver);
        let shut = async {
            let_others_run().await;
            SockRef::from(&masters_copy).shutdown(std::net::Shutdown::Both).expect("shut");
        };
        tokio::join!(acceptor.run(|_, _| panic!("nobody came")), shut);
    }

    fn bound() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket().expect("ip");
        (socket, address)
    }

    #[tokio::test]
    async fn who_does_not_listen_yet_waits_for_the_reload_to_end() {
        for added in [Added::InForce, Added::GivenUp] {
            let (socket, address) = bound();
            let copy = socket.try_clone().expect("copy");
            let door = Door::new(copy.into()).expect("door");
            assert!(!door.is_listening());
            let (master, receiver) = orders(Accepting::Open);
            let served = Notify::new();
            let run = Acceptor::new(door, Rc::new(Room::new(8)), receiver).run(|_, _| served.notify_one());
            let decide = async {
                let_others_run().await;
                assert!(TcpStream::connect(address).is_err(), "not in force");
                if added == Added::InForce {
                    socket.listen(8).expect("listen");
                    master.added.send_replace(added);
                    let _client = TcpStream::connect(address).expect("connect");
                    served.notified().await;
                    master.accepting.send_replace(Accepting::Closed);
                } else {
                    master.added.send_replace(added);
                }
            };
            tokio::join!(run, decide);
        }
    }
}
