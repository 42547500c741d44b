//! Notices a newer generation that nobody told this worker about: a message lost with a killed worker, or a change made
//! by another gateway on the same file.
//!
//! The file is only asked when it changed: a worker that nobody administers holds no connection.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt as _;

use super::publish::publish;
use super::{RegistryError, source};
use crate::catalog::compile::Compiled;
use crate::gateway::Shared;

/// How often the file is looked at, plus up to [`JITTER`] so that workers do not do it together.
const INTERVAL: Duration = Duration::from_secs(5);
const JITTER: Duration = Duration::from_secs(1);

/// What tells one state of the database file from another: inode, size and time of change of the file, and of its
/// write-ahead log unless that is empty (opening and closing the database makes and removes an empty one).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl Stamp {
    /// Asks the file system: not on the event loop.
    fn of(path: &Path) -> Stamp {
        let facts =
            |metadata: Metadata| (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        let log = PathBuf::from(format!("{}-wal", path.display()));
        let log = std::fs::metadata(log).ok().filter(|metadata| metadata.size() > 0);
        Stamp([std::fs::metadata(path).ok().map(facts), log.map(facts)])
    }

    fn exists(&self) -> bool {
        self.0[0].is_some()
    }
}

/// Runs for the worker's life.
pub async fn watch(gateway: Shared) {
    let mut seen = None;
    let mut failing = false;
    loop {
        let jitter = rand::rng().random_range(Duration::ZERO..JITTER);
        tokio::time::sleep(INTERVAL + jitter).await;
        let path = gateway.registry.path().to_owned();
        let stamp = gateway.registry.aside.look(move || Ok(Stamp::of(&path))).await;
        let Some(stamp) = stamp.ok().filter(Stamp::exists) else {
            seen = None;
            if !std::mem::replace(&mut failing, true) {
                let path = gateway.registry.path().display();
                tracing::warn!(%path, "the registry database is away; serving on from the last catalog");
            }
            continue;
        };
        if seen.as_ref() == Some(&stamp) {
            continue;
        }
        match look(&gateway).await {
            Ok(newer) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the registry database is back");
                }
                seen = Some(stamp);
                if let Some(compiled) = newer
                    && let Err(error) = publish(&gateway, &compiled)
                {
                    tracing::error!(%error, generation = compiled.generation, "a catalog was not published");
                    seen = None;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the registry database cannot be read; serving on from the last catalog");
                }
            }
        }
    }
}

/// The catalog of the database when it is newer than the one served.
async fn look(gateway: &Shared) -> Result<Option<Compiled>, RegistryError> {
    let mut tx = gateway.registry.pool().await?.begin().await?;
    let served = gateway.catalog.load().generation;
    if source::generation(&mut tx).await? <= served {
        return Ok(None);
    }
    let rows = source::load(&mut tx).await?;
    drop(tx);
    Ok(Some(source::compile_aside(rows).await?))
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    fn an_empty_log_is_no_change_and_a_written_one_is() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        assert!(!Stamp::of(&path).exists());
        std::fs::write(&path, b"x").expect("write");
        let quiet = Stamp::of(&path);
        let log = dir.path().join("registry.db-wal");
        std::fs::write(&log, b"").expect("write");
        assert_eq!(Stamp::of(&path), quiet);
        std::fs::write(&log, b"frame").expect("write");
        assert_ne!(Stamp::of(&path), quiet);
    }
}
