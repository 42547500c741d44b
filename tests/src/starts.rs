//! Holds whoever starts, a worker or the check of a reload, at a known point: all of them read the session keys, here from
//! a pipe that nobody writes to.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::gateway::START_LIMIT;
use crate::wait;

/// Starts that are held.
pub struct Starts {
    keys: PathBuf,
    good: Vec<u8>,
}

/// One that waits in its start, as long as this is kept.
pub struct Caught {
    pipe: File,
    good: Vec<u8>,
}

impl Starts {
    /// From now on whoever starts waits.
    pub fn hold(state_dir: &Path) -> Starts {
        let keys = state_dir.join("session.keys");
        // Before the first start there are none.
        let good = std::fs::read(&keys).unwrap_or_else(|_| "5e".repeat(32).into_bytes());
        place_pipe(&keys);
        Starts { keys, good }
    }

    /// Waits until somebody reads the keys. Whoever comes after that one waits at a pipe of its own.
    #[track_caller]
    pub fn catch(&self) -> Caught {
        // Opening it for writing fails as long as nobody has opened it for reading.
        let mut options = File::options();
        let open = options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let pipe = wait::until("somebody to read the keys", START_LIMIT, || open.open(&self.keys).ok());
        place_pipe(&self.keys);
        Caught { pipe, good: self.good.clone() }
    }

    /// Whoever starts from now on finds the keys; whoever is caught waits on.
    pub fn release(self) {
        let unfinished = self.keys.with_extension("good");
        std::fs::write(&unfinished, self.good).expect("the state directory is writable");
        std::fs::rename(unfinished, self.keys).expect("the state directory is writable");
    }
}

impl Caught {
    /// It gets the keys and goes on.
    pub fn go_on(mut self) {
        self.pipe.write_all(&self.good).expect("it takes the keys");
    }
}

fn place_pipe(keys: &Path) {
    let pipe = keys.with_extension("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("the state directory is writable");
    std::fs::rename(pipe, keys).expect("the state directory is writable");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_is_caught_and_goes_on_alone() {
        let directory = std::env::temp_dir().join(format!("fgt-starts-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("writable");
        let keys = directory.join("session.keys");
        std::fs::write(&keys, "good").expect("writable");
        let starts = Starts::hold(&directory);
        let read = || {
            let keys = keys.clone();
            std::thread::spawn(move || std::fs::read_to_string(keys).expect("readable"))
        };
        let first = read();
        let caught = starts.catch();
        let second = read();
        let other = starts.catch();
        starts.release();
        assert_eq!(std::fs::read_to_string(&keys).expect("readable"), "good");
        assert!(!first.is_finished() && !second.is_finished(), "both wait on");
        other.go_on();
        assert_eq!(second.join().expect("no panic"), "good");
        assert!(!first.is_finished(), "this one still waits");
        caught.go_on();
        assert_eq!(first.join().expect("no panic"), "good");
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
