//! Files as a whole or not at all: written beside their name, then renamed to it. So a program that runs can be replaced,
//! and who reads a unit never sees half of one.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::InstallError;

/// Writes a file with its mode and, where one is given, its group; replaces what is there.
pub(super) fn file(
    path: &Path,
    from: &mut impl Read,
    mode: u32,
    group: Option<u32>,
) -> Result<(), InstallError> {
    let failed = |source| InstallError::File { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut draft = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    io::copy(from, draft.as_file_mut()).map_err(failed)?;
    // The owner first: chown(2) takes some bits of a mode away.
    if let Some(group) = group {
        chown(draft.path(), Some(0), Some(group)).map_err(failed)?;
    }
    fs::set_permissions(draft.path(), Permissions::from_mode(mode)).map_err(failed)?;
    draft.as_file().sync_all().map_err(failed)?;
    draft.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Makes a directory with those above it; gives the ones that were not there, the outermost first.
pub(super) fn directory(path: &Path, mode: u32) -> Result<Vec<PathBuf>, InstallError> {
    let failed = |source| InstallError::File { path: path.to_owned(), source };
    let mut missing: Vec<PathBuf> =
        path.ancestors().take_while(|above| !above.exists()).map(Path::to_path_buf).collect();
    missing.reverse();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    if missing.last().is_some_and(|made| made == path) {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(missing)
}

/// Gives a directory to a group, its mode as it was.
pub(super) fn group(path: &Path, group: Option<u32>) -> Result<(), InstallError> {
    match group {
        Some(group) => chown(path, Some(0), Some(group))
            .map_err(|source| InstallError::File { path: path.to_owned(), source }),
        None => Ok(()),
    }
}

/// Removes a file; that it is gone already is no matter.
pub(super) fn remove(path: &Path) -> Result<(), InstallError> {
    gone(path, fs::remove_file(path))
}

/// Removes a directory with all that is in it.
pub(super) fn remove_all(path: &Path) -> Result<(), InstallError> {
    gone(path, fs::remove_dir_all(path))
}

/// Removes a directory if nothing is in it; whether it did.
pub(super) fn remove_empty(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(source) => Err(InstallError::File { path: path.to_owned(), source }),
    }
}

fn gone(path: &Path, result: io::Result<()>) -> Result<(), InstallError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::File { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("x");
        for (text, mode) in [("one", 0o644), ("two", 0o640)] {
            file(&path, &mut text.as_bytes(), mode, None).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("text"), text);
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn only_directories_that_were_made_are_named() {
        let dir = tempfile::tempdir().expect("directory");
        let (outer, inner) = (dir.path().join("a"), dir.path().join("a/b"));
        assert_eq!(directory(&inner, 0o750).expect("made"), [outer.clone(), inner.clone()]);
        assert_eq!(fs::metadata(&inner).expect("there").permissions().mode() & 0o777, 0o750);
        assert_eq!(directory(&inner, 0o700).expect("there"), [] as [PathBuf; 0]);
        assert_eq!(fs::metadata(&inner).expect("there").permissions().mode() & 0o777, 0o750);
        assert!(!remove_empty(&outer).expect("not empty"));
        assert!(remove_empty(&inner).expect("empty") && remove_empty(&outer).expect("empty"));
        remove(&outer).expect("gone is gone");
    }
}
