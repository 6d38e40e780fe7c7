//! Several replicas that serve one queue: they seldom want the same job, pass no class of priority,
//! and leave no job behind.

use coretex_core::id::JobId;
use coretex_core::job::{JobState, Priority};
use coretex_engine::{Engine, FromWorker, Hello, Role, ToWorker};

use super::{told, two};
use crate::support::{
    ADMIN, Worker, caller, hello, id, millis, named, pass, request, secs, serving, succeeded,
};

#[tokio::test(start_paused = true)]
async fn what_a_pick_passes_over_is_served_when_nothing_else_fits() {
    let (bench, other, _tap) = two(true).await;
    // One free slot for one topic here, and many that are busy for another.
    let mut many = Worker::connect(&other, hello("many", &["job.b"], 60)).await;
    for _ in 0..60 {
        other.submit_job(&ADMIN, request("job.b")).await.unwrap();
    }
    let mut busy = Vec::new();
    while busy.len() < 60 {
        match told(&mut many, secs(3)).await {
            Some(ToWorker::Assignment { attempt, .. }) => busy.push(attempt),
            other => panic!("{other:?}"),
        }
    }
    let mut one = Worker::connect(&other, hello("one", &["job.a"], 1)).await;
    for round in 0..20 {
        let oldest = named("job.a", &format!("a-{round}"));
        let first = other.submit_job(&ADMIN, oldest).await.unwrap();
        for _ in 0..5 {
            bench.submit(request("job.b")).await;
        }
        many.beat().await;
        match told(&mut one, millis(1_100)).await {
            Some(ToWorker::Assignment { attempt, .. }) => {
                assert_eq!(attempt.job_id, first.answer.job.id);
                // The next waits until this one has ended.
                let next = named("job.a", &format!("next-{round}"));
                other.submit_job(&ADMIN, next).await.unwrap();
                many.beat().await;
                assert!(one.succeed(&attempt).await);
            }
            other => panic!("round {round}: {other:?}"),
        }
        match told(&mut one, millis(1_100)).await {
            Some(ToWorker::Assignment { attempt, .. }) => assert!(one.succeed(&attempt).await),
            other => panic!("round {round}: {other:?}"),
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_pick_passes_no_class_and_forgets_no_tenant() {
    let (bench, other, _tap) = two(true).await;
    let mut should = Vec::new();
    for number in 0..40 {
        // A tenant with one job of the best class, ahead of another with many.
        let (tenant, class) = match number {
            0 => ("beta", Priority::Critical),
            1..20 => ("acme", Priority::Critical),
            _ => ("acme", Priority::Batch),
        };
        let mut job = named("job.a", &format!("j-{number}"));
        job.spec.priority = class;
        let caller = caller(tenant, "key:x", &[Role::Admin]);
        bench.engine.submit_job(&caller, job).await.unwrap();
        should.push(class);
        pass(millis(1)).await;
    }
    let fleet = serving(&["acme", "beta"]);
    let mut worker = Worker::connect_as(&other, &fleet, hello("w", &["job.a"], 4)).await;
    let (mut seen, mut served) = (Vec::new(), Vec::new());
    while seen.len() < 40 {
        match told(&mut worker, secs(2)).await {
            Some(ToWorker::Assignment { attempt, job, .. }) => {
                seen.push(job.spec.priority);
                served.push(attempt.tenant.to_string());
                worker.finish(&attempt, succeeded()).await;
            }
            Some(ToWorker::ResultAck { applied, .. }) => assert!(applied),
            other => panic!("after {}: {other:?}", seen.len()),
        }
    }
    assert_eq!(seen, should);
    // Four slots and two replicas: its only job is among the first few and not the last.
    let place = served.iter().position(|tenant| tenant == "beta").unwrap();
    assert!(place < 20, "{place}");
}

/// A worker that answers at once, until its session ends.
fn diligent(engine: &Engine, hello: Hello) -> tokio::task::JoinHandle<usize> {
    let engine = engine.clone();
    tokio::spawn(async move {
        let mut worker = Worker::connect(&engine, hello).await;
        let mut done = 0;
        while let Some(message) = worker.next_within(secs(25)).await {
            if let ToWorker::Assignment { attempt, .. } = message {
                // Work takes a while, and never the same.
                pass(millis(3 + done % 5)).await;
                let result = FromWorker::Result {
                    attempt,
                    outcome: succeeded(),
                    execution_duration: None,
                    artifact_ids: Vec::new(),
                };
                worker.say(result).await;
                done += 1;
            }
        }
        usize::try_from(done).unwrap()
    })
}

#[tokio::test(start_paused = true)]
async fn replicas_that_drain_one_queue_seldom_want_the_same_job() {
    const JOBS: usize = 600;
    let (bench, other, tap) = two(false).await;
    let (third, third_tap) = bench.another().await.unwrap();
    pass(secs(10)).await;
    for number in 0..JOBS {
        bench.submit(named("job.a", &format!("j-{number}"))).await;
    }
    let taps = [&bench.tap, &tap, &third_tap];
    let before: u64 = taps.iter().map(|tap| tap.commits()).sum();
    let workers: Vec<_> = [&bench.engine, &other, &third]
        .into_iter()
        .enumerate()
        .map(|(number, engine)| diligent(engine, hello(&format!("w{number}"), &["job.a"], 8)))
        .collect();
    for number in 0..JOBS {
        let job: JobId = id(&format!("j-{number}"));
        let ended = bench.ended(&job, secs(60)).await;
        assert_eq!((ended.state, ended.attempt), (JobState::Succeeded, 1));
    }
    let spent: u64 = taps.iter().map(|tap| tap.commits()).sum::<u64>() - before;
    let mut shares = Vec::new();
    for worker in workers {
        shares.push(worker.await.unwrap());
    }
    assert_eq!(shares.iter().sum::<usize>(), JOBS);
    assert!(shares.iter().all(|share| *share > JOBS / 6), "{shares:?}");
    // One claim and one result a job; what is above are claims that were lost.
    let claims = (spent as f64 - JOBS as f64) / JOBS as f64;
    assert!(claims < 1.5, "{claims} claims a job");
    bench.audit().await;
}
