//! Lines that fit. Widths are those of a terminal's cells: some characters take two, some none.

use ratatui::text::Span;

/// Cells that a text takes.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, or as much of it as fits with a sign that it was cut.
pub fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(room) = room.checked_sub(1) else { return String::new() };
    let (kept, _) = split(text, room);
    if width(kept) > room { "…".to_owned() } else { format!("{kept}…") }
}

/// The text in lines of at most `room` cells, broken at spaces where that is possible; what follows is indented like the text, by
/// two more.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let indent = text.len() - text.trim_start().len();
    // Room for a wide character stays.
    let indent = " ".repeat((indent + 2).min(room / 2).min(room.saturating_sub(2)));
    let mut lines = Vec::new();
    let mut rest = text.to_owned();
    while width(&rest) > room {
        let (head, tail) = split(&rest, room.max(1));
        // Not within the indentation: nothing would be gained.
        let start = rest.len() - rest.trim_start().len();
        let within = head.rfind(' ').filter(|at| *at > start && !tail.starts_with(' '));
        let at = within.unwrap_or(head.len());
        let tail = rest[at..].trim_start().to_owned();
        lines.push(rest[..at].trim_end().to_owned());
        if tail.is_empty() {
            return lines;
        }
        rest = format!("{indent}{tail}");
    }
    lines.push(rest);
    lines
}

/// What fits, at least one character, and the rest.
fn split(text: &str, room: usize) -> (&str, &str) {
    let mut taken = 0;
    let mut bytes = [0; 4];
    for (at, c) in text.char_indices() {
        taken += width(c.encode_utf8(&mut bytes));
        if taken > room && at > 0 {
            return text.split_at(at);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_by_cells() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 5), "long…");
        assert_eq!(cut("漢字漢字", 6), "漢字…");
        assert_eq!((cut("xyz", 0), cut("xyz", 1), cut("漢字", 2)), (String::new(), "…".into(), "…".into()));
    }

    #[test]
    fn lines_break_at_spaces_and_keep_their_indentation() {
        assert_eq!(wrap("one", 10), ["one"]);
        assert_eq!(wrap("", 10), [""]);
        assert_eq!(wrap("one two three", 9), ["one two", "  three"]);
        assert_eq!(wrap("  a: one two three", 12), ["  a: one two", "    three"]);
        assert_eq!(wrap("unbreakable", 6), ["unbrea", "  kabl", "  e"]);
        for line in ["      deep and deeper and deepest", "漢字漢字漢字漢字", "a b c d e f g h i j"] {
            for room in 1..12 {
                let lines = wrap(line, room);
                assert!(lines.iter().all(|line| width(line) <= room.max(2)), "{room}: {lines:?}");
                let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
                assert_eq!(letters(&lines.concat()), letters(line), "nothing is lost");
            }
        }
    }
}
