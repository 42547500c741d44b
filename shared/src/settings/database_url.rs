//! `DATABASE_URL`: SQLAlchemy's and sqlx's spellings of an SQLite file. Other databases are refused by name.

use std::path::{Path, PathBuf};

/// Why a database URL is refused. No variant carries the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Another database than SQLite.
    #[error(
        "{0} is not supported in this version, only SQLite is: write sqlite:////absolute/path.db, or unset it"
    )]
    NotSqlite(&'static str),
    /// A database that lives in one process.
    #[error("a database in memory cannot be shared by several workers; write sqlite:////absolute/path.db")]
    InMemory,
    /// No `sqlite:` in front.
    #[error("not a database URL")]
    NotAUrl,
}

/// Databases that people come with, by the scheme of the URL up to its driver (`postgresql+psycopg`).
const OTHERS: [(&str, &str); 7] = [
    ("postgresql", "PostgreSQL"),
    ("postgres", "PostgreSQL"),
    ("mysql", "MySQL"),
    ("mariadb", "MariaDB"),
    ("oracle", "Oracle"),
    ("mssql", "SQL Server"),
    ("redis", "Redis"),
];

/// The file that a URL names; a relative one is relative to the working directory, as in SQLAlchemy.
///
/// `sqlite:///./mcp.db` and `sqlite:///mcp.db` are relative, `sqlite:////var/lib/mcp.db` is absolute; a driver
/// (`sqlite+aiosqlite:`) and a query (`?timeout=5`) are accepted and mean nothing here.
pub fn parse(url: &str) -> Result<PathBuf, DatabaseUrlError> {
    let (scheme, rest) = url.split_once(':').ok_or(DatabaseUrlError::NotAUrl)?;
    let scheme = scheme.to_ascii_lowercase();
    let database = scheme.split('+').next().unwrap_or_default();
    if let Some((_, name)) = OTHERS.iter().find(|(known, _)| *known == database) {
        return Err(DatabaseUrlError::NotSqlite(name));
    }
    if database != "sqlite" {
        return Err(DatabaseUrlError::NotAUrl);
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = match rest.strip_prefix("//") {
        Some(after_authority) => after_authority.strip_prefix('/').unwrap_or(after_authority),
        None => rest,
    };
    if path.is_empty() || path.contains(":memory:") {
        return Err(DatabaseUrlError::InMemory);
    }
    let path = Path::new(path).strip_prefix("./").unwrap_or(Path::new(path));
    std::path::absolute(path).map_err(|_| DatabaseUrlError::NotAUrl)
}

/// The URL of a file, as [`parse`] reads it.
pub fn show(path: &Path) -> String {
    format!("sqlite:///{}", path.display())
}

/// A URL without what may be secret: everything after the scheme.
pub fn masked(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if !scheme.starts_with("sqlite") => format!("{scheme}://*****"),
        Some(_) => url.to_owned(),
        None if url.starts_with("sqlite:") => url.to_owned(),
        None => "*****".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_an_sqlite_file_are_read() {
        let here = std::env::current_dir().expect("working directory");
        for (url, path) in [
            ("sqlite:///./mcp.db", here.join("mcp.db")),
            ("sqlite:///mcp.db", here.join("mcp.db")),
            ("sqlite://mcp.db", here.join("mcp.db")),
            ("sqlite:mcp.db", here.join("mcp.db")),
            ("sqlite:////var/lib/mcp.db", PathBuf::from("/var/lib/mcp.db")),
            ("sqlite+aiosqlite:////var/lib/mcp.db", PathBuf::from("/var/lib/mcp.db")),
            ("sqlite+aiosqlite:///./data/mcp.db?timeout=5", here.join("data/mcp.db")),
            ("SQLite:////a.db", PathBuf::from("/a.db")),
        ] {
            assert_eq!(parse(url), Ok(path.clone()), "{url}");
            assert_eq!(parse(&show(&path)), Ok(path), "{url} shown");
        }
    }

    #[test]
    fn other_databases_are_refused_by_name_and_their_passwords_hidden() {
        for url in
            ["postgresql+psycopg://u:secret@db/mcp", "postgres://u@db/mcp", "mysql+pymysql://u:p@db/mcp"]
        {
            let refused = parse(url).expect_err("refused").to_string();
            assert!(refused.contains("SQLite"), "{url}: {refused}");
        }
        assert_eq!(masked("postgresql+psycopg://u:secret@db/mcp"), "postgresql+psycopg://*****");
        assert_eq!(parse("sqlite://"), Err(DatabaseUrlError::InMemory));
        assert_eq!(parse("sqlite:///:memory:"), Err(DatabaseUrlError::InMemory));
        assert_eq!(parse("/var/lib/mcp.db"), Err(DatabaseUrlError::NotAUrl));
        assert_eq!(parse("http://x"), Err(DatabaseUrlError::NotAUrl));
    }
}
