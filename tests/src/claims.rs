//! `claims.toml`: what README and docs promise, and the test that proves it.

use serde::Deserialize;

use crate::paths;

/// One promise.
#[derive(Debug, Deserialize)]
pub struct Claim {
    /// Where it is made, for instance `README.md`.
    pub source: String,
    /// The promise, word for word as it stands in the source (line breaks aside).
    pub claim: String,
    /// Names of the tests that prove it.
    pub tests: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    claim: Vec<Claim>,
}

impl Claim {
    /// True when the source makes this promise in these words.
    pub fn is_made(&self) -> bool {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        std::fs::read_to_string(paths::root().join(&self.source))
            .is_ok_and(|source| words(&source).contains(&words(&self.claim)))
    }
}

/// All promises.
pub fn all() -> Vec<Claim> {
    let path = paths::tests().join("claims.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())).claim
}
