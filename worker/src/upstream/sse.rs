//! Server-sent events as they arrive, in pieces of any size (HTML Living Standard, "Interpreting an event stream").
//!
//! Bounded: an event's data, counted with its unfinished line, never exceeds the limit that the parser was made with.

use std::collections::VecDeque;

/// Takes bytes, gives the data of `message` events. Ids are not kept: a broken stream of a call is not resumed.
pub struct Parser {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// Name of the event, when it is another than `message`.
    is_other: bool,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_cr: bool,
    at_start: bool,
    events: VecDeque<Vec<u8>>,
}

/// An event is larger than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than the limit")]
pub struct TooLarge;

impl Parser {
    /// A parser for events of at most `limit` bytes.
    pub fn new(limit: usize) -> Parser {
        Parser {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_other: false,
            after_cr: false,
            at_start: true,
            events: VecDeque::new(),
        }
    }

    /// Takes what arrived; complete events are then given by [`Parser::take_event`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                return self.grow_line(bytes);
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.check(end)?;
                self.take_line(&bytes[..end]);
            } else {
                self.grow_line(&bytes[..end])?;
                let line = std::mem::take(&mut self.line);
                self.take_line(&line);
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The data of the next complete event. Never one without data.
    pub fn take_event(&mut self) -> Option<Vec<u8>> {
        self.events.pop_front()
    }

    fn check(&self, more: usize) -> Result<(), TooLarge> {
        if self.data.len() + self.line.len() + more > self.limit { Err(TooLarge) } else { Ok(()) }
    }

    fn grow_line(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.check(bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) {
        let line = if std::mem::take(&mut self.at_start) {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        } else {
            line
        };
        if line.is_empty() {
            self.end_event();
            return;
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.is_other = !matches!(value, b"message" | b""),
            // `id`, `retry`, comments, and what the standard does not know.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let data = std::mem::take(&mut self.data);
        let is_other = std::mem::take(&mut self.is_other);
        self.has_data = false;
        if !is_other && !data.is_empty() {
            self.events.push_back(data);
        }
    }
}

/// Writes a message as one event. A text with line ends becomes several `data` lines, which mean the same text.
pub fn write_event(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 32);
    out.extend_from_slice(b"event: message\n");
    // JSON's own line ends stand only between tokens: any spelling of them will do.
    for line in message.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(parser: &mut Parser) -> Vec<String> {
        std::iter::from_fn(|| parser.take_event())
            .map(|data| String::from_utf8(data).expect("UTF-8"))
            .collect()
    }

    #[test]
    fn the_standard_by_example() {
        for (text, want) in [
            ("data: a\n\n", &["a"][..]),
            ("data:a\r\n\r\n", &["a"]),
            ("data:a\r\rdata:b\r\r", &["a", "b"]),
            ("\u{feff}data: a\n\n", &["a"]),
            (": comment\n\ndata: a\ndata:  b\n\n", &["a\n b"]),
            ("id: 1\ndata:\n\n", &[]),
            ("retry: 5\n\n", &[]),
            ("event: endpoint\ndata: /x\n\nevent: message\ndata: a\n\n", &["a"]),
            ("data\ndata: x\n\n", &["\nx"]),
            ("data: unfinished\n", &[]),
        ] {
            let mut parser = Parser::new(1000);
            parser.push(text.as_bytes()).expect("fits");
            assert_eq!(all(&mut parser), want, "{text:?}");
        }
    }

    #[test]
    fn an_event_over_the_limit_is_refused_wherever_it_is_cut() {
        let text = format!("data: {}\ndata: {}\n\n", "a".repeat(60), "b".repeat(60));
        for chunk in 1..text.len() {
            let mut parser = Parser::new(100);
            let pushed = text.as_bytes().chunks(chunk).try_for_each(|bytes| parser.push(bytes));
            assert_eq!(pushed, Err(TooLarge), "in pieces of {chunk}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(lines in prop::collection::vec("(data|event|id|)(: ?|)[a-z]{0,6}|", 0..20), ends in prop::collection::vec(0usize..3, 20), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let text: String = lines.iter().zip(ends).map(|(line, end)| format!("{line}{}", ["\n", "\r", "\r\n"][end])).collect();
            let mut whole = Parser::new(10_000);
            whole.push(text.as_bytes()).expect("fits");
            let want = all(&mut whole);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Parser::new(10_000);
            let mut at = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text.as_bytes()[at..cut]).expect("fits");
                at = cut;
            }
            prop_assert_eq!(&all(&mut pieces), &want);
            let mut bytes = Parser::new(10_000);
            for byte in text.as_bytes() { bytes.push(&[*byte]).expect("fits"); }
            prop_assert_eq!(&all(&mut bytes), &want);
        }

        #[test]
        fn what_is_written_is_read(text in "[ -~\n]{1,80}") {
            let mut parser = Parser::new(10_000);
            parser.push(&write_event(text.as_bytes())).expect("fits");
            prop_assert_eq!(all(&mut parser), vec![text]);
        }
    }
}
