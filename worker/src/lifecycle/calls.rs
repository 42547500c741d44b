//! Calls that do not end with their client's connection: a drain waits for them too, and time that is up names them.
//!
//! A call whose client waits is bounded by that client's connection. One whose client has left is bounded by nothing but
//! its upstream's patience, so there is a limit on these: while it is reached no further call of that kind begins.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use forkgate_shared::rows::monotonic_ns;
use tokio::sync::Notify;

/// Calls without a client at once, per worker. Each holds its request, its upstream's connection and buffers, tens of KiB:
/// some tens of MiB in all. Clients that give up leave a few of them; only ones that do it on purpose leave so many.
pub const MOST_ABANDONED: usize = 1024;

/// The registry of such calls.
#[derive(Default)]
pub struct DetachedCalls {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Entry>>,
    abandoned: Cell<usize>,
    none_left: Notify,
}

struct Entry {
    method: &'static str,
    since_ns: u64,
    client_left: bool,
}

/// Too many clients have left their calls behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyAbandoned;

/// A call; it is over when this is dropped.
pub struct DetachedCall {
    registry: Rc<DetachedCalls>,
    key: u64,
}

impl DetachedCalls {
    /// Enters a call.
    pub fn enter(self: &Rc<Self>, method: &'static str) -> Result<Rc<DetachedCall>, TooManyAbandoned> {
        if self.abandoned.get() >= MOST_ABANDONED {
            return Err(TooManyAbandoned);
        }
        let key = self.next.get();
        self.next.set(key + 1);
        let entry = Entry { method, since_ns: monotonic_ns(), client_left: false };
        self.open.borrow_mut().insert(key, entry);
        Ok(Rc::new(DetachedCall { registry: Rc::clone(self), key }))
    }

    /// How many there are whose clients have left.
    pub fn abandoned(&self) -> usize {
        self.abandoned.get()
    }

    /// Resolves when there is none. Only sensible once none begins any more.
    pub async fn all_over(&self) {
        loop {
            let over = self.none_left.notified();
            if self.open.borrow().is_empty() {
                return;
            }
            over.await;
        }
    }

    /// The calls whose clients have left (the others are named as connections), and for how many seconds they run.
    pub fn describe_abandoned(&self) -> Vec<(String, f64)> {
        let now = monotonic_ns();
        let open = self.open.borrow();
        let abandoned = open.values().filter(|entry| entry.client_left);
        abandoned
            .map(|entry| {
                let seconds = now.saturating_sub(entry.since_ns) as f64 / 1e9;
                (format!("{} whose client has left", entry.method), seconds)
            })
            .collect()
    }
}

impl DetachedCall {
    /// Its client waits no longer; again is nothing new.
    pub fn client_left(&self) {
        if let Some(entry) = self.registry.open.borrow_mut().get_mut(&self.key)
            && !std::mem::replace(&mut entry.client_left, true)
        {
            self.registry.abandoned.set(self.registry.abandoned.get() + 1);
        }
    }
}

impl Drop for DetachedCall {
    fn drop(&mut self) {
        let registry = &self.registry;
        let mut open = registry.open.borrow_mut();
        if open.remove(&self.key).is_some_and(|entry| entry.client_left) {
            registry.abandoned.set(registry.abandoned.get() - 1);
        }
        if open.is_empty() {
            registry.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_calls_end_is_waited_for() {
        let calls = Rc::new(DetachedCalls::default());
        calls.all_over().await;
        let (first, second) =
            (calls.enter("tools/call").expect("room"), calls.enter("prompts/get").expect("room"));
        first.client_left();
        assert_eq!(calls.describe_abandoned().len(), 1);
        assert!(calls.describe_abandoned()[0].0.starts_with("tools/call"));
        drop(first);
        let mut over = std::pin::pin!(calls.all_over());
        tokio::select! {
            biased;
            () = &mut over => panic!("one is open"),
            () = std::future::ready(()) => {}
        }
        drop(second);
        over.await;
    }

    #[test]
    fn only_calls_without_a_client_count_and_their_end_makes_room() {
        let calls = Rc::new(DetachedCalls::default());
        let mut open: Vec<_> =
            (0..=MOST_ABANDONED).map(|_| calls.enter("tools/call").expect("a client each")).collect();
        for call in &open[..MOST_ABANDONED] {
            call.client_left();
            call.client_left();
        }
        assert!(calls.enter("tools/call").is_err());
        open.swap_remove(0);
        assert!(calls.enter("tools/call").is_ok());
    }
}
