//! What replicas tell each other over the bus. Every message may be lost: each only makes somebody
//! look sooner at what the store says.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use coretex_bus::subject;
use coretex_core::id::{JobId, ReplicaId, TenantId, WorkerId};
use coretex_core::job::Job;
use coretex_core::lease::HeldKey;
use coretex_store::codec;
use serde::{Deserialize, Serialize};

use super::{FORMAT, LOOK_EVERY};
use crate::engine::Engine;

/// Jobs that wait to be looked at. What is beyond is found by the comparison of slots, and by those
/// who wait themselves.
const MAX_BEHIND: usize = 50_000;

/// A message to one replica.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// A job that its worker runs was changed.
    Changed { tenant: TenantId, job_id: JobId },
    /// Somebody has told anew of its workers.
    Workers,
    /// Something has changed of which every replica keeps a copy.
    News,
    /// A worker was drained, or is not any more.
    Drained {
        tenant: TenantId,
        worker_id: WorkerId,
        undo: bool,
    },
}

/// A message to all: jobs have ended, or their attempts have.
#[derive(Debug, Serialize, Deserialize)]
struct Ended {
    from: ReplicaId,
    job_ids: Vec<JobId>,
    /// Concurrency keys under which they counted.
    #[serde(default)]
    keys: Vec<String>,
}

/// How long ends are gathered: a message for every job costs three replicas more than the job is
/// worth to most of them.
const GATHERING: Duration = Duration::from_millis(5);
/// Ends in one message.
const ENDS: usize = 500;

impl Engine {
    /// Tells the replicas whose workers run a job what has become of it, and all of them when it has
    /// ended.
    pub(crate) fn tell_peers(&self, before: Option<&Job>, after: &Job) {
        if !self.has_peers() {
            return;
        }
        let own = self.replica();
        let of = |job: &Job| -> HashSet<HeldKey> {
            HeldKey::of(job).filter(|key| key.replica != own).collect()
        };
        let (old, new) = (before.map(of).unwrap_or_default(), of(after));
        let owners: BTreeSet<&ReplicaId> = old
            .symmetric_difference(&new)
            .map(|key| &key.replica)
            .collect();
        for owner in owners {
            let told = Told::Changed {
                tenant: after.tenant.clone(),
                job_id: after.id.clone(),
            };
            self.tell_peer(owner, &told);
        }
        let ended =
            after.state.is_terminal() && !before.is_some_and(|before| before.state.is_terminal());
        let held = before.filter(|before| before.state.is_held() && !after.state.is_held());
        if ended || held.is_some() {
            let lease = held.and_then(|before| before.lease.as_ref());
            let key = lease.map_or_else(String::new, |lease| lease.concurrency_key.clone());
            let mut ends = self.replicas().ends.lock();
            ends.entry(after.tenant.clone())
                .or_default()
                .push((after.id.clone(), key));
            drop(ends);
            self.replicas().ended.notify_one();
        }
    }

    /// Tells all of the jobs that have ended here, until the engine stops.
    pub(crate) async fn run_ends(self) {
        loop {
            self.replicas().ended.notified().await;
            tokio::time::sleep(GATHERING).await;
            let ends = std::mem::take(&mut *self.replicas().ends.lock());
            for (tenant, job_ids) in ends {
                for part in job_ids.chunks(ENDS) {
                    let keys = part.iter().map(|(_, key)| key);
                    let ended = Ended {
                        from: self.replica(),
                        job_ids: part.iter().map(|(id, _)| id.clone()).collect(),
                        keys: keys.filter(|key| !key.is_empty()).cloned().collect(),
                    };
                    match codec::encode(FORMAT, &ended) {
                        Ok(payload) => self.publish(subject::event(tenant.as_str()), payload),
                        Err(error) => tracing::error!(%error, "message not encoded"),
                    }
                }
            }
        }
    }

    /// Tells a replica that one of its workers was drained, or is not any more.
    pub(crate) fn tell_drained(
        &self,
        replica: &ReplicaId,
        tenant: TenantId,
        worker_id: WorkerId,
        undo: bool,
    ) {
        let told = Told::Drained {
            tenant,
            worker_id,
            undo,
        };
        self.tell_peer(replica, &told);
    }

    /// Tells the others that a worker came or went.
    pub(super) fn tell_workers(&self) {
        self.tell_all(&Told::Workers);
    }

    /// Makes the others read the news sooner.
    pub(crate) fn tell_news(&self) {
        self.tell_all(&Told::News);
    }

    fn tell_all(&self, told: &Told) {
        let own = self.replica();
        for other in self.known_replicas() {
            if other.replica_id != own {
                self.tell_peer(&other.replica_id, told);
            }
        }
    }

    fn tell_peer(&self, replica: &ReplicaId, told: &Told) {
        match codec::encode(FORMAT, told) {
            Ok(payload) => self.publish(subject::claim(replica.as_str()), payload),
            Err(error) => tracing::error!(%error, "message not encoded"),
        }
    }

    /// Rings a doorbell; what is lost costs the others a second.
    pub(crate) fn ring(&self, subject: String) {
        if self.has_peers() {
            let payload = Bytes::copy_from_slice(self.replica().as_bytes());
            self.publish(subject, payload);
        }
    }

    pub(crate) fn publish(&self, subject: String, payload: Bytes) {
        let engine = self.clone();
        self.spawn_work(async move {
            if let Err(error) = engine.bus().publish(&subject, payload).await {
                tracing::debug!(%error, subject, "not published");
            }
        });
    }

    /// Hears what the others tell this replica, under whatever name it has.
    pub(crate) async fn run_peers(self) {
        loop {
            let renamed = self.replicas().renamed.notified();
            let subject = subject::claim(self.replica().as_str());
            let heard = async {
                match self.bus().subscribe(&subject, None).await {
                    Ok(mut subscription) => {
                        while let Some(message) = subscription.next().await {
                            self.heard(&message.payload);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "messages of other replicas not heard"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            tokio::select! {
                biased;
                () = heard => {}
                () = renamed => {}
            }
        }
    }

    fn heard(&self, payload: &Bytes) {
        match codec::decode::<Told>(payload) {
            Ok((_, Told::Changed { tenant, job_id })) => self.fall_behind(tenant, job_id),
            Ok((_, Told::Workers)) => self.note_workers(),
            Ok((_, Told::News)) => {
                let engine = self.clone();
                self.spawn_work(async move {
                    if let Err(error) = engine.read_news().await {
                        tracing::warn!(%error, "news not read; they are read every second");
                    }
                });
            }
            Ok((
                _,
                Told::Drained {
                    tenant,
                    worker_id,
                    undo,
                },
            )) => self.dispatcher().lock().drain(&tenant, &worker_id, undo),
            // One of another version.
            Err(error) => tracing::debug!(%error, "message not understood"),
        }
    }

    /// Hears of jobs that have ended at other replicas.
    pub(crate) async fn run_events(self) {
        loop {
            match self.bus().subscribe(subject::EVENT_ALL, None).await {
                Ok(mut subscription) => {
                    while let Some(message) = subscription.next().await {
                        self.heard_of_end(&message.subject, &message.payload);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "ends of jobs not heard; they are looked for every second");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn heard_of_end(&self, subject: &str, payload: &Bytes) {
        let Some(tenant) = subject::tenant_of(subject) else {
            return;
        };
        let Ok((_, ended)) = codec::decode::<Ended>(payload) else {
            return;
        };
        if ended.from == self.replica() {
            return;
        }
        self.ring_log();
        let tenant = TenantId::from_trusted(&tenant);
        let count = u32::try_from(ended.job_ids.len()).unwrap_or(u32::MAX);
        let mut state = self.dispatcher().lock();
        let opened = state.gates.left_elsewhere(&tenant, &ended.keys, count);
        drop(state);
        if opened {
            self.dispatcher().wake();
        }
        for job_id in ended.job_ids {
            self.outputs().ring(&tenant, &job_id);
            if self.waiters().waits_for(&tenant, &job_id) {
                self.fall_behind(tenant.clone(), job_id);
            }
        }
    }

    fn fall_behind(&self, tenant: TenantId, job_id: JobId) {
        let mut behind = self.replicas().behind.lock();
        if behind.len() < MAX_BEHIND {
            behind.insert((tenant, job_id));
        }
        drop(behind);
        self.replicas().look.notify_one();
    }

    /// Looks at jobs that others have changed.
    pub(crate) async fn run_catch_up(self) {
        loop {
            self.replicas().look.notified().await;
            let behind = std::mem::take(&mut *self.replicas().behind.lock());
            let engine = &self;
            self.for_each_bounded(behind.into_iter().collect(), |(tenant, id)| async move {
                engine.catch_up(&tenant, &id).await;
            })
            .await;
        }
    }
}
