//! A look at a database that nothing is changed by: what can be said of it before a reload asks for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::migrate::BootError;

/// How every SQLite file begins (<https://www.sqlite.org/fileformat.html>, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What is to be said of a database.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing.
    Fine,
    /// It cannot be used now; it may be later, and the gateway serves without.
    Warning(String),
    /// It is another program's.
    Foreign(String),
}

/// Looks at `path`. A file that is not there yet is fine where it may be made (`is_new`).
pub(crate) async fn look(path: &Path, is_new: bool) -> Look {
    let away = |source: io::Error| {
        Look::Warning(format!(
            "DATABASE_URL: the registry database {} cannot be used now ({source}); MCP is served without, changes of the \
             registry wait for it",
            path.display()
        ))
    };
    match begins_like_sqlite(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => Look::Fine,
        Err(error) => away(error),
        Ok(()) if is_new && is_contextforges(path).await => {
            Look::Foreign(BootError::ContextForge(path.to_owned()).to_string())
        }
        Ok(()) => Look::Fine,
    }
}

/// True for a file that may be read and written and that SQLite wrote, or nobody.
fn begins_like_sqlite(path: &Path) -> io::Result<()> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // Before it is opened: a pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return invalid("it is not a regular file");
    }
    let mut file: File = OpenOptions::new().read(true).write(true).open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head)?;
    if head.is_empty() || head == MAGIC { Ok(()) } else { invalid("it is not a SQLite file") }
}

async fn is_contextforges(path: &Path) -> bool {
    // As if nobody ever wrote it: no lock is taken and no file is made beside it.
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let Ok(mut connection) = SqliteConnection::connect_with(&options).await else { return false };
    let found = super::migrate::has_alembic_version(&mut connection).await;
    // Nothing was written that could be lost.
    let _ = connection.close().await;
    found.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_database_is_a_warning_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("dir");
        let missing = dir.path().join("missing.db");
        assert_eq!(look(&missing, true).await, Look::Fine);
        assert!(matches!(look(&missing, false).await, Look::Warning(why) if why.contains("missing.db")));
        assert!(!missing.exists());
        let text = dir.path().join("text");
        std::fs::write(&text, "somebody's letter to somebody else").expect("write");
        assert!(matches!(look(&text, true).await, Look::Warning(why) if why.contains("not a SQLite file")));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        assert!(matches!(look(&pipe, true).await, Look::Warning(why) if why.contains("not a regular file")));
        let empty = dir.path().join("empty.db");
        std::fs::write(&empty, "").expect("write");
        assert_eq!(look(&empty, true).await, Look::Fine);
    }

    #[tokio::test]
    async fn contextforges_database_is_told_from_another_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("mcp.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.expect("made");
        sqlx::query("CREATE TABLE t (x)").execute(&mut connection).await.expect("table");
        assert_eq!(look(&path, true).await, Look::Fine);
        sqlx::query("CREATE TABLE alembic_version (x)").execute(&mut connection).await.expect("table");
        connection.close().await.expect("closed");
        let files = || std::fs::read_dir(dir.path()).expect("dir").count();
        let (before, bytes) = (files(), std::fs::read(&path).expect("read"));
        assert!(matches!(look(&path, true).await, Look::Foreign(why) if why.contains("ContextForge")));
        assert_eq!((files(), std::fs::read(&path).expect("read")), (before, bytes));
    }
}
