//! The table of slots: a line for each, and one more for each other process of it, such as a worker that leaves.

use forkgate_shared::status::WorkerStatus;

use super::model::Model;
use super::palette::Tone;
use super::slots::{Slot, Sort};
use super::text;
use crate::cli::ctl::{memory, span};
use crate::system::ctl::HeldBack;

/// A column of figures.
struct Column {
    title: &'static str,
    width: usize,
    sort: Option<Sort>,
    /// A terminal needs so many columns of its own for this one to be shown.
    from: usize,
}

const fn column(title: &'static str, width: usize, sort: Option<Sort>, from: usize) -> Column {
    Column { title, width, sort, from }
}

/// What of a slot is a figure. What is least missed goes first where it is narrow; the state is always there.
static FIGURES: [Column; 9] = [
    column("slot", 4, Some(Sort::Slot), 0),
    column("pid", 7, None, 65),
    column("gen", 4, None, 80),
    column("age", 6, Some(Sort::Age), 51),
    column("requests", 9, None, 80),
    column("req/s", 7, Some(Sort::Requests), 0),
    column("busy", 4, Some(Sort::Busy), 0),
    column("memory", 8, Some(Sort::Memory), 0),
    column("queue", 5, None, 65),
];
/// The state has at least so many cells, and at most so many more where there is room.
const STATE: (usize, usize) = (15, 9);
/// A history that is narrower says nothing.
const LEAST_BARS: usize = 8;
/// One that is wider says nothing more.
const MOST_BARS: usize = 40;

/// A part of a line.
pub type Part = (String, Tone);

/// A line of the table.
pub struct TableLine {
    /// Whose.
    pub slot: u32,
    /// Its parts, one after another.
    pub parts: Vec<Part>,
}

/// What depends on the terminal's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// The terminal's.
    columns: usize,
    state: usize,
    /// Each of the three histories; 0 = they are not shown.
    bars: usize,
}

impl Widths {
    /// For a terminal with so many columns.
    pub fn of(columns: usize) -> Widths {
        let figures: usize =
            FIGURES.iter().filter(|figure| columns >= figure.from).map(|figure| figure.width + 1).sum();
        // The mark before them and the space after them.
        let rest = columns.saturating_sub(1 + figures + 1);
        let (least, more) = STATE;
        let state = least + (rest.saturating_sub(least) / 4).min(more);
        let bars = (rest.saturating_sub(state) / 3).saturating_sub(1).min(MOST_BARS);
        if bars >= LEAST_BARS {
            Widths { columns, state, bars }
        } else {
            Widths { columns, state: rest, bars: 0 }
        }
    }

    /// Cells at the end of a line that are histories.
    pub fn histories(self) -> usize {
        if self.bars == 0 { 0 } else { self.columns.saturating_sub(self.before_histories()) }
    }

    fn before_histories(self) -> usize {
        let figures: usize = self.shown(std::iter::repeat(())).map(|(figure, ())| figure.width + 1).sum();
        1 + figures + 1 + self.state
    }

    /// The figures that are shown, each with what goes with it.
    fn shown<T>(self, cells: impl IntoIterator<Item = T>) -> impl Iterator<Item = (&'static Column, T)> {
        FIGURES.iter().zip(cells).filter(move |(figure, _)| self.columns >= figure.from)
    }
}

/// The titles of the columns.
pub fn titles(sort: Sort, widths: Widths) -> Vec<Part> {
    let mut parts = vec![(" ".to_owned(), Tone::Faint)];
    for (figure, ()) in widths.shown(std::iter::repeat(())) {
        let tone = if figure.sort == Some(sort) { Tone::Title } else { Tone::Faint };
        parts.push((format!("{:>1$} ", figure.title, figure.width), tone));
    }
    parts.push((format!(" {:<1$}", "state", widths.state), Tone::Faint));
    if widths.bars > 0 {
        for (title, by) in [("requests/s", Sort::Requests), ("busy", Sort::Busy), ("memory", Sort::Memory)] {
            let tone = if by == sort { Tone::Title } else { Tone::Faint };
            parts.push((format!(" {:<1$}", text::cut(title, widths.bars), widths.bars), tone));
        }
    }
    parts
}

/// All lines of the table.
pub fn lines(model: &Model, widths: Widths) -> Vec<TableLine> {
    let slots = model.slots();
    let fullest = Fullest::of(&slots, widths.bars);
    let mut lines = Vec::new();
    for slot in &slots {
        let mut parts = figures(slot, widths);
        let (state, tone) = state(slot.main, slot.held);
        parts.push((format!(" {:<1$}", text::cut(&state, widths.state), widths.state), tone));
        parts.extend(bars(slot, widths.bars, &fullest));
        lines.push(TableLine { slot: slot.number, parts });
        let others =
            model.workers(slot.number).filter(|worker| Some(worker.pid) != slot.main.map(|main| main.pid));
        lines.extend(others.map(|worker| TableLine { slot: slot.number, parts: other(worker, widths) }));
    }
    lines
}

fn figures(slot: &Slot<'_>, widths: Widths) -> Vec<Part> {
    let dash = || "-".to_owned();
    let of = |figure: fn(&WorkerStatus) -> String| slot.main.map_or_else(dash, figure);
    let cells = [
        slot.number.to_string(),
        of(|worker| worker.pid.to_string()),
        of(|worker| worker.generation.to_string()),
        of(|worker| span(worker.age_s)),
        of(|worker| worker.requests.to_string()),
        rate(slot.track.requests.last()),
        of(|worker| busy(worker.busy)),
        of(|worker| memory(worker.private_bytes)),
        slot.queue.map_or_else(dash, |queue| queue.to_string()),
    ];
    let mut parts = vec![(" ".to_owned(), Tone::Plain)];
    let is_busy = slot.main.is_some_and(|worker| worker.busy >= NEARLY_ALL);
    for (figure, cell) in widths.shown(cells) {
        let tone = if is_busy && figure.sort == Some(Sort::Busy) { Tone::Notable } else { Tone::Plain };
        parts.push((format!("{:>1$} ", text::cut(&cell, figure.width), figure.width), tone));
    }
    parts
}

/// An event loop that is busy for more of the time has hardly any left.
const NEARLY_ALL: f64 = 0.9;

/// The line of a process that does not serve the slot, or not any more.
fn other(worker: &WorkerStatus, widths: Widths) -> Vec<Part> {
    let cells = [
        String::new(),
        worker.pid.to_string(),
        worker.generation.to_string(),
        span(worker.age_s),
        worker.requests.to_string(),
        String::new(),
        busy(worker.busy),
        memory(worker.private_bytes),
        String::new(),
    ];
    let mut line = " ".to_owned();
    for (figure, cell) in widths.shown(cells) {
        line += &format!("{:>1$} ", text::cut(&cell, figure.width), figure.width);
    }
    let (state, tone) = state(Some(worker), None);
    let state = format!(" {:<1$}", text::cut(&state, widths.state), widths.state);
    vec![(line, Tone::Faint), (state, if tone == Tone::Bad { Tone::Bad } else { Tone::Faint })]
}

/// The state of a slot's process in a word or two: what is wrong with it comes first.
fn state(worker: Option<&WorkerStatus>, held: Option<&HeldBack>) -> (String, Tone) {
    let Some(worker) = worker else { return ("no worker".to_owned(), Tone::Bad) };
    if !worker.watchdog.is_empty() {
        return (worker.watchdog.clone(), Tone::Bad);
    }
    match (worker.state.as_str(), held) {
        ("serving", Some(held)) => match (held.why.as_str(), held.share) {
            ("no_worker", _) => ("serving".to_owned(), Tone::Good),
            (why, 0.0) => (why.to_owned(), Tone::Notable),
            (why, share) => (format!("{} {:.0}%", why.replace('_', " "), share * 100.0), Tone::Notable),
        },
        ("serving", None) => ("serving".to_owned(), Tone::Good),
        ("draining", _) => match worker.leaves_in_s {
            Some(seconds) => (format!("leaves in {}", span(seconds)), Tone::Notable),
            None => ("draining".to_owned(), Tone::Notable),
        },
        (state, _) => (state.to_owned(), Tone::Notable),
    }
}

/// What fills a bar: the same for all slots, so that they can be compared.
struct Fullest {
    requests: f64,
    memory: f64,
}

impl Fullest {
    fn of(slots: &[Slot<'_>], width: usize) -> Fullest {
        let most = |value: fn(&Slot<'_>, usize) -> f64| {
            slots.iter().map(|slot| value(slot, width)).fold(0.0, f64::max)
        };
        Fullest {
            requests: most(|slot, width| slot.track.requests.most(width)),
            memory: most(|slot, width| slot.track.memory.most(width)),
        }
    }
}

fn bars(slot: &Slot<'_>, width: usize, fullest: &Fullest) -> Vec<Part> {
    if width == 0 {
        return Vec::new();
    }
    let track = slot.track;
    [(&track.requests, fullest.requests), (&track.busy, 1.0), (&track.memory, fullest.memory)]
        .into_iter()
        .map(|(history, full)| (format!(" {}", history.bars(full, width, 1).concat()), Tone::Bars))
        .collect()
}

/// Requests per second: a digit behind the point where that says something.
pub fn rate(per_second: f64) -> String {
    if per_second < 99.95 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// Mebibytes, likewise.
pub fn megabytes(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes < 99.95 { format!("{mebibytes:.1}M") } else { format!("{mebibytes:.0}M") }
}

/// Part of the time.
pub fn busy(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_shown_where_there_is_room_and_the_state_always() {
        assert_eq!(Widths::of(80), Widths { columns: 80, state: 15, bars: 0 });
        assert_eq!((Widths::of(114).bars, Widths::of(115).bars), (0, 8));
        assert_eq!(Widths::of(120), Widths { columns: 120, state: 24, bars: 9 });
        for columns in 40..400 {
            let widths = Widths::of(columns);
            assert!(widths.state >= 10, "{widths:?}");
            let line: String = titles(Sort::Slot, widths).into_iter().map(|(text, _)| text).collect();
            assert!(text::width(&line) <= columns, "{widths:?}: {line}");
        }
    }

    #[test]
    fn rates_have_three_digits_that_say_something() {
        assert_eq!([0.0, 1.26, 99.94, 99.96, 12345.6].map(rate), ["0.0", "1.3", "99.9", "100", "12346"]);
    }
}
