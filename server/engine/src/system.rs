//! How the server is.

use coretex_store::{Order, Pressure, Range, prefix_end};

use crate::access::Caller;
use crate::engine::Engine;
use crate::sessions::workers::COUNT_CAP;
use crate::types::{QueueDepth, Queues, SystemStatus};
use crate::{Result, keyspace};

/// Queues that are named at most.
const MAX_QUEUES: usize = 200;
/// Queues that are looked at for that, those of other tenants included.
const MAX_STEPS: usize = 2_000;

impl Engine {
    /// How the server is; queue depths are those of the caller's tenant.
    ///
    /// # Errors
    /// None: a store that does not answer is part of the answer.
    pub async fn status(&self, caller: &Caller) -> Result<SystemStatus> {
        let info = self.store().info();
        let usage = self.store().usage().await;
        let (mut problem, note) = match (&usage, self.store().pressure()) {
            (Err(error), _) => (Some(error.to_string()), None),
            (Ok(_), Pressure::ReadOnly) => (Some("takes no writes".to_owned()), None),
            (Ok(_), Pressure::High) => {
                let note = "nearly full: new jobs are refused".to_owned();
                (None, Some(note))
            }
            (Ok(_), Pressure::Normal) => (None, None),
        };
        let queues = if usage.is_ok() {
            self.queue_depths(caller).await
        } else {
            Ok(Queues::default())
        };
        let queues = queues.unwrap_or_else(|error| {
            problem.get_or_insert_with(|| error.to_string());
            Queues::default()
        });
        let mut replicas = vec![self.own_info()];
        let known = self.known_replicas().into_iter();
        replicas.extend(known.filter(|other| other.replica_id != self.replica()));
        Ok(SystemStatus {
            replica_id: self.replica(),
            start_time: self.start_time(),
            now: self.now(),
            store_engine: info.engine,
            durability: info.durability,
            store_problem: problem,
            store_note: note,
            usage: usage.unwrap_or_default(),
            bus_engine: self.bus().info().engine,
            bus_healthy: self.bus().healthy(),
            routing_problem: self.routing_problem_for(caller),
            workers: replicas.iter().map(|replica| replica.workers).sum(),
            queues,
            replicas,
        })
    }

    /// Waiting jobs of the caller's tenant by topic. Skips from queue to queue.
    pub(crate) async fn queue_depths(&self, caller: &Caller) -> Result<Queues> {
        let mut depths = Vec::new();
        let mut start = Vec::new();
        for _ in 0..MAX_STEPS {
            let range = Range {
                index: keyspace::READY,
                start: start.into(),
                end: None,
            };
            let read = self
                .store()
                .range(self.shard(), &[range], 1, Order::Ascending)
                .await?;
            let first = read.value.into_iter().flatten().next();
            let Some((topic, _)) = first.and_then(|member| keyspace::parse_ready(&member)) else {
                let capped = false;
                return Ok(Queues { depths, capped });
            };
            if depths.len() == MAX_QUEUES {
                break;
            }
            let queue = keyspace::queue_prefix(&topic);
            let tenant = [
                queue.as_slice(),
                &coretex_core::queue::tenant_prefix(&caller.tenant),
            ]
            .concat();
            let range = Range::prefix(keyspace::READY, &tenant);
            let count = self.store().count(self.shard(), &range, COUNT_CAP).await?;
            let waiting = count.value;
            if waiting > 0 {
                let capped = waiting >= COUNT_CAP;
                depths.push(QueueDepth {
                    topic,
                    waiting,
                    capped,
                });
            }
            match prefix_end(&queue) {
                Some(end) => start = end,
                None => break,
            }
        }
        let capped = true;
        Ok(Queues { depths, capped })
    }
}
