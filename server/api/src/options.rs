//! What the API can be told: bounds and periods of the transport.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::IdGen;

/// The servers behind store and bus, for status answers. The engine knows the two by their contracts
/// only; whoever has chosen them knows more.
pub trait Backends: fmt::Debug + Send + Sync {
    /// The version of the server that keeps the store; empty when it is a part of this program.
    fn store_version(&self) -> String;

    /// The version of the server that carries messages; empty when it is a part of this program.
    fn bus_version(&self) -> String;
}

/// Store and bus are parts of this program.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl Backends for BuiltIn {
    fn store_version(&self) -> String {
        String::new()
    }

    fn bus_version(&self) -> String {
        String::new()
    }
}

/// How the API listens and what it bounds. Every size and period of the transport is here.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Where request ids come from.
    pub ids: Arc<dyn IdGen>,
    /// What is behind store and bus.
    pub backends: Arc<dyn Backends>,
    /// Origins whose pages may call over gRPC-Web, for example `https://console.example.com`.
    /// Empty: CORS is off and browsers let no other page in.
    pub allowed_origins: Vec<String>,
    /// The server's own certificate. `None`: connections are not encrypted.
    pub tls: Option<Tls>,
    /// Most open connections; further ones are closed at once, so that their clients try elsewhere.
    pub max_connections: usize,
    /// Most calls under way on one connection.
    pub max_streams_per_connection: u32,
    /// A connection that is silent for this long is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// A connection that does not give the sign of life within this time is closed.
    pub keepalive_timeout: Duration,
    /// A new connection that has not said which protocol it speaks by then is closed.
    pub handshake_timeout: Duration,
    /// Most bytes that all requests on their way in may hold together, sessions not counted.
    pub max_intake_bytes: usize,
    /// A request that is not whole after this long is refused.
    pub intake_timeout: Duration,
    /// How long open streams may end by themselves after a stop was asked for.
    pub stream_grace: Duration,
    /// How long calls under way may take after the streams were cut.
    pub drain_timeout: Duration,
}

impl ApiOptions {
    /// The defaults.
    #[must_use]
    pub fn new(ids: Arc<dyn IdGen>) -> Self {
        Self {
            ids,
            backends: Arc::new(BuiltIn),
            allowed_origins: Vec::new(),
            tls: None,
            max_connections: 10_000,
            max_streams_per_connection: 1_000,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            max_intake_bytes: 256 * 1024 * 1024,
            intake_timeout: Duration::from_secs(60),
            stream_grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What encrypted connections need, as PEM texts.
#[derive(Clone)]
pub struct Tls {
    /// The certificate, with those that lead to its root.
    pub certificate: Vec<u8>,
    /// The private key of the certificate.
    pub key: Vec<u8>,
    /// Who signs the certificates of clients. `None`: clients need none.
    pub client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate_bytes", &self.certificate.len())
            .field("key", &"(hidden)")
            .field("client_ca", &self.client_ca.is_some())
            .finish()
    }
}
