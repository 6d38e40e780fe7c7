//! The invariants. Everything here looks on from outside and knows what no replica knows.
//!
//! Here are those about single events, [`look`] has those about states that may not last.

mod look;

use std::collections::{BTreeMap, BTreeSet};

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId};
use coretex_core::job::history::AttemptEnd;
use coretex_core::job::{Job, JobState};
use coretex_core::lease::{ADOPTION_WINDOW, ASSIGNMENT_VALID, Claim, REPLICA_LEASE};
use coretex_core::placement::{Needs, Tenants, WorkerView, suits};
use coretex_core::queue::EMPTY_FOR;

use super::replica::{Replica, Session};
use super::store::{Applied, Store, entries, needs, ready_key};
use super::wire::{Entry, MILLI, Micros, SECOND, Why, micros};
use super::worker::{Worker, WorkerSpec};

/// How often the level-triggered invariants are looked at.
pub(super) const CHECK_EVERY: Micros = 100 * MILLI;
/// No job waits longer beside a free slot.
const IDLE_BOUND: Micros = SECOND;
/// What two looks may miss.
const GRAIN: Micros = 2 * CHECK_EVERY;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(text())) }
}

/// A session whose replica, worker, stream and store are all well, and have been for a while.
#[derive(Debug)]
pub(super) struct Healthy<'a> {
    pub(super) replica: &'a Replica,
    pub(super) id: &'a SessionId,
    pub(super) session: &'a Session,
    pub(super) worker: &'a Worker,
}

/// Since when a job stands in the ready index.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Micros,
    /// The replica that put it there, and when it learnt that.
    by: usize,
    answered: Option<Micros>,
}

/// What went on in a run, for the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that clients know to be accepted.
    pub accepted: u64,
    /// Attempts that workers began.
    pub attempts: u64,
    /// Jobs handed out at once.
    pub fast: u64,
    /// Jobs handed out from a queue.
    pub claimed: u64,
    /// Attempts lost with a worker or replica.
    pub lost: u64,
    /// Jobs that a rewind of the store took back.
    pub rewound: u64,
    /// The longest that a job waited beside a free slot, in microseconds.
    pub longest_idle: u64,
    /// The longest that a job was handed out while no worker had it, in microseconds.
    pub longest_limbo: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) stats: Stats,
    entry_count: usize,
    /// The one lease of every (job, attempt) in this timeline.
    leases: BTreeMap<(JobId, u32), LeaseId>,
    /// Every lease that any commit of any timeline made.
    committed: BTreeSet<LeaseId>,
    begun: BTreeSet<LeaseId>,
    results: BTreeSet<LeaseId>,
    accepted: BTreeSet<JobId>,
    /// Taken back by a rewind.
    rewound: BTreeSet<JobId>,
    last_rewind: Option<Micros>,
    waiting: BTreeMap<JobId, Waiting>,
    idle: BTreeMap<(JobId, SessionId), Micros>,
    drift: BTreeMap<(SessionId, LeaseId, &'static str), Micros>,
    /// When a worker was last seen well with an attempt.
    hosted: BTreeMap<LeaseId, Micros>,
    limbo: BTreeMap<LeaseId, Micros>,
}

/// A worker as placement sees it, idle.
fn idle_view<'a>(spec: &'a WorkerSpec, session: &'a SessionId) -> WorkerView<'a> {
    static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
    WorkerView {
        worker_id: &spec.id,
        session,
        pool: &spec.pool,
        topics: &spec.topics,
        any_topic: false,
        capabilities: &spec.capabilities,
        labels: &NO_LABELS,
        max_parallel: spec.max_parallel,
        active: 0,
        cpu_load: 0.0,
        gpu_utilization: 0.0,
        draining: false,
        tenants_served: Tenants::All,
        rule: None,
    }
}

impl Checks {
    /// A commit changed a job. `calm`: store and replica have been well for a while.
    pub(super) fn applied(
        &mut self,
        applied: &Applied,
        store: &Store,
        replicas: &[Option<&Replica>],
        calm: bool,
        now: Micros,
    ) -> Result<(), Broken> {
        let commit = &applied.commit;
        let (before, after) = (applied.before.as_deref(), &*commit.job);
        self.entry_count += entries(after).len();
        self.entry_count -= before.map_or(0, |job| entries(job).len());
        ensure(
            store.entry_count() == self.entry_count && store.holds_entries_of(after),
            || {
                format!(
                    "the index entries of {} are not those of its record",
                    after.id
                )
            },
        )?;
        if let Some(before) = before {
            ensure(
                !before.state.is_terminal() || before.state == after.state,
                || {
                    format!(
                        "{} was {:?} and became {:?}",
                        after.id, before.state, after.state
                    )
                },
            )?;
        }
        if let Some(lease) = &after.lease {
            let slot = &lease.slot;
            let first = *self
                .leases
                .entry((after.id.clone(), slot.attempt))
                .or_insert(slot.lease_id);
            ensure(first == slot.lease_id, || {
                format!("attempt {} of {} has two leases", slot.attempt, after.id)
            })?;
            self.committed.insert(slot.lease_id);
        }
        match &commit.why {
            Why::Submit | Why::Other => {}
            Why::Claim => self.stats.claimed += 1,
            Why::Fast(session) => {
                self.stats.fast += 1;
                let replica = replicas.get(commit.replica).copied().flatten();
                if let Some(replica) = replica {
                    self.newcomer(after, replica, session, store, calm, commit.decided)?;
                }
            }
            Why::Result(lease) => self.result(before, after, *lease)?,
            Why::Lost(lease) => self.lost(before, after, *lease, commit.decided)?,
        }
        let becomes_ready = commit
            .add
            .iter()
            .any(|entry| matches!(entry, Entry::Ready(..)));
        if becomes_ready {
            let waiting = Waiting {
                since: now,
                by: commit.replica,
                answered: None,
            };
            self.waiting.insert(after.id.clone(), waiting);
        } else if !after.is_ready() {
            self.waiting.remove(&after.id);
        }
        Ok(())
    }

    fn result(&mut self, before: Option<&Job>, after: &Job, lease: LeaseId) -> Result<(), Broken> {
        let Some(current) = before.and_then(|job| job.lease.as_ref()) else {
            return Ok(());
        };
        if after.lease.is_none() {
            ensure(current.slot.lease_id == lease, || {
                format!(
                    "a result of lease {lease} was applied to another lease of {}",
                    after.id
                )
            })?;
            let end = after.attempts.last().and_then(|attempt| attempt.end);
            if matches!(end, Some(AttemptEnd::Succeeded | AttemptEnd::Failed)) {
                self.results.insert(lease);
            }
        }
        Ok(())
    }

    /// An attempt was declared lost: its worker must have been out of reach for the whole window.
    fn lost(
        &mut self,
        before: Option<&Job>,
        after: &Job,
        lease: LeaseId,
        decided: Micros,
    ) -> Result<(), Broken> {
        if !before.is_some_and(|job| job.holds(lease)) {
            return Ok(());
        }
        self.stats.lost += 1;
        let rewound = self
            .last_rewind
            .is_some_and(|at| decided < at + 60 * SECOND);
        let Some(hosted) = self.hosted.get(&lease) else {
            return Ok(());
        };
        let window = micros(ADOPTION_WINDOW) - GRAIN;
        ensure(rewound || decided.saturating_sub(*hosted) >= window, || {
            format!(
                "an attempt of {} was taken away {} ms after its worker was last well with it",
                after.id,
                decided.saturating_sub(*hosted) / MILLI
            )
        })
    }

    /// A new job took a slot at once: nobody whom the slot suits may have waited for it.
    fn newcomer(
        &self,
        job: &Job,
        replica: &Replica,
        session: &SessionId,
        store: &Store,
        calm: bool,
        decided: Micros,
    ) -> Result<(), Broken> {
        // What other replicas queued is known after the next regular read. A replica that could not
        // read believes its last one a little longer.
        let bound = if calm { IDLE_BOUND } else { micros(EMPTY_FOR) };
        let Some(spec) = replica.sessions.get(session).map(|session| &session.spec) else {
            return Ok(());
        };
        let new = ready_key(job);
        for key in store.ready() {
            let (Some(waiting), Some(other)) =
                (self.waiting.get(&key.job_id), store.job(&key.job_id))
            else {
                continue;
            };
            let for_this_slot = suits(&needs(other), &idle_view(spec, session)).is_ok();
            if !for_this_slot || key.serving_order(&new).is_gt() {
                continue;
            }
            let own = waiting.by == replica.idx
                && waiting.answered.is_some_and(|answered| answered <= decided);
            ensure(!own, || {
                format!(
                    "{} passed {} in the queue of the same replica",
                    job.id, other.id
                )
            })?;
            let waited = decided.saturating_sub(waiting.since);
            ensure(waited <= bound, || {
                format!(
                    "{} passed {}, which had waited {} ms",
                    job.id,
                    other.id,
                    waited / MILLI
                )
            })?;
        }
        Ok(())
    }

    /// The replica learnt that its commit queued the job.
    pub(super) fn queued(&mut self, job: &JobId, replica: usize, now: Micros) {
        if let Some(waiting) = self.waiting.get_mut(job)
            && waiting.by == replica
        {
            waiting.answered.get_or_insert(now);
        }
    }

    /// A worker begins an attempt.
    pub(super) fn begins(
        &mut self,
        worker: &Worker,
        spec: &WorkerSpec,
        job: &JobId,
        claim: Claim,
        committed: Micros,
        now: Micros,
    ) -> Result<(), Broken> {
        self.stats.attempts += 1;
        ensure(self.committed.contains(&claim.lease_id), || {
            format!("a worker runs {job} under a lease that was never committed")
        })?;
        ensure(self.begun.insert(claim.lease_id), || {
            format!("lease {} of {job} runs twice", claim.lease_id)
        })?;
        ensure(worker.runs.len() <= spec.max_parallel as usize, || {
            format!(
                "{} has {} of {} slots in use",
                spec.id,
                worker.runs.len(),
                spec.max_parallel
            )
        })?;
        let age = now - committed;
        ensure(age <= micros(ASSIGNMENT_VALID) + 500 * MILLI, || {
            format!("{job} was assigned {} ms after its commit", age / MILLI)
        })
    }

    pub(super) fn acknowledged(&self, lease: LeaseId, applied: bool) -> Result<(), Broken> {
        ensure(applied || !self.results.contains(&lease), || {
            format!("the applied result of lease {lease} was answered as late")
        })
    }

    /// A worker is told that an attempt is not its own any more.
    pub(super) fn revoked(
        &self,
        job: &JobId,
        lease: LeaseId,
        store: &Store,
        now: Micros,
    ) -> Result<(), Broken> {
        let rewound = self.last_rewind.is_some_and(|at| now < at + 60 * SECOND);
        let current = store.job(job).is_some_and(|job| job.holds(lease));
        ensure(rewound || !current, || {
            format!("the current attempt of {job} was revoked")
        })
    }

    /// A replica's lease was deleted. `well_since`: since when nothing has been wrong with it.
    pub(super) fn declared_dead(
        &self,
        replica: &ReplicaId,
        well_since: Option<Micros>,
        now: Micros,
    ) -> Result<(), Broken> {
        let well = well_since.is_some_and(|since| now > since + micros(REPLICA_LEASE));
        ensure(!well, || {
            format!("{replica} was declared dead and was well")
        })
    }

    /// A client heard that its job is accepted.
    pub(super) fn accepted(&mut self, job: &JobId, store: &Store) -> Result<(), Broken> {
        ensure(
            store.job(job).is_some() || self.rewound.contains(job),
            || format!("{job} was accepted and does not exist"),
        )?;
        if self.accepted.insert(job.clone()) {
            self.stats.accepted += 1;
        }
        Ok(())
    }

    /// The store goes back in time.
    pub(super) fn rewinds(&mut self, before: &Store, now: Micros) -> BTreeSet<JobId> {
        self.last_rewind = Some(now);
        self.idle.clear();
        self.drift.clear();
        before.jobs().map(|job| job.id.clone()).collect()
    }

    pub(super) fn rewinded(&mut self, had: BTreeSet<JobId>, after: &Store, now: Micros) {
        let gone = had.into_iter().filter(|id| after.job(id).is_none());
        let known = self.rewound.len();
        self.rewound.extend(gone);
        self.stats.rewound += (self.rewound.len() - known) as u64;
        self.leases.clear();
        self.waiting.clear();
        self.results.clear();
        self.entry_count = 0;
        for job in after.jobs() {
            self.entry_count += entries(job).len();
            for attempt in job.attempts.iter() {
                self.leases
                    .insert((job.id.clone(), attempt.attempt), attempt.lease_id);
                if matches!(
                    attempt.end,
                    Some(AttemptEnd::Succeeded | AttemptEnd::Failed)
                ) {
                    self.results.insert(attempt.lease_id);
                }
            }
            if job.is_ready() {
                let waiting = Waiting {
                    since: now,
                    by: usize::MAX,
                    answered: None,
                };
                self.waiting.insert(job.id.clone(), waiting);
            }
        }
    }

    /// Whether everything that can end has ended.
    pub(super) fn is_settled(store: &Store, can_run: impl Fn(&Needs<'_>) -> bool) -> bool {
        store.held(&[]).is_empty()
            && store.jobs().all(|job| {
                job.state.is_terminal() || job.state == JobState::Pending && !can_run(&needs(job))
            })
    }

    /// At the end of a run.
    pub(super) fn at_end(
        &self,
        store: &Store,
        can_run: impl Fn(&Needs<'_>) -> bool,
    ) -> Result<(), Broken> {
        for id in &self.accepted {
            ensure(store.job(id).is_some() || self.rewound.contains(id), || {
                format!("{id} was accepted and is gone")
            })?;
        }
        for job in store.jobs() {
            let waits = job.state == JobState::Pending && !can_run(&needs(job));
            ensure(job.state.is_terminal() || waits, || {
                format!("{} is {:?} for ever", job.id, job.state)
            })?;
        }
        let held = store.held(&[]);
        ensure(held.is_empty(), || {
            format!("slots in use for ever: {held:?}")
        })
    }
}
