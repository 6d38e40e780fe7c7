//! What replicas know of each other's workers: each describes its own in records that live for a
//! short time, in pages, and reads those of the others. For answers to callers only: nothing is
//! handed to a worker by anybody but the replica that it is connected to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coretex_core::id::{ReplicaId, SessionId, TenantId, WorkerId};
use coretex_core::lease::{SWEEP_EVERY, Tick};
use coretex_core::time::Timestamp;
use coretex_store::{
    Batch, CommitError, CommitId, Key, Order, Precondition, Range, Shard, Write, codec,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::FORMAT;
use crate::engine::Engine;
use crate::types::{ReplicaInfo, WorkerInfo};
use crate::{Error, Result, keyspace};

/// Workers in one record.
const PER_PAGE: usize = 200;
/// How long a page lives without being written again.
const LIFE: Duration = Duration::from_secs(30);
/// A page that has not changed is written again after this.
const REFRESH: Duration = SWEEP_EVERY.saturating_mul(3);
/// Workers that may be drained by name at once, over all tenants.
const MAX_DRAINED: usize = 10_000;

/// A part of what a replica says of its workers.
#[derive(Debug, Serialize, Deserialize)]
struct Page<'a> {
    /// How many pages there are; the first is always there.
    pages: usize,
    workers: Cow<'a, [WorkerInfo]>,
}

/// The workers of this replica as last told, and those of the others as last read.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    told: Mutex<Told>,
    others: Mutex<Vec<WorkerInfo>>,
    /// Another replica has told of its workers since they were read.
    changed: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Told {
    pages: Vec<(Bytes, Tick)>,
    sessions: BTreeSet<SessionId>,
    at: Tick,
}

impl Engine {
    /// Workers of other replicas, as they were a few seconds ago.
    pub(crate) fn workers_elsewhere(&self) -> Vec<WorkerInfo> {
        self.replicas().registry.others.lock().clone()
    }

    /// The others have told something new.
    pub(super) fn note_workers(&self) {
        self.replicas()
            .registry
            .changed
            .store(true, Ordering::Relaxed);
    }

    /// Whether the others have told something new since this was asked.
    pub(super) fn take_workers(&self) -> bool {
        self.replicas()
            .registry
            .changed
            .swap(false, Ordering::Relaxed)
    }

    /// Describes this replica's workers to the others: at once when one came or went, else every
    /// few seconds, as far as anything has changed.
    pub(super) async fn share_workers(&self) -> Result<()> {
        if !self.has_peers() {
            return Ok(());
        }
        let told = self.replicas().registry.told.lock().clone();
        let now = self.tick();
        let sessions: BTreeSet<SessionId> =
            self.dispatcher().lock().sessions.keys().cloned().collect();
        let same = told.sessions == sessions;
        if same && now.since(told.at) < SWEEP_EVERY {
            return Ok(());
        }
        let (mut workers, name) = (self.own_workers(), self.replica());
        for worker in &mut workers {
            // Rounded, so that a page changes with what its workers do and not with every heartbeat.
            let micros = REFRESH.as_micros() as u64;
            let heard = worker.heard_time.as_micros() / micros * micros;
            worker.heard_time = worker.connect_time.max(Timestamp::from_micros(heard));
        }
        let count = workers.len().div_ceil(PER_PAGE).max(1);
        let mut next = Vec::with_capacity(count);
        for number in 0..count {
            let first = number * PER_PAGE;
            let part = &workers[first..workers.len().min(first + PER_PAGE)];
            let page = Page {
                pages: count,
                workers: Cow::Borrowed(part),
            };
            let page = codec::encode(FORMAT, &page)?;
            let last = told
                .pages
                .get(number)
                .filter(|(last, at)| *last == page && now.since(*at) < REFRESH);
            if let Some((_, at)) = last {
                next.push((page, *at));
                continue;
            }
            self.write_page(keyspace::workers(&name, number), page.clone())
                .await?;
            next.push((page, now));
        }
        *self.replicas().registry.told.lock() = Told {
            pages: next,
            sessions,
            at: now,
        };
        if !same {
            self.tell_workers();
        }
        Ok(())
    }

    /// Writes a page over whatever stands there: nobody else writes it.
    async fn write_page(&self, key: Key, page: Bytes) -> Result<()> {
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch
            .preconditions
            .push(match read.value.into_iter().next().flatten() {
                Some(record) => Precondition::At {
                    key: key.clone(),
                    version: record.version,
                },
                None => Precondition::Absent { key: key.clone() },
            });
        batch.writes.push(Write::Put {
            key,
            value: page,
            ttl: Some(LIFE),
        });
        self.store().commit(batch).await?;
        Ok(())
    }

    /// Reads what the other replicas say of their workers, and which workers are drained.
    pub(super) async fn read_workers(&self, live: &[ReplicaInfo]) -> Result<()> {
        if !self.has_peers() {
            return Ok(());
        }
        self.read_drained().await?;
        let own = self.replica();
        let names = live.iter().map(|info| &info.replica_id);
        let mut others = Vec::new();
        let mut keys: Vec<Key> = names
            .clone()
            .filter(|name| **name != own)
            .map(|name| keyspace::workers(name, 0))
            .collect();
        let firsts: Vec<&ReplicaId> = names.filter(|name| **name != own).collect();
        let mut first = true;
        while !keys.is_empty() {
            let read = self.store().get(Shard::Sys, &keys).await?;
            keys.clear();
            for (place, record) in read.value.into_iter().enumerate() {
                let Some(record) = record else { continue };
                let page = match codec::decode::<Page<'_>>(&record.value) {
                    Ok((_, page)) => page,
                    // One of another version.
                    Err(error) => {
                        tracing::warn!(%error, "what a replica says of its workers is not understood");
                        continue;
                    }
                };
                if first && let Some(name) = firsts.get(place) {
                    keys.extend((1..page.pages).map(|number| keyspace::workers(name, number)));
                }
                others.extend(page.workers.into_owned());
            }
            first = false;
        }
        *self.replicas().registry.others.lock() = others;
        Ok(())
    }

    /// Reads which workers operators have drained.
    pub(super) async fn read_drained(&self) -> Result<()> {
        let since = self.dispatcher().lock().drains;
        let range = [Range::all(keyspace::DRAINED)];
        let read = self
            .store()
            .range(Shard::Sys, &range, MAX_DRAINED, Order::Ascending)
            .await?;
        let members = read.value.into_iter().flatten();
        let drained = members
            .filter_map(|member| keyspace::parse_drained(&member))
            .collect();
        if self.dispatcher().lock().set_drained(drained, since) {
            self.dispatcher().wake();
        }
        Ok(())
    }

    async fn try_write_drained(
        &self,
        tenant: &TenantId,
        worker: &WorkerId,
        undo: bool,
    ) -> std::result::Result<(), CommitError> {
        let key = keyspace::drain(tenant, worker);
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await;
        let read = read.map_err(|error| CommitError::Unavailable {
            reason: error.to_string(),
        })?;
        let found = read.value.into_iter().next().flatten();
        let member = keyspace::drained(tenant, worker);
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        match (undo, found) {
            (true, Some(record)) => {
                batch.delete(key, record.version);
                batch.remove(keyspace::DRAINED, member);
            }
            (false, None) => {
                batch.create(key, Bytes::from_static(b"drained"));
                batch.add(keyspace::DRAINED, member);
                batch.preconditions.push(Precondition::SizeBelow {
                    index: keyspace::DRAINED,
                    limit: MAX_DRAINED as u64,
                    name_holders: 0,
                });
            }
            (true, None) | (false, Some(_)) => return Ok(()),
        }
        self.store().commit(batch).await.map(|_| ())
    }

    /// Writes that a worker is drained, or is not any more, and tells whoever has it.
    pub(crate) async fn write_drained(
        &self,
        tenant: &TenantId,
        worker: &WorkerId,
        undo: bool,
    ) -> Result<()> {
        for again in 0..16 {
            match self.try_write_drained(tenant, worker, undo).await {
                Err(CommitError::Conflict { .. }) => self.pause(again).await,
                Err(CommitError::LimitReached(_)) => {
                    let range = format!("{MAX_DRAINED} workers are drained already");
                    return Err(Error::invalid("worker_id", range));
                }
                written => {
                    written?;
                    break;
                }
            }
        }
        self.dispatcher().lock().drain(tenant, worker, undo);
        let owners: Vec<ReplicaId> = self
            .workers_elsewhere()
            .into_iter()
            .filter(|other| other.tenant == *tenant && other.worker_id == *worker)
            .map(|other| other.replica_id)
            .collect();
        for owner in owners {
            self.tell_drained(&owner, tenant.clone(), worker.clone(), undo);
        }
        self.dispatcher().wake();
        Ok(())
    }
}
