//! Waiting for a condition, with a deadline, and saying what was waited for when it does not come.

use std::time::{Duration, Instant};

/// Pause between two looks at a condition: short against anything a test waits for, long enough to leave the two cores
/// to the processes under test.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` gives something; panics with `what` when it does not within `limit`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    match within(limit, &mut look) {
        Some(found) => found,
        None => panic!("waited {:.1} s in vain: {what}", limit.as_secs_f64()),
    }
}

/// Looks until `look` gives something, at most `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`until`] for a plain condition.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    until(what, limit, || look().then_some(()));
}

/// [`until`] for a count that has to become `wanted`; says what it was at the end.
#[track_caller]
pub fn until_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    limit: Duration,
    wanted: T,
    mut look: impl FnMut() -> T,
) {
    let mut last = None;
    let reached = within(limit, || {
        let now = look();
        let done = now == wanted;
        last = Some(now);
        done.then_some(())
    });
    assert!(
        reached.is_some(),
        "waited {:.1} s for {what} to be {wanted:?}, it is {last:?}",
        limit.as_secs_f64()
    );
}
