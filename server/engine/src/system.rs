//! How the server is.

use coretex_core::id::Topic;
use coretex_store::{Order, Pressure, Range, prefix_end};

use crate::access::Caller;
use crate::engine::Engine;
use crate::sessions::workers::COUNT_CAP;
use crate::types::SystemStatus;
use crate::{Result, keyspace};

/// Queues that are named at most.
const MAX_QUEUES: usize = 200;

impl Engine {
    /// How the server is; queue depths are those of the caller's tenant.
    ///
    /// # Errors
    /// None: a store that does not answer is part of the answer.
    pub async fn status(&self, caller: &Caller) -> Result<SystemStatus> {
        let info = self.store().info();
        let usage = self.store().usage().await;
        let problem = match (&usage, self.store().pressure()) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), Pressure::ReadOnly) => Some("takes no writes".to_owned()),
            (Ok(_), Pressure::High) => Some("nearly full: new jobs are refused".to_owned()),
            (Ok(_), Pressure::Normal) => None,
        };
        let queues = if problem.is_none() {
            self.queue_depths(caller).await?
        } else {
            Vec::new()
        };
        let (workers, active_jobs) = {
            let state = self.dispatcher().lock();
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            (count(state.sessions.len()), count(state.slots.len()))
        };
        Ok(SystemStatus {
            replica_id: self.replica().clone(),
            start_time: self.start_time(),
            now: self.now(),
            store_engine: info.engine,
            durability: info.durability,
            store_problem: problem,
            usage: usage.unwrap_or_default(),
            bus_engine: self.bus().info().engine,
            bus_healthy: self.bus().healthy(),
            draining: self.is_draining(),
            workers,
            active_jobs,
            queues,
            replicas: self.known_replicas(),
        })
    }

    /// Waiting jobs of the caller's tenant by topic. Skips from queue to queue.
    async fn queue_depths(&self, caller: &Caller) -> Result<Vec<(Topic, u64, bool)>> {
        let mut depths = Vec::new();
        let mut start = Vec::new();
        for _ in 0..MAX_QUEUES {
            let range = Range {
                index: keyspace::READY,
                start: start.into(),
                end: None,
            };
            let read = self
                .store()
                .range(self.shard(), &[range], 1, Order::Ascending)
                .await?;
            let Some(member) = read.value.into_iter().flatten().next() else {
                break;
            };
            let Some((topic, _)) = keyspace::parse_ready(&member) else {
                break;
            };
            let queue = keyspace::queue_prefix(&topic);
            let tenant = [
                queue.as_slice(),
                &coretex_core::queue::tenant_prefix(&caller.tenant),
            ]
            .concat();
            let range = Range::prefix(keyspace::READY, &tenant);
            let count = self
                .store()
                .count(self.shard(), &range, COUNT_CAP)
                .await?
                .value;
            if count > 0 {
                depths.push((topic, count, count >= COUNT_CAP));
            }
            match prefix_end(&queue) {
                Some(end) => start = end,
                None => break,
            }
        }
        Ok(depths)
    }
}
