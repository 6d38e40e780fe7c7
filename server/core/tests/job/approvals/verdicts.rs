//! What verdicts, grants and cancels make of approvals, and what is kept of them.

use coretex_core::approval::binding;
use coretex_core::approval::{
    ApprovalState, ApprovalVerdict, MAX_APPROVALS, MAX_VOTES, VoteRefusal,
};
use coretex_core::job::transition::{Refusal, Trigger};
use coretex_core::job::{Job, JobSpec, JobState};
use coretex_core::payload::Payload;
use coretex_core::policy::Decision;
use coretex_core::policy::terms::{ApprovalTerms, OnExpire};

use super::{HOUR, approves, asks, judged, last, roles, votes, waiting};
use crate::support::{NOW, accepted, cancel, decision, dispatched, failure, finished, pending};
use crate::support::{retrying, spec, step};

#[test]
fn what_verdicts_make_of_a_pending_approval() {
    let later = NOW + HOUR;
    let other = ApprovalTerms {
        required: 2,
        ..ApprovalTerms::default()
    };
    let same = |snapshot: &str| {
        let mut decision = asks(ApprovalTerms::default(), later);
        decision.policy_snapshot = snapshot.to_owned();
        decision
    };
    let cases = [
        (
            decision(Decision::Allow, later),
            JobState::Pending,
            ApprovalState::Withdrawn,
        ),
        (
            decision(Decision::Throttle, later),
            JobState::Scheduled,
            ApprovalState::Withdrawn,
        ),
        (
            decision(Decision::Deny, later),
            JobState::Denied,
            ApprovalState::Withdrawn,
        ),
        (
            same("newer"),
            JobState::ApprovalRequired,
            ApprovalState::Pending,
        ),
        (
            asks(other, later),
            JobState::ApprovalRequired,
            ApprovalState::Withdrawn,
        ),
    ];
    for (verdict, state, first) in cases {
        let before = waiting(ApprovalTerms::default());
        let case = format!("{:?}", verdict.decision);
        let after = step(&before, judged(verdict), later).job;
        assert_eq!(
            (after.state, after.approvals[0].state),
            (state, first),
            "{case}"
        );
        let count = after.approvals.len();
        if state == JobState::ApprovalRequired {
            let decision = after.decision.as_ref().unwrap();
            assert_eq!(decision.approval_id, last(&after).id.as_str());
            assert_eq!(decision.terms, None);
            assert_eq!(
                count,
                if first == ApprovalState::Pending {
                    1
                } else {
                    2
                }
            );
            assert!(last(&after).is_pending());
        }
        if first == ApprovalState::Pending {
            assert_eq!(last(&after).policy_snapshot, "newer");
            assert_eq!(last(&after).create_time, NOW);
        }
    }
}

#[test]
fn what_verdicts_make_of_a_vote_that_has_just_decided() {
    let later = NOW + HOUR;
    let other = ApprovalTerms {
        required: 2,
        ..ApprovalTerms::default()
    };
    let mut granted = asks(ApprovalTerms::default(), later);
    granted.decision = Decision::AllowWithConstraints;
    let cases = [
        (granted, JobState::Pending, ApprovalState::Approved),
        (
            decision(Decision::Allow, later),
            JobState::Pending,
            ApprovalState::Approved,
        ),
        (
            decision(Decision::Deny, later),
            JobState::Denied,
            ApprovalState::Withdrawn,
        ),
        (
            asks(other, later),
            JobState::ApprovalRequired,
            ApprovalState::Withdrawn,
        ),
    ];
    for (verdict, state, first) in cases {
        let case = format!("{:?}", verdict.decision);
        let voted = approves(&waiting(ApprovalTerms::default()), "key:2").unwrap();
        assert_eq!(voted.state, JobState::ApprovalRequired);
        let after = step(&voted, judged(verdict), later).job;
        assert_eq!(
            (after.state, after.approvals[0].state),
            (state, first),
            "{case}"
        );
    }
}

#[test]
fn a_grant_is_for_the_same_rule_and_the_same_terms() {
    let voted = approves(&waiting(ApprovalTerms::default()), "key:2").unwrap();
    let mut yes = asks(ApprovalTerms::default(), NOW);
    yes.policy_snapshot = "newer".to_owned();
    assert_eq!(voted.grant(&yes), voted.approvals.first());
    let mut rule = yes.clone();
    rule.rule_id = "another".to_owned();
    let mut terms = yes.clone();
    terms.terms = Some(ApprovalTerms {
        reason_required: true,
        ..ApprovalTerms::default()
    });
    // What asks for no approval needs no grant.
    let allow = decision(Decision::Allow, NOW);
    for other in [rule, terms, allow] {
        assert_eq!(voted.grant(&other), None, "{other:?}");
    }
    // What is not given is no grant.
    assert_eq!(waiting(ApprovalTerms::default()).grant(&yes), None);
    // Another job with the same record otherwise has none.
    let moved = Job {
        id: coretex_core::id::JobId::from_trusted("j2"),
        ..voted
    };
    assert_eq!(moved.grant(&yes), None);
}

#[test]
fn the_hash_tells_everything_apart() {
    let job = pending(spec());
    let terms = ApprovalTerms::default();
    let of = |job: &Job| binding(job, "rule", &ApprovalTerms::default());
    let mut others = vec![of(&job), binding(&job, "rule2", &terms)];
    let changes: [fn(&mut Job); 6] = [
        |job| job.fingerprint = vec![2],
        |job| job.principal_id = "key:9".to_owned(),
        |job| job.tenant = coretex_core::id::TenantId::from_trusted("other"),
        |job| job.id = coretex_core::id::JobId::from_trusted("j2"),
        |job| job.input = Some(Payload::json("1".into())),
        |job| job.input = Some(Payload::json("2".into())),
    ];
    for change in changes {
        let mut changed = job.clone();
        change(&mut changed);
        others.push(of(&changed));
    }
    let asked = [
        ApprovalTerms {
            required: 2,
            ..terms.clone()
        },
        ApprovalTerms {
            roles: roles(&["ab", "c"]),
            ..terms.clone()
        },
        ApprovalTerms {
            roles: roles(&["a", "bc"]),
            ..terms.clone()
        },
        ApprovalTerms {
            expires_after: Some(HOUR),
            ..terms.clone()
        },
        ApprovalTerms {
            on_expire: OnExpire::Escalate,
            ..terms.clone()
        },
        ApprovalTerms {
            escalate_to: roles(&["ab"]),
            ..terms.clone()
        },
        ApprovalTerms {
            reason_required: true,
            ..terms.clone()
        },
    ];
    others.extend(asked.iter().map(|terms| binding(&job, "rule", terms)));
    let count = others.len();
    others.sort_unstable();
    others.dedup();
    assert_eq!(others.len(), count);
    assert!(others.iter().all(|hash| hash.len() == 32));
    // It is a stored format: the same for ever.
    let text: String = of(&job).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        text,
        "25038df7d6c957501d9b75bc5a119dbdce772a868cbdc327dbb19d079a7ef82f"
    );
}

#[test]
fn a_cancel_withdraws_it() {
    let ended = step(&waiting(ApprovalTerms::default()), cancel(30, false), NOW).job;
    assert_eq!(
        (ended.state, last(&ended).state),
        (JobState::Cancelled, ApprovalState::Withdrawn)
    );
    assert_eq!(ended.dead_letter, None);
}

#[test]
fn the_deadline_stands_still_across_verdicts_that_still_ask() {
    let limited = JobSpec {
        deadline_after: Some(HOUR),
        ..spec()
    };
    let mut job = accepted(limited, Decision::RequireApproval);
    let mut now = NOW;
    for _ in 0..3 {
        now = now + HOUR;
        job = step(&job, judged(decision(Decision::RequireApproval, now)), now).job;
        assert_eq!(job.state, JobState::ApprovalRequired);
    }
    now = now + HOUR;
    let job = step(&job, judged(decision(Decision::Allow, now)), now).job;
    assert_eq!(job.deadline, Some(now + HOUR));
}

#[test]
fn an_attempt_that_failed_before_is_not_why_it_was_denied() {
    let failed = step(&dispatched(retrying(3)), finished(1, failure()), NOW).job;
    let due = failed.eligible_time;
    let waits = step(&failed, Trigger::Due { fraction: 0.5 }, due).job;
    let asked = step(
        &waits,
        judged(decision(Decision::RequireApproval, due)),
        due,
    )
    .job;
    let denied = step(&asked, judged(decision(Decision::Deny, due)), due).job;
    assert_eq!(denied.dead_letter.unwrap().code, "safety_denied");
    let rejected = votes(&asked, "key:2", &["approver"], false, due).unwrap();
    assert_eq!(rejected.dead_letter.unwrap().code, "approval_rejected");
}

#[test]
fn what_a_job_keeps_is_bounded() {
    let mut job = waiting(ApprovalTerms::default());
    for count in 0..40 {
        let terms = ApprovalTerms {
            required: 1 + count % 2,
            ..ApprovalTerms::default()
        };
        job = step(&job, judged(asks(terms, NOW)), NOW).job;
    }
    assert_eq!(job.approvals.len(), MAX_APPROVALS);
    assert!(last(&job).is_pending());

    let mut job = waiting(ApprovalTerms {
        required: 1_000,
        ..ApprovalTerms::default()
    });
    for count in 0..MAX_VOTES {
        job = approves(&job, &format!("key:v{count}")).unwrap();
    }
    assert_eq!(
        approves(&job, "key:more"),
        Err(Refusal::Vote(VoteRefusal::Full))
    );
    let no = votes(&job, "key:more", &["approver"], false, NOW).unwrap();
    assert_eq!(no.state, JobState::Denied);
    assert_eq!(
        last(&no).votes.last().unwrap().verdict,
        ApprovalVerdict::Reject
    );
}
