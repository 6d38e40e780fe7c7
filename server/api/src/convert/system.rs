//! The installation and how it is doing.

use std::fmt::Debug;

use coretex_engine::{PoolInfo, QueueDepth, Queues, ReplicaInfo, SystemStatus};
use coretex_proto::v1;

use super::{count, duration, time};
use crate::options::Backends;

/// Writes the status; `pools` say which queues are whose, `backends` what is behind the engines.
pub(crate) fn write(
    status: &SystemStatus,
    pools: &[PoolInfo],
    backends: &dyn Backends,
) -> v1::GetStatusResponse {
    // Without its bus a server works on: it looks into the store every second.
    let ready = status.store_problem.is_none();
    let replicas = status.replicas.iter().map(|one| {
        // Others that keep their lease have a store; more is not known of them here.
        let healthy = ready || one.replica_id != status.replica_id;
        replica(one, healthy)
    });
    let this = status.replicas.first();
    v1::GetStatusResponse {
        version: this.map(|this| this.version.clone()).unwrap_or_default(),
        uptime: Some(duration(status.now.since(status.start_time))),
        start_time: Some(time(status.start_time)),
        replicas: replicas.collect(),
        engines: engines(status, backends),
        workers: count(status.workers),
        queue_depths: queue_depths(&status.queues, pools),
        queue_depths_capped: status.queues.capped,
        store_usage: Some(v1::StoreUsage {
            used_bytes: bytes(status.usage.bytes),
            limit_bytes: bytes(status.usage.capacity),
        }),
        config_problem: status.routing_problem.clone().unwrap_or_default(),
    }
}

fn engines(status: &SystemStatus, backends: &dyn Backends) -> Vec<v1::EngineStatus> {
    let store = v1::EngineStatus {
        component: "store".to_owned(),
        name: status.store_engine.to_owned(),
        durability: durability(&status.durability).into(),
        healthy: status.store_problem.is_none(),
        message: status
            .store_problem
            .clone()
            .or_else(|| status.store_note.clone())
            .unwrap_or_default(),
        version: backends.store_version(),
    };
    let bus = v1::EngineStatus {
        component: "bus".to_owned(),
        name: status.bus_engine.to_owned(),
        durability: v1::Durability::Unspecified.into(),
        healthy: status.bus_healthy,
        message: if status.bus_healthy {
            String::new()
        } else {
            "not connected: jobs run, news of other replicas is up to a second late".to_owned()
        },
        version: backends.bus_version(),
    };
    vec![store, bus]
}

/// The levels of store and contract have the same names.
fn durability(level: &impl Debug) -> v1::Durability {
    let name = format!("DURABILITY_{level:?}").to_uppercase();
    v1::Durability::from_str_name(&name).unwrap_or_default()
}

/// The jobs that wait, by topic, with the first pool that serves it.
fn queue_depths(queues: &Queues, pools: &[PoolInfo]) -> Vec<v1::QueueDepth> {
    let write = |queue: &QueueDepth| {
        let pool = pools.iter().find(|pool| pool.topics.contains(&queue.topic));
        v1::QueueDepth {
            pool: pool.map(|pool| pool.pool.to_string()).unwrap_or_default(),
            waiting: count(queue.waiting),
            capped: queue.capped,
            topic: queue.topic.to_string(),
        }
    };
    queues.depths.iter().map(write).collect()
}

fn replica(replica: &ReplicaInfo, healthy: bool) -> v1::ReplicaStatus {
    v1::ReplicaStatus {
        replica_id: replica.replica_id.to_string(),
        version: replica.version.clone(),
        start_time: Some(time(replica.start_time)),
        ready: healthy && !replica.draining,
        draining: replica.draining,
        workers: count(replica.workers),
        active_jobs: count(replica.active_jobs),
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use coretex_store::Durability;

    use super::*;

    #[test]
    fn every_level_of_durability_has_its_value() {
        for (level, value) in [
            (Durability::Ephemeral, v1::Durability::Ephemeral),
            (Durability::Async, v1::Durability::Async),
            (Durability::Replicated, v1::Durability::Replicated),
            (Durability::Fsync, v1::Durability::Fsync),
        ] {
            assert_eq!(durability(&level), value);
        }
    }
}
