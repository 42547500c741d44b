//! A handler that panics ends in an answer: the client is told, and its connection does not just break.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// A future panicked; the panic hook has counted and logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

pin_project! {
    /// See [`caught`].
    pub(super) struct Caught<F> {
        #[pin]
        future: F,
    }
}

/// Runs a future up to its end or its panic. What it shares with others must be fit for use after a panic: of a handler
/// that is row counters, caches and pools, which hold no half-done state across calls.
pub(super) fn caught<F: Future>(future: F) -> Caught<F> {
    Caught { future }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => Poll::Ready(Ok(ready!(poll))),
            Err(_payload) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_outcome_and_everything_else_is_as_it_was() {
        let panics = async {
            tokio::task::yield_now().await;
            if std::hint::black_box(true) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        };
        assert_eq!(caught(panics).await, Err(Panicked));
        let waits = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(caught(waits).await, Ok(7));
    }
}
