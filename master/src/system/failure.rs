//! How a child ended: what the supervisor decides by, and what people are told.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::pidfd::Ending;
use super::report::how;
use crate::supervisor::End;

/// By this code a child says that the settings do not work here.
const EXIT_SETTINGS: i32 = 4;
/// Characters of a child's last words that tell one cause from another; behind them may stand what is different each time.
const SIGNIFICANT: usize = 120;
/// Longest text for people, in bytes: a line of a log, or of `systemctl status`.
const MAX_TEXT: usize = 400;

/// What is remembered of a child's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `exit code 4`, `signal SIGSEGV`, and by whose hand where that is known.
    pub how: String,
    /// What the child said itself: a line about a boot that failed, or about a panic.
    pub words: Option<String>,
}

impl Failure {
    /// One line: how, then the child's own words.
    pub fn text(&self) -> String {
        let mut text = match &self.words {
            Some(words) => format!("{}: {words}", self.how),
            None => self.how.clone(),
        };
        text.retain(|c| !c.is_control());
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text
    }
}

/// What the supervisor is told.
pub fn end_of(ending: Ending, words: Option<&str>) -> End {
    End {
        clean: ending == Ending::Code(0),
        refused_settings: ending == Ending::Code(EXIT_SETTINGS),
        by_others: is_by_others(ending),
        signature: signature(ending, words),
    }
}

/// True for somebody's order, the kernel's included: it says nothing of the program. A worker that gets one while it boots
/// leaves with 128 and the signal's number.
fn is_by_others(ending: Ending) -> bool {
    let orders = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
    match ending {
        Ending::Signal(signal) => orders.contains(&signal),
        Ending::Code(code) => orders.contains(&(code - 128)),
    }
}

/// Equal for ends of the same cause. Digits do not count: process ids, addresses and times differ each time.
fn signature(ending: Ending, words: Option<&str>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match ending {
        Ending::Code(..=0) => return None,
        ending if is_by_others(ending) => return None,
        ending => how(ending).hash(&mut hasher),
    }
    let words = words.unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).take(SIGNIFICANT);
    words.for_each(|c| c.hash(&mut hasher));
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_one_cause_are_alike_and_others_are_not() {
        let panic = |pid: u32| format!("panicked at src/a.rs:7:5: no row for pid {pid}");
        let alike =
            [Some(panic(4711)), Some(panic(12))].map(|words| end_of(Ending::Code(101), words.as_deref()));
        assert_eq!(alike[0], alike[1]);
        let others = [
            end_of(Ending::Code(101), None),
            end_of(Ending::Code(101), Some("panicked at src/b.rs:7:5: no row for pid 12")),
            end_of(Ending::Code(3), Some(&panic(12))),
            end_of(Ending::Signal(libc::SIGSEGV), None),
            end_of(Ending::Signal(libc::SIGABRT), None),
        ];
        for (index, end) in others.iter().enumerate() {
            assert!(end.signature.is_some() && end.signature != alike[0].signature, "{end:?}");
            assert!(others[..index].iter().all(|other| other.signature != end.signature), "{end:?}");
        }
    }

    #[test]
    fn an_end_by_somebodys_order_is_like_no_other() {
        for ending in [Ending::Signal(libc::SIGKILL), Ending::Code(0), Ending::Code(-1)] {
            assert_eq!(end_of(ending, Some("words")).signature, None, "{ending}");
        }
        assert!(end_of(Ending::Code(0), None).clean && !end_of(Ending::Code(3), None).clean);
        assert!(end_of(Ending::Code(4), None).refused_settings);
        assert!(!end_of(Ending::Signal(4), None).refused_settings);
    }

    #[test]
    fn a_failure_is_one_line_of_bounded_length() {
        let failure = |words: &str| Failure { how: "exit code 4".to_owned(), words: Some(words.to_owned()) };
        assert_eq!(failure("settings: no\nkey").text(), "exit code 4: settings: nokey");
        assert!(failure(&"ä".repeat(1000)).text().len() <= MAX_TEXT);
        assert_eq!(Failure { how: "signal SIGSEGV".to_owned(), words: None }.text(), "signal SIGSEGV");
    }
}
