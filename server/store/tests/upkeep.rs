//! Nothing grows for ever: what is over leaves no key behind, in time and under load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::{Clock, Timestamp};
use coretex_store::conformance::ManualClock;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::{Batch, CommitError, Durability, Precondition, Rate, Store, Write};
use redb::{ReadableDatabase, ReadableTableMetadata};

use common::{SHARD, b, creation, fresh};

fn options(directory: &Path, clock: &Arc<ManualClock>, writer: WriterMode) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::directory(directory, clock.clone(), 1);
    options.writer = writer;
    // What upkeep does has nothing to do with fsync, which is slow.
    options.durability = Durability::Async;
    options
}

/// Rows of each table of a closed store: records, index entries, log entries, state, expiries.
fn rows(directory: &Path) -> [u64; 5] {
    let database = redb::Database::open(directory.join("store.redb")).unwrap();
    let read = database.begin_read().unwrap();
    ["record", "index", "log", "state", "expiry"].map(|name| {
        let handle = read.list_tables().unwrap();
        let mut handles = handle.filter(|table| redb::TableHandle::name(table) == name);
        let table = read.open_untyped_table(handles.next().unwrap()).unwrap();
        table.len().unwrap()
    })
}

async fn job(store: &EmbeddedStore, number: u32) {
    let mut submit = creation(&format!("job/{number}"), vec![1; 300]);
    submit.preconditions.push(Precondition::Bucket {
        key: b(format!("bucket/{}", number % 7)),
        rate: Rate {
            permits: 1_000_000,
            per: Duration::from_secs(1),
            burst: 1_000,
        },
        cost: 1,
    });
    submit.writes.push(Write::Put {
        key: b(format!("idempotency/{number}")),
        value: Bytes::from_static(b"job"),
        ttl: Some(Duration::from_secs(60)),
    });
    submit
        .add(b("all"), b(number.to_string()))
        .add(b(format!("queue/{number}")), b("member"))
        .append(b("submitted"));
    let submitted = store.commit(submit).await.unwrap();
    let mut retire = Batch::new(SHARD, fresh());
    retire
        .delete(b(format!("job/{number}")), submitted.version)
        .remove(b("all"), b(number.to_string()))
        .remove(b(format!("queue/{number}")), b("member"));
    store.commit(retire).await.unwrap();
}

#[tokio::test]
async fn what_is_over_leaves_nothing_behind() {
    for writer in [WriterMode::Inline, WriterMode::Thread] {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = EmbeddedStore::open(options(directory.path(), &clock, writer)).unwrap();
        for number in 0..1_500 {
            job(&store, number).await;
        }
        store.trim(SHARD, 1_501).await.unwrap();
        store.close(Duration::from_secs(30)).await;
        drop(store);
        let [records, index, ..] = rows(directory.path());
        // Tombstones and idempotency records are still there, index entries and counts are not.
        assert_eq!((records, index), (3_000, 0));

        // Past every time to live; nothing but upkeep has anything to do.
        let store = EmbeddedStore::open(options(directory.path(), &clock, writer)).unwrap();
        clock.advance(Duration::from_secs(3_600));
        for round in 0..200 {
            clock.advance(Duration::from_secs(120));
            // Refused, so that it writes nothing itself.
            let mut nothing = creation(&format!("nothing/{round}"), "");
            nothing.preconditions.push(Precondition::SizeBelow {
                index: b("none"),
                limit: 0,
                name_holders: 0,
            });
            let refused = store.commit(nothing).await;
            assert!(matches!(refused, Err(CommitError::LimitReached(_))));
        }
        store.close(Duration::from_secs(30)).await;
        drop(store);
        let [records, index, log, state, expiry] = rows(directory.path());
        assert_eq!((records, index, log, expiry), (0, 0, 0, 0));
        // Identity, clock, and where the one log begins.
        assert_eq!(state, 3);
    }
}

#[tokio::test]
async fn upkeep_keeps_up_with_a_steady_load() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let inline = options(directory.path(), &clock, WriterMode::Inline);
    let store = EmbeddedStore::open(inline).unwrap();
    // Half a second each: at any time about 120 idempotency records and 1,200 tombstones live.
    for number in 0..3_000 {
        job(&store, number).await;
        store.trim(SHARD, u64::from(number)).await.unwrap();
        clock.advance(Duration::from_millis(500));
    }
    store.close(Duration::from_secs(30)).await;
    drop(store);
    let [records, _, log, _, expiry] = rows(directory.path());
    assert!((1_300..1_400).contains(&records), "{records} records");
    assert!(log < 5, "{log} log entries");
    assert!(expiry < 1_500, "{expiry} expiry rows");
}

#[tokio::test]
async fn store_time_does_not_follow_a_clock_that_jumps_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open =
        || EmbeddedStore::open(options(directory.path(), &clock, WriterMode::Inline)).unwrap();
    let store = open();
    let before = store.commit(creation("a", "")).await.unwrap().time;
    let back = Timestamp::from_micros(clock.now().as_micros() - 3_600_000_000);
    clock.set(back);
    let after = store.commit(creation("b", "")).await.unwrap().time;
    assert_eq!(after, before, "time stands still");
    drop(store);
    let store = open();
    assert_eq!(store.time().await.unwrap(), before);
    assert_eq!(store.commit(creation("c", "")).await.unwrap().time, before);
    clock.advance(Duration::from_secs(7_200));
    assert!(
        store.time().await.unwrap() > before,
        "until the clock has caught up"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let mut options = options(directory.path(), &clock, WriterMode::Thread);
    options.queue_commits = 4;
    options.group_commits = 1;
    let store = Arc::new(EmbeddedStore::open(options).unwrap());
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..200 {
        let store = store.clone();
        commits.spawn(async move { store.commit(creation(&format!("{number}"), "")).await });
    }
    let (mut applied, mut refused) = (0, 0);
    while let Some(answer) = commits.join_next().await {
        match answer.unwrap() {
            Ok(_) => applied += 1,
            Err(CommitError::Overloaded { retry_after }) => {
                assert!(retry_after >= Duration::from_millis(1));
                assert!(retry_after <= Duration::from_secs(1));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        applied >= 4 && refused > 0,
        "{applied} applied, {refused} refused"
    );
    let keys: Vec<_> = (0..200).map(|number| b(number.to_string())).collect();
    let found = store.get(SHARD, &keys).await.unwrap().value;
    let there = found.iter().filter(|record| record.is_some()).count();
    assert_eq!(there, applied, "what was refused was not applied");
}
