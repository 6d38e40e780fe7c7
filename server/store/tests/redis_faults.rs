//! Redis servers that stop, pause, forget, fail over or flip bits, and connections that break: what
//! was acknowledged stays, nothing is applied twice, and what is lost is noticed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;
mod redis_server;

use std::sync::Arc;
use std::time::Duration;

use coretex_store::redis::{RedisOptions, RedisStore};
use coretex_store::{
    Batch, CommitError, Durability, Limit, Precondition, Shard, Store, StoreError,
};
use rustix::process::Signal;

use common::{SHARD, b, creation, fresh};
use redis_server::load::{Load, resending};
use redis_server::proxy::Proxy;
use redis_server::{Server, available, ephemeral, options, pass, until};

async fn open(options: RedisOptions) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(options).await.unwrap())
}

/// Options with short timeouts.
fn hasty(url: String) -> RedisOptions {
    let mut options = ephemeral(url);
    options.commit_timeout = Duration::from_millis(400);
    options.read_timeout = Duration::from_millis(400);
    options.connect_timeout = Duration::from_millis(400);
    options.poll = Duration::from_millis(50);
    options
}

async fn value(store: &dyn Store, key: &str) -> Option<bytes::Bytes> {
    let mut read = store.get(SHARD, &[b(key)]).await.unwrap();
    read.value.pop().unwrap().map(|record| record.value)
}

async fn log_length(store: &dyn Store) -> u64 {
    store.tail(SHARD, 1, 0).await.unwrap().value.next - 1
}

/// Waits until the store answers reads.
async fn back(store: &dyn Store) {
    until("the store is back", || async {
        store.time().await.ok().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_under_load_loses_nothing_that_is_on_disk() {
    if !available() {
        return;
    }
    let mut server = Server::durable("always").await;
    let mut options = options(server.url());
    options.durability = Durability::Fsync;
    let store = open(options).await;
    let load = Load::start(resending(store.clone()), 16);
    for _ in 0..3 {
        load.acknowledged(100).await;
        server.stop(Signal::KILL);
        server.again().await;
    }
    load.acknowledged(100).await;
    assert!(load.finish().await >= 400);
    // A restart in which nothing happens meanwhile is no loss.
    let epoch = store.epoch();
    server.stop(Signal::TERM);
    server.again().await;
    back(store.as_ref()).await;
    store.commit(creation("after", "")).await.ok();
    assert_eq!(store.epoch(), epoch);
}

#[tokio::test]
async fn a_server_that_comes_back_empty_is_a_loss_and_goes_on() {
    if !available() {
        return;
    }
    let mut server = Server::durable("everysec").await;
    let store = open(options(server.url())).await;
    for number in 0..10 {
        store
            .commit(creation(&format!("{number}"), ""))
            .await
            .unwrap();
    }
    let epoch = store.epoch();
    server.stop(Signal::KILL);
    let refused = store.get(SHARD, &[b("1")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    server.wipe();
    server.again().await;
    back(store.as_ref()).await;
    // Known with the first answer.
    assert_eq!(store.epoch(), epoch + 1);
    assert_eq!(value(store.as_ref(), "1").await, None);
    let store: Arc<dyn Store> = resending(store);
    let again = store.commit(creation("1", "")).await.unwrap();
    assert!(!again.resent);
    assert_eq!(store.epoch(), epoch + 1);
    // The identity is there again.
    let mut two = options(server.url());
    two.shards = 2;
    assert!(RedisStore::open(two).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_loaded_again() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = open(ephemeral(server.unix_url())).await;
    let load = Load::start(store, 16);
    for _ in 0..20 {
        load.acknowledged(20).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
    assert!(load.finish().await >= 400);
}

async fn pauses(pause: Duration, options: RedisOptions, server: Server) {
    let store = open(options).await;
    let load = Load::start(resending(store), 16);
    load.acknowledged(200).await;
    server.pause();
    pass(pause).await;
    server.resume();
    load.acknowledged(200).await;
    assert!(load.finish().await >= 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_pause_doubles_and_loses_nothing() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let options = hasty(server.url());
    pauses(Duration::from_millis(600), options, server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pause_doubles_and_loses_nothing() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let options = ephemeral(server.url());
    pauses(Duration::from_secs(5), options, server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_double_and_lose_nothing() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = open(ephemeral(server.url())).await;
    let load = Load::start(resending(store), 16);
    for _ in 0..20 {
        load.acknowledged(20).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    assert!(load.finish().await >= 400);
}

/// A command that was held up is applied when it arrives, and found by the resend.
#[tokio::test]
async fn a_late_commit_is_found_and_not_applied_again() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port).await;
    let store = open(hasty(proxy.url())).await;
    store.commit(creation("first", "")).await.unwrap();
    let mut late = creation("late", "value");
    late.append(b("late"));
    proxy.hold_all();
    let answer = store.commit(late.clone()).await.unwrap_err();
    assert!(answer.outcome_unknown(), "{answer:?}");
    // Nobody gets through, so nobody has said that it is too late.
    let refused = store.commit(creation("other", "")).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    proxy.release();
    until("the late commit has arrived", || async {
        store.get(SHARD, &[b("late")]).await.ok()?.value.pop()?
    })
    .await;
    let again = store.commit(late).await.unwrap();
    assert!(again.resent);
    assert_eq!(log_length(store.as_ref()).await, 1);
    // The one that was said to be refused is not there.
    assert_eq!(value(store.as_ref(), "other").await, None);
}

/// Once a resend was answered, the first send can no longer change that: it is shut out.
#[tokio::test]
async fn a_late_commit_does_not_contradict_the_answer_to_its_resend() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.port).await;
    let store = open(hasty(proxy.url())).await;
    store.commit(creation("first", "")).await.unwrap();
    let mut late = creation("late", "value");
    late.append(b("late"));
    late.preconditions.push(Precondition::SizeBelow {
        index: b("limit"),
        limit: 1,
        name_holders: 0,
    });
    // What goes over the connections that there are is held up; new ones are free.
    proxy.hold();
    let answer = store.commit(late.clone()).await.unwrap_err();
    assert!(answer.outcome_unknown(), "{answer:?}");
    let mut full = creation("full", "");
    full.add(b("limit"), b("m"));
    store.commit(full).await.unwrap();
    let resent = store.commit(late).await;
    assert!(matches!(
        resent,
        Err(CommitError::LimitReached(Limit::Size { .. }))
    ));
    // Now there would be room for it.
    let mut empty = creation("empty", "");
    empty.remove(b("limit"), b("m"));
    store.commit(empty).await.unwrap();
    let before = proxy.answered();
    proxy.release();
    until("the held commit was answered", || async {
        (proxy.answered() > before).then_some(())
    })
    .await;
    assert_eq!(value(store.as_ref(), "late").await, None);
    assert_eq!(log_length(store.as_ref()).await, 0);
    let redis::Value::Array(fences) = server.command(&["KEYS", "{s0}w*"]).await else {
        panic!("a list of keys");
    };
    assert_eq!(fences.len(), 1);
}

/// A failover to a replica that lacks the last commits: they are gone, that is known with the first
/// answer from it, and who still holds a version of theirs overwrites nothing.
#[tokio::test]
async fn a_failover_that_loses_commits_is_noticed() {
    if !available() {
        return;
    }
    let mut master = Server::start(&[]).await;
    let port = master.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    let proxy = Proxy::start(master.port).await;
    let store = open(hasty(proxy.url())).await;
    for number in 0..10 {
        store
            .commit(creation(&format!("{number}"), ""))
            .await
            .unwrap();
    }
    until("the replica has caught up", || async {
        (replica.info("slave_repl_offset").await == master.info("master_repl_offset").await)
            .then_some(())
    })
    .await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    for number in 10..20 {
        store
            .commit(creation(&format!("{number}"), ""))
            .await
            .unwrap();
    }
    let five = store.get(SHARD, &[b("5")]).await.unwrap().value[0].clone();
    let kept = five.unwrap().version;
    let replace = |version, value: &str| {
        let mut batch = Batch::new(SHARD, fresh());
        batch.replace(b("5"), version, b(value));
        batch
    };
    let lost = store.commit(replace(kept, "lost")).await.unwrap().version;
    let epoch = store.epoch();
    master.stop(Signal::KILL);
    proxy.redirect(replica.port);
    let found = until("the store is back", || async {
        store.get(SHARD, &[b("5"), b("15")]).await.ok()
    })
    .await;
    assert_eq!(store.epoch(), epoch + 1);
    let found: Vec<_> = found.value.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false]);
    let store: Arc<dyn Store> = resending(store);
    store.commit(creation("15", "")).await.unwrap();
    assert_eq!(store.epoch(), epoch + 1);
    // Somebody else writes where the lost commit had written.
    let other = open(ephemeral(replica.url())).await;
    other.commit(replace(kept, "other")).await.unwrap();
    let conflict = Err(CommitError::Conflict { key: b("5") });
    assert_eq!(store.commit(replace(lost, "stale")).await, conflict);
    assert_eq!(value(store.as_ref(), "5").await, Some(b("other")));
}

/// A master that becomes a replica is not read from.
#[tokio::test]
async fn a_demoted_master_is_left() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let store = open(hasty(server.url())).await;
    store.commit(creation("key", "")).await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = store.commit(creation("other", "")).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    let refused = store.get(SHARD, &[b("key")]).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(store.pressure(), coretex_store::Pressure::ReadOnly);
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    until("writes work again", || async {
        (store.pressure() == coretex_store::Pressure::Normal).then_some(())
    })
    .await;
    store.commit(creation("other", "")).await.unwrap();
}

/// Too few replicas: refused as a whole; replicas that do not answer: unknown until they do.
#[tokio::test]
async fn replicated_means_that_a_replica_has_it() {
    if !available() {
        return;
    }
    let master = Server::start(&[]).await;
    let mut options = hasty(master.url());
    options.durability = Durability::Replicated;
    options.replica_timeout = Duration::from_millis(100);
    assert!(RedisStore::open(options.clone()).await.is_err());
    let port = master.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    until("the replica is connected", || async {
        (master.info("connected_slaves").await == "1").then_some(())
    })
    .await;
    let store = open(options).await;
    assert_eq!(store.info().durability, Durability::Replicated);
    // The first may come before the replica has its copy.
    resending(store.clone())
        .commit(creation("first", ""))
        .await
        .unwrap();
    replica.pause();
    let batch = creation("second", "");
    for _ in 0..2 {
        // The resend writes nothing and must wait for the replica all the same.
        let answer = store.commit(batch.clone()).await.unwrap_err();
        assert!(answer.outcome_unknown(), "{answer:?}");
    }
    replica.resume();
    let committed = resending(store.clone()).commit(batch).await.unwrap();
    assert!(committed.resent);
    master
        .command(&["CONFIG", "SET", "min-replicas-to-write", "2"])
        .await;
    let refused = store.commit(creation("third", "")).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    assert_eq!(store.pressure(), coretex_store::Pressure::ReadOnly);
}

#[tokio::test]
async fn a_server_that_is_away_has_surely_not_applied() {
    if !available() {
        return;
    }
    let mut server = Server::start(&[]).await;
    let store = open(hasty(server.url())).await;
    store.commit(creation("key", "")).await.unwrap();
    server.stop(Signal::KILL);
    // The first is sent into a connection that is already dead, or is found to be.
    let _ = store.commit(creation("first", "")).await.unwrap_err();
    let refused = store.commit(creation("second", "")).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    let mut large = Batch::new(SHARD, fresh());
    large.create(b("large"), vec![1; 100_000].into());
    let refused = store.commit(large).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Unavailable { .. }),
        "{refused:?}"
    );
    let refused = store.usage().await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
}

/// Several stores share a server; 64 writers of two of them count one record up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_server_agree() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let stores = [
        open(ephemeral(server.url())).await,
        open(ephemeral(server.unix_url())).await,
    ];
    assert_eq!(stores[0].id(), stores[1].id());
    stores[0].commit(creation("counter", "0")).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..64 {
        let store = stores[writer % 2].clone();
        writers.push(tokio::spawn(async move {
            for _ in 0..4 {
                loop {
                    let read = store.get(SHARD, &[b("counter")]).await.unwrap();
                    let record = read.value[0].clone().unwrap();
                    let number: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
                    let mut swap = Batch::new(SHARD, fresh());
                    swap.replace(b("counter"), record.version, b((number + 1).to_string()));
                    match store.commit(swap).await {
                        Ok(_) => break,
                        Err(CommitError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(value(stores[1].as_ref(), "counter").await, Some(b("256")));
    assert!(stores.iter().all(|store| store.epoch() == 0));
    let other = stores[1].get(Shard::Sys, &[b("counter")]).await.unwrap();
    assert_eq!(other.value, [None]);
}
