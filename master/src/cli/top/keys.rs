//! What keys mean. It depends on what is open.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What is open, as far as keys are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The slots.
    Slots,
    /// A question that is answered with yes or no.
    Question,
    /// A page to read, over the slots.
    Page,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Select another slot, or read on.
    Move(Step),
    /// Recycle the slot, after a question.
    Recycle,
    /// No new clients for the slot, or new clients again.
    Pause,
    /// Read why its last worker was killed or died.
    Why,
    /// Sort by something else.
    Sort,
    /// Read what keys there are.
    Help,
    /// Yes.
    Yes,
    /// Back to the slots: close what is open, say no.
    Back,
    /// Leave.
    Quit,
}

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the one before.
    Up,
    /// To the next one.
    Down,
    /// A page back.
    PageUp,
    /// A page on.
    PageDown,
    /// To the first one.
    First,
    /// To the last one.
    Last,
}

/// The keys and what they do, for the help page.
pub const HELP: &[(&str, &str)] = &[
    ("up, down, k, j", "select a slot; PgUp, PgDn, Home, End too"),
    ("r", "recycle the slot: the next worker starts, then the old one leaves; asks first"),
    ("p", "pause the slot, so that it gets no new clients; once more resumes it"),
    ("w", "read why the last worker of the slot was killed or died"),
    ("s", "sort by slot, requests per second, busy, memory, age"),
    ("?, h", "this page"),
    ("q, Ctrl-C", "leave; the gateway goes on"),
];

/// What a key means; none when nothing.
pub fn command(key: KeyEvent, mode: Mode) -> Option<Command> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Command::Quit);
    }
    match mode {
        Mode::Question => Some(match key.code {
            KeyCode::Char('y' | 'Y') => Command::Yes,
            _ => Command::Back,
        }),
        Mode::Page => match key.code {
            KeyCode::Esc | KeyCode::Char('q' | 'w' | '?' | 'h') => Some(Command::Back),
            KeyCode::Char(' ') => Some(Command::Move(Step::PageDown)),
            code => step(code).map(Command::Move),
        },
        Mode::Slots => match key.code {
            KeyCode::Char('r') => Some(Command::Recycle),
            KeyCode::Char('p') => Some(Command::Pause),
            KeyCode::Char('w') => Some(Command::Why),
            KeyCode::Char('s') => Some(Command::Sort),
            KeyCode::Char('?' | 'h') => Some(Command::Help),
            KeyCode::Char('q') => Some(Command::Quit),
            KeyCode::Esc => Some(Command::Back),
            code => step(code).map(Command::Move),
        },
    }
}

fn step(code: KeyCode) -> Option<Step> {
    match code {
        KeyCode::Up | KeyCode::Char('k') => Some(Step::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Step::Down),
        KeyCode::PageUp => Some(Step::PageUp),
        KeyCode::PageDown => Some(Step::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Some(Step::First),
        KeyCode::End | KeyCode::Char('G') => Some(Step::Last),
        _ => None,
    }
}

impl Step {
    /// The place after the step, of `count` places, a page being `page` of them.
    pub fn place_after(self, place: usize, count: usize, page: usize) -> usize {
        let last = count.saturating_sub(1);
        match self {
            Step::Up => place.saturating_sub(1),
            Step::Down => (place + 1).min(last),
            Step::PageUp => place.saturating_sub(page),
            Step::PageDown => (place + page).min(last),
            Step::First => 0,
            Step::Last => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_y_and_with_nothing_else() {
        let answer = |c| command(KeyEvent::from(KeyCode::Char(c)), Mode::Question);
        assert_eq!(answer('y'), Some(Command::Yes));
        for c in ['n', 'q', 'r', ' '] {
            assert_eq!(answer(c), Some(Command::Back), "{c}");
        }
    }

    #[test]
    fn ctrl_c_leaves_from_anywhere_and_q_only_from_the_slots() {
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for mode in [Mode::Slots, Mode::Question, Mode::Page] {
            assert_eq!(command(ctrl_c, mode), Some(Command::Quit));
        }
        let q = KeyEvent::from(KeyCode::Char('q'));
        assert_eq!(command(q, Mode::Slots), Some(Command::Quit));
        assert_eq!(command(q, Mode::Page), Some(Command::Back));
        let ctrl_r = KeyEvent::new(KeyCode::Char('r'), KeyModifiers::CONTROL);
        assert_eq!(command(ctrl_r, Mode::Slots), None);
    }

    #[test]
    fn steps_end_at_the_ends() {
        assert_eq!(Step::Up.place_after(0, 3, 10), 0);
        assert_eq!(Step::Down.place_after(2, 3, 10), 2);
        assert_eq!(Step::PageDown.place_after(0, 30, 10), 10);
        assert_eq!(Step::PageUp.place_after(5, 30, 10), 0);
        assert_eq!((Step::Last.place_after(0, 30, 10), Step::Last.place_after(0, 0, 10)), (29, 0));
    }
}
