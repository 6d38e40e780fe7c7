//! One HTTP request: one connection, to an address that was looked at, without redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::address::may_call;
use crate::StartError;
use crate::config::notify::Network;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long everything may take.
const WHOLE: Duration = Duration::from_secs(10);

/// What to send.
#[derive(Debug)]
pub(super) struct Post<'a> {
    pub(super) url: &'a http::Uri,
    /// Addresses that may be called although they are not public.
    pub(super) allowed: &'a [Network],
    pub(super) headers: [(&'static str, String); 3],
    pub(super) body: String,
}

/// Sends.
#[derive(Debug)]
pub(super) struct Poster {
    tls: Arc<ClientConfig>,
}

impl Poster {
    /// # Errors
    /// The system has no certificates to check others by.
    pub(super) fn new() -> Result<Self, StartError> {
        let refused = |reason: String| StartError::Setting {
            key: "notify",
            reason,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(config),
        })
    }

    /// Sends one request; well is any answer of 2xx.
    pub(super) async fn send(&self, post: Post<'_>) -> Result<(), String> {
        let sending = tokio::time::timeout(WHOLE, self.try_send(post));
        let status = sending
            .await
            .map_err(|_| format!("no answer within {}s", WHOLE.as_secs()))??;
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("answered {status}")),
        }
    }

    async fn try_send(&self, post: Post<'_>) -> Result<StatusCode, String> {
        let host = post.url.host().unwrap_or_default();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let secure = post.url.scheme_str() == Some("https");
        let port = post.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = connect(&bare, port, secure, post.allowed).await?;
        let path = post.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = post
            .url
            .authority()
            .map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("coretexd/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(post.body)));
        let request = request.map_err(|error| error.to_string())?;
        if !secure {
            return talk(stream, request).await;
        }
        let name = ServerName::try_from(bare).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await;
        talk(stream.map_err(|error| format!("TLS: {error}"))?, request).await
    }
}

/// Connects to an address of the host that may be called. It is looked up once: what was looked at
/// is what is connected to.
async fn connect(
    host: &str,
    port: u16,
    secure: bool,
    allowed: &[Network],
) -> Result<TcpStream, String> {
    let found = lookup_host((host, port)).await;
    let found = found.map_err(|error| format!("name not found: {error}"))?;
    let callable = |ip| may_call(ip, allowed) && (secure || ip.is_loopback());
    let address = found.into_iter().find(|address| callable(address.ip()));
    let address = address.ok_or_else(|| "its address may not be called".to_owned())?;
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    match connecting.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("not connected: {error}")),
        Err(_) => Err(format!("no connection within {}s", CONNECT.as_secs())),
    }
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut asking = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut asking => answer,
        // It may end right behind the answer, which has come then.
        _ = connection => asking.await,
    };
    // Nothing of its body is read.
    answer
        .map(|answer| answer.status())
        .map_err(|error| error.to_string())
}
