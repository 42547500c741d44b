//! What can be wrong with a worker that runs, and how sure it is: the words that detector, master, report and metrics
//! share.

use serde::{Deserialize, Serialize};

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A poll does not return and uses no CPU: it waits in the kernel, for a lock, for a file, for sleep.
    StallBlocked,
    /// A poll does not return and uses a whole CPU.
    StallCpu,
    /// A poll does not return from a system call that no signal interrupts (state D).
    StallUninterruptible,
    /// The loop turns and is busy, and hardly any work gets done.
    Spin,
    /// The watchdog thread itself has stopped.
    Silent,
    /// Private memory is over 1.25 × `GATEWAY_MAX_RSS`.
    Memory,
    /// Nothing is: an operator wants a report of it, or its end. No worker says this of itself.
    Operator,
}

impl Verdict {
    /// All that a worker, or its silence, may claim, in the order of [`Verdict::index`].
    pub const ALL: [Verdict; 6] = [
        Verdict::StallBlocked,
        Verdict::StallCpu,
        Verdict::StallUninterruptible,
        Verdict::Spin,
        Verdict::Silent,
        Verdict::Memory,
    ];

    /// The word for logs, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::StallBlocked => "stall_blocked",
            Verdict::StallCpu => "stall_cpu",
            Verdict::StallUninterruptible => "stall_uninterruptible",
            Verdict::Spin => "spin",
            Verdict::Silent => "silent",
            Verdict::Memory => "memory",
            Verdict::Operator => "operator",
        }
    }

    /// Index into [`Verdict::ALL`]; past its end for what nobody claims.
    pub fn index(self) -> usize {
        self as usize
    }

    /// True when the loop still turns, so that the worker can be told something.
    pub fn loop_turns(self) -> bool {
        matches!(self, Verdict::Spin | Verdict::Memory | Verdict::Operator)
    }

    /// True when an outside cause (a disk, a debugger, a stopped machine) can bring it about on all workers at once: kills
    /// are then limited in rate, and not done at all when most workers have it. A spin and a runaway poll burn CPU in
    /// this very process, seen from outside: no such limit holds for them.
    pub fn is_guarded(self) -> bool {
        matches!(self, Verdict::StallBlocked | Verdict::StallUninterruptible | Verdict::Silent)
    }
}

/// How far a suspicion has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Long enough to send clients elsewhere and to start a standby.
    Suspect,
    /// Its limit has passed.
    Fired,
}

/// What a worker says of itself, packed into one number of its row; 0 means that nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What.
    pub verdict: Verdict,
    /// How far.
    pub stage: Stage,
}

impl Claim {
    /// One number, never 0.
    pub fn pack(self) -> u64 {
        let stage = match self.stage {
            Stage::Suspect => 1,
            Stage::Fired => 2,
        };
        (stage << 8) | self.verdict.index() as u64
    }

    /// Reads it back; anything unknown is no claim.
    pub fn unpack(raw: u64) -> Option<Claim> {
        let stage = match raw >> 8 {
            1 => Stage::Suspect,
            2 => Stage::Fired,
            _ => return None,
        };
        let verdict = *Verdict::ALL.get((raw & 0xff) as usize)?;
        Some(Claim { verdict, stage })
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = match self.stage {
            Stage::Suspect => "suspect",
            Stage::Fired => "fired",
        };
        write!(f, "{} {stage}", self.verdict.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_survives_the_row_and_garbage_is_none() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::ALL[verdict.index()], verdict);
            for stage in [Stage::Suspect, Stage::Fired] {
                let claim = Claim { verdict, stage };
                assert_eq!(Claim::unpack(claim.pack()), Some(claim));
            }
        }
        let operator = Claim { verdict: Verdict::Operator, stage: Stage::Fired };
        for raw in [operator.pack(), 0, 1, 0x300, 0x1ff, u64::MAX] {
            assert_eq!(Claim::unpack(raw), None, "{raw:x}");
        }
    }
}
