//! Dead letters and operations on many jobs through the services.

use coretex_engine::Role;
use coretex_proto::v1;
use coretex_proto::v1::dlq_service_client::DlqServiceClient;
use prost::Message;
use tonic::{Code, Request, Streaming};

use crate::jobs::{RESPONSE_LIMIT, get, submit};
use crate::support::{Harness, Served, fields, metadata, reason, submission};

fn dlq(harness: &Harness) -> DlqServiceClient<Served> {
    DlqServiceClient::new(harness.service.clone())
}

fn signed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A request for a job that nobody will take, so that it ends TIMEOUT in a second.
fn doomed(topic: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        schedule_to_start_timeout: seconds(1),
        ..submission(topic)
    }
}

async fn ended(harness: &Harness, job_id: &str) -> v1::Job {
    let request = v1::WaitJobRequest {
        job_id: job_id.to_owned(),
        ..v1::WaitJobRequest::default()
    };
    let answer = harness.jobs().wait_job(request).await.unwrap();
    answer.into_inner().job.unwrap()
}

async fn dead(harness: &Harness, topic: &str) -> v1::Job {
    let job = submit(harness, doomed(topic)).await;
    let job = ended(harness, &job.job_id).await;
    assert_eq!(job.state(), v1::JobState::Timeout);
    job
}

fn entry(entry_id: &str) -> v1::GetDlqEntryRequest {
    v1::GetDlqEntryRequest {
        entry_id: entry_id.to_owned(),
        ..v1::GetDlqEntryRequest::default()
    }
}

fn of_topic(topic: &str) -> Option<v1::DlqFilter> {
    Some(v1::DlqFilter {
        topics: vec![topic.to_owned()],
        ..v1::DlqFilter::default()
    })
}

/// The last message of a stream of progress.
async fn last<T>(
    mut stream: Streaming<T>,
    progress: fn(T) -> Option<v1::BulkProgress>,
) -> v1::BulkProgress {
    let mut last = v1::BulkProgress::default();
    while let Some(next) = stream.message().await.unwrap() {
        last = progress(next).unwrap();
        assert!(!last.idempotency_key.is_empty());
    }
    assert!(last.finished && last.page_token.is_empty());
    last
}

fn counts(progress: &v1::BulkProgress) -> [i32; 4] {
    [
        progress.matched_count,
        progress.done_count,
        progress.skipped_count,
        progress.failed_count,
    ]
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_shown_retried_and_gone() {
    let harness = Harness::open().await;
    let job = dead(&harness, "job.x").await;
    let shown = dlq(&harness)
        .get_dlq_entry(entry(&job.job_id))
        .await
        .unwrap();
    let shown = shown.into_inner().entry.unwrap();
    assert_eq!(
        (&shown.entry_id, shown.reason_code.as_str()),
        (&job.job_id, "schedule_timeout")
    );
    assert_eq!(shown.last_state(), v1::JobState::Timeout);
    assert_eq!(shown.source(), v1::JobErrorSource::Platform);
    assert_eq!(shown.message, job.error.clone().unwrap().message);
    assert_eq!(shown.create_time, job.end_time);
    let kept = shown.expire_time.unwrap().seconds - job.end_time.unwrap().seconds;
    assert_eq!(kept, 30 * 24 * 3_600);
    assert_eq!(shown.job, Some(job.clone()), "FULL, and as GetJob shows it");
    let listed = dlq(&harness)
        .list_dlq_entries(v1::ListDlqEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.entries.len(), 1);
    assert_eq!(listed.entries[0].job.as_ref().unwrap().input, None);

    let retry = v1::RetryDlqEntryRequest {
        entry_id: job.job_id.clone(),
        edits: Some(v1::JobEdits {
            topic: Some("job.y".to_owned()),
            ..v1::JobEdits::default()
        }),
        idempotency_key: "k".to_owned(),
    };
    let new = dlq(&harness).retry_dlq_entry(retry.clone()).await.unwrap();
    let new = new.into_inner();
    assert!(!new.replayed);
    let new = new.job.unwrap();
    assert_eq!(
        (&new.rerun_of_job_id, new.topic.as_str()),
        (&job.job_id, "job.y")
    );
    assert_eq!(new.input, job.input);
    let again = dlq(&harness)
        .retry_dlq_entry(retry)
        .await
        .unwrap()
        .into_inner();
    assert!(again.replayed && again.job.unwrap().job_id == new.job_id);
    let gone = dlq(&harness)
        .get_dlq_entry(entry(&job.job_id))
        .await
        .unwrap_err();
    assert_eq!(
        (gone.code(), reason(&gone).as_str()),
        (Code::NotFound, "DLQ_ENTRY_NOT_FOUND")
    );
    assert_eq!(metadata(&gone, "entry_id"), Some(job.job_id.clone()));
    // The job is where it was.
    let kept = harness.jobs().get_job(get(&job.job_id)).await.unwrap();
    assert_eq!(
        kept.into_inner().job.unwrap().state(),
        v1::JobState::Timeout
    );
    let events = v1::ListJobEventsRequest {
        job_id: job.job_id.clone(),
        ..v1::ListJobEventsRequest::default()
    };
    let events = harness.jobs().list_job_events(events).await.unwrap();
    let event = events.into_inner().events.pop().unwrap();
    assert_eq!(event.r#type(), v1::JobEventType::DeadLetterSettled);
    assert_eq!(event.reason, format!("retried as {}", new.job_id));
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_deleted_once() {
    let harness = Harness::open().await;
    let job = dead(&harness, "job.x").await;
    let delete = v1::DeleteDlqEntryRequest {
        entry_id: job.job_id,
    };
    dlq(&harness)
        .delete_dlq_entry(delete.clone())
        .await
        .unwrap();
    let again = dlq(&harness).delete_dlq_entry(delete).await.unwrap_err();
    assert_eq!(reason(&again), "DLQ_ENTRY_NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn pages_hold_every_entry_once_and_end_by_bytes() {
    let harness = Harness::open().await;
    let zeros = serde_json::Value::from(vec![0; 60_000]);
    for n in 0..12 {
        let request = v1::SubmitJobRequest {
            job_id: format!("j-{n:02}"),
            input: Some(v1::Payload::from_json(&zeros)),
            ..doomed("job.x")
        };
        let job = submit(&harness, request).await;
        ended(&harness, &job.job_id).await;
    }
    let mut seen = Vec::new();
    let mut request = v1::ListDlqEntriesRequest {
        view: v1::JobView::Full.into(),
        ..v1::ListDlqEntriesRequest::default()
    };
    let mut pages = 0;
    loop {
        let page = dlq(&harness).list_dlq_entries(request.clone()).await;
        let page = page.unwrap().into_inner();
        assert!(page.encoded_len() <= RESPONSE_LIMIT);
        pages += 1;
        seen.extend(page.entries.into_iter().map(|entry| entry.entry_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let newest_first: Vec<_> = (0..12).rev().map(|n| format!("j-{n:02}")).collect();
    assert_eq!(seen, newest_first);
    assert!(pages > 1);
    request.topics.push("job.y".to_owned());
    let foreign = dlq(&harness).list_dlq_entries(request).await.unwrap_err();
    assert_eq!(reason(&foreign), "PAGE_TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn payloads_are_for_those_who_may_see_them_and_changes_for_operators() {
    let harness = Harness::closed().await;
    let admin = harness.key("acme", &[Role::Admin]).await;
    let request = signed(&admin, doomed("job.x"));
    let job = harness.jobs().submit_job(request).await.unwrap();
    let job = job.into_inner().job.unwrap();
    let wait = v1::WaitJobRequest {
        job_id: job.job_id.clone(),
        ..v1::WaitJobRequest::default()
    };
    harness.jobs().wait_job(signed(&admin, wait)).await.unwrap();
    for (role, sees_payload) in [
        (Role::Viewer, false),
        (Role::Auditor, false),
        (Role::Operator, true),
    ] {
        let key = harness.key("acme", &[role]).await;
        let mut dlq = dlq(&harness);
        let shown = dlq.get_dlq_entry(signed(&key, entry(&job.job_id)));
        let shown = shown
            .await
            .unwrap()
            .into_inner()
            .entry
            .unwrap()
            .job
            .unwrap();
        assert_eq!(shown.input.is_some(), sees_payload, "{role:?}");
        let list = v1::ListDlqEntriesRequest {
            view: v1::JobView::Full.into(),
            ..v1::ListDlqEntriesRequest::default()
        };
        let listed = dlq.list_dlq_entries(signed(&key, list)).await;
        let listed = listed.unwrap().into_inner().entries.pop().unwrap();
        assert_eq!(
            listed.job.unwrap().input.is_some(),
            sees_payload,
            "{role:?}"
        );
    }
    // A submitter sees its own, and others' are not there for it; another tenant sees nothing.
    for (tenant, role) in [("acme", Role::Submitter), ("other", Role::Admin)] {
        let key = harness.key(tenant, &[role]).await;
        let mut dlq = dlq(&harness);
        let shown = dlq.get_dlq_entry(signed(&key, entry(&job.job_id)));
        assert_eq!(reason(&shown.await.unwrap_err()), "DLQ_ENTRY_NOT_FOUND");
    }
    let delete = v1::DeleteDlqEntryRequest {
        entry_id: job.job_id.clone(),
    };
    for role in [Role::Viewer, Role::Submitter, Role::Approver, Role::Worker] {
        let key = harness.key("acme", &[role]).await;
        let refused = dlq(&harness)
            .delete_dlq_entry(signed(&key, delete.clone()))
            .await;
        assert_eq!(
            reason(&refused.unwrap_err()),
            "PERMISSION_MISSING",
            "{role:?}"
        );
    }
    let key = harness.key("acme", &[Role::Operator]).await;
    let retry = v1::RetryDlqEntryRequest {
        entry_id: job.job_id,
        ..v1::RetryDlqEntryRequest::default()
    };
    assert!(
        dlq(&harness)
            .retry_dlq_entry(signed(&key, retry))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_filter_is_refused_unless_everything_is_meant() {
    let harness = Harness::open().await;
    dead(&harness, "job.x").await;
    for filter in [None, Some(v1::DlqFilter::default())] {
        let retry = v1::RetryDlqEntriesRequest {
            filter: filter.clone(),
            ..v1::RetryDlqEntriesRequest::default()
        };
        let refused = dlq(&harness).retry_dlq_entries(retry).await.unwrap_err();
        assert_eq!(fields(&refused), ["filter"]);
        let purge = v1::PurgeDlqRequest {
            filter,
            ..v1::PurgeDlqRequest::default()
        };
        let refused = dlq(&harness).purge_dlq(purge).await.unwrap_err();
        assert_eq!(fields(&refused), ["filter"]);
    }
    for filter in [None, Some(v1::JobFilter::default())] {
        let cancel = v1::CancelJobsRequest {
            filter: filter.clone(),
            ..v1::CancelJobsRequest::default()
        };
        let refused = harness.jobs().cancel_jobs(cancel).await.unwrap_err();
        assert_eq!(fields(&refused), ["filter"]);
        let rerun = v1::RerunJobsRequest {
            filter,
            ..v1::RerunJobsRequest::default()
        };
        let refused = harness.jobs().rerun_jobs(rerun).await.unwrap_err();
        assert_eq!(fields(&refused), ["filter"]);
    }
    let all = v1::PurgeDlqRequest {
        all: true,
        ..v1::PurgeDlqRequest::default()
    };
    let stream = dlq(&harness).purge_dlq(all).await.unwrap().into_inner();
    let purged = last(stream, |next| next.progress).await;
    assert_eq!(counts(&purged), [1, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_an_operation_is_named_at_once() {
    let harness = Harness::open().await;
    let request = v1::RetryDlqEntriesRequest {
        filter: Some(v1::DlqFilter {
            reason_codes: vec![String::new()],
            states: vec![99],
            topics: vec!["no topic".to_owned()],
            ..v1::DlqFilter::default()
        }),
        edits: Some(v1::JobEdits {
            topic: Some("no topic".to_owned()),
            ..v1::JobEdits::default()
        }),
        rate: 1_001,
        idempotency_key: "\n".to_owned(),
        page_token: "\n".to_owned(),
        ..v1::RetryDlqEntriesRequest::default()
    };
    let refused = dlq(&harness).retry_dlq_entries(request).await.unwrap_err();
    let mut named = fields(&refused);
    named.sort();
    let should = [
        "edits.topic",
        "filter.reason_codes[0]",
        "filter.states[0]",
        "filter.topics[0]",
        "idempotency_key",
        "page_token",
        "rate",
    ];
    assert_eq!(named, should);
    let junk = v1::RetryDlqEntriesRequest {
        all: true,
        page_token: "junk".to_owned(),
        ..v1::RetryDlqEntriesRequest::default()
    };
    let refused = dlq(&harness).retry_dlq_entries(junk).await.unwrap_err();
    assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn operations_tell_how_far_they_are() {
    let harness = Harness::open().await;
    for _ in 0..30 {
        dead(&harness, "job.x").await;
    }
    dead(&harness, "job.y").await;
    let dry = v1::RetryDlqEntriesRequest {
        filter: of_topic("job.x"),
        dry_run: true,
        ..v1::RetryDlqEntriesRequest::default()
    };
    let stream = dlq(&harness).retry_dlq_entries(dry).await.unwrap();
    let progress = last(stream.into_inner(), |next| next.progress).await;
    assert_eq!(counts(&progress), [30, 0, 0, 0]);
    let retry = v1::RetryDlqEntriesRequest {
        filter: of_topic("job.x"),
        rate: 10,
        idempotency_key: "op".to_owned(),
        ..v1::RetryDlqEntriesRequest::default()
    };
    let stream = dlq(&harness).retry_dlq_entries(retry).await.unwrap();
    let mut stream = stream.into_inner();
    let first = stream.message().await.unwrap().unwrap().progress.unwrap();
    assert_eq!(
        (counts(&first), first.idempotency_key.as_str()),
        ([0; 4], "op")
    );
    assert!(!first.finished && !first.page_token.is_empty());
    let progress = last(stream, |next| next.progress).await;
    assert_eq!(counts(&progress), [30, 30, 0, 0]);

    let cancel = v1::CancelJobsRequest {
        filter: Some(v1::JobFilter {
            topics: vec!["job.x".to_owned()],
            ..v1::JobFilter::default()
        }),
        reason: "enough".to_owned(),
        ..v1::CancelJobsRequest::default()
    };
    let stream = harness.jobs().cancel_jobs(cancel).await.unwrap();
    let progress = last(stream.into_inner(), |next| next.progress).await;
    // Some have run out of time again by then.
    assert_eq!(progress.done_count, progress.matched_count);
    let rerun = v1::RerunJobsRequest {
        filter: Some(v1::JobFilter {
            topics: vec!["job.y".to_owned()],
            ..v1::JobFilter::default()
        }),
        edits: Some(v1::JobEdits {
            topic: Some("job.z".to_owned()),
            ..v1::JobEdits::default()
        }),
        ..v1::RerunJobsRequest::default()
    };
    let stream = harness.jobs().rerun_jobs(rerun).await.unwrap();
    let progress = last(stream.into_inner(), |next| next.progress).await;
    assert_eq!(counts(&progress), [1, 1, 0, 0]);
    let count = v1::CountJobsRequest {
        filter: Some(v1::JobFilter {
            topics: vec!["job.z".to_owned()],
            ..v1::JobFilter::default()
        }),
    };
    let count = harness.jobs().count_jobs(count).await.unwrap();
    assert_eq!(count.into_inner().count, 1);
}
