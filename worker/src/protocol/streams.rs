//! The event stream that a legacy client opens with GET: it stays open, says that it is alive, and ends cleanly when the
//! session or the worker does, so that the client opens it again where it finds one.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::sessions::Session;
use http::Response;

use super::Ground;
use super::relay::{KEEPALIVE, event_stream};
use crate::body::{Body, StreamWriter};
use crate::lifecycle::task;

/// First version whose clients can read an event that has `retry` and no data; older ones take it for a message.
const FIRST_WITH_RETRY: &str = "2025-11-25";
/// How long a client waits before it opens the stream again, in milliseconds.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// What opens a stream, so that the client sees its head at once.
const OPENING: &[u8] = b": stream open\n\n";
/// How soon a stream ends after its session: a look is one read of shared memory.
const LIVE_LOOK: Duration = Duration::from_secs(1);

/// Opens the stream of a session.
pub fn open<G: Ground>(ground: &Rc<G>, session: Session) -> Response<Body> {
    let (writer, body) = Body::stream();
    let ground = Rc::clone(ground);
    task::spawn("session stream", async move {
        let opening = if session.facts.version.as_str() >= FIRST_WITH_RETRY { RETRY } else { OPENING };
        if writer.send(Bytes::from_static(opening)).await.is_err() {
            return;
        }
        tokio::select! {
            () = keep_alive(&writer, ground.settings().sse_keepalive_interval) => {}
            () = writer.closed() => {}
            () = end_of_session(&*ground, &session) => {}
            () = end_of_drain(&*ground) => {}
        }
    });
    event_stream(body)
}

/// Says that the stream is alive, for as long as somebody reads it. A slow reader makes this wait, and nothing else.
async fn keep_alive(writer: &StreamWriter, interval: Duration) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        if writer.send(KEEPALIVE).await.is_err() {
            return;
        }
    }
}

/// Resolves when the worker drains and the stream's turn to end has come: at a time of its own, so that the clients do not
/// all come back at once.
async fn end_of_drain<G: Ground>(ground: &G) {
    ground.lifecycle().drained_from().await;
    let spread = ground.settings().stream_drain.mul_f64(rand::random());
    let mut last_words = ground.lifecycle().last_words();
    tokio::select! {
        () = tokio::time::sleep(spread) => {}
        () = last_words.due() => {}
    }
}

/// Resolves when the session has ended, on whichever worker.
async fn end_of_session<G: Ground>(ground: &G, session: &Session) {
    while ground.sessions().is_live(session) {
        tokio::time::sleep(LIVE_LOOK).await;
    }
}
