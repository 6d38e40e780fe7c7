//! How many jobs a worker gets: never more than its slots, however they change, and none while it is
//! drained.

use coretex_core::id::WorkerId;
use coretex_core::job::JobState;
use coretex_engine::{FromWorker, Role, ToWorker};

use crate::support::{Bench, caller, hello, millis, named, pass, request, secs};

#[tokio::test(start_paused = true)]
async fn a_drained_worker_gets_nothing_until_it_is_undrained() {
    let bench = Bench::new().await;
    let admin = crate::support::admin();
    let name = WorkerId::parse("w").unwrap();
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let stranger = caller("other", "key:o", &[Role::Admin]);
    assert!(
        bench
            .engine
            .drain_worker(&stranger, &name, false)
            .await
            .is_err()
    );
    let drained = bench
        .engine
        .drain_worker(&admin, &name, false)
        .await
        .unwrap();
    assert!(drained.draining);
    let job = bench.job_of(request("job.a")).await;
    worker.quiet(secs(3)).await;
    // Also after it reconnects.
    worker.cut().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    worker.quiet(secs(3)).await;
    assert_eq!(bench.state(&job).await, JobState::Pending);
    bench
        .engine
        .drain_worker(&admin, &name, true)
        .await
        .unwrap();
    let attempt = worker.assignment().await;
    // What runs goes on.
    bench
        .engine
        .drain_worker(&admin, &name, false)
        .await
        .unwrap();
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&job).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_it_leaves_gets_nothing_more() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let first = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    worker.say(FromWorker::Drain).await;
    let second = bench.job_of(request("job.a")).await;
    worker.quiet(secs(3)).await;
    assert!(worker.succeed(&attempt).await);
    worker.quiet(secs(3)).await;
    assert_eq!(bench.state(&first).await, JobState::Succeeded);
    assert_eq!(bench.state(&second).await, JobState::Pending);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn capacity_can_grow_and_shrink() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    for _ in 0..6 {
        bench.submit(request("job.a")).await;
    }
    let first = worker.assignment().await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 3,
        })
        .await;
    let more = worker.assignments(2).await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 1,
        })
        .await;
    assert!(worker.succeed(&first).await);
    assert!(worker.succeed(&more[0]).await);
    worker.quiet(secs(2)).await;
    assert!(worker.succeed(&more[1]).await);
    let last = worker.assignment().await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 0,
        })
        .await;
    assert!(worker.succeed(&last).await);
    worker.quiet(secs(2)).await;
    let too_many = FromWorker::Capacity {
        max_parallel_jobs: u32::MAX,
    };
    assert!(worker.session.receive(too_many).await.is_err());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_grows_a_thousandfold_is_filled_and_not_cut() {
    let bench = Bench::new().await;
    for _ in 0..1_000 {
        bench.submit(request("job.a")).await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 1_000,
        })
        .await;
    pass(millis(100)).await;
    let attempts = worker.assignments(1_000).await;
    for attempt in &attempts {
        worker.finish(attempt, crate::support::succeeded()).await;
    }
    for _ in &attempts {
        assert!(worker.ack().await);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn never_more_than_its_slots_are_out_to_a_worker() {
    let bench = Bench::new().await;
    bench.faulty.rates(coretex_store::layers::FaultRates {
        delay: 0.5,
        longest_delay: millis(300),
        ..coretex_store::layers::FaultRates::default()
    });
    let mut worker = bench.connect(hello("w", &["job.a"], 3)).await;
    let admin = crate::support::admin();
    let submits = (0..40).map(|number| {
        let job = named("job.a", &format!("j{number}"));
        bench.engine.submit_job(&admin, job)
    });
    let work = async {
        let mut out: Vec<coretex_engine::AttemptRef> = Vec::new();
        let mut done = 0;
        while done < 40 {
            match worker.next().await {
                ToWorker::Assignment { attempt, .. } => {
                    out.push(attempt);
                    assert!(out.len() <= 3);
                }
                ToWorker::ResultAck { attempt, applied } => {
                    assert!(applied);
                    done += 1;
                    assert!(!out.contains(&attempt));
                }
                other => panic!("{other:?}"),
            }
            if out.len() == 3 || (done + out.len() == 40 && !out.is_empty()) {
                // The slot is free for the server before the worker knows.
                let attempt = out.remove(0);
                worker.finish(&attempt, crate::support::succeeded()).await;
            }
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(submits), work);
    assert!(answers.iter().all(Result::is_ok));
    bench.audit().await;
}
