//! Full memory and flipped bits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;
mod redis_server;

use std::time::Duration;

use bytes::Bytes;
use coretex_store::redis::RedisStore;
use coretex_store::{Batch, CommitError, Precondition, Pressure, Rate, Store, StoreError};
use redis::aio::MultiplexedConnection;

use common::{SHARD, b, creation, fresh};
use redis_server::{Server, available, ephemeral, until};

async fn pressure(store: &RedisStore, wanted: Pressure) {
    until("the pressure is noticed", || async {
        (store.pressure() == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn full_memory_refuses_what_grows_takes_what_shrinks_and_recovers() {
    if !available() {
        return;
    }
    const RECORDS: usize = 300;
    let server = Server::start(&[]).await;
    let mut options = ephemeral(server.unix_url());
    options.poll = Duration::from_millis(20);
    let store = RedisStore::open(options).await.unwrap();
    let mut versions = Vec::new();
    for number in 0..RECORDS {
        let mut batch = creation(&format!("{number}"), vec![7; 60_000]);
        batch.add(b("all"), b(number.to_string()));
        versions.push(store.commit(batch).await.unwrap().version);
    }
    pressure(&store, Pressure::Normal).await;
    let used: u64 = server.info("used_memory").await.parse().unwrap();
    let limit = |bytes: u64| {
        let server = &server;
        async move {
            let bytes = bytes.to_string();
            server
                .command(&["CONFIG", "SET", "maxmemory", &bytes])
                .await
        }
    };
    limit(used * 10 / 9).await;
    pressure(&store, Pressure::High).await;
    let usage = store.usage().await.unwrap();
    assert_eq!(usage.capacity, used * 10 / 9);
    assert!(usage.bytes * 100 > usage.capacity * 85);
    store.commit(creation("result", "value")).await.unwrap();
    limit(used - 4_000_000).await;
    let refused = store.commit(creation("more", "value")).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    assert_eq!(store.pressure(), Pressure::ReadOnly);
    // Uploads too are refused and not lost.
    let refused = store
        .commit(creation("much", vec![1; 100_000]))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    let read = store
        .get(SHARD, &[b("1"), b("more"), b("much")])
        .await
        .unwrap();
    let found: Vec<_> = read.value.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, false]);
    for (number, version) in versions.into_iter().enumerate().take(RECORDS / 2) {
        let mut batch = Batch::new(SHARD, fresh());
        batch.delete(b(number.to_string()), version);
        batch.remove(b("all"), b(number.to_string()));
        store.commit(batch).await.unwrap();
    }
    pressure(&store, Pressure::Normal).await;
    store.commit(creation("more", "value")).await.unwrap();
}

/// A store with one of everything.
async fn stocked(server: &Server) -> RedisStore {
    let store = RedisStore::open(ephemeral(server.unix_url()))
        .await
        .unwrap();
    let mut batch = creation("key", "some value");
    batch.append(b("one")).append(b("two"));
    batch.preconditions.push(Precondition::Bucket {
        key: b("bucket"),
        rate: RATE,
        cost: 1,
    });
    store.commit(batch).await.unwrap();
    let gone = store.commit(creation("gone", "")).await.unwrap();
    let mut delete = Batch::new(SHARD, fresh());
    delete.delete(b("gone"), gone.version);
    store.commit(delete).await.unwrap();
    store
}

const RATE: Rate = Rate {
    permits: 1,
    per: Duration::from_secs(10),
    burst: 5,
};

async fn stored(raw: &mut MultiplexedConnection, key: &str) -> Vec<u8> {
    redis::cmd("GET").arg(key).query_async(raw).await.unwrap()
}

async fn put(raw: &mut MultiplexedConnection, key: &str, value: &[u8]) {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value);
    command.exec_async(raw).await.unwrap();
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers have no other use for it"
)]
fn lost<T: std::fmt::Debug>(answer: Result<T, StoreError>, what: &str) {
    assert!(
        matches!(answer, Err(StoreError::DataLoss { .. })),
        "{what}: {answer:?}"
    );
}

/// Every flipped bit of a record, living or deleted, is noticed by who reads it; every one of its
/// header also by who writes it.
#[tokio::test]
async fn a_flipped_bit_of_a_record_is_data_loss() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = stocked(&server).await;
    let mut raw = server.raw().await;
    for (name, header) in [("key", 48), ("gone", 64)] {
        let key = format!("{{s0}}r{name}");
        let whole = stored(&mut raw, &key).await;
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            put(&mut raw, &key, &damaged).await;
            let what = format!("bit {bit} of {name}");
            lost(store.get(SHARD, &[b(name)]).await, &what);
            if bit < header * 8 {
                let mut batch = Batch::new(SHARD, fresh());
                batch.replace(b(name), 1, b("new"));
                let answer = store.commit(batch).await;
                assert!(
                    matches!(answer, Err(CommitError::DataLoss { .. })),
                    "{what}: {answer:?}"
                );
                let mut pointed = creation("never", "");
                pointed.preconditions.push(Precondition::Pointer {
                    key: b(name),
                    value: b("some value"),
                });
                let answer = store.commit(pointed).await;
                assert!(
                    matches!(answer, Err(CommitError::DataLoss { .. })),
                    "{what}: {answer:?}"
                );
            }
        }
        for length in 0..whole.len() {
            put(&mut raw, &key, &whole[..length]).await;
            if length > 0 {
                lost(store.get(SHARD, &[b(name)]).await, "cut off");
            }
        }
        put(&mut raw, &key, &whole).await;
        store.get(SHARD, &[b(name)]).await.unwrap();
    }
    // A record in the place of another is no better.
    let whole = stored(&mut raw, "{s0}rkey").await;
    put(&mut raw, "{s0}rother", &whole).await;
    lost(store.get(SHARD, &[b("other")]).await, "elsewhere");
    assert_eq!(store.get(SHARD, &[b("never")]).await.unwrap().value, [None]);
}

#[tokio::test]
async fn a_flipped_bit_of_a_bucket_or_a_shard_is_data_loss() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = stocked(&server).await;
    let mut raw = server.raw().await;
    for key in ["{s0}bbucket", "{s0}m"] {
        let whole = stored(&mut raw, key).await;
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            put(&mut raw, key, &damaged).await;
            let mut batch = creation("never", "");
            batch.preconditions.push(Precondition::Bucket {
                key: b("bucket"),
                rate: RATE,
                cost: 1,
            });
            let answer = store.commit(batch).await;
            assert!(
                matches!(answer, Err(CommitError::DataLoss { .. })),
                "bit {bit}: {answer:?}"
            );
            if key == "{s0}m" {
                lost(store.get(SHARD, &[b("key")]).await, "state");
                lost(store.tail(SHARD, 1, 1).await, "state");
                lost(store.trim(SHARD, 2).await, "state");
            }
        }
        put(&mut raw, key, &whole).await;
    }
    store.commit(creation("never", "")).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_or_a_gap_in_the_log_is_data_loss() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = stocked(&server).await;
    let mut raw = server.raw().await;
    let entries: Vec<(String, (String, Vec<u8>))> = redis::cmd("XRANGE")
        .arg("{s0}l")
        .arg("-")
        .arg("+")
        .query_async(&mut raw)
        .await
        .unwrap();
    let refill = async |raw: &mut MultiplexedConnection,
                        change: &dyn Fn(usize, Vec<u8>) -> Option<Vec<u8>>| {
        redis::cmd("DEL")
            .arg("{s0}l")
            .exec_async(raw)
            .await
            .unwrap();
        for (position, (id, (field, entry))) in entries.iter().enumerate() {
            if let Some(entry) = change(position, entry.clone()) {
                let mut command = redis::cmd("XADD");
                command.arg("{s0}l").arg(id).arg(field).arg(entry);
                command.exec_async(raw).await.unwrap();
            }
        }
    };
    for bit in 0..7 * 8 {
        refill(&mut raw, &|position, mut entry| {
            if position == 1 {
                entry[bit / 8] ^= 1 << (bit % 8);
            }
            Some(entry)
        })
        .await;
        lost(store.tail(SHARD, 1, 9).await, &format!("bit {bit}"));
        let page = store.tail(SHARD, 1, 1).await.unwrap();
        assert_eq!(page.value.entries[0].value, b("one"));
    }
    for gone in [0, 1] {
        refill(&mut raw, &|position, entry| {
            (position != gone).then_some(entry)
        })
        .await;
        lost(store.tail(SHARD, 1, 9).await, "a gap");
    }
    // A log that is further than the shard knows takes no entry, and nothing of the batch is done.
    refill(&mut raw, &|_, entry| Some(entry)).await;
    let mut ahead = redis::cmd("XADD");
    ahead.arg("{s0}l").arg("9-0").arg("e").arg("x");
    ahead.exec_async(&mut raw).await.unwrap();
    let mut batch = creation("half", "");
    batch.append(Bytes::new()).add(b("half"), b("m"));
    let answer = store.commit(batch).await;
    assert!(
        matches!(answer, Err(CommitError::DataLoss { .. })),
        "{answer:?}"
    );
    assert_eq!(store.get(SHARD, &[b("half")]).await.unwrap().value, [None]);
}
