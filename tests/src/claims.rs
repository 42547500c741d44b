//! `claims.toml`: what README and docs promise, and the test that proves it.

use serde::Deserialize;

use crate::paths;

/// One promise.
#[derive(Debug, Deserialize)]
pub struct Claim {
    /// Where it is made, for instance `README.md`.
    pub source: String,
    /// The promise, in the words of the source.
    pub claim: String,
    /// Names of the tests that prove it.
    pub tests: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    claim: Vec<Claim>,
}

/// All promises.
pub fn all() -> Vec<Claim> {
    let path = paths::tests().join("claims.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).claim
}
