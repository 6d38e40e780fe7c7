//! How attempts end: results and what is given back, each written before it is acknowledged.

use std::time::Duration;

use coretex_core::id::{LeaseId, SessionId, TenantId};
use coretex_core::job::history::AttemptEnd;
use coretex_core::job::transition::{Outcome, Refusal, Transition, Trigger, apply};
use coretex_core::job::{Job, JobError, JobState};
use coretex_core::time::Timestamp;

use super::Held;
use crate::Error;
use crate::commits::{Changed, Loaded};
use crate::engine::Engine;
use crate::types::{AttemptRef, ToWorker};

/// The end of an attempt, as its worker told it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) attempt: AttemptRef,
    pub(super) outcome: Outcome,
    pub(super) execution_duration: Option<Duration>,
    pub(super) artifact_ids: Vec<String>,
}

/// What became of what a worker said of an attempt.
enum Settled {
    /// It was written.
    Changed(Changed),
    /// It changes nothing; the job as it stands.
    Refused(Loaded),
    /// There is no such job any more.
    Gone,
    /// The worker has left before it could be written.
    Left,
}

impl Engine {
    /// A result. One of a slot of this session is written beside the others; anything else is
    /// looked at in turn, so that a flood of it slows down only its sender.
    pub(super) async fn reported(&self, session: &SessionId, serves: &[TenantId], report: Report) {
        let attempt = &report.attempt;
        match self.held_by(session, attempt) {
            Held::Here(Some(_)) if self.lacks_output(session, attempt) => {}
            Held::Here(loaded) => {
                let engine = self.clone();
                let session = session.clone();
                self.spawn_work(async move {
                    if engine.output_settled(&session, &report.attempt).await {
                        engine.finish(&session, report, loaded).await;
                    }
                });
            }
            Held::Elsewhere | Held::Unknown if serves.contains(&attempt.tenant) => {
                self.finish(session, report, None).await;
            }
            Held::Elsewhere | Held::Unknown | Held::Wrong => {
                let attempt = report.attempt;
                let applied = false;
                self.tell(session, ToWorker::ResultAck { attempt, applied });
            }
        }
    }

    /// Writes what the attempt has streamed before its result; false when its worker has left
    /// before that could be done, and will send both again.
    async fn output_settled(&self, session: &SessionId, attempt: &AttemptRef) -> bool {
        let mut again = 0;
        while let Err(error) = self.flush_output(attempt).await {
            tracing::warn!(%error, job_id = %attempt.job_id, "output before a result is not written yet");
            if !self.may_try_again(session, again).await {
                return false;
            }
            again += 1;
        }
        true
    }

    /// Writes a result and acknowledges it. Until it is written, or surely never will be, nothing
    /// is acknowledged and the worker keeps it.
    async fn finish(&self, session: &SessionId, report: Report, start: Option<Loaded>) {
        let Report {
            attempt,
            outcome,
            execution_duration,
            artifact_ids,
        } = report;
        let lease_id = attempt.lease_id;
        let started_at = self.start_of(lease_id, execution_duration);
        let fraction = self.ids().fraction();
        let settled = self
            .settle(session, &attempt, start, |job, now| {
                if is_another(job, &attempt) {
                    return Err(Refusal::NotCurrent);
                }
                let trigger = Trigger::Finished {
                    lease_id,
                    outcome: outcome.clone(),
                    artifact_ids: artifact_ids.clone(),
                    started_at,
                    fraction,
                };
                apply(job, trigger, now)
            })
            .await;
        let applied = match settled {
            Settled::Changed(changed) => changed.applied,
            // Sent again because the acknowledgement was lost.
            Settled::Refused(loaded) => was_applied(&loaded.job, &attempt, &outcome),
            Settled::Gone => false,
            // The worker sends it again wherever it connects next.
            Settled::Left => return,
        };
        self.tell(session, ToWorker::ResultAck { attempt, applied });
    }

    /// Jobs that must never start late run only after the start is written. Whether it is may be
    /// unsure for a while: until then the worker waits, and hears nothing that it would take for an
    /// end of the attempt.
    pub(super) async fn confirm_start(
        &self,
        session: &SessionId,
        attempt: AttemptRef,
        at: Timestamp,
    ) {
        let lease_id = attempt.lease_id;
        let settled = self
            .settle(session, &attempt, None, |job, now| {
                apply(job, Trigger::Started { lease_id, at }, now)
            })
            .await;
        let running = match settled {
            Settled::Changed(_) => true,
            Settled::Refused(loaded) => {
                loaded.job.holds(lease_id) && loaded.job.state == JobState::Running
            }
            Settled::Gone => false,
            Settled::Left => return,
        };
        let message = if running {
            ToWorker::StartConfirmed(attempt)
        } else {
            ToWorker::Revoke {
                attempt,
                reason: "the attempt is not current".to_owned(),
            }
        };
        self.tell(session, message);
    }

    /// Tries until what a worker said of an attempt is written, or surely never will be, or the
    /// worker has left.
    async fn settle(
        &self,
        session: &SessionId,
        attempt: &AttemptRef,
        start: Option<Loaded>,
        decide: impl Fn(&Job, Timestamp) -> Result<Transition, Refusal> + Send + Sync,
    ) -> Settled {
        let (tenant, id) = (&attempt.tenant, &attempt.job_id);
        let mut start = start;
        let mut again = 0;
        loop {
            match self.change(tenant, id, start.take(), &decide).await {
                Ok(Ok(changed)) => return Settled::Changed(changed),
                Ok(Err((_, loaded))) => return Settled::Refused(loaded),
                Err(Error::NotFound { .. }) => {
                    self.slot_of_nothing(session, attempt.lease_id);
                    return Settled::Gone;
                }
                Err(error) => {
                    tracing::warn!(%error, job_id = %id, "what a worker said is not written yet");
                    if !self.may_try_again(session, again).await {
                        return Settled::Left;
                    }
                    again += 1;
                }
            }
        }
    }

    /// When an attempt had started, as far as it is known and not written yet.
    fn start_of(&self, lease: LeaseId, execution: Option<Duration>) -> Option<Timestamp> {
        let state = self.dispatcher().lock();
        let told = state.slots.get(&lease).and_then(|slot| slot.started_at);
        drop(state);
        told.or_else(|| execution.map(|duration| self.now() - duration))
    }

    /// Waits a moment before what a worker said is tried to be written again; false when the
    /// session has ended meanwhile.
    async fn may_try_again(&self, session: &SessionId, again: u32) -> bool {
        let connected = || self.dispatcher().lock().sessions.contains_key(session);
        if !connected() || self.is_draining() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50 << again.min(6))).await;
        connected()
    }

    /// The job of a slot is not there any more.
    fn slot_of_nothing(&self, session: &SessionId, lease: LeaseId) {
        if self.dispatcher().lock().remove_slot_at(lease, session) {
            self.dispatcher().wake();
        }
    }

    pub(super) async fn rejected(&self, session: &SessionId, attempt: AttemptRef, reason: String) {
        let Held::Here(loaded) = self.held_by(session, &attempt) else {
            return;
        };
        let (engine, session) = (self.clone(), session.clone());
        self.spawn_work(async move {
            engine.take_back(&session, &attempt, &reason, loaded).await;
        });
    }

    /// Takes an attempt back. One that had begun may have done something, so it has failed.
    async fn take_back(
        &self,
        session: &SessionId,
        attempt: &AttemptRef,
        reason: &str,
        loaded: Option<Loaded>,
    ) {
        let lease_id = attempt.lease_id;
        let started_at = self.start_of(lease_id, None);
        let fraction = self.ids().fraction();
        // Where the worker has left it will not list the attempt: it is given up with the session.
        let _settled = self
            .settle(session, attempt, loaded, |job, now| {
                let begun = started_at.is_some() || job.state == JobState::Running;
                let trigger = if begun && job.holds(lease_id) {
                    let message = format!("given back after it had begun: {reason}");
                    let error = JobError::platform("rejected", message);
                    Trigger::Finished {
                        lease_id,
                        outcome: Outcome::Failed { error },
                        artifact_ids: Vec::new(),
                        started_at,
                        fraction,
                    }
                } else {
                    Trigger::Returned {
                        lease_id,
                        reason: reason.to_owned(),
                    }
                };
                apply(job, trigger, now)
            })
            .await;
    }
}

/// Whether the lease belongs to another attempt of the job than the one that the worker names.
fn is_another(job: &Job, named: &AttemptRef) -> bool {
    job.attempts
        .iter()
        .any(|attempt| attempt.lease_id == named.lease_id && attempt.attempt != named.attempt)
}

/// Whether this very result of this attempt is what ended it.
fn was_applied(job: &Job, named: &AttemptRef, outcome: &Outcome) -> bool {
    let end = match outcome {
        Outcome::Succeeded { .. } => AttemptEnd::Succeeded,
        Outcome::Failed { .. } => AttemptEnd::Failed,
        Outcome::Cancelled => AttemptEnd::Cancelled,
    };
    job.attempts.iter().any(|attempt| {
        attempt.lease_id == named.lease_id
            && attempt.attempt == named.attempt
            && attempt.end == Some(end)
    })
}
