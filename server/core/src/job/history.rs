//! What a job remembers of itself: events, attempts, and the bounded ring they stand in.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{JobError, JobState};
use crate::id::{LeaseId, PoolName, WorkerId};
use crate::time::Timestamp;

/// The most entries of each kind that a job keeps.
pub const HISTORY_LIMIT: usize = 64;

/// The last [`HISTORY_LIMIT`] of something, and how many were dropped before them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring<T> {
    items: VecDeque<T>,
    #[serde(default)]
    dropped: u32,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            dropped: 0,
        }
    }
}

impl<T> Ring<T> {
    /// Appends, dropping the oldest when full.
    pub fn push(&mut self, item: T) {
        if self.items.len() == HISTORY_LIMIT {
            self.items.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
        self.items.push_back(item);
    }

    /// From the oldest kept to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items.iter()
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.items.back()
    }

    /// The newest that `matches`, to change it.
    pub fn find_last_mut(&mut self, matches: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.items.iter_mut().rev().find(|item| matches(item))
    }

    /// How many were dropped.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// How many were ever pushed.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.dropped
            .saturating_add(u32::try_from(self.items.len()).unwrap_or(u32::MAX))
    }

    /// Whether nothing was ever pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.dropped == 0
    }
}

/// What happened. The names are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// It was accepted.
    Submitted,
    /// The kernel gave a verdict.
    Judged,
    /// The kernel could not give a verdict; it is asked again.
    JudgeFailed,
    /// It became eligible.
    Eligible,
    /// It was handed to a worker.
    Dispatched,
    /// The worker started it.
    Started,
    /// The worker reported progress. Not kept in the history; it would push everything else out.
    Progressed,
    /// The worker gave it back before starting it.
    Returned,
    /// An attempt failed and another follows.
    RetryScheduled,
    /// The worker or its server was lost and another attempt follows.
    WorkerLost,
    /// A reconnected worker keeps its attempt.
    Adopted,
    /// Somebody asked to cancel.
    CancelRequested,
    /// It ended with success.
    Succeeded,
    /// It ended with failure.
    Failed,
    /// It ended on request.
    Cancelled,
    /// It ended by policy.
    Denied,
    /// It ended by a clock.
    TimedOut,
    /// A result came for an attempt that was no longer current, and was not applied.
    LateResult,
    /// A worker answered for an attempt that was already over; its slot is free again.
    SlotReleased,
    /// Somebody dealt with the dead letter: it was retried or thrown away.
    DeadLetterSettled,
    /// Somebody voted on its approval.
    ApprovalVoted,
    /// Nobody resolved its approval in time, and others may now.
    ApprovalEscalated,
}

impl EventType {
    /// The name on the wire, in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Judged => "judged",
            Self::JudgeFailed => "judge_failed",
            Self::Eligible => "eligible",
            Self::Dispatched => "dispatched",
            Self::Started => "started",
            Self::Progressed => "progressed",
            Self::Returned => "returned",
            Self::RetryScheduled => "retry_scheduled",
            Self::WorkerLost => "worker_lost",
            Self::Adopted => "adopted",
            Self::CancelRequested => "cancel_requested",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::TimedOut => "timed_out",
            Self::LateResult => "late_result",
            Self::SlotReleased => "slot_released",
            Self::DeadLetterSettled => "dead_letter_settled",
            Self::ApprovalVoted => "approval_voted",
            Self::ApprovalEscalated => "approval_escalated",
        }
    }
}

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Counts from 1 per job, without gaps.
    pub sequence: u32,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventType,
    /// The state before; `None` for the first.
    pub from: Option<JobState>,
    /// The state after.
    pub to: JobState,
    /// The attempt it is about; 0 = none.
    #[serde(default)]
    pub attempt: u32,
    /// The worker it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
    /// Who caused it, when a caller did; empty = the platform or the worker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub principal_id: String,
    /// Why, for people and machines; empty = nothing to add.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// With success.
    Succeeded,
    /// The worker reported failure.
    Failed,
    /// Cancelled.
    Cancelled,
    /// It took longer than `timeout`, or the job's deadline passed.
    TimedOut,
    /// The worker or its server was lost.
    Lost,
    /// The worker gave it back before starting.
    Returned,
}

/// One attempt to run a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Its number, from 1.
    pub attempt: u32,
    /// Its lease.
    pub lease_id: LeaseId,
    /// The worker.
    pub worker_id: WorkerId,
    /// The worker's pool.
    pub pool: PoolName,
    /// When it was handed out.
    pub dispatch_time: Timestamp,
    /// When the worker started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// How it ended; `None` = it is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// True when a result came after the end and was not applied.
    #[serde(default)]
    pub late_result: bool,
}
