//! Which worker gets which job: this replica's view of its workers and queues, the fast path for an
//! empty queue, and the claim loop for the rest.
//!
//! [`state`] is the view, behind one lock that is never held across I/O. [`claims`] reads queues
//! and commits claims. What is decided about placement is in `coretex_core::placement`.

pub(crate) mod claims;
pub(crate) mod queue;
pub(crate) mod state;

use std::sync::Arc;

use coretex_core::config::Effective;
use coretex_core::id::{LeaseId, PoolName, SessionId, WorkerId};
use coretex_core::job::Job;
use coretex_core::job::transition::Trigger;
use coretex_core::lease::{ASSIGNMENT_VALID, Tick, may_assign};
use coretex_core::payload::Payload;
use coretex_core::routing::Routing;
use coretex_core::time::Timestamp;
use coretex_store::CommitError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::Weight;
use crate::commits::Loaded;
use crate::engine::Engine;
use crate::keyspace::{self, HeldEntry};
use crate::sessions::GivenUp;
use crate::types::{AttemptRef, SessionEnd, ToWorker};
use state::State;

/// This replica's view of its workers and queues.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    state: Mutex<State>,
    wake: Notify,
    /// Rings when a dispatch is over, handed out or not.
    settled: Notify,
}

impl Dispatcher {
    /// The view. Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes the claim loop look again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for a wake.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// A slot that is taken in memory while its commit is under way. Freed when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    engine: Engine,
    lease_id: LeaseId,
    pub(crate) session: SessionId,
    pub(crate) worker_id: WorkerId,
    pub(crate) pool: PoolName,
    /// How many slots are taken.
    slots: u32,
    weight: Option<Arc<Weight>>,
}

impl Reservation {
    pub(crate) fn new(
        engine: &Engine,
        session: SessionId,
        worker: WorkerId,
        pool: PoolName,
        slots: u32,
    ) -> Self {
        let lease_id = LeaseId::new(engine.ids().random());
        engine.dispatcher().lock().dispatching.insert(lease_id);
        Self {
            engine: engine.clone(),
            lease_id,
            session,
            worker_id: worker,
            pool,
            slots,
            weight: None,
        }
    }

    /// Takes room for the job's input on its way to the worker; false when there is none until
    /// the worker has read what waits for it.
    pub(crate) fn weigh(&mut self, job: &Job) -> bool {
        let bytes = job.input.as_ref().map_or(0, Payload::size);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes == 0 {
            return true;
        }
        let outbound = {
            let state = self.engine.dispatcher().lock();
            let session = state.sessions.get(&self.session);
            session.map(|session| Arc::clone(&session.outbound))
        };
        // A session that has ended is noticed when the assignment is sent.
        let Some(outbound) = outbound else {
            return true;
        };
        self.weight = outbound.take(&self.engine, bytes).map(Arc::new);
        self.weight.is_some()
    }

    /// The trigger that hands a job to the reserved worker.
    pub(crate) fn trigger(&self, job: &Job, routing: &Routing) -> Trigger {
        let running = routing.concurrency(&job.spec, &job.tenant);
        Trigger::Dispatch {
            concurrency_key: running.map_or_else(String::new, |running| running.key.to_owned()),
            lease_id: self.lease_id,
            replica: self.engine.replica(),
            session: self.session.clone(),
            worker_id: self.worker_id.clone(),
            pool: self.pool.clone(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut state = self.engine.dispatcher().lock();
            state.dispatching.remove(&self.lease_id);
            state.release(&self.session, self.slots);
        }
        self.engine.dispatcher().settled.notify_waiters();
        self.engine.dispatcher().wake();
    }
}

impl Engine {
    /// Waits until every dispatch under way is handed out or given back.
    pub(crate) async fn dispatches_settled(&self) {
        loop {
            let settled = self.dispatcher().settled.notified();
            let settled_now = {
                let state = self.dispatcher().lock();
                let reserved = state.sessions.values().any(|session| session.reserved > 0);
                state.dispatching.is_empty() && !reserved
            };
            if settled_now {
                return;
            }
            settled.await;
        }
    }

    /// The fast path: takes a slot for a new job, unless anything waits that the slot should go to
    /// first.
    pub(crate) fn reserve_for_new(&self, job: &Job) -> Option<Reservation> {
        if self.is_draining() || !job.is_ready() || !self.may_take_work() {
            return None;
        }
        let now = self.tick();
        let (session, worker, pool) = self.dispatcher().lock().reserve_fast(job, now)?;
        let slots = job.spec.placement.slots.0;
        let mut reservation = Reservation::new(self, session, worker, pool, slots);
        reservation.weigh(job).then_some(reservation)
    }

    /// Sends a committed dispatch to its worker. `sent` is when the commit was sent; `config` is the
    /// configuration in force then.
    pub(crate) async fn hand_out(
        &self,
        after: &Loaded,
        whole: Arc<Job>,
        config: Arc<Effective>,
        reservation: Reservation,
        sent: Tick,
    ) {
        let (Some(lease), Some(entry)) = (&after.job.lease, HeldEntry::of_lease(&after.job)) else {
            return;
        };
        let attempt = AttemptRef {
            tenant: after.job.tenant.clone(),
            job_id: after.job.id.clone(),
            attempt: lease.slot.attempt,
            lease_id: lease.slot.lease_id,
        };
        crate::telemetry::dispatched(lease.dispatch_time.since(after.job.eligible_time));
        let fresh = may_assign(sent, self.tick());
        let message = ToWorker::Assignment {
            job: whole,
            attempt,
            valid_for: ASSIGNMENT_VALID,
            time_limit: ends_by(&after.job, lease.timeout_at).since(lease.dispatch_time),
            config,
            weight: reservation.weight.clone(),
        };
        let told = fresh
            && self.tell_if(&reservation.session, message, |state| {
                // Whoever has cancelled or ended the attempt meanwhile has told the worker already.
                state.slots.get(&entry.lease_id).is_some_and(|slot| {
                    slot.loaded
                        .as_ref()
                        .is_some_and(|loaded| loaded.job.cancel.is_none())
                })
            });
        drop(reservation);
        if !told {
            // Nobody has seen this attempt, so it is given back, not lost.
            self.give_up(&entry, GivenUp::Unsent).await;
        }
    }

    /// A dispatch was not acknowledged. If its outcome is unknown, the attempt may stand in the
    /// store, now or later, and is given back as soon as it does.
    pub(crate) fn perhaps_committed(&self, error: &CommitError, entry: Option<HeldEntry>) {
        if let Some(entry) = entry.filter(|_| error.outcome_unknown()) {
            let now = self.tick();
            self.dispatcher().lock().note_unsent(entry, now);
        }
    }

    /// Sends to a session; false when it is gone. One that does not read is closed.
    pub(crate) fn tell(&self, session: &SessionId, message: ToWorker) -> bool {
        self.tell_if(session, message, |_| true)
    }

    /// Sends to a session if `still` holds in the same instant.
    fn tell_if(
        &self,
        session: &SessionId,
        message: ToWorker,
        still: impl FnOnce(&State) -> bool,
    ) -> bool {
        let state = self.dispatcher().lock();
        let Some(found) = state.sessions.get(session) else {
            return false;
        };
        if !still(&state) {
            return false;
        }
        if found.has_room() && found.sender.try_send(message).is_ok() {
            return true;
        }
        drop(state);
        self.end_session(session, SessionEnd::TooSlow);
        false
    }

    /// Takes over what a written job says of this replica's slots.
    pub(crate) fn update_slots(&self, before: Option<&Job>, after: &Loaded) {
        let job = &after.job;
        if before.is_none_or(|job| job.slots().next().is_none()) && job.slots().next().is_none() {
            return;
        }
        let replica = self.replica();
        let mine = |slot: &&coretex_core::job::Slot| slot.replica == replica;
        let mut freed = false;
        let mut state = self.dispatcher().lock();
        for slot in before.into_iter().flat_map(Job::slots).filter(mine) {
            let stays = job
                .slots()
                .filter(mine)
                .any(|after| after.lease_id == slot.lease_id);
            if !stays {
                freed |= state.remove_slot(slot.lease_id);
            }
        }
        for slot in job.slots().filter(mine) {
            state.put_slot(slot, after);
        }
        drop(state);
        if freed {
            self.dispatcher().wake();
        }
    }

    /// Counts a job that is about to become ready, so that no newcomer overtakes it; whether it
    /// counts.
    pub(crate) fn before_write(&self, before: Option<&Job>, after: &Job) -> bool {
        after.is_ready() && !before.is_some_and(Job::is_ready) && {
            let key = keyspace::ready_key(after);
            self.dispatcher().lock().begin_add(&key, &after.spec.topic)
        }
    }

    /// The other half of [`Self::before_write`] for a commit that was not acknowledged.
    pub(crate) fn write_failed(
        &self,
        before: Option<&Job>,
        after: &Job,
        counts: bool,
        error: &coretex_store::CommitError,
    ) {
        if after.is_ready() && !before.is_some_and(Job::is_ready) {
            let mut state = self.dispatcher().lock();
            state.end_add(&after.spec.topic, None, counts);
        }
        if error.outcome_unknown() {
            tracing::warn!(job_id = %after.id, %error, "commit outcome unknown");
        }
    }

    /// The other half of [`Self::before_write`]: the job waits now.
    pub(crate) fn became_ready(&self, job: &Job, counts: bool) {
        let topic = &job.spec.topic;
        let added = Some((keyspace::ready_key(job), job));
        let has_workers = self.dispatcher().lock().end_add(topic, added, counts);
        if has_workers {
            self.dispatcher().wake();
        }
        self.ring(coretex_bus::subject::ready(topic.as_str()));
    }
}

/// When an attempt that times out at `timeout_at` is over at the latest.
fn ends_by(job: &Job, timeout_at: Timestamp) -> Timestamp {
    job.deadline
        .map_or(timeout_at, |deadline| deadline.min(timeout_at))
}
