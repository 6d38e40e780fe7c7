//! Jobs in the states that the tests begin in, and the triggers that move them.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::approval::{ApprovalVerdict, Ballot, Vote};
use coretex_core::id::{
    ApprovalId, JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId,
};
use coretex_core::job::transition::{NewJob, Outcome, Transition, Trigger, Verdict, accept, apply};
use coretex_core::job::{ErrorSource, Job, JobError, JobSpec};
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::retry::RetryPolicy;
use coretex_core::time::Timestamp;

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

pub(crate) fn decision(decision: Decision, now: Timestamp) -> Box<JobDecision> {
    let approval_id = match decision {
        Decision::RequireApproval => format!("approval-{}", now.as_micros()),
        _ => String::new(),
    };
    Box::new(JobDecision {
        reason: "because".to_owned(),
        rule_id: "rule".to_owned(),
        approval_id,
        retry_at: (decision == Decision::Throttle).then(|| now + Duration::from_secs(5)),
        ..JobDecision::plain(decision, "snapshot".to_owned(), now)
    })
}

pub(crate) fn spec() -> JobSpec {
    JobSpec::new(Topic::parse("job.test").unwrap())
}

pub(crate) fn accepted(spec: JobSpec, what: Decision) -> Job {
    accepted_with(spec, Verdict::Decided(decision(what, NOW)))
}

pub(crate) fn accepted_with(spec: JobSpec, verdict: Verdict) -> Job {
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
        unmapped: None,
        keep: None,
    };
    accept(new, verdict, NOW)
}

pub(crate) fn pending(spec: JobSpec) -> Job {
    accepted(spec, Decision::Allow)
}

pub(crate) fn dispatch(lease: u128) -> Trigger {
    Trigger::Dispatch {
        lease_id: LeaseId::new(lease),
        replica: ReplicaId::from_trusted("r1"),
        session: SessionId::from_trusted("s1"),
        worker_id: WorkerId::from_trusted("w1"),
        pool: PoolName::from_trusted("default"),
        concurrency_key: String::new(),
    }
}

pub(crate) fn dispatched(spec: JobSpec) -> Job {
    apply(&pending(spec), dispatch(1), NOW).unwrap().job
}

pub(crate) fn finished(lease: u128, outcome: Outcome) -> Trigger {
    Trigger::Finished {
        lease_id: LeaseId::new(lease),
        outcome,
        artifact_ids: Vec::new(),
        started_at: None,
        fraction: 0.5,
    }
}

pub(crate) fn success() -> Outcome {
    Outcome::Succeeded { output: None }
}

pub(crate) fn failure() -> Outcome {
    Outcome::Failed {
        error: JobError {
            code: "broken".to_owned(),
            message: "it broke".to_owned(),
            metadata: std::collections::BTreeMap::new(),
            source: ErrorSource::Worker,
        },
    }
}

pub(crate) fn cancel(grace: u64, force: bool) -> Trigger {
    Trigger::CancelRequested {
        principal_id: "key:2".to_owned(),
        reason: "enough".to_owned(),
        grace: Duration::from_secs(grace),
        force,
    }
}

pub(crate) fn step(job: &Job, trigger: Trigger, now: Timestamp) -> Transition {
    apply(job, trigger, now).unwrap()
}

pub(crate) fn retrying(max_attempts: u32) -> JobSpec {
    let retry = RetryPolicy {
        max_attempts,
        ..RetryPolicy::default()
    };
    JobSpec { retry, ..spec() }
}

/// A vote of an approver, on nothing yet.
pub(crate) fn ballot(principal_id: &str, approves: bool) -> Ballot {
    Ballot {
        vote: Vote {
            principal_id: principal_id.to_owned(),
            roles: vec!["approver".to_owned()],
            verdict: if approves {
                ApprovalVerdict::Approve
            } else {
                ApprovalVerdict::Reject
            },
            reason: String::new(),
            time: NOW,
        },
        approval_id: ApprovalId::from_trusted("nothing"),
        expected_hash: Vec::new(),
        answer: None,
        anonymous: false,
    }
}
