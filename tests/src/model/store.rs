//! The store of the model: linearizable conditional commits with commit ids, index entries, replica
//! leases, snapshots to go back to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coretex_core::id::{JobId, ReplicaId, Topic};
use coretex_core::job::Job;
use coretex_core::job::clock::next_due;
use coretex_core::lease::{HeldKey, ReplicaLease};
use coretex_core::placement::{Needs, shape};
use coretex_core::queue::{ReadyKey, shape_prefix};
use coretex_core::time::Timestamp;

use super::defect::Defect;
use super::wire::{Answer, Entry, JobCommit, Micros, Record, Reply, Request};

/// Commit ids that a record remembers.
const REMEMBERED: usize = 8;
/// Due jobs answered at once.
const DUE_LIMIT: usize = 64;

#[derive(Clone, Debug)]
struct Stored<T> {
    version: u64,
    /// `None` = tombstone.
    value: Option<T>,
    commits: Vec<u128>,
}

#[derive(Clone, Debug, Default)]
struct State {
    jobs: BTreeMap<JobId, Stored<Arc<Job>>>,
    leases: BTreeMap<ReplicaId, Stored<ReplicaLease>>,
    ready: BTreeMap<Topic, BTreeSet<Vec<u8>>>,
    held: BTreeSet<Vec<u8>>,
    due: BTreeSet<(Timestamp, JobId)>,
}

/// A commit that changed a job.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) before: Option<Arc<Job>>,
    pub(super) commit: Arc<JobCommit>,
}

/// Guards of the store that may be missing.
#[derive(Clone, Copy, Debug)]
struct Flaws {
    counted: bool,
    current: bool,
}

#[derive(Debug)]
pub(super) struct Store {
    state: State,
    snapshot: Option<State>,
    run_id: u64,
    /// Store time at virtual time zero.
    origin: Timestamp,
    flaws: Flaws,
}

/// What placement looks at in a job.
pub(super) fn needs(job: &Job) -> Needs<'_> {
    Needs::of(job)
}

pub(super) fn ready_key(job: &Job) -> ReadyKey {
    ReadyKey {
        tenant: job.tenant.clone(),
        shape: shape(&needs(job)),
        priority: job.spec.priority,
        accepted: job.create_time,
        job_id: job.id.clone(),
    }
}

/// The index entries of a job, from the record alone.
pub(super) fn entries(job: &Job) -> Vec<Entry> {
    let mut entries: Vec<_> = HeldKey::of(job)
        .map(|key| Entry::Held(key.encode()))
        .collect();
    if job.is_ready() {
        entries.push(Entry::Ready(
            job.spec.topic.clone(),
            ready_key(job).encode(),
        ));
    }
    entries.extend(next_due(job).map(|time| Entry::Due(time, job.id.clone())));
    entries
}

impl Store {
    pub(super) fn new(defect: Option<Defect>) -> Self {
        Self {
            flaws: Flaws {
                counted: defect == Some(Defect::CountedVersions),
                current: defect == Some(Defect::ResendTellsCurrent),
            },
            state: State::default(),
            snapshot: None,
            run_id: 1,
            origin: Timestamp::from_micros(1_000_000_000_000_000),
        }
    }

    pub(super) fn time(&self, now: Micros) -> Timestamp {
        Timestamp::from_micros(self.origin.as_micros() + now)
    }

    pub(super) fn job(&self, id: &JobId) -> Option<&Arc<Job>> {
        self.state
            .jobs
            .get(id)
            .and_then(|stored| stored.value.as_ref())
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.state
            .jobs
            .values()
            .filter_map(|stored| stored.value.as_ref())
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = ReadyKey> + '_ {
        self.state
            .ready
            .values()
            .flatten()
            .filter_map(|member| ReadyKey::decode(member).ok())
    }

    pub(super) fn held(&self, prefix: &[u8]) -> Vec<HeldKey> {
        let members = self.state.held.range(prefix.to_vec()..);
        members
            .take_while(|member| member.starts_with(prefix))
            .filter_map(|member| HeldKey::decode(member).ok())
            .collect()
    }

    /// Whether each index entry of `job` is there.
    pub(super) fn holds_entries_of(&self, job: &Job) -> bool {
        entries(job).iter().all(|entry| match entry {
            Entry::Ready(topic, member) => self
                .state
                .ready
                .get(topic)
                .is_some_and(|queue| queue.contains(member)),
            Entry::Held(member) => self.state.held.contains(member),
            Entry::Due(time, id) => self.state.due.contains(&(*time, id.clone())),
        })
    }

    pub(super) fn entry_count(&self) -> usize {
        let ready: usize = self.state.ready.values().map(BTreeSet::len).sum();
        ready + self.state.held.len() + self.state.due.len()
    }

    pub(super) fn take_snapshot(&mut self) {
        self.snapshot = Some(self.state.clone());
    }

    /// Goes back to the snapshot, as a failover to a lagging copy does, whose clock is off by
    /// `clock_jump` microseconds.
    pub(super) fn rewind(&mut self, clock_jump: i64) {
        if let Some(snapshot) = self.snapshot.take() {
            self.state = snapshot;
        }
        self.run_id += 1;
        let origin = self.origin.as_micros().saturating_add_signed(clock_jump);
        self.origin = Timestamp::from_micros(origin);
    }

    pub(super) fn execute(&mut self, request: &Request, now: Micros) -> (Answer, Option<Applied>) {
        let mut applied = None;
        let reply = match request {
            Request::Get(id) => Reply::Job(self.record(id)),
            Request::Ready { topics, each } => Reply::Ready(self.scan(topics, *each)),
            Request::Held(prefix) => Reply::Held(self.held(prefix)),
            Request::HeldReplicas => Reply::Replicas(self.held_replicas()),
            Request::Due => {
                let time = self.time(now);
                let due = self.state.due.iter().take_while(|(at, _)| *at <= time);
                Reply::Due(due.take(DUE_LIMIT).map(|(_, id)| id.clone()).collect())
            }
            Request::Leases => Reply::Leases(
                self.state
                    .leases
                    .values()
                    .filter_map(|stored| Some((stored.version, stored.value.clone()?)))
                    .collect(),
            ),
            Request::Lease(id) => Reply::Leases(
                self.state
                    .leases
                    .get(id)
                    .and_then(|stored| Some((stored.version, stored.value.clone()?)))
                    .into_iter()
                    .collect(),
            ),
            Request::Commit(commit) => {
                let (reply, change) = self.commit(commit);
                applied = change;
                reply
            }
            Request::PutLease {
                commit_id,
                replica,
                expect,
                lease,
            } => {
                let leases = &mut self.state.leases;
                put(
                    leases,
                    replica,
                    *commit_id,
                    *expect,
                    lease.clone(),
                    self.flaws,
                )
            }
        };
        (
            Answer {
                run_id: self.run_id,
                time: self.time(now),
                reply,
            },
            applied,
        )
    }

    fn record(&self, id: &JobId) -> Option<Record> {
        let stored = self.state.jobs.get(id)?;
        Some((stored.version, stored.value.clone()?))
    }

    fn commit(&mut self, commit: &Arc<JobCommit>) -> (Reply, Option<Applied>) {
        let before = self.job(&commit.job.id).cloned();
        let known = self
            .state
            .jobs
            .get(&commit.job.id)
            .is_some_and(|stored| stored.commits.contains(&commit.commit_id));
        let reply = put(
            &mut self.state.jobs,
            &commit.job.id,
            commit.commit_id,
            commit.expect,
            Some(Arc::clone(&commit.job)),
            self.flaws,
        );
        if known || matches!(reply, Reply::Conflict) {
            return (reply, None);
        }
        for entry in &commit.remove {
            match entry {
                Entry::Ready(topic, member) => {
                    self.state
                        .ready
                        .entry(topic.clone())
                        .or_default()
                        .remove(member);
                }
                Entry::Held(member) => {
                    self.state.held.remove(member);
                }
                Entry::Due(time, id) => {
                    self.state.due.remove(&(*time, id.clone()));
                }
            }
        }
        for entry in &commit.add {
            match entry.clone() {
                Entry::Ready(topic, member) => {
                    self.state.ready.entry(topic).or_default().insert(member);
                }
                Entry::Held(member) => {
                    self.state.held.insert(member);
                }
                Entry::Due(time, id) => {
                    self.state.due.insert((time, id));
                }
            }
        }
        (
            reply,
            Some(Applied {
                before,
                commit: Arc::clone(commit),
            }),
        )
    }

    fn scan(&self, topics: &[Topic], each: usize) -> Vec<Vec<(ReadyKey, Record)>> {
        let mut lists = Vec::new();
        for queue in topics
            .iter()
            .filter_map(|topic| self.state.ready.get(topic))
        {
            let mut list: Vec<(ReadyKey, Record)> = Vec::new();
            let mut prefix = Vec::new();
            for member in queue {
                let Ok(key) = ReadyKey::decode(member) else {
                    continue;
                };
                if list.is_empty() || !member.starts_with(&prefix) {
                    prefix = shape_prefix(&key.tenant, key.shape);
                    lists.extend((!list.is_empty()).then(|| std::mem::take(&mut list)));
                }
                if list.len() < each
                    && let Some(record) = self.record(&key.job_id)
                {
                    list.push((key, record));
                }
            }
            lists.extend((!list.is_empty()).then_some(list));
        }
        lists
    }

    fn held_replicas(&self) -> Vec<ReplicaId> {
        let (mut from, mut found) = (Vec::new(), Vec::new());
        while let Some(key) = self
            .state
            .held
            .range(from..)
            .next()
            .and_then(|member| HeldKey::decode(member).ok())
        {
            from = HeldKey::after_replica(&key.replica);
            found.push(key.replica);
        }
        found
    }
}

/// The conditional write of one record. The commit id is looked at first: a record that lists it
/// has been written by it.
fn put<K: Ord + Clone, V>(
    records: &mut BTreeMap<K, Stored<V>>,
    key: &K,
    commit_id: u128,
    expect: u64,
    value: Option<V>,
    flaws: Flaws,
) -> Reply {
    let stored = records.entry(key.clone()).or_insert_with(|| Stored {
        version: 0,
        value: None,
        commits: Vec::new(),
    });
    let made = if flaws.counted {
        stored.version + 1
    } else {
        (commit_id as u64).max(1)
    };
    if stored.commits.contains(&commit_id) {
        // The version that this commit made, which need not be the one that stands now.
        let told = if flaws.counted || flaws.current {
            stored.version
        } else {
            made
        };
        return Reply::Committed(told);
    }
    let found = if stored.value.is_some() {
        stored.version
    } else {
        0
    };
    if found != expect {
        return Reply::Conflict;
    }
    // A version names what was written. A count would name something else after a rewind, and a
    // writer that had read before it would overwrite what it never saw.
    stored.version = made;
    stored.value = value;
    if stored.commits.len() == REMEMBERED {
        stored.commits.remove(0);
    }
    stored.commits.push(commit_id);
    Reply::Committed(stored.version)
}
