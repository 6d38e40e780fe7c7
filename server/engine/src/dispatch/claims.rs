//! The claim loop: reads queues and commits claims for free slots.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use coretex_core::id::Topic;
use coretex_core::job::Job;
use coretex_core::job::transition::{Trigger, apply};
use coretex_core::queue::{REREAD_EVERY, ReadyKey, after_class, class_prefix};
use coretex_store::{CommitError, Order, Range, prefix_end};
use futures::StreamExt;
use tokio::time::Instant;

use super::Reservation;
use super::queue::{Group, GroupName, Groups, MAX_GROUPS, READ_AHEAD, group_of};
use super::state::pick::{Picked, Skip};
use super::state::sample_of;
use crate::commits::{Extras, Loaded};
use crate::engine::Engine;
use crate::keyspace::HeldEntry;
use crate::{Error, Result, keyspace, limits, telemetry};

/// The most claims of one round: as many as the store commits in one group.
const BLOCK: usize = 128;
/// What a read of a queue finds of a group: its first keys, and whether there are more.
type Read = BTreeMap<GroupName, (VecDeque<ReadyKey>, bool)>;

impl Engine {
    /// Serves the queues until the engine stops.
    pub(crate) async fn run_claims(self) {
        let mut reread = tokio::time::interval(REREAD_EVERY);
        reread.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut all = false;
            tokio::select! {
                biased;
                _ = reread.tick() => {
                    self.dispatcher().lock().look_again(self.tick());
                    all = self.has_peers();
                }
                () = self.dispatcher().woken() => {}
            }
            loop {
                self.rest().await;
                if !self.claim_round(all).await {
                    break;
                }
                all = false;
            }
        }
    }

    /// Waits while claims rest: a store that refuses every write, or a policy that this replica
    /// does not have yet, would be asked without end, because each refused claim frees its slot.
    async fn rest(&self) {
        let until = self.dispatcher().lock().claims_rest_until;
        let rest = until.since(self.tick());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }

    fn claim_refused(&self) {
        let now = self.tick();
        self.dispatcher().lock().claim_refused(now);
    }

    /// One round; true when there may be more to do at once.
    async fn claim_round(&self, all: bool) -> bool {
        let topics = self.dispatcher().lock().queues_to_read(all, self.tick());
        for (topic, from) in &topics {
            let found = match self.read_queue(topic, from.as_deref()).await {
                Ok(found) => Some(found),
                Err(error) => {
                    tracing::warn!(%error, %topic, "queue not read; trying again within a second");
                    None
                }
            };
            self.dispatcher().lock().finish_read(topic, found);
        }
        let skip = Skip {
            replicas: self.replica_count(),
            share: self.ids().fraction(),
        };
        let picked = if self.may_take_work() {
            let now = self.now();
            self.dispatcher().lock().pick(BLOCK, skip, now)
        } else {
            Vec::new()
        };
        if picked.is_empty() {
            return self.dispatcher().lock().read_on();
        }
        let names: Vec<_> = picked
            .iter()
            .map(|one| (one.key.tenant.clone(), one.key.job_id.clone()))
            .collect();
        let loaded = match self.load_readable(&names).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "waiting jobs not read");
                self.claim_refused();
                names.iter().map(|_| None).collect()
            }
        };
        for (picked, loaded) in picked.into_iter().zip(loaded) {
            let Picked {
                key,
                topic,
                session,
                worker_id,
                pool,
                slots,
            } = picked;
            let reservation = Reservation::new(self, session, worker_id, pool, slots);
            let engine = self.clone();
            self.spawn_work(async move {
                let mut limited = false;
                let loaded = loaded.filter(|loaded| loaded.job.is_ready());
                let ready = loaded.is_some();
                if let Some(loaded) = loaded {
                    limited = engine.claim(loaded, reservation).await;
                }
                let mut state = engine.dispatcher().lock();
                state.claimed(&key.tenant, &key.job_id);
                if !ready {
                    let name = (key.tenant.clone(), key.job_id.clone());
                    state.not_ready.insert(name);
                }
                if limited {
                    state.wait_on(&topic, key);
                }
            });
        }
        true
    }

    /// Commits one claim and hands the job out. A lost one is dropped: somebody else has changed
    /// the job, and if it still waits, the next read finds it. True when a limit was met, so that
    /// the job waits on.
    async fn claim(&self, loaded: Loaded, mut reservation: Reservation) -> bool {
        if !reservation.weigh(&loaded.job) {
            self.dispatcher().lock().put_back(&loaded.job.spec.topic);
            return false;
        }
        let config = match self.config_of(&loaded.job.tenant, &loaded.job.spec).await {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!(%error, job_id = %loaded.job.id, "configuration not read; the job waits");
                let name = (loaded.job.tenant.clone(), loaded.job.id.clone());
                // Until the next look, a second from now.
                self.dispatcher().lock().not_ready.insert(name);
                return false;
            }
        };
        let (now, sent) = (self.now(), self.tick());
        let (mut snapshot, routing) = (Some(self.kernel().snapshot()), self.routing());
        let mut job = loaded.job.as_ref().clone();
        // A throttled job whose time has come is judged again, too.
        let current = match &snapshot {
            Some(snapshot) => self.is_current(&job, snapshot).await,
            None => false,
        };
        if !current {
            let ruling = self.rule_again(&job, now, None).await;
            if !ruling.rates.is_empty() {
                self.leave_queue(loaded).await;
                return false;
            }
            snapshot.clone_from(&ruling.snapshot);
            let trigger = ruling.trigger();
            match apply(&job, trigger, now) {
                Ok(transition) => job = transition.job,
                Err(refusal) => {
                    tracing::error!(%refusal, job_id = %job.id, "verdict not applied");
                    self.claim_refused();
                    return false;
                }
            }
        }
        let dispatched = if job.is_ready() {
            match apply(&job, reservation.trigger(&job, &routing), now) {
                Ok(transition) => transition.job,
                Err(refusal) => {
                    tracing::error!(%refusal, job_id = %job.id, "claim not applied");
                    self.claim_refused();
                    return false;
                }
            }
        } else {
            job
        };
        let (spec, tenant) = (Arc::clone(&dispatched.spec), dispatched.tenant.clone());
        let entry = HeldEntry::of_lease(&dispatched);
        let limits = match &entry {
            Some(_) => limits::to_run(&routing, &spec, &tenant),
            None => Vec::new(),
        };
        let extras = Extras {
            snapshot,
            limits,
            ..Extras::default()
        };
        let running = dispatched.lease.as_ref();
        let key = running.map_or_else(String::new, |lease| lease.concurrency_key.clone());
        let written = self.write(Some(&loaded), dispatched, extras).await;
        // Before the slot is free again, which makes the claim loop look.
        match &written {
            Ok(after) => {
                let mut state = self.dispatcher().lock();
                state.claim_accepted();
                if after.job.lease.is_some() {
                    state.gates.passed(&tenant, &key);
                }
            }
            Err(CommitError::Conflict { .. }) => {
                self.dispatcher().lock().gates.left(&tenant, &key);
            }
            Err(CommitError::LimitReached(limit)) => {
                self.limit_met(&spec, &tenant, &limits::met(&tenant, limit));
            }
            Err(_) => self.claim_refused(),
        }
        match written {
            Ok(after) if after.job.lease.is_some() => match self.join_payloads(&after.job).await {
                Ok(whole) => {
                    self.hand_out(&after, whole, config, reservation, sent)
                        .await;
                }
                Err(error) => {
                    tracing::error!(%error, job_id = %after.job.id, "input not readable");
                    self.fail_unreadable(&after).await;
                }
            },
            // The verdict under the new snapshot was not to run it.
            Ok(_) => {}
            Err(CommitError::PointerMoved { .. }) => {
                telemetry::claim_lost();
                self.policy_moved(0).await;
            }
            Err(CommitError::Conflict { .. }) => telemetry::claim_lost(),
            Err(CommitError::LimitReached(_)) => {
                telemetry::claim_limited();
                return true;
            }
            Err(error) => {
                tracing::warn!(%error, job_id = %loaded.job.id, "claim not committed");
                self.perhaps_committed(&error, entry);
            }
        }
        false
    }

    /// A waiting job has to take from a rate first: it is judged on its own, and waits in the line
    /// of the rate if that has nothing left.
    async fn leave_queue(&self, loaded: Loaded) {
        let job_id = loaded.job.id.clone();
        let before = loaded.job.decision.clone();
        let waits = |job: &Job, _| job.is_ready() && job.decision == before;
        match self.judge_again(loaded, waits).await {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, %job_id, "waiting job not judged again yet");
                self.claim_refused();
            }
        }
    }

    /// Reads the heads of a queue: skips from group to group, so that groups that nobody can serve
    /// cost one step each and not one a job.
    /// Begins at `from` if there is one; also says where the next part begins.
    async fn read_queue(
        &self,
        topic: &Topic,
        from: Option<&[u8]>,
    ) -> Result<(Groups, Option<Vec<u8>>)> {
        let prefix = keyspace::queue_prefix(topic);
        let end = prefix_end(&prefix).map(Into::into);
        let mut start = from.unwrap_or(&prefix).to_vec();
        let mut groups = Read::new();
        let mut next = None;
        loop {
            let range = Range {
                index: keyspace::READY,
                start: start.clone().into(),
                end: end.clone(),
            };
            let asked = Instant::now();
            let read = self
                .store()
                .range(self.shard(), &[range], READ_AHEAD, Order::Ascending)
                .await?;
            self.observe(asked, read.time);
            let members = read.value.into_iter().next().unwrap_or_default();
            let full = members.len() == READ_AHEAD;
            let mut last = None;
            for member in &members {
                let Some((_, key)) = keyspace::parse_ready(member) else {
                    tracing::error!("malformed member in the ready index");
                    telemetry::bug("ready_member");
                    continue;
                };
                let name = group_of(&key);
                last = Some(name.clone());
                groups.entry(name).or_default().0.push_back(key);
            }
            let Some(last) = last.filter(|_| full) else {
                break;
            };
            if let Some(group) = groups.get_mut(&last) {
                group.1 = true;
            }
            start = [prefix.as_slice(), &after_class(&last.0, last.1, last.2)].concat();
            if groups.len() >= MAX_GROUPS {
                next = Some(start);
                break;
            }
        }
        self.top_up(topic, &mut groups).await?;
        self.with_samples(groups).await.map(|groups| (groups, next))
    }

    /// A group whose first keys ended a page has only the rest of that page; reads it anew, full.
    async fn top_up(&self, topic: &Topic, groups: &mut Read) -> Result<()> {
        let short: Vec<_> = groups
            .iter()
            .filter(|(_, (keys, more))| *more && keys.len() < READ_AHEAD)
            .map(|(name, _)| name.clone())
            .collect();
        for name in short {
            let group = class_prefix(&name.0, name.1, name.2);
            let prefix = [keyspace::queue_prefix(topic), group].concat();
            let range = Range::prefix(keyspace::READY, &prefix);
            let read = self
                .store()
                .range(self.shard(), &[range], READ_AHEAD, Order::Ascending)
                .await?;
            let members = read.value.into_iter().next().unwrap_or_default();
            let more = members.len() == READ_AHEAD;
            let keys = members
                .iter()
                .filter_map(|member| keyspace::parse_ready(member).map(|(_, key)| key))
                .collect();
            groups.insert(name, (keys, more));
        }
        Ok(())
    }

    /// Gives each group a job that stands for it; a group whose jobs have all gone is dropped.
    async fn with_samples(&self, groups: Read) -> Result<Groups> {
        let names: Vec<_> = groups
            .values()
            .filter_map(|(keys, _)| keys.front())
            .map(|key| (key.tenant.clone(), key.job_id.clone()))
            .collect();
        let mut samples = self.load_readable(&names).await?.into_iter();
        let mut found = Groups::new();
        for (name, (mut keys, more)) in groups {
            if keys.is_empty() {
                continue;
            }
            let mut sample = samples.next().flatten();
            while sample.is_none() {
                // The first has been deleted since; try the next.
                keys.pop_front();
                let Some(key) = keys.front() else { break };
                sample = match self.load(&key.tenant, &key.job_id).await {
                    Ok(loaded) => Some(loaded),
                    Err(Error::NotFound { .. } | Error::DataLoss { .. }) => None,
                    Err(error) => return Err(error),
                };
            }
            if let Some(loaded) = sample {
                found.insert(
                    name,
                    Group {
                        keys,
                        more,
                        sample: sample_of(&loaded.job),
                        suited: None,
                    },
                );
            }
        }
        Ok(found)
    }

    /// Ends a job whose stored input cannot be read: no worker will ever get it.
    async fn fail_unreadable(&self, after: &Loaded) {
        let Some(lease_id) = after.job.lease.as_ref().map(|lease| lease.slot.lease_id) else {
            return;
        };
        let error = coretex_core::job::JobError::platform(
            "input_unreadable",
            "the stored input of the job is damaged",
        );
        let outcome = coretex_core::job::transition::Outcome::Failed { error };
        let changed = self
            .change(
                &after.job.tenant,
                &after.job.id,
                Some(after.clone()),
                |job, now| {
                    let trigger = Trigger::Finished {
                        lease_id,
                        outcome: outcome.clone(),
                        artifact_ids: Vec::new(),
                        started_at: None,
                        fraction: 0.0,
                    };
                    apply(job, trigger, now)
                },
            )
            .await;
        if let Err(error) = changed {
            tracing::error!(%error, job_id = %after.job.id, "job with unreadable input not ended");
        }
    }

    /// Listens to the other replicas' doorbells.
    pub(crate) async fn run_doorbells(self) {
        loop {
            match self
                .bus()
                .subscribe(coretex_bus::subject::READY_ALL, None)
                .await
            {
                Ok(mut subscription) => {
                    while let Some(message) = subscription.next().await {
                        if message.payload.as_ref() == self.replica().as_bytes() {
                            continue;
                        }
                        let Some(queue) = coretex_bus::subject::queue_of(&message.subject) else {
                            continue;
                        };
                        self.queue_rang(&queue);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "doorbells not heard; queues are read every second")
                }
            }
            tokio::time::sleep(REREAD_EVERY).await;
        }
    }

    fn queue_rang(&self, topic: &str) {
        let mut state = self.dispatcher().lock();
        if let Some(queue) = state.queues.get_mut(&Topic::from_trusted(topic)) {
            queue.guard.added();
            queue.stale = true;
            drop(state);
            self.dispatcher().wake();
        }
    }

    /// Runs changes of many jobs, a bounded number at a time.
    pub(crate) async fn for_each_bounded<T, F>(&self, items: Vec<T>, work: impl Fn(T) -> F)
    where
        F: Future<Output = ()>,
    {
        futures::stream::iter(items.into_iter().map(work))
            .buffer_unordered(BLOCK)
            .collect::<()>()
            .await;
    }
}
