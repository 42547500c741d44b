//! Runs the tests: one after another, those that only wait a few at a time; each in a process of its own with a deadline.
//! What a test leaves behind is ended and counts as its failure.
//!
//! `forkgate [--list] [NAME …]`: only tests whose name contains one of the words. The last line is
//! `N passed, N failed, N skipped`. A failed test keeps its directory, with FORKGATE_KEEP=1 every test does.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::skip::{self, Verdict};
use crate::{paths, process, wait};

/// A test: what it is called, what it proves, how long it may take, what it does.
#[derive(Clone, Copy)]
pub struct Test {
    /// Unique name; `claims.toml` refers to it.
    pub name: &'static str,
    /// Deadline; doubled in the longer form.
    pub limit: Duration,
    /// The test.
    pub run: fn() -> Verdict,
}

/// Lines of a failed test's log that are shown.
const SHOWN_LINES: usize = 120;
/// Exit status of a test process that skips.
const SKIPPED: i32 = 77;
/// How long what a test started may take to end after the test has.
const GRACE: Duration = Duration::from_secs(2);
/// How many of the tests that only wait run at the same time: together they leave both cores idle for most of the time.
const AT_ONCE: usize = 5;
/// The longer form's deadlines are this many times as long.
const SOAK_FACTOR: u32 = 12;

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Prints a line that is shown also when the test passes.
#[macro_export]
macro_rules! note {
    ($($part:tt)*) => { println!("note: {}", format_args!($($part)*)) };
}

/// The name of the running test.
pub fn current_test() -> String {
    std::env::args().nth(2).unwrap_or_else(|| "none".to_owned())
}

/// The entry point of the test binary. Those that are named in `waiting` use hardly any CPU: a few run at the same time,
/// before the others.
pub fn main(tests: &[Test], waiting: &[&str]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice()
        && flag == "--run-one"
    {
        return run_one(tests.iter().find(|test| test.name == name).expect("the runner names a known test"));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|test| println!("{}", test.name));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen =
        |test: &&Test| words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str()));
    let (waiting, alone): (Vec<Test>, Vec<Test>) =
        tests.iter().filter(chosen).partition(|test| waiting.contains(&test.name));
    run_all(waiting.chunks(AT_ONCE).chain(alone.chunks(1)))
}

/// In the test's own process.
fn run_one(test: &Test) -> ExitCode {
    // Pids come again, also those of test processes that left their directories behind.
    paths::remove_short(std::process::id());
    match catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(reason)) => {
            println!("skip: {reason}");
            ExitCode::from(SKIPPED as u8)
        }
        Err(_) => ExitCode::from(101),
    }
}

fn run_all<'a>(batches: impl Iterator<Item = &'a [Test]>) -> ExitCode {
    process::adopt_orphans();
    let pinned = skip::pinned();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    for (test, seconds, outcome) in batches.flat_map(at_once) {
        let directory = paths::of_test(test.name);
        let outcome = match outcome {
            Outcome::Skipped(reason) if skip::in_ci() && pinned.contains_key(test.name) => {
                Outcome::Failed(format!("skipped, but CI must run it: {reason}"))
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("PASS {} ({seconds:.1} s)", test.name);
                show_notes(&directory);
                if !keeping() {
                    let _ = std::fs::remove_dir_all(&directory);
                }
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                println!("SKIP {}: {reason}", test.name);
            }
            Outcome::Failed(why) => {
                failed.push(test.name);
                println!("FAIL {} ({seconds:.1} s): {why}", test.name);
                show_log(&directory);
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(" "));
    }
    println!("\n{passed} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True when also the directories of tests that passed are to stay.
fn keeping() -> bool {
    std::env::var_os("FORKGATE_KEEP").is_some()
}

/// Runs these at the same time; each with its seconds. It cannot be known whose it is what some of them left behind.
fn at_once(batch: &[Test]) -> Vec<(Test, f64, Outcome)> {
    let ended: Vec<Ended> = std::thread::scope(|scope| {
        let running: Vec<_> = batch.iter().map(|test| scope.spawn(|| in_own_process(test))).collect();
        running.into_iter().map(|thread| thread.join().expect("the runner does not panic")).collect()
    });
    if ended.iter().all(|test| test.status.is_some()) {
        wait::within(GRACE, || process::descendants(std::process::id()).is_empty().then_some(()));
    }
    let left = process::clear_descendants();
    // One that has failed is the likelier one to have left something.
    let none_failed = ended.iter().all(Ended::is_well);
    let outcome = |test: &Test, ended: Ended| match ended.status {
        None => Outcome::Failed(format!("not done within {} s", limit(test).as_secs())),
        Some(status) if status.code() == Some(SKIPPED) => {
            Outcome::Skipped(skip_reason(&paths::of_test(test.name)))
        }
        Some(status) if !status.success() => Outcome::Failed(format!("{status}")),
        Some(_) if none_failed && !left.is_empty() => {
            Outcome::Failed(format!("processes left behind: {}", left.join(", ")))
        }
        Some(_) => {
            if !keeping() {
                paths::remove_short(ended.pid);
            }
            Outcome::Passed
        }
    };
    batch.iter().zip(ended).map(|(test, ended)| (*test, ended.seconds, outcome(test, ended))).collect()
}

/// The process of a test, when it has ended.
struct Ended {
    pid: u32,
    /// None when it had to be ended.
    status: Option<ExitStatus>,
    seconds: f64,
}

impl Ended {
    fn is_well(&self) -> bool {
        self.status.is_some_and(|status| status.success() || status.code() == Some(SKIPPED))
    }
}

fn limit(test: &Test) -> Duration {
    if paths::soaking() { test.limit * SOAK_FACTOR } else { test.limit }
}

fn in_own_process(test: &Test) -> Ended {
    let (directory, started) = (paths::of_test(test.name), Instant::now());
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the target directory is writable");
    let log = File::create(directory.join("log")).expect("the target directory is writable");
    let mut child = Command::new(std::env::current_exe().expect("the runner has a path"))
        .args(["--run-one", test.name])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor is free"))
        .stderr(log)
        .spawn()
        .expect("the runner can start itself");
    let status = wait::within(limit(test), || child.try_wait().expect("the child is ours"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ended { pid: child.id(), status, seconds: started.elapsed().as_secs_f64() }
}

fn log_text(directory: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(directory.join("log")).unwrap_or_default()).into_owned()
}

fn skip_reason(directory: &Path) -> String {
    let text = log_text(directory);
    text.lines().rev().find_map(|line| line.strip_prefix("skip: ")).unwrap_or("no reason given").to_owned()
}

fn show_notes(directory: &Path) {
    for note in log_text(directory).lines().filter_map(|line| line.strip_prefix("note: ")) {
        println!("     {note}");
    }
}

fn show_log(directory: &Path) {
    let text = log_text(directory);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines[from..].iter().for_each(|line| println!("     | {line}"));
    println!("     (all of it: {})", directory.display());
}
