//! What was, sample by sample, and how it is drawn in little bars.

use std::collections::VecDeque;

/// Samples that are kept: more than the widest terminal shows.
const KEPT: usize = 512;
/// Heights of a bar within one cell.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// See [`BARS`].
const STEPS: usize = BARS.len() - 1;

/// The last values of something, none of them negative.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(VecDeque<f64>);

/// The three things that are watched of a slot, and of all together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// Requests per second.
    pub requests: History,
    /// Part of the time that the event loop was busy, 0 to 1.
    pub busy: History,
    /// Private bytes.
    pub memory: History,
}

impl History {
    /// Adds the newest value.
    pub fn push(&mut self, value: f64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The newest value; 0 before the first.
    pub fn last(&self) -> f64 {
        self.0.back().copied().unwrap_or(0.0)
    }

    /// The largest value of the last `count` ones.
    pub fn most(&self, count: usize) -> f64 {
        self.0.iter().rev().take(count).copied().fold(0.0, f64::max)
    }

    /// The last `width` values as bars, as many lines high as asked for, the uppermost line first. The newest value is at the
    /// right. `full` is the value whose bar fills all lines. A value that is there is never drawn as nothing.
    pub fn bars(&self, full: f64, width: usize, lines: usize) -> Vec<String> {
        let shown = self.0.len().min(width);
        let empty = " ".repeat(width - shown);
        let steps: Vec<usize> =
            self.0.iter().skip(self.0.len() - shown).map(|value| steps(*value, full, lines)).collect();
        let line = |above: usize| {
            let bar = |all: &usize| BARS[all.saturating_sub(above * STEPS).min(STEPS)];
            empty.chars().chain(steps.iter().map(bar)).collect()
        };
        (0..lines).rev().map(line).collect()
    }
}

fn steps(value: f64, full: f64, lines: usize) -> usize {
    let all = (STEPS * lines) as f64;
    if full > 0.0 { ((value / full * all).round().clamp(1.0, all)) as usize } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(values: &[f64]) -> History {
        let mut history = History::default();
        values.iter().for_each(|value| history.push(*value));
        history
    }

    #[test]
    fn the_newest_value_is_at_the_right_and_a_full_one_fills_all_lines() {
        let some = history(&[0.0, 1.0, 4.0, 8.0]);
        assert_eq!(some.bars(8.0, 6, 1), ["  ▁▁▄█"]);
        assert_eq!(some.bars(8.0, 2, 1), ["▄█"]);
        assert_eq!(some.bars(8.0, 4, 2), ["   █", "▁▂██"]);
        assert_eq!(some.bars(4.0, 4, 1), ["▁▂██"], "what is larger than full is full");
        assert_eq!(history(&[0.0, 0.0]).bars(0.0, 3, 1), [" ▁▁"]);
        assert_eq!(History::default().bars(1.0, 2, 2), ["  ", "  "]);
    }

    #[test]
    fn only_the_last_values_are_kept_and_compared() {
        let mut many = history(&[9.0]);
        (0..KEPT).for_each(|_| many.push(2.0));
        assert_eq!((many.0.len(), many.most(KEPT), many.last()), (KEPT, 2.0, 2.0));
        assert_eq!(history(&[7.0, 1.0, 3.0]).most(2), 3.0);
    }
}
