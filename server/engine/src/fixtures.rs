//! Stored formats: one file of bytes for every format that was ever written. What an earlier build
//! wrote is read by this one, and this build writes the current format as it always has.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::approval::{Approval, ApprovalState, ApprovalVerdict, Vote};
use coretex_core::id::{
    ApprovalId, JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId,
};
use coretex_core::job::dead_letter::DeadLetter;
use coretex_core::job::output::{Arrived, Channel, Chunk, OutputRecord, Page};
use coretex_core::job::transition::{NewJob, Outcome, Trigger, Verdict, accept, apply};
use coretex_core::job::{
    ActorType, Budget, CapFields, ErrorSource, Job, JobError, JobMetadata, JobSpec, Keep, McpCall,
    Placement, Priority, Progress, Slots, WorkerLossPolicy,
};
use coretex_core::payload::Payload;
use coretex_core::policy::terms::{ApprovalTerms, OnExpire};
use coretex_core::policy::{Constraints, Decision, JobDecision, Remediation};
use coretex_core::retry::RetryPolicy;
use coretex_core::time::Timestamp;
use coretex_store::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::keys::KEY_FORMAT;
use crate::access::{ApiKey, Role};
use crate::approvals::{ApprovalEvent, ApprovalEventKind};
use crate::commits::{IDEMPOTENCY_FORMAT, IdempotencyRecord, JOB_FORMAT, LOG_FORMAT, LogEntry};
use crate::configs::record::{CONFIG_FORMAT, ConfigRecord, PastRecord, UsageRecord};
use crate::jobs::output::OUTPUT_FORMAT;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn decision() -> JobDecision {
    JobDecision {
        time: NOW,
        attempt: 0,
        decision: Decision::AllowWithConstraints,
        reason: "within limits".to_owned(),
        rule_id: "rule-1".to_owned(),
        policy_snapshot: "snapshot-1".to_owned(),
        constraints: Some(Constraints {
            max_runtime: Some(Duration::from_secs(90)),
            allowed_tools: vec!["grep".to_owned()],
            ..Constraints::default()
        }),
        approval_id: "approval-1".to_owned(),
        terms: None,
        remediations: vec![Remediation {
            id: "r1".to_owned(),
            ..Remediation::default()
        }],
        retry_at: Some(NOW),
        bucket: String::new(),
        taken: Vec::new(),
        config_hash: String::new(),
    }
}

fn spec() -> JobSpec {
    JobSpec {
        team_id: "team".to_owned(),
        priority: Priority::Critical,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        metadata: JobMetadata {
            capability: "write".to_owned(),
            risk_tags: vec!["network".to_owned()],
            requires: vec!["gpu".to_owned()],
            pack_id: "pack".to_owned(),
            actor_id: "alice".to_owned(),
            actor_type: Some(ActorType::Human),
            mcp: Some(McpCall {
                server: "files".to_owned(),
                ..McpCall::default()
            }),
        },
        placement: Placement {
            preferred_pool: Some(PoolName::from_trusted("fast")),
            preferred_worker_id: Some(WorkerId::from_trusted("w9")),
            worker_labels: [("zone".to_owned(), "a".to_owned())].into(),
            slots: Slots::ONE,
        },
        budget: Some(Budget {
            max_input_tokens: 1,
            max_output_tokens: 2,
            max_total_tokens: 3,
        }),
        estimated_cost: Some(0.25),
        retry: RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        },
        on_worker_loss: WorkerLossPolicy::Fail,
        deadline_after: Some(Duration::from_secs(600)),
        not_before: Some(NOW),
        confirm_start: true,
        memory_id: "memory".to_owned(),
        parent_job_id: Some(JobId::from_trusted("parent")),
        cap: Some(CapFields {
            adapter_id: "adapter".to_owned(),
            ..CapFields::default()
        }),
        ..JobSpec::new(Topic::from_trusted("job.fixture"))
    }
}

/// A job that has been through much, so that every part of its record is there.
fn job() -> Job {
    let new = NewJob {
        id: JobId::from_trusted("job-1"),
        tenant: TenantId::from_trusted("acme"),
        spec: Arc::new(spec()),
        principal_id: "key:1".to_owned(),
        trace_id: "00112233445566778899aabbccddeeff".to_owned(),
        fingerprint: vec![7; 32],
        idempotency_key: "key-1".to_owned(),
        rerun_of: Some(JobId::from_trusted("job-0")),
        input: Some(Payload::json("{\"n\":1}".into())),
        unmapped: None,
        keep: None,
    };
    let mut job = accept(new, Verdict::Decided(Box::new(decision())), NOW);
    let error = JobError {
        code: "broken".to_owned(),
        message: "it broke".to_owned(),
        metadata: [("line".to_owned(), "7".to_owned())].into(),
        source: ErrorSource::Worker,
    };
    let lease_id = LeaseId::new(0x1234);
    let dispatch = |lease_id| Trigger::Dispatch {
        lease_id,
        replica: ReplicaId::from_trusted("r-1"),
        session: SessionId::from_trusted("s-1"),
        worker_id: WorkerId::from_trusted("w-1"),
        pool: PoolName::from_trusted("default"),
        concurrency_key: String::new(),
    };
    let finished = |lease_id, outcome| Trigger::Finished {
        lease_id,
        outcome,
        artifact_ids: vec!["artifact-1".to_owned()],
        started_at: Some(NOW),
        fraction: 0.5,
    };
    let again = LeaseId::new(0x5678);
    let steps = [
        dispatch(lease_id),
        finished(lease_id, Outcome::Failed { error }),
        Trigger::Due { fraction: 0.5 },
        dispatch(again),
        Trigger::Progressed {
            lease_id: again,
            progress: Progress {
                percent: 40,
                message: "on it".to_owned(),
            },
            started_at: Some(NOW),
        },
        Trigger::CancelRequested {
            principal_id: "key:2".to_owned(),
            reason: "enough".to_owned(),
            grace: Duration::from_secs(30),
            force: false,
        },
        Trigger::Due { fraction: 0.5 },
    ];
    let mut now = NOW;
    for step in steps {
        now = now + Duration::from_secs(40);
        job = apply(&job, step, now).unwrap().job;
    }
    job
}

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    name: &str,
    format: u8,
    value: &T,
) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}-{format}.hex"));
    let written = codec::encode(format, value).unwrap();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| {
        let digits: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&path, digits).unwrap();
        panic!(
            "there was no fixture {}; it has been written: keep it",
            path.display()
        );
    });
    let stored: Vec<u8> = (0..text.trim().len() / 2)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    let (found, read) = codec::decode::<T>(&stored).unwrap();
    assert_eq!(found, format, "{name}");
    assert_eq!(
        read, *value,
        "{name}: what was stored is read as something else"
    );
    assert_eq!(
        written, stored,
        "{name}: the format has changed without a new number"
    );
}

#[test]
fn jobs() {
    check("job", JOB_FORMAT, &job());
}

#[test]
fn jobs_with_a_dead_letter() {
    let letter = DeadLetter {
        code: "max_attempts_exceeded".to_owned(),
        source: ErrorSource::Platform,
        time: NOW,
    };
    let dead = Job {
        dead_letter: Some(letter),
        ..job()
    };
    check("job-dead-letter", JOB_FORMAT, &dead);
}

/// One that was approved, and one that waits for a second voter after an escalation.
fn approvals() -> Vec<Approval> {
    let terms = ApprovalTerms {
        roles: vec!["approver".to_owned()],
        required: 2,
        expires_after: Some(Duration::from_secs(3_600)),
        on_expire: OnExpire::Escalate,
        escalate_to: vec!["operator".to_owned()],
        reason_required: true,
        ..ApprovalTerms::default()
    };
    let vote = Vote {
        principal_id: "key:3".to_owned(),
        roles: vec!["approver".to_owned()],
        verdict: ApprovalVerdict::Approve,
        reason: "looked at it".to_owned(),
        time: NOW,
    };
    let mut open = Approval::open(&job(), &decision(), terms, NOW);
    open.escalate_time = Some(NOW);
    open.votes.push(vote);
    let given = Approval {
        id: ApprovalId::from_trusted("approval-0"),
        state: ApprovalState::Approved,
        answer: Some("{\"limit\":5}".to_owned()),
        resolve_time: Some(NOW),
        resolution: "approved by key:3".to_owned(),
        terms: ApprovalTerms::default(),
        ..open.clone()
    };
    vec![given, open]
}

#[test]
fn jobs_with_approvals() {
    let asked = Job {
        approvals: approvals(),
        ..job()
    };
    check("job-approvals", JOB_FORMAT, &asked);
}

#[test]
fn log_entries_about_approvals() {
    let entry = LogEntry {
        tenant: TenantId::from_trusted("acme"),
        job_id: JobId::from_trusted("job-1"),
        events: Vec::new(),
        decision: None,
        approvals: vec![ApprovalEvent {
            approval_id: ApprovalId::from_trusted("approval-1"),
            kind: ApprovalEventKind::Escalated,
            state: ApprovalState::Pending,
            time: NOW,
        }],
    };
    check("log-approvals", LOG_FORMAT, &entry);
}

#[test]
fn decisions_about_later_attempts() {
    let about_the_second = JobDecision {
        attempt: 2,
        ..decision()
    };
    check("decision", JOB_FORMAT, &about_the_second);
}

#[test]
fn log_entries() {
    let job = job();
    let entry = LogEntry {
        tenant: job.tenant.clone(),
        job_id: job.id.clone(),
        events: job.events.iter().cloned().collect(),
        decision: job.decision,
        approvals: Vec::new(),
    };
    check("log", LOG_FORMAT, &entry);
}

#[test]
fn idempotency_records() {
    let record = IdempotencyRecord {
        job_id: JobId::from_trusted("job-1"),
        fingerprint: vec![7; 32],
        create_time: NOW,
    };
    check("idempotency", IDEMPOTENCY_FORMAT, &record);
}

#[test]
fn api_keys() {
    let key = ApiKey {
        key_id: "0011223344556677".to_owned(),
        display_name: "first".to_owned(),
        tenant: TenantId::from_trusted("acme"),
        roles: [Role::Admin, Role::Worker].into(),
        team_ids: ["team".to_owned()].into(),
        tenants_served: ["acme".to_owned()].into(),
        system: true,
        create_time: NOW,
        expire_time: Some(NOW + Duration::from_secs(60)),
        last_used_time: Some(NOW),
        revoke_time: None,
        secret_hash: vec![9; 32],
    };
    check("key", KEY_FORMAT, &key);
    let revoked = ApiKey {
        revoke_time: Some(NOW + Duration::from_secs(30)),
        ..key
    };
    check("key-revoked", KEY_FORMAT, &revoked);
}

#[test]
fn jobs_that_are_kept_for_a_shorter_time() {
    let kept = Job {
        keep: Some(Keep {
            ended: Some(Duration::from_secs(3_600)),
            dead: Some(Duration::from_secs(7_200)),
        }),
        ..job()
    };
    check("job-keep", JOB_FORMAT, &kept);
}

#[test]
fn documents_of_configuration() {
    let document = ConfigRecord {
        revision: 3,
        data: r#"{"models":{"default":"m"}}"#.to_owned(),
        create_time: NOW,
        update_time: NOW + Duration::from_secs(1),
        principal_id: "key:alice".to_owned(),
        past: vec![26, 0],
    };
    check("config", CONFIG_FORMAT, &document);
    let deleted = ConfigRecord {
        data: String::new(),
        ..document
    };
    check("config-deleted", CONFIG_FORMAT, &deleted);
    let past = PastRecord {
        data: r#"{"models":{"default":"m"}}"#.to_owned(),
        etag: "7".to_owned(),
        time: NOW,
        principal_id: "key:alice".to_owned(),
    };
    check("config-past", CONFIG_FORMAT, &past);
    let usage = UsageRecord {
        documents: 2,
        bytes: 52,
    };
    check("config-usage", CONFIG_FORMAT, &usage);
}

#[test]
fn streamed_output() {
    let arrived = |channel, sequence, data: &'static [u8]| Arrived {
        chunk: Chunk {
            channel,
            sequence,
            time: NOW,
            data: data.into(),
        },
        after_hole: false,
    };
    let mut record = OutputRecord::default();
    // Nothing more of log lines is kept.
    record.log.dropped_chunks = 2;
    record.log.dropped_bytes = 300;
    let pieces = [
        arrived(Channel::Output, 1, b"once"),
        arrived(Channel::Output, 2, b""),
        arrived(Channel::Log, 1, b"line"),
    ];
    let record = record.append(3, &pieces).record;
    check("stream", OUTPUT_FORMAT, &record);
    let page = Page {
        attempt: 3,
        entries: record.tail,
    };
    check("page", OUTPUT_FORMAT, &page);
}
