//! The life of a job, and what it costs.

use coretex_core::job::JobState;

use crate::support::{Bench, hello, millis, pass, request, secs};

#[tokio::test(start_paused = true)]
async fn a_waiting_job_starts_when_a_worker_comes() {
    let bench = Bench::new().await;
    let job = bench.submit(request("job.wc")).await;
    assert_eq!(job.answer.job.state, JobState::Pending);
    assert_eq!(job.answer.waiting_reason, "no_workers");
    let mut worker = bench.connect(hello("w1", &["job.wc"], 1)).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, job.answer.job.id);
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_gets_a_new_job_in_its_first_commit() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w1", &["job.wc"], 1)).await;
    // The queue has to be known as empty first.
    pass(secs(1)).await;
    let commits = bench.tap.commits();
    let job = bench.submit(request("job.wc")).await;
    assert_eq!(job.answer.job.state, JobState::Dispatched);
    assert_eq!(bench.tap.commits() - commits, 1);
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_short_job_costs_two_commits_and_no_read() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w1", &["job.wc"], 1)).await;
    pass(secs(1) + millis(50)).await;
    let (commits, reads) = (bench.tap.commits(), bench.tap.reads());
    bench.submit(request("job.wc")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.tap.commits() - commits, 2);
    assert_eq!(bench.tap.reads() - reads, 0);
    let job = bench.job(&attempt.job_id).await;
    assert!(job.start_time.is_some(), "the start is in the last commit");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn running_is_written_for_long_jobs_and_progress_once_a_second() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w1", &["job.wc"], 1)).await;
    let id = bench.job_of(request("job.wc")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    assert_eq!(bench.state(&id).await, JobState::Dispatched);
    pass(millis(600)).await;
    assert_eq!(bench.state(&id).await, JobState::Running);
    let before = bench.tap.commits();
    for percent in 0..100 {
        worker
            .say(coretex_engine::FromWorker::Progress {
                attempt: attempt.clone(),
                percent,
                message: String::new(),
            })
            .await;
        pass(millis(100)).await;
    }
    let commits = bench.tap.commits() - before;
    assert!(
        (9..=12).contains(&commits),
        "{commits} commits in ten seconds"
    );
    pass(secs(2)).await;
    let job = bench.job(&id).await;
    assert_eq!(job.progress.as_ref().map(|one| one.percent), Some(99));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn starts_and_progress_survive_a_store_that_was_away() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w1", &["job.wc"], 1)).await;
    let id = bench.job_of(request("job.wc")).await;
    let attempt = worker.assignment().await;
    bench.faulty.take_down();
    worker.started(&attempt).await;
    pass(secs(2)).await;
    worker
        .say(coretex_engine::FromWorker::Progress {
            attempt: attempt.clone(),
            percent: 40,
            message: "on the way".to_owned(),
        })
        .await;
    pass(secs(2)).await;
    bench.faulty.restore();
    pass(secs(3)).await;
    let job = bench.job(&id).await;
    assert_eq!(job.state, JobState::Running);
    assert_eq!(job.progress.as_ref().map(|one| one.percent), Some(40));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}
