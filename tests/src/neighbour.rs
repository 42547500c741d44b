//! Somebody else on the machine who uses as much CPU as can be had.

use std::process::{Child, Command, Stdio};

/// A process that burns one CPU until it is dropped.
pub struct Neighbour(Child);

impl Neighbour {
    /// Starts it.
    pub fn start() -> Neighbour {
        let burn = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Neighbour(burn.expect("sh starts"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
