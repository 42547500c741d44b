//! What an upstream wants to see before it answers: kept as an administrator gave it, sent as headers, never shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// An upstream's credentials. Neither `Debug` nor `Display`, so that they cannot get into a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Credentials {
    /// None needed.
    None,
    /// `Authorization: Bearer …`.
    Bearer {
        /// The token.
        token: String,
    },
    /// `Authorization: Basic …`.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// Any headers.
    AuthHeaders {
        /// Name and value.
        headers: Vec<(String, String)>,
    },
}

impl Credentials {
    /// ContextForge's word for this type.
    pub fn auth_type(&self) -> Option<&'static str> {
        match self {
            Credentials::None => None,
            Credentials::Bearer { .. } => Some("bearer"),
            Credentials::Basic { .. } => Some("basic"),
            Credentials::AuthHeaders { .. } => Some("authheaders"),
        }
    }

    /// The headers of every request to the upstream.
    pub fn headers(&self) -> Vec<(String, String)> {
        let authorization = |value| vec![("authorization".to_owned(), value)];
        match self {
            Credentials::None => Vec::new(),
            Credentials::Bearer { token } => authorization(format!("Bearer {token}")),
            Credentials::Basic { username, password } => {
                authorization(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Credentials::AuthHeaders { headers } => headers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;

    #[test]
    fn credentials_become_headers() {
        let basic = Credentials::Basic { username: "Aladdin".into(), password: "open sesame".into() };
        // The example of RFC 7617, section 2.
        let want = ("authorization".to_owned(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        assert_eq!(basic.headers(), [want]);
        assert!(Credentials::None.headers().is_empty());
    }
}
