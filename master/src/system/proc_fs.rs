//! What `/proc` says of a child: small files, read whole, and what stands in them (proc(5)).
//!
//! A child that is not reaped keeps its number, so these files are never another process's.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use forkgate_shared::proc::{self, RunTimes};

/// Longest file that is read, in bytes; `smaps_rollup` and `status` have less than two thousand.
const MAX_FILE: u64 = 16 * 1024;
/// Threads of a child that are looked at.
const MAX_THREADS: usize = 64;

/// A line of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `t`, `Z`, ….
    pub state: char,
    /// Time on a CPU, in clock ticks.
    pub ticks: u64,
    /// Threads of the process.
    pub threads: u32,
}

/// Reads a file of a child's directory, cut after [`MAX_FILE`] bytes.
pub fn read(pid: i32, file: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path(pid, file))?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The `stat` of a child's main thread.
pub fn main_thread(pid: i32) -> Option<Stat> {
    stat(&read(pid, &format!("task/{pid}/stat")).ok()?)
}

/// How long a child's main thread ran so far. A kernel without `schedstat` knows only the time on a CPU, in ticks.
pub fn main_thread_times(pid: i32) -> Option<RunTimes> {
    if let Ok(text) = read(pid, &format!("task/{pid}/schedstat")) {
        return proc::schedstat(&text);
    }
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let tick = 1_000_000_000 / u64::try_from(ticks_per_second).ok()?.max(1);
    Some(RunTimes { cpu: main_thread(pid)?.ticks.saturating_mul(tick), delay: 0 })
}

/// True when any thread of a child is stopped by a signal or a debugger.
pub fn any_thread_stopped(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(path(pid, "task")) else { return false };
    threads.take(MAX_THREADS).flatten().any(|thread| {
        let file = format!("task/{}/stat", thread.file_name().to_string_lossy());
        read(pid, &file).ok().and_then(|text| stat(&text)).is_some_and(|stat| is_stopped(stat.state))
    })
}

/// True for `T` (a signal stopped it) and `t` (a debugger did).
pub fn is_stopped(state: char) -> bool {
    matches!(state, 'T' | 't')
}

/// True while the kernel writes a child's core file.
pub fn is_dumping_core(pid: i32) -> bool {
    read(pid, "status").is_ok_and(|text| core_dumping(&text))
}

/// A child's private memory in bytes. Not for a child that is stuck in the kernel: this file waits for its memory map.
pub fn private_bytes(pid: i32) -> Option<u64> {
    proc::private_bytes(&read(pid, "smaps_rollup").ok()?)
}

fn path(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// The name is in parentheses and may hold anything, also parentheses and spaces; the state is field 3 of proc(5).
fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    let ticks = |number| field(number).and_then(|text| text.parse::<u64>().ok());
    Some(Stat {
        state: field(3)?.chars().next()?,
        ticks: ticks(14)?.saturating_add(ticks(15)?),
        threads: field(20)?.parse().ok()?,
    })
}

fn core_dumping(status: &str) -> bool {
    status.lines().filter_map(|line| line.strip_prefix("CoreDumping:")).any(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_separates_the_fields() {
        let line = |name, state| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194304 1 2 3 4 300 21 5 6 20 0 9 0 100 1 1 1")
        };
        for (name, state) in [("fg-worker-0", 'R'), ("a) S 1 (b", 'D'), (") (", 't')] {
            let found = stat(&line(name, state));
            assert_eq!(found, Some(Stat { state, ticks: 321, threads: 9 }), "{name}");
        }
        for broken in ["", "7 (x", "7 (x)", "7 (x) R 1 2 3", "7 (x) R 1 7 7 0 -1 4 1 2 3 4 a b 5 6 20 0 9"] {
            assert_eq!(stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_core_is_written_only_when_the_line_says_so() {
        assert!(core_dumping("Name:\tx\nCoreDumping:\t1\nThreads:\t2\n"));
        for other in ["", "CoreDumping:\t0\n", "Name:\tCoreDumping: 1\n"] {
            assert!(!core_dumping(other), "{other}");
        }
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = std::process::id() as i32;
        assert!(main_thread(pid).is_some_and(|stat| stat.threads > 1));
        assert!(main_thread_times(pid).is_some());
        assert!(private_bytes(pid).is_some_and(|bytes| bytes > 4096));
        assert!(!is_dumping_core(pid) && !any_thread_stopped(pid));
        assert_eq!(main_thread(-1), None);
    }
}
