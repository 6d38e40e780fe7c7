//! The one way by which jobs change: a record and its derived index entries in one conditional
//! commit, and everything that has to know of it told afterwards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::job::history::{EventType, JobEvent};
use coretex_core::job::output::OutputRecord;
use coretex_core::job::transition::{Refusal, Transition};
use coretex_core::payload::Payload;
use coretex_core::policy::evaluate::CounterRef;
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Key, Precondition, Shard, Write, codec};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::approvals::ApprovalEvent;
use crate::approvals::changes::changes;
use crate::engine::Engine;
use crate::{Error, Result, keyspace};

/// The format of job records; a new one needs a fixture and a reader of this one.
pub(crate) const JOB_FORMAT: u8 = 1;
/// The format of log entries.
pub(crate) const LOG_FORMAT: u8 = 1;
/// The format of idempotency records.
pub(crate) const IDEMPOTENCY_FORMAT: u8 = 1;

/// How often a change is tried again after losing against another one.
const MAX_TRIES: u32 = 16;

/// A job as it stands in the store.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) job: Arc<Job>,
    pub(crate) version: u64,
}

/// What an idempotency key stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IdempotencyRecord {
    pub(crate) job_id: JobId,
    #[serde(with = "serde_bytes")]
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) create_time: Timestamp,
}

/// One change of one job, as the shard's log keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) tenant: TenantId,
    pub(crate) job_id: JobId,
    pub(crate) events: Vec<JobEvent>,
    /// The decision, when the change made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decision: Option<coretex_core::policy::JobDecision>,
    /// What became of its approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) approvals: Vec<ApprovalEvent>,
}

/// What a commit has beside the job itself.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The policy snapshot that must be in force.
    pub(crate) snapshot: Option<String>,
    /// The record of its idempotency key, which must not exist.
    pub(crate) idempotency: Option<(Key, IdempotencyRecord)>,
    /// The record of the idempotency key of a vote, which must not exist, and is kept for a day.
    pub(crate) vote_key: Option<(Key, IdempotencyRecord)>,
    /// The input, when it stands apart.
    pub(crate) input_apart: Option<Bytes>,
    /// Limits that must have room.
    pub(crate) limits: Vec<Precondition>,
    /// Counters of the past that count a new job.
    pub(crate) counts: Vec<CounterRef>,
    /// Another job that changes with it, and what becomes of that one.
    pub(crate) also: Option<(Loaded, Job)>,
}

/// A change that was applied.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) after: Loaded,
    /// Whether the trigger did what it said; see [`Transition::applied`].
    pub(crate) applied: bool,
}

impl Engine {
    /// Reads a job.
    pub(crate) async fn load(&self, tenant: &TenantId, id: &JobId) -> Result<Loaded> {
        let mut found = self
            .load_all(std::slice::from_ref(&(tenant.clone(), id.clone())))
            .await?;
        found
            .pop()
            .flatten()
            .ok_or_else(|| Error::no_job(id.as_str()))
    }

    /// Reads jobs, in the order asked for.
    pub(crate) async fn load_all(
        &self,
        names: &[(TenantId, JobId)],
    ) -> Result<Vec<Option<Loaded>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = names
            .iter()
            .map(|(tenant, id)| keyspace::job(tenant, id))
            .collect();
        // All tenants share the one data shard until stores with more are supported.
        let asked = Instant::now();
        let read = self.store().get(self.shard(), &keys).await?;
        self.observe(asked, read.time);
        read.value
            .into_iter()
            .map(|record| {
                let Some(record) = record else {
                    return Ok(None);
                };
                let (_, job) = codec::decode::<Job>(&record.value)?;
                Ok(Some(Loaded {
                    job: Arc::new(job),
                    version: record.version,
                }))
            })
            .collect()
    }

    /// As [`Self::load_all`], but a damaged record is no reason not to read the others: it is
    /// left out, for work that has to go on.
    pub(crate) async fn load_readable(
        &self,
        names: &[(TenantId, JobId)],
    ) -> Result<Vec<Option<Loaded>>> {
        match self.load_all(names).await {
            Err(Error::DataLoss { .. }) => {}
            loaded => return loaded,
        }
        let mut readable = Vec::with_capacity(names.len());
        for name in names {
            match self.load_all(std::slice::from_ref(name)).await {
                Ok(loaded) => readable.extend(loaded),
                Err(error @ Error::DataLoss { .. }) => {
                    tracing::error!(%error, tenant = %name.0, job_id = %name.1, "job not readable");
                    readable.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }

    /// The whole of a payload, wherever it stands.
    pub(crate) async fn join_payload(
        &self,
        payload: Option<Payload>,
        key: impl FnOnce() -> Key,
    ) -> Result<Option<Payload>> {
        let Some(payload) = payload else {
            return Ok(None);
        };
        if !payload.is_apart() {
            return Ok(Some(payload));
        }
        let read = self.store().get(self.shard(), &[key()]).await?;
        match read.value.into_iter().next().flatten() {
            Some(record) => Ok(Some(payload.join(record.value))),
            None => Err(Error::DataLoss {
                what: "a payload that stands apart".to_owned(),
            }),
        }
    }

    /// The job with its payloads whole. One that was deleted since its record was read is not found.
    pub(crate) async fn join_payloads(&self, job: &Arc<Job>) -> Result<Arc<Job>> {
        match self.with_payloads(job).await {
            Err(lost @ Error::DataLoss { .. }) => {
                self.load(&job.tenant, &job.id).await?;
                Err(lost)
            }
            joined => joined,
        }
    }

    async fn with_payloads(&self, job: &Arc<Job>) -> Result<Arc<Job>> {
        let apart = |payload: &Option<Payload>| payload.as_ref().is_some_and(Payload::is_apart);
        if !apart(&job.input) && !apart(&job.output) {
            return Ok(Arc::clone(job));
        }
        let mut whole = Job::clone(job);
        let (tenant, id) = (&job.tenant, &job.id);
        whole.input = self
            .join_payload(whole.input, || keyspace::input(tenant, id))
            .await?;
        whole.output = self
            .join_payload(whole.output, || keyspace::output(tenant, id))
            .await?;
        Ok(Arc::new(whole))
    }

    /// Writes a job in one commit, and tells everybody who has to know once it is written.
    pub(crate) async fn write(
        &self,
        before: Option<&Loaded>,
        mut after: Job,
        extras: Extras,
    ) -> std::result::Result<Loaded, CommitError> {
        let internal = |error: coretex_store::StoreError| CommitError::Invalid {
            reason: error.to_string(),
        };
        let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
        let mut output_apart = None;
        let before_output = before.and_then(|loaded| loaded.job.output.as_ref());
        if after.output.as_ref() != before_output
            && let Some(output) = after.output.take()
        {
            let (kept, apart) = output.split();
            after.output = Some(kept);
            output_apart = apart;
        }
        let key = keyspace::job(&after.tenant, &after.id);
        let value = codec::encode(JOB_FORMAT, &after).map_err(internal)?;
        match before {
            Some(before) => batch.replace(key, before.version, value),
            None => batch.create(key, value),
        };
        if let Some((key, record)) = &extras.idempotency {
            let value = codec::encode(IDEMPOTENCY_FORMAT, record).map_err(internal)?;
            batch.create(key.clone(), value);
        }
        if let Some((key, record)) = &extras.vote_key {
            let value = codec::encode(IDEMPOTENCY_FORMAT, record).map_err(internal)?;
            batch
                .preconditions
                .push(Precondition::Absent { key: key.clone() });
            batch.writes.push(Write::Put {
                key: key.clone(),
                value,
                ttl: Some(crate::jobs::IDEMPOTENCY_LIFE),
            });
        }
        if let Some((before, after)) = &extras.also {
            let key = keyspace::job(&after.tenant, &after.id);
            let value = codec::encode(JOB_FORMAT, after).map_err(internal)?;
            batch.replace(key, before.version, value);
        }
        // After the records: what exists already is answered as such, also at the limit.
        batch.preconditions.extend(extras.limits);
        if let Some(snapshot) = &extras.snapshot {
            batch.preconditions.push(Precondition::Pointer {
                key: keyspace::policy(),
                value: Bytes::copy_from_slice(snapshot.as_bytes()),
            });
        }
        if let Some(bytes) = output_apart {
            let key = keyspace::output(&after.tenant, &after.id);
            batch.writes.push(Write::Put {
                key,
                value: bytes,
                ttl: None,
            });
        }
        if let Some(bytes) = extras.input_apart {
            let key = keyspace::input(&after.tenant, &after.id);
            batch.writes.push(Write::Put {
                key,
                value: bytes,
                ttl: None,
            });
        }
        change_indexes(&mut batch, before.map(|loaded| &*loaded.job), Some(&after));
        for counter in &extras.counts {
            let past = keyspace::past(&after.tenant, counter);
            let place = keyspace::by_time(after.create_time, &after.id);
            batch.add(past.clone(), place);
            batch.add(keyspace::PASTS, past);
        }
        let entry = log_entry(before.map(|loaded| &*loaded.job), &after);
        batch.append(codec::encode(LOG_FORMAT, &entry).map_err(internal)?);
        if let Some((before, after)) = &extras.also {
            change_indexes(&mut batch, Some(&before.job), Some(after));
            let entry = log_entry(Some(&before.job), after);
            batch.append(codec::encode(LOG_FORMAT, &entry).map_err(internal)?);
        }

        let counts = self.before_write(before.map(|loaded| &*loaded.job), &after);
        let asked = Instant::now();
        let outcome = self.store().commit(batch).await;
        let written = match outcome {
            Ok(committed) => {
                self.observe(asked, committed.time);
                Ok(Loaded {
                    job: Arc::new(after),
                    version: committed.version,
                })
            }
            Err(error) => {
                let before = before.map(|loaded| &*loaded.job);
                self.write_failed(before, &after, counts, &error);
                return Err(error);
            }
        };
        if let Ok(loaded) = &written {
            self.after_write(before.map(|loaded| &*loaded.job), loaded, counts);
            if let Some((before, after)) = extras.also {
                let after = Loaded {
                    job: Arc::new(after),
                    // Of one batch, of which all records get the same.
                    version: loaded.version,
                };
                self.after_write(Some(&before.job), &after, false);
            }
        }
        written
    }

    /// Reads, decides and writes until it is written or refused. `start` saves the first read.
    ///
    /// `decide` may be called several times, with what the store holds by then.
    pub(crate) async fn change(
        &self,
        tenant: &TenantId,
        id: &JobId,
        start: Option<Loaded>,
        decide: impl Fn(&Job, Timestamp) -> std::result::Result<Transition, Refusal> + Send + Sync,
    ) -> Result<std::result::Result<Changed, (Refusal, Loaded)>> {
        let mut start = start;
        for attempt in 0..MAX_TRIES {
            let fresh = start.is_none();
            let before = match start.take() {
                Some(loaded) => loaded,
                None => self.load(tenant, id).await?,
            };
            let transition = match decide(&before.job, self.now()) {
                Ok(transition) => transition,
                // A cached record may be behind; only what was just read can refuse.
                Err(_) if !fresh => continue,
                Err(refusal) => return Ok(Err((refusal, before))),
            };
            let Transition {
                job,
                effects,
                applied,
            } = transition;
            match self.write(Some(&before), job, Extras::default()).await {
                Ok(after) => {
                    self.deliver(&after.job, effects);
                    return Ok(Ok(Changed { after, applied }));
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// A short, growing, jittered pause between tries.
    pub(crate) async fn pause(&self, attempt: u32) {
        if attempt == 0 {
            return;
        }
        let cap = 1_u64 << attempt.min(6);
        let millis = self.ids().fraction() * cap as f64;
        tokio::time::sleep(Duration::from_secs_f64(millis / 1_000.0)).await;
    }

    /// Deletes an ended job and everything that belongs to it, also what it has streamed. Its
    /// idempotency record lives on until it is a day old.
    pub(crate) async fn delete_job(
        &self,
        loaded: &Loaded,
        stream: Option<&OutputRecord>,
    ) -> std::result::Result<(), CommitError> {
        let job = &*loaded.job;
        let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
        batch.delete(keyspace::job(&job.tenant, &job.id), loaded.version);
        if job.input.as_ref().is_some_and(Payload::is_apart) {
            batch.writes.push(Write::Delete {
                key: keyspace::input(&job.tenant, &job.id),
            });
        }
        if job.output.as_ref().is_some_and(Payload::is_apart) {
            batch.writes.push(Write::Delete {
                key: keyspace::output(&job.tenant, &job.id),
            });
        }
        if let Some(stream) = stream {
            Self::delete_stream(&mut batch, loaded, stream);
        }
        if !job.idempotency_key.is_empty() {
            let key = keyspace::idempotency(&job.tenant, &job.idempotency_key);
            let age = self.now().since(job.create_time);
            match crate::jobs::IDEMPOTENCY_LIFE.checked_sub(age) {
                Some(rest) if !rest.is_zero() => {
                    let record = IdempotencyRecord {
                        job_id: job.id.clone(),
                        fingerprint: job.fingerprint.clone(),
                        create_time: job.create_time,
                    };
                    let value = codec::encode(IDEMPOTENCY_FORMAT, &record).map_err(|error| {
                        CommitError::Invalid {
                            reason: error.to_string(),
                        }
                    })?;
                    batch.writes.push(Write::Put {
                        key,
                        value,
                        ttl: Some(rest),
                    });
                }
                Some(_) | None => batch.writes.push(Write::Delete { key }),
            }
        }
        change_indexes(&mut batch, Some(job), None);
        let asked = Instant::now();
        let committed = self.store().commit(batch).await?;
        self.observe(asked, committed.time);
        Ok(())
    }

    /// The data shard of every tenant, until stores with several are supported.
    #[expect(
        clippy::unused_self,
        reason = "the shard will depend on the store's shard count"
    )]
    pub(crate) const fn shard(&self) -> Shard {
        Shard::Data(0)
    }
}

/// The difference between the index entries before and after.
fn change_indexes(batch: &mut Batch, before: Option<&Job>, after: Option<&Job>) {
    let old = before.map(keyspace::entries).unwrap_or_default();
    let new = after.map(keyspace::entries).unwrap_or_default();
    for (index, member) in &new {
        if !old
            .iter()
            .any(|entry| entry.1 == *member && entry.0 == *index)
        {
            batch.add(index.clone(), member.clone());
        }
    }
    for (index, member) in old {
        if !new
            .iter()
            .any(|entry| entry.1 == member && entry.0 == index)
        {
            batch.remove(index, member);
        }
    }
}

/// What the log says of a change.
fn log_entry(before: Option<&Job>, after: &Job) -> LogEntry {
    let known = before.map_or(0, |job| job.events.total());
    let new = (after.events.total() - known) as usize;
    let kept = after.events.iter().len();
    let mut events: Vec<JobEvent> = after
        .events
        .iter()
        .skip(kept.saturating_sub(new))
        .cloned()
        .collect();
    let progressed =
        after.progress.is_some() && before.is_none_or(|job| job.progress != after.progress);
    if events.is_empty() || progressed {
        // Progress is not kept in the history, but who watches wants to know.
        let from = events.last().map(|event| event.to);
        events.push(JobEvent {
            sequence: 0,
            time: after.update_time,
            kind: EventType::Progressed,
            from: from.or(before.map(|job| job.state)),
            to: after.state,
            attempt: after.attempt,
            worker_id: after.lease.as_ref().map(|lease| lease.worker_id.clone()),
            principal_id: String::new(),
            reason: String::new(),
        });
    }
    let decided = after.decision != before.and_then(|job| job.decision.clone());
    LogEntry {
        tenant: after.tenant.clone(),
        job_id: after.id.clone(),
        events,
        decision: if decided {
            after.decision.clone()
        } else {
            None
        },
        approvals: changes(before, after),
    }
}
