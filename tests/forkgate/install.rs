//! `forkgate install` where no systemd runs: into the files of another system, and what it says when it cannot.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use forkgate_tests::paths;
use forkgate_tests::runner::{Test, current_test};
use forkgate_tests::skip::{Skip, Verdict};

pub const TESTS: &[Test] = &[
    Test {
        name: "install_into_another_root_shows_writes_keeps_and_removes",
        limit: Duration::from_secs(60),
        run: root,
    },
    Test { name: "install_says_why_it_cannot", limit: Duration::from_secs(30), run: refusals },
];

fn forkgate(words: &[&str]) -> Command {
    let mut command = Command::new(paths::forkgate());
    command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(std::process::Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    forkgate(words).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn must(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {} {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// All files below a directory, as the installed system names them, with mode and content.
fn files(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else {
                let mode = entry.metadata().expect("there").permissions().mode() & 0o7777;
                let name = format!("/{}", path.strip_prefix(root).expect("below").display());
                all.insert(name, (mode, std::fs::read(&path).expect("readable")));
            }
        }
    }
    all
}

/// The units and the like, as they are in the folder `systemd`.
const TEXTS: [(&str, &str); 5] = [
    ("/etc/systemd/system/forkgate.service", "forkgate.service"),
    ("/etc/systemd/system/forkgate.service.d/hardened.conf", "forkgate.service.d/hardened.conf"),
    ("/etc/sysusers.d/forkgate.conf", "sysusers.d/forkgate.conf"),
    ("/etc/tmpfiles.d/forkgate.conf", "tmpfiles.d/forkgate.conf"),
    ("/etc/logrotate.d/forkgate", "logrotate.d/forkgate"),
];
const ENV: &str = "/etc/forkgate/forkgate.env";
const PROGRAM: &str = "/usr/local/bin/forkgate";
const LIST: &str = "/etc/forkgate/installed.json";

fn root() -> Verdict {
    let root = paths::of_test(&current_test()).join("root");
    std::fs::create_dir_all(root.join("etc")).expect("the test's directory is writable");
    let at = format!("--root={}", root.display());
    let install = |more: &[&str]| must(&[&["install", "--system", at.as_str()], more].concat());
    let uninstall = |more: &[&str]| must(&[&["uninstall", "--system", at.as_str()], more].concat());

    let shown = install(&["--hardened", "--dry-run"]);
    assert!(files(&root).is_empty(), "--dry-run writes nothing");
    for (path, _) in TEXTS.iter().chain(&[(ENV, ""), (PROGRAM, "")]) {
        assert!(shown.contains(&format!("  new      {}{path} ", root.display())), "{path} in {shown}");
    }
    let asked = run(&["install", "--system", &at, "--hardened"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stderr).contains("--yes"), "{}", text(&asked.stderr));
    assert!(files(&root).is_empty(), "nobody said yes");

    install(&["--hardened", "--yes"]);
    let first = files(&root);
    let mut names: Vec<&str> = first.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut wanted: Vec<&str> = TEXTS.iter().map(|(path, _)| *path).chain([ENV, PROGRAM, LIST]).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for (path, source) in TEXTS {
        let source = std::fs::read(paths::root().join("systemd").join(source)).expect("there");
        assert!(first[path].1 == source && first[path].0 == 0o644, "{path} is the one of the repository");
    }
    assert_eq!(first[ENV].0, 0o640);
    assert_eq!(first[PROGRAM].0, 0o755);
    assert!(first[PROGRAM].1 == std::fs::read(paths::forkgate()).expect("readable"), "this program");
    let env = root.join(&ENV[1..]);
    must(&["check", "--env-file", &env.display().to_string(), "--set", "state_dir=/var/lib/forkgate"]);

    assert!(install(&["--yes"]).contains("nothing to do"), "hardened stays hardened");
    assert!(files(&root) == first, "a second time changes nothing");
    edits_are_kept(&root, &install, &first);

    let gone = uninstall(&["--dry-run"]);
    assert!(gone.contains("removed") && files(&root).contains_key(PROGRAM), "{gone}");
    uninstall(&["--yes"]);
    let kept: Vec<String> = files(&root).into_keys().collect();
    assert_eq!(kept, [ENV, LIST], "settings are kept");
    assert!(uninstall(&["--yes"]).contains("nothing to remove"));
    uninstall(&["--yes", "--purge"]);
    assert_eq!(files(&root).len(), 0);
    let left: Vec<PathBuf> =
        std::fs::read_dir(&root).expect("there").flatten().map(|entry| entry.path()).collect();
    assert_eq!(
        left,
        [root.join("etc")],
        "directories that were made are gone, the one that was there is not"
    );
    assert_eq!(std::fs::read_dir(root.join("etc")).expect("there").count(), 0);
    assert!(uninstall(&["--yes", "--purge"]).contains("nothing to remove"));
    Ok(())
}

/// What somebody has changed stays, unless it is a unit and they ask for ours.
fn edits_are_kept(
    root: &Path,
    install: &dyn Fn(&[&str]) -> String,
    first: &BTreeMap<String, (u32, Vec<u8>)>,
) {
    const UNIT: &str = "/etc/systemd/system/forkgate.service";
    let edit = |path: &str| {
        let path = root.join(&path[1..]);
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text + "# mine\n").expect("writable");
    };
    edit(ENV);
    edit(UNIT);
    let edited = files(root);
    let said = install(&["--yes"]);
    assert!(said.contains("edited") && files(root) == edited, "{said}");
    install(&["--yes", "--force"]);
    let forced = files(root);
    assert!(forced[UNIT] == first[UNIT], "a unit is replaced when that is asked for");
    assert!(forced[ENV] == edited[ENV], "settings never are");
}

fn refusals() -> Verdict {
    let said = |command: &mut Command| {
        let output = command.output().expect("the binary starts");
        (output.status.code(), text(&output.stderr))
    };
    let (code, why) = said(&mut forkgate(&["install"]));
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("--system") && why.contains("--user"), "{why}");
    let (code, why) = said(&mut forkgate(&["install", "--system", "--root=/nowhere", "--yes"]));
    assert!(code == Some(1) && why.contains("--root /nowhere: there is no such directory"), "{why}");
    let (code, why) = said(forkgate(&["install", "--user", "--yes"]).env("HOME", "/home/me"));
    assert!(code == Some(1) && why.contains("enable-linger"), "{why}");
    let (code, why) = said(&mut forkgate(&["install", "--user", "--yes"]));
    assert!(code == Some(1) && why.contains("$HOME"), "{why}");
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip("what it says to root where no systemd runs needs root".to_owned()));
    }
    let (code, why) = said(forkgate(&["install", "--system", "--yes"]).uid(65534).gid(65534));
    assert!(code == Some(1) && why.contains("needs root") && why.contains("--user"), "{why}");
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" install --system --yes";
    let mut unbooted = Command::new("unshare");
    unbooted.args(["--mount", "sh", "-c", script]).arg(paths::forkgate());
    let (code, why) = said(&mut unbooted);
    assert!(code == Some(1) && why.contains("not booted with systemd"), "{why}");
    Ok(())
}
