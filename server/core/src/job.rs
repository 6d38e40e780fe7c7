//! The job: its record, its states and their meaning.
//!
//! What was asked for is in `spec`. How a job changes is in [`transition`]; when it next has to be
//! looked at is in [`clock`]; what it remembers of itself is in [`history`]; what is written on one
//! that ended badly is in [`dead_letter`]; what its attempts stream while they run is in [`output`].

pub mod clock;
pub mod dead_letter;
pub mod history;
pub mod output;
mod spec;
pub mod transition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::approval::Approval;
use crate::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, WorkerId};
use crate::payload::Payload;
use crate::policy::JobDecision;
use crate::time::Timestamp;
use dead_letter::DeadLetter;
use history::{AttemptRecord, JobEvent, Ring};

pub use spec::{
    ActorType, Budget, CapFields, Concurrency, ConcurrencyAction, JobMetadata, JobSpec, McpCall,
    Placement, Priority, Slots, WorkerLossPolicy,
};

/// Where a job stands. Numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobState {
    /// Eligible: it waits for a slot, or for a verdict of the safety kernel.
    Pending = 1,
    /// Not eligible before a known time: start time, backoff or throttle.
    Scheduled = 2,
    /// Handed to a worker; it may already be running.
    Dispatched = 3,
    /// The worker said that it has started.
    Running = 4,
    /// Ended: the worker reported success.
    Succeeded = 5,
    /// Ended: the worker reported failure and no attempt is left, or it was lost for good.
    Failed = 6,
    /// Ended on request.
    Cancelled = 7,
    /// Ended by policy.
    Denied = 8,
    /// Ended by one of its clocks.
    Timeout = 9,
    /// Waits for a human.
    ApprovalRequired = 20,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Scheduled,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Denied,
        Self::Timeout,
        Self::ApprovalRequired,
    ];

    /// Whether nothing can happen any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Denied | Self::Timeout => true,
            Self::Pending
            | Self::Scheduled
            | Self::Dispatched
            | Self::Running
            | Self::ApprovalRequired => false,
        }
    }

    /// Whether a worker has it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running)
    }
}

/// Who is at fault in a [`JobError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorSource {
    /// Coretex ended it.
    Platform,
    /// The worker's own code and text.
    Worker,
}

/// Why work failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Machine-readable.
    pub code: String,
    /// For people.
    pub message: String,
    /// Further facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Who says so.
    pub source: ErrorSource,
}

impl JobError {
    /// An error that the platform found.
    #[must_use]
    pub fn platform(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            source: ErrorSource::Platform,
        }
    }
}

/// How far the worker says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// For people.
    pub message: String,
}

/// A place in a worker's session that an attempt occupies, until the worker has answered for it or
/// the session has ended. The index `held` has one entry for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The attempt.
    pub attempt: u32,
    /// Its lease.
    pub lease_id: LeaseId,
    /// The replica that owns the session.
    pub replica: ReplicaId,
    /// The session.
    pub session: SessionId,
}

/// The attempt that is out with a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Where it runs.
    pub slot: Slot,
    /// The worker's own name.
    pub worker_id: WorkerId,
    /// The worker's pool.
    pub pool: PoolName,
    /// When it was handed out.
    pub dispatch_time: Timestamp,
    /// When it times out.
    pub timeout_at: Timestamp,
    /// The key under which it counts as running; empty = none. Whose limit that is, its own or its
    /// topic's, was decided when it was handed out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub concurrency_key: String,
}

/// Why a job is SCHEDULED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduledFor {
    /// The caller's `not_before`.
    NotBefore,
    /// The pause after a failed attempt.
    Backoff,
    /// A throttling decision.
    Throttle,
}

/// A request to cancel that is still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// When it was asked for.
    pub time: Timestamp,
    /// When the job becomes CANCELLED whatever the worker does.
    pub terminal_at: Timestamp,
    /// Why, in the words of who asked.
    pub reason: String,
}

/// For how long a job is kept once it has ended: what the configuration of its tenant said when it was
/// accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// Without a dead letter; `None` = as the server keeps jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Duration>,
    /// With one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<Duration>,
}

/// A job, as one record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name within the tenant.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What was asked for.
    pub spec: Arc<JobSpec>,
    /// Who asked, from the credential.
    pub principal_id: String,
    /// For tracing; made by the server when the caller gave none.
    pub trace_id: String,
    /// SHA-256 of the canonical request.
    #[serde(with = "serde_bytes")]
    pub fingerprint: Vec<u8>,
    /// The caller's idempotency key; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub idempotency_key: String,
    /// The job that this one runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// What the worker gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,

    /// For how long it is kept once it has ended, where that is shorter than the server keeps jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,

    /// Where it stands.
    pub state: JobState,
    /// When it was accepted.
    pub create_time: Timestamp,
    /// When it last changed.
    pub update_time: Timestamp,
    /// When it last became eligible, or will be while SCHEDULED.
    pub eligible_time: Timestamp,
    /// When the worker first started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// When it has to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Why it is SCHEDULED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<ScheduledFor>,
    /// PENDING without a verdict: out of the ready index, judged again at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge_at: Option<Timestamp>,
    /// How often it was judged in vain since it last became eligible, for the backoff.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub judge_failures: u32,

    /// The number of the last attempt; 0 = none yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// Attempts that the worker failed or that timed out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Attempts lost with a worker or server.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub redispatches: u32,
    /// The attempt that is out now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Slots of earlier attempts that their workers have not answered for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreleased: Vec<Slot>,
    /// The open request to cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CancelRequest>,

    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What the worker returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// Why it failed (the last attempt that did).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// Artifacts that the worker named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifact_ids: Vec<String>,
    /// It ended badly and nobody has dealt with that yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// The decision in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<JobDecision>,
    /// The approvals that were asked for, oldest first. It waits for the last, if that is pending;
    /// those that were given are its grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,

    /// The last events.
    pub events: Ring<JobEvent>,
    /// The last decisions before the one in force.
    #[serde(default, skip_serializing_if = "Ring::is_empty")]
    pub decisions: Ring<JobDecision>,
    /// The last attempts.
    #[serde(default, skip_serializing_if = "Ring::is_empty")]
    pub attempts: Ring<AttemptRecord>,
}

impl Job {
    /// Whether `lease_id` is that of the attempt that is out now.
    #[must_use]
    pub fn holds(&self, lease_id: LeaseId) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.slot.lease_id == lease_id)
    }

    /// Every slot that the job occupies.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.lease
            .iter()
            .map(|lease| &lease.slot)
            .chain(&self.unreleased)
    }

    /// Since when it waits for its turn: its acceptance, or the start time that it asked for.
    #[must_use]
    pub fn waits_since(&self) -> Timestamp {
        self.spec
            .not_before
            .map_or(self.create_time, |start| start.max(self.create_time))
    }

    /// When it is to be deleted, if that is earlier than the server deletes jobs; `None` also while it
    /// has not ended.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        let keep = self.keep.filter(|_| self.state.is_terminal())?;
        let kept = match self.dead_letter {
            Some(_) => keep.dead,
            None => keep.ended,
        };
        Some(self.end_time.unwrap_or(self.update_time) + kept?)
    }

    /// Whether it stands in the ready index: PENDING with a verdict.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == JobState::Pending && self.judge_at.is_none()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
