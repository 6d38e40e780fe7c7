//! Writes the store that tests keep as a fixture of the current format.
//!
//! ```text
//! store_fixture DIRECTORY
//! ```
//!
//! Run once when the format changes; the fixtures of older formats stay as they are.

#![allow(
    clippy::unwrap_used,
    reason = "a program for people at a terminal: a failed step should stop it"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::{Clock, Timestamp};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::{Batch, CommitId, Precondition, Rate, Shard, Store, Write};

/// A time that never passes.
#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_750_000_000_000_000)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut options = EmbeddedOptions::directory(directory, Arc::new(Noon), 0xc0de);
    options.writer = WriterMode::Inline;
    options.shards = 2;
    let store = EmbeddedStore::open(options).unwrap();
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());

    let mut batch = Batch::new(Shard::Data(1), CommitId(1));
    batch.create(text("kept"), text("first"));
    batch.create(text("gone"), text("soon deleted"));
    batch.preconditions.push(Precondition::Bucket {
        key: text("bucket"),
        rate: Rate {
            permits: 1,
            per: Duration::from_secs(3_600),
            burst: 2,
        },
        cost: 2,
    });
    batch.writes.push(Write::Put {
        key: text("short"),
        value: text("lived"),
        ttl: Some(Duration::from_secs(60)),
    });
    for member in ["a", "b", "c"] {
        batch.add(text("index"), text(member));
    }
    for entry in ["one", "two", "three"] {
        batch.append(text(entry));
    }
    let first = store.commit(batch).await.unwrap().version;

    let mut batch = Batch::new(Shard::Data(1), CommitId(2));
    batch.replace(text("kept"), first, text("second"));
    batch.delete(text("gone"), first);
    batch.remove(text("index"), text("b"));
    store.commit(batch).await.unwrap();
    store.trim(Shard::Data(1), 2).await.unwrap();
    store.close(Duration::from_secs(10)).await;
}
