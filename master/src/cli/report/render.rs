//! How a crash report reads: the verdict first, then who is to blame, then what it is based on.
//!
//! Everything in a report may come from a worker that is broken, or from a client: what would mislead a terminal is replaced.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use forkgate_shared::report::{Cause, Culprit, Frame, Inside, Outside, Report, Stack, Task, WorkerFacts};
use forkgate_shared::rows::{Reading, harmless};
use forkgate_shared::verdict::Verdict;

/// Width of a line, where it can be kept.
const WIDTH: usize = 100;
/// Stacks that are shown; the rest is in the JSON.
const STACKS: usize = 5;
/// Frames of one stack that are shown.
const FRAMES: usize = 30;
/// Tasks that are shown.
const TASKS: usize = 20;
/// Lines of the log that are shown.
const LOG: usize = 40;

/// How it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    bold: bool,
}

impl Style {
    /// Bold headings when stdout is a terminal.
    pub fn of_stdout() -> Style {
        Style { bold: std::io::stdout().is_terminal() }
    }
}

/// The report as text.
pub fn render(report: &Report, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.line(0, &verdict(report));
    page.culprits(&report.culprits);
    page.evidence(report);
    page.requests(report);
    if let Some(outside) = &report.outside {
        page.outside(outside);
    }
    match &report.inside {
        Some(inside) => page.inside(inside),
        None => {
            page.heading("from inside");
            page.line(2, "nothing: the worker could not tell any more");
        }
    }
    page.heading("about");
    page.words(2, facts(&report.worker).into_iter());
    let seconds = report.took_ms as f64 / 1000.0;
    page.line(
        2,
        &format!("report of {} by forkgate {}, made in {seconds:.1} s", report.time, report.forkgate),
    );
    page.text
}

/// The first line: who, what happened to it, why.
fn verdict(report: &Report) -> String {
    let who = format!(
        "worker {} (pid {}, child {}, {} old)",
        report.slot,
        report.pid,
        report.generation,
        span(report.age_s)
    );
    match &report.cause {
        Cause::Died { how } => format!("{who} died: {how}"),
        Cause::Verdict { verdict: Verdict::Operator, enforced: true } => {
            format!("{who} was killed: an operator ordered it")
        }
        Cause::Verdict { verdict: Verdict::Operator, enforced: false } => {
            format!("{who} lives on: an operator ordered this report")
        }
        Cause::Verdict { verdict, enforced } => {
            let happened =
                if *enforced { "was killed" } else { "would have been killed (GATEWAY_WATCHDOG=observe)" };
            format!("{who} {happened}: {} ({})", reason(*verdict, report), verdict.as_str())
        }
    }
}

fn reason(verdict: Verdict, report: &Report) -> String {
    let since = report.since_s.map(|seconds| format!(" for {}", span(seconds))).unwrap_or_default();
    match verdict {
        Verdict::StallBlocked => format!("one poll has not returned{since} and waits without using a CPU"),
        Verdict::StallCpu => format!("one poll has not returned{since} and uses a whole CPU"),
        Verdict::StallUninterruptible => {
            format!("one poll has not returned{since} from a system call that nothing interrupts")
        }
        Verdict::Spin => match work_rate(report) {
            Some(rate) => {
                format!("its event loop was busy{since} and did {rate:.1} units of work per busy second")
            }
            None => format!("its event loop was busy{since} and did hardly any work"),
        },
        Verdict::Operator => "an operator ordered it".to_owned(),
        Verdict::Silent => format!("its watchdog has not been heard{since}"),
        Verdict::Memory => {
            format!("its private memory was {} and over its limit{since}", bytes(report.worker.private_bytes))
        }
    }
}

/// Units of work per busy second over the time that the verdict is about.
fn work_rate(report: &Report) -> Option<f64> {
    let last = report.evidence.last()?.at_ns;
    let from = last.saturating_sub((report.since_s.unwrap_or(f64::MAX) * 1e9) as u64);
    let readings = || report.evidence.iter().filter(|reading| reading.at_ns > from);
    let busy = readings().map(|reading| reading.busy_ns).fold(0, u64::saturating_add);
    let units = readings().map(|reading| reading.units).fold(0, u64::saturating_add);
    (busy > 0).then(|| units as f64 / (busy as f64 / 1e9))
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn heading(&mut self, words: &str) {
        let _ = match self.style.bold {
            true => writeln!(self.text, "\n\x1b[1m{words}\x1b[0m"),
            false => writeln!(self.text, "\n{words}"),
        };
    }

    fn line(&mut self, indent: usize, words: &str) {
        let _ = writeln!(self.text, "{:indent$}{}", "", harmless(words).trim_end());
    }

    /// Words that follow each other, as many on a line as fit.
    fn words(&mut self, indent: usize, words: impl Iterator<Item = String>) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && indent + line.chars().count() + 2 + word.chars().count() > WIDTH {
                self.line(indent, &format!("{line},"));
                line.clear();
            }
            if !line.is_empty() {
                line.push_str(", ");
            }
            line.push_str(&word);
        }
        if !line.is_empty() {
            self.line(indent, &line);
        }
    }

    /// Columns, the numbers of which are right-aligned.
    fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>, left: &[usize]) {
        let mut lines = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
        lines.extend(rows);
        let width = |column: usize| {
            lines.iter().map(|line: &Vec<String>| line[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let width = *width;
                if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            self.line(2, &cells.collect::<Vec<_>>().join("  "));
        }
    }

    fn culprits(&mut self, culprits: &[Culprit]) {
        self.heading("likely culprit");
        if culprits.is_empty() {
            self.line(2, "not known");
        }
        for (number, culprit) in culprits.iter().enumerate() {
            self.line(2, &format!("{}. {}", number + 1, culprit.function));
            let place = culprit.place.iter().map(|place| format!("at {place}"));
            let share = format!("in {:.0} % of the samples", culprit.share * 100.0);
            self.words(5, place.chain([share]));
            if let Some(task) = &culprit.task {
                self.line(5, &format!("task {task}"));
            }
            if let Some(request) = &culprit.request {
                self.line(5, &format!("working on {request}"));
            }
        }
    }

    fn evidence(&mut self, report: &Report) {
        let Some(last) = report.evidence.last() else { return };
        self.heading("its event loop, second by second");
        let head = ["ago", "busy", "on CPU", "waited", "sleeps/s", "polls/s", "work/s", "in flight"];
        let rows = report.evidence.iter().map(|reading| reading_cells(reading, last.at_ns)).collect();
        self.table(&head, rows, &[]);
    }

    fn requests(&mut self, report: &Report) {
        self.heading("what it was doing, and for whom");
        if report.in_flight.is_empty() {
            self.line(2, "no request was in flight");
        }
        for request in &report.in_flight {
            let task = if request.task == 0 { String::new() } else { format!(" (task {})", request.task) };
            self.line(2, &format!("{request}{task}"));
        }
        let hidden = report.worker.in_flight.saturating_sub(report.in_flight.len() as u64);
        if hidden > 0 {
            self.line(2, &format!("and {hidden} more that have no description"));
        }
    }

    fn outside(&mut self, outside: &Outside) {
        self.heading("from outside");
        let share = |part: f64| format!("{:.0} %", part * 100.0);
        self.words(
            2,
            [
                format!("thread in state {}", state(&outside.state)),
                format!("{} of the time on a CPU", share(outside.on_cpu)),
                format!("{} waiting for one", share(outside.waiting_for_cpu)),
                format!("{} in the accept queue", outside.accept_queue),
                format!("{} threads", outside.threads),
            ]
            .into_iter(),
        );
        let kernel = [("waits in", &outside.wchan), ("system call", &outside.syscall)];
        let known = kernel.into_iter().filter(|(_, value)| !value.is_empty() && *value != "0");
        self.words(2, known.map(|(name, value)| format!("{name} {value}")));
        for frame in &outside.kernel_stack {
            self.line(4, frame);
        }
    }

    fn inside(&mut self, inside: &Inside) {
        self.stacks("stack", "where the loop's thread was", &inside.stacks);
        self.stacks("rest", "where tasks came to rest, and made the loop turn again", &inside.rests);
        self.tasks(inside);
        let count = |(name, count): (&String, &u64)| format!("{count} {name}");
        self.heading("open descriptors");
        self.words(2, inside.descriptors.iter().map(count));
        self.heading("memory");
        self.words(2, memory(&inside.memory));
        self.heading("last lines of its log");
        let skipped = inside.log.len().saturating_sub(LOG);
        if skipped > 0 {
            self.line(2, &format!("({skipped} older lines are in the JSON)"));
        }
        for line in &inside.log[skipped..] {
            self.line(2, line);
        }
        if !inside.gaps.is_empty() {
            self.heading("what could not be found out");
            for gap in &inside.gaps {
                self.line(2, gap);
            }
        }
    }

    fn stacks(&mut self, word: &str, title: &str, stacks: &[Stack]) {
        if stacks.is_empty() {
            return;
        }
        self.heading(title);
        let all: u32 = stacks.iter().map(|stack| stack.count).sum();
        for (number, stack) in stacks.iter().take(STACKS).enumerate() {
            let task = if stack.task == 0 { String::new() } else { format!(", task {}", stack.task) };
            self.line(2, &format!("{word} {}: {} of {all} samples{task}", number + 1, stack.count));
            for frame in stack.frames.iter().take(FRAMES) {
                self.frame(frame);
            }
            let hidden = stack.frames.len().saturating_sub(FRAMES);
            if hidden > 0 {
                self.line(6, &format!("… {hidden} frames further out"));
            }
        }
        let hidden = stacks.len().saturating_sub(STACKS);
        if hidden > 0 {
            self.line(2, &format!("{hidden} rarer ones are in the JSON"));
        }
    }

    fn frame(&mut self, frame: &Frame) {
        let Some(place) = &frame.place else { return self.line(4, &frame.function) };
        let one_line = format!("{}  {place}", frame.function);
        if one_line.chars().count() + 4 <= WIDTH {
            return self.line(4, &one_line);
        }
        self.line(4, &frame.function);
        self.line(6, place);
    }

    fn tasks(&mut self, inside: &Inside) {
        self.heading(&format!("tasks ({} in all)", inside.tasks_total));
        if inside.current_task != 0 {
            let id = inside.current_task;
            self.line(2, &format!("task {id} was being polled for {}", span(inside.current_poll_s)));
        }
        let head = ["task", "polls now", "polls", "age", "last poll", "last work", "name", "started at"];
        let rows: Vec<Vec<String>> = inside.tasks.iter().take(TASKS).map(task_cells).collect();
        if !rows.is_empty() {
            self.table(&head, rows, &[6, 7]);
        }
        let hidden = inside.tasks_total.saturating_sub(TASKS.min(inside.tasks.len()) as u64);
        if hidden > 0 {
            self.line(2, &format!("and {hidden} more"));
        }
    }
}

fn reading_cells(reading: &Reading, last_ns: u64) -> Vec<String> {
    let seconds = (reading.span_ns as f64 / 1e9).max(1e-3);
    let part = |ns: u64| format!("{:.0} %", ns as f64 / 1e7 / seconds);
    let rate = |count: u64| format!("{:.0}", count as f64 / seconds);
    vec![
        format!("{:.0} s", last_ns.saturating_sub(reading.at_ns) as f64 / 1e9),
        part(reading.busy_ns),
        part(reading.cpu_ns),
        part(reading.delay_ns),
        rate(reading.parks),
        rate(reading.polls),
        rate(reading.units),
        reading.in_flight.to_string(),
    ]
}

fn task_cells(task: &Task) -> Vec<String> {
    let ago = |seconds: Option<f64>| {
        seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2} s"))
    };
    vec![
        task.id.to_string(),
        task.recent_polls.to_string(),
        task.polls.to_string(),
        span(task.age_s),
        ago(task.last_poll_s),
        ago(task.last_progress_s),
        task.name.clone(),
        task.place.clone(),
    ]
}

fn state(letter: &str) -> String {
    let words = match letter {
        "R" => "running",
        "S" => "waiting",
        "D" => "waiting, not interruptible",
        "T" => "stopped",
        "t" => "stopped by a debugger",
        _ => return letter.to_owned(),
    };
    format!("{letter} ({words})")
}

fn facts(worker: &WorkerFacts) -> Vec<String> {
    vec![
        format!("{} requests answered", worker.requests),
        format!("{} connections", worker.connections),
        format!("{} streams", worker.streams),
        format!("{} tasks", worker.tasks),
        format!("{} private", bytes(worker.private_bytes)),
        format!("longest poll {} ms", worker.longest_poll_ms),
        format!("timer {} ms late", worker.lag_ms),
        format!("catalog {}", worker.catalog_generation),
        format!("settings {}", worker.settings_generation),
    ]
}

fn memory(lines: &BTreeMap<String, u64>) -> impl Iterator<Item = String> {
    lines.iter().map(|(name, size)| format!("{name} {}", bytes(*size)))
}

fn bytes(count: u64) -> String {
    format!("{:.1} MiB", count as f64 / f64::from(1 << 20))
}

/// Seconds for people: exact while few.
fn span(seconds: f64) -> String {
    match seconds {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests;
