//! The conformance suite against Redis servers, and what is the Redis engine's own: buckets
//! compared with `gcra`, uploads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;
mod redis_server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coretex_store::conformance::{End, Fixture, Making};
use coretex_store::gcra::{Bucket, Demand, take};
use coretex_store::redis::{RedisOptions, RedisStore};
use coretex_store::{
    Batch, CommitError, Durability, Limit, Precondition, Rate, Store, store_conformance,
};
use proptest::prelude::*;
use rustix::process::Signal;

use common::{SHARD, b, copy_files, creation, fresh};
use redis_server::{Server, available, ephemeral, options, pass_store_time};

struct Redis {
    server: Server,
    options: RedisOptions,
    store: Option<Arc<RedisStore>>,
    copy: Option<tempfile::TempDir>,
}

impl Redis {
    async fn boxed(shards: u16, durability: Durability) -> Box<dyn Fixture> {
        let (server, url) = match durability {
            Durability::Fsync => {
                let server = Server::durable("always").await;
                let url = server.url();
                (server, url)
            }
            _ => {
                let server = Server::durable("everysec").await;
                let url = server.unix_url();
                (server, url)
            }
        };
        let mut options = options(url);
        options.durability = durability;
        options.shards = shards;
        let store = RedisStore::open(options.clone()).await.unwrap();
        Box::new(Self {
            server,
            options,
            store: Some(Arc::new(store)),
            copy: None,
        })
    }

    /// Ends store and server.
    async fn stop(&mut self, end: End) {
        let store = self.store.take().unwrap();
        if end == End::Closed {
            store.close(Duration::from_secs(10)).await;
            drop(store);
            self.server.stop(Signal::TERM);
        } else {
            self.server.stop(Signal::KILL);
            drop(store);
        }
    }

    async fn start(&mut self) {
        self.server.again().await;
        let store = RedisStore::open(self.options.clone()).await.unwrap();
        self.store = Some(Arc::new(store));
    }
}

#[async_trait]
impl Fixture for Redis {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    async fn advance(&self, by: Duration) {
        pass_store_time(self.store().as_ref(), by).await;
    }

    fn exact_time(&self) -> bool {
        false
    }

    async fn reopen(&mut self, end: End) -> bool {
        self.stop(end).await;
        self.start().await;
        true
    }

    async fn keep_copy(&mut self) -> bool {
        self.stop(End::Closed).await;
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.server.append_only(), copy.path());
        self.copy = Some(copy);
        self.start().await;
        true
    }

    async fn go_back(&mut self) {
        self.stop(End::Killed).await;
        self.server.wipe();
        let copy = self.copy.as_ref().unwrap();
        copy_files(copy.path(), &self.server.append_only());
        self.start().await;
    }
}

fn everysec(shards: u16) -> Making {
    Box::pin(Redis::boxed(shards, Durability::Async))
}

fn always(shards: u16) -> Making {
    Box::pin(Redis::boxed(shards, Durability::Fsync))
}

store_conformance!(asynchronous, crate::everysec, if crate::available);
store_conformance!(fsync, crate::always, if crate::available);

/// One demand on one of two buckets.
fn demand() -> impl Strategy<Value = (u8, Rate, u32)> {
    let permits = prop_oneof![1..10_u32, 900..1_100_u32, Just(u32::MAX)];
    let per = prop_oneof![
        (1..2_000_000_u64).prop_map(Duration::from_micros),
        (1..100_000_u64).prop_map(Duration::from_secs),
    ];
    let burst = prop_oneof![1..5_u32, 1_000..2_000_u32];
    (0..2_u8, permits, per, burst, 0..6_u32).prop_map(|(bucket, permits, per, burst, cost)| {
        let rate = Rate {
            permits,
            per,
            burst,
        };
        (bucket, rate, cost.min(burst))
    })
}

/// The script counts as `gcra` does: a grant tells the time, from which the next state follows; a
/// refusal names a time that depends on nothing but the state.
#[tokio::test]
async fn buckets_agree_with_gcra() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = RedisStore::open(ephemeral(server.unix_url()))
        .await
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut refusals = 0;
    for case in 0..60 {
        let demands = proptest::collection::vec(demand(), 1..25);
        let tree = demands.new_tree(&mut runner).unwrap();
        let mut buckets: [Option<Bucket>; 2] = [None, None];
        for (bucket, rate, cost) in proptest::strategy::ValueTree::current(&tree) {
            let state = &mut buckets[usize::from(bucket)];
            let mut batch = Batch::new(SHARD, fresh());
            batch.create(b(format!("{:?}", batch.commit_id)), Bytes::new());
            batch.preconditions.push(Precondition::Bucket {
                key: b(format!("{case}/{bucket}")),
                rate,
                cost,
            });
            let before = store.time().await.unwrap();
            match store.commit(batch).await {
                Ok(committed) => match take(*state, &rate, cost, committed.time) {
                    Demand::Granted(next) => *state = Some(next),
                    Demand::Refused(at) => panic!("granted before {at}: {rate:?}, {cost}"),
                },
                Err(CommitError::LimitReached(Limit::Bucket { at, .. })) => {
                    refusals += 1;
                    let expected = take(*state, &rate, cost, before);
                    assert_eq!(expected, Demand::Refused(at), "{state:?} {rate:?}, {cost}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(refusals > 50, "{refusals}");
}

/// Values around and far above the size from which they are uploaded come and go like any other,
/// and leave nothing behind.
#[tokio::test]
async fn large_values_are_uploaded_and_moved_into_place() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = RedisStore::open(ephemeral(server.unix_url()))
        .await
        .unwrap();
    let sizes = [64 * 1024, 64 * 1024 + 1, 3_000_000, 10, 70_000];
    let value = |size: usize| Bytes::from((0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let read = || async {
        let mut read = store.get(SHARD, &[b("large")]).await.unwrap();
        read.value.pop().unwrap()
    };
    let first = store.commit(creation("large", value(sizes[0]))).await;
    let mut version = first.unwrap().version;
    for size in sizes.into_iter().skip(1) {
        let mut batch = Batch::new(SHARD, fresh());
        batch
            .replace(b("large"), version, value(size))
            .append(value(size));
        let committed = store.commit(batch.clone()).await.unwrap();
        version = committed.version;
        let record = read().await.unwrap();
        assert_eq!((record.version, record.value), (version, value(size)));
        let page = store
            .tail(SHARD, committed.last_log_id.unwrap(), 1)
            .await
            .unwrap();
        assert_eq!(page.value.entries[0].value, value(size));
        // Neither a resend nor a refusal leaves its upload.
        let again = store.commit(batch.clone()).await.unwrap();
        assert!(again.resent);
        batch.commit_id = fresh();
        store.commit(batch).await.unwrap_err();
    }
    assert_eq!(read().await.unwrap().commits.len(), sizes.len());
    assert_eq!(
        server.command(&["TTL", "{s0}rlarge"]).await,
        redis::Value::Int(-1)
    );
    // With a time to live, and gone after it.
    let mut short = Batch::new(SHARD, fresh());
    short.create(b("identity"), Bytes::new());
    short.writes.push(coretex_store::Write::Put {
        key: b("short"),
        value: value(100_000),
        ttl: Some(Duration::from_millis(300)),
    });
    store.commit(short).await.unwrap();
    assert_ne!(
        server.command(&["PTTL", "{s0}rshort"]).await,
        redis::Value::Int(-1)
    );
    pass_store_time(&store, Duration::from_millis(300)).await;
    assert_eq!(store.get(SHARD, &[b("short")]).await.unwrap().value, [None]);
    let mut delete = Batch::new(SHARD, fresh());
    delete.delete(b("large"), version);
    store.commit(delete).await.unwrap();
    assert_eq!(read().await, None);
    let redis::Value::Array(left) = server.command(&["KEYS", "{s0}t*"]).await else {
        panic!("a list of keys");
    };
    assert!(left.is_empty(), "{left:?}");
}
