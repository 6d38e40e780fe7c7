//! Retention: ended jobs and old log entries go, so that nothing grows for ever.

mod past;

use std::collections::HashSet;
use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::job::output::OutputRecord;
use coretex_core::payload::Payload;
use coretex_core::time::Timestamp;
use coretex_store::{CommitError, Index, Order, Range, codec};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::{Result, keyspace, telemetry};

/// Jobs deleted in one round.
const ROUND: usize = 256;
/// Of those, jobs with dead letters for which there is always room.
const DEAD_SHARE: usize = 64;
/// And jobs that go earlier than the others.
const EXPIRED_SHARE: usize = 64;
/// Jobs read from each end of the history to estimate what an ended job takes.
const SAMPLE: usize = 64;
/// What a job takes beside its record and payloads: index entries, log entries, bookkeeping.
const BESIDE: u64 = 1_024;
/// How often the sweeper looks when nothing is due.
const IDLE: Duration = Duration::from_secs(2);
/// How often the log is trimmed.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked for API keys that are of no use to anybody.
const KEYS_EVERY: Duration = Duration::from_secs(3_600);

impl Engine {
    /// Sweeps until the engine stops.
    pub(crate) async fn run_sweeper(self) {
        let mut trim = tokio::time::interval(TRIM_EVERY);
        trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut keys = tokio::time::interval(KEYS_EVERY);
        keys.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut past = tokio::time::interval(past::EVERY);
        past.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let per_round = Duration::from_secs_f64(
            ROUND as f64 / f64::from(self.options().retention.deletes_per_second.max(1)),
        );
        loop {
            let mut pause = IDLE;
            if self.owns_shard() {
                match self.sweep_round().await {
                    Ok(swept) if swept == ROUND => pause = per_round,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "sweep interrupted"),
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                _ = trim.tick() => if let Err(error) = self.trim_log().await {
                    tracing::warn!(%error, "log not trimmed");
                },
                _ = past.tick() => if self.owns_shard()
                    && let Err(error) = self.sweep_past().await
                {
                    tracing::warn!(%error, "counters of the past not swept");
                },
                _ = keys.tick() => if self.owns_shard()
                    && let Err(error) = self.sweep_keys().await
                {
                    tracing::warn!(%error, "api keys not swept");
                },
            }
        }
    }

    /// Deletes the oldest ended jobs whose time has come, at most one round of them; how many
    /// were looked at.
    async fn sweep_round(&self) -> Result<usize> {
        let retention = &self.options().retention;
        let [ended, dead] = self.over_budget().await?;
        let ranges = [
            (keyspace::ENDED, retention.jobs, ended),
            (keyspace::DEAD, retention.of_dead_letters(), dead),
            // Of these, the time in the index is that of their end already.
            (keyspace::EXPIRES, Duration::ZERO, 0),
        ];
        let [mut names, dead, expired] = self.overdue(ranges).await?;
        // Dead letters, and what goes early, have a share of every round, whatever else there is to
        // do.
        let of_dead = dead.len().min(DEAD_SHARE);
        names.truncate(ROUND - of_dead - expired.len().min(EXPIRED_SHARE));
        names.extend(expired.into_iter().take(ROUND - of_dead - names.len()));
        names.extend(dead.into_iter().take(ROUND - names.len()));
        if names.is_empty() {
            return Ok(0);
        }
        let looked_at = names.len();
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let loaded = self.load_readable(&names).await?;
        let found: Vec<_> = loaded.into_iter().flatten().collect();
        // After the jobs: of one that has ended nothing more is stored.
        let streams = self.streams_of(&found).await?;
        let found = found.into_iter().zip(streams).collect();
        let deleted = std::sync::atomic::AtomicUsize::new(0);
        self.for_each_bounded(found, |(job, stream)| {
            let deleted = &deleted;
            async move {
                match self.delete_job(&job, stream.as_ref()).await {
                    Ok(()) => {
                        deleted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    // A late result has changed it; the next round takes it.
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => {
                        tracing::warn!(%error, job_id = %job.job.id, "ended job not deleted yet");
                    }
                }
            }
        })
        .await;
        telemetry::swept(deleted.into_inner());
        Ok(looked_at)
    }

    /// The oldest jobs of each index that have ended longer ago than they are kept, or are among the
    /// first so many that go before their time; at most a round of each, from one read.
    async fn overdue(
        &self,
        indexes: [(Index, Duration, usize); 3],
    ) -> Result<[Vec<(TenantId, JobId)>; 3]> {
        let now = self.now();
        let ranges = indexes.clone().map(|(index, kept, excess)| {
            let before = if excess > 0 { now } else { now - kept };
            Range {
                index,
                start: bytes::Bytes::new(),
                end: Some(before.to_be_bytes().to_vec().into()),
            }
        });
        let asked = Instant::now();
        let read = self
            .store()
            .range(self.shard(), &ranges, ROUND, Order::Ascending)
            .await?;
        self.observe(asked, read.time);
        let mut found = read.value.into_iter();
        Ok(indexes.map(|(_, kept, excess)| {
            let kept_since = now - kept;
            let ended = found.next().unwrap_or_default();
            let ended = ended
                .iter()
                .filter_map(|member| keyspace::parse_timed(member));
            ended
                .enumerate()
                .filter(|(place, (end, ..))| *place < excess || *end < kept_since)
                .map(|(_, (_, tenant, id))| (tenant, id))
                .collect()
        }))
    }

    /// How many of the oldest ended jobs go before their time, without and with a dead letter,
    /// because what has ended takes more than the budget. Those that nobody has to look at go
    /// first. The length of a file says only that it may be so: it stays when jobs go.
    async fn over_budget(&self) -> Result<[usize; 2]> {
        let budget = self.options().retention.byte_budget;
        if budget == 0 || self.store().usage().await?.bytes <= budget {
            return Ok([0; 2]);
        }
        let mut counts = [0; 2];
        let mut sample = Vec::new();
        for (count, index) in counts.iter_mut().zip([keyspace::ENDED, keyspace::DEAD]) {
            let all = Range::all(index);
            *count = self
                .store()
                .count(self.shard(), &all, u64::MAX)
                .await?
                .value;
            sample.extend(self.ended(all.clone(), SAMPLE, Order::Ascending).await?);
            sample.extend(self.ended(all, SAMPLE, Order::Descending).await?);
        }
        let names: Vec<_> = sample
            .into_iter()
            .map(|(_, tenant, id)| (tenant, id))
            .collect();
        let loaded = self.load_readable(&names).await?;
        let loaded: Vec<_> = loaded.into_iter().flatten().collect();
        let streams = self.streams_of(&loaded).await?;
        let sizes: Vec<u64> = loaded
            .iter()
            .zip(&streams)
            .map(|(loaded, stream)| size_of(&loaded.job, stream.as_ref()))
            .collect();
        let Some(each) = sizes.iter().sum::<u64>().checked_div(sizes.len() as u64) else {
            return Ok([0; 2]);
        };
        let [ended, dead] = counts;
        let excess = ((ended + dead) * each)
            .saturating_sub(budget)
            .div_ceil(each);
        let first = excess.min(ended);
        Ok([first, excess - first].map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }

    async fn ended(
        &self,
        range: Range,
        limit: usize,
        order: Order,
    ) -> Result<Vec<(Timestamp, TenantId, JobId)>> {
        let asked = Instant::now();
        let read = self
            .store()
            .range(self.shard(), &[range], limit, order)
            .await?;
        self.observe(asked, read.time);
        let members = read.value.into_iter().flatten();
        Ok(members
            .filter_map(|member| keyspace::parse_timed(&member))
            .collect())
    }

    async fn trim_log(&self) -> Result<()> {
        if !self.owns_shard() {
            return Ok(());
        }
        let page = self.store().tail(self.shard(), u64::MAX, 0).await?.value;
        let keep_from = page
            .next
            .saturating_sub(self.options().retention.log_entries);
        if keep_from > page.first {
            self.store().trim(self.shard(), keep_from).await?;
        }
        Ok(())
    }
}

/// About how many bytes an ended job takes in the store.
fn size_of(job: &Job, stream: Option<&OutputRecord>) -> u64 {
    let record = codec::encode(crate::commits::JOB_FORMAT, job).map_or(0, |bytes| bytes.len());
    let apart: u64 = [&job.input, &job.output]
        .into_iter()
        .flatten()
        .filter(|payload| payload.is_apart())
        .map(Payload::size)
        .sum();
    BESIDE + record as u64 + apart + stream.map_or(0, OutputRecord::size)
}
