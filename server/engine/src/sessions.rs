//! Sessions of workers: opening with adoption, what ends them, and what becomes of their attempts.
//!
//! What workers say afterwards is in [`messages`]; who gets which job is in `dispatch`.

pub(crate) mod messages;
pub(crate) mod outbound;
pub(crate) mod workers;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId, TenantId, WorkerId};
use coretex_core::job::transition::{Refusal, Trigger, apply};
use coretex_core::job::{Job, JobState};
use coretex_core::lease::{Adoption, Claim, adopt};
use tokio::sync::mpsc;

use crate::access::Caller;
use crate::commits::Loaded;
use crate::dispatch::state::session::{Leases, SessionState};
use crate::engine::Engine;
use crate::keyspace::HeldEntry;
use crate::types::{AttemptRef, FromWorker, Hello, SessionEnd, ToWorker, Welcome};
use crate::{Error, Result};

/// How often sessions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Messages to a worker that may wait beside its assignments.
pub(crate) const OUTBOUND_SLACK: usize = 256;
/// How often it is tried to give back what was not sent.
const UNSENT_EVERY: Duration = Duration::from_secs(1);
/// For how long. What is committed later is found by the comparison with the held index.
const UNSENT_PATIENCE: Duration = Duration::from_secs(60);
/// Topics of one worker.
pub const MAX_TOPICS: usize = 256;

/// Why an attempt is taken from its session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GivenUp {
    /// Its worker or server is gone.
    Lost(&'static str),
    /// The worker has never seen it, so it does not count.
    Unsent,
}

/// One connection of a worker. Ends when dropped.
#[derive(Debug)]
pub struct Session {
    /// What to tell the worker first.
    pub welcome: Welcome,
    engine: Engine,
    /// The name of the replica when it was opened; one that has got another cannot keep it.
    replica: ReplicaId,
    serves: Vec<TenantId>,
    outbound: Option<mpsc::Receiver<ToWorker>>,
    end: Arc<OnceLock<SessionEnd>>,
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

    /// Why the engine has ended it; `None` while it has not.
    #[must_use]
    pub fn why_ended(&self) -> Option<SessionEnd> {
        self.end.get().copied()
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
        let end = if clean {
            SessionEnd::Left
        } else {
            SessionEnd::Cut
        };
        self.engine.end_session(&self.welcome.session_id, end);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.engine
                .end_session(&self.welcome.session_id, SessionEnd::Cut);
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
        if !self.may_take_work() {
            return Err(Error::Unavailable {
                reason: "this server is not sure of its lease yet".to_owned(),
            });
        }
        let now = self.now();
        let session_id = SessionId::from_trusted(&self.ids().sortable(now));
        let worker_id = hello.worker_id.clone().unwrap_or_else(|| {
            WorkerId::from_trusted(&format!("w-{:08x}", self.ids().random() as u32))
        });
        let serves = serves(caller);
        // The worker may ask for more slots later; how much it may leave unread follows its slots.
        let capacity = self.limits().max_parallel_jobs as usize + OUTBOUND_SLACK;
        let (sender, outbound) = mpsc::channel(capacity);
        let end = Arc::new(OnceLock::new());
        let mut topics = hello.topics.clone();
        topics.sort();
        topics.dedup();
        self.check_mapped(&hello)?;
        {
            let mut state = self.dispatcher().lock();
            let limit = self.limits().max_sessions;
            if state.sessions.len() >= limit {
                return Err(Error::TooManyStreams { limit });
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
                protocol_version: hello.protocol_version,
                principal_id: caller.principal_id.clone(),
                connect_time: now,
                heard_time: now,
                heard: self.tick(),
                sender,
                outbound: Arc::default(),
                end: Arc::clone(&end),
                leases: Leases::default(),
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
            replica: self.replica(),
            serves,
            outbound: Some(outbound),
            end,
            ended: false,
        };
        let mut stops = Vec::new();
        for attempt in hello.running {
            let Some(loaded) = self.adopt(&session, &attempt).await? else {
                session.welcome.revoked.push(attempt);
                continue;
            };
            if let Some(cancel) = &loaded.job.cancel {
                // Asked for while the worker was away.
                stops.push(ToWorker::Cancel {
                    attempt: attempt.clone(),
                    reason: cancel.reason.clone(),
                    grace: cancel.terminal_at.since(self.now()),
                });
            }
            session.welcome.kept.push(attempt);
        }
        if let Some(found) = self.dispatcher().lock().sessions.get_mut(&session_id) {
            found.open = true;
        }
        self.dispatcher().lock().worker_changed(&session_id);
        for stop in stops {
            self.tell(&session_id, stop);
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

    /// The tables say which pools there are, and which topics each may serve.
    fn check_mapped(&self, hello: &Hello) -> Result<()> {
        let routing = self.routing();
        if !routing.knows_pool(&hello.pool) {
            return Err(Error::PoolNotAllowed {
                pool: hello.pool.clone(),
            });
        }
        if !routing.closes_topics() {
            return Ok(());
        }
        for topic in &hello.topics {
            let rule = routing.topic(topic).map(|(_, rule)| rule);
            if !rule.is_some_and(|rule| rule.pools.is_empty() || rule.pools.contains(&hello.pool)) {
                return Err(Error::TopicNotAllowed {
                    topic: topic.clone(),
                    pool: hello.pool.clone(),
                });
            }
        }
        Ok(())
    }

    /// Takes over an attempt that a worker says it runs; `None` when it has to stop it.
    async fn adopt(&self, session: &Session, attempt: &AttemptRef) -> Result<Option<Loaded>> {
        if !session.serves.contains(&attempt.tenant) {
            return Ok(None);
        }
        let claim = Claim {
            attempt: attempt.attempt,
            lease_id: attempt.lease_id,
        };
        let (replica, id) = (session.replica.clone(), session.welcome.session_id.clone());
        for again in 0..16 {
            if self.replica() != replica {
                return Err(Error::Unavailable {
                    reason: "this server goes on under another name".to_owned(),
                });
            }
            let loaded = match self.load(&attempt.tenant, &attempt.job_id).await {
                Ok(loaded) => loaded,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            match adopt(Some(&loaded.job), claim, &replica, &id) {
                Adoption::Keep => return Ok(Some(loaded)),
                Adoption::Revoke(_) => {
                    // It will not answer for that attempt on the old connection any more.
                    self.answer_lost(&attempt.tenant, &attempt.job_id, attempt.lease_id)
                        .await;
                    return Ok(None);
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
                        Ok(after) => {
                            self.end_superseded(&loaded.job);
                            return Ok(Some(after));
                        }
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

    /// The process that held this attempt has come back on another connection: the lease says so.
    /// The one that it had before is dead, whatever it looks like from here, and gets nothing more.
    fn end_superseded(&self, before: &Job) {
        if let Some(lease) = &before.lease
            && lease.slot.replica == self.replica()
        {
            self.end_session(&lease.slot.session, SessionEnd::Superseded);
        }
    }

    /// Ends a session. Its slots stay taken until their attempts are adopted or given up.
    pub(crate) fn end_session(&self, id: &SessionId, why: SessionEnd) {
        let now = self.tick();
        let removed = {
            let mut state = self.dispatcher().lock();
            let heard = state.sessions.get(id).map_or(now, |session| session.heard);
            // A silent one had ended by the first heartbeat that did not come, and its worker has
            // been free to go elsewhere since.
            let since = match why {
                SessionEnd::Silent => now.min(heard + self.timing().heartbeat_interval),
                _ => now,
            };
            state.remove_session(id, since)
        };
        if let Some(session) = removed {
            // Before the channel closes: who finds it closed asks why.
            let _ = session.end.set(why);
            let out = session.leases.len();
            self.note_departure(id, &session);
            tracing::info!(worker_id = %session.worker_id, session = %id, ?why, out, "worker disconnected");
        }
    }

    /// No worker gets anything more from here.
    pub(crate) fn close_sessions_to_work(&self) {
        for session in self.dispatcher().lock().sessions.values_mut() {
            session.leaving = true;
        }
    }

    /// Tells every worker to reconnect elsewhere.
    pub(crate) fn tell_sessions_to_leave(&self, deadline: coretex_core::time::Timestamp) {
        let state = self.dispatcher().lock();
        for session in state.sessions.values() {
            // One that does not read will notice when the connection closes.
            let _ = session.sender.try_send(ToWorker::Drain { deadline });
        }
    }

    /// Ends silent sessions until the engine stops. Asks nobody, so nothing holds it up.
    pub(crate) async fn run_sessions(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let silence = self.timing().session_silence;
            let silent = self.dispatcher().lock().silent(self.tick(), silence);
            for session in silent {
                self.end_session(&session, SessionEnd::Silent);
            }
        }
    }

    /// Gives up attempts whose adoption window is over and those that were never sent, until the
    /// engine stops.
    pub(crate) async fn run_losses(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unsent_at = self.tick();
        loop {
            look.tick().await;
            let (engine, now) = (&self, self.tick());
            let window = self.timing().adoption_window;
            // While the store does not answer, nobody can come back, so the window does not run.
            if self.store_up_for() >= window {
                let lost = {
                    let mut state = self.dispatcher().lock();
                    state.lost_attempts(&self.replica(), window, now)
                };
                self.for_each_bounded(lost, |entry| async move {
                    let why = GivenUp::Lost("the worker did not come back");
                    engine.give_up(&entry, why).await;
                })
                .await;
            }
            if now.since(unsent_at) >= UNSENT_EVERY {
                unsent_at = now;
                let unsent = self.dispatcher().lock().unsent(UNSENT_PATIENCE, now);
                self.for_each_bounded(unsent, |entry| async move {
                    engine.give_up(&entry, GivenUp::Unsent).await;
                })
                .await;
            }
        }
    }

    /// Gives up an attempt if it still stands where `entry` says: the job is queued again or ends,
    /// as its policy says, and the slot is free. What fails is tried again by who called.
    pub(crate) async fn give_up(&self, entry: &HeldEntry, why: GivenUp) {
        let lease_id = entry.lease_id;
        let changed = self
            .change(&entry.tenant, &entry.job_id, None, |job, now| {
                if !entry.stands_in(job) {
                    // Its worker has come back elsewhere, or it is over.
                    return Err(Refusal::NotCurrent);
                }
                let trigger = match why {
                    GivenUp::Unsent if job.state != JobState::Running => Trigger::Returned {
                        lease_id,
                        reason: "the assignment was not sent".to_owned(),
                    },
                    GivenUp::Unsent => Trigger::Lost {
                        lease_id,
                        reason: "the assignment was not sent".to_owned(),
                    },
                    GivenUp::Lost(reason) => Trigger::Lost {
                        lease_id,
                        reason: reason.to_owned(),
                    },
                };
                apply(job, trigger, now)
            })
            .await;
        let now = self.tick();
        let mut state = self.dispatcher().lock();
        match changed {
            Ok(Ok(_)) => state.forget_unsent(lease_id),
            // Whatever the record says, it does not stand here. One that was not sent may yet
            // be committed.
            Ok(Err(_)) | Err(Error::NotFound { .. }) => {
                if state.remove_slot_at(lease_id, &entry.session) {
                    self.dispatcher().wake();
                }
            }
            Err(error) => {
                tracing::warn!(%error, job_id = %entry.job_id, "attempt not given up yet");
                if matches!(why, GivenUp::Unsent) {
                    state.note_unsent(entry.clone(), now);
                }
            }
        }
    }

    /// A worker that came back does not know an attempt that is no longer its own: the slot that
    /// the record still counts is free.
    async fn answer_lost(&self, tenant: &TenantId, id: &JobId, lease_id: LeaseId) {
        let changed = self
            .change(tenant, id, None, |job, now| {
                if job.holds(lease_id) {
                    // It was named wrongly: that takes it from nobody.
                    return Err(Refusal::NotCurrent);
                }
                let trigger = Trigger::Lost {
                    lease_id,
                    reason: String::new(),
                };
                apply(job, trigger, now)
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
