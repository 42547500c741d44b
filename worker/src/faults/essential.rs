//! What a worker cannot do without ends: the watchdog's own thread, the loop that accepts.
//!
//! These two run long before a fault is ordered, so each asks here whether it is to end; in other builds it does not.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::edge::serve::Port;

static WATCHDOG: AtomicBool = AtomicBool::new(false);
static ACCEPT: Notify = Notify::const_new();

/// Ends the watchdog's thread at its next look.
pub(super) fn without_a_watchdog() {
    WATCHDOG.store(true, Relaxed);
}

/// Ends the main accept loop.
pub(super) fn accepting_nobody() {
    ACCEPT.notify_one();
}

/// The watchdog's thread asks at each look.
pub(crate) fn end_watchdog_if_ordered() {
    assert!(!WATCHDOG.load(Relaxed), "the end of the watchdog was ordered");
}

/// An accept loop; the main one ends when it is ordered to.
pub(crate) async fn accepting(port: Port, run: impl Future<Output = ()>) {
    tokio::select! {
        () = run => {}
        () = ACCEPT.notified(), if port == Port::Main => panic!("the end of the accept loop was ordered"),
    }
}
