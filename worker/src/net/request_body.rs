//! A request's body, which tells its connection whether it was read to its end.
//!
//! Invariant: a connection of which a part of a body may still come belongs to the process that has read the head. Whoever else
//! read on would take the rest for requests.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::activity::Activity;

/// See the module.
pub struct RequestBody<B = Incoming> {
    body: B,
    activity: Rc<Activity>,
}

impl<B: Body> RequestBody<B> {
    /// The body of the request that has just begun.
    pub fn new(body: B, activity: Rc<Activity>) -> RequestBody<B> {
        activity.body_unread(!body.is_end_stream());
        RequestBody { body, activity }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let failed = matches!(frame, Some(Err(_)));
        if !failed && (frame.is_none() || self.body.is_end_stream()) {
            self.activity.body_unread(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    /// Chunks of no announced length, or a failure.
    struct Chunks(Vec<Result<&'static [u8], ()>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = ();
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|next| next.map(|bytes| Frame::data(Bytes::from_static(bytes)))))
        }
    }

    fn is_unread(activity: &Activity) -> bool {
        activity.rest().is_none()
    }

    #[tokio::test]
    async fn a_body_is_unread_until_its_end_was_seen() {
        let activity = Rc::new(Activity::default());
        let mut chunks = RequestBody::new(Chunks(vec![Ok(b"a"), Ok(b"b")]), Rc::clone(&activity));
        for _ in 0..2 {
            assert!(matches!(chunks.frame().await, Some(Ok(_))));
            assert!(is_unread(&activity), "more may come");
        }
        assert!(chunks.frame().await.is_none() && !is_unread(&activity));
        let mut whole = RequestBody::new(Full::new(Bytes::from_static(b"ab")), Rc::clone(&activity));
        assert!(is_unread(&activity));
        let frame: Option<Result<_, Infallible>> = whole.frame().await;
        assert!(frame.is_some() && !is_unread(&activity), "its length says that nothing follows");
        drop(RequestBody::new(Full::new(Bytes::new()), Rc::clone(&activity)));
        assert!(!is_unread(&activity), "no body");
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_or_breaks_stays_unread() {
        let activity = Rc::new(Activity::default());
        drop(RequestBody::new(Chunks(vec![Ok(b"a")]), Rc::clone(&activity)));
        assert!(is_unread(&activity));
        let mut broken = RequestBody::new(Chunks(vec![Err(())]), Rc::clone(&activity));
        assert!(matches!(broken.frame().await, Some(Err(()))) && is_unread(&activity));
    }
}
