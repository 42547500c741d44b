//! What a request can reach: one value per worker, shared by reference count within its one thread.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use forkgate_shared::rows::{Row, Rows};
use forkgate_shared::sessions::Sessions;
use forkgate_shared::settings::Settings;

use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::control::Control;
use crate::registry::Registry;
use crate::upstream::Upstreams;

/// A worker's parts.
pub struct Gateway {
    /// The effective settings; a reload makes new workers, it does not change these.
    pub settings: Arc<Settings>,
    /// All rows of shared memory.
    pub rows: Arc<Rows>,
    /// Index of this worker's own row.
    pub row_index: usize,
    /// The catalog of the newest generation that has arrived.
    pub catalog: ArcSwap<Catalog>,
    /// Who may come in.
    pub auth: Authenticator,
    /// Sealed legacy sessions.
    pub sessions: Sessions,
    /// Connections to upstreams.
    pub upstreams: Upstreams,
    /// The database, opened when an administrator first needs it.
    pub registry: Registry,
    /// Serving or draining.
    pub lifecycle: Lifecycle,
    /// The line to the master.
    pub control: Rc<Control>,
}

/// How the gateway is passed around: everything of a worker runs on one thread.
pub type Shared = Rc<Gateway>;

impl Gateway {
    /// This worker's own row.
    pub fn row(&self) -> &Row {
        self.rows.row(self.row_index)
    }
}
