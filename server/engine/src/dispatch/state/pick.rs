//! Which waiting jobs get the free slots: best first over all queues, and beside other replicas from
//! a place of one's own.

use std::collections::BinaryHeap;
use std::sync::Arc;

use coretex_core::id::{PoolName, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::Priority;
use coretex_core::placement::Shape;
use coretex_core::queue::ReadyKey;

use super::State;
use super::session::SessionState;
use crate::keyspace;

/// The most jobs among which picks of several replicas begin: fewer than are read ahead of a group.
const MAX_WINDOW: usize = crate::dispatch::queue::READ_AHEAD / 2;
/// Where a pick begins among what `replicas` together may take; `share`, in `[0, 1)`, is the random
/// choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skip {
    pub(crate) replicas: usize,
    pub(crate) share: f64,
}

/// A job that a pick passes over, and where it belongs.
type Passed = (Topic, (TenantId, Shape), ReadyKey);

/// A job that was picked and the worker that it was picked for.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) key: ReadyKey,
    pub(crate) session: SessionId,
    pub(crate) worker_id: WorkerId,
    pub(crate) pool: PoolName,
}

impl State {
    /// Picks up to `limit` jobs for free slots, best first over all queues.
    ///
    /// Beside other replicas, which see the same heads, each begins at a place of its own among the
    /// first jobs of the best class; slots that are left then take what was passed over, and only
    /// after that other classes.
    pub(crate) fn pick(&mut self, limit: usize, skip: Skip) -> Vec<Picked> {
        if !self.sessions.values().any(SessionState::has_free_slot) {
            return Vec::new();
        }
        let class = self.heads().peek().map(|head| head.key.priority);
        let skipped = self.skip(skip);
        let mut picked = Vec::new();
        if !skipped.is_empty() {
            picked = self.pick_best(limit, class);
            for (topic, group, key) in skipped.into_iter().rev() {
                if let Some(queue) = self.queues.get_mut(&topic) {
                    queue.put_back(&group, key);
                }
            }
        }
        picked.extend(self.pick_best(limit - picked.len(), None));
        for queue in self.queues.values_mut() {
            let before = queue.groups.len();
            queue.tidy();
            if before > 0 && queue.groups.is_empty() {
                // Only a read that finds nothing opens the fast path again.
                queue.stale = true;
            }
        }
        picked
    }

    /// Takes out the jobs that a pick passes over at first. They are of the best class, and as
    /// many as the other replicas may take at once: a random multiple of the slots that are free.
    fn skip(&mut self, skip: Skip) -> Vec<Passed> {
        if skip.replicas < 2 {
            return Vec::new();
        }
        let slots = self.sessions.values().map(|one| one.max_parallel as usize);
        let slots: usize = slots.sum();
        let free: usize = self.sessions.values().map(SessionState::free_slots).sum();
        let window = slots.saturating_mul(skip.replicas).min(MAX_WINDOW);
        let blocks = window.div_ceil(free.max(1));
        let begin = (skip.share * blocks as f64) as usize * free;
        let mut taken = self.take_heads(begin.min(window));
        if taken.len() < begin {
            // The class has no more than these: a place among them.
            let begin = begin % taken.len().max(1);
            for (topic, group, key) in taken.drain(begin..).rev() {
                if let Some(queue) = self.queues.get_mut(&topic) {
                    queue.put_back(&group, key);
                }
            }
        }
        taken
    }

    /// Takes the first jobs out of the queues, in serving order and of one class.
    fn take_heads(&mut self, limit: usize) -> Vec<Passed> {
        let mut taken = Vec::new();
        if limit == 0 {
            return taken;
        }
        let mut heads = self.heads();
        let class = heads.peek().map(|head| head.key.priority);
        while taken.len() < limit
            && let Some(Head { key, topic, group }) = heads.pop()
            && Some(key.priority) == class
        {
            let Some(found) = self
                .queues
                .get_mut(&topic)
                .and_then(|queue| queue.groups.get_mut(&group))
            else {
                continue;
            };
            found.keys.pop_front();
            if let Some(key) = found.keys.front().cloned() {
                heads.push(Head {
                    key,
                    topic: topic.clone(),
                    group: group.clone(),
                });
            }
            taken.push((topic, group, key));
        }
        taken
    }

    fn heads(&self) -> BinaryHeap<Head> {
        let groups = self.queues.iter().flat_map(|(topic, queue)| {
            let groups = queue.groups.iter();
            groups.filter_map(move |(name, group)| {
                Some(Head {
                    key: group.keys.front()?.clone(),
                    topic: topic.clone(),
                    group: name.clone(),
                })
            })
        });
        groups.collect()
    }

    /// Picks of one class, or of all.
    fn pick_best(&mut self, limit: usize, class: Option<Priority>) -> Vec<Picked> {
        let mut heads = self.heads();
        let mut picked = Vec::new();
        while picked.len() < limit
            && let Some(head) = heads.pop()
            && class.is_none_or(|class| head.key.priority == class)
        {
            let name = (head.key.tenant.clone(), head.key.job_id.clone());
            let claimed = self.claiming.contains(&name);
            let sample = self
                .queues
                .get(&head.topic)
                .and_then(|queue| queue.groups.get(&head.group))
                .map(|group| Arc::clone(&group.sample));
            let Some(sample) = sample else { continue };
            let taken = if claimed {
                None
            } else {
                self.reserve(&keyspace::needs(&sample))
            };
            if taken.is_none() && !claimed {
                // Nobody has room for this group now; its other jobs fare the same.
                continue;
            }
            let next = self
                .queues
                .get_mut(&head.topic)
                .and_then(|queue| queue.groups.get_mut(&head.group))
                .and_then(|group| {
                    group.keys.pop_front();
                    group.keys.front().cloned()
                });
            if let Some((session, worker_id, pool)) = taken {
                self.claiming.insert(name);
                picked.push(Picked {
                    key: head.key,
                    session,
                    worker_id,
                    pool,
                });
            }
            if let Some(key) = next {
                heads.push(Head {
                    key,
                    topic: head.topic,
                    group: head.group,
                });
            }
        }
        picked
    }
}

/// A group's first job in the heap; the greatest is served first.
#[derive(PartialEq, Eq)]
struct Head {
    key: ReadyKey,
    topic: Topic,
    group: (TenantId, Shape),
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.serving_order(&self.key)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
