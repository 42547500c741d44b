//! Who is asking, and what they may do.
//!
//! Invariant: a request has a [`Principal`] before anything is done for it, and [`may`] is the only place that decides
//! what a principal may do. Tokens come in the `Authorization` header and nowhere else.

mod cache;
mod token;

use std::cell::RefCell;
use std::rc::Rc;

use forkgate_shared::settings::Settings;
use http::{HeaderMap, header};

use cache::TokenCache;
pub use token::mint;

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `sub` of the token, or `anonymous`.
    pub subject: String,
    /// May change the registry.
    pub admin: bool,
    /// First 16 bytes of SHA-256 over issuer and subject: what a session is bound to.
    pub fingerprint: [u8; 16],
}

impl Principal {
    fn new(issuer: &str, subject: String, admin: bool) -> Principal {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(&(issuer.len() as u64).to_be_bytes());
        digest.update(issuer.as_bytes());
        digest.update(subject.as_bytes());
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest.finish().as_ref()[..16]);
        Principal { subject, admin, fingerprint }
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Speak MCP: list, call, read.
    Use,
    /// Read the registry.
    Read,
    /// Change the registry.
    Change,
    /// Read status and metrics.
    Observe,
}

/// What they want to do it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// The federated endpoint, or the registry as a whole.
    Gateway,
    /// A virtual server, by id.
    Server(&'a str),
    /// An upstream, by name.
    Upstream(&'a str),
    /// A tool, by the name that the caller used.
    Tool(&'a str),
}

/// The one place where it is decided: everybody with a token uses and reads, administrators change and observe.
pub fn may(principal: &Principal, action: Action, object: Object<'_>) -> bool {
    match (action, object) {
        (Action::Use | Action::Read, _) => true,
        (Action::Change | Action::Observe, _) => principal.admin,
    }
}

/// Why a request has no principal. The text is for the client: what is wrong with the token, never what a right one
/// would hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token.
    #[error("no token")]
    Missing,
    /// An `Authorization` header that is not `Bearer …`.
    #[error("the Authorization header is not of the form `Bearer TOKEN`")]
    NotBearer,
    /// Not three base64url parts of JSON.
    #[error("the token is not a JWT")]
    Malformed,
    /// Signed by another algorithm than HS256.
    #[error("the token's algorithm is not HS256")]
    Algorithm,
    /// Signed with another key.
    #[error("the token's signature is not valid here")]
    Signature,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `aud` is another one.
    #[error("the token is for another audience")]
    Audience,
    /// `iss` is another one.
    #[error("the token is from another issuer")]
    Issuer,
    /// A claim that every token must have.
    #[error("the token has no `{0}` claim")]
    MissingClaim(String),
    /// A token could not be made.
    #[error("the token cannot be signed: {0}")]
    Unsignable(String),
}

/// Checks tokens.
pub struct Authenticator {
    verifier: token::Verifier,
    anonymous: Option<Rc<Principal>>,
    cache: RefCell<TokenCache>,
}

impl Authenticator {
    /// Built once per worker.
    pub fn new(settings: &Settings) -> Authenticator {
        let anonymous = (!settings.auth_required)
            .then(|| Rc::new(Principal::new(&settings.jwt_issuer, "anonymous".to_owned(), false)));
        Authenticator {
            verifier: token::Verifier::new(settings),
            anonymous,
            cache: RefCell::new(TokenCache::default()),
        }
    }

    /// The principal of a request; verified tokens are remembered by hash until they expire.
    ///
    /// Where no token is required, a request without one is anonymous; one with a bad token is still refused.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Rc<Principal>, AuthError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return self.anonymous.clone().ok_or(AuthError::Missing);
        };
        let now = jsonwebtoken::get_current_timestamp();
        if let Some(principal) = self.cache.borrow_mut().get(value.as_bytes(), now) {
            return Ok(principal);
        }
        let token = bearer(value.as_bytes()).ok_or(AuthError::NotBearer)?;
        let verified = self.verifier.verify(token)?;
        let principal = Rc::new(verified.principal);
        self.cache.borrow_mut().insert(value.as_bytes(), Rc::clone(&principal), verified.valid_until, now);
        Ok(principal)
    }
}

/// The token of a `Bearer` header; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_holds_a_token() {
        assert_eq!(bearer(b"Bearer abc"), Some("abc"));
        assert_eq!(bearer(b"bearer  abc "), Some("abc"));
        for wrong in [&b"Basic abc"[..], b"Bearer", b"Bearer ", b"abc", b"", b"Bearer \xff"] {
            assert_eq!(bearer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn who_may_do_what() {
        let user = Principal::new("i", "u".to_owned(), false);
        let admin = Principal::new("i", "a".to_owned(), true);
        for (action, user_may) in
            [(Action::Use, true), (Action::Read, true), (Action::Change, false), (Action::Observe, false)]
        {
            assert_eq!(may(&user, action, Object::Gateway), user_may, "{action:?}");
            assert!(may(&admin, action, Object::Gateway), "{action:?}");
        }
    }

    #[test]
    fn a_fingerprint_tells_issuer_and_subject_apart() {
        let one = Principal::new("ab", "c".to_owned(), false);
        let other = Principal::new("a", "bc".to_owned(), false);
        assert_ne!(one.fingerprint, other.fingerprint);
        assert_eq!(one.fingerprint, Principal::new("ab", "c".to_owned(), true).fingerprint);
    }
}
