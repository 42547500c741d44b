//! How many connections are open to each upstream, in this worker's row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use forkgate_shared::rows::{Rows, UPSTREAMS};

/// Where this worker's connections are counted.
#[derive(Clone)]
pub struct ConnectionGauge {
    rows: Arc<Rows>,
    row_index: usize,
}

/// One open connection; counted until it is dropped.
pub struct CountedConnection {
    gauge: ConnectionGauge,
    index: usize,
}

impl ConnectionGauge {
    /// The gauges of row `row_index`.
    pub fn new(rows: Arc<Rows>, row_index: usize) -> ConnectionGauge {
        ConnectionGauge { rows, row_index }
    }

    /// A connection to the upstream with this interned index has been opened.
    pub fn opened(&self, index: usize) -> CountedConnection {
        let index = index.min(UPSTREAMS - 1);
        self.cell(index).fetch_add(1, Relaxed);
        CountedConnection { gauge: self.clone(), index }
    }

    fn cell(&self, index: usize) -> &AtomicU64 {
        &self.rows.row(self.row_index).upstream_connections.0[index]
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.gauge.cell(self.index).fetch_sub(1, Relaxed);
    }
}
