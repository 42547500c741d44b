//! What is written is true: promises name tests that exist, generated pages are fresh, the arrows between the crates hold.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use forkgate_tests::gateway::Setup;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::{claims, paths};

pub const TESTS: &[Test] = &[
    Test {
        name: "claims_name_tests_that_exist",
        limit: Duration::from_secs(10),
        run: claims_name_tests_that_exist,
    },
    Test { name: "docs_settings_are_fresh", limit: Duration::from_secs(10), run: docs_settings_are_fresh },
    Test {
        name: "commands_in_the_docs_exist",
        limit: Duration::from_secs(30),
        run: commands_in_the_docs_exist,
    },
    Test {
        name: "only_the_command_line_knows_the_worker",
        limit: Duration::from_secs(10),
        run: only_the_command_line_knows_the_worker,
    },
];

fn claims_name_tests_that_exist() -> Verdict {
    let list = std::process::Command::new(std::env::current_exe().expect("the test binary has a path"))
        .arg("--list")
        .output()
        .expect("the test binary starts");
    let list = String::from_utf8(list.stdout).expect("names are text");
    let known: BTreeSet<&str> = list.lines().collect();
    let claims = claims::all();
    assert!(!claims.is_empty(), "claims.toml is empty");
    for claim in &claims {
        assert!(claim.is_made(), "{} does not say {:?}", claim.source, claim.claim);
        assert!(!claim.tests.is_empty(), "no test proves {:?}", claim.claim);
        for test in &claim.tests {
            assert!(
                known.contains(test.as_str()),
                "{:?} names the test {test}, which does not exist",
                claim.claim
            );
        }
    }
    for pinned in skip::pinned().keys() {
        assert!(known.contains(pinned.as_str()), "skips.toml names the test {pinned}, which does not exist");
    }
    Ok(())
}

fn docs_settings_are_fresh() -> Verdict {
    let output = Setup::new().bare_command().args(["docs", "settings"]).output().expect("the binary starts");
    assert!(output.status.success(), "docs settings: {}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read(paths::root().join("docs/settings.md")).expect("docs/settings.md exists");
    let same = page == output.stdout;
    assert!(same, "docs/settings.md is stale: run `forkgate docs settings > docs/settings.md`");
    Ok(())
}

/// What the pages tell people to type is understood: each line that begins with `forkgate` is asked for its help.
fn commands_in_the_docs_exist() -> Verdict {
    let setup = Setup::new();
    let mut asked = 0;
    for page in ["operations.md", "ctl.md", "hooks.md"] {
        let text = std::fs::read_to_string(paths::root().join("docs").join(page)).expect("the page");
        // Every second part is what stands between two fences.
        let blocks = text.split("```").skip(1).step_by(2);
        for line in blocks.flat_map(str::lines).filter(|line| line.starts_with("forkgate ")) {
            let ends = [" #", " |", ";", " &", " >"].iter().filter_map(|end| line.find(end));
            let command = &line[..ends.min().unwrap_or(line.len())];
            if command.contains('$') {
                continue;
            }
            // An option that is not there is found before the help is.
            let words = command.split_whitespace().skip(1).chain(["--help"]);
            let output = setup.bare_command().args(words).output().expect("the binary starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "docs/{page} says `{command}`: {said}");
            asked += 1;
        }
    }
    assert!(asked >= 10, "only {asked} commands were found");
    Ok(())
}

/// The design's arrows: the supervisor must stay free of the gateway, or it is no longer small.
fn only_the_command_line_knows_the_worker() -> Verdict {
    let source = paths::root().join("master/src");
    let mut wrong = Vec::new();
    grep(&source, "forkgate_worker", &mut wrong);
    wrong.retain(|path| path != "main.rs" && !path.starts_with("cli/"));
    assert!(wrong.is_empty(), "these files of the master know the worker: {wrong:?}");
    let manifest =
        std::fs::read_to_string(paths::root().join("shared/Cargo.toml")).expect("shared has a manifest");
    assert!(!manifest.contains("forkgate-worker"), "shared depends on the worker");
    Ok(())
}

fn grep(directory: &Path, word: &str, found: &mut Vec<String>) {
    fn walk(root: &Path, directory: &Path, word: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).expect("a source directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, word, found);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains(word)) {
                found.push(path.strip_prefix(root).expect("below the root").display().to_string());
            }
        }
    }
    walk(directory, directory, word, found);
}
