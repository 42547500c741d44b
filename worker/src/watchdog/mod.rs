//! The watchdog: a thread of its own in every worker that looks at the event loop four times a second, says in the row what
//! is wrong with it, and writes down what is going on inside when the master asks for a report.
//!
//! [`inputs`] reads, [`detector`] judges (pure; its rules are `stall`, `spin`, `degenerate` over a `window` of samples),
//! [`thread`] writes the row and the log, [`inside`] makes the worker's part of a report: stacks and their names, tasks,
//! descriptors, memory. The watchdog accuses only: whether the worker is killed is the master's decision, which looks from
//! outside first.

mod degenerate;
mod descriptors;
mod detector;
mod inputs;
mod inside;
mod memory;
mod modules;
mod names;
mod quota;
mod spin;
mod stack;
mod stall;
mod symbols;
mod thread;
mod waiting;
mod window;

pub(crate) use thread::{Wiring, start};
