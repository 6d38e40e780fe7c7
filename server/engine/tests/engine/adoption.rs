//! Workers that come back, to this server or another one, and keep their attempts. Who does not come
//! back is in `losses`.

use coretex_core::id::LeaseId;
use coretex_core::job::JobState;
use coretex_core::job::history::EventType;
use coretex_engine::{AttemptRef, ToWorker};

use crate::support::{ADMIN, Bench, Setup, Worker, again, id, millis, pass, secs, with_attempt};

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_keeps_its_attempts() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    for round in 0..20 {
        worker.cut().await;
        pass(secs(14)).await;
        worker = bench.connect(again("w", &[&attempt])).await;
        assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
        pass(millis(300)).await;
        let job = bench.job(&attempt.job_id).await;
        assert_eq!(
            (job.attempt, job.redispatches, job.failures),
            (1, 0, 0),
            "round {round}"
        );
    }
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(job.attempts.iter().len(), 1);
    let adopted = job
        .events
        .iter()
        .filter(|event| event.kind == EventType::Adopted)
        .count();
    assert_eq!(adopted, 20);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_takes_the_attempts_over() {
    let mut bench = Bench::new().await;
    let (_worker, attempt) = with_attempt(&bench).await;
    pass(secs(1)).await;
    bench.crash().await;
    pass(secs(10)).await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
    worker.beat_for(secs(30)).await;
    assert!(worker.inbox.try_recv().is_err());
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(
        (job.state, job.attempt, job.redispatches),
        (JobState::Succeeded, 1, 0)
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_orderly_restart_loses_nothing_either() {
    let mut bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    let engine = bench.engine.clone();
    let drain = tokio::spawn(async move { engine.drain(secs(5)).await });
    assert!(matches!(worker.next().await, ToWorker::Drain { .. }));
    worker.cut().await;
    drain.await.unwrap();
    bench.crash().await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_may_come_on_another_connection_without_a_listing() {
    let mut bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    let mut worker = bench.connect(again("w", &[])).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Succeeded);
    // Also at a server that has started since.
    worker.cut().await;
    let (_worker, attempt) = with_attempt(&bench).await;
    bench.crash().await;
    let mut worker = bench.connect(again("w", &[])).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_exact_leases_are_kept() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    let wrong = AttemptRef {
        lease_id: LeaseId::new(7),
        ..attempt.clone()
    };
    let number = AttemptRef {
        attempt: 9,
        ..attempt.clone()
    };
    let nobody = AttemptRef {
        job_id: id("nobody"),
        ..attempt.clone()
    };
    let listed = [&wrong, &number, &nobody];
    let worker = bench.connect(again("w", &listed)).await;
    assert_eq!(worker.session.welcome.kept, []);
    assert_eq!(worker.session.welcome.revoked.len(), 3);
    worker.cut().await;
    // What was claimed wrongly was not taken from who has it.
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept.len(), 1);
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_while_the_worker_was_away_is_told_when_it_is_back() {
    for restart in [false, true] {
        let mut bench = Bench::new().await;
        let (worker, attempt) = with_attempt(&bench).await;
        pass(secs(1)).await;
        worker.cut().await;
        let reason = "not wanted".to_owned();
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &attempt.job_id, reason, None, false);
        cancel.await.unwrap();
        if restart {
            bench.crash().await;
        }
        pass(secs(5)).await;
        let mut worker = bench.connect(again("w", &[&attempt])).await;
        assert_eq!(worker.session.welcome.kept.len(), 1);
        let ToWorker::Cancel {
            attempt: which,
            reason,
            grace,
        } = worker.next().await
        else {
            panic!("not told");
        };
        assert_eq!((&which, reason.as_str()), (&attempt, "not wanted"));
        assert!(
            grace <= secs(25) && grace >= secs(24),
            "what is left of it: {grace:?}"
        );
        worker
            .finish(&attempt, coretex_core::job::transition::Outcome::Cancelled)
            .await;
        assert!(worker.ack().await);
        assert_eq!(bench.state(&attempt.job_id).await, JobState::Cancelled);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_at_the_last_moment_is_not_undone() {
    // Right when the window ends, the loss is being decided while the adoption commits.
    for offset in 0..40_u64 {
        let bench = Bench::new().await;
        let (worker, attempt) = with_attempt(&bench).await;
        worker.cut().await;
        pass(secs(14) + millis(500) + millis(25 * offset)).await;
        bench.tap.slow_reads(millis(60));
        let mut worker = bench.connect(again("w", &[&attempt])).await;
        bench.tap.slow_reads(std::time::Duration::ZERO);
        let kept = worker.session.welcome.kept.len() == 1;
        pass(secs(3)).await;
        let job = bench.job(&attempt.job_id).await;
        if kept {
            assert!(
                job.state.is_held(),
                "offset {offset}: kept, then {:?}",
                job.events
            );
            assert_eq!((job.attempt, job.redispatches), (1, 0));
            assert!(worker.succeed(&attempt).await);
        } else {
            assert_eq!(job.redispatches, 1);
        }
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_move_between_servers() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    pass(secs(20)).await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    pass(secs(5)).await;
    let mut worker = Worker::connect(&other, again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept.len(), 1);
    // The first one's window ends: it must not take the attempt away.
    worker.beat_for(secs(40)).await;
    assert!(worker.inbox.try_recv().is_err());
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.attempt, job.redispatches), (1, 0));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}
