//! What a secret must be to be worth the name. No error here carries the secret.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// Shortest signing secret, in characters: HS256 wants a key as long as its hash (RFC 7518 §3.2).
pub const MIN_JWT_SECRET: usize = 32;
/// Fewest different characters of a signing secret; 32 random hex digits have less once in a billion.
const MIN_VARIETY: usize = 6;
/// Length of a session key: AES-256.
pub const SESSION_KEY: usize = 32;
/// Most keys of a ring: two are in use during a rotation, more are tried one by one on every sealed id.
const MAX_SESSION_KEYS: usize = 8;

/// How to make a secret; part of every message about a missing or weak one.
pub const HOW_TO_MAKE: &str = "make one with `openssl rand -hex 32` or `head -c 32 /dev/urandom | base64`";

/// Texts that come from examples and tutorials; a secret that contains one is known to everybody.
const PLACEHOLDERS: [&str; 13] = [
    "my-test-key",
    "changeme",
    "change-me",
    "change_me",
    "change-this",
    "change_this",
    "replace-me",
    "replace_me",
    "your-secret",
    "your_secret",
    "your-jwt",
    "placeholder",
    "example-secret",
];

/// Why a secret is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Shorter than [`MIN_JWT_SECRET`].
    #[error("too short: {0} characters; {HOW_TO_MAKE}")]
    Short(usize),
    /// Contains one of the texts of examples.
    #[error("a well-known placeholder; {HOW_TO_MAKE}")]
    Placeholder,
    /// Hardly any different characters.
    #[error("the same few characters over and over; {HOW_TO_MAKE}")]
    Repetitive,
    /// A session key that is neither hex nor base64 of 32 bytes.
    #[error("key {0} of the list is not {SESSION_KEY} bytes in hex or base64; {HOW_TO_MAKE}")]
    SessionKey(usize),
    /// Too many session keys, or none.
    #[error("{0} keys; between 1 and {MAX_SESSION_KEYS} are needed")]
    SessionKeyCount(usize),
}

/// Refuses secrets that can be guessed.
pub fn check_jwt_secret(secret: &str) -> Result<(), SecretError> {
    let lower = secret.to_lowercase();
    if PLACEHOLDERS.iter().any(|placeholder| lower.contains(placeholder)) {
        return Err(SecretError::Placeholder);
    }
    let length = secret.chars().count();
    if length < MIN_JWT_SECRET {
        return Err(SecretError::Short(length));
    }
    let variety: std::collections::HashSet<char> = secret.chars().collect();
    if variety.len() < MIN_VARIETY { Err(SecretError::Repetitive) } else { Ok(()) }
}

/// The session keys of a list in hex or base64, separated by commas or line ends.
pub fn session_keys(list: &str) -> Result<Vec<[u8; SESSION_KEY]>, SecretError> {
    let keys: Vec<&str> = list.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty()).collect();
    if keys.is_empty() || keys.len() > MAX_SESSION_KEYS {
        return Err(SecretError::SessionKeyCount(keys.len()));
    }
    let decoded =
        keys.iter().zip(1..).map(|(key, position)| session_key(key).ok_or(SecretError::SessionKey(position)));
    decoded.collect()
}

fn session_key(text: &str) -> Option<[u8; SESSION_KEY]> {
    if text.len() == 2 * SESSION_KEY && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut key = [0u8; SESSION_KEY];
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        return Some(key);
    }
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.iter().find_map(|engine| engine.decode(text).ok()?.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_that_nobody_can_guess_pass() {
        assert_eq!(check_jwt_secret("c29tZXRoaW5nIHRoYXQgbm9ib2R5IGtub3dzIHlldA"), Ok(()));
        assert_eq!(check_jwt_secret("5f1d0c3a9b7e62845f1d0c3a9b7e6284"), Ok(()));
        assert_eq!(check_jwt_secret("short"), Err(SecretError::Short(5)));
        for text in [
            "my-test-key",
            "my-test-key-but-now-longer-than-32-bytes",
            "ChangeMe",
            "CHANGE_ME_CHANGE_ME_CHANGE_ME_0123",
        ] {
            assert_eq!(check_jwt_secret(text), Err(SecretError::Placeholder), "{text}");
        }
        assert_eq!(check_jwt_secret(&"x".repeat(40)), Err(SecretError::Repetitive));
        assert_eq!(check_jwt_secret(&"abab".repeat(10)), Err(SecretError::Repetitive));
    }

    #[test]
    fn session_keys_are_32_bytes_each() {
        let hex = "0f".repeat(32);
        let base64 = STANDARD.encode([7u8; 32]);
        let url = URL_SAFE_NO_PAD.encode([0xffu8; 32]);
        assert_eq!(
            session_keys(&format!("{hex}, {base64},{url}\n")),
            Ok(vec![[0x0f; 32], [7; 32], [0xff; 32]])
        );
        assert_eq!(session_keys(&format!("{hex},abc")), Err(SecretError::SessionKey(2)));
        assert_eq!(session_keys(&STANDARD.encode([7u8; 16])), Err(SecretError::SessionKey(1)));
        assert_eq!(session_keys(" , "), Err(SecretError::SessionKeyCount(0)));
    }
}
