//! How a client is described before it is made.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::Uri;
use tonic::Code;
use tonic::transport::{Certificate, Identity};

use super::transport::{Connector, Settings};
use super::{Client, Io, Options, Shared, Transport};
use crate::{Entropy, Error, NoPayloadStore, PayloadStore, SystemEntropy};

/// Where a server listens by default.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// Long enough for a server that is busy or being restarted, short enough for a person who waits.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// With pauses of 50 ms doubling, four attempts bridge about half a second.
const DEFAULT_ATTEMPTS: u32 = 4;
/// What the platform accepts by default.
const DEFAULT_PAYLOAD_LIMIT: usize = 1024 * 1024;
/// A server that is restarted or replaced is back within this.
const DEFAULT_OUTAGE_TOLERANCE: Duration = Duration::from_secs(60);

/// Describes a [`Client`]. Every setting has a default.
///
/// ```no_run
/// use std::time::Duration;
///
/// # fn example() -> Result<(), coretex::Error> {
/// let client = coretex::Client::builder()
///     .server("http://127.0.0.1:50051")
///     .connections(4)
///     .deadline(Duration::from_secs(10))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct ClientBuilder {
    servers: Vec<String>,
    settings: Settings,
    deadline: Duration,
    attempts: u32,
    entropy: Arc<dyn Entropy>,
    payload_store: Arc<dyn PayloadStore>,
    payload_limit: usize,
    outage_tolerance: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            settings: Settings::default(),
            deadline: DEFAULT_DEADLINE,
            attempts: DEFAULT_ATTEMPTS,
            entropy: Arc::new(SystemEntropy),
            payload_store: Arc::new(NoPayloadStore),
            payload_limit: DEFAULT_PAYLOAD_LIMIT,
            outage_tolerance: DEFAULT_OUTAGE_TOLERANCE,
        }
    }
}

impl ClientBuilder {
    /// The address of the server: `http://host:port`, `https://host[:port]`, or `host:port` for
    /// plain HTTP. Default: `http://127.0.0.1:50051`.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.servers = vec![server.into()];
        self
    }

    /// The addresses of several servers of one installation. Calls take turns, and a worker that
    /// loses one server reconnects to the next.
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// The credential, sent as `authorization: Bearer`. Default: none.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.settings.api_key = Some(key.into());
        self
    }

    /// How many connections to hold, used in turn. One carries thousands of calls per second; more
    /// help under load. Default: one for each server.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections;
        self
    }

    /// How long each call may take, its repetitions included. Default: 30 seconds.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often a call is sent at most, the first time included. Default: 4.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How long watches and long waits go on without any server before they fail. Default: one
    /// minute.
    pub fn outage_tolerance(mut self, tolerance: Duration) -> Self {
        self.outage_tolerance = tolerance;
        self
    }

    /// What to put before the library's own name in `user-agent`, for example `my-app/1.2`.
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.settings.user_agent = Some(name.into());
        self
    }

    /// A certificate authority (PEM) to trust in addition to those of the system.
    pub fn ca_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.settings.ca = Some(Certificate::from_pem(pem));
        self
    }

    /// The certificate and key (PEM) that this client shows.
    pub fn identity(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.settings.identity = Some(Identity::from_pem(certificate, key));
        self
    }

    /// The name the server's certificate must have, when it is not that of the address.
    pub fn tls_domain(mut self, domain: impl Into<String>) -> Self {
        self.settings.tls_domain = Some(domain.into());
        self
    }

    /// Opens byte streams to servers by other means than TCP: Unix sockets, tunnels, memory.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), coretex::Error> {
    /// let client = coretex::Client::builder()
    ///     .connector(|_uri| tokio::net::UnixStream::connect("/run/coretex.sock"))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connector<F, Fut, S>(mut self, connect: F) -> Self
    where
        F: Fn(Uri) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::io::Result<S>> + Send + 'static,
        S: Io + 'static,
    {
        let connect = move |uri| {
            let stream = connect(uri);
            async move { Ok(Box::new(stream.await?) as Box<dyn Io>) }.boxed()
        };
        self.settings.connector = Some(Connector(Arc::new(connect)));
        self
    }

    /// The source of ids and jitter. Default: [`SystemEntropy`].
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Where payloads over the limit go. Default: they are refused.
    pub fn payload_store(mut self, store: Arc<dyn PayloadStore>) -> Self {
        self.payload_store = store;
        self
    }

    /// The largest payload to send within a message, in bytes of its encoding. Should be what the
    /// server accepts. Default: 1 MiB.
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.payload_limit = bytes;
        self
    }

    /// Makes the client. Connects later, when the first call needs it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad address, key or certificate; FAILED_PRECONDITION outside a Tokio
    /// runtime, where connections could not live.
    pub fn build(mut self) -> Result<Client, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            let message = "a client must be made inside a tokio runtime";
            return Err(Error::local(Code::FailedPrecondition, message));
        }
        if self.servers.is_empty() {
            self.servers.push(DEFAULT_SERVER.to_owned());
        }
        Ok(Client {
            shared: Arc::new(Shared {
                transport: Transport::new(&self.servers, self.settings)?,
                entropy: self.entropy,
                payload_store: self.payload_store,
                payload_limit: self.payload_limit,
                outage_tolerance: self.outage_tolerance,
            }),
            options: Options {
                deadline: self.deadline,
                attempts: self.attempts,
                traceparent: None,
            },
        })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}
