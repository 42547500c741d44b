//! What a worker finds out about itself for a report.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use forkgate_shared::memfd;
use forkgate_shared::report::Inside;
use forkgate_shared::rows::Rows;
use forkgate_shared::verdict::Verdict;

use crate::lifecycle::task;

/// What there is to look at, and how long.
#[expect(dead_code, reason = "read by the steps of the report")]
pub struct Context {
    /// The tasks of the loop.
    pub registry: Arc<task::Registry>,
    /// All rows.
    pub rows: Arc<Rows>,
    /// This worker's.
    pub row: usize,
    /// The loop's thread.
    pub loop_tid: i32,
    /// When it must be done.
    pub deadline: Instant,
}

/// Writes it into a sealed memfd, as JSON.
pub(super) fn write(_verdict: Verdict, _context: &Context) -> io::Result<OwnedFd> {
    memfd::immutable("forkgate-report", &serde_json::to_vec(&Inside::default())?)
}
