//! Where things are: the binary under test, the tools beside it, the caches, a test's own directory.

use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// The `tests` folder.
pub fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The binary under test: `FORKGATE_BIN`, else the release build.
pub fn forkgate() -> PathBuf {
    std::env::var_os("FORKGATE_BIN").map_or_else(|| target().join("release/forkgate"), PathBuf::from)
}

/// The binary that can be told to harm itself: `FORKGATE_FAULTS_BIN`, else where `tests/run` puts its release build.
pub fn forkgate_faults() -> PathBuf {
    std::env::var_os("FORKGATE_FAULTS_BIN")
        .map_or_else(|| target().join("release/forkgate-faults"), PathBuf::from)
}

/// The fast upstream, built in release.
pub fn fastup() -> PathBuf {
    std::env::var_os("FASTUP_BIN").map_or_else(|| target().join("release/fastup"), PathBuf::from)
}

/// A virtual environment that `tests/run` made: `py1`, `py2` or `gunicorn26`.
pub fn python(venv: &str) -> PathBuf {
    tests().join(".cache").join(venv).join("bin/python")
}

/// The linter of Dockerfiles that `tests/run` installed.
pub fn hadolint() -> PathBuf {
    tests().join(".cache/hadolint/bin/hadolint")
}

/// A directory of the test's own, empty when the test starts, kept when it fails.
pub fn of_test(name: &str) -> PathBuf {
    target().join("forkgate-tests").join(name)
}

/// The prefix of the short directories of one test process.
pub fn short_prefix(pid: u32) -> String {
    format!("fgt-{pid}-")
}

/// A directory whose path is short, for what holds unix sockets (their paths have at most 108 bytes); the runner removes
/// it when the test has passed.
pub fn short(number: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{}{number}", short_prefix(std::process::id())))
}

/// Removes the short directories of a test process that has ended.
pub fn remove_short(pid: u32) {
    let prefix = short_prefix(pid);
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

/// True in the longer form, `tests/soak`.
pub fn soaking() -> bool {
    std::env::var_os("FORKGATE_SOAK").is_some_and(|value| value == "1")
}
