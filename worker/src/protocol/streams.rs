//! The event stream that a legacy client opens with GET: it stays open, says that it is alive, and ends cleanly when the
//! session or the worker does, so that the client opens it again where it finds one.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::sessions::Session;
use http::Response;

use super::Ground;
use super::relay::{KEEPALIVE, event_stream};
use crate::body::Body;
use crate::lifecycle::task;

/// First version whose clients can read an event that has `retry` and no data; older ones take it for a message.
const FIRST_WITH_RETRY: &str = "2025-11-25";
/// How long a client waits before it opens the stream again, in milliseconds.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// What opens a stream, so that the client sees its head at once.
const OPENING: &[u8] = b": stream open\n\n";
/// Streams of a draining worker end spread over this time, so that their clients do not come back all at once.
const DRAIN_SPREAD_MS: u64 = 1000;

/// Opens the stream of a session.
pub fn open<G: Ground>(ground: &Rc<G>, session: Session) -> Response<Body> {
    let (writer, body) = Body::stream();
    let ground = Rc::clone(ground);
    task::spawn("session stream", async move {
        let opening = if session.facts.version.as_str() >= FIRST_WITH_RETRY { RETRY } else { OPENING };
        if writer.send(Bytes::from_static(opening)).await.is_err() {
            return;
        }
        let mut tick = tokio::time::interval(ground.settings().sse_keepalive_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        let drained = ground.lifecycle().drained_from();
        tokio::pin!(drained);
        loop {
            tokio::select! {
                () = writer.closed() => return,
                () = &mut drained => break,
                _ = tick.tick() => {
                    if !ground.sessions().is_live(&session) || writer.send(KEEPALIVE).await.is_err() {
                        return;
                    }
                }
            }
        }
        let spread = Duration::from_millis(rand::random::<u64>() % DRAIN_SPREAD_MS);
        // A client that leaves meanwhile has ended it itself.
        let _ = tokio::time::timeout(spread, writer.closed()).await;
    });
    event_stream(body)
}
