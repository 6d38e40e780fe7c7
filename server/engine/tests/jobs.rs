//! The life of a job through the engine, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use coretex_core::job::JobState;
use support::{Worker, engine, hello, request, state, submit};

#[tokio::test(start_paused = true)]
async fn a_waiting_job_starts_when_a_worker_comes() {
    let engine = engine().await;
    let job = submit(&engine, request("job.wc")).await;
    assert_eq!(job.answer.job.state, JobState::Pending);
    assert_eq!(job.answer.waiting_reason, "no_workers");
    let mut worker = Worker::connect(&engine, hello("w1", &["job.wc"], 1)).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, job.answer.job.id);
    assert!(worker.succeed(&attempt).await);
    assert_eq!(state(&engine, &job).await, JobState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_gets_a_new_job_in_its_first_commit() {
    let engine = engine().await;
    let mut worker = Worker::connect(&engine, hello("w1", &["job.wc"], 1)).await;
    // The queue has to be known as empty first.
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    let job = submit(&engine, request("job.wc")).await;
    assert_eq!(job.answer.job.state, JobState::Dispatched);
    assert_eq!(job.answer.version, 1);
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(state(&engine, &job).await, JobState::Succeeded);
}
