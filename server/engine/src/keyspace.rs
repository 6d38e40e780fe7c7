//! Where everything stands in the store: record keys, index members, and which index entries a
//! job has. Entries are derived from the record alone, so a commit is the difference between the
//! entries before and after, and no index can drift from its records.
//!
//! Over 500 lines because it is the one list of all names.

mod approvals;

use std::time::Duration;

use bytes::Bytes;
use coretex_core::config::{ConfigName, ConfigScope};
use coretex_core::id::{JobId, ReplicaId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::Job;
use coretex_core::job::clock::next_due;
use coretex_core::lease::HeldKey;
use coretex_core::pause::PauseScope;
use coretex_core::placement::{Needs, Shape, shape};
use coretex_core::policy::evaluate::CounterRef;
use coretex_core::queue::ReadyKey;
use coretex_core::time::Timestamp;
use coretex_store::{Index, Key, Member, Range};

use self::approvals::entries as approval_entries;
pub(crate) use self::approvals::{
    PENDING_APPROVALS, approval_place, approval_prefix, approvals, notices, notices_of,
    parse_approval_place, parse_pending, pending_place, pending_prefix,
};
use crate::rulings::in_line;

/// Separates the parts of a key. Below every byte of an id, so that a prefix ends where it should.
const SEPARATOR: u8 = 0;

fn joined(family: &[u8], parts: &[&[u8]]) -> Bytes {
    let length = family.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>();
    let mut key = Vec::with_capacity(length);
    key.extend_from_slice(family);
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            key.push(SEPARATOR);
        }
        key.extend_from_slice(part);
    }
    Bytes::from(key)
}

/// The record of a job.
pub(crate) fn job(tenant: &TenantId, id: &JobId) -> Key {
    joined(b"job/", &[tenant.as_bytes(), id.as_bytes()])
}

/// The input of a job that is too large for its record.
pub(crate) fn input(tenant: &TenantId, id: &JobId) -> Key {
    joined(b"in/", &[tenant.as_bytes(), id.as_bytes()])
}

/// The output of a job that is too large for its record.
pub(crate) fn output(tenant: &TenantId, id: &JobId) -> Key {
    joined(b"out/", &[tenant.as_bytes(), id.as_bytes()])
}

/// What a job has streamed, but for its closed pages.
pub(crate) fn stream(tenant: &TenantId, id: &JobId) -> Key {
    joined(b"stream/", &[tenant.as_bytes(), id.as_bytes()])
}

/// A closed page of what a job has streamed.
pub(crate) fn stream_page(tenant: &TenantId, id: &JobId, page: u32) -> Key {
    joined(
        b"page/",
        &[tenant.as_bytes(), id.as_bytes(), &page.to_be_bytes()],
    )
}

/// What an idempotency key of job submission stands for.
pub(crate) fn idempotency(tenant: &TenantId, key: &str) -> Key {
    joined(b"idem/", &[tenant.as_bytes(), key.as_bytes()])
}

/// The policy snapshot in force, a pointer.
pub(crate) fn policy() -> Key {
    Key::from_static(b"policy")
}

/// What changes with everything that replicas keep copies of (shard `sys`).
pub(crate) fn news() -> Key {
    Key::from_static(b"news")
}

/// The record of a document of configuration; `owner` is its tenant, or nothing (shard `sys`).
pub(crate) fn config(owner: &[u8], name: &ConfigName) -> Key {
    joined(
        b"config/",
        &[owner, name.scope.name().as_bytes(), name.id.as_bytes()],
    )
}

/// An earlier state of a document (shard `sys`).
pub(crate) fn config_revision(owner: &[u8], name: &ConfigName, revision: u32) -> Key {
    joined(
        b"config-past/",
        &[
            owner,
            name.scope.name().as_bytes(),
            name.id.as_bytes(),
            &revision.to_be_bytes(),
        ],
    )
}

/// How many documents a tenant has, and of how many bytes (shard `sys`).
pub(crate) fn config_usage(owner: &[u8]) -> Key {
    joined(b"config-usage/", &[owner])
}

/// The documents of a tenant, by creation (shard `sys`).
pub(crate) fn configs(owner: &[u8]) -> Index {
    joined(b"configs/", &[owner])
}

/// The deleted documents of a tenant whose revisions are kept, by deletion (shard `sys`).
pub(crate) fn configs_deleted(owner: &[u8]) -> Index {
    joined(b"configs-deleted/", &[owner])
}

/// `time scope id`: a member of [`configs`] and [`configs_deleted`].
pub(crate) fn config_place(time: Timestamp, name: &ConfigName) -> Member {
    let mut member = time.to_be_bytes().to_vec();
    member.push(name.scope as u8);
    member.extend_from_slice(name.id.as_bytes());
    Member::from(member)
}

/// Parses [`config_place`].
pub(crate) fn parse_config_place(member: &[u8]) -> Option<(Timestamp, ConfigName)> {
    let (time, rest) = member.split_first_chunk::<8>()?;
    let (scope, id) = rest.split_first()?;
    let name = ConfigName {
        scope: ConfigScope::ALL
            .into_iter()
            .find(|known| *known as u8 == *scope)?,
        id: std::str::from_utf8(id).ok()?.to_owned(),
    };
    Some((Timestamp::from_micros(u64::from_be_bytes(*time)), name))
}

/// The record of an API key (shard `sys`).
pub(crate) fn api_key(id: &str) -> Key {
    joined(b"key/", &[id.as_bytes()])
}

/// All API keys: `tenant time id` (shard `sys`).
pub(crate) const API_KEYS: Index = Index::from_static(b"keys-by-time");

/// All API keys as builds before kept them: `tenant id` (shard `sys`).
pub(crate) const OLD_API_KEYS: Index = Index::from_static(b"keys");

/// The part of the index of API keys that belongs to one tenant.
pub(crate) fn api_key_prefix(tenant: &TenantId) -> Vec<u8> {
    let mut prefix = tenant.as_bytes().to_vec();
    prefix.push(SEPARATOR);
    prefix
}

/// A member of the index of API keys.
pub(crate) fn api_key_place(tenant: &TenantId, create_time: Timestamp, id: &str) -> Member {
    let mut member = api_key_prefix(tenant);
    member.extend_from_slice(&create_time.to_be_bytes());
    member.extend_from_slice(id.as_bytes());
    Member::from(member)
}

/// Parses [`api_key_place`].
pub(crate) fn parse_api_key_place(member: &[u8]) -> Option<(TenantId, Timestamp, String)> {
    let end = member.iter().position(|byte| *byte == SEPARATOR)?;
    let tenant = TenantId::from_trusted(text(&member[..end])?);
    let (time, id) = member[end + 1..].split_first_chunk::<8>()?;
    let time = Timestamp::from_micros(u64::from_be_bytes(*time));
    Some((tenant, time, text(id)?.to_owned()))
}

/// The lease of a replica (shard `sys`).
pub(crate) fn replica(id: &ReplicaId) -> Key {
    joined(b"replica/", &[id.as_bytes()])
}

/// All replicas (shard `sys`).
pub(crate) const REPLICAS: Index = Index::from_static(b"replicas");

/// A page of what a replica says of its workers (shard `sys`).
pub(crate) fn workers(id: &ReplicaId, page: usize) -> Key {
    joined(b"workers/", &[id.as_bytes(), &page.to_be_bytes()])
}

/// The record of a worker that an operator has drained (shard `sys`).
pub(crate) fn drain(tenant: &TenantId, worker: &WorkerId) -> Key {
    joined(b"drain/", &[tenant.as_bytes(), worker.as_bytes()])
}

/// Workers that operators have drained: `tenant worker` (shard `sys`).
pub(crate) const DRAINED: Index = Index::from_static(b"drained");

/// A member of [`DRAINED`].
pub(crate) fn drained(tenant: &TenantId, worker: &WorkerId) -> Member {
    joined(b"", &[tenant.as_bytes(), worker.as_bytes()])
}

/// Parses [`drained`].
pub(crate) fn parse_drained(member: &[u8]) -> Option<(TenantId, WorkerId)> {
    let mut parts = member.split(|byte| *byte == SEPARATOR).map(text);
    let tenant = TenantId::from_trusted(parts.next()??);
    Some((tenant, WorkerId::from_trusted(parts.next()??)))
}

/// Who owns a data shard (shard `sys`).
pub(crate) fn shard_owner(shard: u16) -> Key {
    joined(b"owner/", &[&shard.to_be_bytes()])
}

/// All jobs of a tenant, by creation.
pub(crate) fn all(tenant: &TenantId) -> Index {
    joined(b"all/", &[tenant.as_bytes()])
}

/// The jobs of a tenant that wait: PENDING, SCHEDULED, APPROVAL_REQUIRED. Its size is what
/// `max_waiting_jobs` limits.
pub(crate) fn open_waiting(tenant: &TenantId) -> Index {
    joined(b"wait/", &[tenant.as_bytes()])
}

/// The jobs of a tenant that a worker has.
pub(crate) fn open_held(tenant: &TenantId) -> Index {
    joined(b"run/", &[tenant.as_bytes()])
}

/// The jobs of a tenant that count as running under a key, in the order in which they were handed
/// out. Its size is what a limit on the key limits.
pub(crate) fn concurrency(tenant: &TenantId, key: &str) -> Index {
    joined(b"conc/", &[tenant.as_bytes(), key.as_bytes()])
}

/// The bucket of a tenant's submits.
pub(crate) fn submit_rate(tenant: &TenantId) -> Key {
    joined(b"rate/submit/", &[tenant.as_bytes()])
}

/// Which policy snapshot shall be in force (shard `sys`).
pub(crate) fn policy_head() -> Key {
    Key::from_static(b"policy-head")
}

/// A bundle as it was last written (shard `sys`).
pub(crate) fn bundle(id: &str) -> Key {
    joined(b"bundle/", &[id.as_bytes()])
}

/// All bundles that were written: `id` (shard `sys`).
pub(crate) const BUNDLES: Index = Index::from_static(b"bundles");

/// A member that is a name.
pub(crate) fn member(name: &str) -> Member {
    Member::copy_from_slice(name.as_bytes())
}

/// The content of bundles of snapshots, by digest (shard `sys`).
pub(crate) fn bundle_content(digest: &str) -> Key {
    joined(b"bundle-content/", &[digest.as_bytes()])
}

/// A policy snapshot (shard `sys`).
pub(crate) fn snapshot(id: &str) -> Key {
    joined(b"snapshot/", &[id.as_bytes()])
}

/// All policy snapshots: `time id` (shard `sys`).
pub(crate) const SNAPSHOTS: Index = Index::from_static(b"snapshots");

/// A member of [`SNAPSHOTS`].
pub(crate) fn snapshot_place(time: Timestamp, id: &str) -> Member {
    let mut member = time.to_be_bytes().to_vec();
    member.extend_from_slice(id.as_bytes());
    Member::from(member)
}

/// Parses [`snapshot_place`].
pub(crate) fn parse_snapshot_place(member: &[u8]) -> Option<(Timestamp, String)> {
    let (time, id) = member.split_first_chunk::<8>()?;
    let time = Timestamp::from_micros(u64::from_be_bytes(*time));
    Some((time, text(id)?.to_owned()))
}

/// An entry of the record of policy changes (shard `sys`).
pub(crate) fn policy_audit(sequence: u64) -> Key {
    joined(b"policy-audit/", &[&sequence.to_be_bytes()])
}

/// All entries of the record of policy changes, by number (shard `sys`).
pub(crate) const POLICY_AUDIT: Index = Index::from_static(b"policy-audits");

/// A member that is a number.
pub(crate) fn numbered(number: u64) -> Member {
    Member::copy_from_slice(&number.to_be_bytes())
}

/// Parses [`numbered`].
pub(crate) fn parse_numbered(member: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(member.try_into().ok()?))
}

/// What an idempotency key of a policy change stands for (shard `sys`).
pub(crate) fn policy_key(key: &str) -> Key {
    joined(b"policy-key/", &[key.as_bytes()])
}

/// The bucket of a rate that policy asks for.
pub(crate) fn policy_rate(tenant: &TenantId, bucket: &str) -> Key {
    joined(b"rate/policy/", &[tenant.as_bytes(), bucket.as_bytes()])
}

/// The jobs that wait for a rate, in the order in which they were accepted.
pub(crate) fn throttled(tenant: &TenantId, bucket: &str) -> Index {
    joined(b"throttled/", &[tenant.as_bytes(), bucket.as_bytes()])
}

/// The bucket of [`policy_rate`].
pub(crate) fn parse_policy_rate(tenant: &TenantId, key: &[u8]) -> Option<String> {
    bucket_after(key, &policy_rate(tenant, ""))
}

/// The bucket of [`throttled`].
pub(crate) fn parse_throttled(tenant: &TenantId, index: &[u8]) -> Option<String> {
    bucket_after(index, &throttled(tenant, ""))
}

fn bucket_after(name: &[u8], prefix: &[u8]) -> Option<String> {
    text(name.strip_prefix(prefix)?).map(str::to_owned)
}

/// The jobs that a counter of the past has counted, by when. One that counts further back counts
/// apart.
pub(crate) fn past(tenant: &TenantId, counter: &CounterRef) -> Index {
    let window = u64::try_from(counter.window.as_micros()).unwrap_or(u64::MAX);
    let (id, key) = (counter.id.as_bytes(), counter.key.as_bytes());
    joined(
        b"past/",
        &[&window.to_be_bytes(), tenant.as_bytes(), id, key],
    )
}

/// What of a counter lies within its window.
pub(crate) fn past_since(tenant: &TenantId, counter: &CounterRef, now: Timestamp) -> Range {
    Range {
        start: Member::copy_from_slice(&(now - counter.window).to_be_bytes()),
        ..Range::all(past(tenant, counter))
    }
}

/// The names of all [`past`] that have members.
pub(crate) const PASTS: Index = Index::from_static(b"pasts");

/// How far back a [`past`] counts.
pub(crate) fn past_window(index: &[u8]) -> Option<Duration> {
    let (window, _) = index.strip_prefix(b"past/")?.split_first_chunk::<8>()?;
    Some(Duration::from_micros(u64::from_be_bytes(*window)))
}

/// Who removes what counters need no more writes this.
pub(crate) fn past_sweep() -> Key {
    Key::from_static(b"past-sweep")
}

/// The record of a pause (shard `sys`).
pub(crate) fn pause(scope: &PauseScope) -> Key {
    joined(b"pause/", &[&paused(scope)])
}

/// All pauses: `tenant pool topic` (shard `sys`).
pub(crate) const PAUSED: Index = Index::from_static(b"paused");

/// A member of [`PAUSED`]; a part that is not given is empty.
pub(crate) fn paused(scope: &PauseScope) -> Member {
    let tenant = scope.tenant.as_ref().map_or(&b""[..], TenantId::as_bytes);
    let pool = scope.pool.as_ref().map_or(&b""[..], |pool| pool.as_bytes());
    let topic = scope.topic.as_ref().map_or("", |topic| topic.as_str());
    joined(b"", &[tenant, pool, topic.as_bytes()])
}

/// The record of a member of [`PAUSED`].
pub(crate) fn pause_of(member: &[u8]) -> Key {
    joined(b"pause/", &[member])
}

/// The jobs of a tenant and topic, by creation.
pub(crate) fn topic(tenant: &TenantId, topic: &Topic) -> Index {
    joined(b"topic/", &[tenant.as_bytes(), topic.as_str().as_bytes()])
}

/// The dead letters of a tenant, by when they became that.
pub(crate) fn dead_letters(tenant: &TenantId) -> Index {
    joined(b"dlq/", &[tenant.as_bytes()])
}

/// When jobs have to be looked at next.
pub(crate) const DUE: Index = Index::from_static(b"due");
/// When ended jobs may be deleted at the earliest: by end time, retention is applied on reading.
pub(crate) const ENDED: Index = Index::from_static(b"ended");
/// The same for those with a dead letter, which are kept for longer: a job is in one of the two.
pub(crate) const DEAD: Index = Index::from_static(b"dead");
/// When ended jobs go that are kept for a shorter time than the others: by the time of deletion. They
/// are in one of the two above as well.
pub(crate) const EXPIRES: Index = Index::from_static(b"expires");
/// Jobs that wait for a slot, by queue.
pub(crate) const READY: Index = Index::from_static(b"ready");
/// Slots in use, by replica and session.
pub(crate) const HELD: Index = Index::from_static(b"held");

/// `time id`: the member of indexes by creation.
pub(crate) fn by_time(time: Timestamp, id: &JobId) -> Member {
    let mut member = Vec::with_capacity(8 + id.as_bytes().len());
    member.extend_from_slice(&time.to_be_bytes());
    member.extend_from_slice(id.as_bytes());
    Member::from(member)
}

/// Parses [`by_time`].
pub(crate) fn parse_by_time(member: &[u8]) -> Option<(Timestamp, JobId)> {
    let (time, id) = member.split_first_chunk::<8>()?;
    let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty())?;
    Some((
        Timestamp::from_micros(u64::from_be_bytes(*time)),
        JobId::from_trusted(id),
    ))
}

/// `time tenant job`: the member of indexes over all tenants.
pub(crate) fn timed(time: Timestamp, tenant: &TenantId, id: &JobId) -> Member {
    let mut member = time.to_be_bytes().to_vec();
    member.extend_from_slice(&joined(b"", &[tenant.as_bytes(), id.as_bytes()]));
    Member::from(member)
}

/// Parses [`timed`].
pub(crate) fn parse_timed(member: &[u8]) -> Option<(Timestamp, TenantId, JobId)> {
    let (time, rest) = member.split_first_chunk::<8>()?;
    let mut parts = rest.split(|byte| *byte == SEPARATOR);
    let tenant = TenantId::from_trusted(text(parts.next()?)?);
    let id = JobId::from_trusted(text(parts.next()?)?);
    Some((
        Timestamp::from_micros(u64::from_be_bytes(*time)),
        tenant,
        id,
    ))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())
}

/// The part of the ready index that is one queue: jobs of one topic.
pub(crate) fn queue_prefix(topic: &Topic) -> Vec<u8> {
    let mut prefix = topic.as_str().as_bytes().to_vec();
    prefix.push(SEPARATOR);
    prefix
}

/// A member of the ready index.
pub(crate) fn ready(topic: &Topic, key: &ReadyKey) -> Member {
    let mut member = queue_prefix(topic);
    member.extend_from_slice(&key.encode());
    Member::from(member)
}

/// The topic and place of a member of the ready index.
pub(crate) fn parse_ready(member: &[u8]) -> Option<(Topic, ReadyKey)> {
    let zero = member.iter().position(|byte| *byte == SEPARATOR)?;
    let topic = Topic::from_trusted(text(&member[..zero])?);
    Some((topic, ReadyKey::decode(&member[zero + 1..]).ok()?))
}

/// The shape of a job.
pub(crate) fn shape_of(job: &Job) -> Shape {
    shape(&Needs::of(job))
}

/// The place of a job in its queue.
pub(crate) fn ready_key(job: &Job) -> ReadyKey {
    ReadyKey {
        tenant: job.tenant.clone(),
        shape: shape_of(job),
        priority: job.spec.priority,
        accepted: job.waits_since(),
        job_id: job.id.clone(),
    }
}

/// A slot in use: what names it, however its attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeldEntry {
    pub(crate) replica: ReplicaId,
    pub(crate) session: SessionId,
    pub(crate) tenant: TenantId,
    pub(crate) job_id: JobId,
    pub(crate) lease_id: coretex_core::id::LeaseId,
}

impl HeldEntry {
    /// The entry of the attempt that is out.
    pub(crate) fn of_lease(job: &Job) -> Option<Self> {
        let slot = &job.lease.as_ref()?.slot;
        Some(Self {
            replica: slot.replica.clone(),
            session: slot.session.clone(),
            tenant: job.tenant.clone(),
            job_id: job.id.clone(),
            lease_id: slot.lease_id,
        })
    }

    /// Whether the job still has this slot, at this session.
    pub(crate) fn stands_in(&self, job: &Job) -> bool {
        job.slots().any(|slot| {
            slot.lease_id == self.lease_id
                && slot.session == self.session
                && slot.replica == self.replica
        })
    }
}

impl From<HeldKey> for HeldEntry {
    fn from(key: HeldKey) -> Self {
        Self {
            replica: key.replica,
            session: key.session,
            tenant: key.tenant,
            job_id: key.job_id,
            lease_id: key.lease_id,
        }
    }
}

/// The entries of a job that limits on running jobs count.
pub(crate) fn counted(job: &Job) -> impl Iterator<Item = (Index, Member)> {
    let running = job.state.is_held();
    let of_tenant = running.then(|| (open_held(&job.tenant), by_time(job.create_time, &job.id)));
    let lease = job.lease.as_ref();
    let of_key = lease.filter(|lease| !lease.concurrency_key.is_empty());
    let of_key = of_key.map(|lease| {
        let index = concurrency(&job.tenant, &lease.concurrency_key);
        (index, by_time(lease.dispatch_time, &job.id))
    });
    of_tenant.into_iter().chain(of_key)
}

/// Every index entry that a job has.
pub(crate) fn entries(job: &Job) -> Vec<(Index, Member)> {
    let mut entries = Vec::with_capacity(8);
    let created = by_time(job.create_time, &job.id);
    entries.push((all(&job.tenant), created.clone()));
    entries.push((topic(&job.tenant, &job.spec.topic), created.clone()));
    if job.state.is_terminal() {
        // One whose worker has not answered for its slot stays: the slot is not free.
        if job.slots().next().is_none() {
            let end = job.end_time.unwrap_or(job.update_time);
            let index = match job.dead_letter {
                Some(_) => DEAD,
                None => ENDED,
            };
            entries.push((index, timed(end, &job.tenant, &job.id)));
            if let Some(expires) = job.expires() {
                entries.push((EXPIRES, timed(expires, &job.tenant, &job.id)));
            }
        }
        if let Some(letter) = &job.dead_letter {
            entries.push((dead_letters(&job.tenant), by_time(letter.time, &job.id)));
        }
    } else {
        if !job.state.is_held() {
            entries.push((open_waiting(&job.tenant), created));
        }
        if let Some(due) = next_due(job) {
            entries.push((DUE, timed(due, &job.tenant, &job.id)));
        }
        if job.is_ready() {
            entries.push((READY, ready(&job.spec.topic, &ready_key(job))));
        }
    }
    entries.extend(approval_entries(job));
    let bucket = in_line(job);
    if !bucket.is_empty() {
        let place = by_time(job.create_time, &job.id);
        entries.push((throttled(&job.tenant, bucket), place));
    }
    entries.extend(counted(job));
    for key in HeldKey::of(job) {
        entries.push((HELD, Member::from(key.encode())));
    }
    entries
}
