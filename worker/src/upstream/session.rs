//! The session that a worker has with a legacy upstream: one, shared by all calls, opened by the first.
//!
//! It declares no capabilities, so the upstream has nothing to ask anybody; whose call it is makes no difference.

use std::cell::RefCell;
use std::rc::Rc;

use http::HeaderValue;

use super::UpstreamError;
use super::turns::Turns;

/// An open session.
#[derive(Debug)]
pub struct UpstreamSession {
    /// `Mcp-Session-Id`, when the upstream gave one.
    pub id: Option<HeaderValue>,
    /// The negotiated version.
    pub version: String,
}

/// Where a session is kept while it works.
#[derive(Default)]
pub struct SessionSlot {
    open: RefCell<Option<Rc<UpstreamSession>>>,
    opening: Turns<Rc<UpstreamSession>, UpstreamError>,
}

impl SessionSlot {
    /// The session, when one is open.
    pub fn current(&self) -> Option<Rc<UpstreamSession>> {
        self.open.borrow().clone()
    }

    /// The session; opened by `open` when there is none, by one caller for all who want it meanwhile.
    pub async fn get_or_open(
        &self,
        open: impl Future<Output = Result<UpstreamSession, UpstreamError>>,
    ) -> Result<Rc<UpstreamSession>, UpstreamError> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let keep = async {
            let session = Rc::new(open.await?);
            *self.open.borrow_mut() = Some(Rc::clone(&session));
            Ok(session)
        };
        self.opening.share(keep).await
    }

    /// Replaces the session, by one that a probe opened.
    pub fn set(&self, session: Option<UpstreamSession>) {
        *self.open.borrow_mut() = session.map(Rc::new);
    }

    /// The upstream no longer knows this session. A newer one stays.
    pub fn forget(&self, session: &Rc<UpstreamSession>) {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_some_and(|current| Rc::ptr_eq(current, session)) {
            *open = None;
        }
    }

    /// Takes the session out, to end it.
    pub fn take(&self) -> Option<Rc<UpstreamSession>> {
        self.open.borrow_mut().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn callers_at_once_open_one_session_and_forget_only_that_one() {
        let slot = SessionSlot::default();
        let opened = std::cell::Cell::new(0);
        let open = || async {
            tokio::task::yield_now().await;
            opened.set(opened.get() + 1);
            Ok(UpstreamSession { id: None, version: "2025-11-25".into() })
        };
        let (a, b) = tokio::join!(slot.get_or_open(open()), slot.get_or_open(open()));
        let (a, b) = (a.expect("a"), b.expect("b"));
        assert!(Rc::ptr_eq(&a, &b));
        assert_eq!(opened.get(), 1);
        slot.forget(&a);
        let c = slot.get_or_open(open()).await.expect("c");
        slot.forget(&a);
        assert!(Rc::ptr_eq(&c, &slot.current().expect("kept")));
    }
}
