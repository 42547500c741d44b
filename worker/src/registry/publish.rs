//! From a compiled catalog to every worker: a sealed memfd over the control socket, and at once to the own worker.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::control::ControlError;
use forkgate_shared::memfd;
use forkgate_shared::rows::RowState;

use crate::catalog::compile::Compiled;
use crate::catalog::{Catalog, SnapshotError};
use crate::gateway::{Gateway, Shared};

/// The promise of the admin API: a change is live on every worker within this time, so an answer waits no longer.
const EVERYWHERE_WITHIN: Duration = Duration::from_millis(100);
/// How often the rows are looked at meanwhile; a worker maps a new catalog within a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Why a committed change could not be published. The file's watch tries again within seconds.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No memory file.
    #[error("the catalog cannot be put into shared memory: {0}")]
    Memory(#[from] io::Error),
    /// The master does not listen.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What was compiled cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Hands a catalog to the master, which passes it on, and serves from it here. An older one than is served changes
/// nothing here.
pub fn publish(gateway: &Shared, compiled: &Compiled) -> Result<(), PublishError> {
    let fd = memfd::immutable("forkgate-catalog", &compiled.bytes)?;
    let catalog = Catalog::from_snapshot(Bytes::from_owner(memfd::Bytes::open(&fd)?))?;
    if catalog.generation > gateway.catalog.load().generation {
        let generation = catalog.generation;
        gateway.catalog.store(Arc::new(catalog));
        gateway.row().catalog_generation.store(generation, Relaxed);
    }
    gateway.control.publish_catalog(compiled.generation, fd.as_fd())?;
    Ok(())
}

/// Waits until every serving worker has reached `generation`, 100 ms at most; false when one had not.
pub async fn everywhere(gateway: &Shared, generation: u64) -> bool {
    let reached = async {
        while !reached(gateway, generation) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(EVERYWHERE_WITHIN, reached).await.is_ok()
}

fn reached(gateway: &Gateway, generation: u64) -> bool {
    gateway
        .rows
        .iter()
        .filter(|row| RowState::from_u32(row.state.load(Relaxed)) == RowState::Serving)
        .all(|row| row.catalog_generation.load(Relaxed) >= generation)
}
