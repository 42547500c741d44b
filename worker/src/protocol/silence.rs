//! A client that waits: its answer is JSON with a real status as long as it comes soon. Once the client has heard nothing
//! for the keep-alive interval the answer becomes an event stream, so that nobody on the way takes the connection for
//! dead, and the status is 200 whatever comes.

use std::future::Future;
use std::pin::Pin;

use http::Response;

use super::relay::{KEEPALIVE, Reading, event_stream};
use crate::body::{Body, ReaderGone, StreamWriter};
use crate::lifecycle::task;
use crate::upstream::sse::write_event;

/// The answer, or the event stream that it becomes. A client that leaves drops `answer`, before and after that moment.
pub async fn bridge<F>(mut answer: Pin<Box<F>>, reading: Reading) -> Response<Body>
where
    F: Future<Output = Response<Body>> + 'static,
{
    if !reading.takes_events {
        return answer.await;
    }
    if let Ok(response) = tokio::time::timeout(reading.keepalive, &mut answer).await {
        return response;
    }
    let (writer, body) = Body::stream();
    task::spawn("keep a waiting client", async move {
        reading.note.waited_for_here();
        tokio::select! {
            () = writer.closed() => {}
            // Fails only when the client is gone.
            _ = tell(&writer, answer, reading) => {}
        }
    });
    event_stream(body)
}

async fn tell<F>(writer: &StreamWriter, mut answer: Pin<Box<F>>, reading: Reading) -> Result<(), ReaderGone>
where
    F: Future<Output = Response<Body>>,
{
    let response = loop {
        writer.send(KEEPALIVE).await?;
        if let Ok(response) = tokio::time::timeout(reading.keepalive, &mut answer).await {
            break response;
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
