//! Workers and pools, as callers see them and as replicas tell each other of them.

use std::collections::BTreeMap;

use coretex_core::id::{JobId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::placement::{Tenants, WorkerView};
use coretex_core::routing::Routing;
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A worker that is connected, or whose attempts wait for it to come back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its name.
    pub worker_id: WorkerId,
    /// Its connection.
    pub session_id: SessionId,
    /// The replica that owns it.
    pub replica_id: ReplicaId,
    /// Its tenant, by credential.
    pub tenant: TenantId,
    /// Its credential; empty for callers of other tenants.
    pub principal_id: String,
    /// Tenants whose jobs it gets; callers of other tenants see only themselves.
    pub tenants_served: Vec<TenantId>,
    /// Its pool.
    pub pool: PoolName,
    /// Topics it takes.
    pub topics: Vec<Topic>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// Most unfinished assignments at once.
    pub max_parallel_jobs: u32,
    /// Unfinished assignments.
    pub active_jobs: u32,
    /// Percent.
    pub cpu_load: f64,
    /// Percent.
    pub gpu_utilization: f64,
    /// Takes no more.
    pub draining: bool,
    /// Whether its stream is open.
    pub connected: bool,
    /// For people.
    pub sdk: String,
    /// The version of the session protocol that it speaks.
    pub protocol_version: u32,
    /// Connected since.
    pub connect_time: Timestamp,
    /// Last sign of life.
    pub heard_time: Timestamp,
}

impl WorkerInfo {
    /// The worker as placement sees it.
    pub(crate) fn view<'a>(&'a self, routing: &'a Routing) -> WorkerView<'a> {
        WorkerView {
            rule: routing.pool(&self.pool),
            worker_id: &self.worker_id,
            session: &self.session_id,
            pool: &self.pool,
            topics: &self.topics,
            any_topic: false,
            capabilities: &self.capabilities,
            labels: &self.labels,
            max_parallel: self.max_parallel_jobs,
            active: self.active_jobs,
            cpu_load: self.cpu_load as f32,
            gpu_utilization: self.gpu_utilization as f32,
            draining: self.draining,
            tenants_served: Tenants::List(&self.tenants_served),
        }
    }
}

/// What a worker runs, without the lease, which is the worker's secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunningAttempt {
    /// The job.
    pub job_id: JobId,
    /// The attempt.
    pub attempt: u32,
}

/// A pool: of connected workers, of the table of pools, or of both.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolInfo {
    /// Its name.
    pub pool: PoolName,
    /// Topics its workers take.
    pub topics: Vec<Topic>,
    /// Patterns of the topic table that name it and are open to the caller's tenant.
    pub topic_patterns: Vec<TopicPattern>,
    /// Connected workers.
    pub workers: u32,
    /// Slots in all.
    pub capacity: u32,
    /// Slots in use.
    pub active: u32,
    /// The caller's jobs that wait for these topics, counted to 10,000 each.
    pub waiting: u64,
    /// Whether counting stopped early.
    pub waiting_capped: bool,
    /// Whether it hands out nothing to the caller's tenant.
    pub paused: bool,
}

impl PoolInfo {
    /// One that has nothing yet.
    pub(crate) const fn new(pool: PoolName) -> Self {
        Self {
            pool,
            topics: Vec::new(),
            topic_patterns: Vec::new(),
            workers: 0,
            capacity: 0,
            active: 0,
            waiting: 0,
            waiting_capped: false,
            paused: false,
        }
    }
}
