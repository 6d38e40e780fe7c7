//! Files that changed while nobody looked: refused, or answered with data loss, or right; never
//! wrong and never a panic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_store::conformance::ManualClock;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError, WriterMode};
use coretex_store::{Batch, CommitError, Store, Version};

use common::{Contents, SHARD, b, contents, creation, fresh, is_right_or_refused};

const FILE: &str = "store.redb";

fn options(directory: &Path) -> EmbeddedOptions {
    let clock = Arc::new(ManualClock::default());
    let mut options = EmbeddedOptions::directory(directory, clock, 1);
    options.writer = WriterMode::Inline;
    options
}

/// What the tests damage: some hundred records, indexes of several pages, a log, tombstones.
struct Sample {
    /// Closed in order.
    closed: tempfile::TempDir,
    /// As a kill would leave it.
    killed: tempfile::TempDir,
    keys: Vec<Bytes>,
    /// Of the records as they were created.
    versions: Vec<Version>,
    indexes: Vec<Bytes>,
    /// What is in it now, and what was in it before the last commit.
    states: [Contents; 2],
}

async fn sample() -> Sample {
    let closed = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(options(closed.path())).unwrap();
    let (mut keys, mut versions) = (Vec::new(), Vec::new());
    for number in 0..150_usize {
        let name = format!("record/{number:04}");
        let mut batch = creation(&name, vec![number as u8; 20 + number * 7 % 900]);
        batch
            .add(
                b("all"),
                b(format!("member/{number:04}/{}", "m".repeat(number % 40))),
            )
            .add(b(format!("index/{}", number % 5)), b(format!("{number}")))
            .append(vec![number as u8; number % 100].into());
        versions.push(store.commit(batch).await.unwrap().version);
        keys.push(b(name));
    }
    for number in (0..150).step_by(10) {
        let mut batch = Batch::new(SHARD, fresh());
        batch.delete(keys[number].clone(), versions[number]);
        batch.remove(b("index/0"), b(format!("{number}")));
        store.commit(batch).await.unwrap();
    }
    let indexes = ["all", "index/0", "index/1", "index/4"].map(b).to_vec();
    let before = contents(&store, &keys, &indexes).await;
    let mut last = Batch::new(SHARD, fresh());
    last.replace(keys[1].clone(), versions[1], b("last"))
        .append(b("last"));
    store.commit(last).await.unwrap();
    let now = contents(&store, &keys, &indexes).await;
    for name in [FILE, "store.id"] {
        fs::copy(closed.path().join(name), killed.path().join(name)).unwrap();
    }
    store.close(Duration::from_secs(10)).await;
    Sample {
        closed,
        killed,
        keys,
        versions,
        indexes,
        states: [now, before],
    }
}

/// A copy of a store, changed by `damage`, opened and read. Tells the error of an open that was
/// refused.
async fn open_damaged(
    sample: &Sample,
    from: &Path,
    damage: impl FnOnce(&fs::File),
    what: &str,
) -> Option<OpenError> {
    let directory = tempfile::tempdir().unwrap();
    for name in [FILE, "store.id"] {
        fs::copy(from.join(name), directory.path().join(name)).unwrap();
    }
    let path = directory.path().join(FILE);
    let file = fs::File::options().read(true).write(true).open(&path);
    damage(&file.unwrap());
    let damaged = fs::read(&path).unwrap();
    let store = match EmbeddedStore::open(options(directory.path())) {
        Ok(store) => store,
        Err(error) => {
            // Refusing is no repair: somebody may still want to look at the file.
            if matches!(error, OpenError::Foreign { .. }) {
                assert!(fs::read(&path).unwrap() == damaged, "{what}");
            }
            return Some(error);
        }
    };
    let found = contents(&store, &sample.keys, &sample.indexes).await;
    // After a kill, a last commit that is not whole is taken for one that was never acknowledged.
    let states = if from == sample.closed.path() {
        &sample.states[..1]
    } else {
        &sample.states[..]
    };
    let verdicts: Vec<_> = states
        .iter()
        .map(|state| is_right_or_refused(&found, state))
        .collect();
    assert!(verdicts.iter().any(Result::is_ok), "{what}: {verdicts:?}");
    // Commits on top of it neither panic nor succeed on a damaged record.
    for number in [2, 75] {
        let (key, version) = (sample.keys[number].clone(), sample.versions[number]);
        let mut batch = Batch::new(SHARD, fresh());
        batch
            .replace(key, version, b("after"))
            .add(b("all"), b("after"));
        match store.commit(batch).await {
            Ok(_) => {}
            Err(error) => assert!(
                matches!(
                    error,
                    CommitError::DataLoss { .. }
                        | CommitError::Unavailable { .. }
                        | CommitError::Unknown { .. }
                ),
                "{what}: {error:?}"
            ),
        }
    }
    None
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let sample = sample().await;
    for from in [sample.closed.path(), sample.killed.path()] {
        let len = fs::metadata(from.join(FILE)).unwrap().len();
        let mut lengths: Vec<u64> = (0..64).map(|step| len * step / 64).collect();
        lengths.extend([
            1,
            8,
            63,
            64,
            100,
            320,
            511,
            512,
            4095,
            4096,
            len - 4096,
            len - 1,
        ]);
        for length in lengths {
            let what = format!("cut to {length} of {len} bytes");
            let refused = open_damaged(&sample, from, |f| f.set_len(length).unwrap(), &what).await;
            match refused {
                Some(OpenError::Damaged { reason, .. } | OpenError::Foreign { reason, .. }) => {
                    assert!(!reason.is_empty());
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn flipped_bits_are_never_served() {
    let sample = sample().await;
    let mut refused = 0;
    let mut opened = 0;
    for from in [sample.closed.path(), sample.killed.path()] {
        let len = fs::metadata(from.join(FILE)).unwrap().len();
        // A prime step, so that all places within pages are met; the header bit by bit.
        let offsets = (0..192).chain((192..len).step_by(2_003));
        for offset in offsets {
            let bit = (offset % 8) as u8;
            let flip = |file: &fs::File| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).unwrap();
                byte[0] ^= 1 << bit;
                file.write_all_at(&byte, offset).unwrap();
            };
            let what = format!("bit {bit} of byte {offset}");
            match open_damaged(&sample, from, flip, &what).await {
                Some(_) => refused += 1,
                None => opened += 1,
            }
        }
    }
    // Both happen: damage where something is, and damage where nothing is.
    assert!(
        refused > 20 && opened > 20,
        "{refused} refused, {opened} opened"
    );
}

#[tokio::test]
async fn what_is_not_a_store_is_refused() {
    let write = |name: &str, bytes: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), bytes).unwrap();
        directory
    };
    let text = write(FILE, &b"not a database at all\n".repeat(1_000));
    let error = EmbeddedStore::open(options(text.path())).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("is not a store of this program"));

    // Only the mark is left of a store: starting afresh would hide a loss.
    let lost = write("store.id", format!("{:032x}\n", 7).as_bytes());
    let error = EmbeddedStore::open(options(lost.path())).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");

    let other = tempfile::tempdir().unwrap();
    let database = redb::Database::create(other.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<u64, u64>::new("something");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = EmbeddedStore::open(options(other.path())).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn options_must_fit_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(options(directory.path())).unwrap();
    assert_eq!(store.id(), 1);
    store.commit(creation("key", "value")).await.unwrap();
    drop(store);
    let mut other = options(directory.path());
    other.shards = 2;
    let error = EmbeddedStore::open(other).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Shards {
                found: 1,
                wanted: 2
            }
        ),
        "{error}"
    );
    let mut other = options(directory.path());
    other.id = 99;
    assert_eq!(EmbeddedStore::open(other).unwrap().id(), 1);
}
