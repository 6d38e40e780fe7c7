//! Which waiting jobs get the free slots, over all queues: the best class first; within it tenants
//! take turns by weight, the fairness keys of a tenant take turns, and then the longest wait goes
//! first. Beside other replicas a pick begins at a place of its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use coretex_core::id::{PoolName, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::Job;
use coretex_core::placement::Needs;
use coretex_core::queue::ReadyKey;
use coretex_core::queue::rank::{CRITICAL_RUN, Class, rank};
use coretex_core::queue::turns::Turns;
use coretex_core::time::Timestamp;

use super::State;
use super::session::SessionState;
use crate::dispatch::queue::GroupName;

/// The most jobs among which picks of several replicas begin: fewer than are read ahead of a group.
const MAX_WINDOW: usize = crate::dispatch::queue::READ_AHEAD / 2;
/// Tenants whose fairness keys are remembered before it is looked for those that can be forgotten.
const REMEMBERED: usize = 1_024;

/// Where a pick begins among what `replicas` together may take; `share`, in `[0, 1)`, is the random
/// choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skip {
    pub(crate) replicas: usize,
    pub(crate) share: f64,
}

/// Whose turn it is: among tenants, and among the fairness keys of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fairness {
    tenants: Turns<TenantId>,
    keys: HashMap<TenantId, Turns<String>>,
    /// How many CRITICAL jobs were picked in a row.
    critical_run: u32,
}

impl Fairness {
    fn starts(&self, tenant: &TenantId, key: &String) -> (u64, u64) {
        let keys = self.keys.get(tenant);
        let of_key = keys.map_or(0, |turns| turns.start(key));
        (self.tenants.start(tenant), of_key)
    }

    fn take(&mut self, job: &Job, class: Class, weight: u32) {
        let slots = job.spec.placement.slots.0;
        self.tenants.take(&job.tenant, slots, weight);
        if self.keys.len() > REMEMBERED {
            self.keys.retain(|_, turns| !turns.is_even());
            if self.keys.len() > REMEMBERED {
                // So many tenants with keys that have a lead: they begin anew.
                self.keys.clear();
            }
        }
        let keys = self.keys.entry(job.tenant.clone()).or_default();
        keys.take(&job.spec.fairness_key, slots, 1);
        self.critical_run = match class {
            Class::Critical => self.critical_run.saturating_add(1),
            Class::Risen | Class::Interactive | Class::Batch => 0,
        };
    }
}

/// A job that a pick passes over, and where it belongs.
type Passed = (Topic, GroupName, ReadyKey);

/// A job that was picked and the worker that it was picked for.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) key: ReadyKey,
    pub(crate) topic: Topic,
    pub(crate) session: SessionId,
    pub(crate) worker_id: WorkerId,
    pub(crate) pool: PoolName,
    pub(crate) slots: u32,
}

impl State {
    /// Picks up to `limit` jobs for free slots, best first over all queues.
    ///
    /// Beside other replicas, which see the same heads, each begins at a place of its own among the
    /// first jobs of the best class; slots that are left then take what was passed over, and only
    /// after that other classes.
    pub(crate) fn pick(&mut self, limit: usize, skip: Skip, now: Timestamp) -> Vec<Picked> {
        if !self.sessions.values().any(SessionState::has_free_slot) {
            return Vec::new();
        }
        let (skipped, class) = self.skip(skip, now);
        let mut picked = Vec::new();
        if !skipped.is_empty() {
            picked = self.pick_best(limit, class, now);
            self.give_back(skipped);
        }
        picked.extend(self.pick_best(limit - picked.len(), None, now));
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

    fn give_back(&mut self, passed: Vec<Passed>) {
        for (topic, group, key) in passed.into_iter().rev() {
            if let Some(queue) = self.queues.get_mut(&topic) {
                queue.put_back(&group, key);
            }
        }
    }

    /// Takes out the jobs that a pick passes over at first. They are of the best class, and as
    /// many as the other replicas may take at once: a random multiple of the slots that are free.
    fn skip(&mut self, skip: Skip, now: Timestamp) -> (Vec<Passed>, Option<Class>) {
        if skip.replicas < 2 {
            return (Vec::new(), None);
        }
        let slots = self.sessions.values().map(|one| one.max_parallel as usize);
        let slots: usize = slots.sum();
        let free: usize = self.sessions.values().map(SessionState::free_slots).sum();
        let window = slots.saturating_mul(skip.replicas).min(MAX_WINDOW);
        let blocks = window.div_ceil(free.max(1));
        let begin = (skip.share * blocks as f64) as usize * free;
        let (mut taken, class) = self.take_heads(begin.min(window), now);
        if taken.len() < begin {
            // The class has no more than these: a place among them.
            let begin = begin % taken.len().max(1);
            let rest = taken.split_off(begin);
            self.give_back(rest);
        }
        (taken, class)
    }

    /// Takes the first jobs of the best class out of the queues, in the order in which others are
    /// about to serve them.
    fn take_heads(&mut self, limit: usize, now: Timestamp) -> (Vec<Passed>, Option<Class>) {
        let mut taken = Vec::new();
        if limit == 0 {
            return (taken, None);
        }
        // They are not served here, so nobody has had a turn.
        let turns = self.fairness.clone();
        let mut heads = self.heads(now);
        let best = Class::ALL
            .into_iter()
            .find(|class| heads.contains_key(class));
        let Some((class, mut heap)) = best.and_then(|class| heads.remove_entry(&class)) else {
            return (taken, None);
        };
        while taken.len() < limit
            && let Some(Reverse(head)) = heap.pop()
        {
            if let Some(current) = self.grown_old(&head) {
                heap.push(Reverse(current));
                continue;
            }
            let Some(group) = self.group(&head.topic, &head.group) else {
                continue;
            };
            let sample = Arc::clone(&group.sample);
            let Some(key) = group.keys.pop_front() else {
                continue;
            };
            let next = group.keys.front().cloned();
            let weight = self.routing.tenant(&sample.tenant).weight;
            self.fairness.take(&sample, class, weight);
            if let Some(next) =
                next.and_then(|next| self.head(&head.topic, &head.group, &next, now))
                && next.class == class
            {
                heap.push(Reverse(next));
            }
            taken.push((head.topic, head.group, key));
        }
        self.fairness = turns;
        (taken, Some(class))
    }

    fn group(
        &mut self,
        topic: &Topic,
        name: &GroupName,
    ) -> Option<&mut crate::dispatch::queue::Group> {
        self.queues.get_mut(topic)?.groups.get_mut(name)
    }

    /// The place of the first job of a group.
    fn head(
        &self,
        topic: &Topic,
        group: &GroupName,
        key: &ReadyKey,
        now: Timestamp,
    ) -> Option<Head> {
        let sample = &self.queues.get(topic)?.groups.get(group)?.sample;
        let rank = rank(key.priority, key.accepted, now, self.rise_after);
        Some(Head {
            class: rank.class,
            turn: self
                .fairness
                .starts(&sample.tenant, &sample.spec.fairness_key),
            since: rank.since,
            key: key.clone(),
            topic: topic.clone(),
            group: group.clone(),
        })
    }

    /// The first jobs of all groups, by class.
    fn heads(&self, now: Timestamp) -> HashMap<Class, BinaryHeap<Reverse<Head>>> {
        let mut heads: HashMap<Class, BinaryHeap<Reverse<Head>>> = HashMap::new();
        for (topic, queue) in &self.queues {
            for (name, group) in &queue.groups {
                let first = group.keys.front();
                if let Some(head) = first.and_then(|key| self.head(topic, name, key, now)) {
                    heads.entry(head.class).or_default().push(Reverse(head));
                }
            }
        }
        heads
    }

    /// A head whose tenant or key has had a turn since it was put into the heap, as it stands now.
    /// Turns never go back, so the smallest in the heap that still stands is the smallest of all.
    fn grown_old(&self, head: &Head) -> Option<Head> {
        let queue = self.queues.get(&head.topic)?;
        let sample = &queue.groups.get(&head.group)?.sample;
        let turn = self
            .fairness
            .starts(&sample.tenant, &sample.spec.fairness_key);
        (turn != head.turn).then(|| Head {
            turn,
            ..head.clone()
        })
    }

    /// Picks of one class, or of all.
    fn pick_best(&mut self, limit: usize, only: Option<Class>, now: Timestamp) -> Vec<Picked> {
        let mut heads = self.heads(now);
        let mut picked = Vec::new();
        // Workers whose slots are gathered for a job that takes several.
        let mut kept = HashSet::new();
        let mut free: usize = self.sessions.values().map(SessionState::free_slots).sum();
        while picked.len() < limit && free > 0 {
            let mut classes = Class::ALL;
            if self.fairness.critical_run >= CRITICAL_RUN {
                classes.swap(0, 1);
            }
            let mut waiting = classes.into_iter();
            let next = waiting.find_map(|class| {
                let wanted = only.is_none_or(|only| only == class);
                let heap = heads.get_mut(&class).filter(|_| wanted)?;
                heap.pop()
            });
            let Some(Reverse(head)) = next else {
                break;
            };
            if let Some(current) = self.grown_old(&head) {
                heads
                    .entry(current.class)
                    .or_default()
                    .push(Reverse(current));
                continue;
            }
            let fleet = self.fleet;
            let Some(sample) = self
                .group(&head.topic, &head.group)
                // Who could run these is known: nobody here.
                .filter(|group| group.suited != Some((fleet, false)))
                .map(|group| Arc::clone(&group.sample))
            else {
                continue;
            };
            let name = (head.key.tenant.clone(), head.key.job_id.clone());
            let taken = if self.claiming.contains(&name) || self.not_ready.contains(&name) {
                None
            } else if let Some(taken) = self.take_slot(&sample, &mut kept) {
                Some(taken)
            } else {
                // Nobody has room for this group now; its other jobs fare the same.
                continue;
            };
            let next = self
                .group(&head.topic, &head.group)
                .and_then(|group| {
                    group.keys.pop_front();
                    group.keys.front().cloned()
                })
                .and_then(|key| self.head(&head.topic, &head.group, &key, now));
            if let Some((session, worker_id, pool)) = taken {
                let weight = self.routing.tenant(&sample.tenant).weight;
                self.fairness.take(&sample, head.class, weight);
                self.claiming.insert(name);
                free = free.saturating_sub(sample.spec.placement.slots.0 as usize);
                picked.push(Picked {
                    key: head.key,
                    topic: head.topic,
                    session,
                    worker_id,
                    pool,
                    slots: sample.spec.placement.slots.0,
                });
            }
            if let Some(next) = next {
                heads.entry(next.class).or_default().push(Reverse(next));
            }
        }
        picked
    }

    /// Takes a slot for a job like `sample`, unless a limit is known to be met. One that takes
    /// several slots and finds too few keeps the worker that has most for itself, so that jobs which
    /// take fewer do not pass it for ever.
    fn take_slot(
        &mut self,
        sample: &Job,
        kept: &mut HashSet<SessionId>,
    ) -> Option<(SessionId, WorkerId, PoolName)> {
        let (routing, pauses) = (Arc::clone(&self.routing), Arc::clone(&self.pauses));
        let limit = routing.concurrency(&sample.spec, &sample.tenant);
        let key = limit.map_or("", |limit| limit.key);
        if !self.gates.is_open(&sample.tenant, key) {
            return None;
        }
        let needs = Needs::of(sample).under(&routing, &pauses);
        let taken = self.reserve(&needs, kept);
        if taken.is_some() {
            self.gates.admit(&sample.tenant, key);
        } else if !needs.slots.is_one() {
            kept.extend(self.fullest_that_suits(&needs, kept));
        }
        taken
    }
}

/// A group's first job; the smallest is served first within its class.
#[derive(Clone, PartialEq, Eq)]
struct Head {
    class: Class,
    /// When the turns of its tenant and of its fairness key begin.
    turn: (u64, u64),
    since: Timestamp,
    key: ReadyKey,
    topic: Topic,
    group: GroupName,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |head: &Self| (head.class, head.turn, head.since);
        order(self)
            .cmp(&order(other))
            .then_with(|| self.key.job_id.cmp(&other.key.job_id))
            .then_with(|| self.key.tenant.cmp(&other.key.tenant))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
