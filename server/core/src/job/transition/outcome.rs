//! How attempts end, and what follows: success, another attempt, or the end of the job. Losses are
//! here too, and what comes from attempts that are over. Attempts that are taken away are in
//! [`cancel`](super::cancel) and [`due`](super::due).

use super::record::Note;
use super::{Refusal, Transition, Trigger};
use crate::id::LeaseId;
use crate::job::dead_letter::DeadLetter;
use crate::job::history::{AttemptEnd, EventType};
use crate::job::{Job, JobError, JobState, ScheduledFor};
use crate::lease::{AfterLoss, after_loss};
use crate::payload::Payload;
use crate::retry::next_attempt;
use crate::time::Timestamp;

/// What a worker says about the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It worked.
    Succeeded {
        /// What it returned.
        output: Option<Payload>,
    },
    /// It did not.
    Failed {
        /// Why.
        error: JobError,
    },
    /// It stopped because it was told to.
    Cancelled,
}

/// A message about an attempt that is not current: a worker's answer frees the slot that the old
/// attempt still occupies, and a result is recorded as late. Neither is applied.
pub(super) fn answer_for_old_attempt(
    job: &Job,
    trigger: &Trigger,
    lease_id: LeaseId,
    now: Timestamp,
) -> Result<Transition, Refusal> {
    let is_result = match trigger {
        // Who only says that it has stopped brings no result.
        Trigger::Finished { outcome, .. } => !matches!(outcome, Outcome::Cancelled),
        Trigger::Returned { .. } | Trigger::Lost { .. } => false,
        Trigger::Started { .. }
        | Trigger::Progressed { .. }
        | Trigger::Adopted { .. }
        | Trigger::Judged { .. }
        | Trigger::JudgeUnavailable { .. }
        | Trigger::Dispatch { .. }
        | Trigger::CancelRequested { .. }
        | Trigger::Voted { .. }
        | Trigger::Due { .. } => return Err(Refusal::NotCurrent),
    };
    let mut next = job.clone();
    next.unreleased.retain(|slot| slot.lease_id != lease_id);
    let freed = next.unreleased.len() < job.unreleased.len();
    let mut late = false;
    let mut attempt = 0;
    let mut worker_id = None;
    if let Some(record) = next
        .attempts
        .find_last_mut(|record| record.lease_id == lease_id)
    {
        attempt = record.attempt;
        worker_id = Some(record.worker_id.clone());
        // A result sent twice because its acknowledgement was lost is not late.
        let answered = matches!(record.end, Some(AttemptEnd::Succeeded | AttemptEnd::Failed));
        late = is_result && !record.late_result && !answered;
        record.late_result |= late;
    }
    if !freed && !late {
        return Err(Refusal::NotCurrent);
    }
    let kind = if late {
        EventType::LateResult
    } else {
        EventType::SlotReleased
    };
    let note = Note {
        attempt,
        worker_id,
        ..Note::default()
    };
    next.record(kind, Some(job.state), now, note);
    next.update_time = now;
    Ok(Transition {
        job: next,
        effects: Vec::new(),
        applied: false,
    })
}

impl Job {
    pub(super) fn finished(
        &mut self,
        outcome: Outcome,
        artifact_ids: Vec<String>,
        fraction: f64,
        now: Timestamp,
    ) {
        match outcome {
            Outcome::Succeeded { output } => {
                let late_cancel = self.cancel.is_some();
                let note = self.note(if late_cancel {
                    "the cancel request came too late"
                } else {
                    ""
                });
                self.close_attempt(AttemptEnd::Succeeded, None, now);
                self.lease = None;
                self.output = output;
                self.artifact_ids = artifact_ids;
                self.error = None;
                self.end(JobState::Succeeded, EventType::Succeeded, note, now);
            }
            Outcome::Failed { error } => {
                let note = self.note(error.code.clone());
                self.close_attempt(AttemptEnd::Failed, Some(error.clone()), now);
                self.lease = None;
                if self.cancel.is_some() {
                    self.end(JobState::Cancelled, EventType::Cancelled, note, now);
                } else {
                    self.artifact_ids = artifact_ids;
                    self.attempt_failed(error, JobState::Failed, note, fraction, now);
                }
            }
            Outcome::Cancelled => {
                let asked = self.cancel.is_some();
                let note = self.note("");
                self.close_attempt(AttemptEnd::Cancelled, None, now);
                self.lease = None;
                if asked {
                    self.end(JobState::Cancelled, EventType::Cancelled, note, now);
                } else {
                    // Nobody had asked the worker to stop: to the caller that is a failure.
                    let error =
                        JobError::platform("worker_cancelled", "the worker stopped on its own");
                    self.attempt_failed(error, JobState::Failed, note, fraction, now);
                }
            }
        }
    }

    /// Another attempt after a pause, or the end in `terminal`.
    pub(super) fn attempt_failed(
        &mut self,
        error: JobError,
        terminal: JobState,
        note: Note,
        fraction: f64,
        now: Timestamp,
    ) {
        self.failures = self.failures.saturating_add(1);
        let pause = next_attempt(&self.spec.retry, self.failures, &error.code, fraction);
        self.error = Some(error);
        let from = self.state;
        match pause {
            Some(pause) if self.retries_allowed() => {
                self.schedule(now + pause, ScheduledFor::Backoff);
                self.record(EventType::RetryScheduled, Some(from), now, note);
            }
            Some(_) | None => {
                let kind = if terminal == JobState::Timeout {
                    EventType::TimedOut
                } else {
                    EventType::Failed
                };
                let used_up = self.had_retries();
                self.end(terminal, kind, note, now);
                if used_up {
                    let letter = self.dead_letter.take();
                    self.dead_letter = letter.map(DeadLetter::after_last_attempt);
                }
            }
        }
    }

    /// Whether the attempt that has just failed was one of several that the job could have, and
    /// not one whose error ends it at once.
    fn had_retries(&self) -> bool {
        let policy = &self.spec.retry;
        let ends_at_once = |error: &JobError| policy.non_retryable_codes.contains(&error.code);
        policy.max_attempts > 1 && !self.error.as_ref().is_some_and(ends_at_once)
    }

    /// Whether policy allows one more retry.
    fn retries_allowed(&self) -> bool {
        let constraint = self
            .decision
            .as_ref()
            .and_then(|decision| decision.constraints.as_ref());
        constraint
            .and_then(|constraints| constraints.max_retries)
            .is_none_or(|max| self.failures <= max)
    }

    pub(super) fn lost(&mut self, reason: &str, now: Timestamp) {
        let from = self.state;
        let note = self.note(reason);
        let error = JobError::platform("worker_lost", reason);
        self.close_attempt(AttemptEnd::Lost, Some(error.clone()), now);
        self.lease = None;
        if self.cancel.is_some() {
            self.end(JobState::Cancelled, EventType::Cancelled, note, now);
            return;
        }
        let fate = after_loss(
            self.spec.on_worker_loss,
            self.redispatches,
            self.spec.max_redispatch,
        );
        if fate == AfterLoss::Requeue {
            self.redispatches = self.redispatches.saturating_add(1);
            self.wait(now);
            self.record(EventType::WorkerLost, Some(from), now, note);
        } else {
            self.error = Some(error);
            self.end(JobState::Failed, EventType::Failed, note, now);
        }
    }
}
