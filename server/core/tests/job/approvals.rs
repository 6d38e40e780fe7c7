//! Approvals: who has a vote, what votes, time, verdicts and cancels make of them.

mod verdicts;

use std::time::Duration;

use coretex_core::approval::{Approval, ApprovalState, Ballot, VoteRefusal};
use coretex_core::job::clock::{Due, due, next_due};
use coretex_core::job::history::EventType;
use coretex_core::job::transition::{Refusal, Trigger, apply};
use coretex_core::job::{Job, JobState};
use coretex_core::policy::terms::{ApprovalTerms, ApproverGroup, OnExpire};
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::time::Timestamp;

use crate::support::{NOW, ballot, decision, pending, spec, step};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn roles(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A verdict that asks for an approval.
pub(crate) fn asks(terms: ApprovalTerms, now: Timestamp) -> Box<JobDecision> {
    let mut decision = decision(Decision::RequireApproval, now);
    decision.terms = Some(terms);
    decision
}

pub(crate) fn judged(decision: Box<JobDecision>) -> Trigger {
    Trigger::Judged { decision }
}

/// A job that waits for an approval of these terms.
pub(crate) fn waiting(terms: ApprovalTerms) -> Job {
    let job = step(&pending(spec()), judged(asks(terms, NOW)), NOW).job;
    assert_eq!(job.state, JobState::ApprovalRequired);
    job
}

pub(crate) fn last(job: &Job) -> &Approval {
    job.approvals.last().unwrap()
}

/// A ballot on what the job waits for.
fn on(job: &Job, ballot: Ballot) -> Trigger {
    let ballot = Ballot {
        approval_id: last(job).id.clone(),
        expected_hash: last(job).hash.clone(),
        ..ballot
    };
    Trigger::Voted {
        ballot: Box::new(ballot),
    }
}

pub(crate) fn votes(
    job: &Job,
    who: &str,
    held: &[&str],
    approves: bool,
    now: Timestamp,
) -> Result<Job, Refusal> {
    let mut ballot = ballot(who, approves);
    ballot.vote.roles = roles(held);
    apply(job, on(job, ballot), now).map(|done| done.job)
}

pub(crate) fn approves(job: &Job, who: &str) -> Result<Job, Refusal> {
    votes(job, who, &["approver"], true, NOW)
}

#[test]
fn who_has_a_vote() {
    let named = |names: &[&str]| ApprovalTerms {
        roles: roles(names),
        ..ApprovalTerms::default()
    };
    type Case<'a> = (
        &'a [&'a str],
        &'a str,
        &'a [&'a str],
        bool,
        Option<VoteRefusal>,
    );
    let cases: &[Case<'_>] = &[
        (&[], "key:2", &["approver"], false, None),
        (&[], "key:2", &["admin"], false, None),
        (&[], "key:2", &["viewer", "approver"], false, None),
        (&[], "key:2", &["operator"], false, Some(VoteRefusal::Role)),
        (&[], "key:2", &[], false, Some(VoteRefusal::Role)),
        (&["operator"], "key:2", &["operator"], false, None),
        (
            &["operator"],
            "key:2",
            &["admin"],
            false,
            Some(VoteRefusal::Role),
        ),
        // Who asked has no vote, whatever the roles; unless there are no credentials.
        (
            &[],
            "key:1",
            &["admin"],
            false,
            Some(VoteRefusal::Requester),
        ),
        (&[], "key:1", &["admin"], true, None),
    ];
    for (wanted, who, held, anonymous, should) in cases {
        for approves in [true, false] {
            let job = waiting(named(wanted));
            let mut ballot = ballot(who, approves);
            ballot.vote.roles = roles(held);
            ballot.anonymous = *anonymous;
            let found = apply(&job, on(&job, ballot), NOW).err();
            let case = format!("{who} {held:?} of {wanted:?}");
            assert_eq!(found, should.map(Refusal::Vote), "{case}");
        }
    }
}

#[test]
fn a_vote_is_about_what_was_shown() {
    let job = waiting(ApprovalTerms::default());
    let Trigger::Voted { ballot } = on(&job, ballot("key:2", true)) else {
        unreachable!()
    };
    let other = Ballot {
        expected_hash: vec![0; 32],
        ..(*ballot).clone()
    };
    let cast = |ballot: Ballot| {
        let ballot = Box::new(ballot);
        apply(&job, Trigger::Voted { ballot }, NOW).map(|done| done.job)
    };
    let refused = |why| Err(Refusal::Vote(why));
    assert_eq!(cast(other), refused(VoteRefusal::HashMismatch));
    let elsewhere = Ballot {
        approval_id: coretex_core::id::ApprovalId::from_trusted("other"),
        ..(*ballot).clone()
    };
    assert_eq!(cast(elsewhere), refused(VoteRefusal::Resolved));
    assert!(cast(*ballot).is_ok());
}

#[test]
fn as_many_as_are_asked_for_approve_and_one_rejects() {
    let two = ApprovalTerms {
        required: 2,
        ..ApprovalTerms::default()
    };
    let job = waiting(two.clone());
    let job = approves(&job, "key:2").unwrap();
    assert_eq!(
        (last(&job).state, last(&job).missing()),
        (ApprovalState::Pending, 1)
    );
    assert_eq!(job.events.last().unwrap().kind, EventType::ApprovalVoted);
    // The same again changes nothing, however often.
    assert_eq!(approves(&job, "key:2"), Err(Refusal::Unchanged));
    let done = approves(&job, "key:3").unwrap();
    assert_eq!(
        (last(&done).state, last(&done).votes.len()),
        (ApprovalState::Approved, 2)
    );

    // A later rejection wins over one's own approval, too.
    for who in ["key:2", "key:4"] {
        let mut no = ballot(who, false);
        no.vote.reason = "not today".to_owned();
        let rejected = apply(&job, on(&job, no), NOW).unwrap().job;
        assert_eq!(last(&rejected).state, ApprovalState::Rejected);
        assert_eq!(rejected.state, JobState::Denied);
        assert_eq!(
            rejected.dead_letter.as_ref().unwrap().code,
            "approval_rejected"
        );
        let text = format!("rejected by {who}: not today");
        assert_eq!(rejected.dead_letter_message(), text);
        assert_eq!(rejected.events.last().unwrap().kind, EventType::Denied);
        // Nothing is said after the end.
        let late = votes(&rejected, "key:5", &["approver"], true, NOW);
        assert!(matches!(late, Err(Refusal::Illegal { .. })));
    }
}

#[test]
fn every_group_has_to_approve_and_one_vote_counts_in_each() {
    let both = ApprovalTerms {
        roles: roles(&["operator"]),
        required: 2,
        also: vec![ApproverGroup {
            roles: roles(&["auditor"]),
            required: 1,
        }],
        ..ApprovalTerms::default()
    };
    let job = waiting(both);
    assert_eq!(last(&job).approver_roles(), roles(&["auditor", "operator"]));
    let job = votes(&job, "key:2", &["operator"], true, NOW).unwrap();
    let alone = votes(&job, "key:3", &["operator"], true, NOW).unwrap();
    assert_eq!(
        (last(&alone).state, last(&alone).missing()),
        (ApprovalState::Pending, 1)
    );
    let with = votes(&job, "key:3", &["auditor", "operator"], true, NOW).unwrap();
    assert_eq!(last(&with).state, ApprovalState::Approved);
}

#[test]
fn a_reason_is_asked_for_where_the_rule_wants_one() {
    let job = waiting(ApprovalTerms {
        reason_required: true,
        ..ApprovalTerms::default()
    });
    for (reason, taken) in [("", false), ("  ", false), ("seen it", true)] {
        for approves in [true, false] {
            let mut ballot = ballot("key:2", approves);
            ballot.vote.reason = reason.to_owned();
            let found = apply(&job, on(&job, ballot), NOW);
            assert_eq!(found.is_ok(), taken, "{reason:?}");
        }
    }
}

#[test]
fn nobody_answers_in_time() {
    let terms = ApprovalTerms {
        expires_after: Some(HOUR),
        ..ApprovalTerms::default()
    };
    let job = waiting(terms.clone());
    let over = NOW + HOUR;
    assert_eq!(next_due(&job), Some(over));
    assert_eq!(due(&job, over), Some(Due::ApprovalExpiry));
    let early = apply(
        &job,
        Trigger::Due { fraction: 0.0 },
        over - Duration::from_micros(1),
    );
    assert_eq!(early, Err(Refusal::Unchanged));
    let expired = step(&job, Trigger::Due { fraction: 0.0 }, over).job;
    assert_eq!(
        (expired.state, last(&expired).state),
        (JobState::Denied, ApprovalState::Expired)
    );
    assert_eq!(
        expired.dead_letter.as_ref().unwrap().code,
        "approval_expired"
    );
    assert!(!expired.dead_letter_message().is_empty());
    // Without a time it waits for ever.
    assert_eq!(next_due(&waiting(ApprovalTerms::default())), None);
}

#[test]
fn an_escalation_gives_others_a_vote_once_and_as_long_again() {
    let terms = ApprovalTerms {
        roles: roles(&["approver"]),
        required: 2,
        expires_after: Some(HOUR),
        on_expire: OnExpire::Escalate,
        escalate_to: roles(&["operator"]),
        ..ApprovalTerms::default()
    };
    let job = waiting(terms);
    let operator = |job: &Job, who: &str, now| votes(job, who, &["operator"], true, now);
    assert_eq!(
        operator(&job, "key:2", NOW),
        Err(Refusal::Vote(VoteRefusal::Role))
    );
    let job = approves(&job, "key:3").unwrap();
    let first = NOW + HOUR;
    let escalated = step(&job, Trigger::Due { fraction: 0.0 }, first).job;
    assert_eq!(escalated.state, JobState::ApprovalRequired);
    assert_eq!(
        escalated.events.last().unwrap().kind,
        EventType::ApprovalEscalated
    );
    assert_eq!(next_due(&escalated), Some(first + HOUR));
    // What was said before counts on, and a person counts once.
    assert_eq!(last(&escalated).missing(), 1);
    let twice = votes(&escalated, "key:3", &["approver", "operator"], true, first).unwrap();
    assert_eq!(last(&twice).missing(), 1);
    let done = operator(&escalated, "key:2", first).unwrap();
    assert_eq!(last(&done).state, ApprovalState::Approved);
    let over = step(&escalated, Trigger::Due { fraction: 0.0 }, first + HOUR).job;
    assert_eq!(
        (over.state, last(&over).state),
        (JobState::Denied, ApprovalState::Expired)
    );
}

#[test]
fn time_alone_approves_nothing() {
    // The operator's vote counts for the second group; by an escalation it does not become one for
    // the first until it is cast again.
    let terms = ApprovalTerms {
        roles: roles(&["approver"]),
        also: vec![ApproverGroup {
            roles: roles(&["operator"]),
            required: 1,
        }],
        expires_after: Some(HOUR),
        on_expire: OnExpire::Escalate,
        escalate_to: roles(&["operator"]),
        ..ApprovalTerms::default()
    };
    let job = votes(&waiting(terms), "key:2", &["operator"], true, NOW).unwrap();
    let escalated = step(&job, Trigger::Due { fraction: 0.0 }, NOW + HOUR).job;
    assert_eq!(
        (last(&escalated).state, last(&escalated).missing()),
        (ApprovalState::Pending, 1)
    );
    let again = votes(&escalated, "key:2", &["operator"], true, NOW + HOUR).unwrap();
    assert_eq!(last(&again).state, ApprovalState::Approved);
}
