//! The view behind the dispatcher's lock: sessions, their slots, and the queues they serve.
//!
//! Here: the view as a whole. [`reserve`] takes slots for a job, [`pick`] chooses jobs for free slots,
//! [`gates`] are the limits that were met, [`session`] is one connected worker, [`slots`] what is in use, and what
//! becomes of it when its session ends.

pub(crate) mod gates;
pub(crate) mod pick;
mod reserve;
pub(crate) mod session;
pub(crate) mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::Job;
use coretex_core::lease::Tick;
use coretex_core::pause::Pauses;
use coretex_core::placement::{Needs, WorkerView, suits};
use coretex_core::queue::ReadyKey;
use coretex_core::routing::Routing;

use super::queue::{Groups, Queue, group_of};
use crate::keyspace::HeldEntry;
use crate::types::WorkerInfo;
use gates::{Gate, Gates};
use pick::Fairness;
use session::SessionState;
use slots::{LostSession, Slot};

/// How long claims rest when one was refused and the one before was not.
const FIRST_REST: Duration = Duration::from_millis(10);
/// How long they rest at most.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Groups of jobs for which room is made in one go.
const MAX_REPLACING: usize = 64;

/// The view.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sessions: BTreeMap<SessionId, SessionState>,
    by_topic: HashMap<Topic, BTreeSet<SessionId>>,
    pub(crate) queues: BTreeMap<Topic, Queue>,
    pub(crate) slots: BTreeMap<LeaseId, Slot>,
    /// Leases of dispatches whose commits are under way.
    pub(crate) dispatching: HashSet<LeaseId>,
    /// Jobs whose claim is being committed.
    claiming: HashSet<(TenantId, JobId)>,
    /// Jobs that stood in a queue and were not ready when their records were read. They are not
    /// picked again before the next look: an entry that does not go would be read without end.
    pub(crate) not_ready: BTreeSet<(TenantId, JobId)>,
    /// Workers that an operator drained, by name, also while they are away.
    pub(crate) drained: HashSet<(TenantId, WorkerId)>,
    /// How often a worker was drained or undrained.
    pub(crate) drains: u64,
    /// Workers whose sessions ended with attempts out, as they were then: as long as those are lost
    /// sessions.
    pub(crate) departed: BTreeMap<SessionId, WorkerInfo>,
    lost: Vec<LostSession>,
    /// Attempts that were perhaps committed and surely not sent, and since when.
    unsent: BTreeMap<LeaseId, (HeldEntry, Tick)>,
    /// How often in a row claims were refused at once, and until when they rest for it.
    refusals: u32,
    pub(crate) claims_rest_until: Tick,
    /// Held entries without a slot at the last comparison.
    suspect_entries: BTreeSet<(SessionId, LeaseId)>,
    tie: u64,
    /// The last worker that the choice before looked at, where it did not look at all.
    looked_at: Option<SessionId>,
    /// The tables in force.
    pub(crate) routing: Arc<Routing>,
    /// What is paused.
    pub(crate) pauses: Arc<Pauses>,
    /// How often pauses were changed by this replica.
    pub(crate) pause_changes: u64,
    /// Limits that were met.
    pub(crate) gates: Gates,
    fairness: Fairness,
    /// How long a job waits until it rises one class; zero = none rises.
    pub(crate) rise_after: Duration,
    /// Grows with everything by which a worker may suit a job that it did not suit before.
    fleet: u64,
}

impl State {
    /// What suits whom may have changed: nothing is known to be unsuited any more, and no queue to
    /// hold nothing that could be run.
    pub(crate) fn fleet_changed(&mut self) {
        self.fleet = self.fleet.wrapping_add(1);
        for queue in self.queues.values_mut() {
            queue.guard.added();
            queue.stale = true;
        }
    }

    /// The same for what one worker serves: it has come, or can take more than before.
    pub(crate) fn worker_changed(&mut self, session: &SessionId) {
        self.fleet = self.fleet.wrapping_add(1);
        let Some(session) = self.sessions.get(session) else {
            return;
        };
        for topic in &session.topics {
            if let Some(queue) = self.queues.get_mut(topic) {
                queue.guard.added();
                queue.stale = true;
            }
        }
    }

    /// Takes over what a read of a queue found, or that it failed.
    pub(crate) fn finish_read(&mut self, topic: &Topic, found: Option<(Groups, Option<Vec<u8>>)>) {
        let Some(mut queue) = self.queues.remove(topic) else {
            return;
        };
        let failed = found.is_none();
        queue.finish_read(found, self.fleet, |job| self.is_suited(job));
        // The next tick asks again; without this a failing store would be asked at once.
        queue.stale &= !failed;
        self.queues.insert(topic.clone(), queue);
    }

    /// Whether a worker of this replica could run a job, were it idle.
    fn is_suited(&self, job: &Job) -> bool {
        let needs = Needs::of(job).under(&self.routing, &self.pauses);
        self.serving(&job.spec.topic)
            .any(|(id, session)| suits(&needs, &self.view(id, session)).is_ok())
    }

    /// A connected worker as placement sees it.
    pub(crate) fn view<'a>(
        &'a self,
        id: &'a SessionId,
        session: &'a SessionState,
    ) -> WorkerView<'a> {
        session.view(id, self.routing.pool(&session.pool))
    }

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

    /// A job is about to become ready. True when that counts, and has to be told to
    /// [`Self::end_add`]: one that no worker here could run holds up no newcomer.
    pub(crate) fn begin_add(&mut self, key: &ReadyKey, topic: &Topic) -> bool {
        let fleet = self.fleet;
        match self.queues.get_mut(topic) {
            Some(queue) if !queue.is_unsuited(&group_of(key), fleet) => {
                queue.guard.begin_add();
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends an add; `added` is what became ready, if the commit was acknowledged. True when a
    /// worker of this replica serves the queue.
    pub(crate) fn end_add(
        &mut self,
        topic: &Topic,
        added: Option<(ReadyKey, &Job)>,
        counts: bool,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(topic) else {
            return false;
        };
        if counts {
            queue.guard.end_add();
        }
        match added {
            Some((key, job)) => {
                self.not_ready
                    .remove(&(key.tenant.clone(), key.job_id.clone()));
                let sample = if queue.needs_sample(&key) {
                    sample_of(job)
                } else {
                    // Not used: the group has one.
                    match queue.groups.get(&group_of(&key)) {
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

    /// The first jobs of groups that have found their concurrency key full.
    pub(crate) fn waiting_at_keys(&self) -> Vec<(TenantId, JobId)> {
        let groups = self.queues.values().flat_map(|queue| queue.groups.values());
        let full = groups.filter(|group| {
            let sample = &group.sample;
            let running = self.routing.concurrency(&sample.spec, &sample.tenant);
            running.is_some_and(|running| {
                let gate = Gate::Key(sample.tenant.clone(), running.key.to_owned());
                self.gates.is_met(&gate)
            })
        });
        full.filter_map(|group| group.keys.front())
            .take(MAX_REPLACING)
            .map(|key| (key.tenant.clone(), key.job_id.clone()))
            .collect()
    }

    /// A picked job was not claimed and waits on: its queue is read again.
    pub(crate) fn put_back(&mut self, topic: &Topic) {
        if let Some(queue) = self.queues.get_mut(topic) {
            queue.stale = true;
        }
    }

    /// A picked job met a limit and waits on, where it was.
    pub(crate) fn wait_on(&mut self, topic: &Topic, key: ReadyKey) {
        let Some(queue) = self.queues.get_mut(topic) else {
            return;
        };
        match queue.groups.get_mut(&group_of(&key)) {
            Some(group) => group.insert(key),
            None => queue.stale = true,
        }
    }

    /// Asks for a read of every queue, and for one more try at limits that were met: the bound on
    /// what a lost doorbell can cost.
    pub(crate) fn look_again(&mut self, now: Tick) {
        self.gates.try_again(now);
        self.not_ready.clear();
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
        self.fleet_changed();
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
        if freed {
            self.fleet_changed();
        }
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
