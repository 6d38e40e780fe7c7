//! A layer that notes every name that is ever written, can die like a process, answer slowly, and
//! claim to be shared or full.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coretex_core::time::Timestamp;
use coretex_store::{
    Batch, CommitError, Committed, Index, Key, LogId, LogPage, Member, Order, Pressure, Range,
    Read, Record, Shard, Store, StoreError, StoreInfo, Usage, Write,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Every record and index that any batch has named.
#[derive(Debug, Default)]
pub struct Names {
    keys: Mutex<BTreeSet<(Shard, Key)>>,
    indexes: Mutex<BTreeSet<(Shard, Index)>>,
}

impl Names {
    fn note(&self, batch: &Batch) {
        for write in &batch.writes {
            match write {
                Write::Put { key, .. } | Write::Delete { key } => {
                    self.keys.lock().insert((batch.shard, key.clone()));
                }
                Write::Add { index, .. } | Write::Remove { index, .. } => {
                    self.indexes.lock().insert((batch.shard, index.clone()));
                }
                Write::Append { .. } => {}
            }
        }
    }

    pub fn keys(&self, shard: Shard) -> Vec<Key> {
        let keys = self.keys.lock();
        let of_shard = keys.iter().filter(|(of, _)| *of == shard);
        of_shard.map(|(_, key)| key.clone()).collect()
    }

    pub fn indexes(&self, shard: Shard) -> Vec<Index> {
        let indexes = self.indexes.lock();
        let of_shard = indexes.iter().filter(|(of, _)| *of == shard);
        of_shard.map(|(_, index)| index.clone()).collect()
    }
}

/// The layer.
#[derive(Debug)]
pub struct Tap {
    inner: Arc<dyn Store>,
    names: Arc<Names>,
    exclusive: bool,
    dead: AtomicBool,
    away: Mutex<Away>,
    /// Rings when that changes.
    changed: Notify,
    epochs: AtomicU64,
    read_pause: Mutex<Duration>,
    pressure: Mutex<Option<Pressure>>,
    commits: AtomicU64,
    reads: AtomicU64,
    sys_reads: AtomicU64,
}

/// What hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Nothing,
    Leases,
    Everything,
}

impl Tap {
    pub fn new(inner: Arc<dyn Store>, names: Arc<Names>, exclusive: bool) -> Self {
        Self {
            inner,
            names,
            exclusive,
            dead: AtomicBool::new(false),
            away: Mutex::new(Away::Nothing),
            changed: Notify::new(),
            epochs: AtomicU64::new(0),
            read_pause: Mutex::default(),
            pressure: Mutex::default(),
            commits: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            sys_reads: AtomicU64::new(0),
        }
    }

    /// Whoever stands on this store never hears from it again, and it never from them.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// What is asked from now on hangs, and is only sent when the store comes back.
    pub fn take_away(&self) {
        self.set(Away::Everything);
    }

    /// The same for commits about leases alone.
    pub fn take_leases_away(&self) {
        self.set(Away::Leases);
    }

    /// The end of [`Self::take_away`].
    pub fn bring_back(&self) {
        self.set(Away::Nothing);
    }

    /// The store says that it may have lost commits.
    pub fn rewind(&self) {
        self.epochs.fetch_add(1, Ordering::Relaxed);
    }

    /// Every read takes this long from now on.
    pub fn slow_reads(&self, pause: Duration) {
        *self.read_pause.lock() = pause;
    }

    pub fn pretend(&self, pressure: Pressure) {
        *self.pressure.lock() = Some(pressure);
    }

    /// Commits to the data shard so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Reads of the data shard so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Reads of what belongs to no tenant so far.
    pub fn sys_reads(&self) -> u64 {
        self.sys_reads.load(Ordering::Relaxed)
    }

    async fn gate(&self) {
        if self.dead.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        self.wait(|away| away != Away::Everything).await;
    }

    fn set(&self, away: Away) {
        *self.away.lock() = away;
        self.changed.notify_waiters();
    }

    async fn wait(&self, until: impl Fn(Away) -> bool) {
        loop {
            let changed = self.changed.notified();
            if until(*self.away.lock()) {
                return;
            }
            changed.await;
        }
    }

    async fn read(&self, shard: Shard) {
        self.gate().await;
        let counter = match shard {
            Shard::Sys => &self.sys_reads,
            Shard::Data(_) => &self.reads,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let pause = *self.read_pause.lock();
        if !pause.is_zero() {
            crate::pass(pause).await;
            self.gate().await;
        }
    }
}

#[async_trait]
impl Store for Tap {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            exclusive: self.exclusive,
            ..self.inner.info()
        }
    }

    fn pressure(&self) -> Pressure {
        self.pressure
            .lock()
            .unwrap_or_else(|| self.inner.pressure())
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch() + self.epochs.load(Ordering::Relaxed)
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        // What is read is what was there when it was asked for.
        let answer = self.inner.get(shard, keys).await;
        self.read(shard).await;
        answer
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        let answer = self.inner.range(shard, ranges, limit, order).await;
        self.read(shard).await;
        answer
    }

    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError> {
        self.read(shard).await;
        self.inner.count(shard, range, cap).await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        self.read(shard).await;
        self.inner.tail(shard, from, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.gate().await;
        if batch.shard == Shard::Sys {
            self.wait(|away| away == Away::Nothing).await;
        }
        self.names.note(&batch);
        if batch.shard != Shard::Sys {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        let answer = self.inner.commit(batch).await;
        self.gate().await;
        answer
    }

    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError> {
        self.gate().await;
        self.inner.trim(shard, before).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.gate().await;
        self.inner.time().await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.gate().await;
        self.inner.usage().await
    }

    async fn close(&self, grace: Duration) {
        self.inner.close(grace).await;
    }
}
