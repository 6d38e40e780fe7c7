//! The admin port: `/metrics`, `/livez`, `/readyz` over plain HTTP, for machines on the same
//! network. It tells numbers and states, never content, and takes no commands.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::readiness::Readiness;
use crate::telemetry::metrics::Metrics;

/// Scrapers and probes are few; more connections than this are somebody's mistake.
const MAX_CONNECTIONS: usize = 64;
/// A peer that does not finish its request or goes quiet gives its connection back.
const IDLE: Duration = Duration::from_secs(30);

/// What the port shows.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) metrics: Metrics,
}

/// Serves until `stop`, then ends all connections.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: a pause lets others give theirs back.
                tracing::warn!(%error, "admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let admin = Arc::clone(&admin);
        let stop = stop.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(&admin, request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // How a peer went away is its own business.
            let _ended = stop.run_until_cancelled(connection).await;
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(
    admin: &Admin,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let known = ["/metrics", "/livez", "/readyz"].contains(&request.uri().path());
    if known && ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allow = header::HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(header::ALLOW, allow);
        return Ok(refusal);
    }
    Ok(match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => ready(admin.readiness.problem().await),
        "/metrics" => {
            let problem = admin.readiness.problem().await;
            content(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                admin.metrics.render(problem.is_none()),
            )
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez and /readyz\n",
        ),
    })
}

fn ready(problem: Option<String>) -> Response<Full<Bytes>> {
    let (status, body) = match problem {
        None => (StatusCode::OK, serde_json::json!({"ready": true})),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            serde_json::json!({"ready": false, "reason": reason}),
        ),
    };
    content(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    content(status, "text/plain; charset=utf-8", body)
}

fn content(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
