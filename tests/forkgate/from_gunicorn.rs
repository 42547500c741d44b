//! The page for people who come from gunicorn names everything that gunicorn has.

use std::process::Command;
use std::time::Duration;

use forkgate_tests::runner::Test;
use forkgate_tests::skip::{self, Verdict};
use forkgate_tests::{note, paths};

pub const TESTS: &[Test] = &[Test {
    name: "every_setting_of_gunicorn_is_on_the_page",
    limit: Duration::from_secs(60),
    run: every_setting,
}];

const LIST: &str = "import gunicorn.config as c; print('\\n'.join(sorted(s.name for s in c.KNOWN_SETTINGS)))";
/// gunicorn 26 has more than a hundred; a list that is much shorter is none.
const FEWEST: usize = 100;
const SIGNALS: [&str; 10] = ["TERM", "QUIT", "INT", "HUP", "TTIN", "TTOU", "USR1", "USR2", "WINCH", "ABRT"];

fn every_setting() -> Verdict {
    let python = skip::python("gunicorn26")?;
    let output = Command::new(python).args(["-c", LIST]).output().expect("python starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<&str> = names.lines().collect();
    assert!(names.len() >= FEWEST, "{names:?}");
    let page = std::fs::read_to_string(paths::root().join("docs/from-gunicorn.md")).expect("the page");
    let missing: Vec<&&str> =
        names.iter().chain(&SIGNALS).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not on docs/from-gunicorn.md: {missing:?}");
    note!("{} settings and hooks", names.len());
    Ok(())
}
