//! The clocks of jobs: never early, hardly late, also after a restart.

use std::time::Duration;

use coretex_core::id::JobId;
use coretex_core::job::history::EventType;
use coretex_core::job::{Job, JobState};
use coretex_core::retry::RetryPolicy;
use coretex_core::time::Timestamp;
use coretex_engine::SubmitJob;

use crate::support::{Answer, Bench, Script, Setup, admin, hello, millis, named, pass, secs, with};

/// How late a clock may be.
const LATE: Duration = millis(20);

fn punctual(what: &str, due: Timestamp, done: Timestamp) {
    assert!(done >= due, "{what}: early by {:?}", due.since(done));
    assert!(
        done.since(due) <= LATE,
        "{what}: late by {:?}",
        done.since(due)
    );
}

fn event(job: &Job, kind: EventType) -> Timestamp {
    let found = job.events.iter().rev().find(|event| event.kind == kind);
    found
        .unwrap_or_else(|| panic!("no {kind:?}: {:?}", job.events))
        .time
}

/// Near, beyond what is read ahead, far; and none of them a whole millisecond.
const SPANS: [Duration; 4] = [
    Duration::from_micros(1_234_567),
    Duration::from_micros(1_999_999),
    Duration::from_micros(17_000_001),
    Duration::from_micros(600_123_457),
];

#[tokio::test(start_paused = true)]
async fn an_attempt_times_out_on_time() {
    for span in SPANS {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let id = bench
            .job_of(with("job.a", |spec| spec.timeout = span))
            .await;
        let attempt = worker.assignment().await;
        worker.started(&attempt).await;
        worker.beat_for(span + secs(1)).await;
        let job = bench.job(&id).await;
        assert_eq!(job.state, JobState::Timeout);
        assert_eq!(job.error.as_ref().unwrap().code, "timeout");
        let record = job.attempts.last().unwrap();
        punctual(
            "timeout",
            record.dispatch_time + span,
            record.end_time.unwrap(),
        );
        assert_eq!(worker.revoke().await, attempt);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_takes_times_out_on_time() {
    for span in SPANS {
        let bench = Bench::new().await;
        let id = bench
            .job_of(with("job.a", |spec| spec.schedule_to_start_timeout = span))
            .await;
        let job = bench.ended(&id, span + secs(5)).await;
        assert_eq!(job.state, JobState::Timeout);
        assert_eq!(job.error.as_ref().unwrap().code, "schedule_timeout");
        punctual("schedule", job.create_time + span, job.end_time.unwrap());
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_to_start_runs_only_while_a_job_is_eligible() {
    let bench = Bench::new().await;
    let start = bench.now() + secs(100);
    let id = bench
        .job_of(with("job.a", |spec| {
            spec.schedule_to_start_timeout = secs(10);
            spec.not_before = Some(start);
        }))
        .await;
    let job = bench.ended(&id, secs(200)).await;
    punctual("schedule", start + secs(10), job.end_time.unwrap());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_job_in_every_state() {
    let span = Duration::from_micros(4_500_321);
    let deadline = |spec: &mut coretex_core::job::JobSpec| spec.deadline_after = Some(span);
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.run"], 5)).await;
    let pending = bench.job_of(with("job.nobody", deadline)).await;
    let later = bench.now() + secs(60);
    let scheduled = with("job.nobody", |spec| {
        deadline(spec);
        spec.not_before = Some(later);
    });
    let scheduled = bench.job_of(scheduled).await;
    let dispatched = bench.job_of(with("job.run", deadline)).await;
    let first = worker.assignment().await;
    let running = bench.job_of(with("job.run", deadline)).await;
    let second = worker.assignment().await;
    worker.started(&second).await;
    let backoff = with("job.run", |spec| {
        deadline(spec);
        spec.retry = retry(3, secs(60), 0.0);
    });
    let backoff = bench.job_of(backoff).await;
    let third = worker.assignment().await;
    assert!(worker.fail(&third, "x").await);
    pass(secs(1)).await;
    for (id, state) in [
        (&pending, JobState::Pending),
        (&scheduled, JobState::Scheduled),
        (&dispatched, JobState::Dispatched),
        (&running, JobState::Running),
        (&backoff, JobState::Scheduled),
    ] {
        assert_eq!(bench.state(id).await, state);
    }
    for id in [&pending, &scheduled, &dispatched, &running, &backoff] {
        let job = bench.ended(id, secs(10)).await;
        assert_eq!(job.state, JobState::Timeout);
        assert_eq!(job.error.as_ref().unwrap().code, "deadline_exceeded");
        punctual("deadline", job.create_time + span, job.end_time.unwrap());
    }
    let mut revoked = vec![worker.revoke().await, worker.revoke().await];
    revoked.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    let mut out = vec![first, second];
    out.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    assert_eq!(revoked, out);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_starts_not_before_its_time() {
    for span in SPANS {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let at = bench.now() + span;
        bench
            .job_of(with("job.a", |spec| spec.not_before = Some(at)))
            .await;
        worker.beat_for(span.saturating_sub(millis(1))).await;
        assert!(worker.inbox.try_recv().is_err(), "nothing before its time");
        let attempt = worker.assignment().await;
        let job = bench.job(&attempt.job_id).await;
        punctual("eligible", at, event(&job, EventType::Eligible));
        punctual("dispatched", at, job.attempts.last().unwrap().dispatch_time);
        bench.audit().await;
    }
}

fn retry(max_attempts: u32, initial_backoff: Duration, jitter: f64) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        initial_backoff,
        multiplier: 2.0,
        max_backoff: secs(3_600),
        jitter,
        non_retryable_codes: vec!["fatal".to_owned()],
    }
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_repeated_after_growing_jittered_pauses() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench
        .job_of(with("job.a", |spec| spec.retry = retry(5, secs(4), 0.5)))
        .await;
    let mut pauses = Vec::new();
    for number in 1..=5_u32 {
        let attempt = loop {
            worker.beat().await;
            if let Some(coretex_engine::ToWorker::Assignment { attempt, .. }) =
                worker.next_within(secs(5)).await
            {
                break attempt;
            }
        };
        assert_eq!(attempt.attempt, number);
        assert!(worker.fail(&attempt, "x").await);
        let job = bench.job(&id).await;
        if number < 5 {
            assert_eq!(job.state, JobState::Scheduled);
            let failed = job.attempts.last().unwrap().end_time.unwrap();
            pauses.push((job.eligible_time, job.eligible_time.since(failed)));
        }
    }
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.failures), (JobState::Failed, 5));
    let dispatched: Vec<_> = job.attempts.iter().map(|one| one.dispatch_time).collect();
    let mut exact = 0;
    for (number, (at, pause)) in pauses.iter().enumerate() {
        let middle = secs(4 << number);
        assert!(
            *pause >= middle / 2 && *pause <= middle * 3 / 2,
            "{pause:?}"
        );
        exact += u32::from(*pause == middle);
        punctual("backoff", *at, dispatched[number + 1]);
    }
    assert_eq!(exact, 0, "jitter spreads");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_nothing_repeats_at_once_and_some_codes_never() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = with("job.a", |spec| spec.retry = retry(3, Duration::ZERO, 0.0));
    bench.submit(job.clone()).await;
    for number in 1..=3 {
        let attempt = worker.assignment().await;
        assert_eq!(attempt.attempt, number);
        assert!(worker.fail(&attempt, "x").await);
    }
    let id = bench.job_of(job).await;
    let attempt = worker.assignment().await;
    assert!(worker.fail(&attempt, "fatal").await);
    let job = bench.job(&id).await;
    assert_eq!((job.state, job.failures), (JobState::Failed, 1));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_as_a_failed_attempt() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let id = bench
        .job_of(with("job.a", |spec| {
            spec.timeout = secs(5);
            spec.retry = retry(2, secs(1), 0.0);
        }))
        .await;
    let first = worker.assignment().await;
    assert_eq!(worker.revoke().await, first);
    let second = worker.assignment().await;
    assert_eq!(second.attempt, 2);
    assert_eq!(worker.revoke().await, second);
    let job = bench.job(&id).await;
    assert_eq!(
        (job.state, job.failures, job.redispatches),
        (JobState::Timeout, 2, 0)
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_clocks_may_run_out_at_the_same_instant() {
    let bench = Bench::new().await;
    let at = bench.now() + secs(30);
    let job = with("job.a", |spec| spec.not_before = Some(at));
    for _ in 0..10_000 {
        bench.submit(job.clone()).await;
    }
    pass(at.since(bench.now()) + millis(100)).await;
    let audit = bench.audit().await;
    assert_eq!(audit.jobs.len(), 10_000);
    for job in &audit.jobs {
        assert_eq!(job.state, JobState::Pending);
        punctual("eligible", at, event(job, EventType::Eligible));
    }
}

/// One job in every state that is not terminal.
async fn one_of_each(bench: &Bench, kernel: &Script) -> Vec<(JobId, JobState)> {
    let mut worker = bench.connect(hello("w", &["job.run"], 10)).await;
    let later = bench.now() + secs(20);
    let make = |topic: &str, name: &str| SubmitJob {
        ..named(topic, name)
    };
    bench.submit(make("job.wait", "pending")).await;
    let mut scheduled = make("job.wait", "scheduled");
    scheduled.spec.not_before = Some(later);
    bench.submit(scheduled).await;
    bench.submit(make("job.run", "dispatched")).await;
    worker.assignment().await;
    bench.submit(make("job.run", "running")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    bench.submit(make("job.run", "cancelling")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    let mut backoff = make("job.run", "backoff");
    backoff.spec.retry = retry(2, secs(20), 0.0);
    bench.submit(backoff).await;
    let attempt = worker.assignment().await;
    assert!(worker.fail(&attempt, "x").await);
    kernel.say(Answer::Trouble);
    bench.submit(make("job.wait", "undecided")).await;
    kernel.say(Answer::Throttle(secs(20)));
    bench.submit(make("job.wait", "throttled")).await;
    kernel.say(Answer::Approval);
    bench.submit(make("job.wait", "approval")).await;
    kernel.say(Answer::Allow);
    pass(millis(600)).await;
    let cancelling = crate::support::id("cancelling");
    let (admin, grace) = (admin(), Some(secs(12)));
    let asked = bench
        .engine
        .cancel_job(&admin, &cancelling, String::new(), grace, false);
    asked.await.unwrap();
    let mut states = Vec::new();
    for (name, state) in [
        ("pending", JobState::Pending),
        ("scheduled", JobState::Scheduled),
        ("dispatched", JobState::Dispatched),
        ("running", JobState::Running),
        ("cancelling", JobState::Running),
        ("backoff", JobState::Scheduled),
        ("undecided", JobState::Pending),
        ("throttled", JobState::Scheduled),
        ("approval", JobState::ApprovalRequired),
    ] {
        let id = crate::support::id(name);
        assert_eq!(bench.state(&id).await, state, "{name}");
        states.push((id, state));
    }
    // The worker dies with the server: it is never heard of again.
    states
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_every_state_moves_on() {
    for away in [0_u64, 60] {
        let kernel = Script::new(Answer::Allow);
        let mut bench = Bench::with(Setup {
            kernel: kernel.clone(),
            ..Setup::default()
        })
        .await;
        let states = one_of_each(&bench, &kernel).await;
        bench.tap.kill();
        pass(secs(away)).await;
        bench.crash().await;
        let mut worker = bench
            .connect(hello("w2", &["job.run", "job.wait"], 10))
            .await;
        let end = bench.now() + secs(60);
        while bench.now() < end {
            worker.beat().await;
            while let Some(message) = worker.next_within(secs(1)).await {
                if let coretex_engine::ToWorker::Assignment { attempt, .. } = message {
                    worker.finish(&attempt, crate::support::succeeded()).await;
                }
            }
        }
        for (id, _) in &states {
            let job = bench.job(id).await;
            let should = match id.as_str() {
                "cancelling" => JobState::Cancelled,
                // Waits for a human.
                "approval" => JobState::ApprovalRequired,
                _ => JobState::Succeeded,
            };
            assert_eq!(job.state, should, "{id}: {:?}", job.events);
            let lost = matches!(id.as_str(), "dispatched" | "running");
            assert_eq!(job.redispatches, u32::from(lost), "{id}");
            if id.as_str() == "cancelling" && away == 0 {
                let due = job.cancel.as_ref().unwrap().terminal_at;
                punctual("grace", due, job.end_time.unwrap());
            }
        }
        let audit = bench.audit().await;
        assert!(audit.held.is_empty(), "{:?}", audit.held);
    }
}

#[tokio::test(start_paused = true)]
async fn the_kernel_is_asked_again_with_growing_pauses() {
    let kernel = Script::new(Answer::Trouble);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let id = bench.job_of(crate::support::request("job.a")).await;
    pass(secs(300)).await;
    let job = bench.job(&id).await;
    assert_eq!(job.state, JobState::Pending);
    let asked: Vec<Timestamp> = job
        .events
        .iter()
        .filter(|event| event.kind == EventType::JudgeFailed)
        .map(|event| event.time)
        .collect();
    let pauses: Vec<u64> = asked
        .windows(2)
        .map(|pair| pair[1].since(pair[0]).as_secs())
        .collect();
    assert_eq!(pauses[..6], [1, 2, 4, 8, 16, 30]);
    assert!(pauses[6..].iter().all(|pause| *pause == 30), "{pauses:?}");
    kernel.say(Answer::Allow);
    pass(secs(31)).await;
    let job = bench.job(&id).await;
    assert!(job.is_ready());
    assert_eq!(job.judge_failures, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttled_job_is_judged_again_before_it_runs() {
    let kernel = Script::new(Answer::Throttle(secs(10)));
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(crate::support::request("job.a")).await;
    assert_eq!(bench.state(&id).await, JobState::Scheduled);
    worker.beat_for(secs(25)).await;
    assert!(worker.inbox.try_recv().is_err(), "still throttled");
    assert_eq!(bench.state(&id).await, JobState::Scheduled);
    assert_eq!(bench.cause(&id).await, "throttled");
    kernel.say(Answer::Allow);
    let attempt = worker.assignment().await;
    let job = bench.job(&id).await;
    let decision = job.decision.as_ref().unwrap().decision;
    assert_eq!(decision, coretex_core::policy::Decision::Allow);
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}
