//! A worker that was told to harm itself, watched from outside: which connections it holds, and one of them in use.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::json;

use crate::gateway::{EXCHANGE_LIMIT, Gateway};
use crate::http::{Connection, Failure, Request};
use crate::load::Lost;
use crate::mcp::{self, Endpoint};
use crate::process;

/// From an order's arrival, or its answer, to the fault.
pub const HEAD_START: Duration = Duration::from_millis(50);
/// Between two looks at what the worker holds; half of [`HEAD_START`].
const LOOK: Duration = Duration::from_millis(25);
/// The same for many workers, whose descriptors take their time to read.
const RARE_LOOK: Duration = Duration::from_millis(250);
/// Before each request to the worker, the first included: it comes when the fault has begun.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Planted {
    pid: u32,
}

/// The order for a fault.
pub fn order(fault: &str, query: &str) -> Request {
    Request::new("POST", format!("/_fault/{fault}?{query}"))
}

/// Harms the worker at the other end of a connection; its process id.
pub fn plant(connection: &mut Connection, fault: &str, query: &str) -> u32 {
    let answer = connection.exchange(&order(fault, query));
    let answer = answer.unwrap_or_else(|failure| panic!("ordering {fault}: {failure}"));
    assert!(matches!(answer.status(), 200 | 202), "ordering {fault}: {} {}", answer.status(), answer.text());
    serde_json::from_slice::<Planted>(&answer.body).expect("the order is answered in JSON").pid
}

/// A harmed worker.
pub struct Victim {
    /// Its process id.
    pub pid: u32,
    /// The slot that it serves.
    pub slot: u32,
    /// When the order was answered.
    pub began: SystemTime,
    watched: Arc<Watched>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Watched {
    held: Mutex<HashSet<SocketAddr>>,
    stop: AtomicBool,
    answered: Mutex<Vec<SystemTime>>,
}

impl Victim {
    /// Harms whichever worker accepts a new connection, and goes on calling `echo` over that connection.
    pub fn harm(gateway: &Gateway, fault: &str, query: &str, echo: &str) -> Victim {
        let before = gateway.status();
        let mut connection = Connection::open(gateway.address, EXCHANGE_LIMIT).expect("a connection");
        let pid = plant(&mut connection, fault, query);
        let began = SystemTime::now();
        let watched = Arc::new(Watched::default());
        let port = gateway.address.port();
        watched.look(pid, port);
        let slot = before.workers.iter().find(|worker| worker.pid == pid).map(|worker| worker.slot);
        let slot = slot.unwrap_or_else(|| panic!("process {pid} is no worker of {before:?}"));
        let (looking, asking) = (Arc::clone(&watched), Arc::clone(&watched));
        let (endpoint, echo) = (gateway.federated(), echo.to_owned());
        let threads = vec![
            std::thread::spawn(move || {
                while process::alive(pid) && !looking.stop.load(Relaxed) {
                    looking.look(pid, port);
                    std::thread::sleep(LOOK);
                }
            }),
            std::thread::spawn(move || asking.ask(connection, &endpoint, &echo)),
        ];
        Victim { pid, slot, began, watched, threads }
    }

    /// True when the request was on a connection that the worker had accepted.
    pub fn explains(&self, lost: &Lost) -> bool {
        self.watched.explains(lost)
    }

    /// When the worker answered a request that came to it after the fault had begun.
    pub fn answered(&self) -> Vec<SystemTime> {
        self.watched.answered.lock().expect("no thread panics with the lock").clone()
    }
}

/// The connections that some workers hold, and held.
pub struct Held {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl Held {
    /// Looks again and again. A worker steps aside seconds before it is killed: what it holds then is seen.
    pub fn watch(pids: &[u32], port: u16) -> Held {
        let watched = Arc::new(Watched::default());
        let (looking, pids) = (Arc::clone(&watched), pids.to_vec());
        let thread = std::thread::spawn(move || {
            while !looking.stop.load(Relaxed) {
                pids.iter().for_each(|&pid| looking.look(pid, port));
                std::thread::sleep(RARE_LOOK);
            }
        });
        Held { watched, thread: Some(thread) }
    }

    /// What was lost, was lost on connections of these workers.
    #[track_caller]
    pub fn assert_explains(&self, errors: &[Lost]) {
        let unexplained: Vec<&Lost> = errors.iter().filter(|lost| !self.watched.explains(lost)).collect();
        assert!(unexplained.is_empty(), "lost on connections of others: {unexplained:#?}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.watched.stop.store(true, Relaxed);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the one who looks panicked");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.watched.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client panicked");
        }
    }
}

impl Watched {
    fn explains(&self, lost: &Lost) -> bool {
        let held = self.held.lock().expect("no thread panics with the lock");
        lost.client.is_some_and(|client| held.contains(&client))
    }

    fn look(&self, pid: u32, port: u16) {
        let seen = process::accepted_clients(pid, port);
        self.held.lock().expect("no thread panics with the lock").extend(seen);
    }

    /// Request after request until the worker says goodbye, or is gone: that is no loss, the worker was harmed.
    fn ask(&self, mut connection: Connection, endpoint: &Endpoint, echo: &str) {
        let mut id = 1 << 50;
        loop {
            std::thread::sleep(PAUSE);
            if self.stop.load(Relaxed) || connection.close_announced {
                return;
            }
            id += 1;
            let sent = format!("message {id}");
            let call = endpoint.call(id, echo, &json!({"message": sent}));
            let got = connection.exchange(&call).and_then(|answer| mcp::tool_text(&answer, id));
            match got {
                Ok(text) => assert_eq!(text, sent),
                Err(Failure::Wrong(what)) => panic!("the harmed worker answered {what}"),
                Err(_) => return,
            }
            self.answered.lock().expect("no thread panics with the lock").push(SystemTime::now());
        }
    }
}
