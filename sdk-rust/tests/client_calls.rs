//! What all calls have in common: credentials, deadlines, repetition, errors, connections.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coretex::proto::{
    CreateApiKeyRequest, GetJobRequest, GetJobResponse, SubmitJobRequest, SubmitJobResponse,
    SubmitJobsRequest, SubmitJobsResponse, SubmitJobsResult, payload, submit_jobs_result,
};
use coretex::{Code, Error, ErrorReason, Job, Payload, PayloadStore};
use parking_lot::Mutex;
use serde_json::json;
use support::FakeServer;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

const SECOND: Duration = Duration::from_secs(1);

fn submitted(job_id: &str) -> SubmitJobResponse {
    let job = Job {
        job_id: job_id.into(),
        ..Job::default()
    };
    SubmitJobResponse {
        job: Some(job),
        replayed: false,
    }
}

/// Counts calls of an RPC and answers each with what `answer` makes of its number, from 1.
macro_rules! script {
    ($hook:expr, $answer:expr) => {{
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        $hook.set(move |request| {
            let number = {
                let mut kept = kept.lock();
                kept.push(request.into_inner());
                kept.len()
            };
            let answer = $answer(number);
            async move { answer }
        });
        requests
    }};
}

#[tokio::test(start_paused = true)]
async fn every_call_carries_credential_deadline_agent_and_trace() {
    let server = FakeServer::start();
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let kept = Arc::clone(&seen);
    server.fake.get.set(move |request| {
        for name in ["authorization", "grpc-timeout", "user-agent", "traceparent"] {
            let value = request.metadata().get(name).unwrap().to_str().unwrap();
            kept.lock().insert(name, value.to_owned());
        }
        async { Ok(GetJobResponse::default()) }
    });
    let client = server.builder().api_key("key-1").user_agent("tester/1");
    let client = client.deadline(5 * SECOND).build().unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let client = client.with_traceparent(trace);
    client.get_job(GetJobRequest::default()).await.unwrap();
    let seen = seen.lock();
    assert_eq!(seen["authorization"], "Bearer key-1");
    assert_eq!(seen["traceparent"], trace);
    assert!(seen["user-agent"].starts_with("tester/1 coretex-rust/"));
    // Five seconds, in some unit, a little of which is gone.
    let timeout = &seen["grpc-timeout"];
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let seconds = match unit {
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => panic!("{timeout}"),
    } * number.parse::<f64>().unwrap();
    assert!((4.9..=5.0).contains(&seconds), "{timeout}");
}

#[tokio::test(start_paused = true)]
async fn a_submit_is_repeated_with_the_same_key_until_it_is_answered() {
    let server = FakeServer::start();
    let requests = script!(server.fake.submit, |number| match number {
        1 => Err(Status::unavailable("starting")),
        2 => {
            let mut details = ErrorDetails::new();
            details.set_retry_info(Some(3 * SECOND));
            let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
            Err(status)
        }
        _ => Ok(submitted("a")),
    });
    let begin = Instant::now();
    let response = server
        .client()
        .submit("job.x", json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.job.unwrap().job_id, "a");
    assert!(begin.elapsed() >= 3 * SECOND, "waited as long as asked");
    let requests = requests.lock();
    assert_eq!(requests.len(), 3);
    let key = &requests[0].idempotency_key;
    assert!(key.len() >= 32, "a key was filled in: {key}");
    assert!(
        requests
            .iter()
            .all(|request| request.idempotency_key == *key)
    );
}

#[tokio::test(start_paused = true)]
async fn own_keys_and_job_ids_are_left_alone() {
    let server = FakeServer::start();
    let requests = script!(server.fake.submit, |_| Ok(submitted("a")));
    let client = server.client();
    client
        .submit("job.x", ())
        .idempotency_key("mine")
        .send()
        .await
        .unwrap();
    client
        .submit("job.x", ())
        .job_id("named")
        .send()
        .await
        .unwrap();
    let requests = requests.lock();
    assert_eq!(requests[0].idempotency_key, "mine");
    assert_eq!(
        requests[1].idempotency_key, "",
        "the id already makes it repeatable"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_idempotent_is_never_repeated() {
    let server = FakeServer::start();
    let requests = script!(server.fake.create_key, |_| Err(Status::unavailable("away")));
    let error = server
        .client()
        .create_api_key(CreateApiKeyRequest::default())
        .await;
    assert_eq!(error.err().unwrap().code(), Code::Unavailable);
    assert_eq!(requests.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_that_time_does_not_change_are_not_repeated() {
    let codes = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        // Without a time to come back.
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Internal,
        Code::Unauthenticated,
    ];
    for code in codes {
        let server = FakeServer::start();
        let requests = script!(server.fake.get, |_| Err(Status::new(code, "no")));
        let error = server
            .client()
            .get_job(GetJobRequest::default())
            .await
            .err()
            .unwrap();
        assert_eq!((error.code(), error.is_local()), (code, false));
        assert_eq!(requests.lock().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn repetition_ends_with_the_attempts_or_the_deadline() {
    let server = FakeServer::start();
    let requests = script!(server.fake.get, |_| Err(Status::unavailable("away")));
    let client = server.client();
    client
        .get_job(GetJobRequest::default())
        .await
        .err()
        .unwrap();
    assert_eq!(requests.lock().len(), 4);
    client
        .with_attempts(1)
        .get_job(GetJobRequest::default())
        .await
        .err()
        .unwrap();
    assert_eq!(requests.lock().len(), 5);

    // A pause that would outlast the deadline is not begun: the error says what is wrong.
    let begin = Instant::now();
    let short = client.with_attempts(1_000).with_deadline(2 * SECOND);
    let error = short.get_job(GetJobRequest::default()).await.err().unwrap();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(begin.elapsed() < 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_ends_in_deadline_exceeded() {
    let server = FakeServer::start();
    server.fake.get.set(|_| std::future::pending());
    let client = server.client().with_deadline(3 * SECOND);
    let begin = Instant::now();
    let error = client
        .get_job(GetJobRequest::default())
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(error.outcome_unknown() && error.is_local());
    assert!(begin.elapsed() >= 3 * SECOND && begin.elapsed() < 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_under_a_call_is_replaced() {
    let server = Arc::new(FakeServer::start());
    let cutter = Arc::clone(&server);
    let calls = Arc::new(Mutex::new(0));
    server.fake.get.set(move |_| {
        let first = {
            let mut calls = calls.lock();
            *calls += 1;
            *calls == 1
        };
        if first {
            cutter.cut();
        }
        async { Ok(GetJobResponse::default()) }
    });
    let client = server.client();
    client.get_job(GetJobRequest::default()).await.unwrap();

    // Where repeating may do harm, the caller is told that it is not known what happened.
    let cutter = Arc::clone(&server);
    server.fake.create_key.set(move |_| {
        cutter.cut();
        std::future::pending()
    });
    let error = client
        .create_api_key(CreateApiKeyRequest::default())
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.outcome_unknown() && error.is_local() && !error.is_unreachable());
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_a_hint() {
    // Bound and closed again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = coretex::Client::new(&address).unwrap().with_attempts(1);
    let error = client
        .get_job(GetJobRequest::default())
        .await
        .err()
        .unwrap();
    assert!(error.is_unreachable() && !error.outcome_unknown());
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.hint().unwrap().contains("coretexd"));
}

#[tokio::test(start_paused = true)]
async fn the_details_of_an_error_arrive() {
    let server = FakeServer::start();
    let _requests = script!(server.fake.submit, |_| {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("limit_bytes".to_owned(), "1048576".to_owned())]);
        details
            .set_error_info("PAYLOAD_TOO_LARGE", "coretex.dev", metadata)
            .add_bad_request_violation("input", "is too large")
            .add_bad_request_violation("topic", "must not be empty");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        Err::<SubmitJobResponse, _>(status)
    });
    let error = server
        .client()
        .submit_job(SubmitJobRequest::default())
        .await
        .err()
        .unwrap();
    assert_eq!(error.reason(), Some(ErrorReason::PayloadTooLarge));
    assert_eq!(error.metadata()["limit_bytes"], "1048576");
    let fields: Vec<&str> = error
        .violations()
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    assert_eq!(fields, ["input", "topic"]);
}

#[tokio::test(start_paused = true)]
async fn items_of_a_batch_fail_by_themselves() {
    let server = FakeServer::start();
    let requests = script!(server.fake.submit_many, |_| {
        let refused = tonic_types::Status {
            code: Code::AlreadyExists.into(),
            message: "taken".into(),
            details: Vec::new(),
        };
        let results = vec![
            SubmitJobsResult {
                outcome: Some(submit_jobs_result::Outcome::Job(Job::default())),
                replayed: false,
            },
            SubmitJobsResult {
                outcome: Some(submit_jobs_result::Outcome::Status(refused)),
                replayed: false,
            },
        ];
        Ok(SubmitJobsResponse { results })
    });
    let client = server.client();
    let batch = ["a", "b"].map(|topic| client.submit(topic, json!(1)).into_request().unwrap());
    let request = SubmitJobsRequest {
        requests: batch.into(),
    };
    let response = client.submit_jobs(request).await.unwrap();
    let Some(submit_jobs_result::Outcome::Status(status)) = &response.results[1].outcome else {
        panic!("{response:?}");
    };
    assert_eq!(Error::from_item(status).code(), Code::AlreadyExists);
    let sent = &requests.lock()[0].requests;
    assert_ne!(sent[0].idempotency_key, sent[1].idempotency_key);
}

#[derive(Debug)]
struct Shelf;

#[tonic::async_trait]
impl PayloadStore for Shelf {
    async fn put(&self, _payload: Payload) -> Result<String, Error> {
        Ok("art-1".into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_input_goes_to_the_payload_store_or_is_refused_here() {
    let server = FakeServer::start();
    let requests = script!(server.fake.submit, |_| Ok(submitted("a")));
    let large = json!("x".repeat(200));
    let client = server.builder().payload_limit(100).build().unwrap();
    let error = client.submit("job.x", &large).send().await.err().unwrap();
    assert_eq!(
        (error.code(), error.is_local()),
        (Code::InvalidArgument, true)
    );
    assert!(requests.lock().is_empty());
    let client = server
        .builder()
        .payload_limit(100)
        .payload_store(Arc::new(Shelf));
    client
        .build()
        .unwrap()
        .submit("job.x", &large)
        .send()
        .await
        .unwrap();
    let sent = requests.lock()[0].input.clone().unwrap().data;
    assert_eq!(sent, Some(payload::Data::ArtifactId("art-1".into())));
}

#[tokio::test(start_paused = true)]
async fn calls_take_turns_on_all_connections() {
    let server = FakeServer::start();
    let _requests = script!(server.fake.get, |_| Ok(GetJobResponse::default()));
    let client = server.builder().connections(3).build().unwrap();
    assert_eq!(server.connections(), 0, "connected when needed");
    for _ in 0..9 {
        client.get_job(GetJobRequest::default()).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_client_outside_a_runtime_is_an_error_not_a_panic() {
    let error = coretex::Client::new("127.0.0.1:1").err().unwrap();
    assert_eq!(error.code(), Code::FailedPrecondition);
}
