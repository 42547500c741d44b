//! One HTTP exchange with an upstream: send, get the head, read a bounded body or its events, give the connection back.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connect::{Connector, Sender};
use super::peer::Peer;
use super::{UpstreamError, sse};
use crate::lifecycle::task;

/// How long a finished event stream may take to end, before its connection is given up.
const STREAM_END: Duration = Duration::from_secs(1);

/// An answer whose body has not been read.
pub struct Exchange {
    /// Of the answer.
    pub status: StatusCode,
    /// Of the answer.
    pub headers: HeaderMap,
    body: Incoming,
    connection: Lease,
}

/// A connection in use; back to the pool when its answer was read to the end, closed otherwise.
struct Lease {
    sender: Sender,
    peer: Rc<Peer>,
}

impl Lease {
    fn give_back(self) {
        self.peer.put_idle(self.sender);
    }
}

/// Sends a request and waits for the head of its answer.
///
/// A pooled connection that turns out to be dead costs nothing when the request surely was not sent on it. When it may
/// have been, and `may_repeat` says that doing it twice is as good as once, it is sent once more, on a fresh connection.
pub async fn send(
    connector: &Connector,
    peer: &Rc<Peer>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    may_repeat: bool,
) -> Result<Exchange, UpstreamError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from(peer.path.clone());
    *request.headers_mut() = headers;
    while let Some(mut sender) = peer.take_idle() {
        if sender.ready().await.is_err() {
            continue;
        }
        let spare = may_repeat.then(|| request.clone());
        match sender.try_send_request(request).await {
            Ok(answer) => return Ok(Exchange::new(answer, sender, peer)),
            Err(mut failed) => match (failed.take_message(), spare) {
                (Some(unsent), _) => request = unsent,
                // Whatever closed this one may have closed all of them.
                (None, Some(copy)) => {
                    request = copy;
                    break;
                }
                (None, None) => return Err(broken(&failed.into_error())),
            },
        }
    }
    let mut sender = Box::pin(connector.connect(&peer.origin, peer.index())).await?;
    match sender.try_send_request(request).await {
        Ok(answer) => Ok(Exchange::new(answer, sender, peer)),
        Err(failed) if failed.message().is_some() => {
            Err(UpstreamError::Unreachable("it closed a new connection at once".to_owned()))
        }
        Err(failed) => Err(broken(&failed.into_error())),
    }
}

fn broken(error: &hyper::Error) -> UpstreamError {
    UpstreamError::Broken(error.to_string())
}

impl Exchange {
    fn new(answer: http::Response<Incoming>, sender: Sender, peer: &Rc<Peer>) -> Exchange {
        let (head, body) = answer.into_parts();
        let connection = Lease { sender, peer: Rc::clone(peer) };
        Exchange { status: head.status, headers: head.headers, body, connection }
    }

    /// True when the body is an event stream.
    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| {
            let essence = kind.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("text/event-stream")
        })
    }

    /// The whole body, at most `limit` bytes of it.
    pub async fn bytes(self, limit: u64) -> Result<Bytes, UpstreamError> {
        let Exchange { mut body, connection, .. } = self;
        if body.size_hint().lower() > limit {
            return Err(UpstreamError::TooLarge(limit));
        }
        // Small answers come in one piece, which is then not copied.
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            if (first.len() + rest.len() + data.len()) as u64 > limit {
                return Err(UpstreamError::TooLarge(limit));
            }
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
        connection.give_back();
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }

    /// Reads away a body that nobody needs, if it is small; else the connection is closed.
    pub async fn discard(self) {
        const SMALL: u64 = 64 * 1024;
        // Either way there is nothing left to do.
        let _ = self.bytes(SMALL).await;
    }

    /// The body as events of at most `limit` bytes, until `deadline`.
    pub fn events(self, limit: u64, deadline: Instant) -> Events {
        let parser = sse::Parser::new(usize::try_from(limit).unwrap_or(usize::MAX));
        Events { body: self.body, connection: Some(self.connection), parser, limit, deadline }
    }
}

/// The messages of an event stream.
pub struct Events {
    body: Incoming,
    connection: Option<Lease>,
    parser: sse::Parser,
    limit: u64,
    deadline: Instant,
}

impl Events {
    /// The next message; none at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if let Some(data) = self.parser.take_event() {
                // Also one that nobody is told of: reading it was work.
                task::worked(1);
                return Ok(Some(Bytes::from(data)));
            }
            let frame = tokio::time::timeout_at(self.deadline, self.body.frame())
                .await
                .map_err(|_| UpstreamError::TimedOut)?;
            let Some(frame) = frame else {
                if let Some(connection) = self.connection.take() {
                    connection.give_back();
                }
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                self.parser.push(&data).map_err(|_| UpstreamError::TooLarge(self.limit))?;
            }
        }
    }

    /// The response has come, so the stream should end; when it does so soon, the connection is kept.
    pub fn finish(mut self) {
        let Some(connection) = self.connection.take() else { return };
        if Pin::new(&mut self.body).is_end_stream() {
            connection.give_back();
            return;
        }
        task::spawn("end of an upstream stream", async move {
            let end = async {
                while let Some(Ok(_)) = self.body.frame().await {}
                self.body.is_end_stream()
            };
            if tokio::time::timeout(STREAM_END, end).await.is_ok_and(|ended| ended) {
                connection.give_back();
            }
        });
    }
}
