//! Sealed tokens: values that a client carries for us and cannot read, change or make.
//!
//! AES-256-GCM-SIV under a key ring: the first key seals, every key opens, so a key can be rotated without ending a
//! session. A token is `base64url(kid ‖ nonce ‖ ciphertext ‖ tag)`; its purpose is authenticated with it, so a token
//! made for one purpose opens for no other.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::settings::Settings;
use crate::settings::secrets::{SESSION_KEY, SecretError, session_keys};

/// Longest token that is looked at, in bytes; ours are far shorter, and no client makes us decode more.
const MAX_TOKEN: usize = 4096;
const TAG_BYTES: usize = 16;
const KEY_FILE: &str = "session.keys";

/// A ring of AEAD keys.
pub struct KeyRing {
    /// Never empty.
    keys: Vec<RingKey>,
}

struct RingKey {
    /// Derived from the key itself, so that it stays the same wherever the key stands in the ring.
    kid: u8,
    aead: LessSafeKey,
}

/// Why a token does not open. Deliberately one case: a client learns nothing from it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token was not sealed by this gateway, or for another purpose")]
pub struct NotOurs;

/// Why there is no key ring.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The list of keys cannot be used.
    #[error("{origin}: {source}")]
    Keys {
        /// The setting or the file.
        origin: String,
        /// What is wrong with it.
        source: SecretError,
    },
    /// The key file could not be read or made.
    #[error("{}: {source}; the state directory must be writable, or set GATEWAY_SESSION_KEYS", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The system gave no random bytes, or the library refused a key.
    #[error("the cryptographic library failed")]
    Crypto,
}

impl From<aws_lc_rs::error::Unspecified> for KeyRingError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        KeyRingError::Crypto
    }
}

/// The length that HKDF is asked for.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl KeyRing {
    /// The ring of `GATEWAY_SESSION_KEYS`; without it the one in `<state_dir>/session.keys`, which is minted (0600) when
    /// absent. Any number of processes may do this at once: all of them end with the same keys.
    pub fn load(settings: &Settings) -> Result<KeyRing, KeyRingError> {
        match &settings.session_keys {
            Some(keys) => KeyRing::parse(keys.expose(), "GATEWAY_SESSION_KEYS"),
            None => KeyRing::load_or_mint(&settings.state_dir.join(KEY_FILE)),
        }
    }

    /// Whether [`KeyRing::load`] will work, without minting anything: keys that are there are good, and where there are none
    /// a file can be made.
    pub fn check(settings: &Settings) -> Result<(), KeyRingError> {
        let path = settings.state_dir.join(KEY_FILE);
        match (&settings.session_keys, std::fs::metadata(&path)) {
            (None, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                let writable = nix::unistd::access(&settings.state_dir, nix::unistd::AccessFlags::W_OK);
                writable.map_err(|errno| KeyRingError::File { path, source: errno.into() })
            }
            _ => KeyRing::load(settings).map(drop),
        }
    }

    /// A ring of keys in hex or base64, separated by commas or line ends.
    pub fn parse(list: &str, origin: &str) -> Result<KeyRing, KeyRingError> {
        let secrets =
            session_keys(list).map_err(|source| KeyRingError::Keys { origin: origin.to_owned(), source })?;
        let keys = secrets.iter().map(RingKey::derive).collect::<Result<_, _>>()?;
        Ok(KeyRing { keys })
    }

    fn load_or_mint(path: &Path) -> Result<KeyRing, KeyRingError> {
        let failed = |source| KeyRingError::File { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => mint(path)?,
            Err(error) => return Err(failed(error)),
        };
        KeyRing::parse(&text, &path.display().to_string())
    }

    /// Seals `plaintext` for `purpose` under the first key.
    pub fn seal(&self, purpose: &str, plaintext: &[u8]) -> String {
        let key = &self.keys[0];
        let mut nonce = [0u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("getrandom(2) does not fail on a booted Linux");
        let mut token = Vec::with_capacity(1 + NONCE_LEN + plaintext.len() + TAG_BYTES);
        token.push(key.kid);
        token.extend_from_slice(&nonce);
        let mut sealed = plaintext.to_vec();
        key.aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut sealed)
            .expect("a short plaintext always seals");
        token.extend_from_slice(&sealed);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What was sealed, when it was sealed here (by any key of the ring) for this purpose.
    pub fn open(&self, purpose: &str, token: &str) -> Result<Vec<u8>, NotOurs> {
        if token.len() > MAX_TOKEN {
            return Err(NotOurs);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| NotOurs)?;
        let (&kid, rest) = bytes.split_first().ok_or(NotOurs)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(NotOurs)?;
        for key in self.keys.iter().filter(|key| key.kid == kid) {
            let mut buffer = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(plaintext) = key.aead.open_in_place(nonce, Aad::from(purpose), &mut buffer) {
                return Ok(plaintext.to_vec());
            }
        }
        Err(NotOurs)
    }
}

impl RingKey {
    fn derive(secret: &[u8; SESSION_KEY]) -> Result<RingKey, KeyRingError> {
        let prk = Salt::new(HKDF_SHA256, b"forkgate key ring v1").extract(secret);
        let (mut key, mut kid) = ([0u8; SESSION_KEY], [0u8; 1]);
        prk.expand(&[b"seal"], Length(key.len()))?.fill(&mut key)?;
        prk.expand(&[b"kid"], Length(kid.len()))?.fill(&mut kid)?;
        Ok(RingKey { kid: kid[0], aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key)?) })
    }
}

/// Makes the key file unless another process was faster, and gives what the file then holds: the new file is complete
/// before `link(2)` gives it its name, and `link` refuses a name that exists.
fn mint(path: &Path) -> Result<String, KeyRingError> {
    let failed = |source| KeyRingError::File { path: path.to_owned(), source };
    let mut key = [0u8; SESSION_KEY];
    let mut suffix = [0u8; 8];
    aws_lc_rs::rand::fill(&mut key)?;
    aws_lc_rs::rand::fill(&mut suffix)?;
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
    let draft = path.with_file_name(format!("{KEY_FILE}.{:016x}", u64::from_ne_bytes(suffix)));
    let linked = write_new(&draft, &text).and_then(|()| std::fs::hard_link(&draft, path));
    let removed = std::fs::remove_file(&draft);
    match linked {
        Ok(()) => removed.map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => removed.map_err(failed)?,
        Err(error) => return Err(failed(error)),
    }
    let mut kept = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut kept)).map_err(failed)?;
    Ok(kept)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const A: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const B: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddee00";

    fn ring(list: &str) -> KeyRing {
        KeyRing::parse(list, "test").expect("keys")
    }

    #[test]
    fn a_rotated_ring_opens_what_the_old_first_key_sealed() {
        let token = ring(A).seal("session", b"hello");
        assert_eq!(ring(&format!("{B},{A}")).open("session", &token).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(ring(B).open("session", &token), Err(NotOurs));
        assert_eq!(ring(A).open("cursor", &token), Err(NotOurs));
    }

    #[test]
    fn keys_are_taken_in_hex_and_base64_only_at_full_length() {
        let base64 = STANDARD.encode([7u8; SESSION_KEY]);
        let url = URL_SAFE_NO_PAD.encode([7u8; SESSION_KEY]);
        let token = ring(&base64).seal("p", b"x");
        assert!(ring(&url).open("p", &token).is_ok());
        for bad in ["", " , ", "abcd", &A[1..], &format!("{A},short")] {
            assert!(KeyRing::parse(bad, "test").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn processes_that_start_at_once_end_with_one_key() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(KEY_FILE);
        let rings: Vec<KeyRing> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| KeyRing::load_or_mint(&path))).collect();
            threads.into_iter().map(|t| t.join().expect("thread").expect("ring")).collect()
        });
        let token = rings[0].seal("p", b"x");
        assert!(rings.iter().all(|ring| ring.open("p", &token).is_ok()));
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("read_dir").count(), 1, "no draft is left");
    }

    proptest! {
        #[test]
        fn no_change_of_a_token_opens(plain in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let ring = ring(A);
            let token = ring.seal("p", &plain);
            prop_assert_eq!(ring.open("p", &token), Ok(plain));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("ours");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(ring.open("p", &URL_SAFE_NO_PAD.encode(bytes)), Err(NotOurs));
        }

        #[test]
        fn rubbish_never_opens(token in ".{0,200}") {
            prop_assert_eq!(ring(A).open("p", &token), Err(NotOurs));
        }
    }
}
