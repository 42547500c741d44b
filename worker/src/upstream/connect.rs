//! New connections to upstreams: name → allowed address → TCP → TLS → HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forkgate_shared::settings::Settings;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::gauge::{ConnectionGauge, CountedConnection};
use super::metered::Metered;
use super::resolve::Names;
use super::{UpstreamError, address};
use crate::lifecycle::task;

/// The half of a connection that requests are given to.
pub type Sender = SendRequest<Full<Bytes>>;

/// Read buffer of a connection, in bytes: the same bound as downstream.
const MAX_BUFFER: usize = 64 * 1024;

/// Where connections of an upstream go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https`.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Makes connections.
pub struct Connector {
    settings: Arc<Settings>,
    names: Names,
    /// Loaded when the first `https` upstream is called: reading the system's certificates costs time and memory.
    tls: OnceCell<TlsConnector>,
    gauge: ConnectionGauge,
}

impl Connector {
    /// Loads nothing yet.
    pub fn new(settings: Arc<Settings>, gauge: ConnectionGauge) -> Connector {
        Connector { settings, names: Names::default(), tls: OnceCell::new(), gauge }
    }

    /// A connection that is ready for a request, within `GATEWAY_CONNECT_TIMEOUT`; counted as one to the upstream with this
    /// index.
    pub async fn connect(&self, origin: &Origin, index: usize) -> Result<Sender, UpstreamError> {
        let limit = self.settings.connect_timeout;
        let timed_out = || UpstreamError::Unreachable(format!("no connection within {limit:?}"));
        tokio::time::timeout(limit, self.try_connect(origin, limit, index)).await.map_err(|_| timed_out())?
    }

    async fn try_connect(
        &self,
        origin: &Origin,
        limit: Duration,
        index: usize,
    ) -> Result<Sender, UpstreamError> {
        let tcp = self.dial(origin, limit).await?;
        tcp.set_nodelay(true).map_err(|error| UpstreamError::Unreachable(error.to_string()))?;
        let counted = self.gauge.opened(index);
        if !origin.tls {
            return handshake(tcp, counted).await;
        }
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| UpstreamError::BadUrl(format!("{} is no server name", origin.host)))?;
        let tls = self.tls.get_or_try_init(load_tls).await?;
        let stream = tls
            .connect(name, tcp)
            .await
            .map_err(|error| UpstreamError::Unreachable(format!("TLS: {error}")))?;
        handshake(stream, counted).await
    }

    /// Tries the allowed addresses one after another; the first gets at most half of the time, so that a dead IPv6
    /// route leaves some for IPv4.
    async fn dial(&self, origin: &Origin, limit: Duration) -> Result<TcpStream, UpstreamError> {
        let lookup = async |host: String, port| Ok(tokio::net::lookup_host((host, port)).await?.collect());
        let addresses = self.names.addresses(origin, lookup).await?;
        let mut last = UpstreamError::NoAddress("no address".to_owned());
        for &address in addresses.iter() {
            if !address::allowed(address.ip(), &self.settings) {
                last = UpstreamError::AddressRefused(address.ip());
                continue;
            }
            match tokio::time::timeout(limit / 2, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => last = UpstreamError::Unreachable(error.to_string()),
                Err(_) => last = UpstreamError::Unreachable("the connection attempt timed out".to_owned()),
            }
        }
        Err(last)
    }
}

async fn handshake<T>(stream: T, counted: CountedConnection) -> Result<Sender, UpstreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(Metered(stream)))
        .await
        .map_err(|error| UpstreamError::Unreachable(error.to_string()))?;
    task::spawn("upstream connection", async move {
        // Whoever waits for an answer gets the error; an idle connection that ends is nothing to tell.
        let _ = connection.await;
        drop(counted);
    });
    Ok(sender)
}

async fn load_tls() -> Result<TlsConnector, UpstreamError> {
    let failed = |error: &dyn std::fmt::Display| UpstreamError::Unreachable(format!("TLS: {error}"));
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|error| failed(&error))?;
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        return Err(failed(&"this machine has no certificate authorities; install ca-certificates"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
