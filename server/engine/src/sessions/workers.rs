//! Workers and pools as callers see them.

use std::collections::BTreeMap;

use coretex_core::id::{PoolName, TenantId, WorkerId};
use coretex_store::Range;

use crate::access::Caller;
use crate::dispatch::state::SessionState;
use crate::engine::Engine;
use crate::types::{PageRequest, PoolInfo, WorkerInfo};
use crate::{Error, Noun, Result, keyspace};

/// Counting of waiting jobs stops here.
pub(crate) const COUNT_CAP: u64 = 10_000;

impl Engine {
    fn worker_info(&self, id: &coretex_core::id::SessionId, session: &SessionState) -> WorkerInfo {
        WorkerInfo {
            worker_id: session.worker_id.clone(),
            session_id: id.clone(),
            replica_id: self.replica().clone(),
            tenant: session.tenant.clone(),
            pool: session.pool.clone(),
            topics: session.topics.clone(),
            capabilities: session.capabilities.iter().cloned().collect(),
            labels: session.labels.clone(),
            max_parallel_jobs: session.max_parallel,
            active_jobs: u32::try_from(session.leases.len()).unwrap_or(u32::MAX),
            cpu_load: session.cpu_load,
            gpu_utilization: session.gpu_utilization,
            draining: session.leaving || session.drained,
            sdk: session.sdk.clone(),
            connect_time: session.connect_time,
            heartbeat_time: session.heartbeat_time,
        }
    }

    /// The connected workers of a tenant, by name; the newest connection of each name last.
    fn workers_of(&self, tenant: &TenantId) -> Vec<WorkerInfo> {
        let state = self.dispatcher().lock();
        let mut workers: Vec<WorkerInfo> = state
            .sessions
            .iter()
            .filter(|(_, session)| session.tenant == *tenant)
            .map(|(id, session)| self.worker_info(id, session))
            .collect();
        drop(state);
        workers.sort_by(|a, b| (&a.worker_id, &a.session_id).cmp(&(&b.worker_id, &b.session_id)));
        workers
    }

    /// Lists the connected workers of the caller's tenant by name; the token names where to go on.
    ///
    /// # Errors
    /// `PageTokenInvalid`.
    pub async fn list_workers(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<WorkerInfo>, String)> {
        let name = |worker: &WorkerInfo| format!("{}/{}", worker.worker_id, worker.session_id);
        paged(self.workers_of(&caller.tenant), &page, name)
    }

    /// Gets a connected worker by name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_worker(&self, caller: &Caller, id: &WorkerId) -> Result<WorkerInfo> {
        self.workers_of(&caller.tenant)
            .into_iter()
            .rfind(|worker| worker.worker_id == *id)
            .ok_or_else(|| Error::NotFound {
                noun: Noun::Worker,
                id: id.to_string(),
            })
    }

    /// Gives a worker no more jobs, also after it reconnects, until undone.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn drain_worker(
        &self,
        caller: &Caller,
        id: &WorkerId,
        undo: bool,
    ) -> Result<WorkerInfo> {
        {
            let mut state = self.dispatcher().lock();
            let mut found = false;
            for session in state.sessions.values_mut() {
                if session.tenant == caller.tenant && session.worker_id == *id {
                    session.drained = !undo;
                    found = true;
                }
            }
            let name = (caller.tenant.clone(), id.clone());
            if undo {
                state.drained.remove(&name);
            } else if found {
                state.drained.insert(name);
            }
        }
        self.dispatcher().wake();
        self.get_worker(caller, id).await
    }

    /// Lists the pools of the caller's connected workers by name.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_pools(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<PoolInfo>, String)> {
        let mut pools: BTreeMap<PoolName, PoolInfo> = BTreeMap::new();
        for worker in self.workers_of(&caller.tenant) {
            let pool = pools
                .entry(worker.pool.clone())
                .or_insert_with(|| PoolInfo {
                    pool: worker.pool.clone(),
                    topics: Vec::new(),
                    workers: 0,
                    capacity: 0,
                    active: 0,
                    waiting: 0,
                });
            pool.workers += 1;
            pool.capacity = pool.capacity.saturating_add(worker.max_parallel_jobs);
            pool.active = pool.active.saturating_add(worker.active_jobs);
            pool.topics.extend(worker.topics);
        }
        let mut pools: Vec<PoolInfo> = pools.into_values().collect();
        for pool in &mut pools {
            pool.topics.sort();
            pool.topics.dedup();
        }
        let (mut pools, next) = paged(pools, &page, |pool| pool.pool.to_string())?;
        for pool in &mut pools {
            for topic in &pool.topics {
                let mut prefix = keyspace::queue_prefix(topic);
                prefix.extend_from_slice(&coretex_core::queue::tenant_prefix(&caller.tenant));
                let range = Range::prefix(keyspace::READY, &prefix);
                let read = self.store().count(self.shard(), &range, COUNT_CAP).await?;
                pool.waiting = pool.waiting.saturating_add(read.value);
            }
        }
        Ok((pools, next))
    }
}

/// Cuts a sorted list into pages by name.
fn paged<T>(
    items: Vec<T>,
    page: &PageRequest,
    name: impl Fn(&T) -> String,
) -> Result<(Vec<T>, String)> {
    if page.token.len() > 512 {
        return Err(Error::PageTokenInvalid);
    }
    let mut rest = items
        .into_iter()
        .filter(|item| page.token.is_empty() || name(item) > page.token);
    let taken: Vec<T> = rest.by_ref().take(page.size).collect();
    let more = rest.next().is_some();
    let next = taken.last().filter(|_| more).map(&name).unwrap_or_default();
    Ok((taken, next))
}
