//! `forkgate ctl top`: the gateway, live, in a terminal.
//!
//! Everything that takes its time has a thread of its own, so that the screen never stands still: one asks the master for its
//! status again and again, one reads keys, one waits for signals, one does a verb. They tell the main thread, which keeps the
//! [`model`] and draws it. The master is asked what `ctl status` asks it, and is told nothing more of all this.
//!
//! The terminal is given back as it was: after `q`, after a signal, after an error, and after a panic in any of the threads.

mod history;
mod keys;
mod model;
mod palette;
mod slots;
mod table;
mod text;
mod view;

#[cfg(test)]
mod fixtures;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use forkgate_shared::settings::parse;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ctl::MasterArgs;
use super::report::{self, Style};
use super::{ctl, output};
use crate::system::ctl::{Done, Request, Why};
use model::{Happening, Model, Order, Reply, Verb};
use palette::Palette;

/// What is heard and not yet taken in: keys come one by one, answers once a second.
const QUEUE: usize = 64;
/// Verbs that are being done at once; an operator who has ordered so many without an answer is told so.
const VERBS: usize = 4;
/// How often the screen is drawn when nothing happens: it says how old it is.
const TICK: Duration = Duration::from_secs(1);
/// The shortest and the longest time between two looks.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// What is said after the options.
pub const EXAMPLES: &str = "\
Examples:
  forkgate ctl top
  forkgate ctl top --interval 5s
  NO_COLOR=1 forkgate ctl top

Keys: up and down select a slot, r recycles it, p pauses and resumes it, w tells why its last worker was killed or died,
s sorts, ? helps, q leaves. For programs there is `forkgate ctl status --json`.";

/// The options.
#[derive(clap::Args)]
pub struct TopArgs {
    /// Time between two looks: seconds, or 200ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Which master.
    #[command(flatten)]
    pub master: MasterArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let (shortest, longest) = INTERVALS;
    match parse::duration(text) {
        Ok(interval) if (shortest..=longest).contains(&interval) => Ok(interval),
        Ok(_) => Err("allowed: 200ms to 1m".to_owned()),
        Err(error) => Err(format!("{error}; write seconds, or 500ms")),
    }
}

/// Shows the master until the operator leaves, or a signal says so.
///
/// Exit code 1 with one line on stderr when this is no terminal, or there is no master at the start; a master that goes away
/// later may come again.
pub fn run(interval: Duration, sockets: &[PathBuf]) -> ExitCode {
    let shown = check_terminal().and_then(|()| show(interval, sockets));
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("error", &error);
            ExitCode::FAILURE
        }
    }
}

fn check_terminal() -> Result<(), String> {
    let instead = "use `forkgate ctl status`, or for programs `forkgate ctl status --json`";
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(format!("`ctl top` needs a terminal for its keys and its screen: {instead}"));
    }
    match std::env::var("TERM") {
        Ok(name) if name == "dumb" => {
            Err(format!("`ctl top` cannot draw on a terminal with TERM=dumb: {instead}"))
        }
        _ => Ok(()),
    }
}

fn show(interval: Duration, sockets: &[PathBuf]) -> Result<(), String> {
    let first = ctl::answer(sockets, &Request::Status)?;
    // Before the terminal is touched: a signal that comes in between is heard, too.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])
        .map_err(|error| format!("signals cannot be waited for: {error}"))?;
    let in_terminal = |error: io::Error| format!("the terminal cannot be used: {error}");
    // Also sets a panic hook that gives the terminal back first.
    let terminal = ratatui::try_init();
    let shown = terminal.map_err(in_terminal).and_then(|mut terminal| {
        let size = terminal.size().map_err(in_terminal)?;
        let model = Model::new(first, interval, (size.width, size.height));
        watch(&mut terminal, model, interval, sockets, signals)
    });
    let restored = ratatui::try_restore().map_err(in_terminal);
    shown.and(restored)
}

/// What the threads tell the main one.
enum Message {
    /// For the model.
    Happening(Happening),
    /// It is over, and why if that is an error.
    End(Result<(), String>),
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    interval: Duration,
    sockets: &[PathBuf],
    mut signals: Signals,
) -> Result<(), String> {
    let (to_main, messages) = sync_channel(QUEUE);
    let (look, looks) = sync_channel(1);
    start(&to_main, read_keys);
    start(&to_main, move |to_main| {
        if signals.forever().next().is_some() {
            let _ = to_main.send(Message::End(Ok(())));
        }
    });
    let at = sockets.to_vec();
    start(&to_main, move |to_main| take_samples(&at, interval, &looks, &to_main));

    let verbs = Arc::new(());
    let palette = Palette::of_environment();
    let begun = Instant::now();
    loop {
        let drawn = terminal.draw(|frame| view::draw(&model, palette, frame));
        drawn.map_err(|error| format!("the terminal cannot be drawn on: {error}"))?;
        let first = match messages.recv_timeout(TICK) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => Message::Happening(Happening::Tick),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        // What came together is drawn together.
        for message in std::iter::once(first).chain(messages.try_iter().take(QUEUE)) {
            let happening = match message {
                Message::Happening(happening) => happening,
                Message::End(how) => return how,
            };
            match model.step(happening, begun.elapsed()) {
                None => {}
                Some(Order::Quit) => return Ok(()),
                Some(Order::Ask(verb)) if Arc::strong_count(&verbs) > VERBS => {
                    let busy = "the master has not answered what was ordered before".to_owned();
                    model.step(Happening::Told(verb, Err(busy)), begun.elapsed());
                }
                Some(Order::Ask(verb)) => {
                    let (at, look, counted) = (sockets.to_vec(), look.clone(), Arc::clone(&verbs));
                    start(&to_main, move |to_main| {
                        do_verb(&at, verb, &look, &to_main);
                        drop(counted);
                    });
                }
            }
        }
    }
}

/// Starts a thread that is heard of when it panics.
fn start(to_main: &SyncSender<Message>, work: impl FnOnce(SyncSender<Message>) + Send + 'static) {
    struct Alarm(SyncSender<Message>);
    impl Drop for Alarm {
        fn drop(&mut self) {
            if thread::panicking() {
                let _ = self.0.send(Message::End(Err("this is a defect of forkgate, see above".to_owned())));
            }
        }
    }
    let (to_main, alarm) = (to_main.clone(), Alarm(to_main.clone()));
    thread::spawn(move || {
        let _alarm = alarm;
        work(to_main);
    });
}

fn read_keys(to_main: SyncSender<Message>) {
    loop {
        let happening = match event::read() {
            Ok(Event::Key(key)) if key.is_press() => Happening::Key(key),
            Ok(Event::Resize(columns, lines)) => Happening::Resized(columns, lines),
            Ok(_) => continue,
            Err(error) => {
                let _ = to_main.send(Message::End(Err(format!("the terminal cannot be read: {error}"))));
                return;
            }
        };
        if to_main.send(Message::Happening(happening)).is_err() {
            return;
        }
    }
}

/// Asks for the status every `interval`, and at once when somebody says so.
fn take_samples(
    sockets: &[PathBuf],
    interval: Duration,
    looks: &Receiver<()>,
    to_main: &SyncSender<Message>,
) {
    while !matches!(looks.recv_timeout(interval), Err(RecvTimeoutError::Disconnected)) {
        let sample = Box::new(ctl::answer(sockets, &Request::Status));
        if to_main.send(Message::Happening(Happening::Sample(sample))).is_err() {
            return;
        }
    }
}

/// Does a verb, and has its effect looked at.
fn do_verb(sockets: &[PathBuf], verb: Verb, look: &SyncSender<()>, to_main: &SyncSender<Message>) {
    let progress = |words: &str| {
        let _ = to_main.send(Message::Happening(Happening::Progress(words.to_owned())));
    };
    let told = Happening::Told(verb, ask(sockets, verb, progress));
    let _ = to_main.send(Message::Happening(told));
    // When one is waiting already, that is as good.
    let _ = look.try_send(());
}

fn ask(sockets: &[PathBuf], verb: Verb, progress: impl Fn(&str)) -> Result<Reply, String> {
    let done = |request| ctl::answer(sockets, &request).map(|Done { done }| Reply::Done(done));
    match verb {
        Verb::Pause(slot) => done(Request::Pause { slot }),
        Verb::Resume(slot) => done(Request::Resume { slot }),
        Verb::Recycle(slot) => ctl::recycled(slot, sockets, progress).map(Reply::Done),
        Verb::Why(slot) => ctl::answer(sockets, &Request::Why { slot }).map(|why: Why| {
            let text = report::render(&why.report, Style::default());
            Reply::Report(format!("{text}\nfile: {}\n", why.path.display()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_neither_hectic_nor_rare() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["0", "100ms", "2m", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    /// The message on the screen is the panic's own; the main thread must learn of it, or it would draw over it.
    #[test]
    fn a_thread_that_panics_is_heard_of() {
        let (to_main, messages) = sync_channel(QUEUE);
        start(&to_main, |_| panic!("on purpose"));
        assert!(matches!(messages.recv(), Ok(Message::End(Err(_)))));
        start(&to_main, drop);
        drop(to_main);
        assert!(messages.recv().is_err(), "one that ends tells nothing");
    }
}
