//! Storing what has been gathered: one commit a batch, on the condition that the attempt is still
//! current. So nothing is stored of a job that has ended or is gone, and what is deleted stays so.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::job::output::{Appended, Channel, OutputRecord};
use coretex_store::{Batch, CommitError, CommitId, Key, Precondition, Version, Write, codec};
use tokio::time::Instant;

use super::OUTPUT_FORMAT;
use super::gather::{Gathered, Writer};
use crate::commits::Loaded;
use crate::engine::Engine;
use crate::types::AttemptRef;
use crate::{Error, Result, keyspace, telemetry};

/// Batches of one attempt are stored at most this often, unless they are full.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// How long the first piece after a pause waits for more.
const LINGER: Duration = Duration::from_millis(10);
/// How often a batch is tried again after losing against another commit.
const MAX_TRIES: u32 = 16;
/// The longest pause after a failure of the store, as a power of two of 50 ms.
const MAX_BACKOFF: u32 = 5;

/// What is stored after a batch.
struct Stored {
    record: OutputRecord,
    /// Its version; `None` = there is none yet.
    version: Option<Version>,
    /// Whether the batch held anything new.
    changed: bool,
    /// Channels of which a piece before those of the batch is missing.
    missing: Vec<Channel>,
}

impl Engine {
    /// Writes what an attempt streams, until nothing waits.
    pub(super) async fn write_gathered(&self, gathered: Arc<Gathered>) {
        let last = gathered.writer.lock().await.written;
        let mut due = Instant::now() + LINGER;
        due = due.max(last.map_or(due, |last| last + WRITE_EVERY));
        let mut failures = 0;
        loop {
            let stopping = self.stopping().is_cancelled();
            if !stopping && !gathered.has_batch() {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = gathered.enough.notified() => {}
                    () = self.stopping().cancelled() => {}
                }
            }
            due = Instant::now() + WRITE_EVERY;
            match self.write_batch(&gathered).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::warn!(%error, job_id = %gathered.attempt().job_id, "output not written yet");
                    if stopping || !self.hears_of(&gathered) {
                        // The worker sends it again wherever it connects next.
                        self.outputs().forget(&gathered);
                        return;
                    }
                    let pause = Duration::from_millis(50 << failures.min(MAX_BACKOFF));
                    failures += 1;
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            if gathered.rests() {
                return;
            }
        }
    }

    /// Stores everything that an attempt has streamed so far and that is not stored yet: nothing
    /// more is to come.
    ///
    /// # Errors
    /// The store does not take it.
    pub(crate) async fn flush_output(&self, attempt: &AttemptRef) -> Result<()> {
        let Some(gathered) = self.outputs().of(attempt.lease_id) else {
            return Ok(());
        };
        loop {
            self.write_batch(&gathered).await?;
            if gathered.is_empty() {
                break;
            }
        }
        self.outputs().forget(&gathered);
        Ok(())
    }

    /// Whether the worker of what was gathered is still connected here.
    fn hears_of(&self, gathered: &Gathered) -> bool {
        let state = self.dispatcher().lock();
        let session = gathered.session();
        session.is_some_and(|session| state.sessions.contains_key(&session))
    }

    /// Stores a batch and acknowledges it. One that could not be stored is the next to be tried.
    async fn write_batch(&self, gathered: &Arc<Gathered>) -> Result<()> {
        let mut writer = gathered.writer.lock().await;
        if writer.batch.is_empty() {
            writer.batch = gathered.take();
        }
        if writer.batch.is_empty() {
            return Ok(());
        }
        writer.written = Some(Instant::now());
        let stored = match self.store_batch(gathered, &mut writer).await {
            Err(error @ Error::DataLoss { .. }) => {
                // It never will be: the work is not to hang on what it said on the way.
                tracing::error!(%error, job_id = %gathered.attempt().job_id, "output dropped");
                None
            }
            outcome => outcome?,
        };
        let batch = std::mem::take(&mut writer.batch);
        self.outputs().give_room(gathered.settle());
        let last = |channel| {
            let of = batch.iter().filter(|one| one.chunk.channel == channel);
            of.map(|one| one.chunk.sequence).max()
        };
        let Some(stored) = stored else {
            // The attempt is over: nobody wants it any more.
            for channel in Channel::ALL {
                if let Some(sequence) = last(channel) {
                    self.acknowledge(gathered, channel, sequence, false);
                }
            }
            drop(writer);
            self.outputs().forget(gathered);
            return Ok(());
        };
        let attempt = gathered.attempt().attempt;
        for channel in Channel::ALL.into_iter().filter(|one| last(*one).is_some()) {
            let kept = stored.record.last(attempt, channel);
            let missing = stored.missing.contains(&channel);
            if missing {
                let of = batch.iter().filter(|one| one.chunk.channel == channel);
                let early = of.map(|one| one.chunk.sequence).find(|one| *one > kept);
                let dropped = gathered.demand(channel, kept, early.unwrap_or_default());
                self.outputs().give_room(dropped);
            } else {
                gathered.stored(channel, kept);
            }
            self.acknowledge(gathered, channel, kept, missing);
        }
        writer.known = Some((stored.record, stored.version));
        drop(writer);
        if stored.changed {
            self.ring_output(gathered.attempt());
        }
        Ok(())
    }

    fn acknowledge(&self, gathered: &Gathered, channel: Channel, sequence: u32, resend: bool) {
        if let Some(session) = gathered.session() {
            self.acknowledge_output(&session, gathered.attempt(), channel, sequence, resend);
        }
    }

    /// Commits a batch; `None` when the attempt is over.
    async fn store_batch(
        &self,
        gathered: &Gathered,
        writer: &mut Writer,
    ) -> Result<Option<Stored>> {
        let attempt = gathered.attempt();
        let mut held = self.loaded_of(gathered);
        for again in 0..MAX_TRIES {
            let job = match held.take() {
                Some(loaded) => loaded,
                None => match self.load(&attempt.tenant, &attempt.job_id).await {
                    Ok(loaded) => loaded,
                    Err(Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                },
            };
            let (record, version) = match writer.known.take() {
                Some(known) => known,
                None => self.read_stream(attempt).await?,
            };
            if !job.job.holds(attempt.lease_id) || record.attempt > attempt.attempt {
                return Ok(None);
            }
            let appended = record.append(attempt.attempt, &writer.batch);
            if !appended.changed {
                return Ok(Some(Stored {
                    record,
                    version,
                    changed: false,
                    missing: appended.missing,
                }));
            }
            let batch = self.batch_of(attempt, &job, version, &appended)?;
            let asked = Instant::now();
            match self.store().commit(batch).await {
                Ok(committed) => {
                    self.observe(asked, committed.time);
                    telemetry::output_stored(&record, &appended.record);
                    return Ok(Some(Stored {
                        record: appended.record,
                        version: Some(committed.version),
                        changed: true,
                        missing: appended.missing,
                    }));
                }
                Err(CommitError::Conflict { key }) => {
                    // Of the two only one has changed; the other need not be read again.
                    if key == keyspace::job(&attempt.tenant, &attempt.job_id) {
                        writer.known = Some((record, version));
                    } else {
                        held = Some(job);
                    }
                    self.pause(again).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// The job as this replica has last written it, while the attempt is current.
    fn loaded_of(&self, gathered: &Gathered) -> Option<Loaded> {
        let attempt = gathered.attempt();
        let state = self.dispatcher().lock();
        let slot = state.slots.get(&attempt.lease_id)?;
        slot.is(attempt).then(|| slot.loaded.clone()).flatten()
    }

    async fn read_stream(&self, attempt: &AttemptRef) -> Result<(OutputRecord, Option<Version>)> {
        let key = keyspace::stream(&attempt.tenant, &attempt.job_id);
        let asked = Instant::now();
        let read = self.store().get(self.shard(), &[key]).await?;
        self.observe(asked, read.time);
        match read.value.into_iter().next().flatten() {
            None => Ok((OutputRecord::default(), None)),
            Some(record) => {
                let (_, stream) = codec::decode(&record.value)?;
                Ok((stream, Some(record.version)))
            }
        }
    }

    fn batch_of(
        &self,
        attempt: &AttemptRef,
        job: &Loaded,
        version: Option<Version>,
        appended: &Appended,
    ) -> Result<Batch> {
        let (tenant, id) = (&attempt.tenant, &attempt.job_id);
        let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
        let key: Key = keyspace::stream(tenant, id);
        let value = codec::encode(OUTPUT_FORMAT, &appended.record)?;
        match version {
            Some(version) => batch.replace(key, version, value),
            None => batch.create(key, value),
        };
        batch.preconditions.push(Precondition::At {
            key: keyspace::job(tenant, id),
            version: job.version,
        });
        for (number, page) in &appended.closed {
            batch.writes.push(Write::Put {
                key: keyspace::stream_page(tenant, id, *number),
                value: codec::encode(OUTPUT_FORMAT, page)?,
                ttl: None,
            });
        }
        Ok(batch)
    }

    /// What the jobs have streamed, in their order, for work that has to go on: what cannot be read
    /// is taken for nothing.
    pub(crate) async fn streams_of(&self, jobs: &[Loaded]) -> Result<Vec<Option<OutputRecord>>> {
        let key = |loaded: &Loaded| keyspace::stream(&loaded.job.tenant, &loaded.job.id);
        let keys: Vec<Key> = jobs.iter().map(key).collect();
        let read = match self.store().get(self.shard(), &keys).await {
            Ok(read) => read.value,
            Err(coretex_store::StoreError::DataLoss { what }) if jobs.len() > 1 => {
                tracing::error!(%what, "output of a job not readable");
                let mut streams = Vec::with_capacity(jobs.len());
                for job in jobs {
                    streams.extend(Box::pin(self.streams_of(std::slice::from_ref(job))).await?);
                }
                return Ok(streams);
            }
            Err(coretex_store::StoreError::DataLoss { .. }) => return Ok(vec![None]),
            Err(error) => return Err(error.into()),
        };
        let decode = |record: Option<coretex_store::Record>| {
            let decoded = codec::decode::<OutputRecord>(&record?.value);
            decoded.map(|(_, stream)| stream).ok()
        };
        Ok(read.into_iter().map(decode).collect())
    }

    /// Deletes what a job has streamed in the batch that deletes the job.
    pub(crate) fn delete_stream(batch: &mut Batch, loaded: &Loaded, stream: &OutputRecord) {
        let (tenant, id) = (&loaded.job.tenant, &loaded.job.id);
        let key = keyspace::stream(tenant, id);
        batch.writes.push(Write::Delete { key });
        for page in 0..stream.pages {
            let key = keyspace::stream_page(tenant, id, page);
            batch.writes.push(Write::Delete { key });
        }
    }
}
