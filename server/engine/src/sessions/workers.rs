//! Workers and pools as callers see them.

use std::collections::{BTreeMap, HashMap};

use coretex_core::id::{PoolName, SessionId, TenantId, WorkerId};
use coretex_core::lease::{HeldKey, Standing};
use coretex_store::{Order, Range};

use crate::access::Caller;
use crate::dispatch::state::session::SessionState;
use crate::engine::Engine;
use crate::routing::{patterns_by_pool, pools_of_table};
use crate::types::{PageRequest, PoolInfo, RunningAttempt, WorkerInfo};
use crate::{Error, Noun, Result, keyspace};

/// Counting of waiting jobs stops here.
pub(crate) const COUNT_CAP: u64 = 10_000;

/// Attempts of one worker that are named at most.
const MAX_RUNNING: usize = 1_000;

impl Engine {
    fn worker_info(&self, id: &SessionId, session: &SessionState) -> WorkerInfo {
        WorkerInfo {
            worker_id: session.worker_id.clone(),
            session_id: id.clone(),
            replica_id: self.replica(),
            tenant: session.tenant.clone(),
            principal_id: session.principal_id.clone(),
            tenants_served: session.serves.clone(),
            pool: session.pool.clone(),
            topics: session.topics.clone(),
            capabilities: session.capabilities.clone(),
            labels: session.labels.clone(),
            max_parallel_jobs: session.max_parallel,
            active_jobs: session.leases.used(),
            cpu_load: session.cpu_load,
            gpu_utilization: session.gpu_utilization,
            draining: session.leaving || session.drained,
            connected: true,
            sdk: session.sdk.clone(),
            protocol_version: session.protocol_version,
            connect_time: session.connect_time,
            heard_time: session.heard_time,
        }
    }

    /// Remembers a worker whose session has ended with attempts out.
    pub(crate) fn note_departure(&self, id: &SessionId, session: &SessionState) {
        if session.leases.is_empty() {
            return;
        }
        let info = WorkerInfo {
            connected: false,
            ..self.worker_info(id, session)
        };
        let mut state = self.dispatcher().lock();
        state.departed.insert(id.clone(), info);
    }

    /// The connected workers of this replica, by session.
    pub(crate) fn own_workers(&self) -> Vec<WorkerInfo> {
        let state = self.dispatcher().lock();
        let mut workers: Vec<WorkerInfo> = state
            .sessions
            .iter()
            .map(|(id, session)| self.worker_info(id, session))
            .collect();
        drop(state);
        workers.sort_by(|a, b| a.session_id.cmp(&b.session_id));
        workers
    }

    /// The workers that belong to the caller's tenant or serve it, by name; the newest connection
    /// of each name last.
    fn workers_of(&self, caller: &Caller) -> Vec<WorkerInfo> {
        let visible = |tenant: &TenantId, serves: &[TenantId]| {
            *tenant == caller.tenant || serves.contains(&caller.tenant)
        };
        let state = self.dispatcher().lock();
        let mut workers: Vec<WorkerInfo> = state
            .sessions
            .iter()
            .filter(|(_, session)| visible(&session.tenant, &session.serves))
            .map(|(id, session)| self.worker_info(id, session))
            .collect();
        let mut out: HashMap<&SessionId, u32> = HashMap::new();
        for slot in state.slots.values() {
            if state.departed.contains_key(&slot.session) {
                *out.entry(&slot.session).or_default() += 1;
            }
        }
        for (id, active_jobs) in out {
            // One without attempts has come back, or there is nothing left to come back for.
            if let Some(gone) = state.departed.get(id)
                && visible(&gone.tenant, &gone.tenants_served)
            {
                workers.push(WorkerInfo {
                    active_jobs,
                    ..gone.clone()
                });
            }
        }
        drop(state);
        let elsewhere = self.workers_elsewhere().into_iter();
        workers.extend(elsewhere.filter(|one| visible(&one.tenant, &one.tenants_served)));
        for worker in &mut workers {
            // Whom a shared worker serves beside the caller is none of the caller's business.
            if worker.tenant != caller.tenant && !caller.system {
                worker.principal_id.clear();
                worker.tenants_served = vec![caller.tenant.clone()];
            }
        }
        workers.sort_by(|a, b| (&a.worker_id, &a.session_id).cmp(&(&b.worker_id, &b.session_id)));
        workers
    }

    /// Lists the workers that belong to the caller's tenant or serve it, by name; the token names
    /// where to go on.
    ///
    /// # Errors
    /// `PageTokenInvalid`.
    pub async fn list_workers(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<WorkerInfo>, String)> {
        let name = |worker: &WorkerInfo| format!("{}/{}", worker.worker_id, worker.session_id);
        paged(self.workers_of(caller), &page, name)
    }

    /// Gets a worker by name: its newest connection, and of the caller's own tenant if there is one.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_worker(&self, caller: &Caller, id: &WorkerId) -> Result<WorkerInfo> {
        self.workers_of(caller)
            .into_iter()
            .filter(|worker| worker.worker_id == *id)
            .max_by_key(|worker| worker.tenant == caller.tenant)
            .ok_or_else(|| Error::NotFound {
                noun: Noun::Worker,
                id: id.to_string(),
            })
    }

    /// What a worker runs of the jobs that the caller sees, at most 1,000 attempts.
    ///
    /// # Errors
    /// `Unavailable`, for a worker of another replica.
    pub async fn running_on(
        &self,
        caller: &Caller,
        worker: &WorkerInfo,
    ) -> Result<Vec<RunningAttempt>> {
        if worker.replica_id == self.replica() {
            Ok(self.running_here(caller, worker))
        } else {
            self.running_elsewhere(caller, worker).await
        }
    }

    async fn running_elsewhere(
        &self,
        caller: &Caller,
        worker: &WorkerInfo,
    ) -> Result<Vec<RunningAttempt>> {
        let prefix = HeldKey::session_prefix(&worker.replica_id, &worker.session_id);
        let range = [Range::prefix(keyspace::HELD, &prefix)];
        let read = self
            .store()
            .range(self.shard(), &range, MAX_RUNNING, Order::Ascending)
            .await?;
        let names: Vec<_> = read
            .value
            .into_iter()
            .flatten()
            .filter_map(|member| HeldKey::decode(&member).ok())
            .filter(|key| key.tenant == caller.tenant && key.standing != Standing::Over)
            .map(|key| (key.tenant, key.job_id))
            .collect();
        let mut running: Vec<RunningAttempt> = self
            .load_readable(&names)
            .await?
            .into_iter()
            .flatten()
            .filter(|loaded| {
                !caller.own_jobs_only() || loaded.job.principal_id == caller.principal_id
            })
            .filter_map(|loaded| {
                let lease = loaded.job.lease.as_ref()?;
                Some(RunningAttempt {
                    job_id: loaded.job.id.clone(),
                    attempt: lease.slot.attempt,
                })
            })
            .collect();
        running.sort();
        Ok(running)
    }

    fn running_here(&self, caller: &Caller, worker: &WorkerInfo) -> Vec<RunningAttempt> {
        let state = self.dispatcher().lock();
        let mut running: Vec<RunningAttempt> = state
            .slots
            .values()
            .filter(|slot| slot.session == worker.session_id && slot.loaded.is_some())
            .filter(|slot| slot.is_visible(caller))
            .map(|slot| RunningAttempt {
                job_id: slot.job_id.clone(),
                attempt: slot.attempt,
            })
            .collect();
        drop(state);
        running.sort();
        running.truncate(MAX_RUNNING);
        running
    }

    /// Gives a worker of the caller's tenant no more jobs, also after it reconnects, until undone.
    ///
    /// # Errors
    /// `NotFound`; `TenantNotAllowed` for one that only serves the caller's tenant; `Unavailable`.
    pub async fn drain_worker(
        &self,
        caller: &Caller,
        id: &WorkerId,
        undo: bool,
    ) -> Result<WorkerInfo> {
        let found = self.get_worker(caller, id).await;
        let tenant = match &found {
            Ok(worker) if worker.tenant == caller.tenant || caller.system => worker.tenant.clone(),
            Ok(_) => return Err(Error::TenantNotAllowed),
            // One that is away is not drained any more when it comes back.
            Err(_) if undo => caller.tenant.clone(),
            Err(_) => return found,
        };
        self.write_drained(&tenant, id, undo).await?;
        let mut worker = self.get_worker(caller, id).await?;
        // One that is connected elsewhere is described as it was a moment ago.
        worker.draining |= !undo;
        Ok(worker)
    }

    /// Lists the pools of the connected workers that belong to the caller's tenant or serve it, and
    /// those of the table of pools that its tenant may use, by name.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_pools(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<PoolInfo>, String)> {
        let routing = self.routing();
        let mut pools: BTreeMap<PoolName, PoolInfo> = pools_of_table(&routing, &caller.tenant)
            .map(|pool| (pool.clone(), PoolInfo::new(pool.clone())))
            .collect();
        for worker in self.workers_of(caller) {
            if !worker.connected {
                continue;
            }
            let pool = pools
                .entry(worker.pool.clone())
                .or_insert_with(|| PoolInfo::new(worker.pool.clone()));
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
        let pauses = self.pauses();
        for pool in &mut pools {
            pool.paused = pauses.iter().any(|pause| {
                let scope = &pause.scope;
                scope.topic.is_none()
                    && scope.pool.as_ref().is_none_or(|name| *name == pool.pool)
                    && scope
                        .tenant
                        .as_ref()
                        .is_none_or(|name| *name == caller.tenant)
            });
        }
        let mut patterns = patterns_by_pool(&routing, &caller.tenant);
        for pool in &mut pools {
            pool.topic_patterns = patterns.remove(&pool.pool).unwrap_or_default();
        }
        let (workless, served): (Vec<_>, Vec<_>) =
            pools.iter_mut().partition(|pool| pool.workers == 0);
        self.count_for_workless(caller, workless).await?;
        for pool in served {
            for topic in &pool.topics {
                let mut prefix = keyspace::queue_prefix(topic);
                prefix.extend_from_slice(&coretex_core::queue::tenant_prefix(&caller.tenant));
                let range = Range::prefix(keyspace::READY, &prefix);
                let read = self.store().count(self.shard(), &range, COUNT_CAP).await?;
                pool.waiting = pool.waiting.saturating_add(read.value);
                pool.waiting_capped |= read.value >= COUNT_CAP;
            }
        }
        Ok((pools, next))
    }

    /// Counts what waits for pools without workers: jobs whose topic names the pool in the table.
    async fn count_for_workless(&self, caller: &Caller, pools: Vec<&mut PoolInfo>) -> Result<()> {
        let named = pools
            .into_iter()
            .filter(|one| !one.topic_patterns.is_empty());
        let mut named: BTreeMap<PoolName, &mut PoolInfo> =
            named.map(|one| (one.pool.clone(), one)).collect();
        if named.is_empty() {
            return Ok(());
        }
        let queues = self.queue_depths(caller).await?;
        let routing = self.routing();
        for queue in &queues.depths {
            let rule = routing.route(&queue.topic, &caller.tenant).rule();
            for pool in rule.map(|rule| rule.pools.as_slice()).unwrap_or_default() {
                if let Some(pool) = named.get_mut(pool) {
                    pool.waiting = pool.waiting.saturating_add(queue.waiting);
                    pool.waiting_capped |= queue.capped;
                }
            }
        }
        for pool in named.into_values() {
            pool.waiting_capped |= queues.capped;
        }
        Ok(())
    }
}

/// Cuts a sorted list into pages by name.
pub(crate) fn paged<T>(
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
