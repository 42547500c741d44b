//! Work that many want and one does: whoever comes while it is being done waits, and shares what came of it.
//!
//! A failure is shared too. If everyone who waited tried again in turn, the last one would wait as many times as there
//! are callers before it, and none of them would learn why.

use std::cell::RefCell;
use std::future::Future;

use tokio::sync::Mutex;

/// One piece of work.
pub struct Turns<T, E> {
    turn: Mutex<()>,
    last: RefCell<Last<T, E>>,
}

struct Last<T, E> {
    /// Of pieces of work that came to an end.
    number: u64,
    outcome: Option<Result<T, E>>,
}

impl<T, E> Default for Turns<T, E> {
    fn default() -> Turns<T, E> {
        Turns { turn: Mutex::default(), last: RefCell::new(Last { number: 0, outcome: None }) }
    }
}

impl<T: Clone, E: Clone> Turns<T, E> {
    /// The outcome of the work that is being done, or else of `work`. When the caller who does it is dropped, the next
    /// one does its own.
    pub async fn share(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let before = self.last.borrow().number;
        let _turn = self.turn.lock().await;
        {
            let last = self.last.borrow();
            if let Some(outcome) = last.outcome.as_ref().filter(|_| last.number != before) {
                return outcome.clone();
            }
        }
        let outcome = work.await;
        let mut last = self.last.borrow_mut();
        last.number += 1;
        last.outcome = Some(outcome.clone());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn who_waited_shares_the_outcome_and_who_comes_later_tries_again() {
        let turns: Turns<u32, &str> = Turns::default();
        let done = Cell::new(0);
        let work = |outcome| {
            let done = &done;
            async move {
                tokio::task::yield_now().await;
                done.set(done.get() + 1);
                outcome
            }
        };
        let fails = || turns.share(work(Err("no")));
        assert_eq!(tokio::join!(fails(), fails(), fails()), (Err("no"), Err("no"), Err("no")));
        assert_eq!(done.get(), 1);
        let succeeds = || turns.share(work(Ok(done.get())));
        assert_eq!(tokio::join!(succeeds(), succeeds()), (Ok(1), Ok(1)));
        assert_eq!(succeeds().await, Ok(2));
        assert_eq!(done.get(), 3);
    }

    #[tokio::test]
    async fn work_that_was_given_up_is_done_by_the_next() {
        let turns: Turns<u32, ()> = Turns::default();
        let first = turns.share(std::future::pending());
        let second = turns.share(async { Ok(2) });
        let given_up = async {
            tokio::select! {
                biased;
                _ = first => {}
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(tokio::join!(given_up, second).1, Ok(2));
    }
}
