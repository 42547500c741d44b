//! A container without a registry: the root file system that `tests/container-root` makes of the Dockerfile's last stage, run
//! by systemd-nspawn as an image would be: read-only, without network, as its user, forkgate as process 1.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use crate::dockerfile::{self, Stage};
use crate::gateway::START_LIMIT;
use crate::process::{self, Signal};
use crate::runner::current_test;
use crate::skip::Skip;
use crate::upstream::read_tail;
use crate::{network, paths, wait};

/// Exit code of `tests/container-root` when it cannot work here.
const UNAVAILABLE: i32 = 69;
/// Where the search for programs goes in Debian's images.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root file system.
pub fn root() -> Result<PathBuf, Skip> {
    let output =
        Command::new(paths::tests().join("container-root")).output().expect("the script is executable");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(PathBuf::from(said(&output.stdout))),
        Some(UNAVAILABLE) => Err(Skip(said(&output.stderr))),
        _ => panic!("container-root: {}: {}", output.status, said(&output.stderr)),
    }
}

/// A running container; killed when it goes out of scope.
pub struct Container {
    /// What the image says.
    pub stage: Stage,
    nspawn: Child,
    leader: u32,
    log: PathBuf,
    env: Vec<(String, String)>,
}

impl Container {
    /// Runs the image's command with these variables besides its own.
    pub fn run(root: &Path, binary: &Path, env: &[(&str, &str)]) -> Container {
        let stage = dockerfile::stage();
        let mut all = vec![("PATH".to_owned(), PATH.to_owned())];
        all.extend(stage.env.clone());
        all.extend(env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        let log = paths::of_test(&current_test()).join("container.log");
        let output = File::create(&log).expect("the test's directory is writable");
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--read-only"]);
        command.args(["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"]);
        command.args(["--no-new-privileges=yes", "--tmpfs=/tmp"]);
        command.arg(format!("--machine=forkgate{}", std::process::id()));
        command.arg(format!("--directory={}", root.display()));
        command.arg(format!("--user={}", stage.user.0));
        command.arg(format!("--chdir={}", stage.volume));
        let (uid, gid) = stage.user;
        command.arg(format!("--tmpfs={}:mode=0700,uid={uid},gid={gid}", stage.volume));
        command.arg(format!("--bind-ro={}:{}", binary.display(), stage.program));
        for (name, value) in &all {
            command.arg(format!("--setenv={name}={value}"));
        }
        command.arg("--").arg(&stage.program).args(&stage.command[1..]);
        assert!(Path::new(&stage.program).ends_with(&stage.command[0]), "ENTRYPOINT is what COPY puts there");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a descriptor is free")).stderr(output);
        let mut nspawn = command.spawn().expect("systemd-nspawn starts");
        let leader = wait::within(START_LIMIT, || {
            if let Ok(Some(status)) = nspawn.try_wait() {
                panic!("systemd-nspawn: {status}\n{}", read_tail(&log));
            }
            process::children(nspawn.id()).into_iter().find(|&pid| is_forkgate(pid))
        });
        let leader = leader.unwrap_or_else(|| panic!("the container does not start:\n{}", read_tail(&log)));
        Container { stage, nspawn, leader, log, env: all }
    }

    /// Process 1, as this machine counts.
    pub fn leader(&self) -> u32 {
        self.leader
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        read_tail(&self.log)
    }

    /// Its network, for `setns(2)`.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.leader))
    }

    /// Does something in its network.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        network::within(&self.network(), work)
    }

    /// Where its port is, in its network.
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Runs a command inside, as `docker exec` does, with `env` over what the container has.
    pub fn exec(&self, words: &[&str], env: &[(&str, &str)]) -> Output {
        let (uid, gid) = self.stage.user;
        let mut command = Command::new("nsenter");
        command.arg("--all").arg(format!("--target={}", self.leader));
        command.arg(format!("--setuid={uid}")).arg(format!("--setgid={gid}")).arg("--").args(words);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.envs(env.iter().copied());
        command.output().expect("nsenter starts")
    }

    /// Signals process 1, as `docker stop` does.
    pub fn signal(&self, signal: Signal) {
        assert!(process::signal(self.leader, signal), "process 1 is gone:\n{}", self.log());
    }

    /// Waits for the end of process 1; its exit status.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let nspawn = &mut self.nspawn;
        wait::within(limit, || nspawn.try_wait().expect("the child is ours"))
            .unwrap_or_else(|| panic!("not ended within {limit:?}:\n{}", read_tail(&self.log)))
    }
}

fn is_forkgate(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "forkgate")
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- container ---\n{}", self.log());
        }
        if let Ok(None) = self.nspawn.try_wait() {
            // Its end is the end of all processes of the namespace, and nspawn's own.
            process::signal(self.leader, Signal::SIGKILL);
            let nspawn = &mut self.nspawn;
            if wait::within(START_LIMIT, || nspawn.try_wait().ok().flatten()).is_none() {
                let _ = self.nspawn.kill();
                let _ = self.nspawn.wait();
            }
        }
    }
}
