//! The name that somebody probably meant.

use super::table;

/// Prefix of forkgate's own names.
pub const PREFIX: &str = "GATEWAY_";

/// Edits per name that still count as a slip, for short names; longer ones get one more per [`LETTERS_PER_EDIT`].
const EDITS: usize = 2;
/// See [`EDITS`].
const LETTERS_PER_EDIT: usize = 8;

/// The own name or alias nearest to `name`, unless all are too far to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let wanted = bare(name).to_ascii_uppercase();
    let allowed = EDITS.min(wanted.len() / 3) + wanted.len() / LETTERS_PER_EDIT;
    table::names()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, bare(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, !candidate.starts_with(PREFIX)))
        .map(|(_, candidate)| candidate)
}

/// The name that a foreign name is one slip away from; stricter than [`nearest`], because it may belong to others.
pub fn slip(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    table::names().find(|candidate| {
        candidate.len() > LETTERS_PER_EDIT && strsim::damerau_levenshtein(&upper, candidate) <= EDITS
    })
}

fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_lead_to_the_name_that_was_meant() {
        for (typed, meant) in [
            ("GATEWAY_MAX_REQUEST", "GATEWAY_MAX_REQUESTS"),
            ("GATEWAY_WORKER", "GATEWAY_WORKERS"),
            ("GATEWAY_BOOTTIMEOUT", "GATEWAY_BOOT_TIMEOUT"),
            ("GATEWAY_DATABASE_URL", "DATABASE_URL"),
            ("GATEWAY_JWT_SECRET_KEY", "JWT_SECRET_KEY"),
            ("GATEWAY_GRACEFULL_TIMEOUT", "GATEWAY_GRACEFUL_TIMEOUT"),
            ("max_reqeusts", "GATEWAY_MAX_REQUESTS"),
        ] {
            assert_eq!(nearest(typed), Some(meant), "{typed}");
        }
        assert_eq!(nearest("GATEWAY_THREADS"), None);
        assert_eq!(nearest("GATEWAY_X"), None);
        assert_eq!(slip("DATABSE_URL"), Some("DATABASE_URL"));
        assert_eq!(slip("HOSTS"), None);
    }
}
