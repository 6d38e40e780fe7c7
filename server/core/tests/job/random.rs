//! Random histories of one job: whatever happens to it, what is promised of every move holds.

use std::collections::HashSet;
use std::time::Duration;

use coretex_core::approval::{Approval, ApprovalState, MAX_APPROVALS, Vote};
use coretex_core::id::{LeaseId, ReplicaId, SessionId};
use coretex_core::job::clock::next_due;
use coretex_core::job::transition::{Outcome, Transition, Trigger, TriggerKind, apply, targets};
use coretex_core::job::{Job, JobSpec, JobState, Progress, WorkerLossPolicy};
use coretex_core::policy::Decision;
use coretex_core::policy::terms::{ApprovalTerms, OnExpire};
use coretex_core::time::Timestamp;
use proptest::prelude::*;

use crate::support::{
    NOW, ballot, cancel, decision, dispatch, failure, finished, pending, retrying, success,
};

/// A random thing that happens to a job.
#[derive(Clone, Debug)]
enum Happening {
    Judged(u8),
    Voted(u8, bool),
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
        2 => (0..4_u8, any::<bool>()).prop_map(|(who, yes)| Happening::Voted(who, yes)),
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
fn trigger(happening: &Happening, job: &Job, leases: u128, now: Timestamp) -> Trigger {
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
            let mut decision = decision(what, now);
            // Rules with different terms: whoever has approved one has not approved the other.
            decision.terms = Some(ApprovalTerms {
                required: 1 + now.as_micros() as u32 % 2,
                expires_after: Some(Duration::from_secs(50)),
                on_expire: OnExpire::Escalate,
                escalate_to: vec!["operator".to_owned()],
                ..ApprovalTerms::default()
            });
            if let Some(grant) = job.grant(&decision) {
                decision.approval_id = grant.id.to_string();
                decision.decision = Decision::Allow;
            }
            Trigger::Judged { decision }
        }
        Happening::Voted(who, yes) => {
            let asked = job.approvals.last();
            let mut ballot = ballot(&format!("key:{who}"), *yes);
            if let Some(asked) = asked {
                ballot.approval_id = asked.id.clone();
                ballot.expected_hash.clone_from(&asked.hash);
            }
            Trigger::Voted {
                ballot: Box::new(ballot),
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
    let ended_badly = matches!(
        after.state,
        JobState::Failed | JobState::Denied | JobState::Timeout
    );
    assert_eq!(after.dead_letter.is_some(), ended_badly);
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
    check_approvals(after);
    // Every state that has not ended has somebody who moves it on: a clock, or a human.
    let has_clock = next_due(after).is_some();
    let waits_for_human = after.state == JobState::ApprovalRequired;
    assert!(after.state.is_terminal() || has_clock || waits_for_human);
}

fn check_approvals(job: &Job) {
    let pending = |approval: &&Approval| approval.is_pending();
    assert!(job.approvals.iter().filter(pending).count() <= 1);
    assert!(job.approvals.len() <= MAX_APPROVALS);
    for approval in &job.approvals {
        assert_eq!(approval.resolve_time.is_some(), !approval.is_pending());
        assert_eq!(approval.resolution.is_empty(), approval.is_pending());
        if approval.state == ApprovalState::Approved {
            assert_eq!(approval.missing(), 0);
        }
        let own = |vote: &Vote| vote.principal_id == job.principal_id;
        assert!(!approval.votes.iter().any(own), "who asked has no vote");
    }
    let waits = job.state == JobState::ApprovalRequired;
    let last = job.approvals.last();
    // Between a deciding vote and its verdict the last one is approved.
    let decided = last.is_some_and(|last| last.state == ApprovalState::Approved);
    assert_eq!(
        job.approvals.iter().any(|approval| pending(&approval)) || (waits && decided),
        waits
    );
    if waits {
        let id = last.map(|last| last.id.to_string());
        assert_eq!(id, job.decision.as_ref().map(|one| one.approval_id.clone()));
    }
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
            let trigger = trigger(happening, &job, leases, now);
            let kind = trigger.kind();
            if let Ok(Transition { job: after, applied, .. }) = apply(&job, trigger, now) {
                check(&job, &after, kind, applied);
                if kind == TriggerKind::Dispatch {
                    leases += 1;
                }
                job = after;
                // What a vote has decided is judged in the same change.
                if job.state == JobState::ApprovalRequired && job.pending_approval().is_none() {
                    let verdict = self::trigger(&Happening::Judged(2), &job, leases, now);
                    let after = apply(&job, verdict, now).unwrap().job;
                    check(&job, &after, TriggerKind::Judged, true);
                    job = after;
                }
            }
        }
    }
}
