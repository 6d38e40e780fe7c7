//! What makes a job change: the triggers and their kinds. What each does is in the other modules of
//! [`transition`](super).

use std::time::Duration;

use super::Outcome;
use crate::approval::Ballot;
use crate::id::{LeaseId, PoolName, ReplicaId, SessionId, WorkerId};
use crate::job::Progress;
use crate::policy::JobDecision;
use crate::time::Timestamp;

/// What makes a job change.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// The kernel gave a verdict on a job that waited for one.
    Judged {
        /// The verdict.
        decision: Box<JobDecision>,
    },
    /// The kernel could not give a verdict.
    JudgeUnavailable {
        /// When to ask again.
        again_at: Timestamp,
        /// Why, for people.
        reason: String,
    },
    /// Somebody votes on its approval.
    Voted {
        /// The vote.
        ballot: Box<Ballot>,
    },
    /// A worker gets it.
    Dispatch {
        /// The new lease.
        lease_id: LeaseId,
        /// The owner of the session.
        replica: ReplicaId,
        /// The session.
        session: SessionId,
        /// The worker.
        worker_id: WorkerId,
        /// The worker's pool.
        pool: PoolName,
        /// The key under which it counts as running; empty = none.
        concurrency_key: String,
    },
    /// The worker started it.
    Started {
        /// Its lease.
        lease_id: LeaseId,
        /// When.
        at: Timestamp,
    },
    /// The worker is on its way.
    Progressed {
        /// Its lease.
        lease_id: LeaseId,
        /// How far.
        progress: Progress,
        /// When it had started, if that has not been written yet.
        started_at: Option<Timestamp>,
    },
    /// The worker gives it back unstarted.
    Returned {
        /// Its lease.
        lease_id: LeaseId,
        /// Why.
        reason: String,
    },
    /// The worker is done with it.
    Finished {
        /// Its lease.
        lease_id: LeaseId,
        /// How it ended.
        outcome: Outcome,
        /// Artifacts that it named.
        artifact_ids: Vec<String>,
        /// When it had started, if that has not been written yet.
        started_at: Option<Timestamp>,
        /// For the jitter of a retry, in `[0, 1)`.
        fraction: f64,
    },
    /// The session that held this lease is gone for good.
    Lost {
        /// Its lease.
        lease_id: LeaseId,
        /// Why, for people.
        reason: String,
    },
    /// The worker came back with it on another session.
    Adopted {
        /// Its lease.
        lease_id: LeaseId,
        /// The owner of the new session.
        replica: ReplicaId,
        /// The new session.
        session: SessionId,
    },
    /// Somebody wants it to stop.
    CancelRequested {
        /// Who.
        principal_id: String,
        /// Why.
        reason: String,
        /// How long the worker may take.
        grace: Duration,
        /// Do not wait for the worker.
        force: bool,
    },
    /// Time passed.
    Due {
        /// For the jitter of a retry, in `[0, 1)`.
        fraction: f64,
    },
}

/// The kinds of [`Trigger`], for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TriggerKind {
    /// A verdict.
    Judged,
    /// No verdict.
    JudgeUnavailable,
    /// A vote on its approval.
    Voted,
    /// Handed out.
    Dispatch,
    /// Started.
    Started,
    /// Progress.
    Progressed,
    /// Given back.
    Returned,
    /// Done.
    Finished,
    /// Session gone.
    Lost,
    /// Session changed.
    Adopted,
    /// Asked to stop.
    CancelRequested,
    /// A clock ran out.
    Due,
}

impl TriggerKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Judged,
        Self::JudgeUnavailable,
        Self::Voted,
        Self::Dispatch,
        Self::Started,
        Self::Progressed,
        Self::Returned,
        Self::Finished,
        Self::Lost,
        Self::Adopted,
        Self::CancelRequested,
        Self::Due,
    ];
}

impl Trigger {
    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> TriggerKind {
        match self {
            Self::Judged { .. } => TriggerKind::Judged,
            Self::JudgeUnavailable { .. } => TriggerKind::JudgeUnavailable,
            Self::Voted { .. } => TriggerKind::Voted,
            Self::Dispatch { .. } => TriggerKind::Dispatch,
            Self::Started { .. } => TriggerKind::Started,
            Self::Progressed { .. } => TriggerKind::Progressed,
            Self::Returned { .. } => TriggerKind::Returned,
            Self::Finished { .. } => TriggerKind::Finished,
            Self::Lost { .. } => TriggerKind::Lost,
            Self::Adopted { .. } => TriggerKind::Adopted,
            Self::CancelRequested { .. } => TriggerKind::CancelRequested,
            Self::Due { .. } => TriggerKind::Due,
        }
    }

    /// The lease it is about, when a worker or session caused it.
    #[must_use]
    pub const fn lease_id(&self) -> Option<LeaseId> {
        match self {
            Self::Started { lease_id, .. }
            | Self::Progressed { lease_id, .. }
            | Self::Returned { lease_id, .. }
            | Self::Finished { lease_id, .. }
            | Self::Lost { lease_id, .. }
            | Self::Adopted { lease_id, .. } => Some(*lease_id),
            Self::Judged { .. }
            | Self::JudgeUnavailable { .. }
            | Self::Voted { .. }
            | Self::Dispatch { .. }
            | Self::CancelRequested { .. }
            | Self::Due { .. } => None,
        }
    }
}
