//! Where spans go: an OpenTelemetry collector, in batches, from a bounded queue. A collector that
//! is slow or away costs spans, never jobs.

use std::time::Duration;

use coretex_core::job::Job;
use coretex_core::time::IdGen;
use opentelemetry::trace::SpanId;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample, SpanProcessor,
};

use super::spans;
use crate::config;
use crate::source::RandomIds;

/// Tells a collector about ended jobs.
#[derive(Debug)]
pub struct Traces {
    processor: BatchSpanProcessor,
    sampler: Sampler,
}

impl Traces {
    /// Prepares the connection, which is made when there is something to tell. `None` without an
    /// endpoint. Must be called inside the runtime that shall drive the connection.
    ///
    /// # Errors
    /// The endpoint is none that can be connected to.
    pub fn new(config: &config::Otlp) -> Result<Option<Self>, String> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(None);
        };
        let mut headers = http::HeaderMap::new();
        for (name, value) in config.headers.iter() {
            // Checked when they were read.
            if let (Ok(name), Ok(value)) = (
                name.parse::<http::HeaderName>(),
                value.parse::<http::HeaderValue>(),
            ) {
                headers.insert(name, value);
            }
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_metadata(MetadataMap::from_headers(headers))
            .with_timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name("coretexd")
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource);
        Ok(Some(Self {
            processor,
            sampler: Sampler::TraceIdRatioBased(config.sampling),
        }))
    }

    /// Takes the spans of a job that has ended. Never waits.
    pub fn ended(&self, job: &Job) {
        let Some(trace) = spans::trace_of(job) else {
            return;
        };
        let kind = opentelemetry::trace::SpanKind::Producer;
        let sampled = self
            .sampler
            .should_sample(None, trace, "job", &kind, &[], &[]);
        if sampled.decision != SamplingDecision::RecordAndSample {
            return;
        }
        let root = SpanId::from(RandomIds.random() as u64);
        for span in spans::spans_of(job, trace, root) {
            self.processor.on_end(span);
        }
    }

    /// Sends what is left. Blocks for at most `grace`.
    pub fn close(&self, grace: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(grace) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::config::value::{Field, Input};
    use crate::telemetry::spans::tests::job;

    const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    /// What a collector was sent: path, credential, message.
    type Export = (String, String, Bytes);

    /// A collector that takes everything.
    async fn collector() -> (String, mpsc::Receiver<Export>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let credential = request.headers().get("authorization");
                    let credential = credential.unwrap().to_str().unwrap().to_owned();
                    let message = request.into_body().collect().await.unwrap().to_bytes();
                    sender.send((path, credential, message)).await.unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let empty = Full::new(Bytes::from_static(&[0; 5]));
                    let body = empty.with_trailers(async move { Some(Ok(trailers)) });
                    Response::builder()
                        .header("content-type", "application/grpc")
                        .body(body)
                }
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            let _ended = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        (endpoint, receiver)
    }

    fn holds(message: &[u8], text: &str) -> bool {
        message
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ended_jobs_reach_the_collector_with_its_credential() {
        let (endpoint, mut exports) = collector().await;
        let mut config = Config::default().otlp;
        config.endpoint = Some(endpoint);
        config.headers = Field::read(Input::Text("authorization=Bearer t")).unwrap();
        let traces = Traces::new(&config).unwrap().unwrap();
        traces.ended(&job());
        let closing = tokio::task::spawn_blocking(move || traces.close(Duration::from_secs(30)));
        let (path, credential, message) = exports.recv().await.unwrap();
        assert_eq!((path.as_str(), credential.as_str()), (EXPORT, "Bearer t"));
        for text in ["coretexd", "job job.wc", "attempt job.wc", "key:k", "oops"] {
            assert!(holds(&message, text), "{text}");
        }
        closing.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn traces_that_are_not_sampled_and_no_endpoint_cost_nothing() {
        let mut config = Config::default().otlp;
        assert!(Traces::new(&config).unwrap().is_none());
        let (endpoint, mut exports) = collector().await;
        config.endpoint = Some(endpoint);
        config.sampling = 0.0;
        let traces = Traces::new(&config).unwrap().unwrap();
        traces.ended(&job());
        tokio::task::spawn_blocking(move || traces.close(Duration::from_secs(30)))
            .await
            .unwrap();
        assert!(exports.try_recv().is_err());
    }
}
