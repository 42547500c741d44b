//! The `migrate` child of `serve`: the one process that creates the database or changes its schema.
//!
//! It refuses ContextForge's own database before it touches it, brings the schema to this version, compiles the first
//! catalog, hands it to the master, says ready and leaves. Every failure is one `BootFailed` with a text for the operator.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forkgate_shared::control::{self, ControlError, ControlSocket, FromChild};
use forkgate_shared::settings::Settings;
use forkgate_shared::{log, memfd};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, SqliteConnection};

use super::{MIGRATE_LOCK_WAIT, RegistryError, connect_options, source};
use crate::catalog::compile::{Compiled, compile};
use crate::lifecycle::inherited;

/// An operator's text in a control message; the rest of the message is small.
const MAX_TEXT: usize = control::MAX_MESSAGE / 2;

/// Why the registry cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is ContextForge's.
    #[error(
        "DATABASE_URL points at {0}, which is ContextForge's own database (it has the table alembic_version). forkgate \
         keeps a registry of its own and did not touch it: give DATABASE_URL another file, for instance \
         sqlite:////var/lib/forkgate/registry.db, and register the upstreams there with POST /v1/gateways"
    )]
    ContextForge(PathBuf),
    /// The file or its directory cannot be made.
    #[error(
        "the registry database {path} cannot be created: {source}; check DATABASE_URL and who owns the directory"
    )]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// SQLite cannot open it.
    #[error("the registry database {path} cannot be opened: {source}; is it a SQLite file, and writable?")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// The schema cannot be brought up to date.
    #[error("the registry database {path} cannot be brought to this version's schema: {source}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: MigrateError,
    },
    /// The rows cannot be read or compiled.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No event loop, or no memory file.
    #[error("the migrate process cannot run: {0}")]
    System(#[from] io::Error),
    /// The master does not listen.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs the child; descriptors `CONTROL` and `SETTINGS`.
pub(crate) fn run() -> ExitCode {
    let (control, settings) = match inherited::control_and_settings() {
        Ok((control, settings)) => (ControlSocket::from_fd(control), settings),
        Err(error) => {
            eprintln!("forkgate migrate is a part of `forkgate serve` and not for use by hand ({error})");
            return ExitCode::from(64);
        }
    };
    let result = Settings::from_fd(settings)
        .map_err(BootError::System)
        .and_then(|settings| serve(&control, &settings));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = error.to_string();
            message.truncate(message.floor_char_boundary(MAX_TEXT));
            // Without a master there is nobody to tell.
            let _ = control.send(&FromChild::BootFailed { message }, None);
            ExitCode::FAILURE
        }
    }
}

fn serve(control: &ControlSocket, settings: &Settings) -> Result<(), BootError> {
    // The master has opened it; without it lines go to stderr.
    let _ = log::to_file(settings.log_file.as_deref(), log::Links::Followed);
    log::init(settings.log_format, &settings.log_level, "migrate");
    control.send(&FromChild::Hello { version: control::VERSION }, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let compiled = runtime.block_on(prepare(&settings.database, &settings.tool_name_separator))?;
    for collision in &compiled.collisions {
        tracing::warn!(name = %collision.name, upstream = %collision.upstream,
            "two items have this name; the one that was registered first has it");
    }
    let fd = memfd::immutable("forkgate-catalog", &compiled.bytes)?;
    control.send(&FromChild::Catalog { generation: compiled.generation }, Some(fd.as_fd()))?;
    control.send(&FromChild::Ready, None)?;
    Ok(())
}

/// Makes the file at `path` ready and compiles what is in it.
pub(super) async fn prepare(path: &Path, separator: &str) -> Result<Compiled, BootError> {
    create(path).map_err(|source| BootError::Create { path: path.to_owned(), source })?;
    let open = |source| BootError::Open { path: path.to_owned(), source };
    if belongs_to_contextforge(path).await.map_err(open)? {
        return Err(BootError::ContextForge(path.to_owned()));
    }
    let mut connection =
        SqliteConnection::connect_with(&connect_options(path, MIGRATE_LOCK_WAIT)).await.map_err(open)?;
    migrator()
        .run(&mut connection)
        .await
        .map_err(|source| BootError::Migrate { path: path.to_owned(), source })?;
    let compiled = compile_all(&mut connection, separator).await?;
    // Closing writes the log back into the file; a failure to do so loses nothing.
    let _ = connection.close().await;
    Ok(compiled)
}

/// Compiles everything. Another separator than before makes other names, which is a change like any other.
async fn compile_all(connection: &mut SqliteConnection, separator: &str) -> Result<Compiled, RegistryError> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "UPDATE meta SET tool_name_separator = $1, generation = generation + 1 \
         WHERE id = 1 AND tool_name_separator <> $1",
    )
    .bind(separator)
    .execute(&mut *tx)
    .await?;
    let compiled = compile(&source::load(&mut tx).await?)?;
    tx.commit().await?;
    Ok(compiled)
}

/// This version's schema. A database that a newer version has migrated is served too: schemas stay readable for the
/// version before.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator
}

/// Makes the file, readable by its owner only because it holds credentials, and its directory; nothing when it is there.
fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

/// Looks without changing anything: no journal mode is set, nothing is written.
async fn belongs_to_contextforge(path: &Path) -> Result<bool, sqlx::Error> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let found = has_alembic_version(&mut connection).await?;
    connection.close().await?;
    Ok(found)
}

/// True for a database that ContextForge keeps its schema in.
pub(super) async fn has_alembic_version(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
    )
    .fetch_one(connection)
    .await?;
    Ok(found > 0)
}
