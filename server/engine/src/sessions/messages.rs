//! What workers say: starts, progress, and the lazy writing of what need not be durable at once.
//! How attempts end is in [`results`].

mod results;

use std::time::Duration;

use coretex_core::id::{LeaseId, SessionId, TenantId};
use coretex_core::job::transition::{Effect, Trigger, apply};
use coretex_core::job::{Job, JobState, Progress};

use crate::commits::Loaded;
use crate::engine::Engine;
use crate::types::{AttemptRef, FromWorker, ToWorker};
use crate::{Error, Result};
use results::Report;

/// How often it is looked for what is to be written.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Progress of one job is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How an attempt that a worker names stands in this replica.
pub(crate) enum Held {
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
            FromWorker::Output { attempt, chunk } => self.streamed(session, &attempt, chunk),
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
                let mut state = self.dispatcher().lock();
                if let Some(found) = state.sessions.get_mut(session) {
                    let more = max_parallel_jobs > found.max_parallel;
                    found.max_parallel = max_parallel_jobs;
                    if more {
                        state.worker_changed(session);
                    }
                }
                drop(state);
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
    pub(crate) fn held_by(&self, session: &SessionId, attempt: &AttemptRef) -> Held {
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
            Some(true) => {
                let (engine, session) = (self.clone(), session.clone());
                self.spawn_work(async move {
                    engine.confirm_start(&session, attempt, now).await;
                });
            }
        }
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

    /// Tells workers what follows from a written change.
    pub(crate) fn deliver(&self, job: &Job, effects: Vec<Effect>) {
        for effect in effects {
            let slot = match &effect {
                Effect::TellCancel { slot, .. } | Effect::TellRevoke { slot } => slot.clone(),
            };
            if slot.replica != self.replica() {
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

/// A load as percent; nonsense counts as none.
fn percent(load: f64) -> f64 {
    if load.is_finite() {
        load.clamp(0.0, 100.0)
    } else {
        0.0
    }
}
