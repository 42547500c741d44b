//! The harness of the black-box tests: it knows forkgate only by its command line, its ports and `/proc`.
//!
//! Rules that everything here keeps: a wait is for a condition and has a deadline; a process that was started is
//! stopped by its id when its owner goes out of scope; a failure says what was seen, not only what was expected.

pub mod cgroup;
pub mod claims;
pub mod clients;
pub mod container;
pub mod crash_report;
pub mod dockerfile;
pub mod fault;
pub mod gateway;
pub mod http;
pub mod invariants;
pub mod latency;
pub mod load;
pub mod mcp;
pub mod neighbour;
pub mod network;
pub mod paths;
pub mod process;
pub mod raw;
pub mod runner;
pub mod skip;
pub mod sockets;
pub mod starts;
pub mod status;
pub mod steps;
pub mod systemd;
pub mod terminal;
pub mod token;
pub mod upstream;
pub mod wait;
pub mod witness;
