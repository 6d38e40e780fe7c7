//! Recomputes everything that follows from the records and compares it with what the store holds:
//! index entries, payloads that stand apart, idempotency records, the log. The formats are written
//! out here a second time, on purpose.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use coretex_core::approval::ApprovalState;
use coretex_core::id::{JobId, LeaseId, TenantId};
use coretex_core::job::clock::next_due;
use coretex_core::job::history::{EventType, JobEvent};
use coretex_core::job::output::{Channel, OutputRecord, Page};
use coretex_core::job::{Job, JobState, ScheduledFor};
use coretex_core::payload::Content;
use coretex_core::placement::{Needs, shape};
use coretex_core::policy::Decision;
use coretex_core::queue::ReadyKey;
use coretex_core::time::Timestamp;
use coretex_store::embedded::EmbeddedStore;
use coretex_store::{Order, Range, Shard, Store, codec};
use serde::Deserialize;

use crate::Names;

const SHARD: Shard = Shard::Data(0);

type Entries = BTreeMap<Bytes, BTreeSet<Bytes>>;

/// What the store holds.
#[derive(Debug)]
pub struct Audit {
    /// Every job.
    pub jobs: Vec<Job>,
    /// Records of the data shard by family, `job`, `in`, ...
    pub records: BTreeMap<String, usize>,
    /// Index members of the data shard by family, `all`, `due`, ...
    pub members: BTreeMap<String, usize>,
    /// Members of the index `held`, by session.
    pub held: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Idempotency {
    job_id: JobId,
    #[serde(with = "serde_bytes")]
    fingerprint: Vec<u8>,
    create_time: Timestamp,
}

#[derive(Deserialize)]
struct LogEntry {
    tenant: TenantId,
    job_id: JobId,
    events: Vec<JobEvent>,
}

fn joined(family: &str, parts: &[&[u8]]) -> Bytes {
    let mut key = family.as_bytes().to_vec();
    key.extend_from_slice(&parts.join(&0));
    Bytes::from(key)
}

fn timed(time: Timestamp, rest: &[u8]) -> Bytes {
    Bytes::from([time.to_be_bytes().as_slice(), rest].concat())
}

fn name(job: &Job) -> Bytes {
    joined("", &[job.tenant.as_bytes(), job.id.as_bytes()])
}

/// The index entries that a job should have.
fn entries_of(job: &Job) -> Vec<(Bytes, Bytes)> {
    let tenant = job.tenant.as_bytes();
    let topic = job.spec.topic.as_str().as_bytes();
    let created = timed(job.create_time, job.id.as_bytes());
    let mut entries = vec![
        (joined("all/", &[tenant]), created.clone()),
        (joined("topic/", &[tenant, topic]), created.clone()),
    ];
    match job.state {
        JobState::Pending | JobState::Scheduled | JobState::ApprovalRequired => {
            entries.push((joined("wait/", &[tenant]), created));
        }
        JobState::Dispatched | JobState::Running => {
            entries.push((joined("run/", &[tenant]), created));
        }
        JobState::Succeeded
        | JobState::Failed
        | JobState::Cancelled
        | JobState::Denied
        | JobState::Timeout => {
            let end = job.end_time.expect("an ended job has an end time");
            // One whose slot is not free yet is not to be deleted yet.
            if job.unreleased.is_empty() {
                let index = match job.dead_letter {
                    Some(_) => "dead",
                    None => "ended",
                };
                entries.push((Bytes::from(index), timed(end, &name(job))));
                let kept = job.keep.and_then(|keep| match job.dead_letter {
                    Some(_) => keep.dead,
                    None => keep.ended,
                });
                if let Some(kept) = kept {
                    entries.push((Bytes::from("expires"), timed(end + kept, &name(job))));
                }
            }
            if let Some(letter) = &job.dead_letter {
                let member = timed(letter.time, job.id.as_bytes());
                entries.push((joined("dlq/", &[tenant]), member));
            }
        }
    }
    if let Some(due) = next_due(job) {
        entries.push((Bytes::from("due"), timed(due, &name(job))));
    }
    if job.state == JobState::Pending && job.judge_at.is_none() {
        let needs = Needs::of(job);
        let key = ReadyKey {
            tenant: job.tenant.clone(),
            shape: shape(&needs),
            priority: job.spec.priority,
            accepted: job.waits_since(),
            job_id: job.id.clone(),
        };
        let member = [topic, &[0], key.encode().as_slice()].concat();
        entries.push((Bytes::from("ready"), member.into()));
    }
    if let Some(lease) = job.lease.as_ref()
        && !lease.concurrency_key.is_empty()
    {
        let index = joined("conc/", &[tenant, lease.concurrency_key.as_bytes()]);
        entries.push((index, timed(lease.dispatch_time, job.id.as_bytes())));
    }
    if job.scheduled_for == Some(ScheduledFor::Throttle)
        && let Some(decision) = job.decision.as_ref()
        && decision.decision == Decision::Throttle
        && !decision.bucket.is_empty()
    {
        let index = joined("throttled/", &[tenant, decision.bucket.as_bytes()]);
        entries.push((index, timed(job.create_time, job.id.as_bytes())));
    }
    for approval in &job.approvals {
        let place: &[&[u8]] = &[approval.id.as_bytes(), job.id.as_bytes()];
        entries.push((joined("approvals/", &[tenant]), joined("", place)));
        if approval.state == ApprovalState::Pending {
            let place = [&[tenant], place].concat();
            let index = Bytes::from("pending-approvals");
            entries.push((index, joined("", &place)));
        }
    }
    let current = if job.cancel.is_some() { b'r' } else { b'c' };
    let out = job.lease.iter().map(|lease| (&lease.slot, current));
    for (slot, standing) in out.chain(job.unreleased.iter().map(|slot| (slot, b'x'))) {
        let mut standing_tenant = vec![standing];
        standing_tenant.extend_from_slice(tenant);
        let mut lease_job = slot.lease_id.bits().to_be_bytes().to_vec();
        lease_job.extend_from_slice(job.id.as_bytes());
        let member = joined(
            "",
            &[
                slot.replica.as_bytes(),
                slot.session.as_bytes(),
                &standing_tenant,
                &lease_job,
            ],
        );
        entries.push((Bytes::from("held"), member));
    }
    entries
}

/// What must hold of every record by itself.
fn check_record(job: &Job) {
    let (id, state) = (&job.id, job.state);
    assert_eq!(job.lease.is_some(), state.is_held(), "{id} is {state:?}");
    assert_eq!(job.end_time.is_some(), state.is_terminal(), "{id}");
    assert_eq!(
        job.scheduled_for.is_some(),
        state == JobState::Scheduled,
        "{id}: {state:?}"
    );
    if job.judge_at.is_some() {
        assert_eq!(state, JobState::Pending, "{id}");
    }
    if job.output.is_some() {
        assert_eq!(state, JobState::Succeeded, "{id} has an output");
    }
    if state == JobState::Succeeded {
        assert_eq!(job.error, None, "{id}");
    }
    if matches!(state, JobState::Failed | JobState::Timeout) {
        assert!(job.error.is_some(), "{id}");
    }
    let ended_badly = matches!(
        state,
        JobState::Failed | JobState::Timeout | JobState::Denied
    );
    let settled = job
        .events
        .iter()
        .any(|event| event.kind == EventType::DeadLetterSettled);
    assert_eq!(job.dead_letter.is_some(), ended_badly && !settled, "{id}");
    check_approvals(job);
    let max = job.spec.retry.max_attempts.max(1);
    assert!(job.failures <= max, "{id}: {} of {max}", job.failures);
    assert!(job.redispatches <= job.spec.max_redispatch, "{id}");
    let leases: BTreeSet<LeaseId> = job.attempts.iter().map(|one| one.lease_id).collect();
    assert_eq!(
        leases.len(),
        job.attempts.iter().len(),
        "{id}: leases repeat"
    );
    let open = job.attempts.iter().filter(|one| one.end.is_none()).count();
    assert_eq!(
        open,
        usize::from(job.lease.is_some()),
        "{id}: open attempts"
    );
    let slots: BTreeSet<LeaseId> = job.slots().map(|slot| slot.lease_id).collect();
    assert_eq!(slots.len(), job.slots().count(), "{id}: slots repeat");
    let sequences: Vec<u32> = job.events.iter().map(|event| event.sequence).collect();
    for pair in sequences.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "{id}: events {sequences:?}");
    }
    let applied = job
        .attempts
        .iter()
        .filter(|one| one.end == Some(coretex_core::job::history::AttemptEnd::Succeeded))
        .count();
    assert_eq!(
        applied,
        usize::from(state == JobState::Succeeded),
        "{id}: successes"
    );
    let mut last = None;
    for event in job.events.iter() {
        assert!(
            last.is_none_or(|last| event.from == Some(last)),
            "{id}: {event:?} after {last:?}"
        );
        last = Some(event.to);
    }
    assert_eq!(last, Some(state), "{id}: the last event");
}

/// Whoever waits for a human has exactly one approval to wait for, and nobody else has one.
fn check_approvals(job: &Job) {
    let id = &job.id;
    let waits = job.state == JobState::ApprovalRequired;
    let pending: Vec<_> = job
        .approvals
        .iter()
        .filter(|approval| approval.state == ApprovalState::Pending)
        .collect();
    assert_eq!(pending.len(), usize::from(waits), "{id}: pending approvals");
    if let Some(pending) = pending.first() {
        let decision = job.decision.as_ref().expect("a verdict asked for it");
        assert_eq!(job.approvals.last(), Some(*pending), "{id}");
        assert_eq!(decision.approval_id, pending.id.as_str(), "{id}");
        assert_eq!(decision.policy_snapshot, pending.policy_snapshot, "{id}");
    }
    for approval in &job.approvals {
        let resolved = approval.state != ApprovalState::Pending;
        assert_eq!(approval.resolve_time.is_some(), resolved, "{id}");
        if approval.state == ApprovalState::Approved {
            assert_eq!(approval.missing(), 0, "{id}");
        }
    }
}

/// Reads and checks everything.
pub async fn audit(store: &EmbeddedStore, names: &Names) -> Audit {
    let keys = names.keys(SHARD);
    let now = store.time().await.unwrap();
    let records = store.get(SHARD, &keys).await.unwrap().value;
    let mut jobs = Vec::new();
    let mut apart: BTreeMap<Bytes, usize> = BTreeMap::new();
    let mut idempotency = BTreeMap::new();
    let (mut streams, mut pages) = (BTreeMap::new(), BTreeMap::new());
    let mut families: BTreeMap<String, usize> = BTreeMap::new();
    for (key, record) in keys.iter().zip(records) {
        let Some(record) = record else { continue };
        let family = String::from_utf8_lossy(key.split(|byte| *byte == b'/').next().unwrap());
        *families.entry(family.to_string()).or_default() += 1;
        match &*family {
            "job" => jobs.push(codec::decode::<Job>(&record.value).unwrap().1),
            "in" | "out" => {
                apart.insert(key.clone(), record.value.len());
            }
            "idem" => {
                let (_, value) = codec::decode::<Idempotency>(&record.value).unwrap();
                idempotency.insert(key.clone(), value);
            }
            "stream" => {
                let (_, record) = codec::decode::<OutputRecord>(&record.value).unwrap();
                streams.insert(key.clone(), record);
            }
            "page" => {
                let (_, page) = codec::decode::<Page>(&record.value).unwrap();
                pages.insert(key.clone(), page);
            }
            "policy" | "past-sweep" | "notices" => {}
            other => panic!("a record of an unknown family: {other}"),
        }
    }
    let mut expected = Entries::new();
    for job in &jobs {
        check_record(job);
        for (index, member) in entries_of(job) {
            expected.entry(index).or_default().insert(member);
        }
    }
    check_payloads(&jobs, apart);
    check_streams(&jobs, streams, pages);
    check_idempotency(&jobs, idempotency, now);
    let mut members: BTreeMap<String, usize> = BTreeMap::new();
    let mut held = BTreeMap::new();
    let (mut counted_pasts, mut named_pasts) = (BTreeSet::new(), BTreeSet::new());
    for index in names.indexes(SHARD) {
        let range = Range::all(index.clone());
        let found = store
            .range(
                SHARD,
                std::slice::from_ref(&range),
                usize::MAX >> 2,
                Order::Ascending,
            )
            .await
            .unwrap();
        let found: BTreeSet<Bytes> = found.value.into_iter().flatten().collect();
        let counted = store.count(SHARD, &range, u64::MAX).await.unwrap().value;
        assert_eq!(counted, found.len() as u64, "count of {index:?}");
        let family = String::from_utf8_lossy(index.split(|byte| *byte == b'/').next().unwrap());
        *members.entry(family.to_string()).or_default() += found.len();
        // Counters of the past outlive their jobs.
        match &*family {
            "past" => {
                if !found.is_empty() {
                    counted_pasts.insert(index.clone());
                }
                continue;
            }
            "pasts" => {
                named_pasts = found;
                continue;
            }
            // What waits to be told follows from no record.
            "outbox" => continue,
            _ => {}
        }
        let should = expected.remove(&index).unwrap_or_default();
        let missing: Vec<_> = should.difference(&found).collect();
        let extra: Vec<_> = found.difference(&should).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "index {index:?}: missing {missing:?}, extra {extra:?}"
        );
        if &*family == "held" {
            for member in found {
                let session = member.split(|byte| *byte == 0).nth(1).unwrap();
                let session = String::from_utf8_lossy(session).into_owned();
                *held.entry(session).or_default() += 1;
            }
        }
    }
    assert!(
        expected.is_empty(),
        "indexes that were never written: {expected:?}"
    );
    // What is not named is never swept.
    let lost: Vec<_> = counted_pasts.difference(&named_pasts).collect();
    assert!(lost.is_empty(), "counters that are not named: {lost:?}");
    check_log(store, &jobs).await;
    crate::configs::audit(store, names).await;
    Audit {
        jobs,
        records: families,
        members,
        held,
    }
}

fn check_payloads(jobs: &[Job], mut apart: BTreeMap<Bytes, usize>) {
    for job in jobs {
        for (family, payload) in [("in/", &job.input), ("out/", &job.output)] {
            let Some(payload) = payload else { continue };
            if let Content::Apart { size, .. } = payload.content {
                let key = joined(family, &[job.tenant.as_bytes(), job.id.as_bytes()]);
                let found = apart.remove(&key);
                assert_eq!(found, Some(size as usize), "{family}{}", job.id);
            }
        }
    }
    assert!(apart.is_empty(), "payloads of nobody: {apart:?}");
}

/// What jobs have streamed belongs to jobs that are there, is complete and is what is counted.
fn check_streams(
    jobs: &[Job],
    mut streams: BTreeMap<Bytes, OutputRecord>,
    mut pages: BTreeMap<Bytes, Page>,
) {
    for job in jobs {
        let (tenant, id) = (job.tenant.as_bytes(), job.id.as_bytes());
        let Some(record) = streams.remove(&joined("stream/", &[tenant, id])) else {
            continue;
        };
        let mut entries = Vec::new();
        for number in 0..record.pages {
            let key = joined("page/", &[tenant, id, &number.to_be_bytes()]);
            entries.extend(pages.remove(&key).expect("a closed page").entries);
        }
        entries.extend(record.tail.iter().cloned());
        for channel in Channel::ALL {
            let of = entries
                .iter()
                .filter(|entry| entry.chunk.channel == channel);
            let kept: Vec<_> = of.filter(|entry| !entry.gap).collect();
            let bytes: usize = kept.iter().map(|entry| entry.chunk.data.len()).sum();
            let state = record.channel(channel);
            assert_eq!(state.bytes, bytes as u64, "{}", job.id);
            assert_eq!(state.chunks as usize, kept.len(), "{}", job.id);
        }
    }
    assert!(streams.is_empty(), "output of nobody: {streams:?}");
    assert!(pages.is_empty(), "pages of nobody: {:?}", pages.keys());
}

fn check_idempotency(jobs: &[Job], mut records: BTreeMap<Bytes, Idempotency>, now: Timestamp) {
    for job in jobs.iter().filter(|job| !job.idempotency_key.is_empty()) {
        let key = joined(
            "idem/",
            &[job.tenant.as_bytes(), job.idempotency_key.as_bytes()],
        );
        let record = records
            .remove(&key)
            .expect("the record of an idempotency key");
        assert_eq!(record.job_id, job.id);
        assert_eq!(record.fingerprint, job.fingerprint);
    }
    for (key, record) in records {
        let age = now.since(record.create_time);
        assert!(
            age.as_secs() <= 24 * 3_600,
            "{key:?} is {age:?} old and has no job"
        );
    }
}

/// The log tells of every event once, in order.
async fn check_log(store: &EmbeddedStore, jobs: &[Job]) {
    let mut told: HashMap<(TenantId, JobId), u32> = HashMap::new();
    let mut from = 0;
    let mut trimmed = false;
    loop {
        let page = store.tail(SHARD, from, 1_000).await.unwrap().value;
        trimmed |= page.first > 1;
        let Some(last) = page.entries.last() else {
            break;
        };
        from = last.id + 1;
        for entry in page.entries {
            let (_, entry) = codec::decode::<LogEntry>(&entry.value).unwrap();
            let id = entry.job_id.clone();
            let known = told.entry((entry.tenant, entry.job_id)).or_insert(0);
            for event in entry.events {
                if event.kind == EventType::Progressed {
                    assert_eq!(event.sequence, 0, "{id}: {event:?}");
                    continue;
                }
                let restarted = event.kind == EventType::Submitted;
                let dense = event.sequence == *known + 1;
                assert!(
                    dense || restarted || (trimmed && *known == 0),
                    "{id}: {event:?} after {known}"
                );
                *known = event.sequence;
            }
        }
    }
    for job in jobs {
        let known = told.get(&(job.tenant.clone(), job.id.clone())).copied();
        if !trimmed {
            assert_eq!(known, Some(job.events.total()), "{} in the log", job.id);
        }
    }
}
