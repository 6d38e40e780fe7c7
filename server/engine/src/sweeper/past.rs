//! What counters of the past need no more goes: entries that are older than their window, and the
//! names of counters that have none left.

use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Index, Member, Order, Range};

use crate::engine::Engine;
use crate::{Result, keyspace};

/// How often it is looked.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// Counters looked at in one go, and entries of each.
const PAGE: usize = 256;
/// Pages of one counter in one go: what there is more of waits for the next.
const MAX_PAGES: usize = 40;

impl Engine {
    /// Looks through the counters once.
    pub(super) async fn sweep_past(&self) -> Result<()> {
        let mut start = Member::new();
        loop {
            let range = Range {
                start,
                ..Range::all(keyspace::PASTS)
            };
            let read = self
                .store()
                .range(self.shard(), &[range], PAGE, Order::Ascending)
                .await?;
            let names = read.value.into_iter().next().unwrap_or_default();
            for name in &names {
                self.sweep_counter(name, read.time).await?;
            }
            match names.last() {
                Some(last) if names.len() == PAGE => start = [last, &[0][..]].concat().into(),
                Some(_) | None => return Ok(()),
            }
        }
    }

    async fn sweep_counter(&self, index: &Index, now: Timestamp) -> Result<()> {
        let Some(window) = keyspace::past_window(index) else {
            tracing::error!("malformed name of a counter");
            crate::telemetry::bug("counter_name");
            return Ok(());
        };
        let old = Range {
            end: Some(Member::copy_from_slice(&(now - window).to_be_bytes())),
            ..Range::all(index.clone())
        };
        for _ in 0..MAX_PAGES {
            let read = self
                .store()
                .range(
                    self.shard(),
                    std::slice::from_ref(&old),
                    PAGE,
                    Order::Ascending,
                )
                .await?;
            let members = read.value.into_iter().next().unwrap_or_default();
            if members.is_empty() {
                break;
            }
            let last = members.len() < PAGE;
            self.change_pasts(|batch| {
                for member in members {
                    batch.remove(index.clone(), member);
                }
            })
            .await?;
            if last {
                break;
            }
        }
        let all = Range::all(index.clone());
        if self.store().count(self.shard(), &all, 1).await?.value > 0 {
            return Ok(());
        }
        // Unless something has been counted since.
        let removed = self
            .change_pasts(|batch| {
                batch
                    .preconditions
                    .push(coretex_store::Precondition::SizeBelow {
                        index: index.clone(),
                        limit: 1,
                        name_holders: 0,
                    });
                batch.remove(keyspace::PASTS, index.clone());
            })
            .await;
        match removed {
            Ok(()) | Err(crate::Error::Contention) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a batch of removals. Two that do so at once would do no harm; one of them gives way.
    async fn change_pasts(&self, fill: impl FnOnce(&mut Batch)) -> Result<()> {
        let key = keyspace::past_sweep();
        let read = self
            .store()
            .get(self.shard(), std::slice::from_ref(&key))
            .await?;
        let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
        match read.value.into_iter().next().flatten() {
            Some(record) => batch.replace(key, record.version, Bytes::from_static(b"1")),
            None => batch.create(key, Bytes::from_static(b"1")),
        };
        fill(&mut batch);
        match self.store().commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. } | CommitError::LimitReached(_)) => {
                Err(crate::Error::Contention)
            }
            Err(error) => Err(error.into()),
        }
    }
}
