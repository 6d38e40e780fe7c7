//! The gRPC port: the API over the engine, as a task that can be asked to end.

use std::fs;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use coretex_api::{Api, ApiOptions, Backends, Health, ServeError, Tls};
use coretex_core::time::IdGen;
use coretex_engine::Engine;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::error::StartError;

/// Streams end within this time of a stop by themselves, as clients that were told to leave do.
const STREAM_GRACE: Duration = Duration::from_secs(1);

/// The port being served.
#[derive(Debug)]
pub(crate) struct Grpc {
    health: Health,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

/// Reads what TLS needs; `None` = off.
pub(crate) fn tls(config: &config::Tls) -> Result<Option<Tls>, StartError> {
    let (Some(certificate), Some(key)) = (&config.cert, &config.key) else {
        return Ok(None);
    };
    Ok(Some(Tls {
        certificate: pem("tls.cert", certificate)?,
        key: pem("tls.key", key)?,
        client_ca: match &config.client_ca {
            Some(path) => Some(pem("tls.client_ca", path)?),
            None => None,
        },
    }))
}

/// Reads a file that must hold something in PEM form.
pub(crate) fn pem(key: &str, path: &Path) -> Result<Vec<u8>, StartError> {
    let refuse = |reason: &str| StartError::Tls {
        reason: format!("`{key}`: {}: {reason}", path.display()),
    };
    let bytes = fs::read(path).map_err(|error| refuse(&error.to_string()))?;
    // What is no PEM text at all would otherwise be found out by the first client.
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(refuse("holds nothing in PEM form"));
    }
    Ok(bytes)
}

impl Grpc {
    /// Serves from now on.
    pub(crate) async fn start(
        config: &Config,
        engine: Engine,
        ids: Arc<dyn IdGen>,
        backends: Arc<dyn Backends>,
        listener: TcpListener,
        tls: Option<Tls>,
    ) -> Result<Self, StartError> {
        let work = config.timing.drain_timeout;
        let api = Api::new(
            engine,
            ApiOptions {
                allowed_origins: config.cors.origins.clone(),
                tls,
                max_connections: config.limits.max_connections as usize,
                stream_grace: STREAM_GRACE.min(work / 4),
                // Bounded by whoever stops it.
                drain_timeout: work,
                backends,
                ..ApiOptions::new(ids)
            },
        );
        let health = api.health();
        let stop = CancellationToken::new();
        let mut serving: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(api.serve(listener, stop.clone().cancelled_owned()));
        // The first step makes the transport from the options, and only then waits for
        // connections: what is wrong with certificates is known now, not at the first client.
        let first = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context))).await;
        if let Poll::Ready(Err(error)) = first {
            return Err(refused(&error));
        }
        Ok(Self {
            health,
            stop,
            task: tokio::spawn(serving),
        })
    }

    /// What health checks answer.
    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Waits until serving fails by itself.
    pub(crate) async fn failed(&mut self) -> String {
        match (&mut self.task).await {
            Ok(Ok(())) => "the gRPC port was closed".to_owned(),
            Ok(Err(error)) => said(&error),
            Err(error) => error.to_string(),
        }
    }

    /// Asks to end and waits for it: no new connections, calls under way are answered. Cut after
    /// `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        if self.task.is_finished() {
            return;
        }
        match tokio::time::timeout(grace, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(error = said(&error), "the gRPC port failed"),
            Ok(Err(error)) => tracing::error!(%error, "the gRPC port failed"),
            Err(_) => {
                tracing::warn!("calls under way were cut by the drain deadline");
                self.task.abort();
            }
        }
    }
}

fn refused(error: &ServeError) -> StartError {
    let reason = said(error);
    match error {
        ServeError::Origin(_) | ServeError::Tls(_) => StartError::Tls { reason },
        ServeError::Reflection(_) | ServeError::Transport(_) => StartError::Io {
            what: "cannot serve gRPC".to_owned(),
            error: std::io::Error::other(reason),
        },
    }
}

/// An error with its causes, which transports hide one behind the other.
fn said(error: &ServeError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
