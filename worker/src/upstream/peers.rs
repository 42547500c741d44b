//! The upstreams that this worker has called: who they are, and when they are let go.
//!
//! Invariant: a peer that somebody holds is never let go; its session may be in the middle of a call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::UpstreamError;
use super::peer::Peer;
use crate::catalog::UpstreamEntry;

/// All of them.
#[derive(Default)]
pub struct Peers {
    current: RefCell<HashMap<String, Rc<Peer>>>,
    /// Registered anew with another address or other credentials, while calls were running.
    retired: RefCell<Vec<Rc<Peer>>>,
}

impl Peers {
    /// The peer of an entry; another one than before when the registration changed.
    pub fn get(&self, entry: &Arc<UpstreamEntry>) -> Result<Rc<Peer>, UpstreamError> {
        let mut current = self.current.borrow_mut();
        if let Some(peer) = current.get(&entry.id).filter(|peer| peer.serves(entry)) {
            return Ok(Rc::clone(peer));
        }
        let peer = Rc::new(Peer::new(Arc::clone(entry))?);
        self.retired.borrow_mut().extend(current.insert(entry.id.clone(), Rc::clone(&peer)));
        Ok(peer)
    }

    /// Closes connections that have been idle for too long; true when some are left.
    pub fn close_idle(&self) -> bool {
        let (current, retired) = (self.current.borrow(), self.retired.borrow());
        current.values().chain(&*retired).fold(false, |any, peer| peer.sweep() | any)
    }

    /// Lets go whom nobody uses any more: retired ones, and those not called for `unused`, which may no longer be
    /// registered.
    pub fn take_unused(&self, unused: Duration) -> Vec<Rc<Peer>> {
        let is_held = |peer: &Rc<Peer>| Rc::strong_count(peer) > 1;
        let mut gone: Vec<Rc<Peer>> =
            self.retired.borrow_mut().extract_if(.., |peer| !is_held(peer)).collect();
        let mut current = self.current.borrow_mut();
        let stale = current.extract_if(|_, peer| {
            if is_held(peer) {
                peer.touch();
            }
            peer.last_used().elapsed() >= unused
        });
        gone.extend(stale.map(|(_, peer)| peer));
        gone
    }

    /// Lets go everybody.
    pub fn take_all(&self) -> Vec<Rc<Peer>> {
        let mut all = std::mem::take(&mut *self.retired.borrow_mut());
        all.extend(self.current.borrow_mut().drain().map(|(_, peer)| peer));
        all
    }

    /// True when there is nobody to let go.
    pub fn is_empty(&self) -> bool {
        self.current.borrow().is_empty() && self.retired.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fixture;

    #[test]
    fn whoever_is_in_use_stays() {
        let peers = Peers::default();
        let entry = fixture::entry("http://127.0.0.1:1/");
        let held = peers.get(&entry).expect("a peer");
        std::thread::sleep(Duration::from_millis(2));
        assert!(peers.take_unused(Duration::from_millis(1)).is_empty(), "a call runs on it");
        let moved = peers.get(&fixture::entry("http://127.0.0.1:2/")).expect("a peer");
        assert!(!Rc::ptr_eq(&held, &moved));
        assert!(peers.take_unused(Duration::from_secs(600)).is_empty(), "a call still runs on the old one");
        drop(held);
        assert_eq!(peers.take_unused(Duration::from_secs(600)).len(), 1);
        drop(moved);
        assert_eq!(peers.take_unused(Duration::ZERO).len(), 1);
        assert!(peers.is_empty());
    }
}
