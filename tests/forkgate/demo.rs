//! The first command of the README: `forkgate demo`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forkgate_tests::gateway::{EXCHANGE_LIMIT, START_LIMIT, STOP_LIMIT, Setup};
use forkgate_tests::http;
use forkgate_tests::mcp::{self, Endpoint};
use forkgate_tests::process::{self, Signal};
use forkgate_tests::runner::Test;
use forkgate_tests::skip::{Skip, Verdict};
use forkgate_tests::upstream::free_port;
use forkgate_tests::{note, wait};
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    Test {
        name: "demo_prints_one_json_line_and_leaves_nothing",
        limit: Duration::from_secs(90),
        run: json_line,
    },
    Test {
        name: "demo_prints_a_curl_line_that_works_when_pasted",
        limit: Duration::from_secs(90),
        run: curl_line,
    },
];

struct Demo {
    child: Child,
    output: PathBuf,
    temporary: PathBuf,
}

impl Demo {
    fn start(setup: &Setup, words: &[String]) -> Demo {
        let temporary = setup.state_dir();
        std::fs::create_dir_all(&temporary).expect("the test's directory is writable");
        let output = setup.directory().join("demo.out");
        let error =
            File::create(setup.directory().join("demo.err")).expect("the test's directory is writable");
        let mut command = setup.bare_command();
        command.arg("demo").args(words).env("TMPDIR", &temporary);
        command.stdout(File::create(&output).expect("the test's directory is writable")).stderr(error);
        Demo { child: command.spawn().expect("the binary starts"), output, temporary }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn wait_printed(&mut self, what: &str) -> String {
        wait::until(&format!("the demo to print {what}"), START_LIMIT, || {
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(
                ended.is_none(),
                "the demo ended: {ended:?} {}",
                read(&self.output.with_extension("err"))
            );
            Some(self.printed()).filter(|text| text.contains(what) && text.ends_with('\n'))
        })
    }

    /// What Ctrl-C does: the signal reaches the whole foreground group.
    fn interrupt_and_check(mut self) {
        let family = process::descendants(self.child.id());
        assert!(family.len() >= 2, "a master with two workers: {family:?}");
        process::signal(self.child.id(), Signal::SIGINT);
        let status = wait::within(STOP_LIMIT, || self.child.try_wait().expect("the child is ours"));
        assert_eq!(
            status.and_then(|status| status.code()),
            Some(0),
            "{}",
            read(&self.output.with_extension("err"))
        );
        let left: Vec<u32> = family.into_iter().filter(|&pid| process::alive(pid)).collect();
        assert!(left.is_empty(), "processes left: {left:?}");
        let files: Vec<_> =
            std::fs::read_dir(&self.temporary).expect("exists").flatten().map(|entry| entry.path()).collect();
        assert!(files.is_empty(), "files left: {files:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            process::descendants(self.child.id())
                .into_iter()
                .for_each(|pid| _ = process::signal(pid, Signal::SIGKILL));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn free_ports() -> Vec<String> {
    vec![format!("--bind=127.0.0.1:{}", free_port()), format!("--admin-bind=127.0.0.1:{}", free_port())]
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn json_line() -> Verdict {
    let setup = Setup::new();
    // The default ports where they are free, as on the fresh machine that the promise speaks of.
    let defaults = is_free(4444) && is_free(4445);
    let mut words = if defaults { Vec::new() } else { free_ports() };
    words.push("--json".to_owned());
    let mut demo = Demo::start(&setup, &words);
    let text = demo.wait_printed("}");
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    let line: Value = serde_json::from_str(&text).expect("the line is JSON");
    let mut keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["admin_url", "ctl_socket", "mcp_url", "pid", "token"]);
    assert_eq!(line["pid"], demo.child.id());
    let mcp_url = line["mcp_url"].as_str().expect("text");
    if defaults {
        assert_eq!(mcp_url, "http://127.0.0.1:4444/mcp");
    }
    note!("ports: {}", if defaults { "the defaults" } else { "free ones, 4444 is taken here" });
    let (peer, path) = split(mcp_url);
    let endpoint = Endpoint { path, token: line["token"].as_str().expect("text").to_owned() };
    let peer = peer.parse().expect("an address");
    let tools = mcp::list(peer, &endpoint, "tools", EXCHANGE_LIMIT).expect("the demo serves at once");
    assert!(tools.contains(&"demo__echo".to_owned()), "{tools:?}");
    let request = endpoint.call(3, "demo__echo", &json!({"message": "hello"}));
    let answer = http::once(peer, &request, EXCHANGE_LIMIT).expect("an answer");
    assert!(mcp::tool_text(&answer, 3).is_ok_and(|text| text.contains("hello")), "{}", answer.text());
    demo.interrupt_and_check();
    Ok(())
}

fn split(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let at = rest.find('/').expect("a path");
    (rest[..at].to_owned(), rest[at..].to_owned())
}

fn curl_line() -> Verdict {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err(Skip("curl is not installed".to_owned()));
    }
    let setup = Setup::new();
    let mut demo = Demo::start(&setup, &free_ports());
    demo.wait_printed("curl ");
    let text = wait::until("the demo to say how to stop", START_LIMIT, || {
        let text = demo.printed();
        (text.contains("Ctrl-C") || text.contains("Ctrl+C")).then_some(text)
    });
    let pasted = pasted_curl(&text);
    let output = Command::new("bash").args(["-c", &pasted]).output().expect("bash is there");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "pasted:\n{pasted}\n{answer}{error}");
    assert!(
        answer.contains("\"result\"") && answer.contains("content"),
        "pasted:\n{pasted}\nanswered:\n{answer}"
    );
    demo.interrupt_and_check();
    Ok(())
}

/// The curl command with its continuation lines, as somebody would select it.
fn pasted_curl(text: &str) -> String {
    let from = text.lines().skip_while(|line| !line.trim_start().starts_with("curl "));
    let mut lines = Vec::new();
    for line in from {
        lines.push(line);
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    lines.join("\n")
}
