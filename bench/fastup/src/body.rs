//! Answers: complete bytes, or an event stream that never ends by itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::{Response, StatusCode};

use crate::state::{bump, State};

/// Interval of SSE comment lines on held-open streams.
pub const KEEPALIVE: Duration = Duration::from_secs(15);

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const SSE: HeaderValue = HeaderValue::from_static("text/event-stream");
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-cache");

pub enum Body {
    Full(Option<Bytes>),
    Stream(Stream),
}

pub struct Stream {
    first: Option<Bytes>,
    timer: tokio::time::Interval,
    state: Rc<State>,
}

impl Stream {
    pub fn open(state: &Rc<State>, first: Option<Bytes>) -> Body {
        let c = &state.n;
        bump(&c.streams);
        bump(&c.open_streams);
        let timer = tokio::time::interval_at(tokio::time::Instant::now() + KEEPALIVE, KEEPALIVE);
        Body::Stream(Stream { first, timer, state: state.clone() })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let c = &self.state.n.open_streams;
        c.set(c.get() - 1);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Full(b) => Poll::Ready(b.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(s) => {
                if let Some(b) = s.first.take() {
                    return Poll::Ready(Some(Ok(Frame::data(b))));
                }
                match s.timer.poll_tick(cx) {
                    Poll::Ready(_) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n"))))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(Some(b)) => SizeHint::with_exact(b.len() as u64),
            Body::Full(None) => SizeHint::with_exact(0),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

pub type Reply = Response<Body>;

pub fn reply(status: StatusCode, content_type: Option<HeaderValue>, body: impl Into<Bytes>) -> Reply {
    let body: Bytes = body.into();
    let body = if body.is_empty() { None } else { Some(body) };
    let mut r = Response::new(Body::Full(body));
    *r.status_mut() = status;
    if let Some(ct) = content_type {
        r.headers_mut().insert(CONTENT_TYPE, ct);
    }
    r
}

pub fn empty(status: StatusCode) -> Reply {
    reply(status, None, Bytes::new())
}
