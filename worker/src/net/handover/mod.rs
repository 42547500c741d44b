//! Connections that move: from a worker that leaves to its heir, by descriptor passing (unix(7), `SCM_RIGHTS`).
//!
//! | who leaves | on the line | heir |
//! |---|---|---|
//! | takes a connection at rest apart, and keeps its own copy | descriptor and the bytes already read, in one packet → | |
//! | | ← one byte: taken, or not | enters the connection in its books |
//! | taken: closes its copy; not: serves on | | serves it |
//!
//! Invariant: at every moment at most one of the two reads or writes the connection. The heir answers before it touches
//! it, so whatever is unanswered when the heir's end closes was never touched, and who leaves goes on serving it. Only what
//! the heir has answered for dies with the heir, as its other connections do. When the other end closes, who leaves is gone
//! with its copies, and the heir serves what was on its way. Who can neither hear answers nor the end serves nothing of that.
//!
//! The line is a `SOCK_SEQPACKET` pair that the master makes; answers come in the order of the packets. At most
//! [`heir::WINDOW`] connections are on their way, so neither side ever waits for the other's event loop.

pub mod heir;
pub mod predecessor;
pub mod wire;
