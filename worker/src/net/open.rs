//! All open client connections of a worker: to wake them when it drains, and to say what was left when time is up.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use forkgate_shared::rows::monotonic_ns;
use tokio::sync::Notify;

use super::activity::{Activity, Phase};

/// The registry of connections; both ports.
#[derive(Default)]
pub struct OpenConnections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Activity>>>,
    draining_since_ns: Cell<Option<u64>>,
    none_left: Notify,
}

/// Takes the connection off the registry when it is dropped.
pub struct Registered {
    registry: Rc<OpenConnections>,
    key: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.registry.open.borrow_mut();
        open.remove(&self.key);
        if open.is_empty() {
            self.registry.none_left.notify_waiters();
        }
    }
}

impl OpenConnections {
    /// Enters a connection.
    pub fn register(self: &Rc<Self>, activity: Rc<Activity>) -> Registered {
        let key = self.next.get();
        self.next.set(key + 1);
        self.open.borrow_mut().insert(key, activity);
        Registered { registry: Rc::clone(self), key }
    }

    /// When the drain began, monotonic nanoseconds.
    pub fn draining_since_ns(&self) -> Option<u64> {
        self.draining_since_ns.get()
    }

    /// Begins the drain: every connection looks at itself again. Once only.
    pub fn drain(&self) {
        if self.draining_since_ns.get().is_none() {
            self.draining_since_ns.set(Some(monotonic_ns()));
            for activity in self.open.borrow().values() {
                activity.wake();
            }
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Resolves when none is open. Only sensible once nothing is accepted any more.
    pub async fn all_closed(&self) {
        loop {
            let closed = self.none_left.notified();
            if self.count() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// What is open right now: what it is doing (for a request: method and path) and for how many seconds.
    pub fn describe(&self) -> Vec<(String, f64)> {
        let now = monotonic_ns();
        let open = self.open.borrow();
        let describe = |activity: &Rc<Activity>| {
            let (phase, since) = activity.phase();
            let what = match phase {
                Phase::Request | Phase::Flushing => activity.label(),
                Phase::Silent => "no request yet".to_owned(),
                Phase::Idle => "idle".to_owned(),
                Phase::Head => "incomplete request head".to_owned(),
                Phase::Lingering => "closing".to_owned(),
            };
            (what, now.saturating_sub(since) as f64 / 1e9)
        };
        open.values().map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_registry_empties_and_says_so() {
        let open = Rc::new(OpenConnections::default());
        let first = open.register(Rc::new(Activity::default()));
        let second = open.register(Rc::new(Activity::default()));
        assert_eq!((open.count(), open.describe().len()), (2, 2));
        drop(first);
        let (waiting, ()) = tokio::join!(open.all_closed(), async { drop(second) });
        assert_eq!((waiting, open.count()), ((), 0));
        open.all_closed().await;
    }

    #[test]
    fn the_drain_has_one_beginning() {
        let open = OpenConnections::default();
        open.drain();
        let first = open.draining_since_ns();
        open.drain();
        assert!(first.is_some() && open.draining_since_ns() == first);
    }
}
