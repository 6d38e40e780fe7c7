//! What workers say: starts, progress, results, and the lazy writing of what need not be durable
//! at once.

use std::time::Duration;

use coretex_core::id::{LeaseId, SessionId, TenantId};
use coretex_core::job::history::AttemptEnd;
use coretex_core::job::transition::{Effect, Outcome, Refusal, Trigger, apply};
use coretex_core::job::{Job, JobError, JobState, Progress};

use crate::commits::Loaded;
use crate::engine::Engine;
use crate::types::{AttemptRef, FromWorker, ToWorker};
use crate::{Error, Result};

/// How often it is looked for what is to be written.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Progress of one job is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The end of an attempt, as its worker told it.
#[derive(Debug)]
struct Report {
    attempt: AttemptRef,
    outcome: Outcome,
    execution_duration: Option<Duration>,
    artifact_ids: Vec<String>,
}

/// How an attempt that a worker names stands in this replica.
enum Held {
    /// The worker's session has it; with the job as last written, while the attempt is current.
    Here(Option<Loaded>),
    /// Another session has it.
    Elsewhere,
    /// No session here has it.
    Unknown,
    /// The lease belongs to another job or attempt.
    Wrong,
}

impl Engine {
    pub(crate) async fn receive(
        &self,
        session: &SessionId,
        serves: &[TenantId],
        message: FromWorker,
    ) -> Result<()> {
        {
            let mut state = self.dispatcher().lock();
            let (tick, now) = (self.tick(), self.now());
            let Some(found) = state.sessions.get_mut(session) else {
                return Err(Error::Protocol {
                    reason: "the session was closed".to_owned(),
                });
            };
            found.heard = tick;
            found.heard_time = now;
            if let FromWorker::Heartbeat {
                cpu_load,
                gpu_utilization,
                ..
            } = &message
            {
                found.cpu_load = percent(*cpu_load);
                found.gpu_utilization = percent(*gpu_utilization);
            }
        }
        match message {
            FromWorker::Heartbeat { .. } => {}
            FromWorker::Started(attempt) => self.started(session, attempt).await,
            FromWorker::Progress {
                attempt,
                percent,
                message,
            } => {
                self.progressed(session, &attempt, Progress { percent, message });
            }
            FromWorker::Result {
                attempt,
                outcome,
                execution_duration,
                artifact_ids,
            } => {
                let report = Report {
                    attempt,
                    outcome,
                    execution_duration,
                    artifact_ids,
                };
                self.reported(session, serves, report).await;
            }
            FromWorker::Reject { attempt, reason } => {
                self.rejected(session, attempt, reason).await;
            }
            FromWorker::Capacity { max_parallel_jobs } => {
                let most = self.limits().max_parallel_jobs;
                if max_parallel_jobs > most {
                    let range = format!("must be at most {most}");
                    return Err(Error::invalid("capacity.max_parallel_jobs", range));
                }
                if let Some(found) = self.dispatcher().lock().sessions.get_mut(session) {
                    found.max_parallel = max_parallel_jobs;
                }
                self.dispatcher().wake();
            }
            FromWorker::Drain => {
                if let Some(found) = self.dispatcher().lock().sessions.get_mut(session) {
                    found.leaving = true;
                }
            }
        }
        Ok(())
    }

    /// What is known of an attempt that a worker names.
    fn held_by(&self, session: &SessionId, attempt: &AttemptRef) -> Held {
        let state = self.dispatcher().lock();
        match state.slots.get(&attempt.lease_id) {
            None => Held::Unknown,
            Some(slot) if !slot.is(attempt) => Held::Wrong,
            Some(slot) if slot.session == *session => Held::Here(slot.loaded.clone()),
            Some(_) => Held::Elsewhere,
        }
    }

    async fn started(&self, session: &SessionId, attempt: AttemptRef) {
        let now = self.now();
        let confirm = {
            let mut state = self.dispatcher().lock();
            let slot = state
                .slots
                .get_mut(&attempt.lease_id)
                .filter(|slot| slot.is(&attempt) && slot.session == *session)
                .filter(|slot| slot.loaded.is_some());
            match slot {
                None => None,
                Some(slot) => {
                    slot.started_at.get_or_insert(now);
                    slot.lazy_queued = true;
                    Some(
                        slot.loaded
                            .as_ref()
                            .is_some_and(|held| held.job.spec.confirm_start),
                    )
                }
            }
        };
        match confirm {
            None => {
                let reason = "the attempt is not current".to_owned();
                self.tell(session, ToWorker::Revoke { attempt, reason });
            }
            Some(false) => {}
            Some(true) => self.confirm_start(session, attempt, now).await,
        }
    }

    /// Jobs that must never start late run only after the start is written.
    async fn confirm_start(
        &self,
        session: &SessionId,
        attempt: AttemptRef,
        at: coretex_core::time::Timestamp,
    ) {
        let lease_id = attempt.lease_id;
        let changed = self
            .change(&attempt.tenant, &attempt.job_id, None, |job, now| {
                apply(job, Trigger::Started { lease_id, at }, now)
            })
            .await;
        let running = match changed {
            Ok(Ok(_)) => true,
            Ok(Err((_, loaded))) => {
                loaded.job.holds(lease_id) && loaded.job.state == JobState::Running
            }
            Err(error) => {
                tracing::warn!(%error, job_id = %attempt.job_id, "start not confirmed");
                // Unsure is no: the worker may not begin, and the attempt times out or is lost.
                false
            }
        };
        let message = if running {
            ToWorker::StartConfirmed(attempt)
        } else {
            ToWorker::Revoke {
                attempt,
                reason: "the start was not confirmed".to_owned(),
            }
        };
        self.tell(session, message);
    }

    fn progressed(&self, session: &SessionId, attempt: &AttemptRef, progress: Progress) {
        let mut state = self.dispatcher().lock();
        let slot = state.slots.get_mut(&attempt.lease_id);
        if let Some(slot) = slot.filter(|slot| slot.is(attempt) && slot.session == *session) {
            slot.progress = Some(progress);
            slot.lazy_queued = true;
        }
    }

    /// Writes starts and progress until the engine stops.
    pub(crate) async fn run_lazy_writes(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.write_lazily().await;
        }
    }

    /// What could not be written is written later, unless there is newer progress by then.
    fn write_again(&self, lease: LeaseId, progress: Option<Progress>) {
        if let Some(slot) = self.dispatcher().lock().slots.get_mut(&lease) {
            slot.lazy_queued = true;
            if slot.progress.is_none() {
                slot.progress = progress;
            }
        }
    }

    /// Writes starts and progress that have become old enough to be worth a commit.
    async fn write_lazily(&self) {
        let (tick, now) = (self.tick(), self.now());
        let lazy = self.timing().lazy_start;
        let mut work = Vec::new();
        {
            let mut state = self.dispatcher().lock();
            for (lease, slot) in &mut state.slots {
                if !slot.lazy_queued {
                    continue;
                }
                let Some(loaded) = slot.loaded.clone() else {
                    slot.lazy_queued = false;
                    continue;
                };
                let unwritten = loaded.job.state == JobState::Dispatched;
                let start_is_old =
                    unwritten && slot.started_at.is_some_and(|at| now.since(at) >= lazy);
                let progress_is_due = slot.progress.is_some()
                    && slot
                        .progress_written
                        .is_none_or(|written| tick.since(written) >= PROGRESS_EVERY);
                if progress_is_due {
                    slot.progress_written = Some(tick);
                    let progress = slot.progress.take();
                    work.push((*lease, loaded, slot.started_at, progress));
                    slot.lazy_queued = false;
                } else if start_is_old {
                    work.push((*lease, loaded, slot.started_at, None));
                    slot.lazy_queued = slot.progress.is_some();
                } else if !unwritten && slot.progress.is_none() {
                    slot.lazy_queued = false;
                }
            }
        }
        self.for_each_bounded(
            work,
            |(lease_id, loaded, started_at, progress)| async move {
                let (tenant, id) = (loaded.job.tenant.clone(), loaded.job.id.clone());
                let changed = self
                    .change(&tenant, &id, Some(loaded), |job, now| {
                        let trigger = match &progress {
                            Some(progress) => Trigger::Progressed {
                                lease_id,
                                progress: progress.clone(),
                                started_at,
                            },
                            None => Trigger::Started {
                                lease_id,
                                at: started_at.unwrap_or(now),
                            },
                        };
                        apply(job, trigger, now)
                    })
                    .await;
                if let Err(error) = changed {
                    tracing::debug!(%error, job_id = %id, "start or progress not written yet");
                    self.write_again(lease_id, progress);
                }
            },
        )
        .await;
    }

    /// A result. One of a slot of this session is written beside the others; anything else is
    /// looked at in turn, so that a flood of it slows down only its sender.
    async fn reported(&self, session: &SessionId, serves: &[TenantId], report: Report) {
        let attempt = &report.attempt;
        match self.held_by(session, attempt) {
            Held::Here(loaded) => {
                let engine = self.clone();
                let session = session.clone();
                self.spawn_work(async move {
                    engine.finish(&session, report, loaded).await;
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
        let mut start = start;
        for again in 0_u32.. {
            let changed = self
                .change(
                    &attempt.tenant,
                    &attempt.job_id,
                    start.take(),
                    |job, now| {
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
                    },
                )
                .await;
            let applied = match changed {
                Ok(Ok(changed)) => changed.applied,
                // Sent again because the acknowledgement was lost.
                Ok(Err((_, loaded))) => was_applied(&loaded.job, &attempt, &outcome),
                Err(Error::NotFound { .. }) => {
                    self.slot_of_nothing(session, lease_id);
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, job_id = %attempt.job_id, "result not written yet");
                    if !self.may_try_again(session, again).await {
                        // The worker sends it again wherever it connects next.
                        return;
                    }
                    continue;
                }
            };
            self.tell(session, ToWorker::ResultAck { attempt, applied });
            return;
        }
    }

    /// When an attempt had started, as far as it is known and not written yet.
    fn start_of(
        &self,
        lease: LeaseId,
        execution: Option<Duration>,
    ) -> Option<coretex_core::time::Timestamp> {
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

    async fn rejected(&self, session: &SessionId, attempt: AttemptRef, reason: String) {
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
        let mut start = loaded;
        for again in 0_u32.. {
            let changed = self
                .change(
                    &attempt.tenant,
                    &attempt.job_id,
                    start.take(),
                    |job, now| {
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
                    },
                )
                .await;
            match changed {
                Ok(_) => return,
                Err(Error::NotFound { .. }) => {
                    self.slot_of_nothing(session, lease_id);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, job_id = %attempt.job_id, "job not given back yet");
                    if !self.may_try_again(session, again).await {
                        // The worker will not list it: it is given up with the session.
                        return;
                    }
                }
            }
        }
    }

    /// Tells workers what follows from a written change.
    pub(crate) fn deliver(&self, job: &Job, effects: Vec<Effect>) {
        for effect in effects {
            let slot = match &effect {
                Effect::TellCancel { slot, .. } | Effect::TellRevoke { slot } => slot.clone(),
            };
            if slot.replica != *self.replica() {
                continue;
            }
            let attempt = AttemptRef {
                tenant: job.tenant.clone(),
                job_id: job.id.clone(),
                attempt: slot.attempt,
                lease_id: slot.lease_id,
            };
            let message = match effect {
                Effect::TellCancel { reason, grace, .. } => ToWorker::Cancel {
                    attempt,
                    reason,
                    grace,
                },
                Effect::TellRevoke { .. } => ToWorker::Revoke {
                    attempt,
                    reason: "the attempt was taken away".to_owned(),
                },
            };
            self.tell(&slot.session, message);
        }
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

/// A load as percent; nonsense counts as none.
fn percent(load: f64) -> f64 {
    if load.is_finite() {
        load.clamp(0.0, 100.0)
    } else {
        0.0
    }
}
