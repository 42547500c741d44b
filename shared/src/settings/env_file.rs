//! Env files, as systemd's `EnvironmentFile=` and ContextForge's `.env` write them: what both accept means the same here.
//!
//! | written | value |
//! |---|---|
//! | `NAME=value`, `export NAME = value` | `value`, white space around it dropped |
//! | `NAME="a b"` | `a b`; `\"` `\\` `\$` `` \` `` `\n` `\t` are unescaped; may span lines |
//! | `NAME='a b'` | `a b`, nothing is unescaped; may span lines |
//! | `NAME=value  # why` | `value`: a `#` after white space begins a comment |
//! | `NAME=a\` + next line | both lines joined |
//! | `# …`, `; …`, empty | nothing |
//!
//! Nothing is expanded: `${OTHER}` stays as it is, as in systemd. Where the two disagree, `.env` is followed: systemd has
//! no comments after a value, and unescapes backslashes outside quotes.

/// One assignment. The value is not shown by `Debug`, it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name as written.
    pub name: String,
    /// The value, unquoted.
    pub value: String,
    /// Line of the name, from 1.
    pub line: usize,
}

/// A line that is none of the above. Never carries the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadLine {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: Fault,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No `=`.
    #[error("expected NAME=VALUE")]
    NoAssignment,
    /// A name with other characters than letters, digits and `_`, or a digit in front.
    #[error("the name before = is not one (letters, digits and _ only)")]
    Name,
    /// A quote that is never closed.
    #[error("the quote that opens here is never closed")]
    Unclosed,
    /// Something after the closing quote.
    #[error("there is text after the closing quote")]
    AfterQuote,
    /// A NUL byte.
    #[error("there is a NUL byte in the value")]
    Nul,
}

/// All assignments in order, and all bad lines: one run shows everything.
pub fn parse(text: &str) -> (Vec<Assignment>, Vec<BadLine>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines { lines: text.lines().collect(), next: 0 };
    let (mut assignments, mut bad) = (Vec::new(), Vec::new());
    while let Some((line, content)) = lines.take() {
        let content = content.trim_start();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        match assignment(line, content, &mut lines) {
            Ok(assignment) => assignments.push(assignment),
            Err(what) => bad.push(BadLine { line, what }),
        }
    }
    (assignments, bad)
}

/// Lines not yet read.
struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

impl<'a> Lines<'a> {
    /// The next line and its number.
    fn take(&mut self) -> Option<(usize, &'a str)> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((self.next, line))
    }
}

fn assignment(line: usize, content: &str, lines: &mut Lines<'_>) -> Result<Assignment, Fault> {
    let content = match content.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => content,
    };
    let (name, value) = content.split_once('=').ok_or(Fault::NoAssignment)?;
    let name = name.trim_end();
    if !is_name(name) {
        return Err(Fault::Name);
    }
    let value = value.trim_start();
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(quote, &value[1..], lines)?,
        _ => unquoted(value, lines),
    };
    if value.contains('\0') {
        return Err(Fault::Nul);
    }
    Ok(Assignment { name: name.to_owned(), value, line })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The rest of a value after its opening quote. When the quote is never closed, only its own line is given up, so that
/// later lines are still read.
fn quoted(quote: char, first: &str, lines: &mut Lines<'_>) -> Result<String, Fault> {
    let after_this_line = lines.next;
    let mut value = String::new();
    let mut current = first;
    loop {
        if let Some(rest) = copy_until(quote, current, &mut value) {
            let rest = rest.trim_start();
            return if rest.is_empty() || rest.starts_with('#') { Ok(value) } else { Err(Fault::AfterQuote) };
        }
        value.push('\n');
        match lines.take() {
            Some((_, line)) => current = line,
            None => {
                lines.next = after_this_line;
                return Err(Fault::Unclosed);
            }
        }
    }
}

/// Copies up to the closing quote and gives what follows it; none when the line ends first.
fn copy_until<'a>(quote: char, line: &'a str, value: &mut String) -> Option<&'a str> {
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some(&line[at + c.len_utf8()..]);
        }
        if c != '\\' || quote == '\'' {
            value.push(c);
            continue;
        }
        let unescaped = match chars.peek() {
            Some((_, next @ ('"' | '\\' | '$' | '`'))) => Some(*next),
            Some((_, 'n')) => Some('\n'),
            Some((_, 't')) => Some('\t'),
            _ => None,
        };
        if unescaped.is_some() {
            chars.next();
        }
        value.push(unescaped.unwrap_or('\\'));
    }
    None
}

fn unquoted(first: &str, lines: &mut Lines<'_>) -> String {
    let mut value = String::new();
    let mut current = first;
    loop {
        let commented = comment_start(current).map(|at| &current[..at]);
        match (commented, current.strip_suffix('\\')) {
            (None, Some(begun)) => {
                value.push_str(begun);
                match lines.take() {
                    Some((_, line)) => current = line.trim(),
                    None => break,
                }
            }
            (text, _) => {
                value.push_str(text.unwrap_or(current));
                break;
            }
        }
    }
    value.trim_end().to_owned()
}

/// Where a comment begins: a `#` in front or after white space.
fn comment_start(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| bytes[at] == b'#' && (at == 0 || bytes[at - 1].is_ascii_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<(String, String), Fault> {
        let (good, bad) = parse(text);
        match (good.into_iter().next(), bad.first()) {
            (_, Some(bad)) => Err(bad.what),
            (Some(good), None) => Ok((good.name, good.value)),
            (None, None) => Ok((String::new(), String::new())),
        }
    }

    #[test]
    fn the_table_of_the_module_doc_holds() {
        for (text, value) in [
            ("A=value", "value"),
            ("  export  A = value  ", "value"),
            ("A=", ""),
            ("A=\"\"", ""),
            ("A=\"a b\" # why", "a b"),
            (r#"A="q\" b\\ d\$ n\n x\x""#, "q\" b\\ d$ n\n x\\x"),
            (r"A='a \n $b'", r"a \n $b"),
            ("A=value  # why", "value"),
            ("A=val#ue", "val#ue"),
            ("A=# why", ""),
            ("A=one\\\n  two", "onetwo"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("\u{feff}A=value\r\n", "value"),
            ("A=sqlite:///./mcp.db?x=1", "sqlite:///./mcp.db?x=1"),
            ("A=[\"a\",\"b\"]", "[\"a\",\"b\"]"),
        ] {
            assert_eq!(one(text), Ok(("A".to_owned(), value.to_owned())), "{text:?}");
        }
        assert_eq!(parse("# c\n; c\n\n   \n"), (Vec::new(), Vec::new()));
    }

    #[test]
    fn bad_lines_are_named_and_do_not_hide_the_rest() {
        let (good, bad) = parse("JUST_A_NAME\nA=1\n1B=2\nC-D=3\nE=\"open\nF='x' y\nG=7\n");
        let names: Vec<_> = good.iter().map(|a| (a.name.as_str(), a.line)).collect();
        assert_eq!(names, [("A", 2), ("G", 7)]);
        let lines: Vec<_> = bad.iter().map(|b| (b.line, b.what)).collect();
        assert_eq!(
            lines,
            [
                (1, Fault::NoAssignment),
                (3, Fault::Name),
                (4, Fault::Name),
                (5, Fault::Unclosed),
                (6, Fault::AfterQuote)
            ]
        );
        assert_eq!(bad[0].to_string(), "line 1: expected NAME=VALUE");
    }

    impl std::fmt::Debug for Assignment {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}={:?}:{}", self.name, self.value, self.line)
        }
    }
}
