//! Which jobs a list, count or watch is about, which dead letters and which approvals.

use std::collections::BTreeMap;

use coretex_core::approval::{Approval, ApprovalState};
use coretex_core::id::{JobId, Topic, WorkerId};
use coretex_core::job::history::JobEvent;
use coretex_core::job::{Job, JobState};
use coretex_core::time::Timestamp;
use serde::Serialize;

use crate::access::Caller;

/// A conjunction: every part that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobFilter {
    /// Any of these states; empty = all.
    pub states: Vec<JobState>,
    /// Any of these topics; empty = all.
    pub topics: Vec<Topic>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// Submitted by this principal; empty = anybody.
    pub principal_id: String,
    /// Of this team; empty = any.
    pub team_id: String,
    /// With this trace id; empty = any.
    pub trace_id: String,
    /// Last attempt at this worker.
    pub worker_id: Option<WorkerId>,
    /// Caused by this job.
    pub parent_job_id: Option<JobId>,
    /// Created at or after.
    pub created_after: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
}

impl JobFilter {
    /// Whether `job` matches every part.
    #[must_use]
    pub fn matches(&self, job: &Job) -> bool {
        let worker = job.attempts.last().map(|attempt| &attempt.worker_id);
        self.matches_in(job, job.state, worker)
    }

    /// Whether `job` matched every part right after `event`, one of its own.
    #[must_use]
    pub fn matches_at(&self, job: &Job, event: &JobEvent) -> bool {
        // Events that are about no attempt follow the attempts before them.
        let mut before = job.attempts.iter().rev().filter(|attempt| {
            if event.attempt > 0 {
                attempt.attempt <= event.attempt
            } else {
                attempt.dispatch_time < event.time
            }
        });
        let worker = before.next().map(|attempt| &attempt.worker_id);
        self.matches_in(job, event.to, worker)
    }

    fn matches_in(&self, job: &Job, state: JobState, worker: Option<&WorkerId>) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && (self.topics.is_empty() || self.topics.contains(&job.spec.topic))
            && self
                .labels
                .iter()
                .all(|(key, value)| job.spec.labels.get(key) == Some(value))
            && (self.principal_id.is_empty() || self.principal_id == job.principal_id)
            && (self.team_id.is_empty() || self.team_id == job.spec.team_id)
            && (self.trace_id.is_empty() || self.trace_id == job.trace_id)
            && (self.worker_id.is_none() || self.worker_id.as_ref() == worker)
            && (self.parent_job_id.is_none() || self.parent_job_id == job.spec.parent_job_id)
            && self
                .created_after
                .is_none_or(|after| job.create_time >= after)
            && self
                .created_before
                .is_none_or(|before| job.create_time < before)
    }

    /// Whether only jobs that have not ended can match.
    #[must_use]
    pub fn is_open_only(&self) -> bool {
        !self.states.is_empty() && self.states.iter().all(|state| !state.is_terminal())
    }

    /// Whether the filter asks for nothing but an open or closed range of creation times.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let plain = Self {
            created_after: self.created_after,
            created_before: self.created_before,
            ..Self::default()
        };
        *self == plain
    }
}

/// Which dead letters; a conjunction, as [`JobFilter`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DlqFilter {
    /// Any of these codes; empty = all.
    pub reason_codes: Vec<String>,
    /// Jobs that ended in any of these states; empty = all.
    pub states: Vec<JobState>,
    /// Jobs of any of these topics; empty = all.
    pub topics: Vec<Topic>,
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// Submitted by this principal; empty = anybody.
    pub principal_id: String,
    /// Of this team; empty = any.
    pub team_id: String,
    /// Dead letters since this time, inclusive.
    pub created_after: Option<Timestamp>,
    /// Dead letters before this time.
    pub created_before: Option<Timestamp>,
}

impl DlqFilter {
    /// Whether `job` has a dead letter that matches every part.
    #[must_use]
    pub fn matches(&self, job: &Job) -> bool {
        let Some(letter) = &job.dead_letter else {
            return false;
        };
        let spec = &job.spec;
        (self.reason_codes.is_empty() || self.reason_codes.contains(&letter.code))
            && (self.states.is_empty() || self.states.contains(&job.state))
            && (self.topics.is_empty() || self.topics.contains(&spec.topic))
            && self
                .labels
                .iter()
                .all(|(key, value)| spec.labels.get(key) == Some(value))
            && (self.principal_id.is_empty() || self.principal_id == job.principal_id)
            && (self.team_id.is_empty() || self.team_id == spec.team_id)
            && self.created_after.is_none_or(|after| letter.time >= after)
            && self
                .created_before
                .is_none_or(|before| letter.time < before)
    }
}

/// Which approvals; a conjunction, as [`JobFilter`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApprovalFilter {
    /// In any of these states; empty = all.
    pub states: Vec<ApprovalState>,
    /// Of this job.
    pub job_id: Option<JobId>,
    /// Of jobs of any of these topics; empty = all.
    pub topics: Vec<Topic>,
    /// Of jobs that this principal has submitted; empty = anybody.
    pub requested_by: String,
    /// Asked for by this rule; empty = any.
    pub rule_id: String,
}

impl ApprovalFilter {
    /// The filter as the caller may use it: who sees only own jobs sees only their approvals.
    pub(crate) fn narrowed(&self, caller: &Caller) -> Self {
        let mut filter = self.clone();
        if caller.own_jobs_only() && filter.requested_by.is_empty() {
            filter.requested_by.clone_from(&caller.principal_id);
        }
        filter
    }

    /// Whether an approval of `job` matched every part when it was in `state`.
    pub(crate) fn matches(&self, job: &Job, approval: &Approval, state: ApprovalState) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && self.job_id.as_ref().is_none_or(|id| *id == job.id)
            && (self.topics.is_empty() || self.topics.contains(&job.spec.topic))
            && (self.requested_by.is_empty() || self.requested_by == job.principal_id)
            && (self.rule_id.is_empty() || self.rule_id == approval.rule_id)
    }
}
