#![allow(clippy::unwrap_used)]

use coretex_core::payload::Content;
use coretex_engine::Error;
use prost_types::Value;
use prost_types::value::Kind;

use super::*;

const LEASE: &str = "0123456789abcdef0123456789abcdef";

fn wrap(message: Request) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        message: Some(message),
    }
}

fn good_hello() -> v1::WorkerHello {
    v1::WorkerHello {
        topics: vec!["job.x".to_owned()],
        ..v1::WorkerHello::default()
    }
}

fn read_first(hello: v1::WorkerHello) -> Result<Hello> {
    super::hello(wrap(Request::Hello(Box::new(hello))), &Limits::default())
}

fn read(message: Request) -> Result<FromWorker> {
    super::message(wrap(message), &Limits::default())
}

fn result(change: impl FnOnce(&mut v1::WorkerResult)) -> Request {
    let mut result = v1::WorkerResult {
        tenant_id: "acme".to_owned(),
        job_id: "run:step@1".to_owned(),
        attempt: 2,
        lease_id: LEASE.to_owned(),
        status: v1::JobState::Succeeded.into(),
        ..v1::WorkerResult::default()
    };
    change(&mut result);
    Request::Result(Box::new(result))
}

fn outcome(change: impl FnOnce(&mut v1::WorkerResult)) -> Outcome {
    let Ok(FromWorker::Result { outcome, .. }) = read(result(change)) else {
        unreachable!("is a good result");
    };
    outcome
}

fn failure(outcome: Outcome) -> JobError {
    let Outcome::Failed { error } = outcome else {
        unreachable!("must have failed");
    };
    error
}

fn refused_fields<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
    match result {
        Err(Problem::SessionMessage(violations) | Problem::Engine(Error::Invalid(violations))) => {
            violations
                .into_iter()
                .map(|violation| violation.field)
                .collect()
        }
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn hello_has_defaults() {
    let hello = read_first(good_hello()).unwrap();
    assert_eq!(hello.pool.as_str(), "default");
    assert_eq!(hello.max_parallel_jobs, 1);
    assert_eq!(hello.worker_id, None);
}

#[test]
fn sessions_begin_with_one_hello_of_a_known_version() {
    let drain = wrap(Request::Drain(v1::WorkerDrain {}));
    let limits = Limits::default();
    assert_eq!(
        super::hello(drain, &limits).err(),
        Some(Problem::HelloExpected)
    );
    let empty = v1::OpenSessionRequest::default();
    assert_eq!(
        super::hello(empty, &limits).err(),
        Some(Problem::HelloExpected)
    );
    let again = read(Request::Hello(Box::new(good_hello())));
    assert_eq!(again.err(), Some(Problem::HelloExpected));
    let later = v1::WorkerHello {
        protocol_version: 2,
        ..good_hello()
    };
    assert_eq!(
        read_first(later).err(),
        Some(Problem::ProtocolVersion { version: 2 })
    );
}

#[test]
fn wrong_fields_of_hello_are_named() {
    let hello = v1::WorkerHello {
        worker_id: "a b".to_owned(),
        pool: "/".to_owned(),
        topics: vec!["job.x".to_owned(), "x".to_owned()],
        capabilities: vec![String::new()],
        labels: BTreeMap::from([(String::new(), String::new())]),
        max_parallel_jobs: -1,
        sdk: Some(v1::WorkerSdk {
            name: "\n".to_owned(),
            ..v1::WorkerSdk::default()
        }),
        protocol_version: 1,
        running: vec![v1::AttemptRef {
            tenant_id: "acme".to_owned(),
            job_id: "j".to_owned(),
            attempt: 1,
            lease_id: "short".to_owned(),
        }],
    };
    assert_eq!(
        refused_fields(read_first(hello)),
        [
            "hello.max_parallel_jobs",
            "hello.running[0].lease_id",
            "hello.worker_id",
            "hello.pool",
            "hello.topics[1]",
            "hello.capabilities[0]",
            "hello.labels[]",
            "hello.sdk.name",
        ]
    );
    let silent = v1::WorkerHello::default();
    assert_eq!(refused_fields(read_first(silent)), ["hello.topics"]);
}

#[test]
fn streamed_output_is_read_whole_or_refused_by_field() {
    let good = v1::WorkerOutput {
        tenant_id: "acme".to_owned(),
        job_id: "j".to_owned(),
        attempt: 1,
        lease_id: LEASE.to_owned(),
        sequence: 3,
        channel: v1::OutputChannel::Log.into(),
        chunk: "line".into(),
        time: None,
    };
    let Ok(FromWorker::Output { attempt, chunk }) = read(Request::Output(good.clone())) else {
        unreachable!("is good output");
    };
    assert_eq!((attempt.attempt, chunk.sequence), (1, 3));
    assert_eq!(chunk.channel, Channel::Log);
    assert_eq!(chunk.data, "line");
    let wrong = read(Request::Output(v1::WorkerOutput::default()));
    let fields = refused_fields(wrong);
    for field in ["channel", "job_id", "lease_id", "sequence", "tenant_id"] {
        let path = format!("output.{field}");
        assert!(fields.contains(&path), "{path} of {fields:?}");
    }
    let wrong = read(Request::Output(v1::WorkerOutput {
        chunk: vec![0; MAX_CHUNK + 1].into(),
        channel: 9,
        sequence: -1,
        ..good
    }));
    let mut fields = refused_fields(wrong);
    fields.sort();
    assert_eq!(
        fields,
        ["output.channel", "output.chunk", "output.sequence"]
    );
}

#[test]
fn wrong_messages_break_the_protocol() {
    assert_eq!(
        refused_fields(super::message(
            v1::OpenSessionRequest::default(),
            &Limits::default()
        )),
        [""]
    );
    let started = v1::WorkerStarted {
        attempt: -1,
        ..v1::WorkerStarted::default()
    };
    assert_eq!(
        refused_fields(read(Request::Started(started))),
        [
            "started.lease_id",
            "started.tenant_id",
            "started.job_id",
            "started.attempt"
        ]
    );
    let progress = v1::WorkerProgress {
        tenant_id: "acme".to_owned(),
        job_id: "j".to_owned(),
        lease_id: LEASE.to_owned(),
        percent: 101,
        ..v1::WorkerProgress::default()
    };
    assert_eq!(
        refused_fields(read(Request::Progress(progress))),
        ["progress.percent"]
    );
    let capacity = v1::WorkerCapacity {
        max_parallel_jobs: 1_000_000,
    };
    assert_eq!(
        refused_fields(read(Request::Capacity(capacity))),
        ["capacity.max_parallel_jobs"]
    );
    for status in [0, 1, 9, 99] {
        let wrong = read(result(|result| result.status = status));
        assert_eq!(refused_fields(wrong), ["result.status"], "{status}");
    }
    let long = read(result(|result| {
        result.execution_duration = Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        });
    }));
    assert_eq!(refused_fields(long), ["result.execution_duration"]);
}

#[test]
fn a_result_names_its_attempt_exactly() {
    let Ok(FromWorker::Result {
        attempt, outcome, ..
    }) = read(result(|_| {}))
    else {
        unreachable!("is a good result");
    };
    assert_eq!(attempt.job_id.as_str(), "run:step@1");
    assert_eq!(
        (attempt.attempt, attempt.lease_id.to_string()),
        (2, LEASE.to_owned())
    );
    assert_eq!(outcome, Outcome::Succeeded { output: None });
    assert_eq!(write_ref(&attempt).lease_id, LEASE);
}

#[test]
fn an_output_that_cannot_be_kept_fails_the_attempt_instead_of_the_session() {
    let raw = |bytes: Vec<u8>, kind: &str| Some(v1::Payload::from_bytes(bytes, kind));
    let nan = Value {
        kind: Some(Kind::NumberValue(f64::NAN)),
    };
    let nan = v1::Payload {
        data: Some(v1::payload::Data::Json(nan)),
        content_type: String::new(),
    };
    let artifact = v1::Payload {
        data: Some(v1::payload::Data::ArtifactId("a".to_owned())),
        content_type: String::new(),
    };
    for output in [
        raw(vec![0; 2 * 1024 * 1024], ""),
        raw(b"{".to_vec(), "application/json"),
        Some(nan),
        Some(artifact),
    ] {
        let error = failure(outcome(|result| result.output = output));
        assert_eq!(error.code, "result_invalid");
        assert_eq!(error.source, ErrorSource::Platform);
        assert!(error.message.contains("output"), "{}", error.message);
    }
    let kept = outcome(|result| result.output = raw(b"ok".to_vec(), ""));
    let Outcome::Succeeded { output: Some(kept) } = kept else {
        unreachable!("is a good output");
    };
    assert!(matches!(kept.content, Content::Raw(_)));
}

#[test]
fn errors_of_workers_are_theirs_and_bounded() {
    let unnamed = failure(outcome(|result| {
        result.status = v1::JobState::Failed.into()
    }));
    assert_eq!(unnamed.code, "failed");
    let endless = failure(outcome(|result| {
        result.status = v1::JobState::Failed.into();
        result.error = Some(v1::JobError {
            code: "x".repeat(1_000),
            message: "ä".repeat(100_000),
            metadata: (0..1_000)
                .map(|n| (n.to_string(), "y".repeat(10_000)))
                .collect(),
            source: v1::JobErrorSource::Platform.into(),
        });
    }));
    assert_eq!(endless.source, ErrorSource::Worker);
    assert!(endless.code.len() <= 256 && endless.message.len() <= 16 * 1024);
    assert_eq!(endless.metadata.len(), 64);
    assert!(endless.metadata.values().all(|value| value.len() <= 4096));
}

#[test]
fn loads_that_make_no_sense_do_not_end_a_session() {
    let heartbeat = v1::WorkerHeartbeat {
        active_jobs: 3,
        cpu_load: f64::NAN,
        gpu_utilization: 1e9,
    };
    assert!(matches!(
        read(Request::Heartbeat(heartbeat)),
        Ok(FromWorker::Heartbeat { active_jobs: 3, .. })
    ));
}

#[test]
fn trace_parents_are_well_formed_and_differ_by_attempt() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let first = traceparent(trace, 1);
    assert_eq!(
        first,
        "00-4bf92f3577b34da6a3ce929d0e0e4736-a3ce929d0e0e4737-01"
    );
    assert_ne!(first, traceparent(trace, 2));
    assert_eq!(traceparent("", 1), "");
    assert_eq!(traceparent("not hex not hex not hex not hex!", 1), "");
}
