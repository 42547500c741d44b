//! What a worker cannot do without: tasks and threads that must run for as long as it serves. One that ends, by a panic
//! or because it gave up, makes the watchdog ask for a replacement of the worker: it may look healthy and accept nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Who must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Accepts on the main port.
    AcceptMain,
    /// Accepts on the admin port.
    AcceptAdmin,
    /// Shows that the loop turns.
    Heartbeat,
    /// Notices newer catalogs.
    RegistryWatch,
    /// Hears the master.
    Control,
}

impl Duty {
    /// All, in index order.
    pub const ALL: [Duty; 5] =
        [Duty::AcceptMain, Duty::AcceptAdmin, Duty::Heartbeat, Duty::RegistryWatch, Duty::Control];

    /// The name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Duty::AcceptMain => "accept-main",
            Duty::AcceptAdmin => "accept-admin",
            Duty::Heartbeat => "heartbeat",
            Duty::RegistryWatch => "registry-watch",
            Duty::Control => "control thread",
        }
    }
}

/// Who has left although the worker serves on.
#[derive(Debug, Default)]
pub struct Essential {
    left: [AtomicBool; Duty::ALL.len()],
    /// The worker ends: everybody leaves.
    over: AtomicBool,
}

/// Somebody does the duty until this is dropped.
#[derive(Debug)]
pub struct OnDuty {
    essential: Arc<Essential>,
    duty: Duty,
    relieved: bool,
}

impl Essential {
    /// Takes up a duty.
    pub fn take_up(self: &Arc<Self>, duty: Duty) -> OnDuty {
        OnDuty { essential: Arc::clone(self), duty, relieved: false }
    }

    /// The worker ends: whoever leaves from now on does so by intention.
    pub fn ends(&self) {
        self.over.store(true, Relaxed);
    }

    /// Somebody who left unasked.
    pub fn missing(&self) -> Option<Duty> {
        if self.over.load(Relaxed) {
            return None;
        }
        Duty::ALL.into_iter().find(|duty| self.left[*duty as usize].load(Relaxed))
    }
}

impl OnDuty {
    /// Which.
    pub fn duty(&self) -> Duty {
        self.duty
    }

    /// Leaves by intention.
    pub fn is_relieved(mut self) {
        self.relieved = true;
    }
}

impl Drop for OnDuty {
    fn drop(&mut self) {
        if !self.relieved {
            self.essential.left[self.duty as usize].store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_unasked_is_missed_and_nobody_at_the_end() {
        let essential = Arc::new(Essential::default());
        for (index, duty) in Duty::ALL.into_iter().enumerate() {
            assert_eq!(duty as usize, index);
        }
        essential.take_up(Duty::AcceptMain).is_relieved();
        let control = essential.take_up(Duty::Control);
        assert_eq!(essential.missing(), None);
        let thread = std::thread::spawn(move || {
            let _on_duty = control;
            std::panic::resume_unwind(Box::new("gone"));
        });
        assert!(thread.join().is_err());
        assert_eq!(essential.missing(), Some(Duty::Control));
        essential.ends();
        assert_eq!(essential.missing(), None);
    }
}
