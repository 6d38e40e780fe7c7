//! Replicas that are gone: found by their leases and by what stands under their names, and given up
//! once their workers have had time to come back elsewhere.

use std::collections::HashSet;

use coretex_core::id::ReplicaId;
use coretex_core::lease::{HeldKey, REPLICA_LEASE};
use coretex_store::{Batch, CommitError, CommitId, Key, Order, Range, Shard, Version, codec};

use super::ReplicaRecord;
use crate::engine::Engine;
use crate::sessions::GivenUp;
use crate::types::ReplicaInfo;
use crate::{Result, keyspace, telemetry};

/// Held entries read at once.
const PAGE: usize = 1_000;
/// Replicas that are looked at.
const MAX_REPLICAS: usize = 256;

impl Engine {
    /// Reads the leases of all replicas and notes which are gone; with `sweeps`, also those under
    /// whose names something stands although they have no lease. Hears the news.
    pub(super) async fn look_at_replicas(&self, sweeps: bool) -> Result<()> {
        // Holders first and leases second: a replica writes its lease before it holds anything, so
        // one that starts in between is not taken for dead.
        let holders = if sweeps {
            self.holders().await?
        } else {
            Vec::new()
        };
        let all = [Range::all(keyspace::REPLICAS)];
        let read = self
            .store()
            .range(Shard::Sys, &all, MAX_REPLICAS, Order::Ascending)
            .await?;
        let members = read.value.into_iter().flatten();
        let mut ids: Vec<ReplicaId> = members
            .filter_map(|member| {
                std::str::from_utf8(&member)
                    .ok()
                    .map(ReplicaId::from_trusted)
            })
            .collect();
        for holder in holders {
            if !ids.contains(&holder) {
                // A late commit of a replica that was forgotten.
                ids.push(holder);
            }
        }
        let named = ids.clone();
        let mut keys: Vec<_> = ids.iter().map(keyspace::replica).collect();
        // The news are read along: they are looked at as often.
        keys.push(keyspace::news());
        let mut records = self.store().get(Shard::Sys, &keys).await?.value;
        let news = records.pop().flatten();
        let exclusive = !self.has_peers();
        let own = self.replica();
        let mut live = Vec::new();
        for (id, record) in ids.into_iter().zip(records) {
            let Some(found) = record else {
                if id != own {
                    self.note_gone(id);
                }
                continue;
            };
            let is_over =
                id != own && (exclusive || self.has_stopped(keyspace::replica(&id), found.version));
            if is_over {
                self.declare_dead(id, found.version).await?;
                continue;
            }
            // One that was taken for dead lives after all: the store has lost that it was.
            self.replicas().gone.lock().remove(&id);
            let record = match codec::decode::<ReplicaRecord>(&found.value) {
                Ok((_, record)) => record,
                Err(error) => {
                    tracing::error!(%error, replica = %id, "the record of a replica cannot be read");
                    continue;
                }
            };
            live.push(ReplicaInfo {
                replica_id: id,
                version: record.version,
                start_time: record.start_time,
                draining: record.draining,
                workers: record.workers,
                active_jobs: record.active_jobs,
            });
        }
        if sweeps {
            // Nothing stands under these names any more.
            let named: HashSet<_> = named.into_iter().collect();
            let mut records: HashSet<_> = named.iter().map(keyspace::replica).collect();
            records.insert(keyspace::shard_owner(0));
            self.replicas()
                .gone
                .lock()
                .retain(|id, _| named.contains(id));
            self.replicas()
                .seen
                .lock()
                .retain(|key, _| records.contains(key));
        }
        *self.replicas().known.lock() = live;
        self.hear_news(news.as_ref()).await
    }

    /// Whether the record of a lease has not been renewed for one period, by this replica's own clock and while
    /// the store answered. What the record says of its end is not asked: the store's clock may have
    /// been set since.
    pub(super) fn has_stopped(&self, record: Key, version: Version) -> bool {
        let now = self.tick();
        let mut seen = self.replicas().seen.lock();
        let last = seen.entry(record).or_insert((version, now));
        if last.0 != version {
            *last = (version, now);
        }
        now.since(last.1) >= REPLICA_LEASE && self.store_up_for() >= REPLICA_LEASE
    }

    fn note_gone(&self, id: ReplicaId) {
        let now = self.tick();
        self.replicas().gone.lock().entry(id).or_insert(now);
    }

    /// Deletes the lease of a replica. Once that is written the replica is gone for good, also for
    /// itself; one that has renewed it meanwhile lives.
    async fn declare_dead(&self, id: ReplicaId, version: Version) -> Result<()> {
        match self.delete_lease(&id, version).await {
            Ok(()) => {
                tracing::warn!(replica = %id, "a replica is gone; its attempts wait for their workers");
                self.note_gone(id);
                Ok(())
            }
            Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete_lease(
        &self,
        id: &ReplicaId,
        version: Version,
    ) -> std::result::Result<(), CommitError> {
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.delete(keyspace::replica(id), version);
        batch.remove(
            keyspace::REPLICAS,
            bytes::Bytes::copy_from_slice(id.as_bytes()),
        );
        self.store().commit(batch).await?;
        Ok(())
    }

    /// Gives up the attempts of replicas that are gone, once their workers have had the adoption
    /// window to come back.
    pub(super) async fn give_up_gone(&self) -> Result<()> {
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
            let held = self.held_of(&replica, PAGE).await?;
            self.for_each_bounded(held, |key| async move {
                let reason = "the server and the worker did not come back";
                self.give_up(&key.into(), GivenUp::Lost(reason)).await;
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

    /// Deletes the record of a replica that has left or is gone.
    pub(super) async fn forget_replica(&self, replica: &ReplicaId) -> Result<()> {
        let key = keyspace::replica(replica);
        let read = self.store().get(Shard::Sys, &[key]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(());
        };
        Ok(self.delete_lease(replica, record.version).await?)
    }

    /// What stands under the name of a replica.
    pub(super) async fn held_of(&self, replica: &ReplicaId, limit: usize) -> Result<Vec<HeldKey>> {
        let range = Range::prefix(keyspace::HELD, &HeldKey::replica_prefix(replica));
        let read = self
            .store()
            .range(self.shard(), &[range], limit, Order::Ascending)
            .await?;
        let members = read.value.into_iter().flatten();
        Ok(members.filter_map(|member| parse(&member)).collect())
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
            let Some(key) = parse(&member) else {
                break;
            };
            start = HeldKey::after_replica(&key.replica).into();
            holders.push(key.replica);
        }
        Ok(holders)
    }

    /// Whether a replica is known to be gone.
    pub(crate) fn is_gone(&self, replica: &ReplicaId) -> bool {
        self.replicas().gone.lock().contains_key(replica)
    }
}

fn parse(member: &[u8]) -> Option<HeldKey> {
    let parsed = HeldKey::decode(member);
    if let Err(error) = &parsed {
        tracing::error!(%error, "an entry cannot be read");
        telemetry::bug("held_member");
    }
    parsed.ok()
}
