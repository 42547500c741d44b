//! A client that waits: its answer is JSON with a real status as long as it comes soon. Once the client has heard nothing
//! for the keep-alive interval the answer becomes an event stream, so that nobody on the way takes the connection for
//! dead, and the status is 200 whatever comes.
//!
//! A worker that leaves waits for the answer as long as it may; then the client is told that there will be none. It would wait
//! for ever after a stream that just ends.

use std::future::Future;
use std::pin::Pin;

use http::Response;

use super::relay::{KEEPALIVE, Reading, event_stream};
use crate::body::{Body, ReaderGone, StreamWriter};
use crate::lifecycle::task;
use crate::upstream::sse::write_event;

/// The answer, or the event stream that it becomes. A client that leaves drops `answer`, before and after that moment.
/// `cut_off` makes the answer of a call that has no time left.
pub async fn bridge<F>(
    mut answer: Pin<Box<F>>,
    mut reading: Reading,
    cut_off: impl FnOnce() -> Response<Body> + 'static,
) -> Response<Body>
where
    F: Future<Output = Response<Body>> + 'static,
{
    match next(&mut answer, &mut reading).await {
        Next::Answer(response) => return response,
        Next::NoTime => return cut_off(),
        Next::Silence => {}
    }
    let (writer, body) = Body::stream();
    task::spawn("keep a waiting client", async move {
        reading.note.waited_for_here();
        tokio::select! {
            () = writer.closed() => {}
            // Fails only when the client is gone.
            _ = tell(&writer, answer, reading, cut_off) => {}
        }
    });
    event_stream(body)
}

/// What comes first.
enum Next {
    Answer(Response<Body>),
    /// The client has heard nothing for the keep-alive interval, and could be told something.
    Silence,
    /// The worker has to leave.
    NoTime,
}

async fn next<F>(answer: &mut Pin<Box<F>>, reading: &mut Reading) -> Next
where
    F: Future<Output = Response<Body>>,
{
    tokio::select! {
        biased;
        response = answer => Next::Answer(response),
        () = reading.last_words.due() => Next::NoTime,
        () = tokio::time::sleep(reading.keepalive), if reading.takes_events => Next::Silence,
    }
}

async fn tell<F>(
    writer: &StreamWriter,
    mut answer: Pin<Box<F>>,
    mut reading: Reading,
    cut_off: impl FnOnce() -> Response<Body>,
) -> Result<(), ReaderGone>
where
    F: Future<Output = Response<Body>>,
{
    let response = loop {
        writer.send(KEEPALIVE).await?;
        match next(&mut answer, &mut reading).await {
            Next::Answer(response) => break response,
            Next::NoTime => break cut_off(),
            Next::Silence => {}
        }
    };
    match response.into_body() {
        Body::Empty => {}
        Body::Full(message) => writer.send(write_event(&message)).await?,
        // Events already, with keep-alives of their own.
        Body::Stream(mut events) => {
            while let Some(event) = events.recv().await {
                writer.send(event).await?;
            }
        }
    }
    Ok(())
}
