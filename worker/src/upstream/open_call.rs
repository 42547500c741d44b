//! The rest of a call once it was sent: it is counted when it is over, and cancelled when nobody waits for it any more.

use std::rc::Rc;

use bytes::Bytes;
use forkgate_shared::rows::Outcome;
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
    is_open: bool,
}

impl OpenCall {
    /// A call that is about to be sent.
    pub(super) fn new(
        upstreams: &Upstreams,
        peer: &Rc<Peer>,
        session: Option<Rc<UpstreamSession>>,
        id: u64,
        index: usize,
    ) -> OpenCall {
        OpenCall { upstreams: upstreams.clone(), peer: Rc::clone(peer), session, id, index, is_open: true }
    }

    /// The upstream refused it or broke off: nothing to cancel, and nothing to count yet.
    pub(super) fn forget(&mut self) {
        self.is_open = false;
    }

    /// The upstream is done with it; counts what became of it.
    pub fn close(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_open, false) {
            self.upstreams.count(self.index, outcome);
        }
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
