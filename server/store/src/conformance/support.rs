//! Clocks, ids and shorthands for the suite and for tests of engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::{Clock, IdGen, Timestamp};

use crate::{
    Batch, CommitId, Committed, Index, Key, Member, Order, Precondition, Range, Record, Shard,
    Store, Write,
};

/// The shard that most tests use.
pub(super) const SHARD: Shard = Shard::Data(0);

/// A clock that moves only when told.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl Default for ManualClock {
    fn default() -> Self {
        Self(AtomicU64::new(1_700_000_000_000_000))
    }
}

impl ManualClock {
    /// Moves forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as u64, Ordering::AcqRel);
    }

    /// Jumps, in either direction.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::Release);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Acquire))
    }
}

/// Ids from a seed: the same in every run.
#[derive(Debug)]
pub struct SeededIds(AtomicU64);

impl SeededIds {
    /// A sequence of its own for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn word(&self) -> u64 {
        // SplitMix64.
        let mut z = self
            .0
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdGen for SeededIds {
    fn random(&self) -> u128 {
        (u128::from(self.word()) << 64) | u128::from(self.word())
    }

    fn sortable(&self, now: Timestamp) -> String {
        format!("{:016x}-{:032x}", now.as_micros(), self.random())
    }
}

static IDS: SeededIds = SeededIds::new(7);

/// A commit id that no other batch of this process has.
pub(super) fn fresh() -> CommitId {
    CommitId(IDS.random())
}

/// Bytes of a text.
pub(super) fn b(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

/// An empty batch for the usual shard.
pub(super) fn batch() -> Batch {
    Batch::new(SHARD, fresh())
}

/// A batch that creates one record.
pub(super) fn creation(key: &str, value: &str) -> Batch {
    let mut batch = batch();
    batch.create(b(key), b(value));
    batch
}

/// A blind put, to be joined to a batch with an identity.
pub(super) fn put(key: &str, value: &str, ttl: Option<Duration>) -> Write {
    Write::Put {
        key: b(key),
        value: b(value),
        ttl,
    }
}

pub(super) fn size_below(index: &str, limit: u64, name_holders: usize) -> Precondition {
    Precondition::SizeBelow {
        index: b(index),
        limit,
        name_holders,
    }
}

pub(super) async fn apply(store: &Arc<dyn Store>, batch: Batch) -> Committed {
    store.commit(batch).await.expect("the batch should apply")
}

pub(super) async fn record(store: &Arc<dyn Store>, key: &str) -> Option<Record> {
    let mut read = store.get(SHARD, &[b(key)]).await.expect("a read");
    read.value.pop().expect("one answer per key")
}

pub(super) async fn value(store: &Arc<dyn Store>, key: &str) -> Option<Bytes> {
    record(store, key).await.map(|record| record.value)
}

pub(super) async fn members(store: &Arc<dyn Store>, index: &str) -> Vec<Member> {
    let ranges = [Range::all(b(index))];
    let mut read = store
        .range(SHARD, &ranges, usize::MAX, Order::Ascending)
        .await
        .expect("a read");
    read.value.pop().expect("one answer per range")
}

pub(super) async fn size(store: &Arc<dyn Store>, index: &str) -> u64 {
    store
        .count(SHARD, &Range::all(b(index)), u64::MAX)
        .await
        .expect("a count")
        .value
}

/// Everything that can be seen of some names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    records: Vec<Option<Record>>,
    indexes: Vec<Vec<Member>>,
    sizes: Vec<u64>,
    log: crate::LogPage,
}

pub(super) async fn sight(store: &Arc<dyn Store>, keys: &[Key], indexes: &[Index]) -> Sight {
    let ranges: Vec<Range> = indexes.iter().cloned().map(Range::all).collect();
    let mut sizes = Vec::new();
    for range in &ranges {
        let size = store.count(SHARD, range, u64::MAX).await.expect("a count");
        sizes.push(size.value);
    }
    Sight {
        records: store.get(SHARD, keys).await.expect("a read").value,
        indexes: store
            .range(SHARD, &ranges, usize::MAX, Order::Ascending)
            .await
            .expect("a read")
            .value,
        sizes,
        log: store
            .tail(SHARD, 0, usize::MAX)
            .await
            .expect("a read")
            .value,
    }
}
