//! Sessions of workers: opening with adoption, what ends them, and what becomes of their attempts.
//!
//! What workers say afterwards is in [`messages`]; who gets which job is in `dispatch`.

pub(crate) mod messages;
pub(crate) mod workers;

use std::collections::HashSet;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, SessionId, TenantId, WorkerId};
use coretex_core::job::transition::{Trigger, apply};
use coretex_core::lease::{Adoption, Claim, adopt};
use tokio::sync::mpsc;

use crate::access::Caller;
use crate::dispatch::state::SessionState;
use crate::engine::Engine;
use crate::types::{AttemptRef, FromWorker, Hello, ToWorker, Welcome};
use crate::{Error, Result};

/// How often sessions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Messages to a worker that may wait beside its assignments.
const OUTBOUND_SLACK: usize = 256;
/// Topics of one worker.
pub const MAX_TOPICS: usize = 256;

/// One connection of a worker. Ends when dropped.
#[derive(Debug)]
pub struct Session {
    /// What to tell the worker first.
    pub welcome: Welcome,
    engine: Engine,
    serves: Vec<TenantId>,
    outbound: Option<mpsc::Receiver<ToWorker>>,
    ended: bool,
}

impl Session {
    /// What the server says to this worker, to be taken once. It ends when the session does.
    ///
    /// # Panics
    /// Never; a second call gets a stream that has ended.
    pub fn outbound(&mut self) -> mpsc::Receiver<ToWorker> {
        self.outbound.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Takes a message of the worker. An error ends the session.
    ///
    /// # Errors
    /// `Protocol`, or `Unavailable` when the session has been closed.
    pub async fn receive(&self, message: FromWorker) -> Result<()> {
        self.engine
            .receive(&self.welcome.session_id, &self.serves, message)
            .await
    }

    /// The stream has ended. Attempts that are out wait for the worker to come back; a worker
    /// that has none is forgotten at once.
    pub async fn end(mut self, clean: bool) {
        self.ended = true;
        self.engine
            .end_session(&self.welcome.session_id, if clean { "left" } else { "cut" });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.engine.end_session(&self.welcome.session_id, "cut");
        }
    }
}

impl Engine {
    /// Opens a session for a worker and takes over the attempts that it still runs.
    ///
    /// # Errors
    /// `Invalid`, `TooManyStreams`, `Draining`, `Unavailable`.
    pub async fn open_session(&self, caller: &Caller, hello: Hello) -> Result<Session> {
        self.refuse_when_draining()?;
        self.check_hello(&hello)?;
        let now = self.now();
        let session_id = SessionId::from_trusted(&self.ids().sortable(now));
        let worker_id = hello.worker_id.clone().unwrap_or_else(|| {
            WorkerId::from_trusted(&format!("w-{:08x}", self.ids().random() as u32))
        });
        let serves = serves(caller);
        let capacity = hello.max_parallel_jobs as usize + OUTBOUND_SLACK;
        let (sender, outbound) = mpsc::channel(capacity);
        let mut topics = hello.topics.clone();
        topics.sort();
        topics.dedup();
        {
            let mut state = self.dispatcher().lock();
            if state.sessions.len() >= self.limits().max_sessions {
                return Err(Error::TooManyStreams);
            }
            let drained = state
                .drained
                .contains(&(caller.tenant.clone(), worker_id.clone()));
            let session = SessionState {
                worker_id: worker_id.clone(),
                tenant: caller.tenant.clone(),
                pool: hello.pool.clone(),
                topics,
                capabilities: hello.capabilities.iter().cloned().collect(),
                labels: hello.labels.clone(),
                serves: serves.clone(),
                max_parallel: hello.max_parallel_jobs,
                cpu_load: 0.0,
                gpu_utilization: 0.0,
                leaving: false,
                drained,
                open: false,
                sdk: hello.sdk.clone(),
                connect_time: now,
                heartbeat_time: now,
                heard: self.tick(),
                sender,
                leases: HashSet::new(),
                reserved: 0,
            };
            state.insert_session(session_id.clone(), session);
        }
        let mut session = Session {
            welcome: Welcome {
                worker_id: worker_id.clone(),
                session_id: session_id.clone(),
                heartbeat_interval: self.timing().heartbeat_interval,
                adoption_window: self.timing().adoption_window,
                kept: Vec::new(),
                revoked: Vec::new(),
            },
            engine: self.clone(),
            serves,
            outbound: Some(outbound),
            ended: false,
        };
        for attempt in hello.running {
            if self.adopt(&session, &attempt).await? {
                session.welcome.kept.push(attempt);
            } else {
                session.welcome.revoked.push(attempt);
            }
        }
        if let Some(found) = self.dispatcher().lock().sessions.get_mut(&session_id) {
            found.open = true;
        }
        self.dispatcher().wake();
        tracing::info!(%worker_id, session = %session_id, pool = %hello.pool, kept = session.welcome.kept.len(), revoked = session.welcome.revoked.len(), "worker connected");
        Ok(session)
    }

    fn check_hello(&self, hello: &Hello) -> Result<()> {
        if hello.topics.is_empty() {
            return Err(Error::invalid(
                "hello.topics",
                "must name at least one topic",
            ));
        }
        if hello.topics.len() > MAX_TOPICS {
            let most = format!("must name at most {MAX_TOPICS} topics");
            return Err(Error::invalid("hello.topics", most));
        }
        let limit = self.limits().max_parallel_jobs;
        if hello.max_parallel_jobs == 0 || hello.max_parallel_jobs > limit {
            let range = format!("must be from 1 to {limit}");
            return Err(Error::invalid("hello.max_parallel_jobs", range));
        }
        if hello.running.len() > limit as usize {
            return Err(Error::invalid(
                "hello.running",
                format!("must hold at most {limit}"),
            ));
        }
        Ok(())
    }

    /// Takes over an attempt that a worker says it runs; false when it has to stop it.
    async fn adopt(&self, session: &Session, attempt: &AttemptRef) -> Result<bool> {
        if !session.serves.contains(&attempt.tenant) {
            return Ok(false);
        }
        let claim = Claim {
            attempt: attempt.attempt,
            lease_id: attempt.lease_id,
        };
        let (replica, id) = (self.replica().clone(), session.welcome.session_id.clone());
        for again in 0..16 {
            let loaded = match self.load(&attempt.tenant, &attempt.job_id).await {
                Ok(loaded) => loaded,
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            match adopt(Some(&loaded.job), claim, &replica, &id) {
                Adoption::Keep => return Ok(true),
                Adoption::Revoke(_) => {
                    // It will not answer for that attempt on the old connection any more.
                    self.answer_lost(&attempt.tenant, &attempt.job_id, attempt.lease_id)
                        .await;
                    return Ok(false);
                }
                Adoption::Move => {
                    let trigger = Trigger::Adopted {
                        lease_id: attempt.lease_id,
                        replica: replica.clone(),
                        session: id.clone(),
                    };
                    let moved = apply(&loaded.job, trigger, self.now())?;
                    match self
                        .write(Some(&loaded), moved.job, crate::commits::Extras::default())
                        .await
                    {
                        Ok(_) => return Ok(true),
                        Err(coretex_store::CommitError::Conflict { .. }) => {
                            self.pause(again).await;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Err(Error::Contention)
    }

    /// Ends a session. Its slots stay taken until their attempts are adopted or given up.
    pub(crate) fn end_session(&self, id: &SessionId, why: &'static str) {
        let removed = self.dispatcher().lock().remove_session(id, self.tick());
        if let Some(session) = removed {
            let out = session.leases.len();
            tracing::info!(worker_id = %session.worker_id, session = %id, why, out, "worker disconnected");
            self.sweep_bell().notify_one();
        }
    }

    /// Tells every worker to reconnect elsewhere.
    pub(crate) fn tell_sessions_to_leave(&self, deadline: coretex_core::time::Timestamp) {
        let mut state = self.dispatcher().lock();
        for session in state.sessions.values_mut() {
            session.leaving = true;
            // One that does not read will notice when the connection closes.
            let _ = session.sender.try_send(ToWorker::Drain { deadline });
        }
    }

    /// Watches over sessions until the engine stops: silent ones are ended, and attempts of lost
    /// ones given up when the adoption window is over.
    pub(crate) async fn run_sessions(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let now = self.tick();
            let (closed, silent) = {
                let mut state = self.dispatcher().lock();
                (
                    state.take_closed(),
                    state.silent(now, self.timing().session_silence),
                )
            };
            for (session, why) in closed {
                self.end_session(&session, why);
            }
            for session in silent {
                self.end_session(&session, "silent");
            }
            let given_up = self.lost_leases();
            if !given_up.is_empty() {
                let (engine, why) = (&self, "the worker did not come back");
                engine
                    .for_each_bounded(given_up, |(tenant, id, lease)| async move {
                        engine.give_up(&tenant, &id, lease, why).await;
                    })
                    .await;
            }
            self.write_lazily().await;
        }
    }

    /// Attempts of sessions whose adoption window is over.
    fn lost_leases(&self) -> Vec<(TenantId, JobId, LeaseId)> {
        // While the store does not answer, nobody can come back, so the window does not run.
        if self.store_up_for() < self.timing().adoption_window {
            return Vec::new();
        }
        let now = self.tick();
        let window = self.timing().adoption_window;
        let mut state = self.dispatcher().lock();
        if !state
            .lost
            .iter()
            .any(|lost| now.since(lost.since) >= window)
        {
            return Vec::new();
        }
        let over: HashSet<SessionId> = state
            .lost
            .extract_if(.., |lost| now.since(lost.since) >= window)
            .map(|lost| lost.session)
            .collect();
        state
            .slots
            .iter()
            .filter(|(_, slot)| over.contains(&slot.session))
            .map(|(lease, slot)| (slot.tenant.clone(), slot.job_id.clone(), *lease))
            .collect()
    }

    /// Gives up an attempt whose session is gone: the job is queued again or ends, as its policy
    /// says, and the slot is free.
    pub(crate) async fn give_up(
        &self,
        tenant: &TenantId,
        id: &JobId,
        lease_id: LeaseId,
        reason: &'static str,
    ) {
        for again in 0..u32::MAX {
            let changed = self
                .change(tenant, id, None, |job, now| {
                    apply(
                        job,
                        Trigger::Lost {
                            lease_id,
                            reason: reason.to_owned(),
                        },
                        now,
                    )
                })
                .await;
            match changed {
                Ok(_) | Err(Error::NotFound { .. }) => break,
                Err(error) => {
                    tracing::warn!(%error, job_id = %id, "lost attempt not given up yet");
                    if self.is_draining() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100 << again.min(5))).await;
                }
            }
        }
        // Whatever the record said, no session of this replica has it any more.
        if self.dispatcher().lock().remove_slot(lease_id) {
            self.dispatcher().wake();
        }
    }

    /// A worker that came back does not know an attempt that is no longer its own: the slot that
    /// the record still counts is free.
    async fn answer_lost(&self, tenant: &TenantId, id: &JobId, lease_id: LeaseId) {
        let changed = self
            .change(tenant, id, None, |job, now| {
                apply(
                    job,
                    Trigger::Lost {
                        lease_id,
                        reason: String::new(),
                    },
                    now,
                )
            })
            .await;
        if let Err(error) = changed {
            tracing::debug!(%error, job_id = %id, "old slot not freed yet");
        }
    }
}

/// Tenants whose jobs a worker gets: those that its credential lists, else its own.
fn serves(caller: &Caller) -> Vec<TenantId> {
    if caller.tenants_served.is_empty() {
        vec![caller.tenant.clone()]
    } else {
        caller
            .tenants_served
            .iter()
            .map(|id| TenantId::from_trusted(id))
            .collect()
    }
}
