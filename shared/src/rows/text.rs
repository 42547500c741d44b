//! A short text in shared memory, readable while it is written and after its writer died.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A text of at most `8 * WORDS` bytes; a longer one is cut. Whoever reads it while it is written may see a mixture of
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

    /// Reads the text. Its bytes are untrusted: what is no UTF-8 or a control character is replaced.
    pub fn get(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_fit_and_a_shorter_one_replaces_a_longer_one() {
        let text = Text::<2>::default();
        for (set, got) in [
            ("0123456789abcdefXYZ", "0123456789abcdef"),
            ("01234567", "01234567"),
            ("abc", "abc"),
            ("", ""),
            ("a\nb", "a\u{fffd}b"),
        ] {
            text.set(set);
            assert_eq!(text.get(), got);
        }
    }
}
