//! Looks at files off the event loop: on a mount that hangs, a `stat` returns when the server comes back, or never.
//!
//! Invariant: at most one look of a process is under way. One that hangs keeps one thread of the blocking pool and no
//! more; whoever comes meanwhile waits for its turn as long as a look may take.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// How long a look and the wait for its turn may take together; a disk that spins up takes a second or two.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// The turn to look.
pub(super) struct Aside {
    turn: Arc<Semaphore>,
    within: Duration,
}

impl Aside {
    pub(super) fn new() -> Aside {
        Aside { turn: Arc::new(Semaphore::new(1)), within: LOOK_WITHIN }
    }

    /// What `look` finds, or [`io::ErrorKind::TimedOut`].
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).acquire_owned();
        let found = tokio::time::timeout(self.within, async {
            let turn = turn.await.map_err(io::Error::other)?;
            let looking = tokio::task::spawn_blocking(move || {
                let found = look();
                drop(turn);
                found
            });
            looking.await.map_err(io::Error::other)?
        });
        found.await.unwrap_or_else(|_| {
            let text = format!("the file system did not answer within {:?}", self.within);
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn one_that_hangs_is_given_up_and_not_joined_by_more() {
        let mut aside = Aside { within: Duration::from_millis(20), ..Aside::new() };
        let looks = Arc::new(AtomicUsize::new(0));
        let (release, hang) = sync_channel::<()>(0);
        let timed_out = |found: io::Result<()>| found.expect_err("hangs").kind() == io::ErrorKind::TimedOut;
        let counter = Arc::clone(&looks);
        let hung = aside.look(move || {
            counter.fetch_add(1, SeqCst);
            let _ = hang.recv();
            Ok(())
        });
        assert!(timed_out(hung.await));
        for _ in 0..8 {
            let counter = Arc::clone(&looks);
            assert!(timed_out(
                aside
                    .look(move || {
                        counter.fetch_add(1, SeqCst);
                        Ok(())
                    })
                    .await
            ));
        }
        drop(release);
        aside.within = Duration::from_secs(60);
        assert_eq!(aside.look(move || Ok(looks.load(SeqCst))).await.expect("looks"), 1);
    }
}
