//! Processes seen from outside: `/proc`, signals, and which connections a process has accepted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;

pub use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sockets::{self, Which};

/// Sends a signal to one process; false when it is gone.
pub fn signal(pid: u32, signal: Signal) -> bool {
    nix::sys::signal::kill(Pid::from_raw(pid as i32), signal).is_ok()
}

/// Sends a signal to a whole process group, as a terminal does.
pub fn signal_group(group: u32, signal: Signal) {
    nix::sys::signal::killpg(Pid::from_raw(group as i32), signal).expect("the group has a process");
}

/// The fields of `/proc/PID/stat` from the state on (the command's name may hold anything).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 1..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// True while the process runs; a zombie does not.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

/// True while the process stands still after SIGSTOP.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] == "T")
}

/// True while the process is stopped or a debugger holds it.
pub fn stands_still(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0].eq_ignore_ascii_case("t"))
}

/// Living children.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found: Vec<u32> =
        all().filter(|&(child, parent)| parent == pid && alive(child)).map(|(pid, _)| pid).collect();
    found.sort_unstable();
    found
}

/// Children that have ended and nobody has reaped.
pub fn zombies(pid: u32) -> Vec<u32> {
    let of_this = all().filter(|&(_, parent)| parent == pid).map(|(child, _)| child);
    of_this.filter(|&child| stat(child).is_some_and(|fields| fields[0] == "Z")).collect()
}

/// Living children, their children, and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut by_parent: HashMap<u32, Vec<u32>> = HashMap::new();
    for (child, parent) in all() {
        by_parent.entry(parent).or_default().push(child);
    }
    let (mut found, mut todo) = (Vec::new(), vec![pid]);
    while let Some(parent) = todo.pop() {
        for &child in by_parent.get(&parent).into_iter().flatten() {
            todo.push(child);
            if alive(child) {
                found.push(child);
            }
        }
    }
    found
}

/// Every process with its parent.
fn all() -> impl Iterator<Item = (u32, u32)> {
    std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?[1].parse().ok()?)))
}

/// Children of a process with one thread, also the ended ones that it has not reaped.
pub fn unreaped(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The command line, words joined by blanks.
pub fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// The file that a process executes, by its inode; none when the process is gone.
pub fn program(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| file.ino())
}

/// Number of open descriptors.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Number of open memory files.
pub fn memory_files(pid: u32) -> usize {
    links(pid).filter(|link| link.starts_with("/memfd:")).count()
}

/// Raises this process's limit of open descriptors as far as it goes, for a test with thousands of clients.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit works");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit is allowed");
}

/// Number of threads.
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Private memory in bytes: what would be free again if the process ended.
pub fn private_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let private = ["Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"];
    text.lines().filter(|line| private.iter().any(|name| line.starts_with(name))).filter_map(kib).sum::<u64>()
        * 1024
}

/// The clients whose connections to `port` the process has accepted and still holds.
pub fn accepted_clients(pid: u32, port: u16) -> HashSet<SocketAddr> {
    let inodes = socket_inodes(pid);
    let connected = sockets::of_port(port, Which::Connected);
    connected
        .into_iter()
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| socket.remote)
        .collect()
}

/// The sockets that listen on `port`, by inode: a slot's socket is the same one as long as its inode is.
pub fn listening(port: u16) -> BTreeSet<u64> {
    sockets::of_port(port, Which::Listening).into_iter().map(|socket| socket.inode).collect()
}

/// The sockets that a process has.
pub fn socket_inodes(pid: u32) -> HashSet<u64> {
    links(pid).filter_map(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// What the descriptors of a process are, as `/proc/PID/fd` names it.
fn links(pid: u32) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
}

/// Kills and reaps everything that was left behind below this process; what it was.
pub fn clear_descendants() -> Vec<String> {
    let me = std::process::id();
    let mut left = Vec::new();
    loop {
        reap();
        let found = descendants(me);
        if found.is_empty() {
            return left;
        }
        for pid in found {
            left.push(format!("{pid} {}", command_line(pid)));
            signal(pid, Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Reaps children that have ended. Only for a process whose `Child`ren have all been waited for.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
}

/// Makes this process the parent of what its descendants leave behind, so that nothing can escape a test.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true)
        .expect("prctl(PR_SET_CHILD_SUBREAPER) works on every Linux >= 3.4");
}

/// True when a directory is empty or absent.
pub fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_seen() {
        let me = std::process::id();
        assert!(alive(me) && descriptors(me) > 2 && threads(me) > 0 && private_bytes(me) > 0);
        assert!(!alive(u32::MAX >> 1));
    }
}
