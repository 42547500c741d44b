//! CPU and memory of process trees, from /proc.

use std::collections::{HashMap, HashSet};

/// A named set of process trees.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub roots: Vec<i32>,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// User and system time of all live processes of the group.
    pub cpu_s: f64,
    pub rss_kb: u64,
    /// Proportional set size: shared pages counted once over all sharers.
    pub pss_kb: u64,
    pub procs: usize,
    pub threads: u64,
    pub fds: usize,
}

impl Group {
    /// `NAME=PID[+PID..]`
    pub fn parse(s: &str) -> Result<Group, String> {
        let bad = || format!("'{s}' is not NAME=PID[+PID..]");
        let (name, pids) = s.split_once('=').ok_or_else(bad)?;
        let roots: Result<Vec<i32>, _> = pids.split('+').map(str::parse).collect();
        Ok(Group { name: name.into(), roots: roots.map_err(|_| bad())? })
    }

    pub fn usage(&self) -> Usage {
        let stats = all_stats();
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for (pid, st) in &stats {
            children.entry(st.ppid).or_default().push(*pid);
        }
        let mut todo = self.roots.clone();
        let mut seen = HashSet::new();
        let mut u = Usage::default();
        while let Some(pid) = todo.pop() {
            if !seen.insert(pid) {
                continue;
            }
            let Some(st) = stats.get(&pid) else { continue };
            todo.extend(children.get(&pid).into_iter().flatten());
            u.cpu_s += st.cpu_s;
            u.threads += st.threads;
            u.procs += 1;
            let (rss, pss) = memory(pid);
            u.rss_kb += rss;
            u.pss_kb += pss;
            u.fds += std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        }
        u
    }
}

struct Stat {
    ppid: i32,
    cpu_s: f64,
    threads: u64,
}

fn all_stats() -> HashMap<i32, Stat> {
    let tick = tick();
    let Ok(dir) = std::fs::read_dir("/proc") else { return HashMap::new() };
    dir.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse_stat(&text, tick)?))
        })
        .collect()
}

fn tick() -> f64 {
    // SAFETY: sysconf only reads its argument.
    let t = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if t > 0 {
        t as f64
    } else {
        100.0
    }
}

/// The fields after the parenthesised command name, which may itself contain anything.
fn parse_stat(text: &str, tick: f64) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let f: Vec<&str> = rest.split_whitespace().collect();
    let num = |i: usize| f.get(i).and_then(|v| v.parse::<u64>().ok());
    Some(Stat {
        ppid: f.get(1)?.parse().ok()?,
        cpu_s: (num(11)? + num(12)?) as f64 / tick,
        threads: num(17)?,
    })
}

fn memory(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (field("Rss:"), field("Pss:"))
}

/// CPU seconds of this process.
pub fn own_cpu() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Raises the soft limit of open files to the hard limit.
pub fn raise_file_limit() {
    let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `l` is a valid rlimit to read into and to write from.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut l) == 0 {
            l.rlim_cur = l.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &l);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_past_odd_names() {
        let line = "12 (a) b (c)) S 7 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 3 0 0 0 0";
        let s = parse_stat(line, 100.0).unwrap();
        assert_eq!((s.ppid, s.threads), (7, 3));
        assert!((s.cpu_s - 3.0).abs() < 1e-9);
    }

    #[test]
    fn groups_are_parsed() {
        let g = Group::parse("gw=1+22").unwrap();
        assert_eq!((g.name.as_str(), g.roots.as_slice()), ("gw", &[1, 22][..]));
        assert!(Group::parse("gw").is_err());
        assert!(Group::parse("gw=x").is_err());
    }

    #[test]
    fn own_process_has_usage() {
        let g = Group { name: "self".into(), roots: vec![std::process::id() as i32] };
        let u = g.usage();
        assert!(u.rss_kb > 0 && u.procs >= 1 && u.fds > 0);
    }
}
