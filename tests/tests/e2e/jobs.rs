//! The main job: submit, run, result; and what else may become of a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coretex::proto::{
    CancelJobRequest, CountJobsRequest, DiagnoseJobRequest, JobErrorSource, JobEventType,
    JobFilter, ListJobsRequest, RerunJobRequest, RetryPolicy, SubmitJobRequest, SubmitJobsRequest,
    WatchJobsRequest, watch_jobs_request::Target,
};
use coretex::worker::CancelReason;
use coretex::{Client, ErrorReason, JobExt, JobFailure, JobState, Json};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::{RunningWorker, Runs};
use serde_json::json;
use tokio::sync::{Barrier, Notify, Semaphore};

use crate::support::{attempts, endings, events, get, result, until_state};

const LONG: Duration = Duration::from_secs(60);

fn millis(millis: u64) -> Option<coretex::well_known::Duration> {
    Some(coretex::proto_time::duration_from_std(
        Duration::from_millis(millis),
    ))
}

async fn a_job_is_submitted_run_and_its_result_read(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::serve(client.clone(), "job.wc", 4, |ctx, job| async move {
        ctx.progress(50, "counting");
        let input: serde_json::Value = job.input_as()?;
        let text = input["text"].as_str().unwrap_or_default();
        Ok(Json(text.split_whitespace().count()))
    })
    .await;

    let submit = client.submit("job.wc", json!({"text": "to be or not"}));
    let job = result(submit.label("origin", "e2e")).await;
    assert_eq!(job.output_as::<u64>().unwrap(), 4);
    assert_eq!((job.attempt, job.tenant_id.as_str()), (1, "default"));
    assert_eq!(get(&client, &job.job_id).await, job);

    let attempts = attempts(&client, &job.job_id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].end_state(), JobState::Succeeded);
    assert_eq!(attempts[0].worker_id, job.worker_id);

    let events = events(&client, &job.job_id).await;
    let types: Vec<JobEventType> = events.iter().map(|event| event.r#type()).collect();
    assert_eq!(types.first(), Some(&JobEventType::Submitted), "{types:?}");
    assert!(types.contains(&JobEventType::Dispatched), "{types:?}");
    assert_eq!(types.last(), Some(&JobEventType::Succeeded), "{types:?}");
    assert_eq!(endings(&events), 1);
    for (earlier, later) in events.iter().zip(&events[1..]) {
        assert_eq!(earlier.sequence + 1, later.sequence);
        assert_eq!(earlier.to_state, later.from_state);
    }

    let filter = JobFilter {
        labels: [("origin".to_owned(), "e2e".to_owned())].into(),
        ..JobFilter::default()
    };
    let listed = client.list_jobs(ListJobsRequest {
        filter: Some(filter.clone()),
        ..ListJobsRequest::default()
    });
    let listed = listed.await.unwrap().jobs;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].job_id, job.job_id);
    assert_eq!(listed[0].output, None, "lists carry no payloads");
    let counted = client.count_jobs(CountJobsRequest {
        filter: Some(filter),
    });
    assert_eq!(counted.await.unwrap().count, 1);
}

async fn wait_on_submit_answers_with_the_job_as_it_then_stands(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let _worker = RunningWorker::serve(client.clone(), "job.gate", 1, move |_, job| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await?.forget();
            Ok(job.input)
        }
    })
    .await;

    let request = SubmitJobRequest {
        topic: "job.gate".into(),
        idempotency_key: "k".into(),
        wait: millis(50),
        ..SubmitJobRequest::default()
    };
    let early = client.submit_job(request.clone()).await.unwrap();
    let waited_for = early.job.unwrap();
    assert!(!waited_for.ended() && !early.replayed, "{waited_for:?}");

    gate.add_permits(1);
    let patient = SubmitJobRequest {
        wait: millis(30_000),
        ..request
    };
    let late = client.submit_job(patient).await.unwrap();
    let ended = late.job.unwrap();
    assert!(late.replayed, "the wait is no part of what is compared");
    assert_eq!(
        (ended.state(), &ended.job_id),
        (JobState::Succeeded, &waited_for.job_id)
    );

    gate.add_permits(1);
    let direct = result(client.submit("job.gate", json!(7)).wait(LONG)).await;
    assert_eq!(direct.output_as::<i32>().unwrap(), 7);

    let other = client
        .submit("job.gate", json!(8))
        .idempotency_key("k")
        .send()
        .await;
    let error = other.unwrap_err();
    assert_eq!(
        error.reason(),
        Some(ErrorReason::IdempotencyKeyReused),
        "{error}"
    );
}

async fn a_failing_job_uses_its_attempts_and_keeps_the_error_of_its_worker(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::serve(client.clone(), "job.fails", 4, |ctx, job| async move {
        let better_at: i32 = job.input_as()?;
        match ctx.attempt() {
            attempt if attempt >= better_at => Ok(Json(attempt)),
            attempt if better_at == 100 => panic!("attempt {attempt} breaks"),
            attempt => {
                let failure = JobFailure::new("flaky", format!("attempt {attempt} failed"));
                Err(failure.with("attempt", attempt.to_string()))
            }
        }
    })
    .await;
    let retry = |codes: &[&str]| RetryPolicy {
        max_attempts: Some(3),
        initial_backoff: millis(10),
        max_backoff: millis(50),
        non_retryable_codes: codes.iter().map(|code| (*code).to_owned()).collect(),
        ..RetryPolicy::default()
    };
    let run = async |input: i32, policy: RetryPolicy| {
        let submit = client.submit("job.fails", input).retry(policy);
        result(submit).await
    };

    let recovered = run(3, retry(&[])).await;
    assert_eq!(recovered.output_as::<i32>().unwrap(), 3);

    let exhausted = run(99, retry(&[])).await;
    let error = exhausted.error.clone().unwrap();
    assert_eq!(
        (exhausted.state(), exhausted.attempt),
        (JobState::Failed, 3)
    );
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("flaky", "attempt 3 failed")
    );
    assert_eq!(error.source(), JobErrorSource::Worker);
    assert_eq!(error.metadata["attempt"], "3");
    let attempts = attempts(&client, &exhausted.job_id).await;
    let messages: Vec<_> = attempts
        .iter()
        .map(|a| a.error.clone().unwrap().message)
        .collect();
    assert_eq!(
        messages,
        ["attempt 1 failed", "attempt 2 failed", "attempt 3 failed"]
    );

    let hopeless = run(99, retry(&["flaky"])).await;
    assert_eq!((hopeless.state(), hopeless.attempt), (JobState::Failed, 1));

    let broken = run(100, RetryPolicy::default()).await;
    let error = broken.error.unwrap();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("panic", "attempt 1 breaks")
    );
}

async fn cancel(client: &Client, job_id: &str, grace: u64, force: bool) -> coretex::Job {
    let request = CancelJobRequest {
        job_id: job_id.to_owned(),
        reason: "changed my mind".into(),
        grace: millis(grace),
        force,
    };
    client.cancel_job(request).await.unwrap().job.unwrap()
}

async fn a_running_job_is_cancelled_with_grace_without_and_by_force(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let obedient = |ctx: coretex::Context, _| async move {
        let why = ctx.cancelled().await;
        assert_eq!(why, CancelReason::Requested("changed my mind".into()));
        Err::<(), _>(JobFailure::new("stopped", "as asked"))
    };
    let stubborn = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&stubborn);
    let deaf = move |_, _| {
        let held = Arc::clone(&held);
        async move { Ok(held.acquire().await.map(drop)?) }
    };
    let _first = RunningWorker::serve(client.clone(), "job.obeys", 1, obedient).await;
    let _second = RunningWorker::serve(client.clone(), "job.deaf", 4, deaf).await;
    let begin = async |topic: &str| {
        let job = client.submit(topic, ()).send().await.unwrap().job.unwrap();
        until_state(&client, &job.job_id, JobState::Running)
            .await
            .job_id
    };

    let told = begin("job.obeys").await;
    cancel(&client, &told, 30_000, false).await;
    let ended = client.wait_ended(&told, Some(LONG)).await.unwrap();
    assert_eq!(ended.state(), JobState::Cancelled);
    assert_eq!(endings(&events(&client, &told).await), 1);
    let again = cancel(&client, &told, 0, true).await;
    assert_eq!(
        again.etag, ended.etag,
        "a job that has ended stays as it is"
    );

    let ignored = begin("job.deaf").await;
    let asked = cancel(&client, &ignored, 200, false).await;
    assert!(asked.cancel_requested_time.is_some() && !asked.ended());
    let ended = client.wait_ended(&ignored, Some(LONG)).await.unwrap();
    assert_eq!(ended.state(), JobState::Cancelled);

    let forced = begin("job.deaf").await;
    assert_eq!(
        cancel(&client, &forced, 30_000, true).await.state(),
        JobState::Cancelled
    );

    // The result of a cancelled job is never applied, and its worker goes on.
    stubborn.add_permits(10);
    assert!(result(client.submit("job.deaf", ())).await.succeeded());
    assert_eq!(get(&client, &forced).await.state(), JobState::Cancelled);

    let waiting = client
        .submit("job.nobody", ())
        .send()
        .await
        .unwrap()
        .job
        .unwrap();
    let ended = cancel(&client, &waiting.job_id, 30_000, false).await;
    assert_eq!(ended.state(), JobState::Cancelled, "nobody has to be told");
}

async fn a_worker_runs_as_many_jobs_at_once_as_it_says(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let all_there = Arc::new(Barrier::new(5));
    let most = Arc::new(AtomicU32::new(0));
    let now = Arc::new(AtomicU32::new(0));
    let (barrier, highest) = (Arc::clone(&all_there), Arc::clone(&most));
    let _worker = RunningWorker::serve(client.clone(), "job.meets", 5, move |_, _| {
        let (barrier, highest, now) = (barrier.clone(), highest.clone(), now.clone());
        async move {
            highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            barrier.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await;
    // Nobody passes the barrier before five are there, so each round needs five at once.
    let jobs = (0..15).map(|_| client.submit("job.meets", ()).result());
    let ended = in_time("all jobs", futures::future::join_all(jobs)).await;
    assert!(ended.iter().all(|job| job.as_ref().unwrap().succeeded()));
    assert_eq!(most.load(Ordering::SeqCst), 5);
}

async fn a_watch_tells_every_change_of_a_job_in_order(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let started = Arc::new(Notify::new());
    let go = Arc::clone(&started);
    let submitted = client
        .submit("job.watched", json!(1))
        .send()
        .await
        .unwrap()
        .job
        .unwrap();
    let mut watch = client.watch(WatchJobsRequest {
        target: Some(Target::JobId(submitted.job_id.clone())),
        ..WatchJobsRequest::default()
    });
    let first = in_time("the checkpoint", watch.next())
        .await
        .unwrap()
        .unwrap();
    assert!(first.checkpoint);
    assert_eq!(first.job.unwrap().state(), JobState::Pending);

    let _worker = RunningWorker::serve(client.clone(), "job.watched", 1, move |_, job| {
        let go = Arc::clone(&go);
        async move {
            go.notified().await;
            Ok(job.input)
        }
    })
    .await;
    let mut seen = Vec::new();
    while let Some(next) = in_time("the next event", watch.next()).await {
        let event = next.unwrap().event.unwrap();
        if event.to_state() == JobState::Running {
            started.notify_one();
        }
        seen.push(event);
    }
    let kept = events(&client, &submitted.job_id).await;
    assert_eq!(
        seen,
        kept[kept.len() - seen.len()..],
        "nothing missed, nothing twice"
    );
    assert!(
        seen.iter()
            .any(|event| event.r#type() == JobEventType::Dispatched)
    );
    assert_eq!(seen.last().unwrap().to_state(), JobState::Succeeded);
}

async fn a_job_without_a_worker_says_so_and_starts_when_there_is_one(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let job = client
        .submit("job.later", json!("x"))
        .send()
        .await
        .unwrap()
        .job
        .unwrap();
    assert_eq!(job.waiting_reason, "no_workers");
    let request = DiagnoseJobRequest {
        job_id: job.job_id.clone(),
    };
    let diagnosis = client.diagnose_job(request.clone()).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "no_workers");
    assert!(!diagnosis.causes[0].remedy.is_empty());
    assert_eq!(
        (diagnosis.queue_position, diagnosis.queue_position_capped),
        (1, false)
    );

    let _worker = RunningWorker::echo(client.clone(), "job.later", 1).await;
    let ended = client.wait_ended(&job.job_id, Some(LONG)).await.unwrap();
    assert!(ended.succeeded());
    let diagnosis = client.diagnose_job(request).await.unwrap();
    assert_eq!(diagnosis.state(), JobState::Succeeded);
}

async fn a_batch_is_accepted_item_by_item(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let runs = Runs::default();
    let noted = runs.clone();
    let _worker = RunningWorker::serve(client.clone(), "job.batch", 16, move |ctx, _| {
        noted.note(ctx.job_id());
        async { Ok(()) }
    })
    .await;
    let mut requests: Vec<SubmitJobRequest> = (0..300)
        .map(|n| client.submit("job.batch", n).into_request().unwrap())
        .collect();
    requests[77].topic = "not a topic".into();
    let answer = client
        .submit_jobs(SubmitJobsRequest { requests })
        .await
        .unwrap();
    assert_eq!(answer.results.len(), 300);
    let mut accepted = Vec::new();
    for (n, result) in answer.results.into_iter().enumerate() {
        match result.outcome.unwrap() {
            coretex::proto::submit_jobs_result::Outcome::Job(job) => accepted.push(job.job_id),
            coretex::proto::submit_jobs_result::Outcome::Status(status) => {
                let error = coretex::Error::from_item(&status);
                assert_eq!((n, error.reason()), (77, Some(ErrorReason::InvalidField)));
                assert_eq!(error.violations()[0].field, "topic");
            }
        }
    }
    assert_eq!(accepted.len(), 299);
    for job_id in &accepted {
        let job = client.wait_ended(job_id, Some(LONG)).await.unwrap();
        assert!(job.succeeded(), "{job:?}");
        assert_eq!(runs.of(job_id), 1);
    }
}

async fn a_rerun_is_a_new_job_linked_to_the_old_one(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::echo(client.clone(), "job.echo", 1).await;
    let old = client
        .submit("job.echo", json!({"n": 1}))
        .result()
        .await
        .unwrap();
    let request = RerunJobRequest {
        job_id: old.job_id.clone(),
        idempotency_key: "again".into(),
        ..RerunJobRequest::default()
    };
    let new = client
        .rerun_job(request.clone())
        .await
        .unwrap()
        .job
        .unwrap();
    assert_ne!(new.job_id, old.job_id);
    assert_eq!(new.rerun_of_job_id, old.job_id);
    let ended = client.wait_ended(&new.job_id, Some(LONG)).await.unwrap();
    assert_eq!(ended.output, old.output);
    let repeated = client.rerun_job(request).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!(repeated.job.unwrap().job_id, new.job_id);
}

async fn large_payloads_travel_whole(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::echo(client.clone(), "job.echo", 4).await;
    let text = "ä".repeat(500_000);
    let submit = client.submit("job.echo", json!({ "text": text }));
    let job = result(submit).await;
    assert_eq!(
        job.output_as::<serde_json::Value>().unwrap()["text"],
        json!(text)
    );
    let raw = coretex::Payload::from_bytes(vec![0xfe; 1_000_000], "application/octet-stream");
    let submit = client.submit("job.echo", ()).payload(raw.clone());
    let job = result(submit).await;
    assert_eq!(job.output, Some(raw));
}

on_both_pairs! {
    a_job_is_submitted_run_and_its_result_read,
    wait_on_submit_answers_with_the_job_as_it_then_stands,
    a_failing_job_uses_its_attempts_and_keeps_the_error_of_its_worker,
    a_running_job_is_cancelled_with_grace_without_and_by_force,
    a_worker_runs_as_many_jobs_at_once_as_it_says,
    a_watch_tells_every_change_of_a_job_in_order,
    a_job_without_a_worker_says_so_and_starts_when_there_is_one,
    a_batch_is_accepted_item_by_item,
    a_rerun_is_a_new_job_linked_to_the_old_one,
    large_payloads_travel_whole,
}
