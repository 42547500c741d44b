//! What a hook prints: lines for the log, and never more of them than somebody would read.
//!
//! [`MAX_LINES`] lines of [`MAX_LINE`] bytes are told, the rest is read and dropped. Who prints more than [`LOUD`] is read
//! only now and then, so that it costs the master nothing; it waits meanwhile, as it would for a slow terminal.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Lines of one run that are told.
const MAX_LINES: usize = 100;
/// Bytes of a line that are told.
const MAX_LINE: usize = 500;
/// Bytes of one run after which it is read only now and then.
const LOUD: usize = 64 * 1024;
/// Bytes that are read at a time: what a pipe holds.
const BATCH: usize = 64 * 1024;

/// The reading end of the pipe, and what of it is not told yet.
#[derive(Debug)]
pub struct Output {
    pipe: io::PipeReader,
    line: Vec<u8>,
    lines: usize,
    bytes: usize,
    ended: bool,
}

impl Output {
    /// Of a pipe, which is never waited for.
    pub fn of(pipe: OwnedFd) -> io::Result<Output> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Output { pipe: io::PipeReader::from(pipe), line: Vec::new(), lines: 0, bytes: 0, ended: false })
    }

    /// True for one that is read only now and then.
    pub fn is_loud(&self) -> bool {
        self.bytes > LOUD && !self.ended
    }

    /// Reads what is there, once, and tells its lines; false when nothing more can come.
    pub fn read(&mut self, mut tell: impl FnMut(&str)) -> bool {
        let mut buffer = [0u8; BATCH];
        match self.pipe.read(&mut buffer) {
            Ok(0) => self.end(&mut tell),
            Ok(count) => {
                self.bytes = self.bytes.saturating_add(count);
                self.take(&buffer[..count], &mut tell);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.end(&mut tell),
        }
        !self.ended
    }

    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            let (text, is_whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.tell_line(tell);
            }
        }
    }

    fn tell_line(&mut self, tell: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        match self.lines {
            ..=MAX_LINES => tell(&String::from_utf8_lossy(&line)),
            nth if nth == MAX_LINES + 1 => tell("… and more, which is not told"),
            _ => {}
        }
    }

    fn end(&mut self, tell: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.tell_line(tell);
        }
        self.ended = true;
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn told(output: &mut Output) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let more = output.read(|line| lines.push(line.to_owned()));
        (lines, more)
    }

    #[test]
    fn lines_are_told_when_they_are_whole_and_the_last_one_at_the_end() {
        let (read, mut write) = io::pipe().expect("pipe");
        let mut output = Output::of(read.into()).expect("output");
        assert_eq!(told(&mut output), (Vec::new(), true));
        write.write_all(b"one\ntw").expect("write");
        assert_eq!(told(&mut output), (vec!["one".to_owned()], true));
        write.write_all(b"o\n\xff").expect("write");
        drop(write);
        assert_eq!(told(&mut output), (vec!["two".to_owned()], true));
        assert_eq!(told(&mut output), (vec!["\u{fffd}".to_owned()], false));
    }

    #[test]
    fn long_lines_many_lines_and_loud_ones_are_bounded() {
        let (read, mut write) = io::pipe().expect("pipe");
        let mut output = Output::of(read.into()).expect("output");
        write.write_all(&[b'x'; 3 * MAX_LINE]).expect("write");
        write.write_all(b"\n").expect("write");
        assert_eq!(told(&mut output).0, ["x".repeat(MAX_LINE)]);
        write.write_all("y\n".repeat(MAX_LINES + 50).as_bytes()).expect("write");
        let lines = told(&mut output).0;
        assert_eq!(
            (lines.len(), lines.last().map(String::as_str)),
            (MAX_LINES, Some("… and more, which is not told"))
        );
        assert!(!output.is_loud());
        for _ in 0..3 {
            write.write_all(&[b'z'; LOUD / 2]).expect("write");
            assert_eq!(told(&mut output), (Vec::new(), true), "no line of it is told");
        }
        assert!(output.is_loud() && output.line.len() <= MAX_LINE);
    }
}
