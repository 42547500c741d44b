//! What this process has open: descriptors counted by kind, TCP sockets by state.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::{Duration, Instant};

/// Lines of a table of the kernel that are read.
const MAX_LINES: usize = 20_000;
/// Descriptors that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;
/// For all of it.
pub(super) const LIMIT: Duration = Duration::from_millis(300);

/// States of a TCP socket by their number in `/proc/net/tcp` (`enum` in the kernel's `tcp_states.h`).
const TCP_STATES: [&str; 13] = [
    "unknown",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// Counts by kind: `tcp ESTABLISHED`, `unix`, `file`, `pipe`, `eventfd`, ….
///
/// A `socket` is of another kind, or not connected and not listening, or beyond the lines that are read.
pub(super) fn count() -> io::Result<BTreeMap<String, u64>> {
    let deadline = Instant::now() + LIMIT;
    let states = sockets(deadline);
    let mut counts = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.take(MAX_DESCRIPTORS) {
        if Instant::now() > deadline {
            break;
        }
        // The descriptor of this very listing is gone again before it is looked at.
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else { continue };
        *counts.entry(kind(&target.to_string_lossy(), &states)).or_insert(0) += 1;
    }
    Ok(counts)
}

fn kind(target: &str, sockets: &HashMap<u64, String>) -> String {
    if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        let known = inode.parse().ok().and_then(|inode: u64| sockets.get(&inode).cloned());
        return known.unwrap_or_else(|| "socket".to_owned());
    }
    let kind = match target {
        _ if target.starts_with("pipe:[") => "pipe",
        _ if target.starts_with("/memfd:") => "memfd",
        _ if target.starts_with("/dev/") => "device",
        _ if target.starts_with('/') => "file",
        // `anon_inode:[eventfd]`
        _ => match target.strip_prefix("anon_inode:") {
            Some(name) => name.trim_matches(['[', ']']),
            None => "other",
        },
    };
    kind.to_owned()
}

/// Reads inode and name of a socket out of a line of its table.
type Line = fn(&str) -> Option<(u64, String)>;

/// The sockets of this process's network, by inode.
fn sockets(deadline: Instant) -> HashMap<u64, String> {
    let mut known = HashMap::new();
    let tables: [(&str, Line); 3] = [("tcp", tcp_line), ("tcp6", tcp_line), ("unix", unix_line)];
    let mut lines_left = MAX_LINES;
    for (table, parse) in tables {
        let Ok(file) = File::open(format!("/proc/self/net/{table}")) else { continue };
        for line in BufReader::new(file).lines().map_while(Result::ok).skip(1) {
            if lines_left == 0 || Instant::now() > deadline {
                return known;
            }
            lines_left -= 1;
            known.extend(parse(&line));
        }
    }
    known
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`; inode 0 belongs to nobody any more.
fn tcp_line(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_ascii_whitespace();
    let state = usize::from_str_radix(words.nth(3)?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok().filter(|inode| *inode != 0)?;
    Some((inode, format!("tcp {}", TCP_STATES.get(state).unwrap_or(&TCP_STATES[0]))))
}

/// `Num RefCount Protocol Flags Type St Inode Path`.
fn unix_line(line: &str) -> Option<(u64, String)> {
    let inode = line.split_ascii_whitespace().nth(6)?.parse().ok()?;
    Some((inode, "unix".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "   1: 0100007F:115C 0100007F:9C40 08 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20";
        assert_eq!(tcp_line(line), Some((4711, "tcp CLOSE_WAIT".to_owned())));
        assert_eq!(tcp_line(&line.replace("4711", "0")), None);
        assert_eq!(tcp_line("  sl  local_address"), None);
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 815 /run/x.sock";
        assert_eq!(unix_line(line), Some((815, "unix".to_owned())));
        let sockets = HashMap::from([(7, "tcp LISTEN".to_owned())]);
        for (target, name) in [
            ("socket:[7]", "tcp LISTEN"),
            ("socket:[8]", "socket"),
            ("anon_inode:[eventpoll]", "eventpoll"),
            ("anon_inode:inotify", "inotify"),
            ("/memfd:forkgate-rows (deleted)", "memfd"),
            ("/dev/null", "device"),
            ("/a/b", "file"),
            ("pipe:[3]", "pipe"),
            ("strange", "other"),
        ] {
            assert_eq!(kind(target, &sockets), name);
        }
    }

    #[test]
    fn this_process_s_sockets_have_states() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let counts = count().expect("readable");
        assert!(counts["tcp LISTEN"] >= 1 && counts["tcp ESTABLISHED"] >= 1, "{counts:?}");
    }
}
