//! Tokens made outside of forkgate, as ContextForge makes them: HS256 with `aud`, `iss`, `exp`, `jti`.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

/// The secret of every gateway under test.
pub const SECRET: &str = "tests-only-6f1d0c8e-b1f3-4f39-a0b5-2f43c1f7e9aa-secret";

/// The claims of a token that is accepted.
pub fn claims(subject: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    json!({
        "sub": subject,
        "aud": "mcpgateway-api",
        "iss": "mcpgateway",
        "iat": now,
        "exp": now + 3600,
        "jti": format!("{:032x}", rand::random::<u128>()),
    })
}

/// Signs claims with a secret.
pub fn sign(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .expect("claims are plain JSON")
}
