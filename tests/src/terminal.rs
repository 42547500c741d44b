//! A terminal with a shell in it: tmux, which draws what a program writes and shows it as text.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::skip::{self, Skip};
use crate::{paths, process, runner, wait};

/// How long something may take to be seen, on two busy cores.
const SEEN_WITHIN: Duration = Duration::from_secs(20);
/// What the shell says when it waits for a command; no program under test says it.
const PROMPT: &str = "shell>";

/// Numbers the terminals of one test.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// One terminal. It is closed, and what runs in it ended, when dropped.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// A terminal of so many columns and lines in which a shell waits for a command.
    pub fn open(columns: u16, lines: u16) -> Result<Terminal, Skip> {
        skip::tmux()?;
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let directory = paths::short(9000 + number);
        std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
        let terminal = Terminal { socket: directory.join("tmux") };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let shell = format!("exec env PS1='{PROMPT} ' sh");
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &lines, &shell]);
        terminal.wait_for_shell();
        Ok(terminal)
    }

    fn run(&self, words: &[&str]) -> Output {
        let home = paths::of_test(&runner::current_test());
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).args(words).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home).env("LANG", "C.UTF-8").env("SHELL", "/bin/sh");
        command.output().expect("tmux starts")
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {words:?}: {error}");
        output
    }

    fn ask(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.tmux(words).stdout).into_owned()
    }

    /// What is to be seen, line by line.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same with the escape sequences of colours.
    pub fn coloured_screen(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen is as wanted; gives it.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let seen = wait::within(SEEN_WITHIN, || {
            last = self.screen();
            is_so(&last).then_some(())
        });
        assert!(seen.is_some(), "{what} was not to be seen within {SEEN_WITHIN:?}:\n{last}");
        last
    }

    /// Waits until these words are on the screen; gives it.
    #[track_caller]
    pub fn wait_for_words(&self, words: &str) -> String {
        self.wait_for(words, |screen| screen.contains(words))
    }

    /// Waits until the last line of the screen is the shell's.
    #[track_caller]
    pub fn wait_for_shell(&self) {
        self.wait_for("the shell", |screen| {
            screen.trim_end().lines().last().is_some_and(|line| line.trim() == PROMPT)
        });
    }

    /// Presses a key by tmux's name for it: `q`, `Down`, `PageDown`, `Enter`.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Types a command, and Enter.
    pub fn type_command(&self, command: &str) {
        self.tmux(&["send-keys", "-l", command]);
        self.press("Enter");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, lines: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
    }

    /// What the shell runs now.
    pub fn program(&self) -> Option<u32> {
        let shell = self.ask(&["display-message", "-p", "#{pane_pid}"]).trim().parse().expect("a process id");
        process::children(shell).pop()
    }

    /// Says what the terminal is not as it was before a program took it over, and the shell has it again: nothing.
    pub fn what_is_left(&self) -> Vec<String> {
        self.wait_for_shell();
        let flags = self.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]);
        let mut left = Vec::new();
        if flags.trim() != "0 1 0" {
            left.push(format!("alternate screen, cursor, mouse: {}", flags.trim()));
        }
        self.type_command("clear; stty -a");
        let modes = self.wait_for_words("iutf8").replace(['\n', ';'], " ");
        left.extend(
            ["-icanon", "-echo", "-isig", "-opost", "-icrnl"]
                .iter()
                .filter(|mode| modes.split_whitespace().any(|word| word == **mode))
                .map(|mode| (*mode).to_owned()),
        );
        left
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
