//! Lists, histories and watches of jobs: complete, in order, and never too large.

use coretex_proto::v1;
use coretex_proto::v1::watch_jobs_request::Target;
use prost::Message;
use tonic::Code;

use crate::jobs::{RESPONSE_LIMIT, get, submit, text};
use crate::support::{Harness, Worker, fields, reason, submission};

#[tokio::test(start_paused = true)]
async fn pages_hold_every_job_once_and_end_by_bytes() {
    let harness = Harness::open().await;
    // Small as text, five times larger as messages.
    let zeros = serde_json::Value::from(vec![0; 60_000]);
    for n in 0..12 {
        let request = v1::SubmitJobRequest {
            job_id: format!("j-{n:02}"),
            input: Some(v1::Payload::from_json(&zeros)),
            ..submission("job.x")
        };
        submit(&harness, request).await;
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListJobsRequest {
            view: v1::JobView::Full.into(),
            page_token: token,
            ..v1::ListJobsRequest::default()
        };
        let page = harness
            .jobs()
            .list_jobs(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.encoded_len() <= RESPONSE_LIMIT);
        assert!(!page.resume_token.is_empty());
        seen.extend(page.jobs.into_iter().map(|job| job.job_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let newest_first: Vec<_> = (0..12).rev().map(|n| format!("j-{n:02}")).collect();
    assert_eq!(seen, newest_first);
    let basic = v1::ListJobsRequest::default();
    let basic = harness.jobs().list_jobs(basic).await.unwrap().into_inner();
    assert_eq!(basic.jobs.len(), 12);
    assert!(basic.jobs.iter().all(|job| job.input.is_none()));
}

#[tokio::test(start_paused = true)]
async fn tokens_belong_to_their_list() {
    let harness = Harness::open().await;
    for _ in 0..3 {
        submit(&harness, submission("job.x")).await;
    }
    let mut jobs = harness.jobs();
    let request = v1::ListJobsRequest {
        page_size: 1,
        ..v1::ListJobsRequest::default()
    };
    let page = jobs.list_jobs(request.clone()).await.unwrap().into_inner();
    let filter = v1::JobFilter {
        topics: vec!["job.y".to_owned()],
        ..v1::JobFilter::default()
    };
    let foreign = v1::ListJobsRequest {
        filter: Some(filter),
        page_token: page.next_page_token,
        ..request.clone()
    };
    let junk = v1::ListJobsRequest {
        page_token: "junk".to_owned(),
        ..request.clone()
    };
    for request in [foreign, junk] {
        let refused = jobs.list_jobs(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID");
    }
    let negative = v1::ListJobsRequest {
        page_size: -1,
        ..request
    };
    let refused = jobs.list_jobs(negative).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_size"]);
    let events = v1::ListJobEventsRequest {
        job_id: page.jobs[0].job_id.clone(),
        page_size: 0,
        page_token: "junk".to_owned(),
    };
    let refused = jobs.list_job_events(events).await.unwrap_err();
    assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_one_job_begins_with_it_and_ends_with_it() {
    let harness = Harness::open().await;
    let job = submit(&harness, submission("job.x")).await;
    let request = v1::WatchJobsRequest {
        target: Some(Target::JobId(job.job_id.clone())),
        ..v1::WatchJobsRequest::default()
    };
    let mut watch = harness
        .jobs()
        .watch_jobs(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert!(first.checkpoint && !first.resume_token.is_empty());
    assert_eq!(first.job.unwrap().state(), v1::JobState::Pending);

    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let assignment = worker.assignment().await;
    worker.succeed(&assignment, text("done")).await;
    let mut last = None;
    while let Some(message) = watch.message().await.unwrap() {
        let event = message.event.unwrap();
        assert_eq!(event.job_id, job.job_id);
        last = Some(event);
    }
    assert_eq!(last.unwrap().to_state(), v1::JobState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_where_a_list_was_read() {
    let harness = Harness::open().await;
    let list = v1::ListJobsRequest::default();
    let page = harness.jobs().list_jobs(list).await.unwrap().into_inner();
    let job = submit(&harness, submission("job.x")).await;
    let request = v1::WatchJobsRequest {
        resume_token: page.resume_token,
        ..v1::WatchJobsRequest::default()
    };
    let mut watch = harness
        .jobs()
        .watch_jobs(request)
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().unwrap().checkpoint);
    let event = watch.message().await.unwrap().unwrap();
    assert_eq!(event.job.unwrap().job_id, job.job_id);
    let foreign = v1::WatchJobsRequest {
        resume_token: "junk".to_owned(),
        ..v1::WatchJobsRequest::default()
    };
    let refused = harness.jobs().watch_jobs(foreign).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(reason(&refused), "RESUME_TOKEN_INVALID");
    let missing = v1::WatchJobsRequest {
        target: Some(Target::JobId("nope".to_owned())),
        ..v1::WatchJobsRequest::default()
    };
    let refused = harness.jobs().watch_jobs(missing).await.unwrap_err();
    assert_eq!(reason(&refused), "JOB_NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn history_is_kept_and_paged() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let job = submit(&harness, submission("job.x")).await;
    let assignment = worker.assignment().await;
    worker.succeed(&assignment, text("done")).await;
    let mut jobs = harness.jobs();
    let mut sequences = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListJobEventsRequest {
            job_id: job.job_id.clone(),
            page_size: 2,
            page_token: token,
        };
        let page = jobs.list_job_events(request).await.unwrap().into_inner();
        assert!(page.events.len() <= 2);
        assert_eq!(page.dropped_count, 0);
        sequences.extend(page.events.iter().map(|event| event.sequence));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(sequences.len() >= 3);
    assert!(sequences.iter().copied().eq(1..=sequences.len() as i32));

    let request = v1::ListJobDecisionsRequest {
        job_id: job.job_id.clone(),
        ..v1::ListJobDecisionsRequest::default()
    };
    let decisions = jobs.list_job_decisions(request).await.unwrap().into_inner();
    let last = decisions.decisions.last().unwrap();
    assert_eq!(last.decision(), v1::PolicyDecision::Allow);
    let shown = jobs.get_job(get(&job.job_id)).await.unwrap().into_inner();
    assert_eq!(shown.job.unwrap().decision.as_ref(), Some(last));

    let request = v1::ListJobAttemptsRequest {
        job_id: job.job_id.clone(),
        ..v1::ListJobAttemptsRequest::default()
    };
    let attempts = jobs.list_job_attempts(request).await.unwrap().into_inner();
    assert_eq!(attempts.attempts.len(), 1);
    let attempt = &attempts.attempts[0];
    assert_eq!((attempt.attempt, attempt.worker_id.as_str()), (1, "w"));
    assert_eq!(attempt.end_state(), v1::JobState::Succeeded);
}
