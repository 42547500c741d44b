//! Names that people bring along from ContextForge (and from gunicorn and granian under it) and that mean nothing here.
//!
//! What is mapped stands in the table of settings as an alias, never here (a test checks).

use std::collections::HashSet;
use std::sync::LazyLock;

/// ContextForge's settings, of all versions since the session pool; separated by white space.
static NAMES: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("contextforge_names.txt").split_whitespace().collect());

/// Names that other software sets in the environment of everything; there they are not meant for a gateway.
const EVERYBODYS: [&str; 12] = [
    "APP_NAME",
    "CACHE_TYPE",
    "CERT_FILE",
    "CLIENT_MODE",
    "DEBUG",
    "DEPLOYMENT_ENV",
    "DEV_MODE",
    "ENVIRONMENT",
    "KEY_FILE",
    "REDIS_URL",
    "RELOAD",
    "SSL",
];

/// True for a setting of ContextForge that forkgate does not have.
pub fn is_known(name: &str) -> bool {
    NAMES.contains(name)
}

/// True when such a name in the environment of the process says nothing about what was meant.
pub fn is_everybodys(name: &str) -> bool {
    EVERYBODYS.contains(&name) || name.starts_with("OTEL_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table;

    #[test]
    fn no_name_is_both_mapped_and_without_effect() {
        let both: Vec<_> = table::names().filter(|name| is_known(name)).collect();
        assert_eq!(both, Vec::<&str>::new());
        assert!(NAMES.len() > 700, "{}", NAMES.len());
        for name in
            ["GUNICORN_KEEP_ALIVE", "AUTH_ENCRYPTION_SECRET", "GATEWAY_HEALTH_CHECK_TIMEOUT", "REDIS_URL"]
        {
            assert!(is_known(name), "{name}");
        }
        assert!(EVERYBODYS.iter().all(|name| is_known(name)));
    }
}
