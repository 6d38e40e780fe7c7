//! The storage contract: shards, records, sorted indexes, one log a shard, conditional commits.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coretex_core::time::Timestamp;
use serde::Serialize;

use crate::{Batch, CommitError, CommitId, Committed, StoreError};

/// The unit of atomicity. All data of a tenant lives in one data shard; what belongs to no tenant
/// (replica leases, API keys, documents) lives in `Sys`, never in one commit with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shard {
    /// What belongs to no tenant.
    Sys,
    /// The data of the tenants that hash to this number, below [`StoreInfo::shards`].
    Data(u16),
}

/// The full name of a record within its shard. Any bytes; at most 1 KiB.
pub type Key = Bytes;
/// The full name of a sorted index (an ordered set of members) within its shard.
pub type Index = Bytes;
/// One member of a sorted index. Byte order is the order of the index.
pub type Member = Bytes;
/// Names the write that made a record what it is ([`CommitId::version`]); never 0. Versions are equal
/// or not: they neither count nor have an order. A store that has lost a write does not give its
/// version to another.
pub type Version = u64;
/// The dense position of an entry in a shard's log, from 1.
pub type LogId = u64;

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The precondition for the next write of it.
    pub version: Version,
    /// The bytes as they were put; the engine has verified their checksum.
    pub value: Bytes,
    /// The ids of the last eight commits that wrote it, newest last.
    pub commits: Vec<CommitId>,
}

/// A read result with the store time at which it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// Store time of the answer.
    pub time: Timestamp,
}

/// A half-open range of members of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The index.
    pub index: Index,
    /// The first member inside; empty = from the start.
    pub start: Member,
    /// The first member outside; `None` = to the end.
    pub end: Option<Member>,
}

impl Range {
    /// The whole of an index.
    #[must_use]
    pub fn all(index: impl Into<Index>) -> Self {
        Self {
            index: index.into(),
            start: Member::new(),
            end: None,
        }
    }

    /// The members of `index` that start with `prefix`.
    #[must_use]
    pub fn prefix(index: impl Into<Index>, prefix: &[u8]) -> Self {
        Self {
            index: index.into(),
            start: Member::copy_from_slice(prefix),
            end: prefix_end(prefix).map(Member::from),
        }
    }
}

/// The first byte string after all that start with `prefix`; `None` when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The direction of a range read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first member on.
    Ascending,
    /// From the last member back.
    Descending,
}

/// One entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub id: LogId,
    /// The bytes as they were appended.
    pub value: Bytes,
}

/// A part of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// Entries with ids from the asked one on, dense.
    pub entries: Vec<Entry>,
    /// The oldest id that is still kept (`next` when the log is empty). A reader that asked for
    /// less has missed entries.
    pub first: LogId,
    /// The id that the next appended entry will get.
    pub next: LogId,
}

/// What survives what, once a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Memory only: nothing survives the process.
    Ephemeral,
    /// A crash, of the machine or of the process, may lose whole commits of about the last second.
    Async,
    /// A replica of the store has it.
    Replicated,
    /// It is on disk.
    Fsync,
}

/// What an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Name for people and metrics: `embedded`, `redis`.
    pub engine: &'static str,
    /// What survives what.
    pub durability: Durability,
    /// Number of data shards, fixed when the store was created.
    pub shards: u16,
    /// True when no other process can use the store at the same time. A starting replica may then
    /// take over from its predecessors at once instead of waiting for their leases.
    pub exclusive: bool,
}

/// How full the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use: of the file (holes not counted), or of the server's memory.
    pub bytes: u64,
    /// Bytes there are; 0 = unknown.
    pub capacity: u64,
}

/// Whether new work should be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// All is well.
    Normal,
    /// Above 85 % of memory or disk: refuse submits; results, cancels and deletes still commit.
    High,
    /// Writes fail (disk full, I/O errors): read-only until it recovers by itself.
    ReadOnly,
}

/// Storage with linearizable, all-or-nothing, conditional commits per shard, and reads that see
/// every commit acknowledged before they began.
///
/// Values are opaque; the engine adds version, commit ids and a checksum, and verifies the checksum
/// on every read ([`StoreError::DataLoss`]). All methods are safe to drop at any await point: a
/// dropped `commit` has an unknown outcome.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// What this engine is.
    fn info(&self) -> StoreInfo;

    /// Whether new work should be accepted, from what the engine saw last; never blocks.
    fn pressure(&self) -> Pressure;

    /// A number that changes when the store has lost commits that it had acknowledged, or may have:
    /// a failover to a replica that was behind, a restart without data, a failed write where
    /// [`Durability::Async`] had not yet put earlier ones on disk. From then on the store is right
    /// and everything remembered from before is not: caches are dropped, and attempts that the
    /// store does not know are stopped. It has changed by the time the first answer from after the
    /// loss is given, as far as the engine can notice; never blocks.
    fn epoch(&self) -> u64;

    /// Reads records, answered in the order of `keys`; `None` where there is none (or a tombstone,
    /// or a record past its time to live).
    ///
    /// # Errors
    /// `Unavailable`, `DataLoss`.
    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError>;

    /// Reads up to `limit` members of *each* range, all from one instant.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError>;

    /// Counts the members of a range, stopping at `cap`. The whole of an index
    /// ([`Range::all`]) is answered without counting.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError>;

    /// Reads up to `limit` log entries from `from` on.
    ///
    /// # Errors
    /// `Unavailable`, `DataLoss`.
    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError>;

    /// Applies a batch all or nothing. Preconditions are checked before the first write, the commit
    /// id before the preconditions: a batch whose id is among the commits of a record that it
    /// preconditions has been applied, and answers so again. The first precondition that does not
    /// hold, in their order, is the one that is reported. `validate` has the rules for batches.
    ///
    /// # Errors
    /// See [`CommitError`]; `Unknown` is settled only by sending the same batch again.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// Drops log entries with ids below `before`. Ids of later entries do not change.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError>;

    /// Store time now.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn time(&self) -> Result<Timestamp, StoreError>;

    /// How full the store is.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn usage(&self) -> Result<Usage, StoreError>;

    /// Writes out what is pending and closes within `grace`. Later calls answer `Unavailable`.
    async fn close(&self, grace: Duration);
}
