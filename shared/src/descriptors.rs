//! The numbers under which a child finds what the master gives it.
//!
//! A child is the master's own executable started anew (`fork` + `exec`), so everything it inherits is an open
//! descriptor under a fixed number. Everything else in the master is close-on-exec.

use std::os::fd::RawFd;

/// Control socket (`SOCK_SEQPACKET`), see [`crate::control`]. Its end of file means: the master is gone.
pub const CONTROL: RawFd = 3;
/// Shared rows (sealed memfd), see [`crate::rows`].
pub const ROWS: RawFd = 4;
/// The effective settings (sealed memfd holding JSON), see [`crate::settings::Settings::to_memfd`].
pub const SETTINGS: RawFd = 5;
/// The session table (file in the state directory, mapped shared), see [`crate::sessions`].
pub const SESSIONS: RawFd = 6;
/// The catalog snapshot (sealed memfd). Absent for the `migrate` child, which makes the first one.
pub const CATALOG: RawFd = 7;
/// The slot's listener: `SO_REUSEPORT`, listening, non-blocking, shared with every worker of the slot.
pub const LISTENER: RawFd = 8;
/// The admin listener: one socket that all workers share.
pub const ADMIN_LISTENER: RawFd = 9;
