//! A short text in shared memory, readable while it is written and after its writer died.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Marks that a text was cut.
const CUT: &str = "…";

/// A text of at most `8 * WORDS` bytes; a longer one is cut and ends with `…`. Whoever reads it while it is written may see a mixture of
/// two texts, never anything but text.
#[derive(Debug)]
#[repr(transparent)]
pub struct Text<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Default for Text<WORDS> {
    fn default() -> Self {
        Text([const { AtomicU64::new(0) }; WORDS])
    }
}

impl<const WORDS: usize> Text<WORDS> {
    /// Writes `text`, cut to fit.
    pub fn set(&self, text: &str) {
        if text.len() > 8 * WORDS {
            let kept = &text[..text.floor_char_boundary(8 * WORDS - CUT.len())];
            let mut bytes = kept.bytes().chain(CUT.bytes());
            for word in &self.0 {
                word.store(u64::from_ne_bytes([0; 8].map(|_| bytes.next().unwrap_or(0))), Relaxed);
            }
            return;
        }
        let mut bytes = text.as_bytes().chunks(8);
        for word in &self.0 {
            let chunk = bytes.next().unwrap_or_default();
            let value = match <[u8; 8]>::try_from(chunk) {
                Ok(whole) => u64::from_ne_bytes(whole),
                Err(_) => {
                    let mut part = [0; 8];
                    part[..chunk.len()].copy_from_slice(chunk);
                    u64::from_ne_bytes(part)
                }
            };
            word.store(value, Relaxed);
            if chunk.len() < 8 {
                return;
            }
        }
    }

    /// Reads the text. Its bytes are untrusted: what is no UTF-8 or [`misleads`] is replaced.
    pub fn get(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        harmless(&text)
    }
}

/// True for characters that make a terminal show something else than what is there: control characters, and those that
/// turn the direction of writing or end a line without being control characters.
pub fn misleads(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The text with each character that [`misleads`] replaced.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if misleads(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_fit_and_a_shorter_one_replaces_a_longer_one() {
        let text = Text::<2>::default();
        for (set, got) in [
            ("0123456789abcdefXYZ", "0123456789abc…"),
            ("0123456789abcdef", "0123456789abcdef"),
            ("0123456789abäXYZ", "0123456789ab…"),
            ("0123456789ab…XYZ", "0123456789ab…"),
            ("01234567", "01234567"),
            ("abc", "abc"),
            ("", ""),
            ("a\nb", "a\u{fffd}b"),
            ("a\u{202e}b\u{2066}c", "a\u{fffd}b\u{fffd}c"),
            ("\u{200f}\u{2028}", "\u{fffd}\u{fffd}"),
        ] {
            text.set(set);
            assert_eq!(text.get(), got);
        }
    }
}
