//! The one function that starts tasks.

use std::future::Future;

/// Starts a task on this worker's event loop. `name` says what it does, for reports.
#[expect(clippy::disallowed_methods, reason = "this is the function that the ban points to")]
pub fn spawn<F>(_name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(future)
}
