//! Several replicas on one store: they share the work, hear of each other's changes also when no
//! message arrives, and one that was taken for dead does no harm. How they share a queue is in
//! [`picks`].

mod picks;

use std::sync::Arc;
use std::time::Duration;

use coretex_core::job::JobState;
use coretex_engine::{Engine, Error, FromWorker, PageRequest, SessionEnd, ToWorker};
use tokio::time::Instant;

use crate::support::{
    ADMIN, Bench, Setup, Tap, Worker, again, hello, id, millis, named, pass, request, secs,
    succeeded,
};

/// Two replicas; with `deaf`, no message of one reaches the other.
pub(super) async fn two(deaf: bool) -> (Bench, Engine, Arc<Tap>) {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, tap) = if deaf {
        bench.apart().await.unwrap()
    } else {
        bench.another().await.unwrap()
    };
    // Until everybody has seen the store answer for one lease.
    pass(secs(20)).await;
    (bench, other, tap)
}

/// Keeps a worker alive for a while, and takes the next message if one comes. Also `None` when its
/// session has ended.
pub(super) async fn told(worker: &mut Worker, within: Duration) -> Option<ToWorker> {
    let end = Instant::now() + within;
    while Instant::now() < end {
        let beat = FromWorker::Heartbeat {
            active_jobs: 0,
            cpu_load: 0.0,
            gpu_utilization: 0.0,
        };
        if worker.session.receive(beat).await.is_err() {
            return None;
        }
        if let Some(message) = worker.next_within(millis(500)).await {
            return Some(message);
        }
    }
    None
}

fn all() -> PageRequest {
    PageRequest {
        size: 100,
        token: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_submitted_here_run_there_and_waited_for_anywhere() {
    for (deaf, patience) in [(false, millis(50)), (true, millis(1_100))] {
        let (bench, other, _tap) = two(deaf).await;
        let mut worker = Worker::connect(&other, hello("w", &["job.a"], 1)).await;
        pass(secs(1)).await;
        let id = bench.job_of(request("job.a")).await;
        let submitted = Instant::now();
        let attempt = worker.assignment().await;
        assert!(submitted.elapsed() <= patience, "{:?}", submitted.elapsed());
        let waiting = {
            let (engine, id) = (bench.engine.clone(), id.clone());
            tokio::spawn(async move { engine.wait_job(&ADMIN, &id, secs(20), true).await })
        };
        pass(millis(10)).await;
        let ended = Instant::now();
        assert!(worker.succeed(&attempt).await);
        let job = waiting.await.unwrap().unwrap().job;
        assert_eq!(job.state, JobState::Succeeded);
        assert!(ended.elapsed() <= patience, "{:?}", ended.elapsed());
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_worker_of_another_replica_also_when_messages_are_lost() {
    for (deaf, patience) in [(false, millis(600)), (true, secs(7))] {
        let (bench, other, _tap) = two(deaf).await;
        let mut worker = Worker::connect(&other, hello("w", &["job.a"], 1)).await;
        pass(secs(1)).await;
        for force in [false, true] {
            let id = bench.job_of(request("job.a")).await;
            let attempt = worker.assignment().await;
            let cancel = bench
                .engine
                .cancel_job(&ADMIN, &id, "enough".to_owned(), None, force);
            cancel.await.unwrap();
            match told(&mut worker, patience).await {
                Some(ToWorker::Cancel {
                    attempt: stopped,
                    reason,
                    ..
                }) if !force => assert_eq!((stopped, reason.as_str()), (attempt.clone(), "enough")),
                Some(ToWorker::Revoke {
                    attempt: stopped, ..
                }) if force => {
                    assert_eq!(stopped, attempt);
                }
                other => panic!("{other:?}"),
            }
            // Once is enough.
            assert!(told(&mut worker, secs(12)).await.is_none());
            let outcome = coretex_core::job::transition::Outcome::Cancelled;
            worker.finish(&attempt, outcome).await;
            worker.ack().await;
            assert_eq!(bench.state(&id).await, JobState::Cancelled);
        }
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_another_replica_has_freed_is_free() {
    let (bench, other, _tap) = two(true).await;
    let mut worker = Worker::connect(&other, hello("w", &["job.a"], 1)).await;
    pass(secs(1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    // The worker comes back at the first replica while the other has not noticed that it has left.
    let mut moved = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(moved.session.welcome.kept, std::slice::from_ref(&attempt));
    // The other learns from the store that its session is over.
    let mut ended = false;
    for _ in 0..12 {
        moved.beat().await;
        if worker.is_closed(millis(900)).await {
            ended = true;
            break;
        }
    }
    assert!(ended);
    assert_eq!(worker.session.why_ended(), Some(SessionEnd::Superseded));
    moved.beat_for(secs(30)).await;
    assert!(moved.succeed(&attempt).await);
    let job = bench.job(&id).await;
    assert_eq!((job.attempt, job.redispatches), (1, 0));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn workers_of_other_replicas_are_listed_and_drained() {
    let (bench, other, _tap) = two(false).await;
    let mut worker = Worker::connect(&other, hello("w", &["job.a"], 2)).await;
    assert!(told(&mut worker, secs(11)).await.is_none());
    let list = || async { bench.engine.list_workers(&ADMIN, all()).await.unwrap().0 };
    let listed = list().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].worker_id.as_str(), listed[0].max_parallel_jobs),
        ("w", 2)
    );
    let pools = bench.engine.list_pools(&ADMIN, all()).await.unwrap().0;
    assert_eq!((pools.len(), pools[0].capacity), (1, 2));

    let name = listed[0].worker_id.clone();
    let drained = bench.engine.drain_worker(&ADMIN, &name, false).await;
    assert!(drained.unwrap().draining);
    pass(millis(10)).await;
    let id = bench.job_of(request("job.a")).await;
    assert!(told(&mut worker, secs(3)).await.is_none());
    pass(secs(6)).await;
    assert_eq!(bench.cause(&id).await, "workers_draining");
    // Also one that comes back, and to another replica.
    worker.cut().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    assert!(told(&mut worker, secs(3)).await.is_none());
    other.drain_worker(&ADMIN, &name, true).await.unwrap();
    assert_eq!(worker.assignment().await.job_id, id);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_said_to_lack_workers_that_another_replica_has() {
    let (bench, other, _tap) = two(true).await;
    let mut busy = Worker::connect(&other, hello("w", &["job.a"], 1)).await;
    assert!(told(&mut busy, secs(1)).await.is_none());
    let first = bench.job_of(request("job.a")).await;
    assert_eq!(busy.assignment().await.job_id, first);
    let second = bench.job_of(request("job.a")).await;
    assert!(told(&mut busy, secs(11)).await.is_none());
    assert_eq!(bench.cause(&second).await, "all_workers_busy");
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &second).await.unwrap();
    assert_eq!(diagnosis.pools[0].workers.len(), 1);
    // One that is gone without a word is forgotten.
    drop(busy);
    other.drain(Duration::ZERO).await;
    pass(secs(40)).await;
    assert_eq!(bench.cause(&second).await, "no_workers");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_taken_for_dead_goes_on_under_a_new_name_and_does_no_harm() {
    let (bench, other, tap) = two(false).await;
    let mut worker = Worker::connect(&other, hello("w", &["job.a"], 2)).await;
    assert!(told(&mut worker, secs(1)).await.is_none());
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    let status = other.status(&ADMIN).await.unwrap();
    let name = status.replica_id.clone();

    // It is away from the store for longer than its lease, and its worker stays with it.
    tap.take_away();
    worker.finish(&attempt, succeeded()).await;
    assert!(told(&mut worker, secs(25)).await.is_none());
    // Somebody else runs the job before it is back.
    let mut second = bench.connect(hello("x", &["job.a"], 1)).await;
    let next = match told(&mut second, secs(40)).await {
        Some(ToWorker::Assignment { attempt, .. }) => attempt,
        other => panic!("{other:?}"),
    };
    assert_eq!((next.job_id.clone(), next.attempt), (id.clone(), 2));

    tap.bring_back();
    assert!(worker.is_closed(secs(5)).await);
    assert_eq!(worker.session.why_ended(), Some(SessionEnd::Fenced));
    let status = other.status(&ADMIN).await.unwrap();
    assert_ne!(status.replica_id, name);
    // What the worker had done counts for nothing, and is said to be late.
    let job = bench.job(&id).await;
    assert!(job.holds(next.lease_id), "{:?}", job.events);
    assert!(
        job.attempts
            .iter()
            .any(|one| one.attempt == 1 && one.late_result)
    );
    assert!(second.succeed(&next).await);
    assert_eq!(bench.state(&id).await, JobState::Succeeded);

    // Under its new name it works as before, and nothing stands under the old one.
    let mut worker = Worker::connect(&other, again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.revoked, [attempt]);
    drop(second);
    pass(secs(1)).await;
    let third = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, third);
    assert!(worker.succeed(&attempt).await);
    assert!(told(&mut worker, secs(20)).await.is_none());
    let audit = bench.audit().await;
    assert!(audit.held.is_empty(), "{:?}", audit.held);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_not_sure_of_its_lease_takes_no_work() {
    let (bench, other, tap) = two(false).await;
    let mut worker = Worker::connect(&other, hello("w", &["job.a"], 2)).await;
    // Everything else works: it could claim, and hand out what is submitted to it.
    tap.take_leases_away();
    assert!(told(&mut worker, secs(20)).await.is_none());
    let refused = other.open_session(&ADMIN, hello("y", &["job.a"], 1)).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    let first = bench.job_of(request("job.a")).await;
    let second = other.submit_job(&ADMIN, request("job.a")).await.unwrap();
    assert!(told(&mut worker, secs(5)).await.is_none());
    assert_eq!(bench.state(&first).await, JobState::Pending);
    assert_eq!(second.answer.job.state, JobState::Pending);
    tap.bring_back();
    // Whatever the others have made of it, both jobs are run, and once.
    let mut ran = Vec::new();
    while ran.len() < 2 {
        match told(&mut worker, secs(3)).await {
            Some(ToWorker::Assignment { attempt, .. }) => {
                assert_eq!(attempt.attempt, 1);
                worker.finish(&attempt, succeeded()).await;
                ran.push(attempt.job_id);
            }
            Some(ToWorker::ResultAck { applied, .. }) => assert!(applied),
            Some(other) => panic!("{other:?}"),
            None => worker = Worker::connect(&other, hello("w", &["job.a"], 2)).await,
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_store_went_back_workers_keep_what_it_still_knows() {
    let (bench, other, tap) = two(true).await;
    let mut worker = Worker::connect(&other, hello("w", &["job.a"], 3)).await;
    assert!(told(&mut worker, secs(1)).await.is_none());
    let mut attempts = Vec::new();
    for name in ["done", "started", "stopped"] {
        bench.submit(named("job.a", name)).await;
        match told(&mut worker, secs(3)).await {
            Some(ToWorker::Assignment { attempt, .. }) => attempts.push(attempt),
            other => panic!("{other:?}"),
        }
    }
    let [done, started, stopped] = attempts.try_into().unwrap();
    tap.rewind();
    bench.tap.rewind();
    assert!(told(&mut worker, secs(2)).await.is_none());
    // What workers say after it is heard and written.
    worker.started(&started).await;
    assert!(told(&mut worker, secs(3)).await.is_none());
    assert_eq!(bench.state(&started.job_id).await, JobState::Running);
    assert!(told(&mut worker, secs(60)).await.is_none());
    assert!(worker.succeed(&done).await);
    // And what others decide reaches them, although no message does.
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &stopped.job_id, String::new(), None, true);
    cancel.await.unwrap();
    match told(&mut worker, secs(7)).await {
        Some(ToWorker::Revoke { attempt, .. }) => assert_eq!(attempt, stopped),
        other => panic!("{other:?}"),
    }
    let outcome = coretex_core::job::transition::Outcome::Cancelled;
    worker.finish(&stopped, outcome).await;
    worker.ack().await;
    assert!(worker.succeed(&started).await);
    for (name, state) in [
        ("done", JobState::Succeeded),
        ("started", JobState::Succeeded),
        ("stopped", JobState::Cancelled),
    ] {
        let job = bench.job(&id(name)).await;
        assert_eq!((job.state, job.attempt), (state, 1), "{name}");
    }
    let next = bench.job_of(request("job.a")).await;
    match told(&mut worker, secs(3)).await {
        Some(ToWorker::Assignment { attempt, .. }) => {
            assert_eq!(attempt.job_id, next);
            assert!(worker.succeed(&attempt).await);
        }
        other => panic!("{other:?}"),
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn timers_go_on_when_the_owner_of_the_shard_is_gone() {
    for orderly in [true, false] {
        let (bench, other, _tap) = two(false).await;
        // The first one owns the shard.
        let mut job = named("job.a", "later");
        let start = bench.now() + secs(5);
        job.spec.not_before = Some(start);
        other.submit_job(&ADMIN, job).await.unwrap();
        if orderly {
            bench.engine.drain(secs(1)).await;
        } else {
            bench.tap.kill();
        }
        let mut worker = Worker::connect(&other, hello("w", &["job.a"], 1)).await;
        match told(&mut worker, secs(8)).await {
            Some(ToWorker::Assignment { .. }) => {}
            other => panic!("orderly {orderly}: {other:?}"),
        }
        let late = bench.now().since(start);
        assert!(late < secs(3), "orderly {orderly}: {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_taken_for_dead_because_the_clock_of_the_store_is_set() {
    let (bench, other, _tap) = two(false).await;
    let mut here = bench.connect(hello("here", &["job.a"], 1)).await;
    let mut there = Worker::connect(&other, hello("there", &["job.b"], 1)).await;
    bench.job_of(request("job.a")).await;
    bench.job_of(request("job.b")).await;
    let (mine, theirs) = (here.assignment().await, there.assignment().await);
    // Forward by more than a lease, back by an hour, and forward again.
    for set in [40, -3_600, 3_600, 40] {
        bench.clock.set(set);
        for _ in 0..25 {
            assert!(told(&mut here, secs(1)).await.is_none());
            assert!(told(&mut there, secs(1)).await.is_none());
        }
        assert_eq!(here.session.why_ended(), None);
        assert_eq!(there.session.why_ended(), None);
    }
    for (worker, attempt) in [(&mut here, &mine), (&mut there, &theirs)] {
        assert!(worker.succeed(attempt).await);
        let job = bench.job(&attempt.job_id).await;
        assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
    }
    bench.audit().await;
}
