//! One request from the end of its head to the end of its answer: counted, described in the row, and over exactly
//! once, however it ends (answered, client gone, handler panicked).

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use forkgate_shared::rows::IN_FLIGHT;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Response};
use http_body::{Frame, SizeHint};

use super::serve::{Edge, Port};
use crate::body::Body;
use crate::lifecycle::{recycle, task};
use crate::net::activity::{Activity, LABEL};
use crate::observe::note::{Note, RequestEnd};

const _: () = assert!(IN_FLIGHT == u32::BITS as usize, "one bit per entry of the ring");

/// A request in flight; over when it is dropped.
pub(super) struct InFlight {
    edge: Rc<Edge>,
    activity: Rc<Activity>,
    started_ns: u64,
    /// What the protocol says of it.
    note: Rc<Note>,
    /// False for probes, which nobody counts, and for the admin port.
    counts: bool,
    /// Of the answer, once there is one.
    status: Option<u16>,
    /// Something of the answer was taken, or there is nothing to take.
    has_begun: bool,
    is_get: bool,
    is_stream: bool,
}

impl InFlight {
    pub(super) fn begin(edge: &Rc<Edge>, activity: &Rc<Activity>, method: &Method, path: &str) -> InFlight {
        let started_ns = activity.request_begins(label(method.as_str(), path));
        let counts = edge.port() == Port::Main;
        let gateway = edge.gateway();
        let row = gateway.row();
        if counts {
            row.in_flight.fetch_add(1, Relaxed);
        }
        // The ring may be full.
        let free = gateway.lifecycle.free_ring_entries.get();
        let entry = (free != 0).then(|| free.trailing_zeros() as usize);
        if let Some(index) = entry {
            gateway.lifecycle.free_ring_entries.set(free & !(1 << index));
            let cells = &row.in_flight_ring[index];
            cells.upstream.store(u64::MAX, Relaxed);
            cells.task.store(task::current(), Relaxed);
            cells.caller.set("");
            cells.method.set(method.as_str());
            cells.object.set(path);
            cells.started_ns.store(started_ns, Relaxed);
        }
        InFlight {
            edge: Rc::clone(edge),
            activity: Rc::clone(activity),
            started_ns,
            note: Rc::new(Note::new(Arc::clone(&gateway.rows), gateway.row_index, entry)),
            counts,
            status: None,
            // To HEAD no byte of a body is sent.
            has_begun: method == Method::HEAD,
            is_get: method == Method::GET,
            is_stream: false,
        }
    }

    /// An event stream of the main port that a client opened, and no call that has become one: nobody waits for its answer.
    fn is_standing_stream(&self) -> bool {
        self.is_get && self.is_stream && self.edge.port() == Port::Main
    }

    /// Where it is noted what the request is.
    pub(super) fn note(&self) -> &Rc<Note> {
        &self.note
    }

    /// This is a probe: it is served, and no more.
    pub(super) fn is_probe(&mut self) {
        self.counts = false;
    }

    /// Makes the answer: it takes the request with it, to be over when its last byte is handed to hyper.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Answer> {
        let gateway = self.edge.gateway();
        let row = gateway.row();
        if self.edge.port() == Port::Main {
            let class = usize::from(response.status().as_u16() / 100);
            if let Some(counter) = class.checked_sub(1).and_then(|class| row.counters.status.get(class)) {
                counter.fetch_add(1, Relaxed);
            }
        }
        self.status = Some(response.status().as_u16());
        self.has_begun |= matches!(response.body(), Body::Empty);
        if matches!(response.body(), Body::Stream(_)) {
            self.is_stream = true;
            row.streams.fetch_add(1, Relaxed);
        }
        if self.is_standing_stream() {
            gateway.lifecycle.standing_stream_opened();
        }
        // Where a body was not read the connection ends, whatever we say; a client that is told does not send its next
        // request into it.
        let announces = gateway.lifecycle.announces_close()
            || self.activity.announced_since_ns().is_some()
            || self.activity.is_body_unread();
        let (mut head, body) = response.into_parts();
        if announces {
            self.activity.announce();
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(head, Answer { body, in_flight: self })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let ended_ns = self.activity.answer_complete();
        let gateway = self.edge.gateway();
        let row = gateway.row();
        if self.edge.port() == Port::Main {
            row.in_flight.fetch_sub(1, Relaxed);
        }
        if self.is_stream {
            row.streams.fetch_sub(1, Relaxed);
        }
        if self.is_standing_stream() {
            gateway.lifecycle.standing_stream_ended();
        }
        if let Some(index) = self.note.leave_ring() {
            row.in_flight_ring[index].started_ns.store(0, Relaxed);
            let free = &gateway.lifecycle.free_ring_entries;
            free.set(free.get() | 1 << index);
        }
        if self.counts {
            task::worked(1);
            let end = match self.status.filter(|_| self.has_begun) {
                Some(status) => RequestEnd::Answered(status),
                None if std::thread::panicking() => RequestEnd::Panicked,
                None => RequestEnd::Abandoned,
            };
            let total_ns = ended_ns.filter(|_| !self.is_stream);
            self.note.count(end, total_ns.map(|ended_ns| ended_ns.saturating_sub(self.started_ns)));
            recycle::count_request(gateway);
        }
    }
}

/// An answer's body, and the request that it ends.
pub(super) struct Answer {
    body: Body,
    in_flight: InFlight,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.in_flight.has_begun |= frame.is_ready();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `METHOD path`, cut to fit.
fn label(method: &str, path: &str) -> [u8; LABEL] {
    let mut label = [0; LABEL];
    let text = method.bytes().chain(std::iter::once(b' ')).chain(path.bytes());
    for (cell, byte) in label.iter_mut().zip(text) {
        *cell = byte;
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_to_fit() {
        assert!(label("DELETE", &"/x".repeat(99)).starts_with(b"DELETE /x/x"));
    }
}
