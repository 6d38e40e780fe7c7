//! Replicas: the lease that each keeps in the store, who owns the shard, and what becomes of
//! attempts whose replica is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coretex_core::id::ReplicaId;
use coretex_core::lease::{OwnLease, ReplicaLease, SLOTS_REREAD_EVERY, StoreWatch, Tick};
use coretex_core::time::Timestamp;
use coretex_store::{
    Batch, CommitError, CommitId, Order, Range, Shard, Version, codec, prefix_end,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::keyspace::HeldEntry;
use crate::sessions::GivenUp;
use crate::types::{ReplicaInfo, ToWorker};
use crate::{Result, keyspace, telemetry};

const FORMAT: u8 = 1;
/// How often the store is asked and the others are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Held entries read at once.
const PAGE: usize = 1_000;
/// Replicas that are looked at.
const MAX_REPLICAS: usize = 256;

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

/// What a replica knows of leases.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    owner: AtomicBool,
    watch: Mutex<StoreWatch>,
    /// Versions of our own records.
    own: Mutex<Option<(Version, OwnLease)>>,
    shard: Mutex<Option<Version>>,
    known: Mutex<Vec<ReplicaInfo>>,
    /// Replicas that are gone, and since when this one has known.
    gone: Mutex<HashMap<ReplicaId, Tick>>,
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

    fn own_record(&self, lease: ReplicaLease) -> ReplicaRecord {
        let own = self.own_info();
        ReplicaRecord {
            lease,
            version: own.version,
            start_time: own.start_time,
            draining: own.draining,
            workers: own.workers,
            active_jobs: own.active_jobs,
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
        self.write_first_lease().await?;
        self.replicas().watch.lock().answered(self.tick());
        self.look_at_replicas().await?;
        self.keep_ownership().await
    }

    async fn write_first_lease(&self) -> Result<()> {
        let sent = self.tick();
        let record = self.own_record(ReplicaLease::new(self.replica().clone(), self.now()));
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.create(
            keyspace::replica(self.replica()),
            codec::encode(FORMAT, &record)?,
        );
        batch.add(
            keyspace::REPLICAS,
            bytes::Bytes::copy_from_slice(self.replica().as_bytes()),
        );
        let committed = self.store().commit(batch).await?;
        *self.replicas().own.lock() = Some((committed.version, OwnLease::new(sent)));
        Ok(())
    }

    /// Keeps leases and looks after those that are gone, until the engine stops.
    pub(crate) async fn run_replicas(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut compared = self.tick();
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
            // One that fails does not keep the others from being done.
            if let Err(error) = self.keep_lease().await {
                tracing::warn!(%error, "lease not renewed; trying again in a second");
            }
            if let Err(error) = self.keep_ownership().await {
                tracing::warn!(%error, "shard not kept; trying again in a second");
            }
            let looked = async {
                self.look_at_replicas().await?;
                self.give_up_gone().await
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "replicas not looked at; trying again in a second");
            }
            if self.tick().since(compared) >= SLOTS_REREAD_EVERY {
                compared = self.tick();
                if let Err(error) = self.compare_slots().await {
                    tracing::warn!(%error, "slots not compared with the store");
                }
            }
        }
    }

    async fn keep_lease(&self) -> Result<()> {
        let now = self.tick();
        let Some((version, lease)) = *self.replicas().own.lock() else {
            return Ok(());
        };
        if !lease.is_due(now) {
            return Ok(());
        }
        let record = self.own_record(ReplicaLease::new(self.replica().clone(), self.now()));
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.replace(
            keyspace::replica(self.replica()),
            version,
            codec::encode(FORMAT, &record)?,
        );
        match self.store().commit(batch).await {
            Ok(committed) => {
                let mut lease = lease;
                lease.renewed(now);
                *self.replicas().own.lock() = Some((committed.version, lease));
                Ok(())
            }
            Err(error) => {
                if let Some((_, lease)) = &mut *self.replicas().own.lock() {
                    lease.failed(now);
                }
                match error {
                    CommitError::Conflict { .. } => self.find_lease().await,
                    error => Err(error.into()),
                }
            }
        }
    }

    /// Our record is not as we left it: a renewal whose outcome was never learnt was applied after
    /// all, or somebody took us for dead and deleted it. It is renewed, or written anew.
    async fn find_lease(&self) -> Result<()> {
        let key = keyspace::replica(self.replica());
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        if let Some(found) = read.value.into_iter().next().flatten() {
            if let Some((version, _)) = &mut *self.replicas().own.lock() {
                *version = found.version;
            }
            return Ok(());
        }
        tracing::error!(replica = %self.replica(), "the lease of this replica was deleted");
        self.write_first_lease().await
    }

    /// Becomes, or stays, the owner of the shard.
    async fn keep_ownership(&self) -> Result<()> {
        let key = keyspace::shard_owner(0);
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        let now = self.now();
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        let record = OwnerRecord {
            lease: ReplicaLease::new(self.replica().clone(), now),
        };
        let value = codec::encode(FORMAT, &record)?;
        match read.value.into_iter().next().flatten() {
            None => {
                batch.create(key, value);
            }
            Some(found) => {
                let (_, owner) = codec::decode::<OwnerRecord>(&found.value)?;
                let mine = owner.lease.replica == *self.replica();
                self.replicas().owner.store(mine, Ordering::Relaxed);
                let fresh = owner.lease.expires.since(now)
                    > coretex_core::lease::REPLICA_LEASE - coretex_core::lease::RENEW_EVERY;
                let over = self.store().info().exclusive
                    || owner
                        .lease
                        .may_expire(now, &self.replicas().watch.lock(), self.tick());
                if (mine && fresh) || (!mine && !over) {
                    return Ok(());
                }
                batch.replace(key, found.version, value);
            }
        }
        match self.store().commit(batch).await {
            Ok(committed) => {
                *self.replicas().shard.lock() = Some(committed.version);
                self.replicas().owner.store(true, Ordering::Relaxed);
                Ok(())
            }
            // Somebody else was faster.
            Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the leases of all replicas and notes which are gone.
    async fn look_at_replicas(&self) -> Result<()> {
        let all = [Range::all(keyspace::REPLICAS)];
        let read = self
            .store()
            .range(Shard::Sys, &all, MAX_REPLICAS, Order::Ascending)
            .await?;
        let ids: Vec<ReplicaId> = read
            .value
            .into_iter()
            .flatten()
            .filter_map(|member| {
                std::str::from_utf8(&member)
                    .ok()
                    .map(ReplicaId::from_trusted)
            })
            .collect();
        let mut ids = ids;
        for holder in self.holders().await? {
            if !ids.contains(&holder) {
                // A late commit of a replica that was forgotten.
                ids.push(holder);
            }
        }
        let keys: Vec<_> = ids.iter().map(keyspace::replica).collect();
        let records = self.store().get(Shard::Sys, &keys).await?.value;
        let exclusive = self.store().info().exclusive;
        let (now, tick) = (self.now(), self.tick());
        let mut live = Vec::new();
        for (id, record) in ids.into_iter().zip(records) {
            let record = match record {
                Some(record) => Some(codec::decode::<ReplicaRecord>(&record.value)?.1),
                None => None,
            };
            let mine = id == *self.replica();
            let is_gone = !mine
                && record.as_ref().is_none_or(|record| {
                    exclusive
                        || record
                            .lease
                            .may_expire(now, &self.replicas().watch.lock(), tick)
                });
            if is_gone {
                self.replicas().gone.lock().entry(id).or_insert(tick);
            } else if let Some(record) = record {
                live.push(ReplicaInfo {
                    replica_id: id,
                    version: record.version,
                    start_time: record.start_time,
                    draining: record.draining,
                    workers: record.workers,
                    active_jobs: record.active_jobs,
                });
            }
        }
        *self.replicas().known.lock() = live;
        Ok(())
    }

    /// Gives up the attempts of replicas that are gone, once their workers have had the adoption
    /// window to come back.
    async fn give_up_gone(&self) -> Result<()> {
        let window = self.timing().adoption_window;
        if !self.owns_shard() || self.store_up_for() < window {
            return Ok(());
        }
        let now = self.tick();
        let over: Vec<ReplicaId> = self
            .replicas()
            .gone
            .lock()
            .iter()
            .filter(|(_, since)| now.since(**since) >= window)
            .map(|(id, _)| id.clone())
            .collect();
        for replica in over {
            let entries = self.held_of(&replica, PAGE).await?;
            self.for_each_bounded(entries, |entry| async move {
                let reason = "the server and the worker did not come back";
                self.give_up(&entry, GivenUp::Lost(reason)).await;
            })
            .await;
            // It is remembered for as long as anything stands under its name: what could not be
            // given up now is with the next look.
            if self.held_of(&replica, 1).await?.is_empty() {
                self.forget_replica(&replica).await?;
                self.replicas().gone.lock().remove(&replica);
            }
        }
        Ok(())
    }

    async fn forget_replica(&self, replica: &ReplicaId) -> Result<()> {
        let key = keyspace::replica(replica);
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(());
        };
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.delete(key, record.version);
        batch.remove(
            keyspace::REPLICAS,
            bytes::Bytes::copy_from_slice(replica.as_bytes()),
        );
        self.store().commit(batch).await?;
        Ok(())
    }

    async fn held_of(&self, replica: &ReplicaId, limit: usize) -> Result<Vec<HeldEntry>> {
        let range = Range::prefix(keyspace::HELD, &keyspace::held_prefix(replica, None));
        let read = self
            .store()
            .range(self.shard(), &[range], limit, Order::Ascending)
            .await?;
        Ok(read
            .value
            .into_iter()
            .flatten()
            .filter_map(|member| keyspace::parse_held(&member))
            .collect())
    }

    /// Every replica under whose name anything stands in the held index. Skips from one to the next.
    async fn holders(&self) -> Result<Vec<ReplicaId>> {
        let mut holders = Vec::new();
        let mut start = bytes::Bytes::new();
        while holders.len() < MAX_REPLICAS {
            let range = Range {
                index: keyspace::HELD,
                start,
                end: None,
            };
            let read = self
                .store()
                .range(self.shard(), &[range], 1, Order::Ascending)
                .await?;
            let Some(member) = read.value.into_iter().flatten().next() else {
                break;
            };
            let Some(entry) = keyspace::parse_held(&member) else {
                tracing::error!("malformed member in the held index");
                telemetry::bug("held_member");
                break;
            };
            start = match prefix_end(&keyspace::held_prefix(&entry.replica, None)) {
                Some(next) => next.into(),
                None => break,
            };
            holders.push(entry.replica);
        }
        Ok(holders)
    }

    /// Whether a replica is known to be gone.
    pub(crate) fn is_gone(&self, replica: &ReplicaId) -> bool {
        self.replicas().gone.lock().contains_key(replica)
    }

    /// Compares the slots in memory with the held index, which is the truth: a commit whose outcome
    /// was never learnt shows here. Two looks in a row, so that a commit under way is no finding.
    async fn compare_slots(&self) -> Result<()> {
        let held = self.held_of(self.replica(), usize::MAX >> 1).await?;
        let found = self.dispatcher().lock().compare(held, self.tick());
        if !found.stale.is_empty() {
            telemetry::bug("slot_without_entry");
            tracing::warn!(
                count = found.stale.len(),
                "slots without a held entry were freed"
            );
            for (session, attempt) in found.stale {
                let reason = "the attempt is not current".to_owned();
                self.tell(&session, ToWorker::Revoke { attempt, reason });
            }
            self.dispatcher().wake();
        }
        if !found.unknown.is_empty() {
            tracing::warn!(
                count = found.unknown.len(),
                "held entries without a slot are given up"
            );
        }
        self.for_each_bounded(found.unknown, |entry| async move {
            let reason = "the assignment was never sent";
            self.give_up(&entry, GivenUp::Lost(reason)).await;
        })
        .await;
        Ok(())
    }

    /// Leaves in an orderly way: nobody has to wait for this replica's leases to run out.
    pub(crate) async fn leave(&self) {
        self.replicas().owner.store(false, Ordering::Relaxed);
        let held = self.held_of(self.replica(), 1).await;
        // With attempts out, the record stays: who takes over finds them by it.
        if held.is_ok_and(|held| held.is_empty())
            && let Err(error) = self.forget_replica(&self.replica().clone()).await
        {
            tracing::debug!(%error, "replica not signed off");
        }
    }
}
