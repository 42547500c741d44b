//! What new children are given: the settings of a version, and the newest catalog of the database that they name.
//!
//! While a reload rolls there are two versions. If they name two databases there are two catalogs, and a child never
//! gets the catalog of the other one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use forkgate_shared::memfd;
use forkgate_shared::settings::Settings;
use serde::{Deserialize, Serialize};

use super::upgrade::{Adopter, Keeper, Kept};

/// One version of the settings.
#[derive(Debug)]
pub struct Version {
    /// As the supervisor numbers them.
    pub number: u64,
    /// The settings.
    pub settings: Settings,
    /// The same, sealed, for children.
    pub memfd: OwnedFd,
    /// Where each setting comes from, in words; empty when that is not known.
    pub origins: BTreeMap<String, String>,
}

/// A compiled catalog.
#[derive(Debug)]
pub struct Catalog {
    /// Which database it was compiled from.
    pub database: PathBuf,
    /// Registry generation.
    pub generation: u64,
    /// The sealed snapshot.
    pub memfd: OwnedFd,
}

/// Why a catalog that a child sent is dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Nothing came with the message.
    #[error("no snapshot was attached")]
    Missing,
    /// It could change under its readers.
    #[error("the snapshot is not sealed")]
    NotSealed,
    /// The child's database is not the gateway's any more.
    #[error("it is of a database that is no longer in use")]
    OtherDatabase,
    /// Another one was faster.
    #[error("generation {0} is not newer than {1}")]
    Old(u64, u64),
}

/// The effective version, the one that may follow, and their catalogs.
#[derive(Debug)]
pub struct Versions {
    current: Version,
    candidate: Option<Version>,
    catalogs: Vec<Catalog>,
}

/// What is written down for another program: never a candidate, because nothing is executed during a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Number of the effective version.
    pub number: u64,
    /// Its settings, sealed.
    pub settings: Kept,
    /// The newest catalogs: of which database, which generation.
    pub catalogs: Vec<(PathBuf, u64, Kept)>,
    /// Where the settings come from.
    #[serde(default)]
    pub origins: BTreeMap<String, String>,
}

impl Version {
    /// Seals settings.
    pub fn new(number: u64, settings: Settings) -> io::Result<Version> {
        let memfd = settings.to_memfd()?;
        Ok(Version { number, settings, memfd, origins: BTreeMap::new() })
    }

    /// The same, from there.
    pub fn from(self, origins: BTreeMap<String, String>) -> Version {
        Version { origins, ..self }
    }
}

impl Versions {
    /// Only one version yet, no catalog.
    pub fn new(current: Version) -> Versions {
        Versions { current, candidate: None, catalogs: Vec::new() }
    }

    /// Writes them down.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        let settings = keeper.keep(&self.current.memfd);
        let catalog = |known: &Catalog| (known.database.clone(), known.generation, keeper.keep(&known.memfd));
        let catalogs = self.catalogs.iter().map(catalog).collect();
        Saved { number: self.current.number, settings, catalogs, origins: self.current.origins.clone() }
    }

    /// Them again; `settings` are the effective version's as this program understands them.
    pub fn restore(saved: Saved, settings: Settings, adopter: &mut Adopter) -> io::Result<Versions> {
        // Sealed anew: this program's workers read what this program writes.
        drop(adopter.adopt(saved.settings)?);
        let current = Version::new(saved.number, settings)?.from(saved.origins);
        let catalog = |(database, generation, memfd)| {
            Ok(Catalog { database, generation, memfd: adopter.adopt(memfd)? })
        };
        let catalogs = saved.catalogs.into_iter().map(catalog).collect::<io::Result<_>>()?;
        Ok(Versions { current, candidate: None, catalogs })
    }

    /// The effective version.
    pub fn current(&self) -> &Version {
        &self.current
    }

    /// The version with this number, as long as it may be given to children.
    pub fn get(&self, number: u64) -> Option<&Version> {
        [Some(&self.current), self.candidate.as_ref()]
            .into_iter()
            .flatten()
            .find(|version| version.number == number)
    }

    /// A version that may follow.
    pub fn propose(&mut self, candidate: Version) {
        self.candidate = Some(candidate);
    }

    /// The version that new children get: the candidate's if there is one.
    pub fn newest(&self) -> &Version {
        self.candidate.as_ref().unwrap_or(&self.current)
    }

    /// The candidate becomes the effective version.
    pub fn commit(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            self.current = candidate;
        }
        self.forget_catalogs();
    }

    /// The candidate is given up.
    pub fn discard(&mut self) {
        self.candidate = None;
        self.forget_catalogs();
    }

    fn forget_catalogs(&mut self) {
        self.catalogs.retain(|catalog| catalog.database == self.current.settings.database);
    }

    /// The newest catalog for settings of this version.
    pub fn catalog(&self, number: u64) -> Option<&Catalog> {
        self.catalog_of(&self.get(number)?.settings.database)
    }

    /// The newest catalog of this database.
    pub fn catalog_of(&self, database: &Path) -> Option<&Catalog> {
        self.catalogs.iter().find(|catalog| catalog.database == database)
    }

    /// Takes a catalog that a child compiled from `database`, if it is newer than the one there.
    pub fn publish(
        &mut self,
        database: &Path,
        generation: u64,
        memfd: Option<OwnedFd>,
    ) -> Result<&Catalog, CatalogError> {
        let memfd = memfd.ok_or(CatalogError::Missing)?;
        if !memfd::is_immutable(&memfd) {
            return Err(CatalogError::NotSealed);
        }
        let wanted = [Some(&self.current), self.candidate.as_ref()];
        if !wanted.into_iter().flatten().any(|version| version.settings.database == database) {
            return Err(CatalogError::OtherDatabase);
        }
        if let Some(known) = self.catalogs.iter().find(|catalog| catalog.database == database)
            && generation <= known.generation
        {
            return Err(CatalogError::Old(generation, known.generation));
        }
        self.catalogs.retain(|catalog| catalog.database != database);
        self.catalogs.push(Catalog { database: database.to_owned(), generation, memfd });
        Ok(&self.catalogs[self.catalogs.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use forkgate_shared::settings::Sources;

    use super::*;

    fn version(number: u64, database: &str) -> Version {
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let flags = vec![
            flag("GATEWAY_JWT_SECRET", &"0123456789abcdef".repeat(4)),
            flag("GATEWAY_STATE_DIR", "/tmp"),
        ];
        let sources = Sources { flags, ..Sources::default() };
        let mut settings = Settings::load(sources).expect("settings").settings;
        settings.database = database.into();
        Version::new(number, settings).expect("seal")
    }

    fn sealed() -> Option<OwnedFd> {
        Some(memfd::immutable("catalog", b"x").expect("memfd"))
    }

    #[test]
    fn only_newer_sealed_catalogs_are_taken() {
        let mut versions = Versions::new(version(1, "/a"));
        assert_eq!(versions.publish(Path::new("/a"), 0, None).err(), Some(CatalogError::Missing));
        let open = memfd::fixed_size("open", 1).expect("memfd");
        assert_eq!(versions.publish(Path::new("/a"), 0, Some(open)).err(), Some(CatalogError::NotSealed));
        assert!(versions.publish(Path::new("/a"), 0, sealed()).is_ok());
        assert!(versions.publish(Path::new("/a"), 5, sealed()).is_ok());
        assert_eq!(versions.publish(Path::new("/a"), 5, sealed()).err(), Some(CatalogError::Old(5, 5)));
    }

    #[test]
    fn two_databases_have_two_catalogs_until_the_roll_is_decided() {
        let mut versions = Versions::new(version(1, "/a"));
        versions.publish(Path::new("/a"), 9, sealed()).expect("first");
        versions.propose(version(2, "/b"));
        assert!(versions.catalog(2).is_none());
        versions.publish(Path::new("/b"), 1, sealed()).expect("second");
        let generations = |versions: &Versions| [1, 2].map(|n| versions.catalog(n).map(|c| c.generation));
        assert_eq!(generations(&versions), [Some(9), Some(1)]);
        versions.discard();
        assert_eq!(versions.publish(Path::new("/b"), 2, sealed()).err(), Some(CatalogError::OtherDatabase));
        assert_eq!(generations(&versions), [Some(9), None]);
        versions.propose(version(3, "/a"));
        versions.commit();
        assert_eq!(versions.catalog(3).map(|catalog| catalog.generation), Some(9));
        assert_eq!(versions.current().number, 3);
    }
}
