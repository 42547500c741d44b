//! How a worker leaves.
//!
//! | order | listeners | limit |
//! |---|---|---|
//! | drain | copies closed at once: the queue belongs to the master and the replacement | graceful timeout |
//! | step aside | copies closed at once: the standby has the queue | none: the next order decides, a suspect stays until then |
//! | retire | accept until the queue is empty, then closed: the kernel chooses others already | graceful timeout |
//! | orphan | accept until the queue is empty, closed at once: nobody else holds this queue | orphan timeout |
//! | quit | copies closed at once | the requests under way have most of a second; idle connections are cut |
//!
//! When no listener is left the drain begins; also when emptying takes long, because the process is out of descriptors: those
//! of connections that go are what it waits for. With an heir (an order to drain or to retire that is no end of the service)
//! connections move to it as soon as they are at rest; without one answers announce the close and idle connections have a
//! grace for one more request. Streams end in their own way. The worker leaves when nothing is open
//! and no call of a client that hung up runs any more, and at the limit in any case: a moment before it, whoever waits for
//! an answer is told that there will be none ([`super::leaving`]).

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::rows::RowState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::{NewCatalog, Order, Orders};
use super::leaving::{self, Due, LeavingTime};
use super::succession::Succession;
use crate::catalog::{Catalog, SnapshotError};
use crate::gateway::{Gateway, Shared};
use crate::net::accept::Accepting;

/// The worker ends this much before the limit at which the master kills it.
const HARD_END_MARGIN: Duration = Duration::from_millis(250);

/// For ending the sessions with upstreams; within [`HARD_END_MARGIN`].
const FAREWELLS: Duration = Duration::from_millis(200);

/// What a quick end gives the requests under way; the master kills after two seconds.
const QUICK_END: Duration = Duration::from_millis(650);

/// What a quick end gives the answers to those that did not make it.
const QUICK_LAST_WORDS: Duration = Duration::from_millis(150);

/// What the accept loops have before connections are let go although clients wait in a queue; emptying one takes
/// milliseconds.
const EMPTYING: Duration = Duration::from_secs(1);

/// How often a quick end looks whether requests are still under way.
const QUICK_LOOK: Duration = Duration::from_millis(10);

/// The accept loops and what they are told.
pub(super) struct Doors {
    /// To all loops.
    pub(super) orders: watch::Sender<Accepting>,
    /// One per listener.
    pub(super) loops: Vec<JoinHandle<()>>,
    /// Where clients come from when their worker leaves, and where they go when this one does.
    pub(super) succession: Succession,
}

/// What an order means for the worker as a whole.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Serve,
    /// Let clients go.
    StepAside,
    /// Be gone within this time.
    Leave(Duration),
    /// Be gone.
    Quit,
}

/// Follows the master's orders until it is time to leave, then leaves.
pub(super) async fn serve_until_told(gateway: &Shared, orders: Orders, doors: Doors) -> ExitCode {
    follow(gateway, orders, doors).await;
    // At a hard end little is left of the time; a session that is not ended upstream expires there.
    let _ = tokio::time::timeout(FAREWELLS, gateway.upstreams.close()).await;
    ExitCode::SUCCESS
}

/// Returns when nothing is open any more, or the time to finish is over.
async fn follow(gateway: &Shared, mut orders: Orders, doors: Doors) {
    let Doors { orders: accepting, mut loops, succession } = doors;
    let mut aside = false;
    let limit = loop {
        let order = tokio::select! {
            () = close_doors(gateway, &mut loops), if aside && !loops.is_empty() => continue,
            order = orders.next() => order.unwrap_or(Order::Orphan),
        };
        match obey(gateway, &accepting, &succession, order) {
            Next::Serve => {}
            Next::StepAside => {
                aside = true;
                succession.enough();
                step_aside(gateway);
            }
            Next::Leave(limit) => break limit,
            Next::Quit => return finish_quickly(gateway).await,
        }
    };
    let mut time = LeavingTime::new(limit);
    time.show(gateway);
    let mut leaving = pin!(leave(gateway, &succession, loops));
    let mut connected = true;
    loop {
        tokio::select! {
            () = &mut leaving => {
                tracing::info!("drained");
                return;
            }
            due = time.due() => match due {
                Due::Half => time.report_half(gateway),
                Due::LastWords => gateway.lifecycle.say_last_words(),
                Due::End => return leaving::report_cut_off(gateway),
            },
            order = orders.next(), if connected => {
                connected = order.is_some();
                match obey(gateway, &accepting, &succession, order.unwrap_or(Order::Orphan)) {
                    Next::Serve | Next::StepAside => {}
                    Next::Leave(limit) => {
                        time.at_most(limit);
                        time.show(gateway);
                    }
                    Next::Quit => return finish_quickly(gateway).await,
                }
            }
        }
    }
}

/// Waits until no request is under way, standing streams excepted, or the time for that is over; then the others are told.
async fn finish_quickly(gateway: &Gateway) {
    let row = gateway.row();
    wait_within(QUICK_END, || row.in_flight.load(Relaxed) <= gateway.lifecycle.standing_streams()).await;
    // Nobody moves any more: with the service the heir goes too.
    gateway.lifecycle.drain(None);
    gateway.lifecycle.say_last_words();
    wait_within(QUICK_LAST_WORDS, || row.in_flight.load(Relaxed) == 0).await;
}

async fn wait_within(limit: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() && Instant::now() < deadline {
        tokio::time::sleep(QUICK_LOOK).await;
    }
}

/// Carries out an order as far as it is done at once.
fn obey(
    gateway: &Gateway,
    accepting: &watch::Sender<Accepting>,
    succession: &Succession,
    order: Order,
) -> Next {
    let graceful = gateway.settings.graceful_timeout;
    let (doors, next) = match order {
        Order::Catalog(catalog) => {
            apply_catalog(gateway, &catalog);
            return Next::Serve;
        }
        Order::Predecessor(line) => {
            succession.take_over(line);
            return Next::Serve;
        }
        Order::Heir(line) => {
            succession.named(line);
            return Next::Serve;
        }
        Order::Quit => {
            tell(accepting, Accepting::Closed);
            return Next::Quit;
        }
        Order::StepAside => {
            tell(accepting, Accepting::Closed);
            return Next::StepAside;
        }
        Order::Drain => (Accepting::Closed, graceful.saturating_sub(HARD_END_MARGIN)),
        Order::Retire => (Accepting::Emptying, graceful.saturating_sub(HARD_END_MARGIN)),
        Order::Orphan => (Accepting::Emptying, gateway.settings.orphan_timeout),
    };
    tracing::info!(?order, open = gateway.lifecycle.connections().count(), "leaving");
    tell(accepting, doors);
    Next::Leave(next)
}

/// Tells the accept loops; a milder order than one given before changes nothing.
fn tell(accepting: &watch::Sender<Accepting>, order: Accepting) {
    accepting.send_if_modified(|current| {
        let stronger = order > *current;
        *current = order.max(*current);
        stronger
    });
}

/// Answers announce the close, idle connections have their grace, streams end; the worker itself stays.
fn step_aside(gateway: &Gateway) {
    tracing::info!(open = gateway.lifecycle.connections().count(), "stepping aside");
    gateway.lifecycle.drain(None);
}

/// Waits for the accept loops, which close their copies of the listeners; then the row says so, and not before: the master
/// takes it for that. May be dropped while it waits.
async fn close_doors(gateway: &Gateway, loops: &mut Vec<JoinHandle<()>>) {
    while let Some(accept) = loops.last_mut() {
        if let Err(error) = accept.await {
            tracing::error!(%error, "an accept loop failed");
        }
        loops.pop();
    }
    gateway.row().state.store(RowState::Draining as u32, Relaxed);
}

/// Waits for the accept loops, begins the drain, resolves when nothing is open.
async fn leave(gateway: &Gateway, succession: &Succession, mut loops: Vec<JoinHandle<()>>) {
    let in_time = tokio::time::timeout(EMPTYING, close_doors(gateway, &mut loops)).await.is_ok();
    let heir = succession.heir(gateway);
    if heir.is_none() {
        succession.enough();
    }
    gateway.lifecycle.drain(heir);
    if !in_time {
        close_doors(gateway, &mut loops).await;
    }
    loop {
        gateway.lifecycle.all_over().await;
        // What comes at the last moment is served too.
        if !succession.stopped().await {
            return;
        }
    }
}

/// Swaps the catalog for a newer one. One that cannot be read is reported; the worker goes on with what it has.
fn apply_catalog(gateway: &Gateway, new: &NewCatalog) {
    let generation = new.generation;
    if generation <= gateway.catalog.load().generation {
        return;
    }
    match read_catalog(&new.memfd) {
        Ok(catalog) => {
            gateway.row().catalog_generation.store(catalog.generation, Relaxed);
            gateway.catalog.store(Arc::new(catalog));
            tracing::debug!(generation, "catalog swapped");
        }
        Err(error) => {
            tracing::error!(generation, %error, "the new catalog cannot be used; the old one stays")
        }
    }
}

/// A snapshot cannot be mapped or is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogError {
    /// No sealed memfd.
    #[error("the catalog cannot be mapped: {0}")]
    Unmappable(#[from] std::io::Error),
    /// Other bytes than a snapshot's.
    #[error("the catalog cannot be read: {0}")]
    Unreadable(#[from] SnapshotError),
}

/// Maps a snapshot; its lists are borrowed from the mapping.
pub(super) fn read_catalog(memfd: &OwnedFd) -> Result<Catalog, CatalogError> {
    let bytes = Bytes::from_owner(forkgate_shared::memfd::Bytes::open(memfd)?);
    Ok(Catalog::from_snapshot(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::lifecycle::task;

    #[test]
    fn a_milder_order_does_not_take_back_a_stronger_one() {
        let (accepting, mut seen) = watch::channel(Accepting::Open);
        tell(&accepting, Accepting::Emptying);
        assert_eq!(*seen.borrow_and_update(), Accepting::Emptying);
        tell(&accepting, Accepting::Closed);
        tell(&accepting, Accepting::Emptying);
        assert_eq!(*seen.borrow_and_update(), Accepting::Closed);
    }

    #[test]
    fn who_steps_aside_says_that_it_drains_when_its_copies_are_closed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (gateway, _master, _state) = fixtures::gateway(|_| {});
            let state = || RowState::from_u32(gateway.row().state.load(Relaxed));
            gateway.row().state.store(RowState::Serving as u32, Relaxed);
            let (sender, orders) = Orders::channel();
            let (accepting, mut told) = watch::channel(Accepting::Open);
            let (close, closed) = tokio::sync::oneshot::channel::<()>();
            // One loop is held up by what its turn does.
            let slow = task::spawn("slow accept loop", async move { drop(closed.await) });
            let prompt = task::spawn("accept loop", async {});
            let following = Shared::clone(&gateway);
            let succession = Succession::new(Vec::new());
            let doors = Doors { orders: accepting, loops: vec![slow, prompt], succession };
            let follows = task::spawn("follow", async move { follow(&following, orders, doors).await });
            sender.send(Order::StepAside).await.expect("it listens");
            told.wait_for(|order| *order == Accepting::Closed).await.expect("it lives");
            gateway.lifecycle.drained_from().await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert_eq!(state(), RowState::Serving, "a copy is open");
            close.send(()).expect("it waits");
            while state() != RowState::Draining {
                tokio::task::yield_now().await;
            }
            assert!(!follows.is_finished(), "the next order decides");
            sender.send(Order::Drain).await.expect("it listens");
            follows.await.expect("no panic");
        });
    }

    #[tokio::test]
    async fn a_quick_end_waits_for_calls_that_have_become_streams_and_not_for_standing_ones() {
        let (gateway, _master, _state) = fixtures::gateway(|_| {});
        let row = gateway.row();
        row.in_flight.store(2, Relaxed);
        row.streams.store(2, Relaxed);
        gateway.lifecycle.standing_stream_opened();
        let mut last_words = gateway.lifecycle.last_words();
        let begun = Instant::now();
        let scene = async {
            last_words.due().await;
            begun.elapsed()
        };
        let ((), waited) = tokio::join!(finish_quickly(&gateway), scene);
        assert!(waited >= QUICK_END, "one of them is a call: {waited:?}");
    }

    #[test]
    fn connections_are_let_go_although_a_queue_cannot_be_emptied() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (gateway, _master, _state) = fixtures::gateway(|_| {});
            gateway.row().state.store(RowState::Serving as u32, Relaxed);
            let (close, closed) = tokio::sync::oneshot::channel::<()>();
            let exhausted = task::spawn("accept loop without descriptors", async move { drop(closed.await) });
            let succession = Succession::new(Vec::new());
            let scene = async {
                gateway.lifecycle.drained_from().await;
                assert!(gateway.lifecycle.announces_close());
                assert_eq!(gateway.row().state.load(Relaxed), RowState::Serving as u32, "a copy is open");
                close.send(()).expect("it waits");
            };
            tokio::join!(leave(&gateway, &succession, vec![exhausted]), scene);
            assert_eq!(gateway.row().state.load(Relaxed), RowState::Draining as u32);
        });
    }
}
