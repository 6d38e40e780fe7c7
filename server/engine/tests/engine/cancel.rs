//! Cancelling, in every state.

use coretex_core::id::JobId;
use coretex_core::job::history::EventType;
use coretex_core::job::transition::Outcome;
use coretex_core::job::{Job, JobState};
use coretex_engine::{Error, FromWorker, MAX_CANCEL_GRACE, Role, ToWorker};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, admin, caller, failed, hello, is_no_job, millis, pass,
    request, secs, succeeded, with,
};

async fn cancel(bench: &Bench, id: &JobId, grace: Option<Duration>, force: bool) -> Arc<Job> {
    let reason = "no longer wanted".to_owned();
    let answer = bench
        .engine
        .cancel_job(&admin(), id, reason, grace, force)
        .await;
    answer.unwrap().job
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_has_is_cancelled_at_once() {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let later = bench.now() + secs(60);
    let pending = bench.job_of(request("job.a")).await;
    let scheduled = bench
        .job_of(with("job.a", |spec| spec.not_before = Some(later)))
        .await;
    kernel.say(Answer::Trouble);
    let undecided = bench.job_of(request("job.a")).await;
    kernel.say(Answer::Approval);
    let approval = bench.job_of(request("job.a")).await;
    kernel.say(Answer::Allow);
    for id in [&pending, &scheduled, &undecided, &approval] {
        let job = cancel(&bench, id, None, false).await;
        assert_eq!(job.state, JobState::Cancelled);
        let last = job.events.last().unwrap();
        assert_eq!(
            (last.kind, last.principal_id.as_str()),
            (EventType::Cancelled, "key:admin")
        );
        // Again: unchanged.
        let again = cancel(&bench, id, None, true).await;
        assert_eq!(again.update_time, job.update_time);
        assert_eq!(again.events.total(), job.events.total());
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    worker.beat_for(secs(70)).await;
    worker.quiet(secs(1)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_ends_the_job() {
    for outcome in [Outcome::Cancelled, failed("interrupted")] {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let id = bench
            .job_of(with("job.a", |spec| spec.retry.max_attempts = 5))
            .await;
        let attempt = worker.assignment().await;
        worker.started(&attempt).await;
        pass(secs(1)).await;
        let job = cancel(&bench, &id, None, false).await;
        assert_eq!(job.state, JobState::Running);
        assert!(job.cancel.is_some());
        let ToWorker::Cancel { reason, grace, .. } = worker.next().await else {
            panic!("not told");
        };
        assert_eq!((reason.as_str(), grace), ("no longer wanted", secs(30)));
        assert_eq!(bench.cause(&id).await, "cancel_requested");
        worker.finish(&attempt, outcome).await;
        assert!(worker.ack().await);
        assert_eq!(bench.state(&id).await, JobState::Cancelled);
        let next = bench.job_of(request("job.a")).await;
        assert_eq!(worker.assignment().await.job_id, next);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_within_the_grace_counts_and_says_that_the_cancel_came_too_late() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    cancel(&bench, &id, Some(secs(10)), false).await;
    worker.cancel().await;
    pass(secs(9)).await;
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&id).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert!(job.output.is_some());
    assert!(job.events.last().unwrap().reason.contains("too late"));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends_the_job_whatever_the_worker_does() {
    // Ignores it; keeps reporting progress; goes away; comes back; rejects too late.
    for way in 0..5 {
        for grace in [Duration::ZERO, millis(1_500), secs(12)] {
            let bench = Bench::new().await;
            let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
            let id = bench.job_of(request("job.a")).await;
            let attempt = worker.assignment().await;
            if way > 0 {
                worker.started(&attempt).await;
                pass(millis(600)).await;
            }
            let asked = bench.now();
            cancel(&bench, &id, Some(grace), false).await;
            match way {
                1 => {
                    for percent in 0..13 {
                        worker
                            .say(FromWorker::Progress {
                                attempt: attempt.clone(),
                                percent,
                                message: String::new(),
                            })
                            .await;
                        pass(secs(1)).await;
                    }
                }
                2 => worker.cut().await,
                3 => {
                    worker.cut().await;
                    let mut back = hello("w", &["job.a"], 1);
                    back.running = vec![attempt.clone()];
                    bench.connect(back).await.cut().await;
                }
                4 => worker.started(&attempt).await,
                _ => {}
            }
            let job = bench.ended(&id, secs(60)).await;
            assert_eq!(job.state, JobState::Cancelled, "way {way}");
            let took = job.end_time.unwrap().since(asked);
            assert!(took >= grace, "way {way}: {took:?} of {grace:?}");
            assert!(took <= grace + secs(1), "way {way}: {took:?} of {grace:?}");
            bench.audit().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn force_does_not_wait() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    for graceful_first in [false, true] {
        let id = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        if graceful_first {
            cancel(&bench, &id, None, false).await;
            worker.cancel().await;
        }
        let job = cancel(&bench, &id, None, true).await;
        assert_eq!(job.state, JobState::Cancelled);
        assert_eq!(worker.revoke().await, attempt);
        worker.finish(&attempt, succeeded()).await;
        assert!(!worker.ack().await);
        let job = bench.job(&id).await;
        assert_eq!((job.state, &job.output), (JobState::Cancelled, &None));
        assert!(job.attempts.last().unwrap().late_result);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_request_shortens_the_grace_and_never_lengthens_it() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    worker.assignment().await;
    let asked = bench.now();
    cancel(&bench, &id, Some(secs(20)), false).await;
    worker.cancel().await;
    let longer = cancel(&bench, &id, Some(secs(60)), false).await;
    assert_eq!(
        longer.cancel.as_ref().unwrap().terminal_at,
        asked + secs(20)
    );
    worker.quiet(secs(1)).await;
    cancel(&bench, &id, Some(secs(5)), false).await;
    worker.cancel().await;
    let job = bench.ended(&id, secs(30)).await;
    let took = job.end_time.unwrap().since(asked);
    assert!(took >= secs(6) && took <= secs(6) + millis(20), "{took:?}");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_job_is_answered_unchanged() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let before = bench.job(&id).await;
    let after = cancel(&bench, &id, None, true).await;
    assert_eq!(
        (after.state, after.update_time),
        (JobState::Succeeded, before.update_time)
    );
    worker.quiet(secs(2)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_worker_of_a_cancelled_job_is_a_cancel_and_a_rejection_too() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    cancel(&bench, &id, Some(secs(600)), false).await;
    worker.cancel().await;
    worker.reject(&attempt).await;
    assert_eq!(bench.ended(&id, secs(1)).await.state, JobState::Cancelled);
    let id = bench.job_of(request("job.a")).await;
    worker.assignment().await;
    cancel(&bench, &id, Some(secs(600)), false).await;
    worker.cut().await;
    let job = bench.ended(&id, secs(20)).await;
    assert_eq!((job.state, job.redispatches), (JobState::Cancelled, 0));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_who_may_see_a_job_may_cancel_it() {
    let bench = Bench::new().await;
    let id = bench.job_of(request("job.a")).await;
    for stranger in [
        caller("other", "key:o", &[Role::Admin]),
        caller("acme", "key:s", &[Role::Submitter]),
    ] {
        let answer = bench
            .engine
            .cancel_job(&stranger, &id, String::new(), None, true)
            .await;
        assert!(is_no_job(&answer));
    }
    assert_eq!(bench.state(&id).await, JobState::Pending);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn cancels_and_results_that_meet_leave_one_end() {
    for seed in 0..60_u64 {
        let bench = Bench::with(Setup {
            seed,
            ..Setup::default()
        })
        .await;
        bench.faulty.rates(coretex_store::layers::FaultRates {
            delay: 1.0,
            longest_delay: millis(10),
            ..coretex_store::layers::FaultRates::default()
        });
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let id = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        let force = seed % 2 == 0;
        let (job, ()) = tokio::join!(
            cancel(&bench, &id, Some(secs(1)), force),
            worker.finish(&attempt, succeeded())
        );
        drop(job);
        let ended = bench.ended(&id, secs(5)).await;
        let mut applied = None;
        while let Some(message) = worker.next_within(secs(1)).await {
            if let ToWorker::ResultAck { applied: yes, .. } = message {
                assert_eq!(applied.replace(yes), None);
            }
        }
        assert_eq!(
            applied,
            Some(ended.state == JobState::Succeeded),
            "seed {seed}"
        );
        let audit = bench.audit().await;
        assert!(audit.held.is_empty(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grace_is_honoured_up_to_its_bound_and_refused_beyond() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench
        .job_of(with("job.a", |spec| spec.timeout = 2 * MAX_CANCEL_GRACE))
        .await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    let beyond = Some(MAX_CANCEL_GRACE + millis(1));
    let refused = bench
        .engine
        .cancel_job(&ADMIN, &id, String::new(), beyond, false);
    assert!(matches!(refused.await, Err(Error::Invalid(_))));
    pass(secs(1)).await;
    assert_eq!(bench.state(&id).await, JobState::Running);
    cancel(&bench, &id, Some(MAX_CANCEL_GRACE), false).await;
    match worker.next().await {
        ToWorker::Cancel { grace, .. } => assert_eq!(grace, MAX_CANCEL_GRACE),
        other => panic!("not a cancel: {other:?}"),
    }
    worker.beat_for(MAX_CANCEL_GRACE - secs(1)).await;
    assert_eq!(bench.state(&id).await, JobState::Running);
    worker.beat_for(secs(2)).await;
    assert_eq!(bench.state(&id).await, JobState::Cancelled);
}
