//! Connections: addresses, TLS, credentials, keep-alive. Set here for the whole crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Code;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Error;

/// A server that does not accept a connection within this is taken for dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an otherwise silent connection is probed, so that a half-open one is noticed while the
/// adoption window of workers (15 s by default) still runs, and proxies do not cut idle ones.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(6);
/// How long a probe may stay unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// HTTP/2 windows that hold a few of the largest payloads, so that one does not wait for window
/// updates; the default of 64 KiB would.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

const USER_AGENT: &str = concat!("coretex-rust/", env!("CARGO_PKG_VERSION"));

/// A byte stream that a connection can run over. Implemented for everything that fits.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Connect = dyn Fn(Uri) -> BoxFuture<'static, std::io::Result<Box<dyn Io>>> + Send + Sync;

/// Opens byte streams in place of TCP.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Arc<Connect>);

#[derive(Default)]
pub(super) struct Settings {
    pub(super) api_key: Option<String>,
    pub(super) connections: usize,
    pub(super) user_agent: Option<String>,
    pub(super) ca: Option<Certificate>,
    pub(super) identity: Option<Identity>,
    pub(super) tls_domain: Option<String>,
    pub(super) connector: Option<Connector>,
}

/// The connections of a client.
pub(crate) struct Transport {
    servers: Vec<String>,
    endpoints: Vec<Endpoint>,
    channels: Vec<Channel>,
    connector: Option<Connector>,
    authorization: Option<MetadataValue<Ascii>>,
    turn: AtomicUsize,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::local(Code::InvalidArgument, message)
}

/// Completes and checks an address.
fn address(server: &str) -> Result<String, Error> {
    let server = server.trim();
    let full = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let bad = |why: &str| invalid(format!("server address {server:?} is not usable: {why}"));
    let uri: Uri = full.parse().map_err(|_| bad("it is not a url"))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(bad("it must be like http://host:port or https://host"));
    };
    if authority.as_str().contains('@') {
        // Not shown: it may be a secret.
        return Err(invalid(
            "a server address holds no credentials; use the api key",
        ));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("it must not have a path"));
    }
    Ok(format!("{scheme}://{authority}"))
}

fn endpoint(server: &str, settings: &Settings) -> Result<Endpoint, Error> {
    let bad = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
        invalid(format!("{server}: {error}{}", cause.unwrap_or_default()))
    };
    let user_agent = match &settings.user_agent {
        Some(name) => format!("{name} {USER_AGENT}"),
        None => USER_AGENT.to_owned(),
    };
    let mut endpoint = Endpoint::from_shared(server.to_owned())
        .and_then(|endpoint| endpoint.user_agent(user_agent))
        .map_err(bad)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if server.starts_with("https://") {
        let mut tls = ClientTlsConfig::new().with_enabled_roots();
        if let Some(ca) = &settings.ca {
            tls = tls.ca_certificate(ca.clone());
        }
        if let Some(identity) = &settings.identity {
            tls = tls.identity(identity.clone());
        }
        if let Some(domain) = &settings.tls_domain {
            tls = tls.domain_name(domain.clone());
        }
        endpoint = endpoint.tls_config(tls).map_err(bad)?;
    }
    Ok(endpoint)
}

fn open(endpoint: &Endpoint, connector: Option<&Connector>) -> Channel {
    match connector {
        None => endpoint.connect_lazy(),
        Some(Connector(connect)) => {
            let connect = Arc::clone(connect);
            endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| {
                let stream = connect(uri);
                async move { stream.await.map(TokioIo::new) }
            }))
        }
    }
}

impl Transport {
    pub(super) fn new(servers: &[String], settings: Settings) -> Result<Self, Error> {
        let servers: Vec<String> = servers
            .iter()
            .map(|server| address(server))
            .collect::<Result<_, _>>()?;
        let endpoints: Vec<Endpoint> = servers
            .iter()
            .map(|server| endpoint(server, &settings))
            .collect::<Result<_, _>>()?;
        let authorization = settings.api_key.as_ref().map(|key| -> Result<_, Error> {
            // The text of the key must not get into the error.
            let mut value: MetadataValue<Ascii> = format!("Bearer {}", key.trim())
                .parse()
                .map_err(|_| invalid("the api key holds characters that cannot be sent"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let count = settings.connections.max(endpoints.len());
        let channels = (0..count)
            .map(|n| open(&endpoints[n % endpoints.len()], settings.connector.as_ref()))
            .collect();
        Ok(Self {
            servers,
            endpoints,
            channels,
            connector: settings.connector,
            authorization: authorization.transpose()?,
            turn: AtomicUsize::new(0),
        })
    }

    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The next connection in turn, and the address it leads to.
    pub(super) fn channel(&self) -> (Channel, &str) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        (
            self.channels[turn].clone(),
            &self.servers[turn % self.servers.len()],
        )
    }

    /// A connection of its own, to the server whose turn it is in the `n`-th try.
    pub(crate) fn fresh_channel(&self, n: usize) -> (Channel, &str) {
        let at = n % self.endpoints.len();
        let channel = open(&self.endpoints[at], self.connector.as_ref());
        (channel, &self.servers[at])
    }

    /// Adds the credential to the metadata of a call.
    pub(crate) fn authorize(&self, metadata: &mut MetadataMap) {
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("servers", &self.servers)
            .field("connections", &self.channels.len())
            .field("authorized", &self.authorization.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        let table = [
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://a:1/", "http://a:1"),
            ("https://a.example", "https://a.example"),
            (" [::1]:5 ", "http://[::1]:5"),
        ];
        for (given, expected) in table {
            assert_eq!(address(given).ok().as_deref(), Some(expected));
        }
        for bad in [
            "",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/b",
            "http://a?b",
            "a b",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn keys_stay_out_of_debug_and_errors() {
        let settings = |key: &str| Settings {
            api_key: Some(key.into()),
            ..Settings::default()
        };
        let good = Transport::new(&["a:1".into()], settings("secret\n"));
        let text = format!("{good:?}");
        assert!(text.contains("authorized: true") && !text.contains("secret"));
        let bad = Transport::new(&["a:1".into()], settings("sec\nret"));
        assert!(bad.is_err_and(|error| !error.to_string().contains("ret")));
    }

    #[tokio::test]
    async fn connections_take_turns() -> Result<(), Error> {
        let settings = Settings {
            connections: 3,
            ..Settings::default()
        };
        let transport = Transport::new(&["a:1".into(), "b:1".into()], settings)?;
        assert_eq!(transport.channels.len(), 3);
        let turns: Vec<&str> = (0..4).map(|_| transport.channel().1).collect();
        assert_eq!(
            turns,
            ["http://a:1", "http://b:1", "http://a:1", "http://a:1"]
        );
        Ok(())
    }
}
