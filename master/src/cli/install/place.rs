//! Where an installation goes: this machine, a directory that becomes one, or one user's home.

use std::path::{Path, PathBuf};

use super::InstallError;

/// Where sd_booted(3) looks.
const BOOTED: &str = "/run/systemd/system";
/// The service's user and group, of the unit's `User=`.
const SERVICE: &str = "forkgate";

/// For whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The machine.
    System,
    /// One user, without root.
    User {
        /// `$HOME`.
        home: PathBuf,
        /// `$XDG_CONFIG_HOME`, else `~/.config`.
        config: PathBuf,
        /// Where the gateway keeps its state by default.
        state: PathBuf,
    },
}

/// For whom, and below which directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub scope: Scope,
    /// `/`, or the root of another system's files.
    pub root: PathBuf,
}

impl Place {
    /// The machine, or what will be one below `root`; what is missing for that is an error.
    pub fn system(root: Option<PathBuf>) -> Result<Place, InstallError> {
        let Some(root) = root else {
            if !nix::unistd::geteuid().is_root() {
                return Err(InstallError::NotRoot);
            }
            if !Path::new(BOOTED).exists() {
                return Err(InstallError::NotBooted);
            }
            return Ok(Place { scope: Scope::System, root: "/".into() });
        };
        let root = std::path::absolute(&root).unwrap_or(root);
        if !root.is_dir() {
            return Err(InstallError::NoRoot { root });
        }
        Ok(Place { scope: Scope::System, root })
    }

    /// The home of whoever asks.
    pub fn user() -> Result<Place, InstallError> {
        let directory = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute() && path != Path::new("/"))
        };
        let Some(home) = directory("HOME") else { return Err(InstallError::NoHome) };
        let manager = directory("XDG_RUNTIME_DIR").map(|runtime| runtime.join("systemd/private"));
        if !manager.is_some_and(|socket| socket.exists()) {
            return Err(InstallError::NoUserManager);
        }
        let config = directory("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let state = directory("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
        let scope = Scope::User { home, config, state: state.join("forkgate") };
        Ok(Place { scope, root: "/".into() })
    }

    /// A path of the installed system, as it is reached from here.
    pub fn on_disk(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether the system runs here, so that its service manager can be talked to.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The env file; the unit passes the same to the program.
    pub fn settings(&self) -> PathBuf {
        match &self.scope {
            Scope::System => PathBuf::from("/etc/forkgate/forkgate.env"),
            Scope::User { config, .. } => config.join("forkgate/forkgate.env"),
        }
    }

    /// Whether the service has a user of its own, and that is not there yet.
    pub fn needs_user(&self) -> bool {
        self.scope == Scope::System && self.group().is_none()
    }

    /// The group that may read the settings; none where that is nobody's to give, or there is no such group (yet).
    pub fn service_group(&self) -> Option<u32> {
        self.group().filter(|_| self.scope == Scope::System && nix::unistd::geteuid().is_root())
    }

    fn group(&self) -> Option<u32> {
        if self.is_live() {
            return nix::unistd::Group::from_name(SERVICE).ok().flatten().map(|group| group.gid.as_raw());
        }
        let text = std::fs::read_to_string(self.on_disk(Path::new("/etc/group"))).ok()?;
        group_of(&text, SERVICE)
    }
}

/// The id of a group in the form of group(5).
fn group_of(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_put_in_front_of_every_path() {
        let dir = tempfile::tempdir().expect("directory");
        let place = Place::system(Some(dir.path().to_owned())).expect("a directory");
        assert_eq!(place.on_disk(Path::new("/etc/x")), dir.path().join("etc/x"));
        assert!(!place.is_live());
        assert!(matches!(Place::system(Some(dir.path().join("none"))), Err(InstallError::NoRoot { .. })));
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\nforkgate2:x:7:\nforkgate:x:998:me\n";
        assert_eq!((group_of(text, "forkgate"), group_of(text, "none")), (Some(998), None));
    }
}
