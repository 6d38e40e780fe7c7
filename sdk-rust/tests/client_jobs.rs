//! Lists, waits and watches: the calls that go on for longer than one RPC.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use coretex::proto::watch_jobs_request::Target;
use coretex::proto::{
    JobEvent, JobFilter, ListJobsRequest, ListJobsResponse, SubmitJobResponse, WaitJobResponse,
    WatchJobsRequest, WatchJobsResponse,
};
use coretex::{Code, Error, Job, JobExt, JobState};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use support::{FakeServer, soon};
use tokio::time::{Instant, sleep};
use tonic::Status;

const SECOND: Duration = Duration::from_secs(1);

fn job(job_id: &str, state: JobState) -> Job {
    Job {
        job_id: job_id.into(),
        state: state.into(),
        ..Job::default()
    }
}

/// Three pages, the second of them empty.
fn script_pages(server: &FakeServer) -> Arc<Mutex<Vec<ListJobsRequest>>> {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    server.fake.list.set(move |request| {
        let request = request.into_inner();
        kept.lock().push(request.clone());
        let (jobs, next) = match request.page_token.as_str() {
            "" => (vec!["a", "b"], "2"),
            "2" => (vec![], "3"),
            "3" => (vec!["c"], ""),
            _ => return futures::future::err(Status::invalid_argument("page token")),
        };
        let jobs = jobs.iter().map(|id| job(id, JobState::Pending)).collect();
        futures::future::ok(ListJobsResponse {
            jobs,
            next_page_token: next.into(),
            ..ListJobsResponse::default()
        })
    });
    requests
}

#[tokio::test(start_paused = true)]
async fn all_pages_are_read_but_no_more_than_are_asked_for() {
    let server = FakeServer::start();
    let requests = script_pages(&server);
    let client = server.client();
    let filter = Some(JobFilter {
        topics: vec!["job.x".into()],
        ..JobFilter::default()
    });
    let request = ListJobsRequest {
        filter: filter.clone(),
        page_size: 2,
        ..ListJobsRequest::default()
    };
    let jobs: Vec<Job> = client
        .all_jobs(request.clone())
        .try_collect()
        .await
        .unwrap();
    let ids: Vec<&str> = jobs.iter().map(|job| job.job_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    {
        let requests = requests.lock();
        assert_eq!(requests.len(), 3);
        assert!(
            requests
                .iter()
                .all(|sent| sent.filter == filter && sent.page_size == 2)
        );
    }
    let first = client.all_jobs(request.clone()).take(1).await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(requests.lock().len(), 4, "only the first page was read");
    let rest = ListJobsRequest {
        page_token: "3".into(),
        ..request
    };
    assert_eq!(client.all_jobs(rest).count().await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_list() {
    let server = FakeServer::start();
    let _requests = script_pages(&server);
    let mut jobs = server.client().all_jobs(ListJobsRequest {
        page_token: "foreign".into(),
        ..ListJobsRequest::default()
    });
    let error = jobs.next().await.unwrap().err().unwrap();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(jobs.next().await.is_none());
}

/// A job that ends `after` the start of the script; the server waits as it should.
fn script_waits(server: &FakeServer, after: Duration) -> Arc<Mutex<Vec<Duration>>> {
    let end = Instant::now() + after;
    let timeouts = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&timeouts);
    server.fake.wait.set(move |request| {
        let timeout = coretex::proto_time::duration_to_std(&request.into_inner().timeout.unwrap());
        let timeout = timeout.unwrap();
        kept.lock().push(timeout);
        async move {
            sleep(timeout.min(end.saturating_duration_since(Instant::now()))).await;
            let ended = Instant::now() >= end;
            let state = if ended {
                JobState::Succeeded
            } else {
                JobState::Running
            };
            Ok(WaitJobResponse {
                job: Some(job("a", state)),
            })
        }
    });
    timeouts
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_made_of_several_and_ends_with_the_job() {
    let server = FakeServer::start();
    let timeouts = script_waits(&server, 150 * SECOND);
    let begin = Instant::now();
    let ended = server.client().wait_ended("a", None).await.unwrap();
    assert!(ended.ended());
    assert!(begin.elapsed() < 152 * SECOND);
    assert_eq!(timeouts.lock()[..], [60 * SECOND; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_with_a_limit_returns_the_job_as_it_stands() {
    let server = FakeServer::start();
    let _timeouts = script_waits(&server, 1_000 * SECOND);
    let begin = Instant::now();
    let client = server.client();
    let open = client.wait_ended("a", Some(90 * SECOND)).await.unwrap();
    assert_eq!(open.state(), JobState::Running);
    assert!(begin.elapsed() >= 90 * SECOND && begin.elapsed() < 92 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_wait_survives_a_restart_but_not_an_endless_outage() {
    let server = Arc::new(FakeServer::start());
    let _timeouts = script_waits(&server, 100 * SECOND);
    let client = server.client();
    let restart = async {
        sleep(30 * SECOND).await;
        server.refuse(true);
        server.cut();
        sleep(20 * SECOND).await;
        server.refuse(false);
    };
    let (ended, ()) = tokio::join!(client.wait_ended("a", None), restart);
    assert!(ended.unwrap().ended());

    server.refuse(true);
    server.cut();
    let begin = Instant::now();
    let error = client.wait_ended("a", None).await.err().unwrap();
    assert!(error.is_unreachable());
    assert!(begin.elapsed() >= 60 * SECOND && begin.elapsed() < 90 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_job_that_is_not_there_fails_at_once() {
    let server = FakeServer::start();
    server
        .fake
        .wait
        .set(|_| async { Err(Status::not_found("no such job")) });
    let begin = Instant::now();
    let error = server.client().wait_ended("a", None).await.err().unwrap();
    assert_eq!(error.code(), Code::NotFound);
    assert!(begin.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn submit_waits_on_the_submission_and_goes_on_with_waits() {
    let server = FakeServer::start();
    let waits = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&waits);
    server.fake.submit.set(move |request| {
        let wait = request.into_inner().wait.map(|wait| wait.seconds);
        kept.lock().push(wait);
        async move {
            let wait = u64::try_from(wait.unwrap_or_default()).unwrap();
            sleep(Duration::from_secs(wait)).await;
            Ok(SubmitJobResponse {
                job: Some(job("a", JobState::Running)),
                replayed: false,
            })
        }
    });
    let timeouts = script_waits(&server, 200 * SECOND);
    let client = server.client();
    // Longer than a server waits, and longer than the client's usual deadline.
    let submit = client.submit("job.x", ()).wait(100 * SECOND);
    let open = submit.send().await.unwrap().job.unwrap();
    assert!(!open.ended());
    assert_eq!(timeouts.lock()[..], [40 * SECOND]);
    let ended = client.submit("job.x", ()).result().await.unwrap();
    assert!(ended.succeeded());
    client.submit("job.x", ()).send().await.unwrap();
    assert_eq!(waits.lock()[..], [Some(60), Some(60), None]);
}

fn told(number: i32, state: JobState) -> Result<WatchJobsResponse, Status> {
    Ok(WatchJobsResponse {
        event: Some(JobEvent {
            sequence: number,
            ..JobEvent::default()
        }),
        job: Some(job("a", state)),
        resume_token: format!("after-{number}"),
        checkpoint: false,
    })
}

fn sequence(message: Option<Result<WatchJobsResponse, Error>>) -> i32 {
    message.unwrap().unwrap().event.unwrap().sequence
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_after_every_kind_of_cut() {
    let mut server = FakeServer::start();
    let mut watch = server.client().watch(WatchJobsRequest::default());
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(sequence(watch.next().await));
        }
        seen
    });
    let source = server.watch().await;
    assert_eq!(source.request.resume_token, "");
    source.send.send(told(1, JobState::Pending)).await.unwrap();
    // Ended in good order.
    drop(source);
    let source = server.watch().await;
    assert_eq!(source.request.resume_token, "after-1");
    source.send.send(told(2, JobState::Running)).await.unwrap();
    source
        .send
        .send(Err(Status::resource_exhausted("too slow")))
        .await
        .unwrap();
    let source = server.watch().await;
    assert_eq!(source.request.resume_token, "after-2");
    source
        .send
        .send(told(3, JobState::Succeeded))
        .await
        .unwrap();
    source
        .send
        .send(Err(Status::unavailable("draining")))
        .await
        .unwrap();
    let source = server.watch().await;
    assert_eq!(
        source.request.resume_token, "after-3",
        "other jobs may follow"
    );
    source.send.send(told(4, JobState::Pending)).await.unwrap();
    sleep(SECOND).await;
    server.cut();
    let source = server.watch().await;
    assert_eq!(source.request.resume_token, "after-4");
    source.send.send(told(5, JobState::Pending)).await.unwrap();
    let seen = soon("the fifth event", reading).await.unwrap();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn the_watch_on_one_job_ends_with_it() {
    let mut server = FakeServer::start();
    let mut watch = server.client().watch(WatchJobsRequest {
        target: Some(Target::JobId("a".into())),
        ..WatchJobsRequest::default()
    });
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(message) = watch.next().await {
            seen.push(sequence(Some(message)));
        }
        seen
    });
    let source = server.watch().await;
    source.send.send(told(1, JobState::Running)).await.unwrap();
    // Not over: the job had not ended.
    drop(source);
    let source = server.watch().await;
    assert_eq!(source.request.target, Some(Target::JobId("a".into())));
    source.send.send(told(2, JobState::Failed)).await.unwrap();
    drop(source);
    let seen = soon("the end of the watch", reading).await.unwrap();
    assert_eq!(seen, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_past_is_gone_ends_with_the_error() {
    let mut server = FakeServer::start();
    let mut watch = server.client().watch(WatchJobsRequest {
        resume_token: "old".into(),
        ..WatchJobsRequest::default()
    });
    let refuse = async {
        let source = server.watch().await;
        let refusal = Status::out_of_range("trimmed");
        source.send.send(Err(refusal)).await.unwrap();
    };
    let (message, ()) = tokio::join!(watch.next(), refuse);
    assert_eq!(message.unwrap().err().unwrap().code(), Code::OutOfRange);
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_gives_up_after_a_long_outage() {
    let server = FakeServer::start();
    server.refuse(true);
    let client = server
        .builder()
        .outage_tolerance(10 * SECOND)
        .build()
        .unwrap();
    let begin = Instant::now();
    let mut watch = client.watch(WatchJobsRequest::default());
    let error = watch.next().await.unwrap().err().unwrap();
    assert!(error.is_unreachable());
    assert!(begin.elapsed() >= 10 * SECOND && begin.elapsed() < 20 * SECOND);
}
