//! Tokens that were verified, until they expire.
//!
//! Invariant: an entry is found by the whole header value, byte for byte; the hash (SipHash under a random key of this
//! process) only says where to look. Only verified tokens are kept, so nobody without the secret can fill the table.

use std::collections::HashMap;
use std::rc::Rc;

use super::Principal;

/// Tokens remembered by one worker; about 500 bytes each.
const CAPACITY: usize = 4096;
/// Entries given up at once when the table is full of tokens that still live: makes the cost of a scan rare.
const EVICTED: usize = CAPACITY / 8;

struct Entry {
    principal: Rc<Principal>,
    /// Seconds since the epoch, leeway included.
    valid_until: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct TokenCache {
    entries: HashMap<Box<[u8]>, Entry>,
}

impl TokenCache {
    /// Whose token this header value is; an expired entry is dropped. `now` is in seconds since the epoch.
    pub(super) fn get(&mut self, header: &[u8], now: u64) -> Option<Rc<Principal>> {
        let entry = self.entries.get(header)?;
        if entry.valid_until > now {
            return Some(Rc::clone(&entry.principal));
        }
        self.entries.remove(header);
        None
    }

    /// Remembers a verified token.
    pub(super) fn insert(&mut self, header: &[u8], principal: Rc<Principal>, valid_until: u64, now: u64) {
        if self.entries.len() >= CAPACITY {
            self.entries.retain(|_, entry| entry.valid_until > now);
        }
        if self.entries.len() >= CAPACITY {
            // The order of the map is random under its key, so this is a random choice.
            let victims: Vec<_> = self.entries.keys().take(EVICTED).cloned().collect();
            for victim in victims {
                self.entries.remove(&victim);
            }
        }
        self.entries.insert(header.into(), Entry { principal, valid_until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal() -> Rc<Principal> {
        Rc::new(Principal { subject: "u".to_owned(), admin: false, fingerprint: [0; 16] })
    }

    #[test]
    fn an_entry_ends_with_its_token() {
        let mut cache = TokenCache::default();
        cache.insert(b"Bearer a", principal(), 100, 50);
        assert!(cache.get(b"Bearer a", 99).is_some());
        assert!(cache.get(b"Bearer b", 99).is_none());
        assert!(cache.get(b"Bearer a", 100).is_none());
        assert!(cache.entries.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_prefers_tokens_that_live() {
        let mut cache = TokenCache::default();
        for n in 0..CAPACITY {
            cache.insert(format!("t{n}").as_bytes(), principal(), if n == 7 { 1000 } else { 100 }, 50);
        }
        cache.insert(b"late", principal(), 1000, 500);
        assert_eq!(cache.entries.len(), 2);
        for n in 0..3 * CAPACITY {
            cache.insert(format!("u{n}").as_bytes(), principal(), 1000, 500);
            assert!(cache.entries.len() <= CAPACITY);
        }
    }
}
