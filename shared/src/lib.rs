//! What crosses a process boundary in forkgate: settings, control messages, shared memory, sealed tokens, logs.
//!
//! Nothing here knows the master or the worker; both depend on this crate and on nothing of each other.

pub mod calendar;
pub mod control;
pub mod descriptors;
pub mod log;
pub mod memfd;
pub mod proc;
pub mod report;
pub mod rows;
pub mod sealed;
pub mod sessions;
pub mod settings;
pub mod status;
pub mod verdict;
