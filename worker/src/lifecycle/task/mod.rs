//! The one function that starts tasks, and what it knows of them.
//!
//! Every task is wrapped: its polls are counted, the start of the poll that runs is written down, and whether work got
//! done in it. That gives a stall its start and its culprit, and a report its list of tasks. The event loop writes, the
//! watchdog's thread reads, also while the loop is stuck in the middle of a poll: so all of it is atomics in cells that
//! never move ([`Registry`]).
//!
//! Cost per poll: two readings of the coarse clock and some plain stores, see `bench/README.md`.

mod registry;
pub mod rest;

use std::cell::OnceCell;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

pub use registry::{Current, Registry, TaskFacts};
use registry::{Handle, Local};

thread_local! {
    /// The registry of this thread's event loop.
    static LOCAL: OnceCell<Rc<Local>> = const { OnceCell::new() };
}

/// From now on the tasks of this thread are known to `registry`; the ones before are not. Once per thread.
pub fn install(registry: Arc<Registry>) {
    LOCAL.with(|local| {
        local.get_or_init(|| Rc::new(Local::new(registry)));
    });
}

/// The number of the task that is polled right now; 0 = none that is known. Called from a signal's handler too, at any
/// moment: also when the thread ends and its own memory is gone.
pub fn current() -> u64 {
    LOCAL.try_with(|local| local.get().map_or(0, |local| local.registry().current().task)).unwrap_or(0)
}

/// Some units of work were done: a message handled, an event of an upstream read, a job of the background finished. What
/// moves bytes is counted by its bytes.
pub fn worked(units: u64) {
    LOCAL.with(|local| {
        if let Some(local) = local.get() {
            local.registry().worked(units);
        }
    });
}

/// A read or a write that moved something: a little work, however few bytes it were. Who sends one byte at a time keeps
/// the loop busy, but it does not spin.
pub fn moved() {
    LOCAL.with(|local| {
        if let Some(local) = local.get() {
            local.registry().moved();
        }
    });
}

/// So many bytes were read from an upstream; the ones of clients are in the row.
pub fn received(bytes: u64) {
    LOCAL.with(|local| {
        if let Some(local) = local.get() {
            local.registry().received(bytes);
        }
    });
}

/// Starts a task on this worker's event loop. `name` says what it does, for reports; the place it is called from is
/// written down too.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "this is the function that the ban points to")]
pub fn spawn<F>(name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(watched(name, Location::caller(), future))
}

/// Watches a future that is not spawned: the loop's own root.
#[track_caller]
pub fn root<F: Future>(name: &'static str, future: F) -> impl Future<Output = F::Output> {
    Watched { is_root: true, ..watched(name, Location::caller(), future) }
}

fn watched<F: Future>(name: &'static str, place: &'static Location<'static>, future: F) -> Watched<F> {
    let handle = LOCAL.with(|local| local.get().and_then(|local| Local::enter(local, name, place)));
    Watched { handle, is_root: false, future }
}

pin_project! {
    /// A future whose polls are watched.
    struct Watched<F> {
        handle: Option<Handle>,
        // It is polled whenever anything is, and so says nothing about who makes the loop turn.
        is_root: bool,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match this.handle {
            Some(handle) => {
                let _polling = handle.poll_begins();
                match rest::is_wanted() && !*this.is_root {
                    true => rest::poll(this.future, cx, poll_task),
                    false => poll_task(this.future, cx),
                }
            }
            None => this.future.poll(cx),
        }
    }
}

/// Not inlined: its frame tells a report where the runtime ends and the task begins.
#[inline(never)]
fn poll_task<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let polled = future.poll(cx);
    // Not a tail call either.
    std::hint::black_box(());
    polled
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_task_is_known_while_it_lives_with_its_name_place_polls_and_progress() {
        let registry = Arc::new(Registry::new());
        let seen = Arc::clone(&registry);
        let run = move || {
            install(Arc::clone(&seen));
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            tokio::task::LocalSet::new().block_on(&runtime, root("test", check(seen)));
        };
        // A thread of its own: the registry is the thread's.
        std::thread::spawn(run).join().expect("no panic");
        assert_eq!((registry.current().task, registry.alive()), (0, 0), "nothing is polled any more");
    }

    #[test]
    fn a_thread_that_ends_has_no_task_and_no_panic() {
        static ASKED: AtomicU64 = AtomicU64::new(u64::MAX);
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                ASKED.store(current(), Relaxed);
            }
        }
        thread_local! {
            static LATE: Late = const { Late };
        }
        // What a thread used first goes last.
        let run = || {
            LATE.with(|_| ());
            install(Arc::new(Registry::new()));
        };
        std::thread::spawn(run).join().expect("no panic");
        assert_eq!(ASKED.load(Relaxed), 0);
    }

    async fn check(registry: Arc<Registry>) {
        let task = spawn("test task", async {
            tokio::task::yield_now().await;
            worked(3);
            tokio::task::yield_now().await;
            std::future::pending::<()>().await;
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let facts = registry.snapshot();
        let known = facts.iter().find(|facts| facts.name == "test task").expect("it lives");
        assert_eq!((known.polls, known.place.file()), (3, file!()));
        assert!(known.last_poll_ns > 0 && known.progress_ns > 0 && registry.work() == 3, "{known:?}");
        assert!(current() != 0 && current() != known.id);
        task.abort();
        // Cancelled, as it was told.
        let _ = task.await;
        assert!(registry.snapshot().iter().all(|facts| facts.name != "test task"));
    }
}
