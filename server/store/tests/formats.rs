//! Stores that earlier builds wrote can be read, and written on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use coretex_store::conformance::ManualClock;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::{Batch, CommitError, CommitId, Order, Precondition, Range, Rate, Shard, Store};

const SHARD: Shard = Shard::Data(1);

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn format_1_is_read_and_written_on() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    let directory = tempfile::tempdir().unwrap();
    for name in ["store.redb", "store.id"] {
        std::fs::copy(fixture.join(name), directory.path().join(name)).unwrap();
    }
    let clock = Arc::new(ManualClock::default());
    clock.set(Timestamp::from_micros(1_750_000_000_000_000));
    let mut options = EmbeddedOptions::directory(directory.path(), clock.clone(), 7);
    options.writer = WriterMode::Inline;
    options.shards = 2;
    let store = EmbeddedStore::open(options).unwrap();
    assert_eq!(store.id(), 0xc0de);

    let keys = ["kept", "gone", "short"].map(text);
    let found = store.get(SHARD, &keys).await.unwrap().value;
    let kept = found[0].clone().unwrap();
    // That build counted versions; they name its writes as well as any.
    assert_eq!((kept.version, kept.value), (2, text("second")));
    assert_eq!(kept.commits, [CommitId(1), CommitId(2)]);
    assert_eq!(found[1], None);
    assert_eq!(found[2].clone().unwrap().value, text("lived"));
    let ranges = [Range::all(text("index"))];
    let members = store.range(SHARD, &ranges, 10, Order::Ascending).await;
    assert_eq!(members.unwrap().value, [[text("a"), text("c")]]);
    assert_eq!(store.count(SHARD, &ranges[0], 10).await.unwrap().value, 2);
    let page = store.tail(SHARD, 1, 10).await.unwrap().value;
    let entries: Vec<_> = page.entries.into_iter().map(|entry| entry.value).collect();
    assert_eq!(entries, [text("two"), text("three")]);
    assert_eq!((page.first, page.next), (2, 4));

    // Tombstones still know their commits, buckets their level.
    let mut deleted = Batch::new(SHARD, CommitId(2));
    deleted.delete(text("gone"), 1);
    assert!(store.commit(deleted).await.unwrap().resent);
    let mut next = Batch::new(SHARD, CommitId(3));
    next.replace(text("kept"), 2, text("third"));
    next.append(text("four"));
    let mut greedy = next.clone();
    greedy.preconditions.push(Precondition::Bucket {
        key: text("bucket"),
        rate: Rate {
            permits: 1,
            per: Duration::from_secs(3_600),
            burst: 2,
        },
        cost: 1,
    });
    let refused = store.commit(greedy).await;
    assert!(matches!(refused, Err(CommitError::LimitReached(_))));
    let committed = store.commit(next).await.unwrap();
    assert_eq!(committed.version, CommitId(3).version());
    assert_eq!(committed.last_log_id, Some(4));
    let found = store.get(SHARD, &keys).await.unwrap().value;
    assert_eq!(found[0].clone().unwrap().version, committed.version);
    clock.advance(Duration::from_secs(61));
    assert_eq!(
        store.get(SHARD, &[text("short")]).await.unwrap().value,
        [None]
    );
}
