//! How long to wait before the next try: grows with each failure, is spread by chance, ends with success.

use serde::{Deserialize, Serialize};

use super::event::{MILLISECOND, Ns, SECOND};

/// Wait after the first failure: long enough not to burn a CPU, short enough that one crash is not felt.
const FIRST: Ns = 100 * MILLISECOND;
/// Longest wait: an operator who repaired the cause does not want to wait longer.
const LONGEST: Ns = 30 * SECOND;
/// A worker that ran this long was not broken from the start: its crash counts as the first.
pub const HEALTHY_AFTER: Ns = 60 * SECOND;

/// Failures in a row, and when the next try is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    not_before: Ns,
}

impl Backoff {
    /// One more failure; gives the wait until the next try.
    pub fn fail(&mut self, now: Ns, dice: &mut Dice) -> Ns {
        let plain = FIRST.saturating_mul(1 << self.failures.min(20)).min(LONGEST);
        let wait = plain / 10 * 8 + dice.below(plain / 10 * 4 + 1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait;
        wait
    }

    /// Forgets the failures.
    pub fn succeed(&mut self) {
        *self = Backoff::default();
    }

    /// When the next try is due; 0 = at once.
    pub fn not_before(&self) -> Ns {
        self.not_before
    }
}

/// Chance from a seed (splitmix64): the same seed gives the same schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `bound`, which is not 0. The bias of the remainder does not matter for waits.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_within_a_fifth() {
        let (mut backoff, mut dice) = (Backoff::default(), Dice::new(7));
        for plain in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
            let wait = backoff.fail(5, &mut dice) / MILLISECOND;
            assert!((plain * 8 / 10..=plain * 12 / 10).contains(&wait), "{wait} for {plain}");
        }
        assert!(backoff.not_before() > 5);
        backoff.succeed();
        assert_eq!(backoff.not_before(), 0);
        assert!(backoff.fail(0, &mut dice) <= 120 * MILLISECOND);
    }

    #[test]
    fn failures_for_a_year_do_not_overflow() {
        let (mut backoff, mut dice) = (Backoff::default(), Dice::new(1));
        for _ in 0..100_000 {
            assert!(backoff.fail(0, &mut dice) <= LONGEST / 10 * 12);
        }
    }
}
