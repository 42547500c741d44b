//! What the last stage of the Dockerfile says, read from the file itself, so that what is tried is what it describes.

use crate::paths;

/// The instructions of the last stage that matter when it runs.
#[derive(Debug)]
pub struct Stage {
    /// `ENV`.
    pub env: Vec<(String, String)>,
    /// `USER`: uid and gid.
    pub user: (u32, u32),
    /// `ENTRYPOINT` and `CMD`.
    pub command: Vec<String>,
    /// `HEALTHCHECK … CMD`.
    pub healthcheck: Vec<String>,
    /// `VOLUME`.
    pub volume: String,
    /// Where `COPY --from` puts the program.
    pub program: String,
}

/// The lines of a Dockerfile's last stage, continued ones joined, comments left out.
fn last_stage(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let from = joined.rfind("\nFROM ").expect("two stages");
    joined[from..].lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The Dockerfile of the workspace.
pub fn stage() -> Stage {
    let path = paths::root().join("Dockerfile");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = last_stage(&text);
    let words_after = |instruction: &str| -> String {
        let mut found = lines.iter().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' '));
        let words = found.next().unwrap_or_else(|| panic!("the Dockerfile has no {instruction}"));
        assert!(found.next().is_none(), "the last stage has two {instruction}");
        words.trim().to_owned()
    };
    let list = |text: &str| -> Vec<String> {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text} is no list in JSON: {error}"))
    };
    let env = words_after("ENV");
    let pairs = env.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=VALUE"));
    let user = words_after("USER");
    let (uid, gid) = user.split_once(':').expect("uid:gid");
    let health = words_after("HEALTHCHECK");
    let copied = words_after("COPY");
    Stage {
        env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        user: (uid.parse().expect("a number"), gid.parse().expect("a number")),
        command: [list(&words_after("ENTRYPOINT")), list(&words_after("CMD"))].concat(),
        healthcheck: list(health.split_once("CMD ").expect("HEALTHCHECK has CMD").1),
        volume: words_after("VOLUME"),
        program: copied.split_whitespace().last().expect("a target").to_owned(),
    }
}
