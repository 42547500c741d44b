//! The loop turns and gets nothing done: the four ways in which proxies have done it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::lifecycle::task;

/// A future that is woken by itself alone.
#[inline(never)]
pub(super) async fn self_waking(until: Instant) {
    poll_fn(|cx| {
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A loop that gives way to the others again and again, and never waits.
#[inline(never)]
pub(super) async fn yielding(until: Instant) {
    while Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

/// Two tasks that keep each other awake.
#[inline(never)]
pub(super) async fn ping_pong(until: Instant) {
    let (to_other, mut from_one) = mpsc::channel::<Instant>(1);
    let (to_one, mut from_other) = mpsc::channel::<Instant>(1);
    task::spawn("pingpong", async move {
        while let Some(ball) = from_one.recv().await {
            if to_one.send(ball).await.is_err() {
                return;
            }
        }
    });
    while Instant::now() < until {
        if to_other.send(until).await.is_err() || from_other.recv().await.is_none() {
            return;
        }
    }
}

/// A reader that takes the end of a stream for a reason to read again.
#[inline(never)]
pub(super) async fn reading_at_the_end(until: Instant) {
    let Ok((mut reader, writer)) = UnixStream::pair() else { return };
    drop(writer);
    let mut buffer = [0; 512];
    while Instant::now() < until {
        if reader.read(&mut buffer).await.is_err() {
            return;
        }
    }
}
