//! The table, and moves one by one: results, failures, losses, cancels, clocks, verdicts.

use std::collections::BTreeSet;
use std::time::Duration;

use coretex_core::id::LeaseId;
use coretex_core::job::clock::{Due, due, next_due};
use coretex_core::job::history::{AttemptEnd, EventType};
use coretex_core::job::transition::{
    Effect, Outcome, Refusal, Trigger, TriggerKind, apply, targets,
};
use coretex_core::job::{JobSpec, JobState, ScheduledFor, WorkerLossPolicy};
use coretex_core::policy::Decision;

use crate::support::{
    NOW, accepted, cancel, decision, dispatch, dispatched, failure, finished, pending, retrying,
    spec, step, success,
};

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
fn a_forced_cancel_says_nothing_of_an_earlier_failure() {
    let failed = step(&dispatched(retrying(3)), finished(1, failure()), NOW).job;
    let waiting = step(
        &failed,
        Trigger::Due { fraction: 0.5 },
        failed.eligible_time,
    )
    .job;
    let again = step(&waiting, dispatch(2), failed.eligible_time).job;
    let ended = step(&again, cancel(0, true), failed.eligible_time).job;
    let last = ended.attempts.last().unwrap();
    assert_eq!(
        (last.attempt, last.end, last.error.as_ref()),
        (2, Some(AttemptEnd::Cancelled), None)
    );
}

#[test]
fn a_job_whose_cancel_is_open_ends_cancelled_when_its_time_runs_out() {
    let limited = [
        JobSpec {
            deadline_after: Some(Duration::from_secs(10)),
            ..spec()
        },
        JobSpec {
            timeout: Duration::from_secs(10),
            ..retrying(3)
        },
    ];
    for spec in limited {
        let asked = step(&dispatched(spec), cancel(60, false), NOW).job;
        let over = NOW + Duration::from_secs(10);
        assert_eq!(next_due(&asked), Some(over));
        let ended = step(&asked, Trigger::Due { fraction: 0.5 }, over);
        assert_eq!(
            (ended.job.state, &ended.job.error),
            (JobState::Cancelled, &None)
        );
        assert_eq!(ended.job.slots().count(), 1, "the worker has not answered");
        assert!(matches!(
            ended.effects.as_slice(),
            [Effect::TellRevoke { .. }]
        ));
    }
}

#[test]
fn an_answer_for_an_old_attempt_does_not_shorten_the_deadline_under_approval() {
    let spec = JobSpec {
        deadline_after: Some(Duration::from_secs(60)),
        timeout: Duration::from_secs(10),
        ..retrying(3)
    };
    let timed_out = step(
        &dispatched(spec),
        Trigger::Due { fraction: 0.5 },
        NOW + Duration::from_secs(10),
    )
    .job;
    let asked_at = timed_out.eligible_time;
    let waiting = step(&timed_out, Trigger::Due { fraction: 0.5 }, asked_at).job;
    let verdict = |what, now| Trigger::Judged {
        decision: decision(what, now),
    };
    let asked = step(
        &waiting,
        verdict(Decision::RequireApproval, asked_at),
        asked_at,
    )
    .job;
    assert_eq!(asked.state, JobState::ApprovalRequired);
    let late = step(
        &asked,
        finished(1, success()),
        asked_at + Duration::from_secs(50),
    )
    .job;
    assert_eq!(late.state, JobState::ApprovalRequired);
    let granted_at = asked_at + Duration::from_secs(100);
    let granted = step(&late, verdict(Decision::Allow, granted_at), granted_at).job;
    assert_eq!(
        granted.deadline,
        asked
            .deadline
            .map(|deadline| deadline + Duration::from_secs(100))
    );
}

#[test]
fn a_throttle_does_not_bring_a_job_forward() {
    let at = NOW + Duration::from_secs(3_600);
    let throttled = accepted(
        JobSpec {
            not_before: Some(at),
            ..spec()
        },
        Decision::Throttle,
    );
    assert_eq!(
        (
            throttled.state,
            next_due(&throttled),
            throttled.scheduled_for
        ),
        (JobState::Scheduled, Some(at), Some(ScheduledFor::NotBefore))
    );
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
