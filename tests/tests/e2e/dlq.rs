//! Dead letters, and operations on many jobs: through a real server, and across its death.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coretex::proto::{
    BulkProgress, CancelJobsRequest, CountJobsRequest, DeleteDlqEntryRequest, DlqEntry, DlqFilter,
    GetDlqEntryRequest, JobErrorSource, JobFilter, ListDlqEntriesRequest, PurgeDlqRequest,
    RerunJobsRequest, RetryDlqEntriesRequest, RetryDlqEntryRequest, RetryPolicy, SubmitJobRequest,
};
use coretex::{Bulk, Client, ErrorReason, JobExt, JobFailure, JobState};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::poll;
use serde_json::json;

use crate::support::{get, result, until_state};

/// All dead letters of a topic, with everything.
async fn entries(client: &Client, topic: &str) -> Vec<DlqEntry> {
    let request = ListDlqEntriesRequest {
        topics: vec![topic.to_owned()],
        ..ListDlqEntriesRequest::default()
    };
    client.all_dlq_entries(request).take(10_000).await.unwrap()
}

/// A worker that fails everything until it is told otherwise.
async fn moody(client: &Client, topic: &str) -> (RunningWorker, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(false));
    let mood = Arc::clone(&well);
    let worker = RunningWorker::serve(client.clone(), topic, 8, move |_, job| {
        let well = mood.load(Ordering::SeqCst);
        async move {
            if well {
                Ok(job.input)
            } else {
                Err(JobFailure::new("broken", "the disk is full"))
            }
        }
    });
    (worker.await, well)
}

fn of_topic(topic: &str) -> Option<JobFilter> {
    Some(JobFilter {
        topics: vec![topic.to_owned()],
        ..JobFilter::default()
    })
}

fn dlq_of_topic(topic: &str) -> Option<DlqFilter> {
    Some(DlqFilter {
        topics: vec![topic.to_owned()],
        ..DlqFilter::default()
    })
}

async fn finished(bulk: Bulk) -> BulkProgress {
    let progress = in_time("the end of an operation", Box::pin(bulk.finish())).await;
    progress.unwrap()
}

async fn count(client: &Client, filter: Option<JobFilter>) -> i32 {
    let answer = client.count_jobs(CountJobsRequest { filter }).await;
    answer.unwrap().count
}

async fn a_failed_job_is_a_dead_letter_until_it_is_retried(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let (_worker, well) = moody(&client, "job.moody").await;
    let submit = client
        .submit("job.moody", json!({"n": 7}))
        .label("env", "prod")
        .edit(|request| {
            request.retry = Some(RetryPolicy {
                max_attempts: Some(2),
                initial_backoff: Some(coretex::well_known::Duration::default()),
                ..RetryPolicy::default()
            });
            request.metadata.get_or_insert_default().capability = "write".into();
        });
    let job = result(submit).await;
    assert_eq!(job.state(), JobState::Failed);
    let found = entries(&client, "job.moody").await;
    assert_eq!(found.len(), 1);
    let request = GetDlqEntryRequest {
        entry_id: job.job_id.clone(),
        ..GetDlqEntryRequest::default()
    };
    let entry = client.get_dlq_entry(request.clone()).await.unwrap();
    let entry = entry.entry.unwrap();
    assert_eq!(entry.reason_code, "max_attempts_exceeded");
    assert_eq!(entry.source(), JobErrorSource::Platform);
    assert_eq!(entry.last_state(), JobState::Failed);
    assert_eq!(entry.message, "the disk is full");
    let kept = entry.job.unwrap();
    assert_eq!(kept.error.as_ref().unwrap().code, "broken");
    assert_eq!((&kept.input, &kept.metadata), (&job.input, &job.metadata));
    assert_eq!(entry.attempts.len(), 2);

    well.store(true, Ordering::SeqCst);
    let retry = RetryDlqEntryRequest {
        entry_id: job.job_id.clone(),
        idempotency_key: "again".into(),
        ..RetryDlqEntryRequest::default()
    };
    // Two operators press the button.
    let (one, other) = tokio::join!(
        client.retry_dlq_entry(retry.clone()),
        client.retry_dlq_entry(retry)
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.replayed != other.replayed);
    let new = one.job.unwrap();
    assert_eq!(new.job_id, other.job.unwrap().job_id);
    assert_eq!(new.rerun_of_job_id, job.job_id);
    let new = until_state(&client, &new.job_id, JobState::Succeeded).await;
    assert_eq!(new.output, job.input, "with the same input");
    assert_eq!(
        (new.labels, new.metadata),
        (job.labels.clone(), job.metadata)
    );
    assert!(entries(&client, "job.moody").await.is_empty());
    let gone = client.get_dlq_entry(request).await.unwrap_err();
    assert_eq!(gone.reason(), Some(ErrorReason::DlqEntryNotFound));
    assert_eq!(get(&client, &job.job_id).await.state(), JobState::Failed);
}

async fn dead_letters_survive_the_server_and_are_retried_all(pair: &Pair) {
    let mut server = Server::start(pair.options()).await;
    let client = server.client();
    let mut ids = Vec::new();
    {
        let (_worker, _) = moody(&client, "job.moody").await;
        for _ in 0..25 {
            let job = result(client.submit("job.moody", json!(1))).await;
            ids.push(job.job_id);
        }
    }
    server.kill().await;
    server.restart().await;
    let mut listed: Vec<_> = entries(&client, "job.moody").await;
    listed.reverse();
    let listed: Vec<_> = listed.into_iter().map(|entry| entry.entry_id).collect();
    assert_eq!(listed, ids, "newest first");

    let throw_away = DeleteDlqEntryRequest {
        entry_id: ids.remove(0),
    };
    client.delete_dlq_entry(throw_away).await.unwrap();
    let (_worker, well) = moody(&client, "job.moody").await;
    well.store(true, Ordering::SeqCst);
    let dry = RetryDlqEntriesRequest {
        filter: dlq_of_topic("job.moody"),
        dry_run: true,
        ..RetryDlqEntriesRequest::default()
    };
    let dry = finished(client.retry_dlq_entries(dry).await.unwrap()).await;
    assert_eq!((dry.matched_count, dry.done_count), (24, 0));
    let retry = RetryDlqEntriesRequest {
        filter: dlq_of_topic("job.moody"),
        idempotency_key: "op".into(),
        rate: 40,
        ..RetryDlqEntriesRequest::default()
    };
    // The server dies in between; the client goes on with the next one.
    let mut bulk = client.retry_dlq_entries(retry).await.unwrap();
    let first = in_time("the first progress", Box::pin(bulk.next())).await;
    assert_eq!(first.unwrap().unwrap().idempotency_key, "op");
    server.kill().await;
    server.restart().await;
    let last = finished(bulk).await;
    assert!(last.finished && last.failed_count == 0, "{last:?}");
    let succeeded = Some(JobFilter {
        states: vec![JobState::Succeeded.into()],
        ..JobFilter::default()
    });
    poll::until_async(
        "every retry to succeed",
        coretex_tests::cluster::PATIENCE,
        async || {
            let found = count(&client, succeeded.clone()).await;
            if found == 24 {
                Ok(())
            } else {
                Err(format!("{found}"))
            }
        },
    )
    .await;
    assert_eq!(count(&client, of_topic("job.moody")).await, 25 + 24);
    assert!(entries(&client, "job.moody").await.is_empty());
}

async fn many_are_cancelled_rerun_and_purged_by_filter(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    for topic in ["job.a", "job.b"] {
        for _ in 0..40 {
            client.submit(topic, json!(1)).send().await.unwrap();
        }
    }
    let refused = client.cancel_jobs(CancelJobsRequest::default());
    let refused = refused.finish().await.unwrap_err();
    assert_eq!(refused.violations()[0].field, "filter");
    let cancel = CancelJobsRequest {
        filter: of_topic("job.a"),
        reason: "enough".into(),
        ..CancelJobsRequest::default()
    };
    let cancelled = finished(client.cancel_jobs(cancel)).await;
    assert_eq!((cancelled.matched_count, cancelled.done_count), (40, 40));
    let state = |state: JobState| {
        Some(JobFilter {
            states: vec![state.into()],
            ..JobFilter::default()
        })
    };
    assert_eq!(count(&client, state(JobState::Cancelled)).await, 40);
    assert_eq!(count(&client, state(JobState::Pending)).await, 40);

    let rerun = RerunJobsRequest {
        filter: state(JobState::Cancelled),
        idempotency_key: "op".into(),
        ..RerunJobsRequest::default()
    };
    for _ in 0..2 {
        let again = finished(client.rerun_jobs(rerun.clone()).await.unwrap()).await;
        assert_eq!((again.done_count, again.failed_count), (40, 0));
        assert_eq!(count(&client, state(JobState::Pending)).await, 80);
    }
    let (_worker, _) = moody(&client, "job.b").await;
    poll::until_async(
        "all of a topic to fail",
        coretex_tests::cluster::PATIENCE,
        async || {
            let found = entries(&client, "job.b").await.len();
            if found == 40 {
                Ok(())
            } else {
                Err(format!("{found}"))
            }
        },
    )
    .await;
    let purge = PurgeDlqRequest {
        filter: Some(DlqFilter {
            reason_codes: vec!["broken".into()],
            ..DlqFilter::default()
        }),
        ..PurgeDlqRequest::default()
    };
    assert_eq!(finished(client.purge_dlq(purge)).await.done_count, 40);
    assert!(entries(&client, "job.b").await.is_empty());
    assert_eq!(count(&client, state(JobState::Failed)).await, 40);
}

async fn one_that_was_never_taken_is_a_dead_letter(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let submitted = client.submit_job(SubmitJobRequest {
        topic: "job.nobody".into(),
        schedule_to_start_timeout: Some(coretex::well_known::Duration {
            seconds: 0,
            nanos: 50_000_000,
        }),
        ..SubmitJobRequest::default()
    });
    let job = submitted.await.unwrap().job.unwrap();
    let job = until_state(&client, &job.job_id, JobState::Timeout).await;
    assert!(job.ended());
    let found = entries(&client, "job.nobody").await;
    assert_eq!(found[0].reason_code, "schedule_timeout");
    assert_eq!(found[0].attempts.len(), 0);
}

on_both_pairs! {
    a_failed_job_is_a_dead_letter_until_it_is_retried,
    dead_letters_survive_the_server_and_are_retried_all,
    many_are_cancelled_rerun_and_purged_by_filter,
    one_that_was_never_taken_is_a_dead_letter,
}
