//! What the operator sees, drawn into the cells of a terminal of any size.
//!
//! From above: who the master is and how it is, all slots together, the table of slots, the selected slot, what there is to say,
//! the keys. A low terminal loses the histories first, the table never.

use forkgate_shared::rows::harmless;
use forkgate_shared::status::WorkerStatus;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::history::{History, Track};
use super::keys::HELP;
use super::model::{Link, Model, Open};
use super::palette::{Palette, Tone};
use super::table::{self, Part, Widths, busy, megabytes, rate};
use super::text::{cut, wrap};
use crate::cli::ctl::{ends, headline, listening, new_clients, totals};

/// The smallest terminal that shows anything.
const LEAST: (u16, u16) = (40, 8);
/// A terminal of fewer lines does not show the selected slot.
const LINES_FOR_DETAILS: usize = 20;
/// Nor the totals.
const LINES_FOR_TOTALS: usize = 14;
/// Lines of a picture.
const PICTURE: usize = 2;
/// Lines that one sentence may take.
const SENTENCE: usize = 3;

const SLOT_KEYS: &str = "↑↓ select  r recycle  p pause/resume  w why  s sort  ? help  q quit";
const PAGE_KEYS: &str = "↑↓ PgUp PgDn Home End scroll  q back";

/// Draws all of it.
pub fn draw(model: &Model, palette: Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    let mut page = Page { buffer: frame.buffer_mut(), area, palette };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("too small: {} x {} at least", LEAST.0, LEAST.1);
        page.words(0, &cut(&words, usize::from(area.width)), Tone::Bad);
        return;
    }
    match model.open() {
        Open::Help => page.help(),
        Open::Report(slot, _, top) => page.report(model, *slot, *top),
        Open::Nothing | Open::Question(_) => page.slots(model),
    }
}

struct Page<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    palette: Palette,
}

impl Page<'_> {
    fn width(&self) -> usize {
        usize::from(self.area.width)
    }

    fn height(&self) -> usize {
        usize::from(self.area.height)
    }

    /// Writes at a line and a column; what does not fit is not written.
    fn put(&mut self, line: usize, column: usize, text: &str, style: Style) -> usize {
        let room = self.width().saturating_sub(column);
        if line >= self.height() || room == 0 {
            return column;
        }
        let (x, y) = (self.area.x + column as u16, self.area.y + line as u16);
        let (end, _) = self.buffer.set_stringn(x, y, text, room, style);
        usize::from(end - self.area.x)
    }

    fn words(&mut self, line: usize, text: &str, tone: Tone) {
        let text = cut(&harmless(text), self.width());
        self.put(line, 0, &text, self.palette.style(tone));
    }

    fn parts(&mut self, line: usize, parts: &[Part]) {
        let mut column = 0;
        for (text, tone) in parts {
            column = self.put(line, column, &harmless(text), self.palette.style(*tone));
        }
    }

    /// A title in a line of its own, from edge to edge.
    fn rule(&mut self, line: usize, title: &str, end: &str) {
        self.put(line, 0, &"─".repeat(self.width()), self.palette.style(Tone::Faint));
        let room = self.width().saturating_sub(4);
        self.put(line, 2, &cut(&format!(" {title} "), room), self.palette.style(Tone::Title));
        if !end.is_empty() {
            let end = format!(" {end} ");
            let column = self.width().saturating_sub(super::text::width(&end) + 2);
            self.put(line, column, &end, self.palette.style(Tone::Faint));
        }
    }

    fn slots(&mut self, model: &Model) {
        let from = self.header(model);
        let foot = self.foot(model);
        let details =
            if self.height() >= LINES_FOR_DETAILS { foot.saturating_sub(3 + PICTURE) } else { foot };
        self.table(model, from, details);
        if details < foot {
            self.details(model, details);
        }
    }

    /// The lines about the whole; gives the next free one.
    fn header(&mut self, model: &Model) -> usize {
        let answer = model.answer();
        let (sentence, tone) = match model.link() {
            Link::Well if answer.state == "serving" => (headline(answer), Tone::Title),
            Link::Well => (headline(answer), Tone::Notable),
            Link::Silent(since) => {
                let since = since.as_secs();
                (format!("the master has not answered for {since} s; what is shown is as old"), Tone::Bad)
            }
            Link::Lost(error) => {
                let since = model.age().as_secs();
                (format!("{error}; trying again; what is shown is {since} s old"), Tone::Bad)
            }
        };
        let mut line = 0;
        for words in wrap(&harmless(&sentence), self.width()).iter().take(SENTENCE) {
            self.words(line, words, tone);
            line += 1;
        }
        self.words(line, &listening(answer), Tone::Plain);
        if self.height() < LINES_FOR_TOTALS {
            return line + 1;
        }
        self.words(line + 1, &totals(answer), Tone::Plain);
        self.words(line + 2, &ends(answer), Tone::Plain);
        self.pictures(line + 3, model.totals());
        line + 4 + PICTURE
    }

    /// Three histories side by side, each below its title.
    fn pictures(&mut self, line: usize, track: &Track) {
        let room = self.width() / 3;
        let width = room.saturating_sub(2);
        let with_most = |history: &History, words: fn(f64) -> String| {
            format!("{}, most {}", words(history.last()), words(history.most(width)))
        };
        let (requests, loops, bytes) = (&track.requests, &track.busy, &track.memory);
        let pictures = [
            (format!("req/s {}", with_most(requests, rate)), requests, requests.most(width)),
            (format!("busy {}", with_most(loops, busy)), loops, 1.0),
            (format!("memory {}", with_most(bytes, megabytes)), bytes, bytes.most(width)),
        ];
        for (place, (title, history, full)) in pictures.iter().enumerate() {
            let column = place * room;
            self.put(line, column, &cut(title, width), self.palette.style(Tone::Plain));
            for (below, bars) in history.bars(*full, width, PICTURE).iter().enumerate() {
                self.put(line + 1 + below, column, bars, self.palette.style(Tone::Bars));
            }
        }
    }

    /// The table between two lines.
    fn table(&mut self, model: &Model, from: usize, to: usize) {
        let widths = Widths::of(self.width());
        self.parts(from, &table::titles(model.sort(), widths));
        let lines = table::lines(model, widths);
        let room = to.saturating_sub(from + 1);
        let chosen = model.chosen();
        let place = lines.iter().position(|line| Some(line.slot) == chosen).unwrap_or(0);
        // The selected one is always among them.
        let first = (place + 1).saturating_sub(room);
        for (below, line) in lines.iter().skip(first).take(room).enumerate() {
            let at = from + 1 + below;
            self.parts(at, &line.parts);
            if first + below == place {
                self.put(at, 0, ">", self.palette.style(Tone::Title));
                // Without the histories: they would be something else when reversed.
                let width = self.area.width.saturating_sub(widths.histories() as u16);
                let row = Rect::new(self.area.x, self.area.y + at as u16, width, 1);
                self.buffer.set_style(row, self.palette.selected());
            }
        }
        let (above, beyond) = (first, lines.len().saturating_sub(first + room));
        if above + beyond > 0 {
            let words = format!(" {above} lines above, {beyond} below ");
            let column = self.width().saturating_sub(words.len());
            self.put(from, column, &words, self.palette.style(Tone::Notable));
        }
        if model.link() != Link::Well {
            let height = to.saturating_sub(from) as u16;
            let table = Rect::new(self.area.x, self.area.y + from as u16, self.area.width, height);
            self.buffer.set_style(table, self.palette.style(Tone::Faint));
        }
    }

    /// The selected slot, with what the table has no room for.
    fn details(&mut self, model: &Model, line: usize) {
        let slots = model.slots();
        let Some(slot) = slots.iter().find(|slot| Some(slot.number) == model.chosen()) else { return };
        let held = slot.held.map(new_clients).unwrap_or_default();
        self.rule(line, &format!("slot {}", slot.number), &held);
        let words = match slot.main {
            None => "no process serves it".to_owned(),
            Some(worker) => in_words(worker),
        };
        self.words(line + 1, &words, Tone::Plain);
        self.pictures(line + 2, slot.track);
    }

    /// What there is to say or to answer, and the keys; gives its first line.
    fn foot(&mut self, model: &Model) -> usize {
        let last = self.height() - 1;
        self.words(last, SLOT_KEYS, Tone::Faint);
        let (text, tone) = match (model.open(), model.note()) {
            (Open::Question(slot), _) => (
                format!("recycle slot {slot}? Its clients notice nothing. y = yes, any other key = no"),
                Tone::Notable,
            ),
            (_, Some(note)) if note.is_error => (format!("not done: {}", note.text), Tone::Bad),
            (_, Some(note)) => (note.text.clone(), Tone::Good),
            (_, None) => (String::new(), Tone::Plain),
        };
        let lines = wrap(&harmless(&text), self.width());
        let lines = &lines[..lines.len().min(SENTENCE)];
        let from = last - lines.len();
        for (below, words) in lines.iter().enumerate() {
            self.words(from + below, words, tone);
        }
        from
    }

    fn help(&mut self) {
        self.rule(0, "forkgate ctl top", "");
        let mut line = 2;
        for (keys, what) in HELP {
            let room = self.width().saturating_sub(KEYS_WIDTH);
            self.put(line, 1, keys, self.palette.style(Tone::Title));
            for words in wrap(what, room) {
                self.put(line, KEYS_WIDTH, &words, self.palette.style(Tone::Plain));
                line += 1;
            }
        }
        line += 1;
        for about in ABOUT {
            for words in wrap(about, self.width().saturating_sub(2)) {
                self.put(line, 1, &words, self.palette.style(Tone::Plain));
                line += 1;
            }
        }
        self.words(self.height() - 1, "q back", Tone::Faint);
    }

    fn report(&mut self, model: &Model, slot: u32, top: usize) {
        let lines = model.report_lines();
        let shown = lines.iter().skip(top).take(model.page_height());
        let end = (top + model.page_height()).min(lines.len());
        let place = format!("lines {} to {end} of {}", top + 1, lines.len());
        self.rule(0, &format!("slot {slot}: why its last worker was killed or died"), &place);
        for (below, words) in shown.enumerate() {
            let is_heading = !words.starts_with(' ') && below + top > 0;
            self.words(1 + below, words, if is_heading { Tone::Title } else { Tone::Plain });
        }
        self.words(self.height() - 1, PAGE_KEYS, Tone::Faint);
    }
}

/// What the table does not say of a worker.
fn in_words(worker: &WorkerStatus) -> String {
    let limit = match worker.request_limit {
        0 => String::new(),
        limit => format!("limit {limit}, "),
    };
    let abandoned = match worker.abandoned_calls {
        0 => String::new(),
        calls => format!("abandoned {calls}, "),
    };
    format!(
        "{limit}connections {}, in flight {}, streams {}, {abandoned}settings {}, catalog {}",
        worker.connections,
        worker.in_flight,
        worker.streams,
        worker.settings_generation,
        worker.catalog_generation
    )
}

/// Where the help page says what the keys do.
const KEYS_WIDTH: usize = 20;

/// What the help page says of the columns.
const ABOUT: [&str; 5] = [
    "A line with a slot's number shows the worker that serves the slot; a faint line below it shows another process of the slot: one \
     that leaves, or one that is suspected.",
    "req/s: of all processes of the slot since the last look. busy: part of the last second in which the event loop was busy.",
    "memory: private memory. queue: connections that wait to be accepted. state: what the watchdog says, if anything, comes \
     first.",
    "Bars: the newest at the right; those of requests and memory are as high as the largest one shown, those of busy as 100%.",
    "The table is sorted by what has the bright title.",
];

#[cfg(test)]
mod tests;
