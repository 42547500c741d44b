//! JWTs, HS256, with the claims that ContextForge's have: `sub`, `exp`, `jti`, `aud` and `iss` are required.

use std::time::Duration;

use forkgate_shared::settings::Settings;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AuthError, Principal};

/// Seconds by which the clocks of the token's maker and of this host may differ, for `exp` and `nbf`.
pub(super) const LEEWAY: u64 = 10;

/// What is read of a token besides what the validation looks at. Everything optional, so that a missing claim is
/// named and not a parse error.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    jti: Option<Value>,
    exp: Option<f64>,
    #[serde(default)]
    is_admin: Value,
    #[serde(default)]
    user: Value,
}

/// A token that was found good.
pub(super) struct Verified {
    pub(super) principal: Principal,
    /// Seconds since the epoch, leeway included.
    pub(super) valid_until: u64,
}

/// Checks signatures and claims.
pub(super) struct Verifier {
    key: DecodingKey,
    validation: Validation,
    issuer: String,
}

impl Verifier {
    pub(super) fn new(settings: &Settings) -> Verifier {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&[&settings.jwt_audience]);
        validation.set_issuer(&[&settings.jwt_issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        Verifier {
            key: DecodingKey::from_secret(settings.jwt_secret.expose().as_bytes()),
            validation,
            issuer: settings.jwt_issuer.clone(),
        }
    }

    pub(super) fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| reason(error.kind()))?
            .claims;
        let missing = |claim: &str| AuthError::MissingClaim(claim.to_owned());
        let subject = claims.sub.filter(|sub| !sub.is_empty()).ok_or_else(|| missing("sub"))?;
        if claims.jti.is_none_or(|jti| jti.is_null()) {
            return Err(missing("jti"));
        }
        let expires = claims.exp.ok_or_else(|| missing("exp"))?;
        let admin = claims.is_admin == Value::Bool(true) || claims.user["is_admin"] == Value::Bool(true);
        Ok(Verified {
            principal: Principal::new(&self.issuer, subject, admin),
            valid_until: (expires as u64).saturating_add(LEEWAY),
        })
    }
}

fn reason(kind: &ErrorKind) -> AuthError {
    match kind {
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::ImmatureSignature => AuthError::NotYetValid,
        ErrorKind::InvalidAudience => AuthError::Audience,
        ErrorKind::InvalidIssuer => AuthError::Issuer,
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::MissingAlgorithm | ErrorKind::UnsupportedAlgorithm => {
            AuthError::Algorithm
        }
        ErrorKind::MissingRequiredClaim(claim) => AuthError::MissingClaim(claim.clone()),
        _ => AuthError::Malformed,
    }
}

/// Makes a token for `subject` that is valid for `ttl` (whole seconds, at least one), as ContextForge's own tool does:
/// `teams` is null for administrators (they see everything) and empty otherwise.
pub fn mint(settings: &Settings, subject: &str, admin: bool, ttl: Duration) -> Result<String, AuthError> {
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({
        "sub": subject,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now.saturating_add(ttl.as_secs().max(1)),
        "jti": uuid::Uuid::new_v4().to_string(),
        "is_admin": admin,
        "teams": if admin { Value::Null } else { json!([]) },
        "user": { "email": subject, "full_name": subject, "is_admin": admin, "auth_provider": "cli" },
    });
    let key = EncodingKey::from_secret(settings.jwt_secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| AuthError::Unsignable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::settings as sample_settings;

    fn signed(alter: impl Fn(&mut Value)) -> String {
        let settings = sample_settings();
        let now = jsonwebtoken::get_current_timestamp();
        let mut claims = json!({
            "sub": "alice", "iss": settings.jwt_issuer, "aud": settings.jwt_audience, "exp": now + 60, "jti": "1",
        });
        alter(&mut claims);
        let key = EncodingKey::from_secret(settings.jwt_secret.expose().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signed")
    }

    fn verify(token: &str) -> Result<Principal, AuthError> {
        Verifier::new(&sample_settings()).verify(token).map(|verified| verified.principal)
    }

    #[test]
    fn minted_tokens_are_good_here() {
        let settings = sample_settings();
        for admin in [false, true] {
            let token = mint(&settings, "bob", admin, Duration::from_secs(60)).expect("minted");
            let principal = verify(&token).expect("verified");
            assert_eq!((principal.subject.as_str(), principal.admin), ("bob", admin));
        }
    }

    #[test]
    fn every_wrong_token_is_refused_for_its_own_reason() {
        let now = jsonwebtoken::get_current_timestamp();
        let cases: [(String, AuthError); 9] = [
            (signed(|c| c["exp"] = json!(now - LEEWAY - 1)), AuthError::Expired),
            (signed(|c| c["nbf"] = json!(now + 600)), AuthError::NotYetValid),
            (signed(|c| c["aud"] = json!("other")), AuthError::Audience),
            (signed(|c| c["iss"] = json!("other")), AuthError::Issuer),
            (signed(|c| drop(c.as_object_mut().expect("object").remove("jti"))), missing("jti")),
            (signed(|c| drop(c.as_object_mut().expect("object").remove("exp"))), missing("exp")),
            (signed(|c| drop(c.as_object_mut().expect("object").remove("aud"))), missing("aud")),
            (signed(|c| c["sub"] = json!("")), missing("sub")),
            ("garbage".to_owned(), AuthError::Malformed),
        ];
        for (token, expected) in cases {
            assert_eq!(verify(&token), Err(expected));
        }
    }

    fn missing(claim: &str) -> AuthError {
        AuthError::MissingClaim(claim.to_owned())
    }

    #[test]
    fn a_foreign_signature_and_no_signature_are_refused() {
        let mut settings = sample_settings();
        settings.jwt_secret =
            forkgate_shared::settings::Secret::new("another secret of sufficient length....");
        let foreign = mint(&settings, "mallory", true, Duration::from_secs(60)).expect("minted");
        assert_eq!(verify(&foreign), Err(AuthError::Signature));
        let good = signed(|_| {});
        let body = good.split('.').nth(1).expect("claims");
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
        assert!(verify(&unsigned).is_err());
    }

    #[test]
    fn administrators_by_either_claim() {
        assert!(!verify(&signed(|_| {})).expect("good").admin);
        assert!(verify(&signed(|c| c["is_admin"] = json!(true))).expect("good").admin);
        assert!(verify(&signed(|c| c["user"] = json!({"is_admin": true}))).expect("good").admin);
        assert!(!verify(&signed(|c| c["is_admin"] = json!("true"))).expect("good").admin);
    }

    #[test]
    fn an_audience_may_be_a_list_and_the_leeway_holds() {
        let now = jsonwebtoken::get_current_timestamp();
        let audience = sample_settings().jwt_audience;
        assert!(verify(&signed(|c| c["aud"] = json!(["x", audience]))).is_ok());
        assert!(verify(&signed(|c| c["exp"] = json!(now - LEEWAY / 2))).is_ok());
    }
}
