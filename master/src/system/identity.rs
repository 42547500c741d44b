//! Whose the processes are: a master that root has started becomes `GATEWAY_USER` before it does anything else.
//!
//! All of it becomes that user, not only the workers: a root master would work in directories that its workers can write.
//! Of root's rights one stays, the right to bind ports below 1024, because slots and addresses come later too; children do
//! not get it (see [`super::spawn`]). It is kept in the ambient set (capabilities(7)), so that the master has it still when
//! it has become another program in place.
//!
//! Workers are started by a process that is that user already: none of them changes its user after it was told to be
//! sent a signal when the master dies, which would undo that (prctl(2), `PR_SET_PDEATHSIG`).

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use forkgate_shared::settings::Settings;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

/// `CAP_NET_BIND_SERVICE` of `linux/capability.h`.
const NET_BIND: u32 = 10;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Why the master cannot become the user.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Only root may.
    #[error(
        "GATEWAY_USER={0}: only root can become somebody else; start forkgate as root or as that user, or leave the setting out"
    )]
    NotRoot(String),
    /// A number without an entry has no group of its own.
    #[error("GATEWAY_USER={0} has no entry in the user database: set GATEWAY_GROUP, too")]
    NoGroup(String),
    /// It was known when the settings were read.
    #[error("GATEWAY_USER={0} or its group cannot be found any more")]
    Gone(String),
    /// A directory that is to be the user's.
    #[error("cannot make {path} the directory of GATEWAY_USER: {source}", path = .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is to be the user's.
    #[error("cannot make {path} the file of GATEWAY_USER: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system says no.
    #[error("cannot become GATEWAY_USER: {0}")]
    Io(#[from] io::Error),
}

/// Whom to become.
#[derive(Debug)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// For the user's further groups; none for a number without an entry.
    name: Option<CString>,
}

impl Identity {
    /// Whom the settings want this process to become; none when it is to stay who it is.
    pub fn wanted(settings: &Settings) -> Result<Option<Identity>, IdentityError> {
        let Some(user) = &settings.user else { return Ok(None) };
        let gone = || IdentityError::Gone(user.clone());
        let number = user.parse::<u32>().ok().map(Uid::from_raw);
        let entry = match number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(user),
        };
        let entry = entry.map_err(io::Error::from)?;
        let uid = number.or(entry.as_ref().map(|entry| entry.uid)).ok_or_else(gone)?;
        let gid = match &settings.group {
            Some(group) => group_of(group)?.ok_or_else(gone)?,
            None => {
                entry.as_ref().map(|entry| entry.gid).ok_or_else(|| IdentityError::NoGroup(user.clone()))?
            }
        };
        if geteuid() == uid {
            return Ok(None);
        }
        if !geteuid().is_root() {
            return Err(IdentityError::NotRoot(user.clone()));
        }
        let name = entry.and_then(|entry| CString::new(entry.name).ok());
        Ok(Some(Identity { uid, gid, name }))
    }

    /// Makes a directory that is not there, or is empty, the user's; any other stays as it is.
    pub fn give_directory(&self, path: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Directory { path: path.to_owned(), source };
        match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Those above it are for others to enter, too.
                fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
                DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let directory = open(path, libc::O_DIRECTORY).map_err(failed)?;
        self.own(&directory).map_err(failed)
    }

    /// Makes a file the user's; fails for one that is a link, or has another name too: where it lies the user may have
    /// made it lead to a file of somebody else's.
    pub fn give_file(&self, path: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::File { path: path.to_owned(), source };
        let file = open(path, 0).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() || found.nlink() != 1 {
            return Err(failed(io::Error::other("it is no file of its own")));
        }
        self.own(&file).map_err(failed)
    }

    fn own(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Becomes the user, for good.
    pub fn assume(&self) -> Result<(), IdentityError> {
        let may_bind = permitted()? & 1 << NET_BIND != 0;
        prctl::set_keepcaps(may_bind).map_err(io::Error::from)?;
        match &self.name {
            Some(name) => initgroups(name, self.gid),
            None => setgroups(&[self.gid]),
        }
        .and_then(|()| setgid(self.gid))
        .and_then(|()| setuid(self.uid))
        .map_err(io::Error::from)?;
        if may_bind {
            keep_only(1 << NET_BIND)?;
            raise_ambient(NET_BIND)?;
        }
        prctl::set_keepcaps(false).map_err(io::Error::from)?;
        // Cleared by the change of the user: without it `/proc` of this process would be root's.
        prctl::set_dumpable(true).map_err(io::Error::from)?;
        Ok(())
    }
}

/// What is under this name itself, not what a link there leads to.
fn open(path: &Path, kind: i32) -> io::Result<File> {
    // A FIFO does not keep this process waiting.
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | kind).open(path)
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)
    }
}

fn group_of(group: &str) -> Result<Option<Gid>, IdentityError> {
    match group.parse::<u32>() {
        Ok(number) => Ok(Some(Gid::from_raw(number))),
        Err(_) => Ok(Group::from_name(group).map_err(io::Error::from)?.map(|entry| entry.gid)),
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; version 3 has two of them, the second one for capabilities from 32 on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Of the calling thread, which is the only one.
fn own() -> Header {
    Header { version: CAPABILITY_VERSION, pid: 0 }
}

/// The capabilities below 32 that this process may have.
fn permitted() -> io::Result<u32> {
    let (mut header, mut data) = (own(), [Data::default(); 2]);
    // SAFETY: both pointers lead to memory of the size that version 3 of the call has.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(data[0].permitted)
}

/// Gives up all capabilities but these.
fn keep_only(these: u32) -> io::Result<()> {
    let kept = Data { effective: these, permitted: these, inheritable: these };
    let (mut header, data) = (own(), [kept, Data::default()]);
    // SAFETY: as in `permitted`; the kernel only reads the data.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

fn raise_ambient(capability: u32) -> io::Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(capability), 0, 0) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use forkgate_shared::settings::Sources;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let secret = "0123456789abcdef".repeat(4);
        let all = [("GATEWAY_JWT_SECRET", secret.as_str()), ("GATEWAY_STATE_DIR", "/tmp")];
        let flags =
            all.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::load(Sources { flags, ..Sources::default() }).expect("settings").settings
    }

    #[test]
    fn who_is_wanted_is_told_by_name_and_by_number() {
        let own = geteuid().as_raw().to_string();
        assert!(Identity::wanted(&settings(&[])).expect("nobody").is_none());
        let same = settings(&[("GATEWAY_USER", &own), ("GATEWAY_GROUP", "0")]);
        assert!(Identity::wanted(&same).expect("the same").is_none());
        let without = Identity::wanted(&settings(&[("GATEWAY_USER", "4123456789")])).expect_err("no group");
        assert!(without.to_string().contains("set GATEWAY_GROUP"), "{without}");
        let other = settings(&[("GATEWAY_USER", "4123456789"), ("GATEWAY_GROUP", "7")]);
        match Identity::wanted(&other) {
            Ok(Some(found)) => assert_eq!(found.to_string(), "uid 4123456789 gid 7"),
            Err(IdentityError::NotRoot(_)) if !geteuid().is_root() => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_directories_that_hold_nothing_change_hands() {
        let directory = tempfile::tempdir().expect("directory");
        let own = Identity { uid: geteuid(), gid: nix::unistd::getegid(), name: None };
        let deep = directory.path().join("a/b");
        own.give_directory(&deep).expect("made");
        assert!(deep.is_dir());
        own.give_directory(&deep).expect("empty");
        // A file is in the way.
        fs::write(deep.join("file"), "").expect("write");
        own.give_directory(&deep).expect("left as it is");
        assert!(own.give_directory(&deep.join("file")).is_err());
    }

    #[test]
    fn the_own_capabilities_are_read() {
        let status = fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).expect("Linux");
        let bits = u64::from_str_radix(line, 16).expect("hex");
        assert_eq!(u64::from(permitted().expect("capget")), bits & u64::from(u32::MAX));
    }
}
