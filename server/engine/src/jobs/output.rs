//! What running attempts stream: taken from workers, gathered for a moment, stored in batches, read
//! by whoever asks.
//!
//! How much is gathered, and what is asked for again, is in [`gather`]; commits are in [`write`],
//! readers in [`read`]. Which pieces are kept is decided in `core::job::output`.
//!
//! A piece is acknowledged when it is stored, and its worker keeps it until then. So nothing here has
//! to survive: what is lost with this process is sent again to the next.

mod gather;
mod read;
mod write;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coretex_bus::subject;
use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId, TenantId};
use coretex_core::job::output::{Arrived, Channel, Chunk};
use coretex_core::time::Timestamp;
use coretex_store::codec;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::sessions::OUTBOUND_SLACK;
use crate::sessions::messages::Held;
use crate::types::{AttemptRef, ToWorker};
use gather::{Gathered, Offered};

/// The format of what is stored of streamed output.
pub(crate) const OUTPUT_FORMAT: u8 = 1;
/// The format of messages between replicas.
const BELL_FORMAT: u8 = 1;
/// Bytes of pieces that may be gathered in all. Each attempt has a limit of its own.
const MAX_GATHERED: usize = 64 * 1024 * 1024;
/// How often it is looked for attempts that stream no more.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For how long nothing must have come from an attempt to be forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// How long to wait until the bus is asked again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Everything that is gathered, and who waits for more of which job.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    by_lease: Mutex<HashMap<LeaseId, Arc<Gathered>>>,
    bytes: AtomicUsize,
    bells: Mutex<HashMap<(TenantId, JobId), Bell>>,
    /// How many there are in `bells`, to be looked at without its lock.
    listened: AtomicUsize,
}

/// Rings when a job has streamed more or has ended.
#[derive(Debug)]
struct Bell {
    sender: watch::Sender<u64>,
    listeners: usize,
}

/// A message to all: a job has streamed more.
#[derive(Debug, Serialize, Deserialize)]
struct Streamed {
    from: ReplicaId,
    job_id: JobId,
}

impl Outputs {
    /// Takes room for a piece, if there is any.
    fn take_room(&self, bytes: usize) -> bool {
        let fits = |held: usize| (held + bytes <= MAX_GATHERED).then_some(held + bytes);
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    fn give_room(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn of(&self, lease: LeaseId) -> Option<Arc<Gathered>> {
        self.by_lease.lock().get(&lease).cloned()
    }

    fn enter(&self, attempt: &AttemptRef) -> Arc<Gathered> {
        let mut by_lease = self.by_lease.lock();
        let new = || Arc::new(Gathered::new(attempt.clone()));
        Arc::clone(by_lease.entry(attempt.lease_id).or_insert_with(new))
    }

    /// Forgets an attempt with all that is gathered of it.
    fn forget(&self, gathered: &Arc<Gathered>) {
        let mut by_lease = self.by_lease.lock();
        let lease = gathered.attempt().lease_id;
        if let Entry::Occupied(entry) = by_lease.entry(lease)
            && Arc::ptr_eq(entry.get(), gathered)
        {
            entry.remove();
        }
        drop(by_lease);
        self.give_room(gathered.close());
    }

    /// Wakes whoever waits for more of a job.
    pub(crate) fn ring(&self, tenant: &TenantId, id: &JobId) {
        if self.listened.load(Ordering::SeqCst) == 0 {
            return;
        }
        let bells = self.bells.lock();
        if let Some(bell) = bells.get(&(tenant.clone(), id.clone())) {
            bell.sender.send_modify(|count| *count += 1);
        }
    }
}

/// Somebody who waits for more of a job.
#[derive(Debug)]
struct Listener {
    engine: Engine,
    name: (TenantId, JobId),
    bell: watch::Receiver<u64>,
}

impl Listener {
    fn new(engine: &Engine, tenant: &TenantId, id: &JobId) -> Self {
        let name = (tenant.clone(), id.clone());
        let outputs = engine.outputs();
        let mut bells = outputs.bells.lock();
        let bell = bells.entry(name.clone()).or_insert_with(|| Bell {
            sender: watch::Sender::new(0),
            listeners: 0,
        });
        bell.listeners += 1;
        let receiver = bell.sender.subscribe();
        outputs.listened.store(bells.len(), Ordering::SeqCst);
        drop(bells);
        Self {
            engine: engine.clone(),
            name,
            bell: receiver,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let outputs = self.engine.outputs();
        let mut bells = outputs.bells.lock();
        if let Some(bell) = bells.get_mut(&self.name) {
            bell.listeners -= 1;
            if bell.listeners == 0 {
                bells.remove(&self.name);
            }
        }
        outputs.listened.store(bells.len(), Ordering::SeqCst);
    }
}

impl Engine {
    /// A piece of output. Never waits: what there is no room for is asked for again.
    pub(crate) fn streamed(&self, session: &SessionId, attempt: &AttemptRef, mut chunk: Chunk) {
        let (channel, sequence) = (chunk.channel, chunk.sequence);
        if !matches!(self.held_by(session, attempt), Held::Here(Some(_))) {
            // Nobody wants it any more.
            self.acknowledge_output(session, attempt, channel, sequence, false);
            return;
        }
        if chunk.time == Timestamp::ZERO {
            chunk.time = self.now();
        }
        let now = self.tick();
        let arrived = Arrived {
            chunk,
            after_hole: false,
        };
        loop {
            let gathered = self.outputs().enter(attempt);
            // One that stops writes what it has; the rest goes to the server that comes next.
            let stopping = self.stopping().is_cancelled();
            let room = |bytes| !stopping && self.outputs().take_room(bytes);
            match gathered.offer(session, arrived.clone(), now, room) {
                // It was forgotten in this moment.
                Offered::Closed => continue,
                Offered::Taken { begin } => {
                    if begin {
                        let engine = self.clone();
                        self.spawn_work(async move { engine.write_gathered(gathered).await });
                    }
                }
                Offered::Stored => {
                    self.acknowledge_output(session, attempt, channel, sequence, false);
                }
                Offered::Known => {}
                Offered::Refused { last } => {
                    crate::telemetry::output_refused();
                    self.acknowledge_output(session, attempt, channel, last, true);
                }
            }
            return;
        }
    }

    /// Whether pieces that an attempt sent before its result were not taken: then the result is not
    /// taken either, and the worker is told to send both again.
    pub(crate) fn lacks_output(&self, session: &SessionId, attempt: &AttemptRef) -> bool {
        let Some(gathered) = self.outputs().of(attempt.lease_id) else {
            return false;
        };
        let missing = gathered.missing();
        for (channel, last) in &missing {
            self.acknowledge_output(session, attempt, *channel, *last, true);
        }
        !missing.is_empty()
    }

    /// Tells a worker what it need not keep any more. One that does not read loses its session by
    /// what it has to read; this is not worth it, and is told again when the worker asks.
    fn acknowledge_output(
        &self,
        session: &SessionId,
        attempt: &AttemptRef,
        channel: Channel,
        sequence: u32,
        resend: bool,
    ) {
        let state = self.dispatcher().lock();
        let Some(found) = state.sessions.get(session) else {
            return;
        };
        let waiting = found.sender.max_capacity() - found.sender.capacity();
        let slots = found.leases.len().max(found.max_parallel as usize);
        if waiting < slots + OUTBOUND_SLACK / 2 {
            let message = ToWorker::OutputAck {
                attempt: attempt.clone(),
                channel,
                sequence,
                resend,
            };
            // Full or closed: as above.
            let _ = found.sender.try_send(message);
        }
    }

    /// Forgets attempts that stream no more, until the engine stops.
    pub(crate) async fn run_outputs(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let now = self.tick();
            let all: Vec<_> = self.outputs().by_lease.lock().values().cloned().collect();
            for gathered in all {
                if gathered.is_idle(now, FORGET_AFTER) {
                    self.outputs().forget(&gathered);
                }
            }
        }
    }

    /// Tells readers, here and at the other replicas, that a job has streamed more.
    fn ring_output(&self, attempt: &AttemptRef) {
        self.outputs().ring(&attempt.tenant, &attempt.job_id);
        if !self.has_peers() {
            return;
        }
        let streamed = Streamed {
            from: self.replica(),
            job_id: attempt.job_id.clone(),
        };
        match codec::encode(BELL_FORMAT, &streamed) {
            Ok(payload) => self.publish(subject::output(attempt.tenant.as_str()), payload),
            Err(error) => tracing::error!(%error, "message not encoded"),
        }
    }

    /// Hears of output that other replicas have stored.
    pub(crate) async fn run_output_bells(self) {
        loop {
            match self.bus().subscribe(subject::OUTPUT_ALL, None).await {
                Ok(mut subscription) => {
                    while let Some(message) = subscription.next().await {
                        self.heard_of_output(&message.subject, &message.payload);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "output of other replicas not heard of; readers look every second");
                }
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    }

    fn heard_of_output(&self, subject: &str, payload: &Bytes) {
        let Some(tenant) = subject::tenant_of_output(subject) else {
            return;
        };
        if let Ok((_, streamed)) = codec::decode::<Streamed>(payload)
            && streamed.from != self.replica()
        {
            let tenant = TenantId::from_trusted(&tenant);
            self.outputs().ring(&tenant, &streamed.job_id);
        }
    }
}
