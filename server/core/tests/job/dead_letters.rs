//! Which ends leave a dead letter, under which code, and how it is taken off again.

use std::time::Duration;

use coretex_core::id::{JobId, LeaseId};
use coretex_core::job::dead_letter::{DeadLetter, MAX_ATTEMPTS_EXCEEDED, SAFETY_DENIED};
use coretex_core::job::history::EventType;
use coretex_core::job::transition::dead_letter::{Settled, settle};
use coretex_core::job::transition::{Outcome, Refusal, Trigger, apply};
use coretex_core::job::{ErrorSource, Job, JobSpec, JobState, WorkerLossPolicy};
use coretex_core::policy::{Constraints, Decision};
use coretex_core::time::Timestamp;

use crate::support::{
    NOW, accepted, cancel, decision, dispatch, dispatched, failure, finished, pending, retrying,
    spec, step, success,
};

const LATER: Timestamp = Timestamp::from_micros(1_000_000_000 + 7_200_000_000);

fn fails(job: &Job, lease: u128, at: Timestamp) -> Job {
    step(job, finished(lease, failure()), at).job
}

fn due(job: &Job, at: Timestamp) -> Job {
    step(job, Trigger::Due { fraction: 0.5 }, at).job
}

fn lost(spec: JobSpec) -> Job {
    let trigger = Trigger::Lost {
        lease_id: LeaseId::new(1),
        reason: "gone".to_owned(),
    };
    step(&dispatched(spec), trigger, NOW).job
}

/// A job that failed once and whose second attempt is out under lease 2.
fn second_attempt(spec: JobSpec) -> Job {
    let waits = due(&fails(&dispatched(spec), 1, NOW), LATER);
    step(&waits, dispatch(2), LATER).job
}

fn letter(code: &str, source: ErrorSource) -> Option<(String, ErrorSource)> {
    Some((code.to_owned(), source))
}

#[test]
fn every_end_has_its_dead_letter_or_none() {
    let platform = |code| letter(code, ErrorSource::Platform);
    let worker = |code| letter(code, ErrorSource::Worker);
    let unretried = JobSpec {
        retry: coretex_core::retry::RetryPolicy {
            non_retryable_codes: vec!["broken".to_owned()],
            ..retrying(3).retry
        },
        ..spec()
    };
    let mut cut_short = pending(retrying(3));
    if let Some(decision) = &mut cut_short.decision {
        decision.constraints = Some(Constraints {
            max_retries: Some(0),
            ..Constraints::default()
        });
    }
    let cut_short = step(&cut_short, dispatch(1), NOW).job;
    let fail_on_loss = JobSpec {
        on_worker_loss: WorkerLossPolicy::Fail,
        ..retrying(3)
    };
    let no_redispatch = JobSpec {
        max_redispatch: 0,
        ..spec()
    };
    let deadline = JobSpec {
        deadline_after: Some(Duration::from_secs(5)),
        ..spec()
    };
    let approval = accepted(spec(), Decision::RequireApproval);
    let rejected = Trigger::Judged {
        decision: decision(Decision::Deny, NOW),
    };
    let alone = finished(1, Outcome::Cancelled);
    let asked = step(&dispatched(spec()), cancel(30, false), NOW).job;
    let ends = [
        (
            "succeeded",
            step(&dispatched(spec()), finished(1, success()), NOW).job,
            None,
        ),
        (
            "failed",
            fails(&dispatched(spec()), 1, NOW),
            worker("broken"),
        ),
        (
            "last attempt failed",
            fails(&second_attempt(retrying(2)), 2, LATER),
            platform(MAX_ATTEMPTS_EXCEEDED),
        ),
        (
            "not worth a retry",
            fails(&dispatched(unretried), 1, NOW),
            worker("broken"),
        ),
        (
            "policy allows no retry",
            fails(&cut_short, 1, NOW),
            platform(MAX_ATTEMPTS_EXCEEDED),
        ),
        (
            "timed out",
            due(&dispatched(spec()), LATER),
            platform("timeout"),
        ),
        (
            "last attempt timed out",
            due(
                &second_attempt(retrying(2)),
                LATER + Duration::from_secs(7_200),
            ),
            platform(MAX_ATTEMPTS_EXCEEDED),
        ),
        (
            "stopped on its own",
            step(&dispatched(spec()), alone, NOW).job,
            platform("worker_cancelled"),
        ),
        (
            "lost, at most once",
            lost(fail_on_loss),
            platform("worker_lost"),
        ),
        (
            "lost too often",
            lost(no_redispatch),
            platform("worker_lost"),
        ),
        (
            "never started",
            due(&pending(spec()), NOW + Duration::from_secs(25 * 3_600)),
            platform("schedule_timeout"),
        ),
        (
            "past its deadline",
            due(&dispatched(deadline), NOW + Duration::from_secs(5)),
            platform("deadline_exceeded"),
        ),
        (
            "denied",
            accepted(spec(), Decision::Deny),
            platform(SAFETY_DENIED),
        ),
        (
            "denied after an approval was asked for",
            step(&approval, rejected, NOW).job,
            platform(SAFETY_DENIED),
        ),
        (
            "cancelled while it waits",
            step(&pending(spec()), cancel(0, false), NOW).job,
            None,
        ),
        (
            "cancelled by force",
            step(&dispatched(spec()), cancel(0, true), NOW).job,
            None,
        ),
        ("failed after a cancel", fails(&asked, 1, NOW), None),
        (
            "cancelled by its grace",
            due(&asked, NOW + Duration::from_secs(30)),
            None,
        ),
    ];
    for (what, job, should) in ends {
        assert!(job.state.is_terminal(), "{what}: {:?}", job.state);
        let found = job.dead_letter.as_ref();
        let found_code = found.map(|letter| (letter.code.clone(), letter.source));
        assert_eq!(found_code, should, "{what}");
        assert_eq!(
            found.map(|letter| letter.time),
            should.and(job.end_time),
            "{what}"
        );
        assert_eq!(
            found.is_some(),
            !job.dead_letter_message().is_empty(),
            "{what}"
        );
    }
}

#[test]
fn only_ends_that_are_bad_leave_one() {
    for state in JobState::ALL {
        let left = DeadLetter::of_end(state, None, NOW).is_some();
        let bad = matches!(
            state,
            JobState::Failed | JobState::Denied | JobState::Timeout
        );
        assert_eq!(left, bad, "{state:?}");
    }
}

#[test]
fn a_job_that_goes_on_is_no_dead_letter() {
    let again = fails(&dispatched(retrying(2)), 1, NOW);
    assert_eq!(
        (again.state, again.dead_letter),
        (JobState::Scheduled, None)
    );
}

#[test]
fn what_comes_late_leaves_the_dead_letter_where_it_is() {
    let timed_out = due(&dispatched(spec()), LATER);
    let late = step(&timed_out, finished(1, success()), LATER);
    assert!(!late.applied && timed_out.dead_letter.is_some());
    assert_eq!(late.job.dead_letter, timed_out.dead_letter);
}

#[test]
fn a_dead_letter_is_taken_off_once_and_the_job_stays_as_it_ended() {
    let dead = fails(&dispatched(spec()), 1, NOW);
    let new = JobId::parse("j2").unwrap();
    for (how, reason) in [
        (Settled::RetriedAs(&new), "retried as j2"),
        (Settled::Deleted, "deleted"),
    ] {
        let settled = settle(&dead, how, "key:9", LATER).unwrap().job;
        assert_eq!(
            (settled.state, settled.end_time),
            (dead.state, dead.end_time)
        );
        assert_eq!(
            (settled.update_time, settled.error.clone()),
            (LATER, dead.error.clone())
        );
        let event = settled.events.last().unwrap();
        assert_eq!(event.kind, EventType::DeadLetterSettled);
        assert_eq!((event.from, event.to), (Some(dead.state), dead.state));
        assert_eq!(
            (event.principal_id.as_str(), event.reason.as_str()),
            ("key:9", reason)
        );
        let again = settle(&settled, how, "key:9", LATER);
        assert_eq!(again.err(), Some(Refusal::Unchanged));
        // The job has ended all the same.
        let refused = apply(&settled, dispatch(2), LATER);
        assert!(matches!(refused, Err(Refusal::Illegal { .. })));
    }
    assert!(settle(&pending(spec()), Settled::Deleted, "", NOW).is_err());
}
