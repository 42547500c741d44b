//! HTTP: from a connection's bytes to a routed, authenticated request, and back.
//!
//! The steps of a request, in this order, in `serve`: path (`routes`) → preflights of pages of other origins (`cors`) →
//! Host and Origin (`host`) → token (`auth`) → `may` → body (`limits`) → protocol, admin API or one of our own answers.
//! Whatever is turned down on the way is a [`refusal::Refusal`].

mod caught;
pub mod client;
mod cors;
mod host;
mod in_flight;
mod limits;
pub mod refusal;
mod routes;
pub mod serve;
#[cfg(test)]
mod tests;
mod welcome;
