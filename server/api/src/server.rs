//! Serving: sizes, keep-alive, and an end in time.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use coretex_engine::Engine;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tower::Service;

pub use crate::routes::ServeError;

use crate::connection::accept;
use crate::health::Health;
use crate::options::{ApiOptions, Tls};
use crate::routes::routes;

/// What a client may send ahead on one stream, and on all streams of a connection. What a handler
/// does not read waits here and nowhere else.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// The most bytes of all headers of a request; a credential and a trace fit many times.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// The gRPC API of an engine: all services on one port, with reflection, health and gRPC-Web.
#[derive(Debug)]
pub struct Api {
    engine: Engine,
    options: ApiOptions,
    health: Health,
    cut: CancellationToken,
}

impl Api {
    /// Makes the API. Metrics go to the recorder that is installed when it is served.
    #[must_use]
    pub fn new(engine: Engine, options: ApiOptions) -> Self {
        Self {
            engine,
            options,
            health: Health::new(),
            cut: CancellationToken::new(),
        }
    }

    /// What health checks answer, to be set by whoever knows.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Everything that is served, as a service for whatever transport.
    ///
    /// # Errors
    /// An allowed origin is none.
    pub fn service(
        &self,
    ) -> Result<
        impl Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        >
        + Clone
        + Send
        + Sync
        + 'static
        + use<>,
        ServeError,
    > {
        routes(&self.engine, &self.options, &self.health, &self.cut)
    }

    /// Serves until `shutdown` is done, and then stops: no connection is accepted any more, open
    /// ones are told to go elsewhere, streams that have not ended by themselves within
    /// `stream_grace` are cut with `SERVER_DRAINING`, and calls under way have `drain_timeout` to
    /// finish. Whoever wants workers to leave in peace drains the engine before `shutdown`.
    ///
    /// # Errors
    /// An allowed origin is none, the certificate or its key cannot be used, or the transport
    /// fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let stop = CancellationToken::new();
        let options = &self.options;
        let mut builder = Server::builder();
        if let Some(tls) = &options.tls {
            let config = tls_config(tls, options.handshake_timeout);
            builder = builder.tls_config(config).map_err(ServeError::Tls)?;
        }
        let server = builder
            .accept_http1(true)
            .max_concurrent_streams(options.max_streams_per_connection)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(options.keepalive_interval))
            .http2_keepalive_timeout(Some(options.keepalive_timeout))
            .serve_with_incoming_shutdown(
                self.service()?,
                accept(listener, options),
                stop.clone().cancelled_owned(),
            );
        let mut server = pin!(server);
        tokio::select! {
            served = &mut server => return served.map_err(ServeError::Transport),
            () = shutdown => {}
        }
        stop.cancel();
        if let Ok(served) = timeout(options.stream_grace, &mut server).await {
            return served.map_err(ServeError::Transport);
        }
        self.cut.cancel();
        match timeout(options.drain_timeout, server).await {
            Ok(served) => served.map_err(ServeError::Transport),
            Err(_) => {
                tracing::warn!("calls under way were cut by the drain timeout");
                Ok(())
            }
        }
    }
}

fn tls_config(tls: &Tls, handshake_timeout: Duration) -> ServerTlsConfig {
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(&tls.certificate, &tls.key))
        .timeout(handshake_timeout);
    match &tls.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
        None => config,
    }
}
