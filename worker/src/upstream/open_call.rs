//! The rest of a call once it was sent: it is counted and timed when it is over, and cancelled when nobody waits for it any more.

use std::rc::Rc;

use bytes::Bytes;
use forkgate_shared::rows::{Outcome, monotonic_ns};
use http::Method;

use super::UpstreamError;
use super::calls::{Upstreams, outcome_of};
use super::peer::Peer;
use super::session::UpstreamSession;
use crate::lifecycle::task;

/// A call that an upstream works on. Dropped before it is closed, it tells a legacy upstream that nobody waits any more
/// (a modern one sees the connection close).
pub struct OpenCall {
    upstreams: Upstreams,
    peer: Rc<Peer>,
    session: Option<Rc<UpstreamSession>>,
    id: u64,
    index: usize,
    times: Times,
    arrived_ns: Option<u64>,
    is_open: bool,
}

/// When an upstream got a call; monotonic clock, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The first part of what it needs: a session, an attempt that it refused.
    pub(super) since_ns: u64,
    /// The call itself.
    pub(super) sent_ns: u64,
}

impl OpenCall {
    /// A call that is about to be sent.
    pub(super) fn new(
        upstreams: &Upstreams,
        peer: &Rc<Peer>,
        session: Option<Rc<UpstreamSession>>,
        id: u64,
        index: usize,
        times: Times,
    ) -> OpenCall {
        OpenCall {
            upstreams: upstreams.clone(),
            peer: Rc::clone(peer),
            session,
            id,
            index,
            times,
            arrived_ns: None,
            is_open: true,
        }
    }

    /// Its response is here, whatever it says.
    pub(super) fn arrived(&mut self) {
        self.arrived_ns = Some(monotonic_ns());
    }

    /// The upstream refused it or broke off: nothing to cancel, and nothing to count yet.
    pub(super) fn forget(&mut self) {
        self.is_open = false;
    }

    /// The upstream is done with it; counts what became of it. Gives how long the upstream had it, in nanoseconds.
    pub fn close(&mut self, outcome: Outcome) -> u64 {
        let arrived_ns = self.arrived_ns.unwrap_or_else(monotonic_ns);
        if std::mem::replace(&mut self.is_open, false) {
            self.upstreams.count(self.index, outcome);
            if matches!(outcome, Outcome::Ok | Outcome::RpcError) {
                self.upstreams.time(self.index, arrived_ns.saturating_sub(self.times.sent_ns));
            }
        }
        arrived_ns.saturating_sub(self.times.since_ns)
    }

    /// Counts how it failed. Only a deadline leaves something to cancel.
    pub fn fail(&mut self, error: &UpstreamError) {
        self.upstreams.count(self.index, outcome_of(error));
        self.is_open = *error == UpstreamError::TimedOut;
    }

    /// Sends a message that belongs to this call: an answer to something that the upstream asked.
    pub async fn post_back(&self, body: Bytes) {
        self.upstreams.courtesy(&self.peer, self.session.as_ref(), Method::POST, body).await;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Some(session) = self.session.take().filter(|_| self.is_open) else { return };
        let (upstreams, peer, id) = (self.upstreams.clone(), Rc::clone(&self.peer), self.id);
        task::spawn("cancel an upstream call", async move {
            let body = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"nobody waits for it any more"}}}}"#
            );
            upstreams.courtesy(&peer, Some(&session), Method::POST, body.into()).await;
        });
    }
}
