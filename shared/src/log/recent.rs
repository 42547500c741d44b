//! The last lines of this process's log, for a report about it.

use std::collections::VecDeque;
use std::sync::{Mutex, TryLockError};

/// Lines that are kept.
const LINES: usize = 200;
/// Bytes of a line that are kept.
const LINE: usize = 400;

static RECENT: Mutex<Recent> = Mutex::new(Recent(VecDeque::new()));

/// The last lines, the oldest first. Never waits: none when a thread is just writing one, which may be the thread that
/// is stuck.
pub fn last_lines() -> Option<Vec<String>> {
    match RECENT.try_lock() {
        Ok(recent) => Some(recent.0.iter().cloned().collect()),
        Err(TryLockError::Poisoned(recent)) => Some(recent.into_inner().0.iter().cloned().collect()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Keeps a line.
pub(super) fn keep(line: &str) {
    let line = cut(&without_colours(line));
    if let Ok(mut recent) = RECENT.lock() {
        recent.push(line);
    }
}

struct Recent(VecDeque<String>);

impl Recent {
    fn push(&mut self, line: String) {
        while self.0.len() >= LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }
}

fn cut(line: &str) -> String {
    match line.len() > LINE {
        true => format!("{}…", &line[..line.floor_char_boundary(LINE - '…'.len_utf8())]),
        false => line.to_owned(),
    }
}

/// Leaves out the level's colour: the only escape sequences that a line can have.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_long_ones_are_cut() {
        let mut recent = Recent(VecDeque::new());
        for number in 0..LINES + 3 {
            recent.push(number.to_string());
        }
        assert_eq!((recent.0.len(), recent.0[0].as_str()), (LINES, "3"));
        assert_eq!(cut("short"), "short");
        let long = cut(&"ä".repeat(LINE));
        assert!(long.len() <= LINE && long.ends_with('…'), "{}", long.len());
        assert_eq!(without_colours("t \x1b[32mINFO \x1b[0m a: m"), "t INFO  a: m");
    }

    #[test]
    fn what_was_kept_is_read_unless_somebody_writes() {
        keep("one line of this test");
        assert!(last_lines().is_some_and(|lines| lines.iter().any(|line| line == "one line of this test")));
        let writing = RECENT.lock().expect("free");
        assert_eq!(last_lines(), None);
        drop(writing);
    }
}
