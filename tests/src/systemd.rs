//! A real systemd as PID 1 of its own namespaces, over a throw-away overlay of this machine's root (`systemd-box`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{network, paths, process};

/// A booted systemd; powered off when it goes out of scope.
pub struct Systemd {
    directory: PathBuf,
}

impl Systemd {
    /// Where this test's box is: not below the test's own directory, which may be removed while something is mounted
    /// here, and another one for each run, for two may run at once.
    pub fn directory(test: &str) -> PathBuf {
        PathBuf::from(format!("/run/forkgate-tests-{test}-{}", std::process::id()))
    }

    /// Boots, after it has cleared what runs that were killed left.
    pub fn boot(directory: &Path, units: &[PathBuf]) -> Systemd {
        clear_left_boxes();
        let systemd = Systemd { directory: directory.to_path_buf() };
        let status = systemd.script("start").args(units).status().expect("tests/systemd-box is executable");
        assert!(status.success(), "no systemd: {}", systemd.boot_log());
        systemd
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(paths::tests().join("systemd-box"));
        command.arg(verb).arg(&self.directory);
        command
    }

    fn boot_log(&self) -> String {
        std::fs::read_to_string(self.directory.join("boot.log")).unwrap_or_default()
    }

    /// A path of the box as this machine sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.directory.join("root").join(inside.trim_start_matches('/'))
    }

    /// Writes a file of the box, with its directories.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().expect("an absolute path")).expect("the overlay is writable");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Copies a file of this machine into the box.
    pub fn copy(&self, outside: &Path, inside: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().expect("an absolute path")).expect("the overlay is writable");
        std::fs::copy(outside, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Runs a command inside.
    pub fn run(&self, words: &[&str]) -> Output {
        self.script("exec").args(words).output().expect("tests/systemd-box is executable")
    }

    /// Runs a command inside that has to succeed; what it printed.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{words:?}: {} {}\n{}",
            output.status,
            text(&output.stderr),
            self.journal()
        );
        text(&output.stdout)
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&["systemctl", "show", "--value", "-p", name, unit]).trim().to_owned()
    }

    /// The last lines of the journal.
    pub fn journal(&self) -> String {
        String::from_utf8_lossy(&self.run(&["journalctl", "--no-pager", "-n", "60"]).stdout).into_owned()
    }

    /// The box's network, for `setns(2)`.
    pub fn network(&self) -> PathBuf {
        let leader = std::fs::read_to_string(self.directory.join("leader")).expect("the box is up");
        PathBuf::from(format!("/proc/{}/ns/net", leader.trim()))
    }

    /// Does something in the box's network, on a thread of its own.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        network::within(&self.network(), work)
    }

    /// An address in the box's private loopback network.
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

/// Ends the boxes whose test is gone.
fn clear_left_boxes() {
    for entry in std::fs::read_dir("/run").expect("/run exists").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("forkgate-tests-")
            .and_then(|rest| rest.rsplit_once('-')?.1.parse::<u32>().ok());
        if owner.is_some_and(|pid| !process::alive(pid)) {
            let _ = Systemd { directory: entry.path() };
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- journal ---\n{}", self.journal());
        }
        let _ = self.script("stop").status();
    }
}
