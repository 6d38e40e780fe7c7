//! What a job remembers of itself: its start, and which attempt events and decisions belong to.

use std::time::Duration;

use coretex_core::id::LeaseId;
use coretex_core::job::Job;
use coretex_core::job::clock::next_due;
use coretex_core::job::history::EventType;
use coretex_core::job::transition::{Trigger, Verdict};
use coretex_core::policy::Decision;

use crate::support::{
    NOW, accepted_with, cancel, decision, dispatch, dispatched, failure, finished, pending,
    retrying, spec, step,
};

#[test]
fn the_start_of_a_job_is_that_of_its_first_attempt() {
    let second = Duration::from_secs(1);
    let started = |lease, at| Trigger::Started {
        lease_id: LeaseId::new(lease),
        at,
    };
    let job = step(&dispatched(retrying(2)), started(1, NOW + second), NOW).job;
    let job = step(&job, finished(1, failure()), NOW).job;
    let due = next_due(&job).unwrap();
    let job = step(&job, Trigger::Due { fraction: 0.5 }, due).job;
    let job = step(&job, dispatch(2), due).job;
    let job = step(&job, started(2, due + second), due).job;
    assert_eq!(job.start_time, Some(NOW + second));
    let starts: Vec<_> = job.attempts.iter().map(|one| one.start_time).collect();
    assert_eq!(starts, [Some(NOW + second), Some(due + second)]);
}

#[test]
fn what_happens_while_no_worker_has_the_job_belongs_to_no_attempt() {
    let job = step(&dispatched(retrying(2)), finished(1, failure()), NOW).job;
    let of_worker = job.events.last().unwrap();
    assert_eq!(of_worker.kind, EventType::RetryScheduled);
    assert_eq!(of_worker.attempt, 1);
    let job = step(&job, cancel(5, false), NOW).job;
    let of_caller = job.events.last().unwrap();
    assert_eq!(of_caller.kind, EventType::Cancelled);
    assert_eq!((of_caller.attempt, &of_caller.worker_id), (0, &None));
}

#[test]
fn a_decision_names_the_attempt_that_it_was_made_for() {
    let judged = |at| Trigger::Judged {
        decision: decision(Decision::Allow, at),
    };
    let made_for = |job: &Job| {
        let all = job.decisions.iter().chain(&job.decision);
        all.map(|decision| decision.attempt).collect::<Vec<_>>()
    };
    let job = pending(retrying(3));
    assert_eq!(made_for(&job), [0]);
    let job = step(&job, judged(NOW), NOW).job;
    let job = step(&job, dispatch(1), NOW).job;
    assert_eq!(made_for(&job), [0, 1]);
    let job = step(&job, finished(1, failure()), NOW).job;
    let due = next_due(&job).unwrap();
    let job = step(&job, Trigger::Due { fraction: 0.5 }, due).job;
    let job = step(&job, judged(due), due).job;
    assert_eq!(made_for(&job), [0, 1, 2]);
    // One that could not be judged at once has its first verdict later.
    let late = Verdict::Unavailable {
        again_at: NOW,
        reason: String::new(),
    };
    let job = step(&accepted_with(spec(), late), judged(NOW), NOW).job;
    assert_eq!(made_for(&job), [0]);
}
