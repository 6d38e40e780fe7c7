//! This replica's own lease, and the name that it stands under.
//!
//! Nothing stands under a name before its lease does. Whoever finds a lease that is over deletes it;
//! that is final, so a replica that was taken for dead goes on under a new name and without
//! sessions: its workers come back and bring their attempts.

use coretex_core::id::ReplicaId;
use coretex_core::lease::{OwnLease, ReplicaLease, Tick};
use coretex_store::{Batch, CommitError, CommitId, Shard, codec};

use super::{FORMAT, OwnerRecord, ReplicaRecord};
use crate::engine::Engine;
use crate::types::SessionEnd;
use crate::{Result, keyspace};
use std::sync::atomic::Ordering;

impl Engine {
    /// Whether this replica may take sessions and jobs: its lease is surely its own. One that was
    /// paused, or cannot reach the store, may have been taken for dead.
    pub(crate) fn may_take_work(&self) -> bool {
        let own = *self.replicas().own.lock();
        !self.has_peers() || own.is_some_and(|(_, lease)| lease.is_sure(self.tick()))
    }

    fn own_record(&self) -> ReplicaRecord {
        let own = self.own_info();
        ReplicaRecord {
            lease: ReplicaLease::new(own.replica_id, self.now()),
            version: own.version,
            start_time: own.start_time,
            draining: own.draining,
            workers: own.workers,
            active_jobs: own.active_jobs,
        }
    }

    pub(super) async fn write_first_lease(&self) -> Result<()> {
        let sent = self.tick();
        let name = self.replica();
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.create(
            keyspace::replica(&name),
            codec::encode(FORMAT, &self.own_record())?,
        );
        batch.add(
            keyspace::REPLICAS,
            bytes::Bytes::copy_from_slice(name.as_bytes()),
        );
        let committed = self.store().commit(batch).await?;
        *self.replicas().own.lock() = Some((committed.version, OwnLease::new(sent)));
        self.replicas().rewound.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The store may have lost our lease: it is renewed before it counts again.
    pub(super) fn doubt_lease(&self) {
        self.replicas().rewound.store(true, Ordering::Relaxed);
        if let Some((_, lease)) = &mut *self.replicas().own.lock() {
            *lease = OwnLease::new(Tick::default());
        }
    }

    /// Renews the lease when it is time.
    pub(super) async fn keep_lease(&self) -> Result<()> {
        let now = self.tick();
        let own = *self.replicas().own.lock();
        let Some((version, lease)) = own else {
            return self.find_lease().await;
        };
        if !lease.is_due(now) {
            return Ok(());
        }
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.replace(
            keyspace::replica(&self.replica()),
            version,
            codec::encode(FORMAT, &self.own_record())?,
        );
        match self.store().commit(batch).await {
            Ok(committed) => {
                let mut lease = lease;
                lease.renewed(now);
                *self.replicas().own.lock() = Some((committed.version, lease));
                self.replicas().rewound.store(false, Ordering::Relaxed);
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

    /// Our record is not as we left it: a write whose outcome was never learnt was applied after
    /// all, or somebody took us for dead and deleted it, or the store lost it.
    async fn find_lease(&self) -> Result<()> {
        let key = keyspace::replica(&self.replica());
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        if let Some(found) = read.value.into_iter().next().flatten() {
            let mut own = self.replicas().own.lock();
            match &mut *own {
                Some((version, _)) => *version = found.version,
                // Written by a commit that was never answered, and to be renewed before it counts.
                None => *own = Some((found.version, OwnLease::new(Tick::default()))),
            }
            return Ok(());
        }
        // What the store lost nobody has taken from us: it is written again under the same name.
        let lost = self.replicas().rewound.load(Ordering::Relaxed);
        if !lost && self.replicas().own.lock().is_some() {
            self.start_over();
        }
        self.write_first_lease().await
    }

    /// Goes on under a new name: what stands under the old one is no longer this replica's.
    fn start_over(&self) {
        // From here on nothing is taken, until the new lease stands.
        *self.replicas().own.lock() = None;
        self.replicas().owner.store(false, Ordering::Relaxed);
        let old = self.replica();
        let sessions: Vec<_> = self.dispatcher().lock().sessions.keys().cloned().collect();
        for session in &sessions {
            self.end_session(session, SessionEnd::Fenced);
        }
        self.dispatcher().lock().forget_slots();
        let new = ReplicaId::from_trusted(&format!("r-{:016x}", self.ids().random() as u64));
        tracing::error!(%old, %new, sessions = sessions.len(), "the lease of this replica is gone; it goes on under a new name, and its workers reconnect");
        self.rename(new);
        self.replicas().renamed.notify_waiters();
    }

    /// Lets another replica look after the shard at once.
    async fn give_up_ownership(&self) -> Result<()> {
        if !self.replicas().owner.swap(false, Ordering::Relaxed) || !self.has_peers() {
            return Ok(());
        }
        let key = keyspace::shard_owner(0);
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(&key))
            .await?;
        if let Some(found) = read.value.into_iter().next().flatten()
            && codec::decode::<OwnerRecord>(&found.value)?.1.lease.replica == self.replica()
        {
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.delete(key, found.version);
            self.store().commit(batch).await?;
        }
        Ok(())
    }

    /// Leaves in an orderly way: nobody has to wait for this replica's leases to run out.
    pub(crate) async fn leave(&self) {
        if let Err(error) = self.give_up_ownership().await {
            tracing::debug!(%error, "shard not given up");
        }
        let held = self.held_of(&self.replica(), 1).await;
        // With attempts out, the record stays: who takes over finds them by it.
        if held.is_ok_and(|held| held.is_empty())
            && let Err(error) = self.forget_replica(&self.replica()).await
        {
            tracing::debug!(%error, "replica not signed off");
        }
    }
}
