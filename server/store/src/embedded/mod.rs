//! The embedded engine: redb in a directory or in memory, one writer, group commit.
//!
//! Commits go through one writer that puts up to 128 of them into one transaction and one fsync;
//! reads are snapshots and never wait for it. `layout` says what is where, `group` how a commit is
//! judged and applied, `writer` what happens when the disk fails, `upkeep` how things end.

mod counts;
mod disk;
mod envelope;
mod group;
mod layout;
mod open;
mod options;
mod queue;
mod reads;
mod upkeep;
mod writer;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use coretex_core::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use disk::{DiskHook, DiskOp, Space};
pub use open::VERIFIED_BYTES;
pub use options::{
    EmbeddedOptions, GroupObserver, GroupReport, OpenError, RepairObserver, RepairProgress, Verify,
    WriterMode,
};

use crate::{
    Batch, CommitError, Committed, Key, LogId, LogPage, Member, Order, Pressure, Range, Read,
    Record, Shard, Store, StoreError, StoreInfo, Usage, validate,
};

use queue::{Item, Refusal, Request};
use writer::{Shared, Writer};

/// A store in this process. Dropping it closes it.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    id: u128,
    /// The writer, when it runs inside calls.
    inline: Option<Mutex<Writer>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Becomes true when the writer has closed the database.
    closed: watch::Receiver<bool>,
    closing: watch::Sender<bool>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens a store, creating it when there is none. Blocks: for milliseconds on a store that was
    /// closed, for as long as verifying the file takes after a crash (see
    /// [`EmbeddedOptions::on_repair`]).
    ///
    /// # Errors
    /// See [`OpenError`]. What is damaged or not ours is left as it is.
    pub fn open(options: EmbeddedOptions) -> Result<Self, OpenError> {
        options.check()?;
        let opened = open::open(&options)?;
        let mode = options.writer;
        let clock = options.clock.now();
        if opened.identity.time > clock + Duration::from_secs(60) {
            tracing::warn!(
                store_time = %opened.identity.time,
                clock = %clock,
                "the clock is behind the store; store time stands still until it has caught up"
            );
        }
        let directory = options.path.clone();
        let shared = Arc::new(Shared::new(
            options,
            opened.disk,
            opened.files,
            opened.database,
            opened.identity.time,
        ));
        let (closing, closed) = watch::channel(false);
        let writer = Writer::new(shared.clone());
        let mut store = Self {
            shared,
            id: opened.identity.id,
            inline: None,
            thread: Mutex::new(None),
            closed,
            closing,
        };
        match mode {
            WriterMode::Inline => store.inline = Some(Mutex::new(writer)),
            WriterMode::Thread => {
                let closing = store.closing.clone();
                let thread = std::thread::Builder::new()
                    .name("coretex-store".to_owned())
                    .spawn(move || {
                        writer.run();
                        closing.send_replace(true);
                    })
                    .map_err(|source| OpenError::Io {
                        path: directory.unwrap_or_default(),
                        source,
                    })?;
                store.thread = Mutex::new(Some(thread));
            }
        }
        Ok(store)
    }

    /// The identity of this store, fixed when it was created.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.id
    }

    /// Bytes written to the disk or memory since the store was opened.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.shared.disk.written()
    }

    /// Commits that wait for the writer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    /// Hands a request to the writer.
    fn submit(&self, item: Item) -> Result<(), CommitError> {
        if let Some(writer) = &self.inline {
            let mut writer = writer.lock();
            if *self.closing.borrow() {
                return Err(closed());
            }
            writer.serve(&mut vec![item]);
            return Ok(());
        }
        self.shared
            .queue
            .push(item)
            .map_err(|refusal| match refusal {
                Refusal::Full(retry_after) => CommitError::Overloaded { retry_after },
                Refusal::Closed => closed(),
            })
    }

    fn is_open(&self) -> Result<(), StoreError> {
        if *self.closing.borrow() {
            Err(unavailable("the store is closed"))
        } else {
            Ok(())
        }
    }
}

fn closed() -> CommitError {
    CommitError::Unavailable {
        reason: "the store is closed".to_owned(),
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: reason.to_owned(),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            engine: "embedded",
            durability: self.shared.options.durability,
            shards: self.shared.options.shards,
            exclusive: true,
        }
    }

    fn pressure(&self) -> Pressure {
        self.shared.pressure()
    }

    fn epoch(&self) -> u64 {
        // What a crash takes, it takes together with this process.
        self.shared.epoch()
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        self.read(shard, keys.len(), {
            let keys = keys.to_vec();
            move |read, now| reads::get(read, shard, &keys, now)
        })
        .await
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        self.read(shard, ranges.len().saturating_mul(limit), {
            let ranges = ranges.to_vec();
            move |read, _| reads::range(read, shard, &ranges, limit, order)
        })
        .await
    }

    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError> {
        let whole = range.start.is_empty() && range.end.is_none();
        let weight = if whole {
            1
        } else {
            usize::try_from(cap).unwrap_or(usize::MAX)
        };
        self.read(shard, weight, {
            let range = range.clone();
            move |read, _| reads::count(read, shard, &range, cap)
        })
        .await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        self.read(shard, limit, move |read, _| {
            reads::tail(read, shard, from, limit)
        })
        .await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let bytes = validate::check(&batch, self.shared.options.shards)?;
        let (reply, answer) = oneshot::channel();
        self.submit(Item {
            request: Request::Commit { batch, reply },
            bytes,
        })?;
        answer.await.unwrap_or_else(|_| {
            Err(CommitError::Unknown {
                reason: "the writer has gone".to_owned(),
            })
        })
    }

    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError> {
        reads::check_shard(shard, self.shared.options.shards)?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Trim {
            shard: layout::shard_code(shard),
            before,
            reply,
        };
        self.submit(Item { request, bytes: 16 })
            .map_err(|error| unavailable(&error.to_string()))?;
        answer
            .await
            .unwrap_or_else(|_| Err(unavailable("the writer has gone")))
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.is_open()?;
        Ok(self.shared.now())
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.is_open()?;
        let shared = &self.shared;
        let directory = shared.files.as_ref().map(|files| files.directory.as_path());
        let space = upkeep::space(&shared.disk, directory);
        Ok(upkeep::usage(shared.disk.used(), space))
    }

    async fn close(&self, grace: Duration) {
        if let Some(writer) = &self.inline {
            let mut writer = writer.lock();
            if !self.closing.send_replace(true) {
                writer.close();
            }
            return;
        }
        self.shared.queue.close();
        let mut closed = self.closed.clone();
        let done = closed.wait_for(|closed| *closed);
        if tokio::time::timeout(grace, done).await.is_err() {
            // What has not begun by now will not.
            for item in self.shared.queue.abandon() {
                writer::refuse(item, "the store is closing");
            }
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        if let Some(writer) = &self.inline {
            if !self.closing.send_replace(true) {
                writer.lock().close();
            }
        } else {
            self.shared.queue.close();
            // No call is under way here: the writer has at most its last transaction to end. A
            // panic of it has been answered by then.
            if let Some(thread) = self.thread.lock().take() {
                let _ = thread.join();
            }
        }
    }
}
