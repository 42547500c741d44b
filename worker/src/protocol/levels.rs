//! Log levels of the protocol (RFC 5424), as small numbers that grow with severity.

const NAMES: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The number of a level: 1 (debug) to 8 (emergency).
pub fn parse(name: &str) -> Option<u8> {
    NAMES.iter().position(|known| *known == name).map(|index| index as u8 + 1)
}

/// The name of a number that [`parse`] gave.
pub fn name(level: u8) -> Option<&'static str> {
    NAMES.get(usize::from(level).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for text in NAMES {
            assert_eq!(parse(text).and_then(name), Some(text));
        }
        assert_eq!((parse("loud"), name(0), name(9)), (None, None, None));
    }
}
