//! A report against a golden file, and the words of the first line.

use super::*;

fn fixture() -> Report {
    serde_json::from_str(include_str!("../../fixtures/spin.json")).expect("a report")
}

#[test]
fn a_report_reads_as_in_the_golden_file() {
    let text = render(&fixture(), Style::default());
    let golden = include_str!("../../fixtures/spin.txt");
    assert!(text == golden, "this is what it reads like now:\n{text}");
}

#[test]
fn only_headings_are_bold_and_only_for_a_terminal() {
    let text = render(&fixture(), Style { bold: true });
    assert!(text.contains("\n\x1b[1mlikely culprit\x1b[0m\n"));
    assert!(!render(&fixture(), Style::default()).contains('\x1b'), "what a client sent colours nothing");
}

#[test]
fn the_first_line_says_what_happened() {
    let who = "worker 1 (pid 4711, child 4, 9 min old)";
    for (verdict, enforced, line) in [
        (
            Verdict::Spin,
            true,
            "was killed: its event loop was busy for 15 s and did 0.3 units of work per busy second (spin)",
        ),
        (
            Verdict::StallBlocked,
            false,
            "would have been killed (GATEWAY_WATCHDOG=observe): one poll has not returned for 15 s and waits \
             without using a CPU (stall_blocked)",
        ),
        (Verdict::Silent, true, "was killed: its watchdog has not been heard for 15 s (silent)"),
        (
            Verdict::Memory,
            true,
            "was killed: its private memory was 9.0 MiB and over its limit for 15 s (memory)",
        ),
    ] {
        let report = Report { cause: Cause::Verdict { verdict, enforced }, ..fixture() };
        assert_eq!(super::verdict(&report), format!("{who} {line}"));
    }
    let died = Report { cause: Cause::Died { how: "signal SIGSEGV".to_owned() }, ..fixture() };
    assert_eq!(super::verdict(&died), format!("{who} died: signal SIGSEGV"));
}

#[test]
fn a_report_without_anything_is_still_told() {
    let cause = Cause::Died { how: "exit code 1".to_owned() };
    let worker = WorkerFacts::default();
    let bare = Report {
        cause,
        worker,
        since_s: None,
        culprits: vec![],
        evidence: vec![],
        outside: None,
        in_flight: vec![],
        inside: None,
        ..fixture()
    };
    let text = render(&bare, Style::default());
    for words in ["died: exit code 1", "not known", "no request was in flight", "could not tell any more"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn what_a_client_sent_neither_colours_nor_turns_a_line() {
    let mut report = fixture();
    report.in_flight[0].caller = "al\u{1b}[31mice\u{202e}gnp\u{2066}".to_owned();
    let text = render(&report, Style::default());
    assert!(text.contains("al\u{fffd}[31mice\u{fffd}gnp\u{fffd}") && !text.contains('\u{202e}'), "{text}");
}
