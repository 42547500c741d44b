//! The numbers under which a child finds what the master gives it.
//!
//! A child is the master's own executable started anew (`fork` + `exec`), so everything it inherits is an open
//! descriptor under a fixed number. Everything else in the master is close-on-exec.

use std::os::fd::RawFd;

use crate::settings::MAX_BINDS;

/// Control socket (`SOCK_SEQPACKET`), see [`crate::control`]. Its end of file means: the master is gone.
pub const CONTROL: RawFd = 3;
/// Shared rows (sealed memfd), see [`crate::rows`].
pub const ROWS: RawFd = 4;
/// What the master's state is written in, for a program that is asked whether it could take over: in the place of the rows.
pub const STATE: RawFd = ROWS;
/// The effective settings (sealed memfd holding JSON), see [`crate::settings::Settings::to_memfd`].
pub const SETTINGS: RawFd = 5;
/// The session table (file in the state directory, mapped shared), see [`crate::sessions`].
pub const SESSIONS: RawFd = 6;
/// The catalog snapshot (sealed memfd). Absent for the `migrate` child, which makes the first one.
pub const CATALOG: RawFd = 7;
/// The first admin listener; further ones follow it without a gap. One socket each, which all workers share. There is
/// more than one only while a reload changes the address.
pub const ADMIN_LISTENERS: RawFd = 8;
/// Most admin listeners: in force, on its way in, and two on their way out.
pub const MAX_ADMIN_LISTENERS: usize = 4;
/// The first listener for clients; further ones follow it without a gap. Of a TCP address it is the slot's own socket
/// (`SO_REUSEPORT`), shared with every worker of the slot; of a unix socket the one that all workers share.
pub const LISTENERS: RawFd = ADMIN_LISTENERS + MAX_ADMIN_LISTENERS as RawFd;
/// Most listeners for clients: all addresses twice, while a reload changes them.
pub const MAX_LISTENERS: usize = 2 * MAX_BINDS;
/// The last number of the plan.
pub const LAST: RawFd = LISTENERS + MAX_LISTENERS as RawFd - 1;
