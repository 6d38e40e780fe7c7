//! The view behind the dispatcher's lock: sessions, their slots, and the queues they serve.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::{Job, Progress};
use coretex_core::lease::Tick;
use coretex_core::placement::{Needs, Tenants, WorkerView, choose};
use coretex_core::queue::ReadyKey;
use coretex_core::time::Timestamp;
use tokio::sync::mpsc;

use super::queue::Queue;
use crate::access::Caller;
use crate::commits::Loaded;
use crate::keyspace::{self, HeldEntry};
use crate::sessions::outbound::Outbound;
use crate::types::{AttemptRef, SessionEnd, ToWorker, WorkerInfo};

/// A connected worker.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) worker_id: WorkerId,
    pub(crate) tenant: TenantId,
    pub(crate) pool: PoolName,
    pub(crate) topics: Vec<Topic>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Tenants whose jobs it gets.
    pub(crate) serves: Vec<TenantId>,
    pub(crate) max_parallel: u32,
    pub(crate) cpu_load: f64,
    pub(crate) gpu_utilization: f64,
    /// It said that it takes no more.
    pub(crate) leaving: bool,
    /// An operator said that it gets no more.
    pub(crate) drained: bool,
    /// Its welcome has been sent; before, it gets nothing.
    pub(crate) open: bool,
    pub(crate) sdk: String,
    pub(crate) protocol_version: u32,
    pub(crate) principal_id: String,
    pub(crate) connect_time: Timestamp,
    /// Its last sign of life, in store time and by this process's clock.
    pub(crate) heard_time: Timestamp,
    pub(crate) heard: Tick,
    pub(crate) sender: mpsc::Sender<ToWorker>,
    /// The bytes of what waits in `sender` and behind it.
    pub(crate) outbound: Arc<Outbound>,
    /// Why it has ended.
    pub(crate) end: Arc<OnceLock<SessionEnd>>,
    pub(crate) leases: HashSet<LeaseId>,
    pub(crate) reserved: u32,
}

impl SessionState {
    pub(crate) fn active(&self) -> u32 {
        let slots = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        slots.saturating_add(self.reserved)
    }

    /// Whether it may be sent more: it reads what it is sent, or has little to read. The channel
    /// itself has room for the largest worker there may be.
    pub(crate) fn has_room(&self) -> bool {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        let slots = self.leases.len().max(self.max_parallel as usize);
        waiting < slots + crate::sessions::OUTBOUND_SLACK
    }

    pub(crate) fn has_free_slot(&self) -> bool {
        self.open
            && !self.leaving
            && !self.drained
            && self.active() < self.max_parallel
            && !self.outbound.is_full()
    }

    pub(crate) fn view<'a>(&'a self, session: &'a SessionId) -> WorkerView<'a> {
        WorkerView {
            worker_id: &self.worker_id,
            session,
            pool: &self.pool,
            topics: &self.topics,
            any_topic: false,
            capabilities: &self.capabilities,
            labels: &self.labels,
            max_parallel: self.max_parallel,
            // One that has much to read is as busy as can be.
            active: if self.outbound.is_full() {
                self.active().max(self.max_parallel)
            } else {
                self.active()
            },
            cpu_load: self.cpu_load as f32,
            gpu_utilization: self.gpu_utilization as f32,
            draining: self.leaving || self.drained || !self.open,
            tenants_served: Tenants::List(&self.serves),
        }
    }
}

/// A slot in use, by its lease.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) session: SessionId,
    pub(crate) tenant: TenantId,
    pub(crate) job_id: JobId,
    /// The number of the attempt; 0 = not known, because only the held index told of it.
    pub(crate) attempt: u32,
    /// The version of the record that last told of it.
    version: u64,
    /// The job as last written, while the attempt is current.
    pub(crate) loaded: Option<Loaded>,
    /// When the worker said that it started, until that is written.
    pub(crate) started_at: Option<Timestamp>,
    /// Progress that is not written yet.
    pub(crate) progress: Option<Progress>,
    /// When progress was last written.
    pub(crate) progress_written: Option<Tick>,
    /// Whether a lazy write is queued.
    pub(crate) lazy_queued: bool,
    /// Missing in the held index at the last comparison.
    pub(crate) suspect: bool,
}

impl Slot {
    fn new(tenant: TenantId, job_id: JobId, attempt: u32, session: SessionId) -> Self {
        Self {
            session,
            tenant,
            job_id,
            attempt,
            version: 0,
            loaded: None,
            started_at: None,
            progress: None,
            progress_written: None,
            lazy_queued: false,
            suspect: false,
        }
    }

    /// Whether the caller sees the job that the slot is used for.
    pub(crate) fn is_visible(&self, caller: &Caller) -> bool {
        let own = |loaded: &Loaded| loaded.job.principal_id == caller.principal_id;
        self.tenant == caller.tenant
            && (!caller.own_jobs_only() || self.loaded.as_ref().is_some_and(own))
    }

    /// Whether a worker that names `attempt` means this slot: nothing but an exact match counts.
    pub(crate) fn is(&self, attempt: &AttemptRef) -> bool {
        (self.attempt == attempt.attempt || self.attempt == 0)
            && self.job_id == attempt.job_id
            && self.tenant == attempt.tenant
    }
}

/// A session that ended with attempts out.
#[derive(Debug)]
struct LostSession {
    session: SessionId,
    since: Tick,
    /// Its attempts are given up no sooner, because that has just failed.
    again_at: Tick,
}

/// What a comparison of slots and held index has found, twice in a row.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Slots of connected workers that the index does not know; they are free now.
    pub(crate) stale: Vec<(SessionId, AttemptRef)>,
    /// Entries of connected workers that no slot stands for.
    pub(crate) unknown: Vec<HeldEntry>,
}

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
    /// Workers whose sessions ended with attempts out, as they were then: as long as those are lost
    /// sessions.
    pub(crate) departed: HashMap<SessionId, WorkerInfo>,
    lost: Vec<LostSession>,
    /// Attempts that were perhaps committed and surely not sent, and since when.
    unsent: HashMap<LeaseId, (HeldEntry, Tick)>,
    /// Held entries without a slot at the last comparison.
    suspect_entries: HashSet<(SessionId, LeaseId)>,
    tie: u64,
}

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

    /// From now on the attempts of a session wait for their worker.
    fn lose(&mut self, id: &SessionId, now: Tick) {
        if self.lost.iter().all(|lost| lost.session != *id) {
            self.lost.push(LostSession {
                session: id.clone(),
                since: now,
                again_at: now,
            });
        }
    }

    /// Attempts of sessions whose adoption window is over. They are named again a second later,
    /// until they are gone.
    pub(crate) fn lost_attempts(
        &mut self,
        replica: &ReplicaId,
        window: Duration,
        now: Tick,
    ) -> Vec<HeldEntry> {
        let over = |lost: &LostSession| now.since(lost.since) >= window && now >= lost.again_at;
        if !self.lost.iter().any(over) {
            return Vec::new();
        }
        let slots = &self.slots;
        let mut entries = Vec::new();
        self.lost.retain_mut(|lost| {
            if !over(lost) {
                return true;
            }
            lost.again_at = now + Duration::from_secs(1);
            let before = entries.len();
            let here = slots
                .iter()
                .filter(|(_, slot)| slot.session == lost.session);
            entries.extend(here.map(|(lease, slot)| HeldEntry {
                replica: replica.clone(),
                session: slot.session.clone(),
                tenant: slot.tenant.clone(),
                job_id: slot.job_id.clone(),
                lease_id: *lease,
            }));
            entries.len() > before
        });
        let waited_for: HashSet<_> = self.lost.iter().map(|lost| &lost.session).collect();
        self.departed.retain(|id, _| waited_for.contains(id));
        entries
    }

    /// Notes an attempt that nobody has seen: its commit may be applied, now or later.
    pub(crate) fn note_unsent(&mut self, entry: HeldEntry, now: Tick) {
        self.unsent.entry(entry.lease_id).or_insert((entry, now));
    }

    /// It has been given back.
    pub(crate) fn forget_unsent(&mut self, lease: LeaseId) {
        self.unsent.remove(&lease);
    }

    /// Attempts to be given back; those noted longer than `patience` ago are forgotten.
    pub(crate) fn unsent(&mut self, patience: Duration, now: Tick) -> Vec<HeldEntry> {
        self.unsent
            .retain(|_, (_, since)| now.since(*since) < patience);
        self.unsent
            .values()
            .map(|(entry, _)| entry.clone())
            .collect()
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

    /// Queues that a worker with a free slot serves and whose index should be read, and where.
    pub(crate) fn queues_to_read(&mut self, now: Tick) -> Vec<(Topic, Option<Vec<u8>>)> {
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
            if free {
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
    pub(crate) fn pick(&mut self, limit: usize) -> Vec<Picked> {
        if !self.sessions.values().any(SessionState::has_free_slot) {
            return Vec::new();
        }
        let mut heads: BinaryHeap<Head> = BinaryHeap::new();
        for (topic, queue) in &self.queues {
            for (name, group) in &queue.groups {
                if let Some(key) = group.keys.front() {
                    heads.push(Head {
                        key: key.clone(),
                        topic: topic.clone(),
                        group: name.clone(),
                    });
                }
            }
        }
        let mut picked = Vec::new();
        while picked.len() < limit
            && let Some(head) = heads.pop()
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

    /// A claim is over, whichever way.
    pub(crate) fn claimed(&mut self, tenant: &TenantId, id: &JobId) {
        self.claiming.remove(&(tenant.clone(), id.clone()));
    }

    /// Enters or refreshes a slot as a written job has it.
    pub(crate) fn put_slot(&mut self, told: &coretex_core::job::Slot, after: &Loaded) {
        let (lease, job) = (told.lease_id, &after.job);
        let slot = self.slots.entry(lease).or_insert_with(|| {
            let (tenant, id) = (job.tenant.clone(), job.id.clone());
            Slot::new(tenant, id, told.attempt, told.session.clone())
        });
        // Writes of one job may report out of order.
        if slot.version >= after.version {
            return;
        }
        slot.version = after.version;
        slot.attempt = told.attempt;
        slot.loaded = job.holds(lease).then(|| after.clone());
        slot.suspect = false;
        self.place_slot(lease, &told.session);
    }

    /// Puts a slot where its session is.
    fn place_slot(&mut self, lease: LeaseId, session: &SessionId) {
        if let Some(slot) = self.slots.get_mut(&lease)
            && slot.session != *session
        {
            let old = std::mem::replace(&mut slot.session, session.clone());
            if let Some(old) = self.sessions.get_mut(&old) {
                old.leases.remove(&lease);
            }
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.leases.insert(lease);
        }
    }

    /// Compares the slots with the members of the held index. What differs twice in a row is no
    /// commit under way: it is put right here, as far as memory goes.
    pub(crate) fn compare(&mut self, held: Vec<HeldEntry>, now: Tick) -> Found {
        let listed: HashSet<(SessionId, LeaseId)> = held
            .iter()
            .map(|entry| (entry.session.clone(), entry.lease_id))
            .collect();
        let mut found = Found::default();
        for (lease, slot) in &mut self.slots {
            if listed.contains(&(slot.session.clone(), *lease)) {
                slot.suspect = false;
            } else if slot.suspect {
                let attempt = AttemptRef {
                    tenant: slot.tenant.clone(),
                    job_id: slot.job_id.clone(),
                    attempt: slot.attempt,
                    lease_id: *lease,
                };
                found.stale.push((slot.session.clone(), attempt));
            } else {
                slot.suspect = true;
            }
        }
        for (_, attempt) in &found.stale {
            self.remove_slot(attempt.lease_id);
        }
        let mut suspects = HashSet::new();
        for entry in held {
            let slot = self.slots.get(&entry.lease_id);
            let known = slot.is_some_and(|slot| slot.session == entry.session);
            // A commit that is long under way: it, or the adoption, will say.
            let opening = self
                .sessions
                .get(&entry.session)
                .is_some_and(|one| !one.open);
            if known || opening || self.dispatching.contains(&entry.lease_id) {
                continue;
            }
            let name = (entry.session.clone(), entry.lease_id);
            if !self.suspect_entries.contains(&name) {
                suspects.insert(name);
            } else if self.sessions.contains_key(&entry.session) {
                found.unknown.push(entry);
            } else {
                // Of a session that has ended, and its worker may come back.
                let slot = Slot::new(entry.tenant, entry.job_id, 0, entry.session.clone());
                self.slots.entry(entry.lease_id).or_insert(slot);
                self.place_slot(entry.lease_id, &entry.session);
            }
        }
        self.suspect_entries = suspects;
        // Nobody else gives up the attempts of sessions that are not there any more.
        let orphaned: HashSet<SessionId> = self
            .slots
            .values()
            .filter(|slot| !self.sessions.contains_key(&slot.session))
            .map(|slot| slot.session.clone())
            .collect();
        for session in orphaned {
            self.lose(&session, now);
        }
        found
    }

    /// Frees a slot; true when a connected worker has one more free now.
    pub(crate) fn remove_slot(&mut self, lease: LeaseId) -> bool {
        let Some(slot) = self.slots.remove(&lease) else {
            return false;
        };
        self.sessions
            .get_mut(&slot.session)
            .is_some_and(|session| session.leases.remove(&lease))
    }

    /// As [`Self::remove_slot`], if the slot is one of this session.
    pub(crate) fn remove_slot_at(&mut self, lease: LeaseId, session: &SessionId) -> bool {
        let here = self.slots.get(&lease);
        here.is_some_and(|slot| slot.session == *session) && self.remove_slot(lease)
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
    group: (TenantId, coretex_core::placement::Shape),
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
