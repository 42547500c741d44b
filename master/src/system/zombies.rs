//! Children that have ended and are not reaped yet.
//!
//! Reaping removes the child's entries below `/proc`, and there the kernel waits, spinning, for any thread of the child
//! that is still on its way out (`shrink_dcache_parent` below `release_task`). On a machine whose CPUs are all busy that
//! was seen to last five seconds: the spinning master kept the CPU from the very thread that it waited for, and looked
//! after nobody. So a child's end is read without reaping it (`WNOWAIT`), everything that follows from it happens at once,
//! and the child is reaped when its threads have had time to be gone. Meanwhile it is a zombie, which costs its number.

use std::collections::VecDeque;
use std::io;

use serde::{Deserialize, Serialize};

use super::pidfd::PidFd;
use super::upgrade::{Adopter, Keeper, Kept};
use crate::supervisor::Ns;

/// Nanoseconds. Threads that end need some microseconds of CPU; on a crowded machine they get them within this.
const REST: Ns = 500_000_000;

/// The ended children, oldest first.
#[derive(Debug, Default)]
pub struct Zombies(VecDeque<Zombie>);

#[derive(Debug)]
struct Zombie {
    pid: i32,
    pidfd: PidFd,
    due: Ns,
}

/// What is written down for another program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Saved(Vec<(i32, Kept, Ns)>);

impl Zombies {
    /// Writes them down.
    pub fn save(&self, keeper: &mut Keeper) -> Saved {
        Saved(self.0.iter().map(|zombie| (zombie.pid, keeper.keep(&zombie.pidfd), zombie.due)).collect())
    }

    /// Them again.
    pub fn restore(saved: Saved, adopter: &mut Adopter) -> io::Result<Zombies> {
        let zombie = |(pid, pidfd, due)| Ok(Zombie { pid, pidfd: PidFd::adopt(adopter.adopt(pidfd)?), due });
        Ok(Zombies(saved.0.into_iter().map(zombie).collect::<io::Result<_>>()?))
    }

    /// Keeps a child that has ended, or was killed, until it may be reaped. One that takes longer to die is reaped as a
    /// stranger is.
    pub fn keep(&mut self, pid: i32, pidfd: PidFd, now: Ns) {
        self.0.push_back(Zombie { pid, pidfd, due: now + REST });
    }

    /// True when this is the number of one of them.
    pub fn has(&self, pid: i32) -> bool {
        self.0.iter().any(|zombie| zombie.pid == pid)
    }

    /// When [`Zombies::reap`] has something to do.
    pub fn next_deadline(&self) -> Option<Ns> {
        self.0.front().map(|zombie| zombie.due)
    }

    /// Reaps those that have rested; true when there were any.
    pub fn reap(&mut self, now: Ns) -> bool {
        let before = self.0.len();
        while let Some(zombie) = self.0.pop_front_if(|zombie| zombie.due <= now) {
            if let Err(error) = zombie.pidfd.reap() {
                tracing::error!(pid = zombie.pid, %error, "a child was reaped by somebody else");
            }
        }
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    use super::super::pidfd::Ending;
    use super::*;

    #[test]
    fn an_ended_child_is_known_at_once_and_reaped_later() {
        #[expect(clippy::zombie_processes, reason = "reaped through the pidfd, which is what is tested")]
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().expect("sh");
        let pid = child.id() as i32;
        let pidfd = PidFd::open(pid).expect("pidfd");
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll"), 1);
        for _ in 0..2 {
            assert_eq!(pidfd.ending().expect("ending"), Some(Ending::Code(7)), "reading it changes nothing");
        }
        let mut zombies = Zombies::default();
        zombies.keep(pid, pidfd, 5);
        assert!(zombies.has(pid) && !zombies.has(pid + 1));
        assert_eq!(zombies.next_deadline(), Some(5 + REST));
        let entry = format!("/proc/{pid}");
        assert!(!zombies.reap(4 + REST) && Path::new(&entry).exists());
        assert!(zombies.reap(5 + REST) && !Path::new(&entry).exists());
        assert_eq!(zombies.next_deadline(), None);
    }
}
