//! How a job changes: one table of allowed moves, and the function that makes them.
//!
//! [`targets`] is the table. [`apply`] computes the new record and refuses every move that the
//! table does not hold. Accepting a job is [`accept`].

use std::sync::Arc;
use std::time::Duration;

use super::clock::{self, Due};
use super::history::{AttemptEnd, AttemptRecord, EventType, JobEvent, Ring};
use super::{CancelRequest, Job, JobError, JobSpec, JobState, Lease, Progress, ScheduledFor, Slot};
use crate::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, WorkerId};
use crate::lease::{AfterLoss, after_loss};
use crate::payload::Payload;
use crate::policy::{Decision, JobDecision};
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
    pub const ALL: [Self; 11] = [
        Self::Judged,
        Self::JudgeUnavailable,
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
            | Self::Dispatch { .. }
            | Self::CancelRequested { .. }
            | Self::Due { .. } => None,
        }
    }
}

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
        (S::ApprovalRequired, T::Judged) => {
            &[S::Pending, S::Scheduled, S::Denied, S::ApprovalRequired]
        }
        (S::Dispatched, T::Started | T::Progressed) => &[S::Running],
        (S::Running, T::Progressed) => &[S::Running],
        (S::Dispatched, T::Returned) => &[S::Pending, S::Cancelled],
        (S::Dispatched | S::Running, T::Finished) => {
            &[S::Succeeded, S::Failed, S::Cancelled, S::Scheduled]
        }
        (S::Dispatched | S::Running, T::Lost) => &[S::Pending, S::Failed, S::Cancelled],
        (S::Dispatched, T::Adopted | T::CancelRequested) => {
            if matches!(kind, T::Adopted) {
                &[S::Dispatched]
            } else {
                &[S::Dispatched, S::Cancelled]
            }
        }
        (S::Running, T::Adopted | T::CancelRequested) => {
            if matches!(kind, T::Adopted) {
                &[S::Running]
            } else {
                &[S::Running, S::Cancelled]
            }
        }
        (S::Dispatched | S::Running, T::Due) => &[S::Scheduled, S::Timeout, S::Cancelled],
        (
            S::Pending,
            T::Started | T::Progressed | T::Returned | T::Finished | T::Lost | T::Adopted,
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
        | (S::Scheduled, T::Judged)
        | (S::ApprovalRequired, T::Due)
        | (S::Dispatched | S::Running, T::Judged | T::JudgeUnavailable | T::Dispatch)
        | (S::Running, T::Started | T::Returned)
        | (
            S::Succeeded | S::Failed | S::Cancelled | S::Denied | S::Timeout,
            T::Judged
            | T::JudgeUnavailable
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
}

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
        decision: None,
        events: Ring::default(),
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
    job
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
        return answer_for_old_attempt(job, &trigger, lease_id, now);
    }
    let allowed = targets(job.state, kind);
    if allowed.is_empty() {
        return Err(match kind {
            // A job that has ended or waits for a human takes these without complaint.
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

/// A message about an attempt that is not current: a worker's answer frees the slot that the old
/// attempt still occupies, and a result is recorded as late. Neither is applied.
fn answer_for_old_attempt(
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

/// The parts of an event that differ from case to case.
#[derive(Default)]
struct Note {
    attempt: u32,
    worker_id: Option<WorkerId>,
    principal_id: String,
    reason: String,
}

impl Note {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }
}

impl Job {
    fn record(&mut self, kind: EventType, from: Option<JobState>, now: Timestamp, note: Note) {
        self.events.push(JobEvent {
            sequence: self.events.total().saturating_add(1),
            time: now,
            kind,
            from,
            to: self.state,
            attempt: note.attempt,
            worker_id: note.worker_id,
            principal_id: note.principal_id,
            reason: note.reason,
        });
    }

    /// A note about the attempt that is out.
    fn note(&self, reason: impl Into<String>) -> Note {
        Note {
            attempt: self.attempt,
            worker_id: self.lease.as_ref().map(|lease| lease.worker_id.clone()),
            principal_id: String::new(),
            reason: reason.into(),
        }
    }

    fn take(&mut self, trigger: Trigger, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
        match trigger {
            Trigger::Judged { decision } => self.judged(*decision, now),
            Trigger::JudgeUnavailable { again_at, reason } => {
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
            Trigger::Dispatch {
                lease_id,
                replica,
                session,
                worker_id,
                pool,
            } => {
                if !self.is_ready() {
                    return Err(Refusal::Illegal {
                        from: self.state,
                        kind: TriggerKind::Dispatch,
                    });
                }
                let slot = Slot {
                    attempt: self.attempt + 1,
                    lease_id,
                    replica,
                    session,
                };
                self.dispatch(slot, worker_id, pool, now);
            }
            Trigger::Started { at, .. } => self.started(at, now),
            Trigger::Progressed {
                progress,
                started_at,
                ..
            } => {
                if self.state == JobState::Dispatched {
                    self.started(started_at.unwrap_or(now), now);
                }
                self.progress = Some(progress);
            }
            Trigger::Returned { reason, .. } => {
                let note = self.note(reason);
                self.close_attempt(AttemptEnd::Returned, None, now);
                self.lease = None;
                if self.cancel.is_some() {
                    self.end(JobState::Cancelled, EventType::Cancelled, note, now);
                } else {
                    self.wait(now);
                    self.record(EventType::Returned, Some(JobState::Dispatched), now, note);
                }
            }
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
            } => {
                if let Some(lease) = &mut self.lease {
                    lease.slot.replica = replica;
                    lease.slot.session = session;
                }
                let (from, note) = (self.state, self.note(""));
                self.record(EventType::Adopted, Some(from), now, note);
            }
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

    /// Takes the verdict as the one in force and moves to the state that it asks for.
    fn follow(&mut self, decision: JobDecision, now: Timestamp) {
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
                self.schedule(at, ScheduledFor::Throttle);
            }
        }
    }

    fn judged(&mut self, decision: JobDecision, now: Timestamp) {
        let from = self.state;
        if from == JobState::ApprovalRequired {
            // Time that a human took does not count against the deadline.
            let waited = now.since(self.update_time);
            self.deadline = self.deadline.map(|deadline| deadline + waited);
        }
        let reason = decision.reason.clone();
        self.follow(decision, now);
        let kind = if self.state == JobState::Denied {
            EventType::Denied
        } else {
            EventType::Judged
        };
        self.record(kind, Some(from), now, Note::because(reason));
    }

    /// To PENDING, or to SCHEDULED while `not_before` has not come.
    fn wait(&mut self, now: Timestamp) {
        match self.spec.not_before {
            Some(at) if at > now => self.schedule(at, ScheduledFor::NotBefore),
            Some(_) | None => {
                self.state = JobState::Pending;
                self.eligible_time = now;
                self.scheduled_for = None;
            }
        }
    }

    fn schedule(&mut self, at: Timestamp, why: ScheduledFor) {
        self.state = JobState::Scheduled;
        self.eligible_time = at;
        self.scheduled_for = Some(why);
    }

    fn dispatch(&mut self, slot: Slot, worker_id: WorkerId, pool: PoolName, now: Timestamp) {
        self.state = JobState::Dispatched;
        self.attempt = slot.attempt;
        self.progress = None;
        self.start_time = None;
        self.attempts.push(AttemptRecord {
            attempt: slot.attempt,
            lease_id: slot.lease_id,
            worker_id: worker_id.clone(),
            pool: pool.clone(),
            dispatch_time: now,
            start_time: None,
            end_time: None,
            end: None,
            error: None,
            late_result: false,
        });
        let timeout_at = now + self.attempt_timeout();
        self.lease = Some(Lease {
            slot,
            worker_id,
            pool,
            dispatch_time: now,
            timeout_at,
        });
        let note = self.note("");
        self.record(EventType::Dispatched, Some(JobState::Pending), now, note);
    }

    /// How long one attempt may take: the job's own timeout, or what policy allows if that is less.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        let constraint = self
            .decision
            .as_ref()
            .and_then(|decision| decision.constraints.as_ref());
        match constraint.and_then(|constraints| constraints.max_runtime) {
            Some(max) => max.min(self.spec.timeout),
            None => self.spec.timeout,
        }
    }

    fn started(&mut self, at: Timestamp, now: Timestamp) {
        self.state = JobState::Running;
        self.note_start(Some(at));
        let note = self.note("");
        self.record(EventType::Started, Some(JobState::Dispatched), now, note);
    }

    fn note_start(&mut self, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        self.start_time.get_or_insert(at);
        let current = self.attempt;
        if let Some(record) = self
            .attempts
            .find_last_mut(|record| record.attempt == current)
        {
            record.start_time.get_or_insert(at);
        }
    }

    fn close_attempt(&mut self, end: AttemptEnd, error: Option<JobError>, now: Timestamp) {
        let Some(lease) = &self.lease else { return };
        let lease_id = lease.slot.lease_id;
        if let Some(record) = self
            .attempts
            .find_last_mut(|record| record.lease_id == lease_id)
        {
            record.end = Some(end);
            record.end_time = Some(now);
            record.error = error;
        }
    }

    fn finished(
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
    fn attempt_failed(
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
                self.end(terminal, kind, note, now);
            }
        }
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

    fn lost(&mut self, reason: &str, now: Timestamp) {
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

    fn cancel_requested(
        &mut self,
        principal_id: String,
        reason: String,
        grace: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<Vec<Effect>, Refusal> {
        let from = self.state;
        let note = Note {
            principal_id,
            ..self.note(reason.clone())
        };
        if !from.is_held() {
            self.cancel = Some(CancelRequest {
                time: now,
                terminal_at: now,
                reason,
            });
            self.end(JobState::Cancelled, EventType::Cancelled, note, now);
            return Ok(Vec::new());
        }
        if force {
            self.cancel.get_or_insert(CancelRequest {
                time: now,
                terminal_at: now,
                reason,
            });
            return Ok(self.stop(JobState::Cancelled, EventType::Cancelled, note, now));
        }
        let terminal_at = now + grace;
        if let Some(open) = &mut self.cancel {
            // A second request may only hurry the first.
            if terminal_at >= open.terminal_at {
                return Err(Refusal::Unchanged);
            }
            open.terminal_at = terminal_at;
        } else {
            self.cancel = Some(CancelRequest {
                time: now,
                terminal_at,
                reason: reason.clone(),
            });
        }
        self.record(EventType::CancelRequested, Some(from), now, note);
        let slot = self.lease.as_ref().map(|lease| lease.slot.clone());
        Ok(slot
            .map(|slot| Effect::TellCancel {
                slot,
                reason,
                grace,
            })
            .into_iter()
            .collect())
    }

    fn time_passed(&mut self, fraction: f64, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
        let due = clock::due(self, now).ok_or(Refusal::Unchanged)?;
        Ok(match due {
            Due::CancelGrace => {
                let note = self.note("the worker did not stop within the grace");
                self.stop(JobState::Cancelled, EventType::Cancelled, note, now)
            }
            Due::Deadline => {
                let note = self.note("deadline_exceeded");
                self.error = Some(JobError::platform(
                    "deadline_exceeded",
                    "the job was not done by its deadline",
                ));
                self.stop(JobState::Timeout, EventType::TimedOut, note, now)
            }
            Due::AttemptTimeout => {
                let note = self.note("timeout");
                let error =
                    JobError::platform("timeout", "the attempt took longer than its timeout");
                let slot = self.abandon(AttemptEnd::TimedOut, Some(error.clone()), now);
                if self.cancel.is_some() {
                    self.end(JobState::Cancelled, EventType::Cancelled, note, now);
                } else {
                    self.attempt_failed(error, JobState::Timeout, note, fraction, now);
                }
                slot.map(|slot| Effect::TellRevoke { slot })
                    .into_iter()
                    .collect()
            }
            Due::ScheduleToStart => {
                let note = Note::because("schedule_timeout");
                self.error = Some(JobError::platform(
                    "schedule_timeout",
                    "no worker took the job within its schedule-to-start timeout",
                ));
                self.stop(JobState::Timeout, EventType::TimedOut, note, now)
            }
            Due::Eligible => {
                let at = self.eligible_time;
                self.state = JobState::Pending;
                self.scheduled_for = None;
                // The queue is served by the time at which jobs became eligible, not by the time
                // at which a timer got to it.
                self.eligible_time = at;
                let note = Note::default();
                self.record(EventType::Eligible, Some(JobState::Scheduled), now, note);
                Vec::new()
            }
            // The engine asks the kernel and comes back with its verdict.
            Due::Judge => return Err(Refusal::Unchanged),
        })
    }

    /// Ends the job although a worker may have it: the slot stays occupied until the worker
    /// answers, and the worker is told.
    fn stop(
        &mut self,
        state: JobState,
        kind: EventType,
        note: Note,
        now: Timestamp,
    ) -> Vec<Effect> {
        let end = if state == JobState::Cancelled {
            AttemptEnd::Cancelled
        } else {
            AttemptEnd::TimedOut
        };
        let slot = self.abandon(end, self.error.clone(), now);
        self.end(state, kind, note, now);
        slot.map(|slot| Effect::TellRevoke { slot })
            .into_iter()
            .collect()
    }

    /// Takes the attempt away from its worker; the slot moves to the unreleased ones.
    fn abandon(
        &mut self,
        end: AttemptEnd,
        error: Option<JobError>,
        now: Timestamp,
    ) -> Option<Slot> {
        self.close_attempt(end, error, now);
        let slot = self.lease.take()?.slot;
        self.unreleased.push(slot.clone());
        Some(slot)
    }

    fn close(&mut self, state: JobState, now: Timestamp) {
        self.state = state;
        self.end_time = Some(now);
        self.scheduled_for = None;
        self.judge_at = None;
    }

    fn end(&mut self, state: JobState, kind: EventType, note: Note, now: Timestamp) {
        let from = self.state;
        self.close(state, now);
        self.record(kind, Some(from), now, note);
    }
}
