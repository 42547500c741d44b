//! Who held which connection: what was lost must have been on a connection of a process that was killed, harmed or stopped.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::Lost;
use crate::process;

/// Between two looks at processes that are in trouble: half of what a fault leaves between its order and its beginning.
const LOOK: Duration = Duration::from_millis(25);
/// How long after a process was last seen with a connection its client may notice the loss: it may wait for an answer.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// Looks at processes in trouble from a thread of its own until they are gone or taken off.
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    stop: AtomicBool,
    pids: Mutex<Vec<u32>>,
    /// When a connection was first and last seen with one of them.
    held: Mutex<HashMap<SocketAddr, (Instant, Instant)>>,
}

impl Shared {
    fn look(&self, pid: u32) {
        let (seen, now) = (process::accepted_clients(pid, self.port), Instant::now());
        let mut held = self.held.lock().expect("no thread panics with the lock");
        for client in seen {
            held.entry(client).and_modify(|(_, last)| *last = now).or_insert((now, now));
        }
    }
}

impl Witness {
    /// A witness of connections to `port`.
    pub fn of(port: u16) -> Witness {
        let shared = Arc::new(Shared {
            port,
            stop: AtomicBool::new(false),
            pids: Mutex::default(),
            held: Mutex::default(),
        });
        let looking = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !looking.stop.load(Relaxed) {
                let pids = looking.pids.lock().expect("no thread panics with the lock").clone();
                pids.iter().for_each(|&pid| looking.look(pid));
                looking
                    .pids
                    .lock()
                    .expect("no thread panics with the lock")
                    .retain(|&pid| process::alive(pid));
                std::thread::sleep(LOOK);
            }
        });
        Witness { shared, thread: Some(thread) }
    }

    /// Looks at this process now, and from now on.
    pub fn watch(&self, pid: u32) {
        self.shared.look(pid);
        let mut pids = self.shared.pids.lock().expect("no thread panics with the lock");
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }

    /// It is well again.
    pub fn release(&self, pid: u32) {
        self.shared.look(pid);
        self.shared.pids.lock().expect("no thread panics with the lock").retain(|&other| other != pid);
    }

    /// Connections that were seen with processes in trouble.
    pub fn seen(&self) -> usize {
        self.shared.held.lock().expect("no thread panics with the lock").len()
    }

    /// True when this client's connection was seen with one of them.
    pub fn saw(&self, client: SocketAddr) -> bool {
        self.shared.held.lock().expect("no thread panics with the lock").contains_key(&client)
    }

    /// True when the request was on a connection of a process in trouble, and lost in that time or soon after.
    pub fn explains(&self, lost: &Lost) -> bool {
        let Some(client) = lost.client else { return false };
        let held = self.shared.held.lock().expect("no thread panics with the lock");
        held.get(&client).is_some_and(|&(first, last)| lost.at >= first && lost.at < last + NOTICED_WITHIN)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the witness panicked");
    }
}
