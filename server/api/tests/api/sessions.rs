//! Sessions of workers, and what callers see of workers and pools.

use std::time::Duration;

use crate::jobs::submit;
use crate::support::{Harness, Worker, fields, hello, metadata, reason, submission};
use coretex_proto::v1;
use coretex_proto::v1::open_session_request::Message as Said;
use coretex_proto::v1::open_session_response::Message as Told;
use tonic::{Code, Status};

/// The status with which a session ends, whatever comes before it.
async fn end(worker: &mut Worker) -> Option<Status> {
    loop {
        match worker.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

async fn refused(harness: &Harness, first: Said) -> Status {
    let mut worker = Worker::open(harness, first).await;
    end(&mut worker).await.expect("an error")
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_with_hello() {
    let harness = Harness::open().await;
    let status = refused(&harness, Said::Drain(v1::WorkerDrain {})).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "HELLO_EXPECTED");

    let Said::Hello(mut later) = hello("job.x", 1) else {
        unreachable!("is a hello");
    };
    later.protocol_version = 2;
    let status = refused(&harness, Said::Hello(later)).await;
    assert_eq!(reason(&status), "PROTOCOL_VERSION_UNSUPPORTED");
    assert_eq!(metadata(&status, "supported").as_deref(), Some("1"));

    let status = refused(&harness, hello("x", -1)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        fields(&status),
        ["hello.max_parallel_jobs", "hello.topics[0]"]
    );

    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    worker.say(hello("job.x", 1)).await;
    let status = end(&mut worker).await.unwrap();
    assert_eq!(reason(&status), "HELLO_EXPECTED");
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_sent_away() {
    let harness = Harness::open().await;
    let (said, stream) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let opened = harness.workers().open_session(stream).await.unwrap();
    let told = opened.into_inner();
    let mut silent = Worker { said, told };
    let started = tokio::time::Instant::now();
    let refused = silent.told.message().await.unwrap_err();
    assert_eq!(reason(&refused), "HELLO_EXPECTED");
    assert!(started.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_message_ends_the_session() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    worker
        .say(Said::Started(v1::WorkerStarted::default()))
        .await;
    let status = end(&mut worker).await.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(reason(&status), "SESSION_PROTOCOL_VIOLATION");
    assert_eq!(
        metadata(&status, "field").as_deref(),
        Some("started.lease_id")
    );
}

#[tokio::test(start_paused = true)]
async fn results_for_jobs_of_others_change_nothing() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let request = submission("job.x");
    let job = harness.jobs().submit_job(request).await.unwrap();
    let job = job.into_inner().job.unwrap();
    let assignment = worker.assignment().await;
    let mut thief = Worker::connect(&harness, "job.y", 1).await;
    let forged = v1::WorkerResult {
        tenant_id: job.tenant_id.clone(),
        job_id: job.job_id.clone(),
        attempt: assignment.attempt,
        lease_id: "0".repeat(32),
        status: v1::JobState::Succeeded.into(),
        ..v1::WorkerResult::default()
    };
    thief.say(Said::Result(Box::new(forged))).await;
    match thief.hear().await {
        Ok(Some(Told::ResultAck(ack))) => assert!(!ack.applied),
        other => panic!("not an acknowledgement: {other:?}"),
    }
    let get = v1::GetJobRequest {
        job_id: job.job_id,
        view: 0,
    };
    let found = harness.jobs().get_job(get).await.unwrap();
    let found = found.into_inner().job.unwrap();
    assert!(!matches!(found.state(), v1::JobState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_loses_its_session() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let status = loop {
        match worker.told.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "HEARTBEAT_MISSED");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_progress_is_taken_or_held_back_but_not_stored() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let request = submission("job.x");
    harness.jobs().submit_job(request).await.unwrap();
    let assignment = worker.assignment().await;
    let job = assignment.job.clone().unwrap();
    for n in 0..20_000 {
        let progress = v1::WorkerProgress {
            tenant_id: job.tenant_id.clone(),
            job_id: job.job_id.clone(),
            attempt: assignment.attempt,
            lease_id: assignment.lease_id.clone(),
            percent: n % 101,
            message: "x".repeat(100),
        };
        worker.say(Said::Progress(progress)).await;
    }
    worker
        .succeed(&assignment, v1::Payload::from_bytes("done", "text/plain"))
        .await;
    let events = v1::ListJobEventsRequest {
        job_id: job.job_id,
        ..v1::ListJobEventsRequest::default()
    };
    let events = harness.jobs().list_job_events(events).await.unwrap();
    assert!(events.into_inner().events.len() < 10);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_read_loses_its_session() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    // Acknowledgements that nobody reads, until the server has had enough.
    let stale = v1::WorkerResult {
        tenant_id: "default".to_owned(),
        job_id: "nope".to_owned(),
        attempt: 1,
        lease_id: "0".repeat(32),
        status: v1::JobState::Cancelled.into(),
        ..v1::WorkerResult::default()
    };
    let message = Some(Said::Result(Box::new(stale)));
    let message = v1::OpenSessionRequest { message };
    let mut sent = 0;
    while worker.said.send(message.clone()).await.is_ok() {
        sent += 1;
        tokio::time::advance(Duration::from_millis(5)).await;
        assert!(sent < 10_000, "the server takes everything");
    }
    let mut heard = 0;
    let status = loop {
        match worker.told.message().await {
            Ok(Some(_)) => heard += 1,
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    // What waits for the worker is a few hundred messages, not thousands.
    assert!(heard < 1_000, "{heard}");
    if let Some(status) = status {
        assert_eq!(reason(&status), "WORKER_TOO_SLOW");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_that_it_lives_and_reads_nothing_loses_its_session() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 4).await;
    let lives = || v1::OpenSessionRequest {
        message: Some(Said::Heartbeat(v1::WorkerHeartbeat::default())),
    };
    // As long as nothing waits for it, there is nothing to read.
    for _ in 0..12 {
        worker.said.send(lives()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    harness
        .jobs()
        .submit_job(submission("job.x"))
        .await
        .unwrap();
    let begun = tokio::time::Instant::now();
    while worker.said.send(lives()).await.is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(25),
            "its session goes on"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let status = end(&mut worker).await.expect("an error");
    assert_eq!(reason(&status), "WORKER_TOO_SLOW");
}

#[tokio::test(start_paused = true)]
async fn workers_and_pools_are_shown() {
    let harness = Harness::open().await;
    let mut client = harness.workers();
    let mut worker = Worker::connect(&harness, "job.x", 2).await;
    harness
        .jobs()
        .submit_job(submission("job.x"))
        .await
        .unwrap();
    let assignment = worker.assignment().await;

    let request = v1::GetWorkerRequest {
        worker_id: "w".to_owned(),
    };
    let shown = client
        .get_worker(request.clone())
        .await
        .unwrap()
        .into_inner();
    let found = shown.worker.unwrap();
    assert_eq!((found.active_jobs, found.max_parallel_jobs), (1, 2));
    assert_eq!(found.state(), v1::WorkerState::Ready);
    assert_eq!(shown.running.len(), 1);
    assert_eq!(shown.running[0].job_id, assignment.job.unwrap().job_id);
    assert_eq!(shown.running[0].lease_id, "");

    let drain = v1::DrainWorkerRequest {
        worker_id: "w".to_owned(),
        undo: false,
    };
    let drained = client.drain_worker(drain).await.unwrap().into_inner();
    assert_eq!(drained.worker.unwrap().state(), v1::WorkerState::Draining);
    let list = |states: Vec<i32>, topic: &str| v1::ListWorkersRequest {
        states,
        topic: topic.to_owned(),
        ..v1::ListWorkersRequest::default()
    };
    for (request, count) in [
        (list(vec![], ""), 1),
        (list(vec![v1::WorkerState::Draining.into()], "job.x"), 1),
        (list(vec![v1::WorkerState::Ready.into()], ""), 0),
        (list(vec![], "job.y"), 0),
    ] {
        let page = client.list_workers(request).await.unwrap().into_inner();
        assert_eq!(page.workers.len(), count);
    }

    let pools = v1::ListPoolsRequest::default();
    let pools = client.list_pools(pools).await.unwrap().into_inner().pools;
    assert_eq!(pools.len(), 1);
    assert_eq!((pools[0].capacity, pools[0].active), (2, 1));
    assert_eq!(pools[0].saturation, 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_shown_with_its_credential_and_what_it_speaks() {
    let harness = Harness::open().await;
    let mut client = harness.workers();
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    submit(&harness, submission("job.x")).await;
    let assignment = worker.assignment().await;
    // However many jobs wait that are newer than what it runs.
    let wait = (0..1_000).map(|_| submission("job.wait")).collect();
    let batch = v1::SubmitJobsRequest { requests: wait };
    for _ in 0..6 {
        harness.jobs().submit_jobs(batch.clone()).await.unwrap();
    }
    let request = v1::GetWorkerRequest {
        worker_id: "w".to_owned(),
    };
    let shown = client.get_worker(request.clone()).await.unwrap();
    let shown = shown.into_inner();
    let found = shown.worker.unwrap();
    assert_eq!(found.principal_id, "dev");
    assert_eq!(found.tenants_served, ["default"]);
    assert_eq!(found.protocol_version, 1);
    assert_eq!(shown.running.len(), 1);
    assert_eq!(shown.running[0].tenant_id, "default");
    assert_eq!(shown.running[0].attempt, 1);
    assert_eq!(shown.running[0].job_id, assignment.job.unwrap().job_id);

    // Its connection breaks.
    drop(worker);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let shown = client.get_worker(request).await.unwrap().into_inner();
    let state = shown.worker.unwrap().state();
    assert_eq!(state, v1::WorkerState::Disconnected);
    assert_eq!(shown.running.len(), 1);
    let list = v1::ListWorkersRequest {
        states: vec![v1::WorkerState::Disconnected.into()],
        ..v1::ListWorkersRequest::default()
    };
    let list = client.list_workers(list).await.unwrap().into_inner();
    assert_eq!(list.workers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_about_workers_are_named() {
    let harness = Harness::open().await;
    let mut client = harness.workers();
    let wrong = v1::ListWorkersRequest {
        pool: "a b".to_owned(),
        topic: "x".to_owned(),
        states: vec![0],
        page_size: -1,
        page_token: String::new(),
    };
    let refused = client.list_workers(wrong).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["pool", "topic", "states[0]", "page_size"]
    );
    let foreign = v1::ListWorkersRequest {
        page_token: "junk".to_owned(),
        ..v1::ListWorkersRequest::default()
    };
    let refused = client.list_workers(foreign).await.unwrap_err();
    assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID");
    let pools = v1::ListPoolsRequest {
        page_size: -1,
        page_token: "x".repeat(2_000),
    };
    let refused = client.list_pools(pools).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_size", "page_token"]);
    let nameless = v1::GetWorkerRequest::default();
    let refused = client.get_worker(nameless).await.unwrap_err();
    assert_eq!(fields(&refused), ["worker_id"]);
    let drain = v1::DrainWorkerRequest::default();
    let refused = client.drain_worker(drain).await.unwrap_err();
    assert_eq!(fields(&refused), ["worker_id"]);
    let unknown = v1::GetWorkerRequest {
        worker_id: "nope".to_owned(),
    };
    let refused = client.get_worker(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(reason(&refused), "WORKER_NOT_FOUND");
}
