//! Descriptors that outlive an `execve(2)`: kept open by number, adopted again on the other side.
//!
//! Everything of the master's is close-on-exec. For the moment of the exec exactly the kept ones are not; whoever adopts
//! them makes them so again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use forkgate_shared::descriptors::LAST;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};

/// A descriptor's number in the written state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kept(RawFd);

/// Notes which descriptors are to be kept, while the state is written down.
#[derive(Debug, Default)]
pub struct Keeper(BTreeSet<Kept>);

impl Keeper {
    /// Keeps one.
    pub fn keep(&mut self, fd: impl AsFd) -> Kept {
        let kept = Kept(fd.as_fd().as_raw_fd());
        self.0.insert(kept);
        kept
    }

    /// All of them.
    pub fn all(&self) -> Vec<Kept> {
        self.0.iter().copied().collect()
    }
}

/// Lets these descriptors pass through an exec, or no longer.
pub fn pass_on(all: &[Kept], pass: bool) -> io::Result<()> {
    for Kept(number) in all {
        // SAFETY: borrowed for this call only; the master holds what it wrote down.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        let flags = if pass { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        fcntl(fd, FcntlArg::F_SETFD(flags))?;
    }
    Ok(())
}

/// Gives out what was kept, each once; what nobody wanted is closed when it is dropped.
#[derive(Debug)]
pub struct Adopter(BTreeSet<Kept>);

impl Adopter {
    /// Makes sure that all are there, and takes none yet.
    ///
    /// # Safety
    /// Nothing else in this process owns these numbers: they are from the state that the program before wrote down for it.
    pub unsafe fn new(all: &[Kept]) -> io::Result<Adopter> {
        for Kept(number) in all {
            // SAFETY: borrowed for this call only; a number that is not open gives EBADF.
            let fd = unsafe { BorrowedFd::borrow_raw(*number.max(&0)) };
            if *number < 0 || fcntl(fd, FcntlArg::F_GETFD).is_err() {
                let what = format!("descriptor {number} of the state is not open");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(Adopter(all.iter().copied().collect()))
    }

    /// To look at one without taking it.
    pub fn borrow(&self, kept: Kept) -> io::Result<BorrowedFd<'_>> {
        if !self.0.contains(&kept) {
            return Err(twice(kept));
        }
        // SAFETY: open (see `new`) and ours until it is taken or `self` is dropped.
        Ok(unsafe { BorrowedFd::borrow_raw(kept.0) })
    }

    /// Takes one, and makes it close-on-exec.
    pub fn adopt(&mut self, kept: Kept) -> io::Result<OwnedFd> {
        if !self.0.remove(&kept) {
            return Err(twice(kept));
        }
        // SAFETY: open, owned by nobody else (see `new`), and given out once.
        let fd = unsafe { OwnedFd::from_raw_fd(kept.0) };
        if kept.0 > LAST {
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            return Ok(fd);
        }
        // The program before gave its children fewer descriptors: this number is wanted for those of ours.
        let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(LAST + 1))?;
        // SAFETY: the duplicate was just made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(moved) })
    }

    /// Leaves all of them open for yet another program.
    pub fn leave(mut self) {
        self.0.clear();
    }
}

impl Drop for Adopter {
    fn drop(&mut self) {
        for Kept(number) in std::mem::take(&mut self.0) {
            // SAFETY: as in `adopt`.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

fn twice(kept: Kept) -> io::Error {
    let what = format!("descriptor {} of the state was not kept, or is used twice", kept.0);
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    fn is_open(kept: Kept) -> bool {
        std::fs::exists(format!("/proc/self/fd/{}", kept.0)).expect("/proc is mounted")
    }

    fn at_least(number: RawFd) -> OwnedFd {
        let file = File::open("/proc/self/stat").expect("open");
        let copy = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(number)).expect("duplicate");
        // SAFETY: the duplicate is nobody else's.
        unsafe { OwnedFd::from_raw_fd(copy) }
    }

    #[test]
    fn what_was_kept_is_adopted_once_and_the_rest_is_closed() {
        let mut keeper = Keeper::default();
        let (wanted, unwanted) = (at_least(700), at_least(700));
        let kept = [keeper.keep(&wanted), keeper.keep(&unwanted)];
        pass_on(&keeper.all(), true).expect("pass on");
        for fd in [&wanted, &unwanted] {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD).expect("flags"), 0, "not close-on-exec");
        }
        let _ = (wanted.into_raw_fd(), unwanted.into_raw_fd());
        // SAFETY: both numbers were released in the line above.
        let mut adopter = unsafe { Adopter::new(&keeper.all()) }.expect("both are open");
        let mut file = File::from(adopter.adopt(kept[0]).expect("adopt"));
        assert!(file.read_to_string(&mut String::new()).expect("read") > 0);
        assert_eq!(fcntl(&file, FcntlArg::F_GETFD).expect("flags"), FdFlag::FD_CLOEXEC.bits());
        assert!(adopter.adopt(kept[0]).is_err() && adopter.borrow(kept[0]).is_err(), "once");
        assert!(is_open(kept[1]) && adopter.borrow(kept[1]).is_ok());
        drop(adopter);
        assert!(!is_open(kept[1]) && is_open(kept[0]));
        // SAFETY: nothing is taken: one of them is not open.
        let missing = unsafe { Adopter::new(&keeper.all()) }.expect_err("one is closed").to_string();
        assert!(missing.contains("is not open"), "{missing}");
    }

    #[test]
    fn what_lies_where_children_find_theirs_is_moved_away() {
        let mut keeper = Keeper::default();
        let low = at_least(3);
        let kept = keeper.keep(&low);
        let raw = low.into_raw_fd();
        // SAFETY: the number was released in the line above.
        let mut adopter = unsafe { Adopter::new(&keeper.all()) }.expect("it is open");
        let adopted = adopter.adopt(kept).expect("adopt");
        assert!(adopted.as_raw_fd() > LAST && (raw > LAST || adopted.as_raw_fd() != raw));
    }
}
