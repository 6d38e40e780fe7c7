//! How a job changes: one table of allowed moves, and the function that makes them.
//!
//! [`targets`] is the table. [`apply`] computes the new record and refuses every move that the
//! table does not hold. Accepting a job is [`accept`].
//!
//! What makes a job change is in `trigger`. What a move does to the record is in the module of its
//! subject: `verdict`, `approval`, `attempt`, `outcome`, `cancel`, `due`; what all of them write down, in
//! `record`. What becomes of the dead letter of an ended job is in [`dead_letter`].

mod approval;
mod attempt;
mod cancel;
pub mod dead_letter;
mod due;
mod outcome;
mod record;
mod trigger;
mod verdict;

use std::time::Duration;

use super::{Job, JobState, Slot};
use crate::approval::VoteRefusal;
use crate::time::Timestamp;

pub use outcome::Outcome;
pub use trigger::{Trigger, TriggerKind};
pub use verdict::{NewJob, Verdict, accept};

/// The states that a job in `from` may be in after a trigger of this kind; empty = refused. A
/// state among its own targets is a change that keeps the state.
#[must_use]
pub const fn targets(from: JobState, kind: TriggerKind) -> &'static [JobState] {
    use JobState as S;
    use TriggerKind as T;
    match (from, kind) {
        (S::Pending, T::Judged) => &[S::Pending, S::Scheduled, S::Denied, S::ApprovalRequired],
        (S::Pending, T::JudgeUnavailable) => &[S::Pending],
        (S::Pending, T::Dispatch) => &[S::Dispatched],
        (S::Pending, T::Due) => &[S::Timeout],
        (S::Pending | S::Scheduled | S::ApprovalRequired, T::CancelRequested) => &[S::Cancelled],
        (S::Scheduled, T::Due) => &[S::Pending, S::Timeout],
        (S::Scheduled | S::ApprovalRequired, T::Judged) => {
            &[S::Pending, S::Scheduled, S::Denied, S::ApprovalRequired]
        }
        (S::ApprovalRequired, T::Voted | T::Due) => &[S::ApprovalRequired, S::Denied],
        (S::Dispatched, T::Started | T::Progressed) => &[S::Running],
        (S::Running, T::Progressed | T::Adopted) => &[S::Running],
        (S::Dispatched, T::Returned) => &[S::Pending, S::Cancelled],
        (S::Dispatched | S::Running, T::Finished) => {
            &[S::Succeeded, S::Failed, S::Cancelled, S::Scheduled]
        }
        (S::Dispatched | S::Running, T::Lost) => &[S::Pending, S::Failed, S::Cancelled],
        (S::Dispatched, T::Adopted) => &[S::Dispatched],
        (S::Dispatched, T::CancelRequested) => &[S::Dispatched, S::Cancelled],
        (S::Running, T::CancelRequested) => &[S::Running, S::Cancelled],
        (S::Dispatched | S::Running, T::Due) => &[S::Scheduled, S::Timeout, S::Cancelled],
        (
            S::Pending,
            T::Voted
            | T::Started
            | T::Progressed
            | T::Returned
            | T::Finished
            | T::Lost
            | T::Adopted,
        )
        | (
            S::Scheduled | S::ApprovalRequired,
            T::JudgeUnavailable
            | T::Dispatch
            | T::Started
            | T::Progressed
            | T::Returned
            | T::Finished
            | T::Lost
            | T::Adopted,
        )
        | (S::Scheduled, T::Voted)
        | (S::Dispatched | S::Running, T::Judged | T::JudgeUnavailable | T::Voted | T::Dispatch)
        | (S::Running, T::Started | T::Returned)
        | (
            S::Succeeded | S::Failed | S::Cancelled | S::Denied | S::Timeout,
            T::Judged
            | T::JudgeUnavailable
            | T::Voted
            | T::Dispatch
            | T::Started
            | T::Progressed
            | T::Returned
            | T::Finished
            | T::Lost
            | T::Adopted
            | T::CancelRequested
            | T::Due,
        ) => &[],
    }
}

/// Something to tell the worker that has (or had) an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stop, and say when done.
    TellCancel {
        /// Which attempt.
        slot: Slot,
        /// Why.
        reason: String,
        /// How long it may take.
        grace: Duration,
    },
    /// Stop: the attempt is no longer yours.
    TellRevoke {
        /// Which attempt.
        slot: Slot,
    },
}

/// A change: the new record and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The record to write.
    pub job: Job,
    /// What to tell workers once it is written.
    pub effects: Vec<Effect>,
    /// Whether a worker's message did what it said; false for a late result or a freed slot.
    pub applied: bool,
}

/// Why nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is so already, or no clock has run out.
    #[error("nothing to change")]
    Unchanged,
    /// The lease is not that of the attempt that is out now.
    #[error("the attempt is not current")]
    NotCurrent,
    /// The table has no such move.
    #[error("a job in state {from:?} does not take {kind:?}")]
    Illegal {
        /// The state.
        from: JobState,
        /// The trigger.
        kind: TriggerKind,
    },
    /// A vote that is not taken.
    #[error("{0}")]
    Vote(VoteRefusal),
}

/// Applies a trigger to a job.
///
/// # Errors
/// See [`Refusal`]; the job stays as it is.
pub fn apply(job: &Job, trigger: Trigger, now: Timestamp) -> Result<Transition, Refusal> {
    let kind = trigger.kind();
    if let Some(lease_id) = trigger.lease_id()
        && !job.holds(lease_id)
    {
        return outcome::answer_for_old_attempt(job, &trigger, lease_id, now);
    }
    let allowed = targets(job.state, kind);
    if allowed.is_empty() {
        return Err(match kind {
            // A job that has ended takes these without complaint.
            TriggerKind::CancelRequested | TriggerKind::Due => Refusal::Unchanged,
            TriggerKind::Started if job.state == JobState::Running => Refusal::Unchanged,
            _ => Refusal::Illegal {
                from: job.state,
                kind,
            },
        });
    }
    let mut next = job.clone();
    let effects = next.take(trigger, now)?;
    if !allowed.contains(&next.state) {
        return Err(Refusal::Illegal {
            from: job.state,
            kind,
        });
    }
    next.update_time = now;
    Ok(Transition {
        job: next,
        effects,
        applied: true,
    })
}

impl Job {
    /// Makes the move in the record. Whether its target is allowed is for [`apply`] to say.
    fn take(&mut self, trigger: Trigger, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
        match trigger {
            Trigger::Judged { decision } => self.judged(*decision, now)?,
            Trigger::JudgeUnavailable { again_at, reason } => {
                self.judge_unavailable(again_at, reason, now);
            }
            Trigger::Voted { ballot } => self.voted(*ballot, now)?,
            Trigger::Dispatch {
                lease_id,
                replica,
                session,
                worker_id,
                pool,
                concurrency_key,
            } => {
                let slot = Slot {
                    attempt: self.attempt + 1,
                    lease_id,
                    replica,
                    session,
                };
                self.dispatch(slot, worker_id, pool, now)?;
                if let Some(lease) = &mut self.lease {
                    lease.concurrency_key = concurrency_key;
                }
            }
            Trigger::Started { at, .. } => self.started(at, now),
            Trigger::Progressed {
                progress,
                started_at,
                ..
            } => self.progressed(progress, started_at, now),
            Trigger::Returned { reason, .. } => self.returned(reason, now),
            Trigger::Finished {
                outcome,
                artifact_ids,
                started_at,
                fraction,
                ..
            } => {
                self.note_start(started_at);
                self.finished(outcome, artifact_ids, fraction, now);
            }
            Trigger::Lost { reason, .. } => self.lost(&reason, now),
            Trigger::Adopted {
                replica, session, ..
            } => self.adopted(replica, session, now),
            Trigger::CancelRequested {
                principal_id,
                reason,
                grace,
                force,
            } => {
                return self.cancel_requested(principal_id, reason, grace, force, now);
            }
            Trigger::Due { fraction } => return self.time_passed(fraction, now),
        }
        Ok(Vec::new())
    }
}
