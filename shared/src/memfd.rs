//! Anonymous files in memory (`memfd_create(2)`) and their mappings.
//!
//! Invariant: whatever is handed to another process is sealed first. A size that cannot change means that no reader
//! can be killed by `SIGBUS`; contents sealed against writing mean that a reader may borrow from them.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Makes a memfd of `size` zero bytes whose size is sealed; its contents stay writable.
pub fn fixed_size(name: &str, size: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&fd, size as libc::off_t)?;
    fcntl(
        &fd,
        FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL),
    )?;
    Ok(fd)
}

/// Makes a memfd that holds `bytes` and can never change again.
pub fn immutable(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write;
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    let seals =
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// True when the file's contents and size can no longer change (see `fcntl(2)`, "File sealing").
pub fn is_immutable(fd: &impl AsFd) -> bool {
    let want = (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE).bits();
    fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & want == want)
}

/// A mapping that lives as long as this value. Never larger than the file was when it was made.
pub struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping is plain memory owned by this value; access is by shared reference (read-only bytes) or through
// atomics (see `rows`, `sessions`), both of which are fine from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a whole file that nobody can change any more.
    ///
    /// Fails with `InvalidInput` for an empty file or one that is not sealed: bytes that change under a `&[u8]` are
    /// undefined behaviour.
    pub fn immutable(fd: &impl AsFd) -> io::Result<Mapping> {
        if !is_immutable(fd) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the memfd is not sealed"));
        }
        Self::map(fd, ProtFlags::PROT_READ)
    }

    /// Maps a whole file for reading and writing through atomics.
    pub fn shared(fd: &impl AsFd) -> io::Result<Mapping> {
        Self::map(fd, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    fn map(fd: &impl AsFd, protection: ProtFlags) -> io::Result<Mapping> {
        let size = nix::sys::stat::fstat(fd.as_fd())?.st_size;
        let len = usize::try_from(size)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the file to map is empty"))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; it aliases nothing of ours.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Mapping { start, len: len.get() })
    }

    /// Address of the first byte; page-aligned.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty file is not mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The bytes of a mapping made by [`Mapping::immutable`].
pub struct Bytes(Mapping);

impl Bytes {
    /// Maps a sealed memfd; fails as [`Mapping::immutable`].
    pub fn open(fd: &impl AsFd) -> io::Result<Bytes> {
        Ok(Bytes(Mapping::immutable(fd)?))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping covers `len` bytes for as long as `self` lives, and the seals checked in
        // `Mapping::immutable` keep them from changing.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` obtained, unmapped once.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_immutable_memfd_reads_back_and_refuses_writes() {
        let fd = immutable("test", b"catalog").expect("memfd");
        assert_eq!(Bytes::open(&fd).expect("map").as_ref(), b"catalog");
        assert!(nix::unistd::write(&fd, b"x").is_err());
    }

    #[test]
    fn only_sealed_files_are_borrowed_from() {
        let fd = fixed_size("test", 4096).expect("memfd");
        assert!(Bytes::open(&fd).is_err());
        assert!(nix::unistd::ftruncate(&fd, 1).is_err(), "the size is sealed");
        assert_eq!(Mapping::shared(&fd).expect("map").len(), 4096);
    }
}
