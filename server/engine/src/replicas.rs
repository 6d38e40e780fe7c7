//! Replicas: what each keeps in the store about itself, and what is done once a second about it and
//! about the others.
//!
//! [`lease`] is this replica's own lease and name. [`gone`] looks for replicas whose lease is over
//! and gives up what they held. [`slots`] compares what this one holds with the store. [`peers`] is
//! what replicas tell each other over the bus, and [`registry`] what they know of each other's
//! workers.

mod gone;
mod lease;
mod peers;
pub(crate) mod registry;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coretex_core::id::{JobId, ReplicaId, TenantId};
use coretex_core::lease::{
    OwnLease, RENEW_EVERY, ReplicaLease, SLOTS_REREAD_EVERY, SWEEP_EVERY, StoreWatch, Tick,
};
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Key, Shard, Version, codec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::types::ReplicaInfo;
use crate::{Result, keyspace};

const FORMAT: u8 = 1;
/// How often the store is asked and the others are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A store that has not answered for this long does not answer: it is asked once a second.
const SILENCE: Duration = Duration::from_millis(2_500);
/// For how long after the store went back slots are compared at every look.
const AFTER_REWIND: Duration = Duration::from_secs(10);

/// A replica, as it stands in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ReplicaRecord {
    lease: ReplicaLease,
    version: String,
    start_time: Timestamp,
    draining: bool,
    workers: u32,
    active_jobs: u32,
}

/// Who owns a shard: its timers, its sweeping, the attempts of dead replicas.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OwnerRecord {
    lease: ReplicaLease,
}

/// What a replica knows of leases. What is walked through is sorted: the order of work must not
/// depend on the luck of a hash.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    owner: AtomicBool,
    /// When this replica last wrote that it owns the shard.
    owned: Mutex<Option<Tick>>,
    watch: Mutex<StoreWatch>,
    /// The version of our own record and what we know of its lease; `None` until it is written.
    own: Mutex<Option<(Version, OwnLease)>>,
    /// Rings when this replica goes on under another name.
    renamed: Notify,
    known: Mutex<Vec<ReplicaInfo>>,
    /// Replicas that are gone, and since when this one has known.
    gone: Mutex<BTreeMap<ReplicaId, Tick>>,
    /// The versions of the records of others' leases, and when they were first seen.
    seen: Mutex<HashMap<Key, (Version, Tick)>>,
    /// The store went back since this replica's lease was last renewed.
    rewound: AtomicBool,
    /// Jobs that others have changed and that this replica has to look at.
    behind: Mutex<BTreeSet<(TenantId, JobId)>>,
    look: Notify,
    /// Jobs that have ended here or are out no more, and the concurrency keys under which they counted,
    /// of which the others have not been told yet.
    ends: Mutex<BTreeMap<TenantId, Vec<(JobId, String)>>>,
    ended: Notify,
    /// The store's epoch at the last look.
    epoch: AtomicU64,
    registry: registry::Registry,
}

impl Engine {
    /// Whether this replica runs the shard's timers and sweeper.
    pub(crate) fn owns_shard(&self) -> bool {
        self.replicas().owner.load(Ordering::Relaxed)
    }

    /// For how long the store has answered without a gap.
    pub(crate) fn store_up_for(&self) -> Duration {
        self.replicas().watch.lock().up_for(self.tick())
    }

    pub(crate) fn known_replicas(&self) -> Vec<ReplicaInfo> {
        self.replicas().known.lock().clone()
    }

    /// Whether the store has not answered lately.
    pub(crate) fn store_silent(&self) -> bool {
        let heard = self.replicas().watch.lock().last_answer();
        heard.is_none_or(|heard| self.tick().since(heard) > SILENCE)
    }

    /// Whether others run on the same store.
    pub(crate) fn has_peers(&self) -> bool {
        !self.store().info().exclusive
    }

    /// How many replicas share the work, this one included.
    pub(crate) fn replica_count(&self) -> usize {
        self.replicas().known.lock().len().max(1)
    }

    /// This replica as it is now; the others know it as it was at its last renewal.
    pub(crate) fn own_info(&self) -> ReplicaInfo {
        let state = self.dispatcher().lock();
        ReplicaInfo {
            replica_id: self.replica().clone(),
            version: self.options().version.clone(),
            start_time: self.start_time(),
            draining: self.is_draining(),
            workers: u32::try_from(state.sessions.len()).unwrap_or(u32::MAX),
            active_jobs: u32::try_from(state.slots.len()).unwrap_or(u32::MAX),
        }
    }

    /// Makes the store point to the kernel's snapshot, which commits have as a precondition.
    pub(crate) async fn ensure_policy_pointer(&self) -> Result<()> {
        let wanted = self.kernel().snapshot();
        for attempt in 0..8 {
            let read = self
                .store()
                .get(self.shard(), &[keyspace::policy()])
                .await?;
            let found = read.value.into_iter().next().flatten();
            let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
            match found {
                Some(record) if record.value == wanted.as_bytes() => return Ok(()),
                Some(record) => {
                    batch.replace(keyspace::policy(), record.version, wanted.clone().into());
                }
                None => {
                    batch.create(keyspace::policy(), wanted.clone().into());
                }
            }
            match self.store().commit(batch).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(crate::Error::Contention)
    }

    /// Enters this replica in the store, and takes up what earlier ones left when nobody else can
    /// be using the store.
    pub(crate) async fn announce_replica(&self) -> Result<()> {
        self.replicas()
            .epoch
            .store(self.store().epoch(), Ordering::Relaxed);
        self.write_first_lease().await?;
        self.replicas().watch.lock().answered(self.tick());
        self.look_at_replicas(true).await?;
        self.read_drained().await?;
        self.keep_ownership().await
    }

    /// Keeps leases and looks after those that are gone, until the engine stops.
    pub(crate) async fn run_replicas(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut compared, mut swept, mut rewound) = (self.tick(), self.tick(), None);
        loop {
            look.tick().await;
            let asked = Instant::now();
            match self.store().time().await {
                Ok(time) => {
                    self.observe(asked, time);
                    self.replicas().watch.lock().answered(self.tick());
                }
                Err(error) => {
                    self.replicas().watch.lock().interrupted();
                    tracing::warn!(%error, "the store does not answer");
                    continue;
                }
            }
            if self.notice_rewind().await {
                rewound = Some(self.tick());
            }
            // One that fails does not keep the others from being done.
            if let Err(error) = self.keep_lease().await {
                tracing::warn!(%error, "lease not renewed; trying again in a second");
            }
            if let Err(error) = self.keep_ownership().await {
                tracing::warn!(%error, "shard not kept; trying again in a second");
            }
            let now = self.tick();
            let sweeps = now.since(swept) >= SWEEP_EVERY;
            let looked = async {
                self.look_at_replicas(sweeps).await?;
                if sweeps || self.take_workers() {
                    self.read_workers(&self.known_replicas()).await?;
                }
                self.give_up_gone().await
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "replicas not looked at; trying again in a second");
                // They come along with the look, and are there also where a lease cannot be read.
                if let Err(error) = self.read_news().await {
                    tracing::warn!(%error, "news not read; trying again in a second");
                }
            }
            if sweeps {
                swept = now;
            }
            self.keep_policy().await;
            if let Err(error) = self.share_workers().await {
                tracing::warn!(%error, "workers not told to the other replicas");
            }
            let hurry = rewound.is_some_and(|at| now.since(at) < AFTER_REWIND);
            if now.since(compared) >= SLOTS_REREAD_EVERY || hurry {
                compared = now;
                if let Err(error) = self.compare_slots().await {
                    tracing::warn!(%error, "slots not compared with the store");
                }
            }
        }
    }

    /// Whether the store has lost commits since the last look. Then the store is right, and what
    /// was remembered is not: it is dropped, and what workers do is compared with the store.
    async fn notice_rewind(&self) -> bool {
        let epoch = self.store().epoch();
        if self.replicas().epoch.swap(epoch, Ordering::Relaxed) == epoch {
            return false;
        }
        tracing::error!("the store has lost commits that it had acknowledged, or may have");
        crate::telemetry::rewind();
        self.replicas().watch.lock().interrupted();
        self.replicas().gone.lock().clear();
        self.doubt_lease();
        self.dispatcher().lock().forget_what_was_read();
        self.key_cache().forget_all();
        self.forget_news();
        // A store that came back without data has no pointer.
        if let Err(error) = self.start_policy().await {
            tracing::warn!(%error, "policy not taken over anew");
        }
        self.dispatcher().wake();
        true
    }

    /// Becomes, or stays, the owner of the shard.
    async fn keep_ownership(&self) -> Result<()> {
        let asked = self.tick();
        let owned = *self.replicas().owned.lock();
        if self.owns_shard() && owned.is_some_and(|at| asked.since(at) < RENEW_EVERY) {
            return Ok(());
        }
        let key = keyspace::shard_owner(0);
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        let now = self.now();
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        let record = OwnerRecord {
            lease: ReplicaLease::new(self.replica(), now),
        };
        let value = codec::encode(FORMAT, &record)?;
        match read.value.into_iter().next().flatten() {
            None => {
                batch.create(key, value);
            }
            Some(found) => {
                let (_, owner) = codec::decode::<OwnerRecord>(&found.value)?;
                let mine = owner.lease.replica == self.replica();
                self.replicas().owner.store(mine, Ordering::Relaxed);
                if !mine && self.has_peers() && !self.has_stopped(key.clone(), found.version) {
                    return Ok(());
                }
                batch.replace(key, found.version, value);
            }
        }
        match self.store().commit(batch).await {
            Ok(_) => {
                self.replicas().owner.store(true, Ordering::Relaxed);
                *self.replicas().owned.lock() = Some(asked);
                Ok(())
            }
            Err(CommitError::Conflict { .. }) => {
                // Somebody else was faster.
                self.replicas().owner.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
