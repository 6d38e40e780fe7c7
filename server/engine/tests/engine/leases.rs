//! What workers may say about attempts, and what is not believed.

use coretex_core::id::LeaseId;
use coretex_core::job::JobState;
use coretex_core::job::history::{AttemptEnd, EventType};
use coretex_core::job::transition::Outcome;
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_engine::{AttemptRef, Error, FromWorker, Role, ToWorker};
use coretex_store::layers::Fault;

use crate::support::{
    Bench, Worker, admin, caller, failed, hello, id, millis, named, pass, request, secs, serving,
    succeeded, with,
};

/// A worker with one attempt.
async fn running(bench: &Bench) -> (Worker, AttemptRef) {
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    (worker, attempt)
}

#[tokio::test(start_paused = true)]
async fn only_an_exact_match_is_applied() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    bench.submit(named("job.other", "waits")).await;
    let wrong = [
        AttemptRef {
            lease_id: LeaseId::new(1),
            ..attempt.clone()
        },
        AttemptRef {
            attempt: attempt.attempt + 1,
            ..attempt.clone()
        },
        AttemptRef {
            job_id: id("waits"),
            ..attempt.clone()
        },
        AttemptRef {
            job_id: id("nobody"),
            ..attempt.clone()
        },
        AttemptRef {
            tenant: coretex_core::id::TenantId::parse("other").unwrap(),
            ..attempt.clone()
        },
    ];
    for wrong in &wrong {
        for outcome in [succeeded(), failed("x"), Outcome::Cancelled] {
            worker.finish(wrong, outcome).await;
            assert!(!worker.ack().await, "{wrong:?}");
        }
        worker.started(wrong).await;
        assert_eq!(worker.revoke().await, *wrong);
        worker.reject(wrong).await;
        worker
            .say(FromWorker::Progress {
                attempt: wrong.clone(),
                percent: 50,
                message: String::new(),
            })
            .await;
    }
    pass(secs(2)).await;
    worker.quiet(secs(2)).await;
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(job.state, JobState::Dispatched);
    assert_eq!(job.progress, None);
    assert_eq!(bench.state(&id("waits")).await, JobState::Pending);
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_another_tenant_changes_nothing() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    let stranger = caller("other", "key:o", &[Role::Worker]);
    let hello = hello("s", &["job.a"], 1);
    let mut stranger = Worker::connect_as(&bench.engine, &stranger, hello).await;
    stranger.finish(&attempt, succeeded()).await;
    assert!(!stranger.ack().await);
    stranger.started(&attempt).await;
    stranger.revoke().await;
    stranger.reject(&attempt).await;
    pass(secs(1)).await;
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Dispatched);
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_listing_worker_of_another_tenant_adopts_nothing() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    let mut hello = hello("s", &["job.a"], 1);
    hello.running = vec![attempt.clone()];
    let stranger = serving(&["other"]);
    let stranger = Worker::connect_as(&bench.engine, &stranger, hello).await;
    assert_eq!(
        stranger.session.welcome.revoked,
        std::slice::from_ref(&attempt)
    );
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_sent_twice_is_applied_once_and_acknowledged_twice() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    // At once, and later.
    for _ in 0..3 {
        worker.finish(&attempt, succeeded()).await;
    }
    for _ in 0..3 {
        assert!(worker.ack().await);
    }
    pass(secs(20)).await;
    assert!(worker.succeed(&attempt).await);
    // Another one under the same lease is not the one that was applied.
    assert!(!worker.fail(&attempt, "x").await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(job.attempts.iter().len(), 1);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_sent_twice_counts_once() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = with("job.a", |spec| {
        spec.retry = RetryPolicy {
            max_attempts: 3,
            initial_backoff: secs(1),
            ..RetryPolicy::default()
        };
    });
    let job = bench.job_of(job).await;
    let attempt = worker.assignment().await;
    assert!(worker.fail(&attempt, "x").await);
    assert!(worker.fail(&attempt, "x").await);
    let second = worker.assignment().await;
    assert!(worker.fail(&attempt, "x").await);
    assert_eq!(bench.job(&job).await.failures, 1);
    assert!(worker.succeed(&second).await);
    assert!(worker.fail(&attempt, "x").await, "it was applied, long ago");
    assert_eq!(bench.state(&job).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_after_the_timeout_is_kept_as_late_and_not_applied() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = bench
        .job_of(with("job.a", |spec| spec.timeout = secs(5)))
        .await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    assert!(!worker.succeed(&attempt).await);
    let ended = bench.job(&job).await;
    assert_eq!(ended.state, JobState::Timeout);
    assert_eq!(ended.output, None);
    assert!(ended.attempts.last().unwrap().late_result);
    assert_eq!(ended.events.last().unwrap().kind, EventType::LateResult);
    // And once more: no second event.
    assert!(!worker.succeed(&attempt).await);
    assert_eq!(bench.job(&job).await.events.total(), ended.events.total());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_only_confirms_that_it_stopped_sends_no_late_result() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = bench
        .job_of(with("job.a", |spec| spec.timeout = secs(5)))
        .await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    worker.finish(&attempt, Outcome::Cancelled).await;
    assert!(!worker.ack().await);
    let ended = bench.job(&job).await;
    assert!(!ended.attempts.last().unwrap().late_result);
    assert_eq!(ended.events.last().unwrap().kind, EventType::SlotReleased);
    assert!(ended.unreleased.is_empty());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_after_the_end_of_the_grace_is_never_called_applied() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    let admin = admin();
    let asked =
        bench
            .engine
            .cancel_job(&admin, &attempt.job_id, String::new(), Some(secs(2)), false);
    asked.await.unwrap();
    assert_eq!(worker.cancel().await, attempt);
    assert_eq!(worker.revoke().await, attempt);
    // Its session ends too, and the slot is given up, before it answers.
    worker.cut().await;
    pass(secs(30)).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    assert!(!worker.succeed(&attempt).await);
    assert!(!worker.succeed(&attempt).await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.state, &job.output), (JobState::Cancelled, &None));
    assert!(job.attempts.last().unwrap().late_result);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_slot_of_a_lost_cause_is_free_only_when_the_worker_answers() {
    let bench = Bench::new().await;
    for way in ["timeout", "cancel"] {
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let job = with("job.a", |spec| spec.timeout = secs(5));
        let job = bench.job_of(job).await;
        let attempt = worker.assignment().await;
        let next = bench.job_of(request("job.a")).await;
        if way == "cancel" {
            let admin = admin();
            let cancel = bench
                .engine
                .cancel_job(&admin, &job, String::new(), None, true);
            cancel.await.unwrap();
        }
        assert_eq!(worker.revoke().await, attempt);
        assert!(bench.state(&job).await.is_terminal());
        worker.beat_for(secs(40)).await;
        assert!(worker.inbox.try_recv().is_err(), "{way}: the slot is taken");
        assert_eq!(bench.cause(&next).await, "all_workers_busy");
        assert_eq!(bench.audit().await.held.values().sum::<usize>(), 1);
        assert!(!worker.succeed(&attempt).await);
        let attempt = worker.assignment().await;
        assert_eq!(attempt.job_id, next);
        assert!(worker.succeed(&attempt).await);
        worker.cut().await;
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_slot_of_a_lost_cause_is_free_when_the_session_ends() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = with("job.a", |spec| spec.timeout = secs(5));
    bench.submit(job).await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    worker.cut().await;
    let next = bench.job_of(request("job.a")).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    assert_eq!(worker.assignment().await.job_id, next);
    worker.beat_for(secs(20)).await;
    let audit = bench.audit().await;
    assert_eq!(audit.held.values().sum::<usize>(), 1, "only the new one");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_attempt_goes_elsewhere_and_is_not_counted() {
    let bench = Bench::new().await;
    let (worker, attempt) = running(&bench).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 0,
        })
        .await;
    worker.reject(&attempt).await;
    let mut other = bench.connect(hello("x", &["job.a"], 1)).await;
    let second = other.assignment().await;
    assert_eq!((second.attempt, &second.job_id), (2, &attempt.job_id));
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.failures, job.redispatches), (0, 0));
    assert_eq!(
        job.attempts.iter().next().unwrap().end,
        Some(AttemptEnd::Returned)
    );
    // A second rejection of the first attempt takes nothing from the second.
    worker.reject(&attempt).await;
    assert!(other.succeed(&second).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_not_lost_with_a_store_that_is_away() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    bench.faulty.take_down();
    worker.reject(&attempt).await;
    pass(secs(4)).await;
    bench.faulty.restore();
    let second = worker.assignment().await;
    assert_eq!((second.attempt, &second.job_id), (2, &attempt.job_id));
    assert!(worker.succeed(&second).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_started_attempt_that_is_rejected_does_not_hang() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    worker.started(&attempt).await;
    pass(secs(1)).await;
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Running);
    // It may have done something already, so it counts as a failure.
    worker.reject(&attempt).await;
    let job = bench.ended(&attempt.job_id, secs(10)).await;
    assert_eq!((job.state, job.failures), (JobState::Failed, 1));
    let next = bench.job_of(request("job.a")).await;
    assert_eq!(worker.assignment().await.job_id, next);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn started_for_an_attempt_that_is_over_is_revoked() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench
        .submit(with("job.a", |spec| spec.timeout = secs(3)))
        .await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    worker.started(&attempt).await;
    assert_eq!(worker.revoke().await, attempt);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_start_is_committed_before_it_is_confirmed() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench
        .submit(with("job.a", |spec| spec.confirm_start = true))
        .await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    assert!(matches!(worker.next().await, ToWorker::StartConfirmed(one) if one == attempt));
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Running);
    // Asked again because the answer was lost: the same answer.
    worker.started(&attempt).await;
    assert!(matches!(worker.next().await, ToWorker::StartConfirmed(one) if one == attempt));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_be_committed_is_not_confirmed() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = with("job.a", |spec| spec.confirm_start = true);
    let job = bench.job_of(job).await;
    let attempt = worker.assignment().await;
    let cancel = bench
        .engine
        .cancel_job(&CALLER, &job, String::new(), None, true);
    cancel.await.unwrap();
    assert_eq!(worker.revoke().await, attempt);
    worker.started(&attempt).await;
    assert_eq!(worker.revoke().await, attempt);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_be_committed_yet_is_confirmed_later() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = with("job.a", |spec| spec.confirm_start = true);
    let job = bench.job_of(job).await;
    let attempt = worker.assignment().await;
    bench.faulty.take_down();
    worker.started(&attempt).await;
    // Nothing that the worker would take for the end of the attempt.
    worker.quiet(secs(3)).await;
    bench.faulty.restore();
    assert!(matches!(worker.next().await, ToWorker::StartConfirmed(one) if one == attempt));
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&job).await;
    assert_eq!((job.state, job.failures), (JobState::Succeeded, 0));
    bench.audit().await;
}

static CALLER: std::sync::LazyLock<coretex_engine::Caller> = std::sync::LazyLock::new(admin);

#[tokio::test(start_paused = true)]
async fn a_cancel_that_overtakes_the_assignment_stops_it() {
    // The input is read after the claim is committed and before the assignment is sent.
    for force in [false, true] {
        let bench = Bench::new().await;
        let mut job = named("job.a", "j");
        job.input = Some(Payload::json(vec![b'1'; 32 * 1024].into()));
        bench.submit(job).await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        bench.tap.slow_reads(millis(200));
        // The queue, the samples, the job, then the input.
        let mut waited = 0;
        while bench.audit().await.held.is_empty() {
            pass(millis(10)).await;
            waited += 1;
            assert!(waited < 500, "never claimed");
        }
        // The read of the input is under way; from now on reads are quick again.
        bench.tap.slow_reads(std::time::Duration::ZERO);
        let job = id("j");
        let cancel = bench
            .engine
            .cancel_job(&CALLER, &job, String::new(), None, force);
        cancel.await.unwrap();
        while let Some(message) = worker.next_within(secs(5)).await {
            assert!(
                !matches!(message, ToWorker::Assignment { .. }),
                "force {force}: assigned after the cancel"
            );
        }
        let job = bench.job(&id("j")).await;
        assert_eq!(job.state, JobState::Cancelled);
        assert!(job.unreleased.is_empty(), "the slot is free");
        let next = bench.job_of(request("job.a")).await;
        assert_eq!(worker.assignment().await.job_id, next);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_assignment_that_is_too_old_is_not_sent() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    bench.faulty.script([Fault::SlowAnswer(secs(9))]);
    let submitted = bench.submit(request("job.a")).await;
    // Nobody has seen that attempt: it was given back, and the next one is sent.
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, submitted.answer.job.id);
    assert_eq!(attempt.attempt, 2);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.redispatches, job.failures), (0, 0));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_is_acknowledged_only_after_its_commit() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    bench.faulty.take_down();
    worker.finish(&attempt, succeeded()).await;
    worker.quiet(secs(5)).await;
    bench.faulty.restore();
    assert!(worker.ack().await);
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn messages_after_the_end_of_a_session_are_refused() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = running(&bench).await;
    pass(secs(31)).await;
    assert!(worker.is_closed(secs(1)).await);
    let message = FromWorker::Started(attempt);
    let answer = worker.session.receive(message).await;
    assert!(matches!(answer, Err(Error::Protocol { .. })));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_told_how_long_it_has() {
    let bench = Bench::new().await;
    let submit = async |timeout, deadline| {
        bench
            .submit(with("job.a", |spec| {
                spec.timeout = timeout;
                spec.deadline_after = deadline;
            }))
            .await;
    };
    submit(secs(60), None).await;
    submit(secs(60), Some(secs(100))).await;
    submit(secs(60), Some(secs(30))).await;
    pass(secs(10)).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 3)).await;
    let mut limits = Vec::new();
    for _ in 0..3 {
        match worker.next().await {
            ToWorker::Assignment { time_limit, .. } => limits.push(time_limit),
            other => panic!("not an assignment: {other:?}"),
        }
    }
    limits.sort();
    assert_eq!(limits, [secs(20), secs(60), secs(60)]);
}
