//! All open client connections of a worker: to let them go when it drains, and to say what was left when time is up.
//!
//! | a worker that drains | idle connections | answers |
//! |---|---|---|
//! | with an heir | move to it | say nothing of a close: their connection moves when they are written |
//! | with an heir that refuses this one | this one has its grace for one more request | its answer announces the close |
//! | without, or when the heir takes no more | have their grace for one more request | announce the close |

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use forkgate_shared::rows::monotonic_ns;
use tokio::sync::Notify;

use super::activity::{Activity, Phase};
use super::handover::heir::Heir;

/// The registry of connections; both ports.
#[derive(Default)]
pub struct OpenConnections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Activity>>>,
    heir: RefCell<Option<Rc<Heir>>>,
    announcing_since_ns: Cell<Option<u64>>,
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

    /// Since when answers announce the close, monotonic nanoseconds.
    pub fn announcing_since_ns(&self) -> Option<u64> {
        self.announcing_since_ns.get()
    }

    /// Who takes connections over, while that is so.
    pub fn heir(&self) -> Option<Rc<Heir>> {
        self.heir.borrow().clone()
    }

    /// From now on the close is announced, and nobody moves. Once only.
    pub fn announce(&self) {
        self.heir.take();
        if self.announcing_since_ns.get().is_none() {
            self.announcing_since_ns.set(Some(monotonic_ns()));
            self.wake_all();
        }
    }

    /// From now on connections move when they are at rest; unless the close was announced before.
    pub fn move_to(&self, heir: Rc<Heir>) {
        if self.announcing_since_ns.get().is_none() {
            self.heir.replace(Some(heir));
            self.wake_all();
        }
    }

    /// Every connection looks at itself again.
    fn wake_all(&self) {
        for activity in self.open.borrow().values() {
            activity.wake();
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

    /// The connections without a request: what they are doing, and for how many seconds.
    pub fn describe_waiting(&self) -> Vec<(String, f64)> {
        let now = monotonic_ns();
        let open = self.open.borrow();
        let describe = |activity: &Rc<Activity>| {
            let (phase, since) = activity.phase();
            let what = match phase {
                Phase::Request => return None,
                Phase::Flushing => format!("the client of {} reads slowly", activity.label()),
                Phase::Silent => "no request yet".to_owned(),
                Phase::Idle => "idle".to_owned(),
                Phase::Head => "incomplete request head".to_owned(),
                Phase::Lingering => "closing".to_owned(),
            };
            Some((what, now.saturating_sub(since) as f64 / 1e9))
        };
        open.values().filter_map(describe).collect()
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
        assert_eq!((open.count(), open.describe_waiting().len()), (2, 2));
        drop(first);
        let (waiting, ()) = tokio::join!(open.all_closed(), async { drop(second) });
        assert_eq!((waiting, open.count()), ((), 0));
        open.all_closed().await;
    }

    #[tokio::test]
    async fn the_announcement_has_one_beginning_and_is_not_taken_back() {
        let open = OpenConnections::default();
        let heir = || {
            let (line, _) = forkgate_shared::control::worker_line().expect("line");
            Rc::new(Heir::new(line).expect("heir"))
        };
        open.move_to(heir());
        assert!(open.heir().is_some() && open.announcing_since_ns().is_none());
        open.announce();
        let first = open.announcing_since_ns();
        open.announce();
        open.move_to(heir());
        assert!(first.is_some() && open.announcing_since_ns() == first && open.heir().is_none());
    }
}
