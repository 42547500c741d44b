//! What an installation made: so that the next one knows which files somebody has edited since, and `uninstall` removes
//! what `install` made and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::InstallError;
use super::place::Place;
use super::write;

/// Beside the settings.
const NAME: &str = "installed.json";

/// The list; paths are those of the installed system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Files that were written, each with the digest of what was written.
    pub files: BTreeMap<PathBuf, String>,
    /// Directories that were made.
    pub directories: BTreeSet<PathBuf>,
    /// Whether the service's user was made.
    #[serde(default)]
    pub user: bool,
}

impl Manifest {
    /// The list of this place; an empty one where nothing was installed.
    pub fn load(place: &Place) -> Result<Manifest, InstallError> {
        let path = place.on_disk(&Manifest::path(place));
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| InstallError::Manifest { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Manifest::default()),
            Err(source) => Err(InstallError::File { path, source }),
        }
    }

    /// Writes the list, or removes it when there is nothing on it.
    pub fn save(&self, place: &Place) -> Result<(), InstallError> {
        let path = place.on_disk(&Manifest::path(place));
        if self.is_empty() {
            return write::remove(&path);
        }
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        write::file(&path, &mut text.as_slice(), 0o644, None)
    }

    /// Where it is.
    pub fn path(place: &Place) -> PathBuf {
        super::files::settings_directory(place).join(NAME)
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        *self == Manifest::default()
    }

    /// Whether a file is what the last installation wrote.
    pub fn wrote(&self, path: &Path, digest: &str) -> bool {
        self.files.get(path).is_some_and(|written| written == digest)
    }
}

/// The digest of a file; none when there is no such file.
pub(super) fn digest_of_file(path: &Path) -> io::Result<Option<String>> {
    match File::open(path) {
        Ok(file) => digest(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// SHA-256 in hex.
pub(super) fn digest(mut from: impl Read) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; 1 << 16];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => context.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(&b""[..]).expect("bytes"), empty);
        assert_eq!(digest_of_file(Path::new("/nowhere/x")).expect("no file is no error"), None);
    }

    #[test]
    fn an_empty_list_is_no_file() {
        let dir = tempfile::tempdir().expect("directory");
        let place = Place::system(Some(dir.path().to_owned())).expect("place");
        assert!(Manifest::load(&place).expect("none").is_empty());
        let some = Manifest { user: true, ..Manifest::default() };
        std::fs::create_dir_all(dir.path().join("etc/forkgate")).expect("directory");
        some.save(&place).expect("saved");
        assert_eq!(Manifest::load(&place).expect("loaded"), some);
        Manifest::default().save(&place).expect("removed");
        assert!(!dir.path().join("etc/forkgate/installed.json").exists());
    }
}
