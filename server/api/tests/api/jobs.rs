//! Jobs through the services: what is asked for, shown, paged, watched and ended.

use std::collections::BTreeMap;

use crate::support::{Harness, Worker, fields, hello, metadata, reason, submission};
use coretex_engine::{Limits, MAX_PAYLOAD_LIMIT, Role};
use coretex_proto::v1;
use coretex_proto::v1::open_session_request::Message as Said;
use coretex_proto::v1::open_session_response::Message as Told;
use coretex_proto::v1::submit_jobs_result::Outcome;
use coretex_proto::v1::watch_jobs_request::Target;
use prost::Message;
use tonic::{Code, Request};

const SECOND: prost_types::Duration = prost_types::Duration {
    seconds: 1,
    nanos: 0,
};
/// What stock clients take.
const CLIENT_LIMIT: usize = 4 * 1024 * 1024;
pub(crate) const RESPONSE_LIMIT: usize = 3_500 * 1024;

pub(crate) fn text(text: &str) -> v1::Payload {
    v1::Payload::from_json(&serde_json::Value::from(text))
}

pub(crate) async fn submit(harness: &Harness, request: v1::SubmitJobRequest) -> v1::Job {
    let answer = harness.jobs().submit_job(request).await.unwrap();
    answer.into_inner().job.unwrap()
}

pub(crate) fn get(job_id: &str) -> v1::GetJobRequest {
    v1::GetJobRequest {
        job_id: job_id.to_owned(),
        view: v1::JobView::Unspecified.into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_from_submit_to_result() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let waiting = tokio::spawn({
        let mut jobs = harness.jobs();
        let request = v1::SubmitJobRequest {
            wait: Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            }),
            ..submission("job.x")
        };
        async move { jobs.submit_job(request).await }
    });
    let assignment = worker.assignment().await;
    let job = assignment.job.clone().unwrap();
    assert_eq!(job.input, submission("job.x").input);
    assert!(assignment.traceparent.contains(&job.trace_id));
    worker.succeed(&assignment, text("done")).await;

    let finished = waiting.await.unwrap().unwrap().into_inner();
    let job = finished.job.unwrap();
    assert_eq!(job.state(), v1::JobState::Succeeded);
    assert_eq!(job.output, Some(text("done")));
    assert!(!finished.replayed && !job.etag.is_empty());

    let found = harness.jobs().get_job(get(&job.job_id)).await.unwrap();
    assert_eq!(found.into_inner().job.unwrap().output, Some(text("done")));
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_the_caller_goes_on() {
    let harness = Harness::open().await;
    let mut request = Request::new(submission("job.x"));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let answer = harness.jobs().submit_job(request).await.unwrap();
    let job = answer.into_inner().job.unwrap();
    assert_eq!(job.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_answered_before_the_callers_deadline() {
    let harness = Harness::open().await;
    let job = submit(&harness, submission("job.x")).await;
    let mut request = Request::new(v1::WaitJobRequest {
        job_id: job.job_id,
        ..v1::WaitJobRequest::default()
    });
    request.set_timeout(std::time::Duration::from_secs(5));
    let started = tokio::time::Instant::now();
    let answer = harness.jobs().wait_job(request).await.unwrap();
    assert_eq!(
        answer.into_inner().job.unwrap().state(),
        v1::JobState::Pending
    );
    let took = started.elapsed().as_millis();
    assert!((4_700..4_900).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn payloads_are_for_those_who_may_see_them() {
    let harness = Harness::closed().await;
    let submitter = harness.key("acme", &[Role::Submitter]).await;
    let viewer = harness.key("acme", &[Role::Viewer]).await;
    let with = |key: &str, mut request: Request<v1::GetJobRequest>| {
        let bearer = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let mut request = Request::new(submission("job.x"));
    let bearer = format!("Bearer {submitter}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let answer = harness.jobs().submit_job(request).await.unwrap();
    let job = answer.into_inner().job.unwrap();
    assert!(job.input.is_some());

    let mut jobs = harness.jobs();
    let full = v1::GetJobRequest {
        view: v1::JobView::Full.into(),
        ..get(&job.job_id)
    };
    let seen = jobs
        .get_job(with(&viewer, Request::new(full.clone())))
        .await;
    assert_eq!(seen.unwrap().into_inner().job.unwrap().input, None);
    let own = jobs.get_job(with(&submitter, Request::new(full))).await;
    assert!(own.unwrap().into_inner().job.unwrap().input.is_some());
    let basic = v1::GetJobRequest {
        view: v1::JobView::Basic.into(),
        ..get(&job.job_id)
    };
    let basic = jobs.get_job(with(&submitter, Request::new(basic))).await;
    assert_eq!(basic.unwrap().into_inner().job.unwrap().input, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_says_so() {
    let harness = Harness::open().await;
    let refused = harness.jobs().get_job(get("nope")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(reason(&refused), "JOB_NOT_FOUND");
    assert_eq!(metadata(&refused, "job_id").as_deref(), Some("nope"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_when_a_field_is_wrong() {
    let harness = Harness::open().await;
    let wrong = v1::SubmitJobRequest {
        priority: 9,
        timeout: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        ..submission("x")
    };
    let refused = harness.jobs().submit_job(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(fields(&refused), ["topic", "priority", "timeout"]);
    let count = v1::CountJobsRequest::default();
    let count = harness.jobs().count_jobs(count).await.unwrap();
    assert_eq!(count.into_inner().count, 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_request_makes_one_job() {
    let harness = Harness::open().await;
    let request = v1::SubmitJobRequest {
        idempotency_key: "k".to_owned(),
        ..submission("job.x")
    };
    let mut jobs = harness.jobs();
    let first = jobs.submit_job(request.clone()).await.unwrap().into_inner();
    // `wait` is no part of the content.
    let again = v1::SubmitJobRequest {
        wait: Some(SECOND),
        ..request
    };
    let again = jobs.submit_job(again).await.unwrap().into_inner();
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.job.unwrap().job_id, again.job.unwrap().job_id);
    let other = v1::SubmitJobRequest {
        idempotency_key: "k".to_owned(),
        ..submission("job.y")
    };
    let refused = jobs.submit_job(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test(start_paused = true)]
async fn each_item_of_a_batch_is_by_itself_and_in_order() {
    let harness = Harness::open().await;
    let requests: Vec<_> = (0..1_000)
        .map(|n| v1::SubmitJobRequest {
            job_id: format!("j-{n}"),
            wait: (n == 7).then_some(SECOND),
            ..submission(if n % 3 == 0 { "wrong" } else { "job.x" })
        })
        .collect();
    let batch = v1::SubmitJobsRequest { requests };
    let answer = harness.jobs().submit_jobs(batch.clone()).await.unwrap();
    let results = answer.into_inner().results;
    assert_eq!(results.len(), 1_000);
    for (n, result) in results.into_iter().enumerate() {
        match result.outcome.unwrap() {
            Outcome::Job(job) => {
                assert!(n % 3 != 0 && n != 7);
                assert_eq!(job.job_id, format!("j-{n}"));
                assert_eq!((job.input, result.replayed), (None, false));
            }
            Outcome::Status(status) => {
                assert!(n % 3 == 0 || n == 7);
                assert_eq!(status.code, Code::InvalidArgument as i32);
                assert!(!status.details.is_empty());
            }
        }
    }
    let again = harness
        .jobs()
        .submit_jobs(batch)
        .await
        .unwrap()
        .into_inner();
    let replayed = again.results.iter().filter(|result| result.replayed);
    assert_eq!(replayed.count(), 665);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_a_limit() {
    let harness = Harness::open().await;
    let requests = vec![submission("job.x"); 1_001];
    let batch = v1::SubmitJobsRequest { requests };
    let refused = harness.jobs().submit_jobs(batch).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason(&refused), "TOO_MANY_ITEMS");
    assert_eq!(metadata(&refused, "limit").as_deref(), Some("1000"));
    let empty = v1::SubmitJobsRequest::default();
    let answer = harness.jobs().submit_jobs(empty).await.unwrap();
    assert!(answer.into_inner().results.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_is_explained_and_ended() {
    let harness = Harness::open().await;
    let mut jobs = harness.jobs();
    let job = submit(&harness, submission("job.x")).await;
    assert_eq!(job.waiting_reason, "no_workers");
    let request = v1::DiagnoseJobRequest {
        job_id: job.job_id.clone(),
    };
    let diagnosis = jobs.diagnose_job(request).await.unwrap().into_inner();
    assert_eq!(diagnosis.state(), v1::JobState::Pending);
    assert_eq!(diagnosis.causes[0].code, "no_workers");
    assert!(!diagnosis.causes[0].remedy.is_empty());

    let rerun = v1::RerunJobRequest {
        job_id: job.job_id.clone(),
        edits: Some(v1::JobEdits {
            topic: Some("job.y".to_owned()),
            ..v1::JobEdits::default()
        }),
        idempotency_key: String::new(),
    };
    let refused = jobs.rerun_job(rerun.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&refused), "JOB_NOT_ENDED");

    let cancel = v1::CancelJobRequest {
        job_id: job.job_id.clone(),
        reason: "enough".to_owned(),
        ..v1::CancelJobRequest::default()
    };
    let cancelled = jobs.cancel_job(cancel.clone()).await.unwrap().into_inner();
    assert_eq!(cancelled.job.unwrap().state(), v1::JobState::Cancelled);
    let again = jobs.cancel_job(cancel).await.unwrap().into_inner();
    assert_eq!(again.job.unwrap().state(), v1::JobState::Cancelled);

    let repeated = jobs.rerun_job(rerun).await.unwrap().into_inner();
    let repeated = repeated.job.unwrap();
    assert_eq!(repeated.rerun_of_job_id, job.job_id);
    assert_eq!(repeated.topic, "job.y");
    assert_eq!(repeated.input, job.input);
}

#[tokio::test(start_paused = true)]
async fn counts_and_wrong_requests_of_every_rpc() {
    let harness = Harness::open().await;
    let mut jobs = harness.jobs();
    submit(&harness, submission("job.x")).await;
    let filter = v1::JobFilter {
        states: vec![v1::JobState::Pending.into()],
        ..v1::JobFilter::default()
    };
    let count = v1::CountJobsRequest {
        filter: Some(filter),
    };
    assert_eq!(jobs.count_jobs(count).await.unwrap().into_inner().count, 1);

    let wrong = v1::JobFilter {
        states: vec![99],
        ..v1::JobFilter::default()
    };
    let count = v1::CountJobsRequest {
        filter: Some(wrong.clone()),
    };
    let refused = jobs.count_jobs(count).await.unwrap_err();
    assert_eq!(fields(&refused), ["filter.states[0]"]);
    let watch = v1::WatchJobsRequest {
        target: Some(Target::Filter(wrong)),
        view: 9,
        resume_token: "x".repeat(2_000),
    };
    let refused = jobs.watch_jobs(watch).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["filter.states[0]", "view", "resume_token"]
    );
    let wait = v1::WaitJobRequest {
        job_id: String::new(),
        timeout: Some(prost_types::Duration {
            seconds: 61,
            nanos: 0,
        }),
        view: -1,
    };
    let refused = jobs.wait_job(wait).await.unwrap_err();
    assert_eq!(fields(&refused), ["job_id", "timeout", "view"]);
    let cancel = v1::CancelJobRequest {
        job_id: "a b".to_owned(),
        reason: "x".repeat(5_000),
        grace: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        force: false,
    };
    let refused = jobs.cancel_job(cancel).await.unwrap_err();
    assert_eq!(fields(&refused), ["job_id", "reason", "grace"]);
    let rerun = v1::RerunJobRequest {
        job_id: String::new(),
        edits: Some(v1::JobEdits {
            topic: Some("x".to_owned()),
            ..v1::JobEdits::default()
        }),
        idempotency_key: "x".repeat(300),
    };
    let refused = jobs.rerun_job(rerun).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["job_id", "edits.topic", "idempotency_key"]
    );
    let diagnose = v1::DiagnoseJobRequest::default();
    let refused = jobs.diagnose_job(diagnose).await.unwrap_err();
    assert_eq!(fields(&refused), ["job_id"]);
    let decisions = v1::ListJobDecisionsRequest {
        page_size: -1,
        ..v1::ListJobDecisionsRequest::default()
    };
    let refused = jobs.list_job_decisions(decisions).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_size", "job_id"]);
    let attempts = v1::ListJobAttemptsRequest::default();
    let refused = jobs.list_job_attempts(attempts).await.unwrap_err();
    assert_eq!(fields(&refused), ["job_id"]);
}

/// As many texts as a list takes, each as long as may be.
fn texts(length: usize) -> Vec<String> {
    (0..64).map(|n| format!("{n:0length$}")).collect()
}

/// As many labels as there may be, each as long as may be.
fn labels() -> BTreeMap<String, String> {
    let keys = texts(128).into_iter();
    keys.map(|key| (key, "v".repeat(1024))).collect()
}

/// A job of which everything is as large as it may be.
fn largest(payload: &v1::Payload) -> v1::SubmitJobRequest {
    let long = "x".repeat(256);
    v1::SubmitJobRequest {
        job_id: "j".repeat(128),
        input: Some(payload.clone()),
        idempotency_key: long.clone(),
        labels: labels(),
        metadata: Some(v1::JobMetadata {
            capability: long.clone(),
            risk_tags: texts(256),
            requires: texts(256),
            pack_id: long.clone(),
            actor_id: long.clone(),
            mcp: Some(v1::McpCall {
                server: long.clone(),
                tool: long.clone(),
                resource: "x".repeat(1024),
                action: long.clone(),
            }),
            ..v1::JobMetadata::default()
        }),
        placement: Some(v1::JobPlacement {
            worker_labels: labels(),
            ..v1::JobPlacement::default()
        }),
        memory_id: long.clone(),
        parent_job_id: "p".repeat(320),
        cap: Some(v1::CapAttributes {
            env: labels(),
            adapter_id: long,
            context_hints: Some(v1::CapContextHints {
                tags: texts(256),
                ..v1::CapContextHints::default()
            }),
            step_index: 1,
        }),
        retry: Some(v1::RetryPolicy {
            non_retryable_codes: texts(128),
            ..v1::RetryPolicy::default()
        }),
        ..submission("job.x")
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_payloads_fit_into_an_answer() {
    let limits = Limits {
        max_payload_bytes: MAX_PAYLOAD_LIMIT,
        ..Limits::default()
    };
    let engine = crate::support::engine::engine_with(true, limits).await;
    let harness = Harness::with(engine, |_| {});
    let Said::Hello(mut able) = hello("job.x", 1) else {
        unreachable!("is a hello");
    };
    able.labels = labels();
    able.capabilities = texts(256);
    let mut worker = Worker::open(&harness, Said::Hello(able)).await;
    assert!(matches!(worker.hear().await, Ok(Some(Told::Welcome(_)))));
    let payload = v1::Payload::from_bytes(vec![7; MAX_PAYLOAD_LIMIT], "t".repeat(256));
    let job = submit(&harness, largest(&payload)).await;
    let assignment = worker.assignment().await;
    assert_eq!(
        assignment.job.as_ref().unwrap().input,
        Some(payload.clone())
    );
    assert!(assignment.encoded_len() <= CLIENT_LIMIT);
    let result = v1::WorkerResult {
        tenant_id: job.tenant_id.clone(),
        job_id: job.job_id.clone(),
        attempt: assignment.attempt,
        lease_id: assignment.lease_id.clone(),
        status: v1::JobState::Succeeded.into(),
        output: Some(payload.clone()),
        artifact_ids: texts(256),
        ..v1::WorkerResult::default()
    };
    worker.say(Said::Result(Box::new(result))).await;
    assert!(matches!(worker.hear().await, Ok(Some(Told::ResultAck(_)))));
    let found = harness.jobs().get_job(get(&job.job_id)).await.unwrap();
    let found = found.into_inner();
    assert!(found.encoded_len() <= RESPONSE_LIMIT && RESPONSE_LIMIT < CLIENT_LIMIT);
    let found = found.job.unwrap();
    assert_eq!(found.artifact_ids.len(), 64);
    assert_eq!(found.output, Some(payload));
}

#[tokio::test(start_paused = true)]
async fn a_grace_has_one_bound() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let job = submit(&harness, submission("job.x")).await;
    worker.assignment().await;
    let cancel = |seconds| v1::CancelJobRequest {
        job_id: job.job_id.clone(),
        grace: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..v1::CancelJobRequest::default()
    };
    let refused = harness.jobs().cancel_job(cancel(3_601)).await.unwrap_err();
    assert_eq!(fields(&refused), ["grace"]);
    harness.jobs().cancel_job(cancel(3_600)).await.unwrap();
    match worker.hear().await {
        Ok(Some(Told::Cancel(told))) => assert_eq!(told.grace.unwrap().seconds, 3_600),
        other => panic!("not a cancel: {other:?}"),
    }
}
