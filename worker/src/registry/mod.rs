//! The database: what is registered. Read and changed by administrators, never by the hot path.
//!
//! Invariants: every change adds one to the generation in its own transaction, compiles the catalog inside it (so a
//! change that cannot be served is never committed) and publishes after the commit. A worker opens the file when it first
//! needs it and closes it when idle; it starts and serves while the file is away.

mod aside;
pub mod change;
pub mod credentials;
pub(crate) mod look;
pub mod migrate;
pub mod publish;
pub mod records;
mod source;
#[cfg(test)]
mod tests;
mod watch;

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forkgate_shared::settings::Settings;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use source::{compile_aside, generation, load};
pub use watch::watch;

use aside::Aside;

use crate::lifecycle::task;

/// How long a change waits for a lock that another process holds: enough for the changes of a few other workers, short
/// enough that an administrator is told at once when a backup or an open `sqlite3` holds it.
const LOCK_WAIT: Duration = Duration::from_millis(250);
/// How long the `migrate` child waits for one: nobody is looking on, and without it nothing starts.
const MIGRATE_LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long a request waits for a connection, or a change for its turn in this worker: a few changes of thousands of
/// rows each, which hold both while they compile.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(6);
/// Connections per worker: one that writes, one that reads meanwhile.
const MAX_CONNECTIONS: u32 = 2;
/// An idle connection costs a thread and its page cache; administrators come in bursts.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Registrations at a time per worker: each holds an upstream's whole catalog in memory.
const MAX_REGISTRATIONS: usize = 4;
/// How long a registration waits for its turn; what a script that registers many at once should not notice.
const REGISTRATION_TURN: Duration = Duration::from_secs(15);

/// Why the registry cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file cannot be reached.
    #[error(
        "the registry database {path} is away ({source}); the gateway serves on from its last catalog, changes are \
         possible again as soon as the file is back"
    )]
    Away {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody holds the lock for longer than [`LOCK_WAIT`].
    #[error(
        "the registry database is being changed by somebody else, who holds its lock; nothing was changed, try again"
    )]
    Locked,
    /// SQLite failed.
    #[error("the registry database failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The rows cannot be compiled.
    #[error("the registry cannot be compiled into a catalog: {0}")]
    Compile(#[from] crate::catalog::compile::CompileError),
    /// The system gives no thread for it.
    #[error("the registry cannot be compiled into a catalog: no thread for it: {0}")]
    NoCompiler(#[source] io::Error),
    /// A panic in the compiler.
    #[error("the registry cannot be compiled into a catalog: the compiler broke off, see the log")]
    CompilerDied,
    /// A stored value is not what this program stored.
    #[error("the registry holds a damaged value in {0}")]
    Damaged(&'static str),
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        // https://www.sqlite.org/rescode.html: 5 SQLITE_BUSY, 6 SQLITE_LOCKED, and their extended codes.
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        match code.map(|code| code & 0xff) {
            Some(5 | 6) => RegistryError::Locked,
            _ if matches!(error, sqlx::Error::PoolTimedOut) => RegistryError::Locked,
            _ => RegistryError::Database(error),
        }
    }
}

/// The database, opened on first use.
pub struct Registry {
    path: PathBuf,
    separator: String,
    open: RefCell<Option<Open>>,
    registrations: Semaphore,
    aside: Aside,
    /// Changes of this worker queue here: two of them would only take the lock from other workers.
    changing: Semaphore,
}

struct Open {
    pool: SqlitePool,
    /// Device and inode: a file that was replaced is another database.
    file: (u64, u64),
}

impl Registry {
    /// Opens nothing yet.
    pub fn new(settings: &Arc<Settings>) -> Registry {
        Registry {
            path: settings.database.clone(),
            separator: settings.tool_name_separator.clone(),
            open: RefCell::new(None),
            registrations: Semaphore::new(MAX_REGISTRATIONS),
            aside: Aside::new(),
            changing: Semaphore::new(1),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stands between slug and name at the federated endpoint.
    pub fn separator(&self) -> &str {
        &self.separator
    }

    /// Leave to fetch an upstream's catalog; none when others have not made room in time.
    pub(crate) async fn begin_registration(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(REGISTRATION_TURN, self.registrations.acquire()).await.ok()?.ok()
    }

    /// The turn to change something, among the changes of this worker.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, RegistryError> {
        let turn = tokio::time::timeout(ACQUIRE_TIMEOUT, self.changing.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(RegistryError::Locked)
    }

    /// Connections to the file that is there now.
    pub(crate) async fn pool(&self) -> Result<SqlitePool, RegistryError> {
        let path = self.path.clone();
        let file = match self.aside.look(move || std::fs::metadata(path)).await {
            Ok(metadata) => (metadata.dev(), metadata.ino()),
            Err(source) => {
                self.forget();
                return Err(RegistryError::Away { path: self.path.clone(), source });
            }
        };
        if let Some(open) = &*self.open.borrow()
            && open.file == file
        {
            return Ok(open.pool.clone());
        }
        self.forget();
        let pool = SqlitePoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .connect_lazy_with(connect_options(&self.path, LOCK_WAIT));
        self.open.replace(Some(Open { pool: pool.clone(), file }));
        Ok(pool)
    }

    fn forget(&self) {
        if let Some(open) = self.open.take() {
            task::spawn("registry close", async move { open.pool.close().await });
        }
    }
}

/// How every process opens the file; a lock that another one holds is waited for as long as `lock_wait`. The file is never created here: that is the `migrate` child's business.
pub(crate) fn connect_options(path: &Path, lock_wait: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(lock_wait)
}
