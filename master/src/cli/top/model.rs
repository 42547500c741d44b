//! What is known of the gateway, and what the operator looks at. Pure: what happens goes in, what is to be done comes out; no
//! clock, no terminal, no socket.
//!
//! | open | by | closed by |
//! |---|---|---|
//! | nothing but the slots | the start | |
//! | the question whether to recycle | `r` | any key; `y` does it |
//! | help | `?` | `q`, Esc |
//! | a report | the answer to `w` | `q`, Esc |
//!
//! Verbs act on the selected slot. A slot stays selected when it moves to another line.

use std::collections::BTreeMap;
use std::time::Duration;

use forkgate_shared::status::WorkerStatus;
use ratatui::crossterm::event::KeyEvent;

use super::history::Track;
use super::keys::{self, Command, Mode, Step};
use super::slots::{Slot, Sort, main_of, slots_of};
use super::text;
use crate::system::ctl::{Answer, HeldBack};

/// Lines of a page that are not its text: its title, and the keys.
const PAGE_FRAME: u16 = 2;
/// How much later than expected an answer may come before that is shown.
const PATIENCE: Duration = Duration::from_secs(2);
/// Slots that a page up or down moves over.
const PAGE_OF_SLOTS: usize = 10;

/// What happens.
#[derive(Debug)]
pub enum Happening {
    /// The master answered, or why it did not.
    Sample(Box<Result<Answer, String>>),
    /// How far a verb is.
    Progress(String),
    /// A verb was done, or why not.
    Told(Verb, Result<Reply, String>),
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has so many columns and lines.
    Resized(u16, u16),
    /// Time passed.
    Tick,
}

/// What the master is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// No new clients for a slot.
    Pause(u32),
    /// New clients again.
    Resume(u32),
    /// Another worker for a slot.
    Recycle(u32),
    /// Why the last worker of a slot was killed or died.
    Why(u32),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done: a sentence.
    Done(String),
    /// A text to read.
    Report(String),
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask the master.
    Ask(Verb),
    /// Leave.
    Quit,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// Only the slots.
    Nothing,
    /// Whether to recycle this slot.
    Question(u32),
    /// What keys there are.
    Help,
    /// Why a worker was killed or died: its slot, the text, and the first line that is shown.
    Report(u32, Vec<String>, usize),
}

/// How it stands with the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It answers.
    Well,
    /// It has not answered for so long, and was expected to.
    Silent(Duration),
    /// There was no answer, and why.
    Lost(String),
}

/// A line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The words.
    pub text: String,
    /// Something could not be done.
    pub is_error: bool,
}

/// See the module.
pub struct Model {
    answer: Answer,
    /// How long the answers lie apart.
    interval: Duration,
    answered: Duration,
    lost: Option<String>,
    now: Duration,
    totals: Track,
    tracks: BTreeMap<u32, Track>,
    /// The slot that was selected last; it may be gone.
    selected: u32,
    sort: Sort,
    open: Open,
    note: Option<Note>,
    size: (u16, u16),
}

impl Model {
    /// The first answer of a master that is asked every `interval`, on a terminal of `size` columns and lines.
    pub fn new(answer: Answer, interval: Duration, size: (u16, u16)) -> Model {
        let mut model = Model {
            answer,
            interval,
            answered: Duration::ZERO,
            lost: None,
            now: Duration::ZERO,
            totals: Track::default(),
            tracks: BTreeMap::new(),
            selected: 0,
            sort: Sort::default(),
            open: Open::Nothing,
            note: None,
            size,
        };
        model.tracks = slots_of(&model.answer).into_iter().map(|slot| (slot, Track::default())).collect();
        model
    }

    /// Takes in what happened `now`, counted from the start; gives what is to be done.
    pub fn step(&mut self, happening: Happening, now: Duration) -> Option<Order> {
        self.now = now;
        match happening {
            Happening::Sample(sample) => match *sample {
                Ok(answer) => self.sample(answer),
                Err(error) => self.lost = Some(error),
            },
            Happening::Progress(words) => self.say(words, false),
            Happening::Told(verb, reply) => self.told(verb, reply),
            Happening::Resized(columns, lines) => {
                self.size = (columns, lines);
                self.read_on(None);
            }
            Happening::Tick => {}
            Happening::Key(key) => {
                let command = keys::command(key, self.mode())?;
                return self.obey(command);
            }
        }
        None
    }

    fn sample(&mut self, answer: Answer) {
        let span = answer.uptime_s - self.answer.uptime_s;
        let is_the_same = answer.pid == self.answer.pid && span >= 0.0;
        if !is_the_same {
            self.totals = Track::default();
            self.tracks.clear();
        } else if span > 0.0 {
            self.record(&answer, span);
        }
        let slots = slots_of(&answer);
        self.tracks.retain(|slot, _| slots.contains(slot));
        for slot in slots {
            self.tracks.entry(slot).or_default();
        }
        self.answer = answer;
        self.answered = self.now;
        self.lost = None;
    }

    /// What happened in the `span` seconds since the last answer.
    fn record(&mut self, answer: &Answer, span: f64) {
        let before: BTreeMap<u64, u64> =
            self.answer.status.workers.iter().map(|worker| (worker.generation, worker.requests)).collect();
        let (mut busy, mut memory) = (0.0, 0);
        let slots = slots_of(answer);
        for &slot in &slots {
            let workers = || answer.status.workers.iter().filter(|worker| worker.slot == slot);
            // What a process did that was not there before, it did since then.
            let done = |worker: &WorkerStatus| {
                worker.requests.saturating_sub(before.get(&worker.generation).copied().unwrap_or(0))
            };
            let requests: u64 = workers().map(done).sum();
            let busiest = workers().map(|worker| worker.busy).fold(0.0, f64::max);
            let bytes: u64 = workers().map(|worker| worker.private_bytes).sum();
            let track = self.tracks.entry(slot).or_default();
            track.requests.push(requests as f64 / span);
            track.busy.push(busiest);
            track.memory.push(bytes as f64);
            busy += busiest;
            memory += bytes;
        }
        let requests = answer.status.requests.saturating_sub(self.answer.status.requests);
        self.totals.requests.push(requests as f64 / span);
        self.totals.busy.push(busy / slots.len().max(1) as f64);
        self.totals.memory.push(memory as f64);
    }

    fn told(&mut self, verb: Verb, reply: Result<Reply, String>) {
        match reply {
            Err(error) => self.say(error, true),
            Ok(Reply::Done(text)) => self.say(text, false),
            Ok(Reply::Report(text)) => {
                self.note = None;
                self.open = Open::Report(verb.slot(), text.lines().map(str::to_owned).collect(), 0);
            }
        }
    }

    fn say(&mut self, text: impl Into<String>, is_error: bool) {
        self.note = Some(Note { text: text.into(), is_error });
    }

    fn mode(&self) -> Mode {
        match self.open {
            Open::Nothing => Mode::Slots,
            Open::Question(_) => Mode::Question,
            Open::Help | Open::Report(..) => Mode::Page,
        }
    }

    fn obey(&mut self, command: Command) -> Option<Order> {
        self.note = None;
        let chosen = self.chosen();
        match (command, chosen) {
            (Command::Quit, _) => return Some(Order::Quit),
            (Command::Move(step), _) => match self.open {
                Open::Report(..) => self.read_on(Some(step)),
                Open::Nothing => self.select(step),
                Open::Help | Open::Question(_) => {}
            },
            (Command::Help, _) => self.open = Open::Help,
            (Command::Sort, _) => {
                self.sort = self.sort.next();
                self.say(format!("sorted by {}", self.sort.as_str()), false);
            }
            (Command::Back, _) => {
                if let Open::Question(slot) = self.open {
                    self.say(format!("slot {slot} is not recycled"), false);
                }
                self.open = Open::Nothing;
            }
            (Command::Yes, _) => {
                if let Open::Question(slot) = self.open {
                    self.open = Open::Nothing;
                    self.say(format!("slot {slot} is to be recycled"), false);
                    return Some(Order::Ask(Verb::Recycle(slot)));
                }
            }
            (Command::Recycle, Some(slot)) => self.open = Open::Question(slot),
            (Command::Pause, Some(slot)) => {
                let is_paused = self.held(slot).is_some_and(|held| held.why == "paused");
                return Some(Order::Ask(if is_paused { Verb::Resume(slot) } else { Verb::Pause(slot) }));
            }
            (Command::Why, Some(slot)) => return Some(Order::Ask(Verb::Why(slot))),
            (Command::Recycle | Command::Pause | Command::Why, None) => {}
        }
        None
    }

    fn select(&mut self, step: Step) {
        let order: Vec<u32> = self.slots().iter().map(|slot| slot.number).collect();
        let place = self.chosen().and_then(|chosen| order.iter().position(|slot| *slot == chosen));
        if let Some(slot) =
            place.and_then(|place| order.get(step.place_after(place, order.len(), PAGE_OF_SLOTS)))
        {
            self.selected = *slot;
        }
    }

    /// Scrolls the report; without a step only back to where there is something to read.
    fn read_on(&mut self, step: Option<Step>) {
        let (lines, height) = (self.report_lines().len(), self.page_height());
        if let Open::Report(_, _, top) = &mut self.open {
            let tops = lines.saturating_sub(height) + 1;
            *top = step.map_or(*top, |step| step.place_after(*top, tops, height.max(1))).min(tops - 1);
        }
    }

    fn held(&self, slot: u32) -> Option<&HeldBack> {
        self.answer.held_back.iter().find(|held| held.slot == slot)
    }

    /// The master's last answer.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// How it stands with the master.
    pub fn link(&self) -> Link {
        let since = self.now.saturating_sub(self.answered);
        match &self.lost {
            Some(error) => Link::Lost(error.clone()),
            None if since > self.interval + PATIENCE => Link::Silent(since),
            None => Link::Well,
        }
    }

    /// How long ago the master answered last.
    pub fn age(&self) -> Duration {
        self.now.saturating_sub(self.answered)
    }

    /// All slots together.
    pub fn totals(&self) -> &Track {
        &self.totals
    }

    /// The slots in the order in which they are shown.
    pub fn slots(&self) -> Vec<Slot<'_>> {
        let slot = |(&number, track)| Slot {
            number,
            main: main_of(self.workers(number)),
            held: self.held(number),
            queue: self.answer.status.accept_queue.get(number as usize).copied(),
            track,
        };
        let mut slots: Vec<Slot<'_>> = self.tracks.iter().map(slot).collect();
        slots.sort_by(|a, b| self.sort.value(b).total_cmp(&self.sort.value(a)));
        slots
    }

    /// The processes of a slot, the oldest first.
    pub fn workers(&self, slot: u32) -> impl Iterator<Item = &WorkerStatus> {
        self.answer.status.workers.iter().filter(move |worker| worker.slot == slot)
    }

    /// The slot that verbs act on: the selected one, or when it is gone the last one before it, or the first.
    pub fn chosen(&self) -> Option<u32> {
        let numbers = || self.tracks.keys().copied();
        numbers().rev().find(|slot| *slot <= self.selected).or_else(|| numbers().next())
    }

    /// By what the slots are sorted.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// What is open.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// What there is to say.
    pub fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Lines of a page's text that the terminal has room for.
    pub fn page_height(&self) -> usize {
        usize::from(self.size.1.saturating_sub(PAGE_FRAME))
    }

    /// The report, in lines that fit the terminal.
    pub fn report_lines(&self) -> Vec<String> {
        match &self.open {
            Open::Report(_, lines, _) => {
                lines.iter().flat_map(|line| text::wrap(line, usize::from(self.size.0))).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Verb {
    /// What it is about.
    pub fn slot(self) -> u32 {
        match self {
            Verb::Pause(slot) | Verb::Resume(slot) | Verb::Recycle(slot) | Verb::Why(slot) => slot,
        }
    }
}

#[cfg(test)]
mod tests;
