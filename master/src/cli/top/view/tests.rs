//! Screens against golden files, and what must hold on terminals of all sizes.

use std::time::Duration;

use forkgate_shared::status::WorkerStatus;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::super::fixtures::{answer, held, sample, worker};
use super::super::model::{Happening, Reply, Verb};
use super::*;
use crate::system::ctl::Answer;

const SECOND: Duration = Duration::from_secs(1);

/// The gateway at a moment: slot 1 spins and has a standby, slot 2 is paused, slot 3 leaves a worker behind, slot 4 is empty.
fn gateway(second: u64) -> Answer {
    let busy = |slot: u64| ((second + slot) % 5) as f64 / 8.0;
    let of = |slot: u32, generation: u64, state: &str| WorkerStatus {
        requests: second * second * u64::from(slot + 1),
        busy: busy(u64::from(slot)),
        connections: 12,
        in_flight: 3,
        streams: 4,
        ..worker(slot, generation, state)
    };
    let suspect = WorkerStatus { busy: 0.998, watchdog: "spin suspect".to_owned(), ..of(1, 2, "draining") };
    let leaver = WorkerStatus { leaves_in_s: Some(27.4), ..of(3, 4, "draining") };
    let workers = vec![
        WorkerStatus { request_limit: 10_000, ..of(0, 1, "serving") },
        suspect,
        of(1, 6, "serving"),
        of(2, 3, "serving"),
        leaver,
        of(3, 7, "booting"),
    ];
    let mut answer = answer(3600.0 + second as f64, workers);
    answer.status.target = 5;
    answer.status.accept_queue.push(0);
    answer.sentence =
        "3/5 ready, settings generation 3, recycling slot 3: max_requests, slot 1 suspected: spin, \
                       slot 2 paused"
            .to_owned();
    answer.held_back = vec![held(1, 0.0, "suspect"), held(2, 0.0, "paused"), held(4, 0.0, "no_worker")];
    if let Some(count) = answer.status.recycles.get_mut("max_requests") {
        *count = 2;
    }
    answer
}

fn model(columns: u16, lines: u16) -> Model {
    let mut model = Model::new(gateway(0), SECOND, (columns, lines));
    (1..30).for_each(|second| sample(&mut model, gateway(second), second));
    model
}

fn press(model: &mut Model, code: KeyCode) {
    model.step(Happening::Key(KeyEvent::from(code)), SECOND * 29);
}

fn screen(model: &Model, columns: u16, lines: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a terminal");
    terminal.draw(|frame| draw(model, Palette { has_colours: true }, frame)).expect("drawn");
    let text = terminal.backend().to_string();
    // Each line is in quotes.
    let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
    lines.map(|line| format!("{line}\n")).collect()
}

fn is_golden(screen: &str, name: &str) {
    let path = format!("{}/src/cli/top/view/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(&path).expect("a golden file");
    assert!(screen == golden, "{name} is what it looks like now:\n{screen}<end>");
}

#[test]
fn slots_on_a_usual_terminal() {
    is_golden(&screen(&model(80, 24), 80, 24), "slots-80x24");
}

#[test]
fn slots_on_a_wide_terminal() {
    let mut model = model(150, 32);
    press(&mut model, KeyCode::Char('s'));
    press(&mut model, KeyCode::Down);
    is_golden(&screen(&model, 150, 32), "slots-150x32");
}

#[test]
fn help() {
    let mut model = model(80, 24);
    press(&mut model, KeyCode::Char('?'));
    is_golden(&screen(&model, 80, 24), "help-80x24");
}

#[test]
fn a_report() {
    let report = include_str!("../../fixtures/spin.txt").to_owned();
    let mut model = model(80, 24);
    model.step(Happening::Told(Verb::Why(1), Ok(Reply::Report(report))), SECOND * 29);
    press(&mut model, KeyCode::PageDown);
    is_golden(&screen(&model, 80, 24), "report-80x24");
}

#[test]
fn questions_and_refusals_are_in_a_line_of_their_own() {
    let mut model = model(80, 24);
    press(&mut model, KeyCode::Char('r'));
    assert!(screen(&model, 80, 24).contains("\nrecycle slot 0? "));
    press(&mut model, KeyCode::Char('n'));
    assert!(screen(&model, 80, 24).contains("\nslot 0 is not recycled\n"));
    let refused = "slot 0 is the last one that takes new clients: resume another one, or start one more worker \
                   (`kill -TTIN 4711`)";
    model.step(Happening::Told(Verb::Pause(0), Err(refused.to_owned())), SECOND * 29);
    let text = screen(&model, 80, 24);
    assert!(text.contains("\nnot done: slot 0 is the last one that takes new clients: "), "{text}");
    assert!(text.contains("(`kill -TTIN 4711`)\n"), "it is whole: {text}");
}

#[test]
fn a_master_that_is_gone_is_the_first_thing_that_is_said() {
    let mut model = model(80, 24);
    let gone = "nobody listens at /run/forkgate/ctl.sock: the master that made it was killed".to_owned();
    model.step(Happening::Sample(Box::new(Err(gone))), SECOND * 33);
    let text = screen(&model, 80, 24);
    assert!(text.starts_with("nobody listens at /run/forkgate/ctl.sock: the master"), "{text}");
    assert!(text.contains("trying again; what is shown is 4 s old"), "{text}");
    assert!(text.contains("4001"), "what was known is still there: {text}");
}

#[test]
fn sixty_four_slots_scroll_with_the_selection() {
    let workers = || (0..64).map(|slot| worker(slot, u64::from(slot) + 1, "serving")).collect();
    let mut model = Model::new(answer(10.0, workers()), SECOND, (80, 24));
    sample(&mut model, answer(11.0, workers()), 1);
    let text = screen(&model, 80, 24);
    assert!(text.contains("\n>   0 ") && text.contains("0 lines above, 5"), "{text}");
    (0..63).for_each(|_| press(&mut model, KeyCode::Down));
    let text = screen(&model, 80, 24);
    assert!(text.contains("\n>  63 ") && text.contains("lines above, 0 below"), "{text}");
}

#[test]
fn every_size_is_drawn_without_a_panic_and_shows_the_selected_slot_when_it_is_not_too_small() {
    for (columns, lines) in (1..100).step_by(7).flat_map(|columns| (1..40).map(move |lines| (columns, lines)))
    {
        let mut model = model(columns, lines);
        press(&mut model, KeyCode::End);
        let text = screen(&model, columns, lines);
        if columns >= LEAST.0 && lines >= LEAST.1 + 2 {
            assert!(text.contains("\n>   4 "), "{columns} x {lines}:\n{text}");
        }
        press(&mut model, KeyCode::Char('?'));
        screen(&model, columns, lines);
        press(&mut model, KeyCode::Char('q'));
        let report = include_str!("../../fixtures/spin.txt").to_owned();
        model.step(Happening::Told(Verb::Why(1), Ok(Reply::Report(report))), SECOND * 29);
        screen(&model, columns, lines);
    }
}

#[test]
fn what_clients_named_cannot_command_the_terminal() {
    let mut model = model(80, 24);
    let report = "a tool \u{1b}[31m\u{7} that a client named\n".to_owned();
    model.step(Happening::Told(Verb::Why(1), Ok(Reply::Report(report))), SECOND * 29);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    terminal.draw(|frame| draw(&model, Palette { has_colours: true }, frame)).expect("drawn");
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| !cell.symbol().contains(char::is_control)));
}
