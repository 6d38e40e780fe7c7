//! What stands in front of the handlers: ids, metrics, sizes, garbage, browsers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{Answer, Harness, SUBMIT, WHO_AM_I, empty, engine, fields, frame, submission};
use bytes::Bytes;
use coretex_proto::v1;
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt;

const BATCH: &str = "/coretex.v1.JobService/SubmitJobs";
const MIB: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn every_answer_names_its_call() {
    let harness = Harness::closed().await;
    let id = |answer: &Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let first = harness.call(WHO_AM_I, &[], empty()).await;
    let second = harness.call(WHO_AM_I, &[], empty()).await;
    assert_eq!(id(&first).len(), 32);
    assert_ne!(id(&first), id(&second));
    let given = [("x-request-id", "mine-1.2_3")];
    let given = harness.call(WHO_AM_I, &given, empty()).await;
    assert_eq!(id(&given), "mine-1.2_3");
    for bad in ["a b", "<script>", &"x".repeat(129)] {
        let replaced = harness
            .call(WHO_AM_I, &[("x-request-id", bad)], empty())
            .await;
        assert_eq!(id(&replaced).len(), 32);
    }
    let unknown = harness.call("/nope", &[], empty()).await;
    assert_eq!(id(&unknown).len(), 32);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_the_callers_mistake() {
    let harness = Harness::open().await;
    let cut_short = Bytes::from_static(&[0, 0, 0, 0, 9, 1]);
    let no_message = Bytes::from_static(&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]);
    let not_utf8 = Bytes::from_static(&[0, 0, 0, 0, 3, 0x1a, 1, 0xff]);
    let strange_flag = Bytes::from_static(&[7, 0, 0, 0, 0]);
    let squeezed = Bytes::from_static(&[1, 0, 0, 0, 1, 0]);
    for body in [
        Bytes::new(),
        cut_short,
        no_message,
        not_utf8,
        strange_flag,
        squeezed,
    ] {
        let answer = harness.call(SUBMIT, &[], body.clone()).await;
        assert_eq!(answer.code(), Code::InvalidArgument, "{body:?} {answer:?}");
        assert_eq!(answer.reason(), "INVALID_FIELD");
        assert_eq!(fields(&answer.status), [""]);
    }
    let encoding = [("grpc-encoding", "snappy")];
    let answer = harness.call(SUBMIT, &encoding, empty()).await;
    assert_eq!(answer.code(), Code::Unimplemented);
    assert_eq!(answer.reason(), "FEATURE_NOT_AVAILABLE");
}

/// A request with a label of this size.
fn sized(bytes: usize) -> v1::SubmitJobRequest {
    let mut request = submission("job.x");
    request.labels.insert("k".to_owned(), "v".repeat(bytes));
    request
}

#[tokio::test(start_paused = true)]
async fn messages_have_a_limit() {
    let harness = Harness::open().await;
    let batch = |items: usize| {
        frame(&v1::SubmitJobsRequest {
            requests: vec![sized(MIB); items],
        })
    };
    let fits = harness.call(BATCH, &[], batch(7)).await;
    assert_eq!(fits.code(), Code::Ok);
    assert!(fits.body.len() < 3_500 * 1024);
    let key = v1::CreateApiKeyRequest {
        display_name: "x".repeat(5 * MIB),
        ..v1::CreateApiKeyRequest::default()
    };
    let create = "/coretex.v1.AccessService/CreateApiKey";
    // Only the length is announced; nothing has to be sent for it.
    let announced = Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]);
    for (path, body) in [
        (BATCH, batch(9)),
        (create, frame(&key)),
        (SUBMIT, announced),
    ] {
        let answer = harness.call(path, &[], body).await;
        assert_eq!(answer.code(), Code::ResourceExhausted, "{path}");
        assert_eq!(answer.reason(), "REQUEST_TOO_LARGE");
    }
}

/// A request of which only the first part ever comes.
fn unfinished(part: Bytes) -> Request<Body> {
    let first = futures::stream::iter([Ok::<_, tonic::Status>(http_body::Frame::data(part))]);
    let body = http_body_util::StreamBody::new(first.chain(futures::stream::pending()));
    let request = Request::post(SUBMIT).version(http::Version::HTTP_2);
    request.body(Body::new(body)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_never_finished_have_a_limit_together_and_an_end() {
    let harness = Harness::with(engine::engine(true).await, |options| {
        options.max_intake_bytes = 2_000;
        options.intake_timeout = std::time::Duration::from_secs(30);
    });
    let part = frame(&sized(5_000)).slice(..1_500);
    let mut stuck = tokio::spawn(harness.service.clone().oneshot(unfinished(part)));
    let soon = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(soon, &mut stuck).await.is_err());

    let answer = harness.call(SUBMIT, &[], frame(&sized(900))).await;
    assert_eq!(answer.code(), Code::ResourceExhausted);
    assert_eq!(answer.reason(), "OVERLOADED");
    let small = harness.call(SUBMIT, &[], frame(&sized(100))).await;
    assert_eq!(small.code(), Code::Ok, "{small:?}");

    let answer = Answer::read(stuck.await.unwrap().unwrap()).await;
    assert_eq!(answer.code(), Code::DeadlineExceeded);
    assert_eq!(answer.reason(), "DEADLINE_PASSED");
    // What it held is free again.
    let answer = harness.call(SUBMIT, &[], frame(&sized(900))).await;
    assert_eq!(answer.code(), Code::Ok, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_not_begun() {
    let harness = Harness::open().await;
    let late = [("grpc-timeout", "0m")];
    let answer = harness
        .call(SUBMIT, &late, frame(&submission("job.x")))
        .await;
    assert_eq!(answer.code(), Code::DeadlineExceeded);
    assert_eq!(answer.reason(), "DEADLINE_PASSED");
    let count = v1::CountJobsRequest::default();
    let count = harness.jobs().count_jobs(count).await.unwrap();
    assert_eq!(count.into_inner().count, 0);
}

#[tokio::test(start_paused = true)]
async fn browsers_are_served_where_their_origin_is_listed() {
    let origin = "https://console.example.com";
    let harness = Harness::with(engine::engine(false).await, |options| {
        options.allowed_origins.push(origin.to_owned());
    });
    let preflight = async |from: &str| {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri(WHO_AM_I)
            .header("origin", from)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-grpc-web")
            .body(Body::empty());
        let response = harness.service.clone().oneshot(request.unwrap()).await;
        let response = response.unwrap();
        let allowed = response.headers().get("access-control-allow-origin");
        (response.status(), allowed.is_some())
    };
    assert_eq!(preflight(origin).await, (StatusCode::OK, true));
    assert!(!preflight("https://evil.example.com").await.1);

    // Unlisted, there is no CORS at all.
    let closed = Harness::closed().await;
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri(WHO_AM_I)
        .header("origin", origin)
        .body(Body::empty());
    let response = closed.service.clone().oneshot(request.unwrap()).await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-origin")
    );
}

/// Calls over gRPC-Web and gives what stands in the body.
async fn web(harness: &Harness, path: &str, body: Bytes) -> Vec<u8> {
    let request = Request::post(path)
        .header("content-type", "application/grpc-web+proto")
        .body(Body::new(http_body_util::Full::new(body)));
    let response = harness.service.clone().oneshot(request.unwrap()).await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/grpc-web"));
    if let Some(status) = response.headers().get("grpc-status") {
        return [b"grpc-status:", status.as_bytes()].concat();
    }
    let body = response.into_body().collect().await.unwrap();
    body.to_bytes().to_vec()
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn grpc_web_reaches_every_layer() {
    let harness = Harness::open().await;
    let answer = web(&harness, SUBMIT, frame(&submission("job.x"))).await;
    assert!(holds(&answer, "job.x") && holds(&answer, "grpc-status:0"));
    let closed = Harness::closed().await;
    let refused = web(&closed, WHO_AM_I, empty()).await;
    assert!(holds(&refused, "grpc-status:16"));
}

/// Counts what is counted.
#[derive(Default)]
struct Counts {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    recorded: Mutex<BTreeMap<String, Arc<Recorded>>>,
}

#[derive(Default)]
struct Recorded(AtomicU64);

impl HistogramFn for Recorded {
    fn record(&self, _value: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn name(key: &Key) -> String {
    let labels = key.labels().map(|label| format!(" {}", label.value()));
    format!("{}{}", key.name(), labels.collect::<String>())
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.counters.lock().unwrap();
        Counter::from_arc(Arc::clone(counters.entry(name(key)).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut recorded = self.recorded.lock().unwrap();
        Histogram::from_arc(Arc::clone(recorded.entry(name(key)).or_default()))
    }
}

impl Counts {
    /// How often a method ended with a code.
    fn calls(&self, method: &str, code: &str) -> u64 {
        let name = format!("grpc_requests_total {method} {code}");
        let counters = self.counters.lock().unwrap();
        counters
            .get(&name)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn timed(&self, method: &str) -> u64 {
        let name = format!("grpc_request_duration_seconds {method}");
        let recorded = self.recorded.lock().unwrap();
        recorded
            .get(&name)
            .map_or(0, |count| count.0.load(Ordering::Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_is_counted_once_however_it_ends() {
    let counts = Counts::default();
    let _installed = metrics::set_default_local_recorder(&counts);
    let harness = Harness::open().await;
    let who = "coretex.v1.AccessService/WhoAmI";
    harness.call(WHO_AM_I, &[], empty()).await;
    harness
        .call(WHO_AM_I, &[("authorization", "x")], empty())
        .await;
    assert_eq!(
        (
            counts.calls(who, "OK"),
            counts.calls(who, "UNAUTHENTICATED")
        ),
        (1, 1)
    );
    assert_eq!(counts.timed(who), 2);

    // However many paths are tried, they are one name.
    for n in 0..9 {
        harness.call(&format!("/nope/{n}"), &[], empty()).await;
    }
    assert_eq!(counts.calls("unknown", "UNIMPLEMENTED"), 9);

    // A caller that goes away.
    let submit = "coretex.v1.JobService/SubmitJob";
    let waiting = v1::SubmitJobRequest {
        wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..submission("job.x")
    };
    let call = harness.call(SUBMIT, &[], frame(&waiting));
    let second = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(second, call).await.is_err());
    assert_eq!(counts.calls(submit, "CANCELLED"), 1);

    // Streams count when they end.
    let watch = "coretex.v1.JobService/WatchJobs";
    let request = v1::WatchJobsRequest::default();
    let mut stream = harness
        .jobs()
        .watch_jobs(request)
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(
        (counts.timed(watch), counts.calls(watch, "CANCELLED")),
        (1, 0)
    );
    drop(stream);
    assert_eq!(counts.calls(watch, "CANCELLED"), 1);
    let open = "coretex.v1.WorkerService/OpenSession";
    harness
        .call("/coretex.v1.WorkerService/OpenSession", &[], empty())
        .await;
    assert_eq!(counts.calls(open, "FAILED_PRECONDITION"), 1);
}
