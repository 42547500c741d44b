//! Upstreams: who answers, over own small pools of HTTP/1.1 connections, in the era that each upstream speaks.
//!
//! Everything here is bounded: connections kept, bytes of a message, and the time of a call from its start to its last
//! byte. A call is sent again only where it surely was not processed before; one that only reads, also once more where a
//! pooled connection broke under it.

pub mod address;
pub mod connect;
pub mod exchange;
pub mod fetch;
mod gauge;
pub mod masked;
mod message;
mod metered;
mod open_call;
pub mod peer;
mod peers;
pub mod probe;
mod resolve;
pub mod session;
pub mod sse;
mod turns;

mod calls;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use calls::{Answer, Answered, Built, Upstreams};
pub use open_call::OpenCall;

/// Why an upstream gave no answer. The texts name no secrets: no header, no URL with its query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The registered URL cannot be used.
    #[error("its URL cannot be used: {0}")]
    BadUrl(String),
    /// A registered header cannot be sent.
    #[error("its header {0} cannot be sent")]
    BadHeader(String),
    /// Its name did not resolve.
    #[error("its host name does not resolve: {0}")]
    NoAddress(String),
    /// It resolved only to addresses that the settings forbid.
    #[error(
        "its address {0} is not allowed; SSRF_ALLOW_LOCALHOST and SSRF_ALLOW_PRIVATE_NETWORKS decide that"
    )]
    AddressRefused(std::net::IpAddr),
    /// No connection, or no TLS on it.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke after the request was sent; nobody knows what the upstream did.
    #[error("the connection broke before the answer was complete: {0}")]
    Broken(String),
    /// The deadline (`GATEWAY_TOOL_TIMEOUT`) passed.
    #[error("it did not answer in time (GATEWAY_TOOL_TIMEOUT)")]
    TimedOut,
    /// Its message is larger than `GATEWAY_MAX_ANSWER`.
    #[error("its answer is larger than {0} bytes (GATEWAY_MAX_ANSWER)")]
    TooLarge(u64),
    /// It wants other credentials.
    #[error(
        "it refused the gateway's credentials with HTTP status {0}; check the headers it is registered with"
    )]
    Unauthorized(u16),
    /// A status that the protocol gives no meaning to.
    #[error("it answered with HTTP status {0}")]
    Status(u16),
    /// It answered, but not with a message of the protocol.
    #[error("its answer is not understood: {0}")]
    Nonsense(String),
    /// Its `initialize` was answered with an error.
    #[error("it refused initialize: {0}")]
    InitializeRefused(String),
}

impl UpstreamError {
    /// True when the upstream surely did nothing yet, so that the same request may be sent again.
    pub fn is_before_processing(&self) -> bool {
        matches!(
            self,
            UpstreamError::NoAddress(_)
                | UpstreamError::Unreachable(_)
                | UpstreamError::Unauthorized(_)
                | UpstreamError::InitializeRefused(_)
        )
    }
}
