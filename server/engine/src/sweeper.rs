//! Retention: ended jobs and old log entries go, so that nothing grows for ever.

use std::time::Duration;

use coretex_core::time::Timestamp;
use coretex_store::{CommitError, Order, Range};

use crate::engine::Engine;
use crate::{Result, keyspace, telemetry};

/// Jobs deleted in one round.
const ROUND: usize = 256;
/// How often the sweeper looks when nothing is due.
const IDLE: Duration = Duration::from_secs(1);
/// How often the log is trimmed.
const TRIM_EVERY: Duration = Duration::from_secs(10);

impl Engine {
    /// Sweeps until the engine stops.
    pub(crate) async fn run_sweeper(self) {
        let mut trim = tokio::time::interval(TRIM_EVERY);
        trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                () = tokio::time::sleep(pause) => {}
                _ = trim.tick() => if let Err(error) = self.trim_log().await {
                    tracing::warn!(%error, "log not trimmed");
                },
            }
        }
    }

    /// Deletes the oldest ended jobs whose time has come, at most one round of them; how many
    /// were looked at.
    async fn sweep_round(&self) -> Result<usize> {
        let before = self.sweep_before().await?;
        let range = Range {
            index: keyspace::ENDED,
            start: bytes::Bytes::new(),
            end: Some(before.to_be_bytes().to_vec().into()),
        };
        let read = self
            .store()
            .range(self.shard(), &[range], ROUND, Order::Ascending)
            .await?;
        self.observe(read.time);
        let names: Vec<_> = read
            .value
            .into_iter()
            .flatten()
            .filter_map(|member| keyspace::parse_timed(&member))
            .map(|(_, tenant, id)| (tenant, id))
            .collect();
        if names.is_empty() {
            return Ok(0);
        }
        let loaded = self.load_all(&names).await?;
        let found: Vec<_> = loaded.into_iter().flatten().collect();
        let deleted = std::sync::atomic::AtomicUsize::new(0);
        self.for_each_bounded(found, |job| {
            let deleted = &deleted;
            async move {
                match self.delete_job(&job).await {
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
        Ok(names.len())
    }

    /// Jobs that ended before this time go: the end of their retention, or anything that has ended
    /// while the store is over its byte budget.
    async fn sweep_before(&self) -> Result<Timestamp> {
        let retention = &self.options().retention;
        let now = self.now();
        if retention.byte_budget > 0 {
            let usage = self.store().usage().await?;
            if usage.bytes > retention.byte_budget {
                return Ok(now);
            }
        }
        Ok(now - retention.jobs)
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
