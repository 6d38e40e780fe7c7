//! The Redis engine: one Lua script a commit, many commits a pipeline.
//!
//! `layout` says what is where, `commit.lua` how a commit is judged and applied, `writer` how
//! groups travel and what happens when no answer comes, `seen` how a server that lost commits is
//! noticed. Why it is like this, and what it costs: docs/adr/0004-redis.md.

mod answer;
mod connect;
mod encode;
mod errors;
mod layout;
mod monitor;
mod open;
mod options;
mod queue;
mod reads;
mod script;
mod seen;
mod server;
mod upload;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coretex_core::time::Timestamp;
use deadpool::Runtime;
use deadpool::managed::Pool;
use tokio::sync::{oneshot, watch};

pub use options::{RedisOpenError, RedisOptions, RedisTls};

use crate::pressure::LastPressure;
use crate::{
    Batch, CommitError, Committed, Key, LogId, LogPage, Member, Order, Pressure, Range, Read,
    Record, Shard, Store, StoreError, StoreInfo, Usage, validate,
};

use connect::{Connector, PoolManager};
use queue::{Item, Queue};
use script::Scripts;
use seen::Seen;
use writer::Writer;

/// What calls, writer and monitor share.
struct Shared {
    options: Arc<RedisOptions>,
    connector: Arc<Connector>,
    pool: Pool<PoolManager>,
    seen: Arc<Seen>,
    scripts: Scripts,
    queue: Queue,
    pressure: LastPressure,
    /// True once the store is closed.
    closing: watch::Sender<bool>,
}

impl Shared {
    fn is_open(&self) -> Result<(), StoreError> {
        if *self.closing.borrow() {
            Err(errors::unavailable("the store is closed"))
        } else {
            Ok(())
        }
    }

    fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    fn set_pressure(&self, pressure: Pressure) {
        if self.pressure.set(pressure) {
            tracing::warn!(?pressure, "the pressure on the store has changed");
        }
    }

    /// Draws conclusions from a refusal by the server.
    fn refused(&self, refusal: errors::Refusal) {
        match refusal {
            errors::Refusal::NoWrites => self.set_pressure(Pressure::ReadOnly),
            errors::Refusal::NotMaster => {
                self.set_pressure(Pressure::ReadOnly);
                // Behind the same address there may be a master now.
                self.connector.renew_all();
            }
            errors::Refusal::NoScript
            | errors::Refusal::NotNow
            | errors::Refusal::NotAllowed
            | errors::Refusal::Unclear => {}
        }
    }
}

/// A store in a Redis server. Dropping it closes it.
pub struct RedisStore {
    shared: Arc<Shared>,
    id: u128,
    /// Becomes true when the writer has ended.
    ended: watch::Receiver<bool>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Opens a store, creating it where there is none. Needs a tokio runtime, in which the writer
    /// and the monitor go on.
    ///
    /// # Errors
    /// See [`RedisOpenError`]. Nothing that was there is changed.
    pub async fn open(options: RedisOptions) -> Result<Self, RedisOpenError> {
        options.check()?;
        let options = Arc::new(options);
        let opened = Box::pin(open::open(options.clone())).await?;
        let connector = Arc::new(opened.connector);
        let pool = Pool::builder(PoolManager(connector.clone()))
            .max_size(options.connections)
            .wait_timeout(Some(options.wait_timeout))
            .create_timeout(Some(options.connect_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| RedisOpenError::Options {
                reason: "the pool of connections cannot be made",
            })?;
        let shared = Arc::new(Shared {
            queue: Queue::new(
                options.queue_commits,
                options.queue_bytes,
                options.group_commits,
                options.group_bytes,
            ),
            options,
            connector,
            pool,
            seen: opened.seen,
            scripts: opened.scripts,
            pressure: LastPressure::default(),
            closing: watch::Sender::new(false),
        });
        let (ending, ended) = watch::channel(false);
        let writer = Writer::new(shared.clone());
        tokio::spawn(async move {
            writer.run().await;
            ending.send_replace(true);
        });
        tokio::spawn(monitor::run(Arc::downgrade(&shared)));
        Ok(Self {
            shared,
            id: opened.identity.id,
            ended,
        })
    }

    /// The identity of this store, fixed when it was created.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.id
    }

    /// The version of the Redis server that was last connected to.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.shared.connector.version()
    }

    /// Commits that wait for the writer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }
}

#[async_trait]
impl Store for RedisStore {
    fn info(&self) -> StoreInfo {
        StoreInfo {
            engine: "redis",
            durability: self.shared.options.durability,
            shards: self.shared.options.shards,
            exclusive: false,
        }
    }

    fn pressure(&self) -> Pressure {
        self.shared.pressure()
    }

    fn epoch(&self) -> u64 {
        self.shared.seen.epoch()
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        self.shared.get(shard, keys).await
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        self.shared.range(shard, ranges, limit, order).await
    }

    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError> {
        self.shared.count(shard, range, cap).await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        self.shared.tail(shard, from, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let shared = &self.shared;
        validate::check(&batch, shared.options.shards)?;
        let ids = &shared.options.ids;
        let (commit, uploads) =
            encode::encode(&batch, shared.options.upload_above, || ids.random())?;
        // The batch is not needed any more, and may be large.
        drop(batch);
        let sent = upload::send(shared, uploads).await?;
        let (reply, answer) = oneshot::channel();
        let answer = match shared.queue.push(Item { commit, reply }) {
            Ok(()) => answer
                .await
                .unwrap_or_else(|_| Err(errors::unknown("the writer has gone"))),
            Err(queue::Refusal::Full(retry_after)) => Err(CommitError::Overloaded { retry_after }),
            Err(queue::Refusal::Closed) => Err(errors::not_applied("the store is closed")),
        };
        if !matches!(&answer, Ok(committed) if !committed.resent) {
            upload::remove(shared, sent).await;
        }
        answer
    }

    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError> {
        self.shared.trim(shard, before).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.shared.time().await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let facts = monitor::ask(&self.shared).await?;
        Ok(monitor::usage(&facts))
    }

    async fn close(&self, grace: Duration) {
        self.shared.queue.close();
        let mut ended = self.ended.clone();
        let done = ended.wait_for(|ended| *ended);
        if tokio::time::timeout(grace, done).await.is_err() {
            // What has not been sent by now will not be.
            for item in self.shared.queue.abandon() {
                writer::refuse(item, "the store is closing");
            }
        }
        self.shared.closing.send_replace(true);
        self.shared.pool.close();
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.closing.send_replace(true);
    }
}
