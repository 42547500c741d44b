//! Client connections: accepting them, and the one IO wrapper that each of them is.
//!
//! Invariant: whatever was accepted reaches a handler, and nothing that was written is cut off by our own close.
//!
//! hyper parses; what it does not give is here (`io`, `activity`): the phase that a connection is in, a header timeout
//! that does not run between requests, a deadline on a peer that takes nothing, a close that lets the last answer
//! arrive, and whether a request's body was read to its end (`request_body`). `open` knows all connections of a worker, for the drain. `handover` moves connections at rest to the worker that
//! takes this one's place.

pub mod accept;
pub mod activity;
pub mod connection;
pub mod handover;
pub mod io;
pub mod open;
pub mod request_body;
pub mod stream;
mod unix;
