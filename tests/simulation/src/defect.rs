//! Promises of the store that can be broken, to show that the simulation notices. An engine on such
//! a store does what an engine would do that gets this part wrong itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coretex_core::time::Timestamp;
use coretex_store::{
    Batch, CommitError, CommitId, Committed, Key, LogId, LogPage, Member, Order, Precondition,
    Pressure, Range, Read, Record, Shard, Store, StoreError, StoreInfo, Usage, Write,
};
use coretex_testbench::SeededIds;

/// A promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A record is replaced whatever its version is: updates are lost.
    IgnoresVersions,
    /// A limit on the size of an index is not looked at.
    IgnoresSizes,
    /// What exists already is created again.
    Overwrites,
    /// Now and then a commit that is answered is not applied.
    LosesCommits,
    /// Now and then a commit that is refused is applied.
    RefusesApplied,
    /// Now and then a commit is applied a second time.
    AppliesTwice,
    /// Now and then the record is written without its index entries.
    TearsCommits,
    /// Now and then a change is not in the log.
    ForgetsLog,
    /// A commit of unknown outcome is taken for applied.
    BelievesUnknown,
    /// Nothing is ever found in the index of slots in use.
    ForgetsHeld,
    /// No timer is ever found in the index of clocks.
    ForgetsDue,
    /// Nothing is ever found to be paused.
    ForgetsPaused,
    /// No waiting job is ever found in its queue.
    ForgetsReady,
}

impl Defect {
    /// Every defect.
    pub const ALL: [Self; 13] = [
        Self::IgnoresVersions,
        Self::IgnoresSizes,
        Self::Overwrites,
        Self::LosesCommits,
        Self::RefusesApplied,
        Self::AppliesTwice,
        Self::TearsCommits,
        Self::ForgetsLog,
        Self::BelievesUnknown,
        Self::ForgetsHeld,
        Self::ForgetsDue,
        Self::ForgetsReady,
        Self::ForgetsPaused,
    ];

    /// The index that seems to be empty.
    const fn blind_to(self) -> Option<&'static [u8]> {
        match self {
            Self::ForgetsHeld => Some(b"held"),
            Self::ForgetsDue => Some(b"due"),
            Self::ForgetsPaused => Some(b"paused"),
            Self::ForgetsReady => Some(b"ready"),
            Self::IgnoresVersions
            | Self::IgnoresSizes
            | Self::Overwrites
            | Self::LosesCommits
            | Self::RefusesApplied
            | Self::AppliesTwice
            | Self::TearsCommits
            | Self::ForgetsLog
            | Self::BelievesUnknown => None,
        }
    }
}

/// One commit in so many goes wrong, where not all of them do.
const NOW_AND_THEN: u64 = 40;

/// A store with a defect.
#[derive(Debug)]
pub(crate) struct DefectiveStore {
    inner: Arc<dyn Store>,
    defect: Defect,
    dice: Arc<SeededIds>,
}

impl DefectiveStore {
    pub(crate) fn new(inner: Arc<dyn Store>, defect: Defect, seed: u64) -> Self {
        Self {
            inner,
            defect,
            dice: SeededIds::new(seed ^ 0xdefec7),
        }
    }

    fn now_and_then(&self) -> bool {
        self.dice.below(NOW_AND_THEN) == 0
    }

    /// The batch, with preconditions that hold whatever stands there now.
    async fn at_any_rate(&self, mut batch: Batch) -> Batch {
        for precondition in &mut batch.preconditions {
            let key = match precondition {
                Precondition::At { key, .. } | Precondition::Absent { key } => key.clone(),
                _ => continue,
            };
            let read = self.inner.get(batch.shard, std::slice::from_ref(&key));
            let found = read
                .await
                .ok()
                .and_then(|read| read.value.into_iter().next());
            *precondition = match found.flatten() {
                Some(record) => Precondition::At {
                    key,
                    version: record.version,
                },
                None => Precondition::Absent { key },
            };
        }
        batch
    }

    async fn commit_badly(&self, mut batch: Batch) -> Result<Committed, CommitError> {
        let of = |precondition: &Precondition, at: bool| match precondition {
            Precondition::At { .. } => at,
            Precondition::Absent { .. } => !at,
            _ => false,
        };
        match self.defect {
            Defect::IgnoresVersions if batch.preconditions.iter().any(|one| of(one, true)) => {
                batch = self.at_any_rate(batch).await;
            }
            Defect::IgnoresSizes => {
                batch
                    .preconditions
                    .retain(|one| !matches!(one, Precondition::SizeBelow { .. }));
            }
            Defect::Overwrites if batch.preconditions.iter().any(|one| of(one, false)) => {
                batch = self.at_any_rate(batch).await;
            }
            Defect::LosesCommits if self.now_and_then() => {
                return Ok(Committed {
                    time: self.inner.time().await.unwrap_or_default(),
                    version: batch.commit_id.version(),
                    last_log_id: None,
                    resent: false,
                });
            }
            Defect::RefusesApplied if self.now_and_then() => {
                self.inner.commit(batch).await?;
                return Err(CommitError::Unavailable {
                    reason: "it says".to_owned(),
                });
            }
            Defect::AppliesTwice if self.now_and_then() => {
                self.inner.commit(batch.clone()).await?;
                batch = self.at_any_rate(batch).await;
                batch.commit_id = CommitId(batch.commit_id.0 ^ 1);
            }
            Defect::TearsCommits if self.now_and_then() => {
                batch
                    .writes
                    .retain(|write| !matches!(write, Write::Add { .. } | Write::Remove { .. }));
            }
            Defect::ForgetsLog if self.now_and_then() => {
                batch
                    .writes
                    .retain(|write| !matches!(write, Write::Append { .. }));
            }
            Defect::BelievesUnknown => {
                let (id, shard) = (batch.commit_id, batch.shard);
                return match self.inner.commit(batch).await {
                    Err(CommitError::Unknown { .. }) if shard != Shard::Sys => Ok(Committed {
                        time: self.inner.time().await.unwrap_or_default(),
                        version: id.version(),
                        last_log_id: None,
                        resent: false,
                    }),
                    answer => answer,
                };
            }
            _ => {}
        }
        self.inner.commit(batch).await
    }
}

#[async_trait]
impl Store for DefectiveStore {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        self.inner.get(shard, keys).await
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        let mut read = self.inner.range(shard, ranges, limit, order).await?;
        for (range, members) in ranges.iter().zip(&mut read.value) {
            if self.defect.blind_to() == Some(&*range.index) {
                members.clear();
            }
        }
        Ok(read)
    }

    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError> {
        self.inner.count(shard, range, cap).await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        self.inner.tail(shard, from, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.commit_badly(batch).await
    }

    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError> {
        self.inner.trim(shard, before).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.inner.time().await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage().await
    }

    async fn close(&self, grace: Duration) {
        self.inner.close(grace).await;
    }
}
