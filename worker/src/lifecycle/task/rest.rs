//! Where a polled task comes to rest: a waker that tells when the future takes it, or wakes itself with it.
//!
//! A loop that spins spends most of its time in the runtime, where a stack says nothing about who makes it turn. The place
//! where a task leaves its waker before it gives up its poll does: the stack there reaches from the await to the task. A poll
//! that leaves its waker in several places and wakes itself in one has made itself turn there, so that one counts.
//! Off (a look at one flag per poll) until somebody asks for one place.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

/// Somebody wants to see the next place.
static WANTED: AtomicBool = AtomicBool::new(false);
/// Called in that place, on the thread of the event loop.
static WITNESS: OnceLock<fn(Moment)> = OnceLock::new();
/// What was seen of the poll that runs: [`NOTHING`] < [`LEFT`] < [`WOKEN`].
static SEEN: AtomicU8 = AtomicU8::new(NOTHING);

/// It has not come to a place of rest.
const NOTHING: u8 = 0;
/// It has left its waker somewhere.
const LEFT: u8 = 1;
/// It has woken itself.
const WOKEN: u8 = 2;

/// What a witness is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This is the place, unless a better one comes.
    Here,
    /// The poll is over: the last place was the one.
    Over,
}

/// Says who is called after [`next`]; the first one stays.
pub fn witnessed_by(witness: fn(Moment)) {
    WITNESS.get_or_init(|| witness);
}

/// Has the witness called in the places where the next task comes to rest, and when its poll is over.
pub fn next() {
    WANTED.store(true, Relaxed);
}

/// True while somebody waits for the next place.
pub(super) fn is_wanted() -> bool {
    WANTED.load(Relaxed)
}

/// Polls with a waker that calls the witness.
#[cold]
pub(super) fn poll<F: Future>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
    poll: fn(Pin<&mut F>, &mut Context<'_>) -> Poll<F::Output>,
) -> Poll<F::Output> {
    let real = cx.waker();
    // SAFETY: the table keeps the contract of `RawWakerVTable`: its data is a `&Waker` that outlives this waker, which
    // is lent to the poll and dropped here; its clones are clones of the real one.
    let waker = unsafe { Waker::from_raw(RawWaker::new((&raw const *real).cast(), &TABLE)) };
    SEEN.store(NOTHING, Relaxed);
    let result = poll(future, &mut Context::from_waker(&waker));
    if SEEN.swap(NOTHING, Relaxed) != NOTHING {
        WANTED.store(false, Relaxed);
        witness(Moment::Over);
    }
    result
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, |_| {});

unsafe fn clone(real: *const ()) -> RawWaker {
    see(LEFT);
    // SAFETY: see `poll`.
    let clone = ManuallyDrop::new(unsafe { &*real.cast::<Waker>() }.clone());
    RawWaker::new(clone.data(), clone.vtable())
}

unsafe fn wake(real: *const ()) {
    see(WOKEN);
    // SAFETY: see `poll`.
    unsafe { &*real.cast::<Waker>() }.wake_by_ref();
}

fn see(place: u8) {
    if SEEN.load(Relaxed) < place {
        SEEN.store(place, Relaxed);
        witness(Moment::Here);
    }
}

fn witness(moment: Moment) {
    if let Some(witness) = WITNESS.get() {
        witness(moment);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn what_a_future_takes_is_the_real_waker() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let taken = Cell::new(None);
        let future = pin!(std::future::poll_fn(|cx| {
            taken.set(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }));
        assert!(poll(future, &mut Context::from_waker(&waker), |future, cx| future.poll(cx)).is_pending());
        let taken = taken.take().expect("taken");
        assert!(taken.will_wake(&waker) && !woken.0.load(Relaxed));
        let itself = pin!(std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert!(poll(itself, &mut Context::from_waker(&waker), |future, cx| future.poll(cx)).is_pending());
        assert!(woken.0.load(Relaxed));
    }
}
