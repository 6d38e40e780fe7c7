//! The view behind the dispatcher's lock: sessions, their slots, and the queues they serve.
//!
//! Here: the view as a whole, reservations and picking. [`session`] is one connected worker,
//! [`slots`] what is in use, and what becomes of it when its session ends.

pub(crate) mod session;
pub(crate) mod slots;

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, PoolName, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::{Job, Priority};
use coretex_core::lease::Tick;
use coretex_core::placement::{Needs, Shape, choose};
use coretex_core::queue::ReadyKey;

use super::queue::Queue;
use crate::keyspace::{self, HeldEntry};
use crate::types::WorkerInfo;
use session::SessionState;
use slots::{LostSession, Slot};

/// The most jobs among which picks of several replicas begin: fewer than are read ahead of a group.
const MAX_WINDOW: usize = super::queue::READ_AHEAD / 2;
/// How long claims rest when one was refused and the one before was not.
const FIRST_REST: Duration = Duration::from_millis(10);
/// How long they rest at most.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The view.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sessions: HashMap<SessionId, SessionState>,
    by_topic: HashMap<Topic, BTreeSet<SessionId>>,
    pub(crate) queues: HashMap<Topic, Queue>,
    pub(crate) slots: HashMap<LeaseId, Slot>,
    /// Leases of dispatches whose commits are under way.
    pub(crate) dispatching: HashSet<LeaseId>,
    /// Jobs whose claim is being committed.
    claiming: HashSet<(TenantId, JobId)>,
    /// Workers that an operator drained, by name, also while they are away.
    pub(crate) drained: HashSet<(TenantId, WorkerId)>,
    /// How often a worker was drained or undrained.
    pub(crate) drains: u64,
    /// Workers whose sessions ended with attempts out, as they were then: as long as those are lost
    /// sessions.
    pub(crate) departed: HashMap<SessionId, WorkerInfo>,
    lost: Vec<LostSession>,
    /// Attempts that were perhaps committed and surely not sent, and since when.
    unsent: HashMap<LeaseId, (HeldEntry, Tick)>,
    /// How often in a row claims were refused at once, and until when they rest for it.
    refusals: u32,
    pub(crate) claims_rest_until: Tick,
    /// Held entries without a slot at the last comparison.
    suspect_entries: HashSet<(SessionId, LeaseId)>,
    tie: u64,
}

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
    pub(crate) fn insert_session(&mut self, id: SessionId, session: SessionState) {
        for topic in &session.topics {
            self.by_topic
                .entry(topic.clone())
                .or_default()
                .insert(id.clone());
            self.queues
                .entry(topic.clone())
                .or_insert_with(Queue::unknown);
        }
        self.sessions.insert(id, session);
    }

    /// Takes a session out; its slots stay until their attempts are adopted or given up.
    pub(crate) fn remove_session(&mut self, id: &SessionId, now: Tick) -> Option<SessionState> {
        let session = self.sessions.remove(id)?;
        for topic in &session.topics {
            let Some(serving) = self.by_topic.get_mut(topic) else {
                continue;
            };
            serving.remove(id);
            if serving.is_empty() {
                self.by_topic.remove(topic);
                self.queues.remove(topic);
            }
        }
        if !session.leases.is_empty() {
            self.lose(id, now);
        }
        Some(session)
    }

    pub(crate) fn serving(
        &self,
        topic: &Topic,
    ) -> impl Iterator<Item = (&SessionId, &SessionState)> {
        self.by_topic
            .get(topic)
            .into_iter()
            .flatten()
            .filter_map(|id| self.sessions.get_key_value(id))
    }

    /// Frees a reservation.
    pub(crate) fn release(&mut self, session: &SessionId) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.reserved = session.reserved.saturating_sub(1);
        }
    }

    fn reserve(&mut self, needs: &Needs<'_>) -> Option<(SessionId, WorkerId, PoolName)> {
        self.tie = self.tie.wrapping_add(1);
        let candidates: Vec<(&SessionId, &SessionState)> = self
            .by_topic
            .get(needs.topic)?
            .iter()
            .filter_map(|id| self.sessions.get_key_value(id))
            .collect();
        let views = candidates.iter().map(|(id, session)| session.view(id));
        let chosen = choose(needs, views, self.tie)?;
        let id = candidates[chosen].0.clone();
        let session = self.sessions.get_mut(&id)?;
        session.reserved += 1;
        Some((id, session.worker_id.clone(), session.pool.clone()))
    }

    /// Takes a slot for a newcomer, if no queue that the chosen worker serves holds anything.
    pub(crate) fn reserve_fast(
        &mut self,
        needs: &Needs<'_>,
        now: Tick,
    ) -> Option<(SessionId, WorkerId, PoolName)> {
        let queue = self.queues.get(needs.topic)?;
        if !queue.is_known_empty(now) {
            return None;
        }
        let taken = self.reserve(needs)?;
        let session = self.sessions.get(&taken.0)?;
        let topics_empty = session.topics.len() == 1
            || session.topics.iter().all(|topic| {
                self.queues
                    .get(topic)
                    .is_some_and(|queue| queue.is_known_empty(now))
            });
        if topics_empty {
            return Some(taken);
        }
        self.release(&taken.0);
        None
    }

    pub(crate) fn begin_add(&mut self, topic: &Topic) {
        if let Some(queue) = self.queues.get_mut(topic) {
            queue.guard.begin_add();
        }
    }

    /// Ends an add; `added` is what became ready, if the commit was acknowledged. True when a
    /// worker of this replica serves the queue.
    pub(crate) fn end_add(&mut self, topic: &Topic, added: Option<(ReadyKey, &Job)>) -> bool {
        let Some(queue) = self.queues.get_mut(topic) else {
            return false;
        };
        queue.guard.end_add();
        match added {
            Some((key, job)) => {
                let sample = if queue.needs_sample(&key) {
                    sample_of(job)
                } else {
                    // Not used: the group has one.
                    match queue.groups.get(&(key.tenant.clone(), key.shape)) {
                        Some(group) => Arc::clone(&group.sample),
                        None => sample_of(job),
                    }
                };
                queue.insert(key, sample);
            }
            None => queue.stale = true,
        }
        true
    }

    /// Queues whose index should be read, and where: those that a worker with a free slot serves,
    /// and with `all` every one that is stale. Where others add to queues, one that is only read
    /// when a slot is free would not be known to be empty by the time the next slot is; it is read
    /// at every tick, not at every doorbell.
    pub(crate) fn queues_to_read(&mut self, all: bool, now: Tick) -> Vec<(Topic, Option<Vec<u8>>)> {
        let mut topics = Vec::new();
        for (topic, queue) in &mut self.queues {
            if !queue.wants_read() {
                continue;
            }
            let free = self.by_topic.get(topic).into_iter().flatten().any(|id| {
                self.sessions
                    .get(id)
                    .is_some_and(SessionState::has_free_slot)
            });
            if free || (all && queue.stale) {
                topics.push((topic.clone(), queue.begin_read(now)));
            }
        }
        topics
    }

    /// A picked job was not claimed and waits on: its queue is read again.
    pub(crate) fn put_back(&mut self, topic: &Topic) {
        if let Some(queue) = self.queues.get_mut(topic) {
            queue.stale = true;
        }
    }

    /// Asks for a read of every queue: the bound on what a lost doorbell can cost.
    pub(crate) fn distrust_queues(&mut self) {
        for queue in self.queues.values_mut() {
            queue.distrust();
        }
    }

    /// The store went back in time: nothing that was read of it counts any more.
    pub(crate) fn forget_what_was_read(&mut self) {
        for queue in self.queues.values_mut() {
            queue.guard.added();
            queue.distrust();
        }
        for slot in self.slots.values_mut() {
            slot.distrust();
        }
    }

    /// Drains a worker by name, or does not any more.
    pub(crate) fn drain(&mut self, tenant: &TenantId, worker: &WorkerId, undo: bool) {
        self.drains += 1;
        for session in self.sessions.values_mut() {
            if session.tenant == *tenant && session.worker_id == *worker {
                session.drained = !undo;
            }
        }
        let name = (tenant.clone(), worker.clone());
        if undo {
            self.drained.remove(&name);
        } else {
            self.drained.insert(name);
        }
    }

    /// Takes over which workers are drained, as it was read when [`Self::drains`] was `since`; true
    /// when one is not any more.
    pub(crate) fn set_drained(
        &mut self,
        drained: HashSet<(TenantId, WorkerId)>,
        since: u64,
    ) -> bool {
        if since != self.drains {
            // Somebody has drained one since; the next read knows of it.
            return false;
        }
        let mut freed = false;
        for session in self.sessions.values_mut() {
            let name = (session.tenant.clone(), session.worker_id.clone());
            let now = drained.contains(&name);
            freed |= session.drained && !now;
            session.drained = now;
        }
        self.drained = drained;
        freed
    }

    /// Nothing that was read could be placed: asks for the parts of the queues that were not read,
    /// where workers have free slots. True when there are any.
    pub(crate) fn read_on(&mut self) -> bool {
        let mut again = false;
        for (topic, queue) in &mut self.queues {
            let mut serving = self.by_topic.get(topic).into_iter().flatten();
            let free = serving.any(|id| {
                self.sessions
                    .get(id)
                    .is_some_and(SessionState::has_free_slot)
            });
            again |= free && queue.read_on();
        }
        again
    }

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

    /// A claim is over, whichever way.
    pub(crate) fn claimed(&mut self, tenant: &TenantId, id: &JobId) {
        self.claiming.remove(&(tenant.clone(), id.clone()));
    }

    /// A claim was refused for a reason that the next one will meet, too: claims rest a little,
    /// longer each time.
    pub(crate) fn claim_refused(&mut self, now: Tick) {
        // Those of one round count as one.
        if now >= self.claims_rest_until {
            let rest = FIRST_REST * (1 << self.refusals.min(8));
            self.claims_rest_until = now + rest.min(LONGEST_REST);
            self.refusals = self.refusals.saturating_add(1);
        }
    }

    /// A claim was committed.
    pub(crate) fn claim_accepted(&mut self) {
        self.refusals = 0;
    }

    /// Sessions that have been silent for too long.
    pub(crate) fn silent(&self, now: Tick, silence: Duration) -> Vec<SessionId> {
        self.sessions
            .iter()
            .filter(|(_, session)| now.since(session.heard) > silence)
            .map(|(id, _)| id.clone())
            .collect()
    }
}

/// A job stripped to what placement needs.
pub(crate) fn sample_of(job: &Job) -> Arc<Job> {
    let mut sample = job.clone();
    sample.input = None;
    sample.output = None;
    Arc::new(sample)
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
