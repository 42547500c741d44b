//! What the operator does and what the master says, in turns.

use forkgate_shared::status::WorkerStatus;
use ratatui::crossterm::event::KeyCode;

use super::super::fixtures::{answer, held, sample, worker};
use super::super::slots::MOST_SLOTS;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Two slots that have answered so many requests.
fn two(uptime_s: f64, requests: [u64; 2]) -> Answer {
    let of = |slot: u32| WorkerStatus {
        requests: requests[slot as usize],
        busy: f64::from(slot) / 4.0,
        ..worker(slot, u64::from(slot) + 1, "serving")
    };
    answer(uptime_s, vec![of(0), of(1)])
}

fn model() -> Model {
    Model::new(two(100.0, [10, 10]), SECOND, (80, 24))
}

fn press(model: &mut Model, code: KeyCode) -> Option<Order> {
    let now = model.now;
    model.step(Happening::Key(KeyEvent::from(code)), now)
}

fn key(model: &mut Model, c: char) -> Option<Order> {
    press(model, KeyCode::Char(c))
}

#[test]
fn rates_are_of_the_masters_own_time_and_of_all_processes_of_a_slot() {
    let mut model = model();
    sample(&mut model, two(102.0, [30, 10]), 7);
    let rates =
        |model: &Model| model.slots().iter().map(|slot| slot.track.requests.last()).collect::<Vec<_>>();
    assert_eq!(rates(&model), [10.0, 0.0]);
    assert_eq!((model.totals().requests.last(), model.totals().busy.last()), (10.0, 0.125));

    // A new worker of slot 0 has answered 5, the old one 2 more.
    let mut next = two(103.0, [32, 10]);
    next.status.workers.insert(1, WorkerStatus { requests: 5, ..worker(0, 3, "serving") });
    next.status.workers[0].state = "draining".to_owned();
    next.status.requests = 47;
    sample(&mut model, next, 8);
    assert_eq!(rates(&model), [7.0, 0.0]);
    let slots = model.slots();
    assert_eq!((slots[0].main.expect("a worker").generation, slots[0].queue), (3, Some(0)));
    assert_eq!(model.workers(0).count(), 2);
    assert_eq!(model.totals().memory.last(), f64::from((8 + 10 + 9) << 20));
}

#[test]
fn another_master_has_another_history() {
    let mut model = model();
    sample(&mut model, two(101.0, [20, 20]), 1);
    assert_eq!(model.totals().requests.last(), 20.0);
    sample(&mut model, Answer { pid: 1, ..two(3.0, [0, 0]) }, 5);
    assert_eq!(model.totals(), &Track::default());
    sample(&mut model, Answer { pid: 1, ..two(4.0, [1, 0]) }, 6);
    assert_eq!(model.totals().requests.last(), 1.0);
    sample(&mut model, Answer { pid: 1, ..two(4.0, [1, 0]) }, 7);
    assert_eq!(model.totals().requests.last(), 1.0, "no time has passed: nothing is known");
}

#[test]
fn a_master_that_is_silent_or_gone_is_told_apart() {
    let mut model = model();
    sample(&mut model, two(101.0, [20, 20]), 1);
    assert_eq!(model.link(), Link::Well);
    model.step(Happening::Tick, SECOND * 4);
    assert_eq!(model.link(), Link::Well, "3 s: an answer a second late is no news");
    model.step(Happening::Tick, SECOND * 5);
    assert_eq!(model.link(), Link::Silent(SECOND * 4));
    model.step(Happening::Sample(Box::new(Err("nobody listens".to_owned()))), SECOND * 6);
    assert_eq!((model.link(), model.age()), (Link::Lost("nobody listens".to_owned()), SECOND * 5));
    assert_eq!(model.slots().len(), 2, "what was known stays on the screen");
    sample(&mut model, two(108.0, [20, 20]), 8);
    assert_eq!(model.link(), Link::Well);
}

#[test]
fn a_recycling_is_asked_for_twice() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Down), None);
    assert_eq!(key(&mut model, 'r'), None);
    assert_eq!(model.open(), &Open::Question(1));
    assert_eq!(key(&mut model, 'n'), None);
    assert_eq!(model.open(), &Open::Nothing);
    assert_eq!(key(&mut model, 'y'), None, "y is no order by itself");
    key(&mut model, 'r');
    assert_eq!(key(&mut model, 'y'), Some(Order::Ask(Verb::Recycle(1))));
    assert_eq!(model.open(), &Open::Nothing);
}

#[test]
fn p_pauses_and_resumes_what_is_paused() {
    let mut model = model();
    assert_eq!(key(&mut model, 'p'), Some(Order::Ask(Verb::Pause(0))));
    let refused = "slot 0 is the last one".to_owned();
    model.step(Happening::Told(Verb::Pause(0), Err(refused.clone())), SECOND);
    assert_eq!(model.note(), Some(&Note { text: refused, is_error: true }));
    let held_back = vec![held(0, 0.25, "slow_start"), held(1, 0.0, "paused")];
    sample(&mut model, Answer { held_back, ..two(101.0, [10, 10]) }, 1);
    assert!(model.note().is_some(), "it stays until a key is pressed");
    assert_eq!(key(&mut model, 'p'), Some(Order::Ask(Verb::Pause(0))), "a slow start is no pause");
    assert_eq!(model.note(), None);
    press(&mut model, KeyCode::Down);
    assert_eq!(key(&mut model, 'p'), Some(Order::Ask(Verb::Resume(1))));
}

#[test]
fn a_report_is_read_line_by_line_to_its_end_and_no_further() {
    let mut model = model();
    assert_eq!(key(&mut model, 'w'), Some(Order::Ask(Verb::Why(0))));
    let text: String = (0..40).map(|line| format!("line {line}\n")).collect();
    model.step(Happening::Told(Verb::Why(0), Ok(Reply::Report(text))), SECOND);
    let top = |model: &Model| match model.open() {
        Open::Report(0, _, top) => *top,
        other => panic!("{other:?}"),
    };
    assert_eq!(top(&model), 0);
    press(&mut model, KeyCode::Down);
    assert_eq!(top(&model), 1);
    press(&mut model, KeyCode::PageDown);
    press(&mut model, KeyCode::PageDown);
    assert_eq!(top(&model), 40 - model.page_height(), "the last line is at the bottom");
    press(&mut model, KeyCode::Up);
    assert_eq!(top(&model), 40 - model.page_height() - 1);
    model.step(Happening::Resized(80, 60), SECOND);
    assert_eq!(top(&model), 0, "all of it fits now");
    assert_eq!(key(&mut model, 'q'), None);
    assert_eq!(model.open(), &Open::Nothing);
    assert_eq!(key(&mut model, 'q'), Some(Order::Quit));
}

#[test]
fn sorting_moves_lines_and_not_the_selection() {
    let mut model = model();
    sample(&mut model, two(101.0, [10, 90]), 1);
    let order = |model: &Model| model.slots().iter().map(|slot| slot.number).collect::<Vec<_>>();
    assert_eq!((order(&model), model.chosen()), (vec![0, 1], Some(0)));
    for sorted in [Sort::Requests, Sort::Busy, Sort::Memory, Sort::Age] {
        key(&mut model, 's');
        assert_eq!((model.sort(), order(&model), model.chosen()), (sorted, vec![1, 0], Some(0)));
    }
    press(&mut model, KeyCode::Up);
    assert_eq!(model.chosen(), Some(1), "the line above");
    key(&mut model, 's');
    assert_eq!((model.sort(), order(&model)), (Sort::Slot, vec![0, 1]));
}

#[test]
fn a_slot_that_goes_away_leaves_the_selection_to_the_one_before_it() {
    let mut model = model();
    press(&mut model, KeyCode::End);
    assert_eq!(model.chosen(), Some(1));
    sample(&mut model, answer(101.0, vec![worker(0, 1, "serving")]), 1);
    assert_eq!((model.chosen(), model.slots().len()), (Some(0), 1));
    sample(&mut model, answer(102.0, vec![]), 2);
    assert_eq!(model.chosen(), None);
    assert_eq!((key(&mut model, 'p'), key(&mut model, 'r'), key(&mut model, 'w')), (None, None, None));
    assert_eq!(model.open(), &Open::Nothing);
}

#[test]
fn an_empty_slot_is_shown_as_long_as_it_is_meant_to_be_there() {
    let mut model = model();
    let mut one = answer(101.0, vec![worker(1, 2, "serving")]);
    one.status.target = 3;
    sample(&mut model, one, 1);
    let mains: Vec<bool> = model.slots().iter().map(|slot| slot.main.is_some()).collect();
    assert_eq!(mains, [false, true, false]);
}

#[test]
fn nonsense_of_a_master_costs_no_memory() {
    let mut wild = two(101.0, [u64::MAX, 0]);
    wild.status.target = u64::MAX;
    wild.status.workers[0].busy = f64::NAN;
    let mut model = model();
    sample(&mut model, wild, 1);
    assert_eq!(model.slots().len(), MOST_SLOTS as usize);
}
