//! The state machine of jobs: its table, its promises under random histories, its clocks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::clock::{Due, due, next_due};
use coretex_core::job::history::{AttemptEnd, EventType};
use coretex_core::job::transition::{
    Effect, NewJob, Outcome, Refusal, Transition, Trigger, TriggerKind, Verdict, accept, apply,
    targets,
};
use coretex_core::job::{
    ErrorSource, Job, JobError, JobSpec, JobState, Progress, ScheduledFor, WorkerLossPolicy,
};
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::retry::RetryPolicy;
use coretex_core::time::Timestamp;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

fn decision(decision: Decision, now: Timestamp) -> Box<JobDecision> {
    Box::new(JobDecision {
        time: now,
        decision,
        reason: "because".to_owned(),
        rule_id: "rule".to_owned(),
        policy_snapshot: "snapshot".to_owned(),
        constraints: None,
        approval_id: String::new(),
        remediations: Vec::new(),
        retry_at: (decision == Decision::Throttle).then(|| now + Duration::from_secs(5)),
    })
}

fn spec() -> JobSpec {
    JobSpec::new(Topic::parse("job.test").unwrap())
}

fn accepted(spec: JobSpec, what: Decision) -> Job {
    let new = NewJob {
        id: JobId::parse("j1").unwrap(),
        tenant: TenantId::parse("acme").unwrap(),
        spec: Arc::new(spec),
        principal_id: "key:1".to_owned(),
        trace_id: "t".to_owned(),
        fingerprint: vec![1],
        idempotency_key: String::new(),
        rerun_of: None,
        input: None,
    };
    accept(new, Verdict::Decided(decision(what, NOW)), NOW)
}

fn pending(spec: JobSpec) -> Job {
    accepted(spec, Decision::Allow)
}

fn dispatch(lease: u128) -> Trigger {
    Trigger::Dispatch {
        lease_id: LeaseId::new(lease),
        replica: ReplicaId::from_trusted("r1"),
        session: SessionId::from_trusted("s1"),
        worker_id: WorkerId::from_trusted("w1"),
        pool: PoolName::from_trusted("default"),
    }
}

fn dispatched(spec: JobSpec) -> Job {
    apply(&pending(spec), dispatch(1), NOW).unwrap().job
}

fn finished(lease: u128, outcome: Outcome) -> Trigger {
    Trigger::Finished {
        lease_id: LeaseId::new(lease),
        outcome,
        artifact_ids: Vec::new(),
        started_at: None,
        fraction: 0.5,
    }
}

fn success() -> Outcome {
    Outcome::Succeeded { output: None }
}

fn failure() -> Outcome {
    Outcome::Failed {
        error: JobError {
            code: "broken".to_owned(),
            message: "it broke".to_owned(),
            metadata: std::collections::BTreeMap::new(),
            source: ErrorSource::Worker,
        },
    }
}

fn cancel(grace: u64, force: bool) -> Trigger {
    Trigger::CancelRequested {
        principal_id: "key:2".to_owned(),
        reason: "enough".to_owned(),
        grace: Duration::from_secs(grace),
        force,
    }
}

fn step(job: &Job, trigger: Trigger, now: Timestamp) -> Transition {
    apply(job, trigger, now).unwrap()
}

fn retrying(max_attempts: u32) -> JobSpec {
    let retry = RetryPolicy {
        max_attempts,
        ..RetryPolicy::default()
    };
    JobSpec { retry, ..spec() }
}

#[test]
fn terminal_states_take_nothing() {
    for state in JobState::ALL
        .into_iter()
        .filter(|state| state.is_terminal())
    {
        for kind in TriggerKind::ALL {
            assert!(targets(state, kind).is_empty(), "{state:?} takes {kind:?}");
        }
    }
}

#[test]
fn every_open_state_can_end_and_every_state_can_be_reached() {
    let mut reached = BTreeSet::from([JobState::Pending]);
    while let Some(new) = reached
        .iter()
        .flat_map(|state| TriggerKind::ALL.map(|kind| targets(*state, kind)))
        .flatten()
        .find(|state| !reached.contains(state))
    {
        reached.insert(*new);
    }
    assert_eq!(reached.len(), JobState::ALL.len());
    for state in JobState::ALL
        .into_iter()
        .filter(|state| !state.is_terminal())
    {
        let ends = targets(state, TriggerKind::CancelRequested);
        assert!(
            ends.contains(&JobState::Cancelled),
            "{state:?} cannot be cancelled"
        );
    }
}

#[test]
fn a_success_ends_the_job_and_frees_its_slot() {
    let job = dispatched(spec());
    let done = step(&job, finished(1, success()), NOW + Duration::from_millis(5));
    assert!(done.applied);
    assert_eq!(done.job.state, JobState::Succeeded);
    assert_eq!(done.job.slots().count(), 0);
    assert_eq!(next_due(&done.job), None);
    let kinds: Vec<EventType> = done.job.events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            EventType::Submitted,
            EventType::Dispatched,
            EventType::Succeeded
        ]
    );
}

#[test]
fn a_result_sent_twice_is_neither_applied_nor_late() {
    let done = step(&dispatched(spec()), finished(1, success()), NOW).job;
    assert_eq!(
        apply(&done, finished(1, success()), NOW),
        Err(Refusal::NotCurrent)
    );
}

#[test]
fn a_result_under_another_lease_changes_nothing() {
    let job = dispatched(spec());
    assert_eq!(
        apply(&job, finished(2, success()), NOW),
        Err(Refusal::NotCurrent)
    );
}

#[test]
fn failures_are_retried_until_the_budget_is_used_up() {
    let mut job = pending(retrying(3));
    let mut now = NOW;
    for attempt in 1..=3_u32 {
        job = step(&job, dispatch(attempt.into()), now).job;
        job = step(&job, finished(attempt.into(), failure()), now).job;
        if attempt < 3 {
            assert_eq!(job.state, JobState::Scheduled);
            assert_eq!(job.scheduled_for, Some(ScheduledFor::Backoff));
            assert_eq!(
                job.eligible_time.since(now),
                Duration::from_secs(1 << (attempt - 1))
            );
            now = job.eligible_time;
            job = step(&job, Trigger::Due { fraction: 0.5 }, now).job;
            assert_eq!(job.state, JobState::Pending);
        }
    }
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.as_ref().unwrap().code, "broken");
    assert_eq!(job.attempts.iter().len(), 3);
}

#[test]
fn losses_have_a_budget_of_their_own() {
    let spec = JobSpec {
        max_redispatch: 2,
        ..retrying(1)
    };
    let mut job = pending(spec);
    for lease in 1..=3 {
        job = step(&job, dispatch(lease), NOW).job;
        let lost = Trigger::Lost {
            lease_id: LeaseId::new(lease),
            reason: "gone".to_owned(),
        };
        job = step(&job, lost, NOW).job;
    }
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.redispatches, 2);
    assert_eq!(job.failures, 0);
    assert_eq!(job.error.as_ref().unwrap().code, "worker_lost");
}

#[test]
fn at_most_once_means_that_a_loss_is_the_end() {
    let spec = JobSpec {
        on_worker_loss: WorkerLossPolicy::Fail,
        ..spec()
    };
    let lost = Trigger::Lost {
        lease_id: LeaseId::new(1),
        reason: "gone".to_owned(),
    };
    let job = step(&dispatched(spec), lost, NOW).job;
    assert_eq!(job.state, JobState::Failed);
}

#[test]
fn a_timed_out_attempt_keeps_its_slot_until_the_worker_answers() {
    let spec = JobSpec {
        timeout: Duration::from_secs(10),
        ..retrying(2)
    };
    let job = dispatched(spec);
    let late = NOW + Duration::from_secs(10);
    assert_eq!(due(&job, late), Some(Due::AttemptTimeout));
    let timed_out = step(&job, Trigger::Due { fraction: 0.5 }, late);
    assert_eq!(timed_out.job.state, JobState::Scheduled);
    assert!(matches!(
        timed_out.effects.as_slice(),
        [Effect::TellRevoke { .. }]
    ));
    assert_eq!(timed_out.job.slots().count(), 1);
    let answered = step(&timed_out.job, finished(1, success()), late);
    assert!(!answered.applied);
    assert_eq!(answered.job.state, JobState::Scheduled);
    assert_eq!(answered.job.slots().count(), 0);
    let attempt = answered.job.attempts.last().unwrap();
    assert!(attempt.late_result);
    assert_eq!(attempt.end, Some(AttemptEnd::TimedOut));
}

#[test]
fn the_last_timeout_ends_the_job_as_timeout() {
    let job = step(
        &dispatched(spec()),
        Trigger::Due { fraction: 0.5 },
        NOW + JobSpec::DEFAULT_TIMEOUT,
    );
    assert_eq!(job.job.state, JobState::Timeout);
    assert_eq!(job.job.error.as_ref().unwrap().code, "timeout");
}

#[test]
fn nothing_fires_early() {
    let job = dispatched(spec());
    let early = NOW + JobSpec::DEFAULT_TIMEOUT - Duration::from_micros(1);
    assert_eq!(
        apply(&job, Trigger::Due { fraction: 0.5 }, early),
        Err(Refusal::Unchanged)
    );
}

#[test]
fn a_cancelled_running_job_ends_when_the_worker_answers() {
    let asked = step(&dispatched(spec()), cancel(30, false), NOW);
    assert_eq!(asked.job.state, JobState::Dispatched);
    assert!(matches!(
        asked.effects.as_slice(),
        [Effect::TellCancel { .. }]
    ));
    let ended = step(&asked.job, finished(1, Outcome::Cancelled), NOW).job;
    assert_eq!(ended.state, JobState::Cancelled);
    assert_eq!(ended.slots().count(), 0);
}

#[test]
fn a_failure_after_the_cancel_request_is_a_cancel() {
    let asked = step(&dispatched(retrying(5)), cancel(30, false), NOW).job;
    assert_eq!(
        step(&asked, finished(1, failure()), NOW).job.state,
        JobState::Cancelled
    );
}

#[test]
fn a_success_before_the_end_of_the_grace_counts_and_says_so() {
    let asked = step(&dispatched(spec()), cancel(30, false), NOW).job;
    let done = step(&asked, finished(1, success()), NOW).job;
    assert_eq!(done.state, JobState::Succeeded);
    assert!(done.events.last().unwrap().reason.contains("too late"));
}

#[test]
fn the_grace_ends_a_job_whatever_the_worker_does() {
    let asked = step(&dispatched(spec()), cancel(30, false), NOW).job;
    let over = NOW + Duration::from_secs(30);
    assert_eq!(next_due(&asked), Some(over));
    let ended = step(&asked, Trigger::Due { fraction: 0.5 }, over);
    assert_eq!(ended.job.state, JobState::Cancelled);
    assert!(matches!(
        ended.effects.as_slice(),
        [Effect::TellRevoke { .. }]
    ));
    assert_eq!(ended.job.slots().count(), 1, "the worker has not answered");
    let late = step(&ended.job, finished(1, success()), over);
    assert!(!late.applied);
    assert_eq!(late.job.state, JobState::Cancelled);
    assert_eq!(late.job.output, None);
}

#[test]
fn force_does_not_wait_and_a_second_request_only_hurries() {
    let job = dispatched(spec());
    assert_eq!(
        step(&job, cancel(0, true), NOW).job.state,
        JobState::Cancelled
    );
    let asked = step(&job, cancel(30, false), NOW).job;
    assert_eq!(
        apply(&asked, cancel(60, false), NOW),
        Err(Refusal::Unchanged)
    );
    let hurried = step(&asked, cancel(5, false), NOW).job;
    assert_eq!(next_due(&hurried), Some(NOW + Duration::from_secs(5)));
}

#[test]
fn the_deadline_stands_still_while_a_human_decides() {
    let spec = JobSpec {
        deadline_after: Some(Duration::from_secs(60)),
        ..spec()
    };
    let job = accepted(spec, Decision::RequireApproval);
    assert_eq!(job.state, JobState::ApprovalRequired);
    assert_eq!(next_due(&job), None);
    let later = NOW + Duration::from_secs(3_600);
    let verdict = Trigger::Judged {
        decision: decision(Decision::Allow, later),
    };
    let granted = step(&job, verdict, later).job;
    assert_eq!(granted.state, JobState::Pending);
    assert_eq!(granted.deadline, Some(later + Duration::from_secs(60)));
}

#[test]
fn verdicts_decide_where_a_new_job_stands() {
    let cases = [
        (Decision::Allow, JobState::Pending),
        (Decision::AllowWithConstraints, JobState::Pending),
        (Decision::Deny, JobState::Denied),
        (Decision::RequireApproval, JobState::ApprovalRequired),
        (Decision::Throttle, JobState::Scheduled),
    ];
    for (verdict, state) in cases {
        assert_eq!(accepted(spec(), verdict).state, state, "{verdict:?}");
    }
}

#[test]
fn a_job_without_a_verdict_is_not_handed_out() {
    let mut job = pending(spec());
    job.judge_at = Some(NOW + Duration::from_secs(1));
    assert!(matches!(
        apply(&job, dispatch(1), NOW),
        Err(Refusal::Illegal { .. })
    ));
    assert_eq!(due(&job, NOW + Duration::from_secs(1)), Some(Due::Judge));
}

#[test]
fn a_start_time_keeps_the_job_scheduled() {
    let at = NOW + Duration::from_secs(9);
    let job = pending(JobSpec {
        not_before: Some(at),
        ..spec()
    });
    assert_eq!((job.state, next_due(&job)), (JobState::Scheduled, Some(at)));
    let eligible = step(&job, Trigger::Due { fraction: 0.0 }, at).job;
    assert_eq!(
        (eligible.state, eligible.eligible_time),
        (JobState::Pending, at)
    );
}

/// A random thing that happens to a job.
#[derive(Clone, Debug)]
enum Happening {
    Judged(u8),
    JudgeUnavailable,
    Dispatch,
    Started(u8),
    Progressed(u8),
    Returned(u8),
    Finished(u8, u8),
    Lost(u8),
    Adopted(u8),
    Cancel(u64, bool),
    Wait(u32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        1 => (0..5_u8).prop_map(Happening::Judged),
        1 => Just(Happening::JudgeUnavailable),
        4 => Just(Happening::Dispatch),
        1 => (0..3_u8).prop_map(Happening::Started),
        1 => (0..3_u8).prop_map(Happening::Progressed),
        1 => (0..3_u8).prop_map(Happening::Returned),
        2 => (0..3_u8, 0..3_u8).prop_map(|(lease, end)| Happening::Finished(lease, end)),
        2 => (0..3_u8).prop_map(Happening::Lost),
        1 => (0..3_u8).prop_map(Happening::Adopted),
        1 => (0..40_u64, any::<bool>()).prop_map(|(grace, force)| Happening::Cancel(grace, force)),
        3 => (0..90_u32).prop_map(Happening::Wait),
    ]
}

/// A random thing as a trigger. `leases` is how many have been given out.
fn trigger(happening: &Happening, leases: u128, now: Timestamp) -> Trigger {
    // Mostly the newest lease, sometimes an older one.
    let lease = |back: u8| LeaseId::new(leases.saturating_sub(u128::from(back)));
    match happening {
        Happening::Judged(which) => {
            let what = [
                Decision::Allow,
                Decision::Deny,
                Decision::RequireApproval,
                Decision::Throttle,
                Decision::AllowWithConstraints,
            ][usize::from(*which)];
            Trigger::Judged {
                decision: decision(what, now),
            }
        }
        Happening::JudgeUnavailable => Trigger::JudgeUnavailable {
            again_at: now + Duration::from_secs(1),
            reason: "kernel away".to_owned(),
        },
        Happening::Dispatch => dispatch(leases + 1),
        Happening::Started(back) => Trigger::Started {
            lease_id: lease(*back),
            at: now,
        },
        Happening::Progressed(back) => Trigger::Progressed {
            lease_id: lease(*back),
            progress: Progress {
                percent: 50,
                message: String::new(),
            },
            started_at: Some(now),
        },
        Happening::Returned(back) => Trigger::Returned {
            lease_id: lease(*back),
            reason: "full".to_owned(),
        },
        Happening::Finished(back, end) => {
            let outcome = [success(), failure(), Outcome::Cancelled][usize::from(*end)].clone();
            finished(lease(*back).bits(), outcome)
        }
        Happening::Lost(back) => Trigger::Lost {
            lease_id: lease(*back),
            reason: "gone".to_owned(),
        },
        Happening::Adopted(back) => Trigger::Adopted {
            lease_id: lease(*back),
            replica: ReplicaId::from_trusted("r2"),
            session: SessionId::from_trusted("s2"),
        },
        Happening::Cancel(grace, force) => cancel(*grace, *force),
        Happening::Wait(_) => Trigger::Due { fraction: 0.3 },
    }
}

fn check(before: &Job, after: &Job, kind: TriggerKind, applied: bool) {
    if applied {
        assert!(
            targets(before.state, kind).contains(&after.state),
            "{:?} -{kind:?}-> {:?} is not in the table",
            before.state,
            after.state
        );
    } else {
        assert_eq!(before.state, after.state, "bookkeeping changes no state");
        assert_eq!(before.output, after.output);
    }
    assert_eq!(after.lease.is_some(), after.state.is_held());
    assert_eq!(after.end_time.is_some(), after.state.is_terminal());
    let leases: Vec<LeaseId> = after.slots().map(|slot| slot.lease_id).collect();
    let distinct: HashSet<LeaseId> = leases.iter().copied().collect();
    assert_eq!(leases.len(), distinct.len(), "one slot a lease");
    assert!(after.failures <= after.spec.retry.max_attempts.max(1));
    assert!(after.redispatches <= after.spec.max_redispatch);
    assert!(after.attempt >= before.attempt);
    assert_eq!(after.attempt, after.attempts.total());
    let sequences: Vec<u32> = after.events.iter().map(|event| event.sequence).collect();
    assert!(
        sequences.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "dense events"
    );
    // Every state that has not ended has somebody who moves it on: a clock, or a human.
    let has_clock = next_due(after).is_some();
    let waits_for_human = after.state == JobState::ApprovalRequired;
    assert!(after.state.is_terminal() || has_clock || waits_for_human);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_every_promise(
        max_attempts in 0..4_u32,
        max_redispatch in 0..4_u32,
        fail_on_loss in any::<bool>(),
        deadline in proptest::option::of(1..200_u64),
        happenings in proptest::collection::vec(happening(), 1..60),
    ) {
        let on_worker_loss =
            if fail_on_loss { WorkerLossPolicy::Fail } else { WorkerLossPolicy::Retry };
        let spec = JobSpec {
            max_redispatch,
            on_worker_loss,
            deadline_after: deadline.map(Duration::from_secs),
            timeout: Duration::from_secs(60),
            schedule_to_start_timeout: Duration::from_secs(100),
            ..retrying(max_attempts)
        };
        let mut job = pending(spec);
        let mut now = NOW;
        let mut leases = 0_u128;
        for happening in &happenings {
            if let Happening::Wait(seconds) = happening {
                now = now + Duration::from_secs(u64::from(*seconds));
            }
            let trigger = trigger(happening, leases, now);
            let kind = trigger.kind();
            if let Ok(Transition { job: after, applied, .. }) = apply(&job, trigger, now) {
                check(&job, &after, kind, applied);
                if kind == TriggerKind::Dispatch {
                    leases += 1;
                }
                job = after;
            }
        }
    }
}
