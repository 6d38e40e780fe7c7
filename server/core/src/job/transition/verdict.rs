//! Accepting a job, and what verdicts of the safety kernel make of it: it waits, is scheduled, is
//! denied or needs an approval. Which verdict is given is not decided here.

use std::sync::Arc;

use super::record::Note;
use super::{Refusal, TriggerKind};
use crate::id::{JobId, TenantId};
use crate::job::history::{EventType, Ring};
use crate::job::{Job, JobError, JobSpec, JobState, Keep, ScheduledFor};
use crate::payload::Payload;
use crate::policy::{Decision, JobDecision};
use crate::time::Timestamp;

/// What a new job is made of.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What was asked for.
    pub spec: Arc<JobSpec>,
    /// Who asked.
    pub principal_id: String,
    /// For tracing.
    pub trace_id: String,
    /// SHA-256 of the canonical request.
    pub fingerprint: Vec<u8>,
    /// The caller's key; empty = none.
    pub idempotency_key: String,
    /// The job that it runs again.
    pub rerun_of: Option<JobId>,
    /// What the worker gets.
    pub input: Option<Payload>,
    /// Why no pool may serve it, for people; `None` = one may.
    pub unmapped: Option<String>,
    /// For how long it is kept.
    pub keep: Option<Keep>,
}

/// The verdict on a job, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The kernel has decided.
    Decided(Box<JobDecision>),
    /// It could not; ask again at this time.
    Unavailable {
        /// When to ask again.
        again_at: Timestamp,
        /// Why, for people.
        reason: String,
    },
}

/// Makes the record of a job that is accepted at `now`.
#[must_use]
pub fn accept(new: NewJob, verdict: Verdict, now: Timestamp) -> Job {
    let mut job = Job {
        deadline: new.spec.deadline_after.map(|after| now + after),
        id: new.id,
        tenant: new.tenant,
        spec: new.spec,
        principal_id: new.principal_id,
        trace_id: new.trace_id,
        fingerprint: new.fingerprint,
        idempotency_key: new.idempotency_key,
        rerun_of: new.rerun_of,
        input: new.input,
        keep: new.keep,
        state: JobState::Pending,
        create_time: now,
        update_time: now,
        eligible_time: now,
        start_time: None,
        end_time: None,
        scheduled_for: None,
        judge_at: None,
        judge_failures: 0,
        attempt: 0,
        failures: 0,
        redispatches: 0,
        lease: None,
        unreleased: Vec::new(),
        cancel: None,
        progress: None,
        output: None,
        error: None,
        artifact_ids: Vec::new(),
        dead_letter: None,
        decision: None,
        events: Ring::default(),
        approvals: Vec::new(),
        decisions: Ring::default(),
        attempts: Ring::default(),
    };
    let principal_id = job.principal_id.clone();
    job.record(
        EventType::Submitted,
        None,
        now,
        Note {
            principal_id,
            ..Note::default()
        },
    );
    match verdict {
        Verdict::Decided(decision) => {
            let reason = decision.reason.clone();
            job.follow(*decision, now);
            match job.state {
                JobState::Pending => {}
                JobState::Denied => {
                    job.record(
                        EventType::Denied,
                        Some(JobState::Pending),
                        now,
                        Note::because(reason),
                    );
                }
                _ => job.record(
                    EventType::Judged,
                    Some(JobState::Pending),
                    now,
                    Note::because(reason),
                ),
            }
        }
        Verdict::Unavailable { again_at, reason } => {
            job.judge_at = Some(again_at);
            job.judge_failures = 1;
            job.record(
                EventType::JudgeFailed,
                Some(JobState::Pending),
                now,
                Note::because(reason),
            );
        }
    }
    if let Some(why) = new.unmapped.filter(|_| !job.state.is_terminal()) {
        let note = Note::because(why.clone());
        job.error = Some(JobError::platform("no_pool_mapping", why));
        job.end(JobState::Failed, EventType::Failed, note, now);
    }
    job
}

impl Job {
    /// Takes the verdict as the one in force and moves to the state that it asks for.
    fn follow(&mut self, mut decision: JobDecision, now: Timestamp) {
        // The first verdict is about the job; later ones are about its next attempt.
        decision.attempt = self.decision.as_ref().map_or(0, |_| self.attempt + 1);
        self.follow_approval(&mut decision, now);
        self.judge_at = None;
        self.judge_failures = 0;
        let retry_at = decision.retry_at;
        let what = decision.decision;
        if let Some(before) = self.decision.replace(decision) {
            self.decisions.push(before);
        }
        match what {
            Decision::Allow | Decision::AllowWithConstraints => self.wait(now),
            Decision::Deny => self.close(JobState::Denied, now),
            Decision::RequireApproval => self.state = JobState::ApprovalRequired,
            Decision::Throttle => {
                let at = retry_at.unwrap_or(now).max(now);
                // A limit that has room again does not bring the job forward.
                match self.spec.not_before {
                    Some(start) if start > at => self.schedule(start, ScheduledFor::NotBefore),
                    Some(_) | None => self.schedule(at, ScheduledFor::Throttle),
                }
            }
        }
    }

    /// Takes another verdict. A job that waits for its next attempt or for its own start is not
    /// judged before that.
    pub(super) fn judged(&mut self, decision: JobDecision, now: Timestamp) -> Result<(), Refusal> {
        let from = self.state;
        if from == JobState::Scheduled && self.scheduled_for != Some(ScheduledFor::Throttle) {
            return Err(Refusal::Illegal {
                from,
                kind: TriggerKind::Judged,
            });
        }
        if from == JobState::ApprovalRequired
            && let Some(asked) = self.decision.as_ref().map(|decision| decision.time)
        {
            // Time that a human took does not count against the deadline.
            self.deadline = self.deadline.map(|deadline| deadline + now.since(asked));
        }
        let reason = decision.reason.clone();
        self.follow(decision, now);
        let kind = if self.state == JobState::Denied {
            EventType::Denied
        } else {
            EventType::Judged
        };
        self.record(kind, Some(from), now, Note::because(reason));
        Ok(())
    }

    pub(super) fn judge_unavailable(
        &mut self,
        again_at: Timestamp,
        reason: String,
        now: Timestamp,
    ) {
        self.judge_at = Some(again_at);
        self.judge_failures = self.judge_failures.saturating_add(1);
        let from = self.state;
        self.record(
            EventType::JudgeFailed,
            Some(from),
            now,
            Note::because(reason),
        );
    }

    /// To PENDING, or to SCHEDULED while `not_before` has not come.
    pub(super) fn wait(&mut self, now: Timestamp) {
        match self.spec.not_before {
            Some(at) if at > now => self.schedule(at, ScheduledFor::NotBefore),
            Some(_) | None => {
                self.state = JobState::Pending;
                self.eligible_time = now;
                self.scheduled_for = None;
            }
        }
    }

    pub(super) fn schedule(&mut self, at: Timestamp, why: ScheduledFor) {
        self.state = JobState::Scheduled;
        self.eligible_time = at;
        self.scheduled_for = Some(why);
    }
}
