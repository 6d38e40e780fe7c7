//! Disks that refuse: full, failing to sync, failing now and then.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coretex_store::conformance::{ManualClock, SeededIds};
use coretex_store::embedded::{
    DiskHook, DiskOp, EmbeddedOptions, EmbeddedStore, Space, WriterMode,
};
use coretex_store::layers::{Fault, Faulty, Resend, ResendPolicy};
use coretex_store::{Batch, CommitError, Durability, Pressure, Store, Version};

use common::{SHARD, b, contents, creation, fresh};

/// A disk that can be told to fail.
#[derive(Debug, Default)]
struct Disk {
    /// 0 = well, 1 = full, 2 = syncs fail.
    mode: AtomicU8,
    /// Writes, growths and syncs until one fails once; negative = never.
    fuse: AtomicI64,
    reads: AtomicI64,
    space: AtomicU64,
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mode: AtomicU8::new(0),
            fuse: AtomicI64::new(-1),
            reads: AtomicI64::new(-1),
            space: AtomicU64::new(1 << 40),
        })
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
    }

    fn light(&self, fuse: i64) {
        self.fuse.store(fuse, Ordering::Release);
    }
}

impl DiskHook for Disk {
    fn before(&self, op: DiskOp) -> io::Result<()> {
        if matches!(op, DiskOp::Read { .. }) {
            return match self.reads.fetch_sub(1, Ordering::AcqRel) {
                0 => Err(io::Error::other("injected")),
                _ => Ok(()),
            };
        }
        if op != DiskOp::Probe && self.fuse.fetch_sub(1, Ordering::AcqRel) == 0 {
            return Err(io::Error::other("injected"));
        }
        match (self.mode.load(Ordering::Acquire), op) {
            (1, DiskOp::Write { .. } | DiskOp::SetLen { .. } | DiskOp::Probe) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            (2, DiskOp::Sync | DiskOp::Probe) => Err(io::Error::other("sync failed")),
            _ => Ok(()),
        }
    }

    fn space(&self) -> Option<Space> {
        Some(Space {
            available: self.space.load(Ordering::Acquire),
        })
    }
}

struct Rig {
    disk: Arc<Disk>,
    clock: Arc<ManualClock>,
    options: EmbeddedOptions,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new(writer: WriterMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let disk = Disk::new();
        let mut options = EmbeddedOptions::directory(directory.path(), clock.clone(), 1);
        options.writer = writer;
        options.disk_hook = Some(disk.clone());
        Self {
            disk,
            clock,
            options,
            _directory: directory,
        }
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(self.options.clone()).unwrap()
    }

    /// What comes around once a second comes around now.
    async fn second(&self, store: &EmbeddedStore) {
        self.clock.advance(Duration::from_secs(1));
        let nudge = creation("nudge", "");
        drop(store.commit(nudge).await);
    }
}

/// A batch that would do harm if it were applied twice or by half.
fn telling(number: u32) -> Batch {
    let mut batch = creation(&format!("key/{number}"), vec![number as u8; 900]);
    batch
        .add(b("index"), b(format!("{number}")))
        .append(b(format!("{number}")));
    batch
}

#[tokio::test]
async fn a_full_disk_makes_the_store_read_only_until_it_recovers() {
    for writer in [WriterMode::Inline, WriterMode::Thread] {
        let rig = Rig::new(writer);
        let store = rig.open();
        for number in 0..50 {
            store.commit(telling(number)).await.unwrap();
        }
        rig.disk.set(1);
        let mut unsure = Vec::new();
        // Whatever the first one is told, the store is read-only from then on.
        for number in 50..53 {
            let batch = telling(number);
            match store.commit(batch.clone()).await.unwrap_err() {
                CommitError::Unknown { .. } => unsure.push((number, batch)),
                CommitError::Unavailable { reason } => assert!(!reason.is_empty()),
                other => panic!("{other:?}"),
            }
            assert_eq!(store.pressure(), Pressure::ReadOnly);
        }
        let keys: Vec<_> = (0..50).map(|number| b(format!("key/{number}"))).collect();
        let found = store.get(SHARD, &keys).await.unwrap();
        assert!(found.value.iter().all(Option::is_some));
        let page = store.tail(SHARD, 1, 100).await.unwrap().value;
        assert!((50..=51).contains(&page.entries.len()));
        // Still full when it looks again, and again.
        for _ in 0..2 {
            rig.second(&store).await;
            let refused = store.commit(creation("no", "")).await.unwrap_err();
            assert!(
                matches!(refused, CommitError::Unavailable { .. }),
                "{refused:?}"
            );
            assert!(store.get(SHARD, &keys).await.is_ok());
        }
        rig.disk.set(0);
        rig.second(&store).await;
        assert_eq!(store.pressure(), Pressure::Normal);
        for (number, batch) in unsure {
            let settled = store.commit(batch.clone()).await.unwrap();
            assert_eq!(settled.version, batch.commit_id.version(), "{number}");
        }
        store.commit(telling(60)).await.unwrap();
        store.close(Duration::from_secs(10)).await;
        drop(store);
        let store = rig.open();
        let found = store.get(SHARD, &keys).await.unwrap();
        assert!(found.value.iter().all(Option::is_some));
        let log = store.tail(SHARD, 1, 100).await.unwrap().value;
        let mut entries: Vec<_> = log.entries.iter().map(|entry| &entry.value).collect();
        let all = entries.len();
        entries.sort();
        entries.dedup();
        assert_eq!(entries.len(), all, "nothing was applied twice");
    }
}

#[tokio::test]
async fn a_failed_sync_is_unknown_and_settled_by_a_resend() {
    for writer in [WriterMode::Inline, WriterMode::Thread] {
        let rig = Rig::new(writer);
        let store = rig.open();
        store.commit(telling(0)).await.unwrap();
        rig.disk.set(2);
        let batch = telling(1);
        let unknown = store.commit(batch.clone()).await.unwrap_err();
        assert!(unknown.outcome_unknown(), "{unknown:?}");
        // While syncs fail nothing is acknowledged, neither as applied nor as not.
        let again = store.commit(batch.clone()).await.unwrap_err();
        assert!(
            matches!(again, CommitError::Unavailable { .. }),
            "{again:?}"
        );
        assert_eq!(store.pressure(), Pressure::ReadOnly);
        rig.disk.set(0);
        rig.second(&store).await;
        for round in 0..3 {
            let settled = store.commit(batch.clone()).await.unwrap();
            assert_eq!(settled.version, batch.commit_id.version());
            assert!(settled.resent || round == 0);
        }
        let log = store.tail(SHARD, 1, 100).await.unwrap().value;
        assert_eq!(log.entries.len(), 2);
        store.commit(telling(2)).await.unwrap();
    }
}

#[tokio::test]
async fn an_error_at_any_operation_is_survived() {
    let mut outcomes = [0; 3];
    for fuse in 0..60 {
        let rig = Rig::new(WriterMode::Inline);
        let store = rig.open();
        for number in 0..20 {
            store.commit(telling(number)).await.unwrap();
        }
        rig.disk.light(fuse);
        let mut failed = None;
        for number in 20..40 {
            let batch = telling(number);
            match store.commit(batch.clone()).await {
                Ok(_) => {}
                Err(error) => {
                    assert!(failed.is_none(), "one error, one failure: {error:?}");
                    outcomes[usize::from(error.outcome_unknown())] += 1;
                    failed = Some(number);
                    let version = batch.commit_id.version();
                    let settled = store.commit(batch).await.unwrap();
                    assert_eq!(settled.version, version);
                    outcomes[2] += u32::from(settled.resent);
                }
            }
        }
        assert!(failed.is_some(), "the fuse of {fuse} was too long");
        assert_eq!(store.pressure(), Pressure::Normal);
        let keys: Vec<_> = (0..40).map(|number| b(format!("key/{number}"))).collect();
        let before = contents(&store, &keys, &[b("index")]).await;
        let log = before.log.clone().unwrap();
        assert_eq!((log.entries.len(), log.next), (40, 41));
        assert_eq!(before.sizes[&b("index")], Ok(40));
        drop(store);
        let store = rig.open();
        assert_eq!(contents(&store, &keys, &[b("index")]).await, before);
    }
    let [not_applied, unknown, resent] = outcomes;
    assert_eq!(not_applied + unknown, 60);
    assert!(unknown > 0 && resent > 0, "{outcomes:?}");
}

/// A store without fsync that has lost a version: the version before, and the lost one.
async fn version_lost(rig: &Rig, store: &EmbeddedStore) -> (Version, Version) {
    let first = store.commit(creation("key", "first")).await.unwrap();
    rig.second(store).await;
    let lost = store.commit(replacement(first.version, "lost")).await;
    let (lost, epoch) = (lost.unwrap().version, store.epoch());
    // The next write fails, which is the one that would have put it on disk.
    rig.disk.light(0);
    rig.second(store).await;
    assert_eq!(store.epoch(), epoch + 1);
    (first.version, lost)
}

fn replacement(version: Version, value: &'static str) -> Batch {
    let mut batch = Batch::new(SHARD, fresh());
    batch.replace(b("key"), version, b(value));
    batch
}

async fn value(store: &EmbeddedStore) -> Bytes {
    let read = store.get(SHARD, &[b("key")]).await.unwrap();
    read.value.into_iter().next().flatten().unwrap().value
}

/// Without fsync a failed write takes what was acknowledged since the last one, while the process
/// lives on. Who still holds a version from before overwrites nothing of what came instead.
#[tokio::test]
async fn a_version_that_async_has_lost_is_not_made_again() {
    for writer in [WriterMode::Inline, WriterMode::Thread] {
        let mut rig = Rig::new(writer);
        rig.options.durability = Durability::Async;
        let store = rig.open();
        let (kept, lost) = version_lost(&rig, &store).await;
        assert_eq!(value(&store).await, b("first"));
        store.commit(replacement(kept, "other")).await.unwrap();
        let stale = store.commit(replacement(lost, "stale")).await;
        assert_eq!(stale, Err(CommitError::Conflict { key: b("key") }));
        assert_eq!(value(&store).await, b("other"));
    }
}

/// A resend that comes after the store has lost commits is judged by what stands then, not by what
/// stood when the batch was decided.
#[tokio::test(start_paused = true)]
async fn a_resend_after_a_loss_is_judged_by_what_stands() {
    let mut rig = Rig::new(WriterMode::Inline);
    rig.options.durability = Durability::Async;
    let store = Arc::new(rig.open());
    let faulty = Arc::new(Faulty::new(store.clone(), Arc::new(SeededIds::new(1))));
    let resend = Resend::new(faulty.clone(), ResendPolicy::default());
    let first = store.commit(creation("key", "first")).await.unwrap();
    rig.second(&store).await;
    let lost = store.commit(replacement(first.version, "lost")).await;
    let unanswered = Fault::Before(CommitError::Unknown {
        reason: "injected".to_owned(),
    });
    faulty.script([unanswered.clone(), unanswered]);
    let epoch = store.epoch();
    // Both are sent once in vain; before they are sent again the store has gone back.
    let (decided, new, ()) = tokio::join!(
        biased;
        resend.commit(replacement(lost.unwrap().version, "stale")),
        resend.commit(creation("new", "")),
        async {
            rig.disk.light(0);
            rig.second(&store).await;
            assert_eq!(store.epoch(), epoch + 1);
            let other = replacement(first.version, "other");
            store.commit(other).await.unwrap();
        }
    );
    assert_eq!(decided, Err(CommitError::Conflict { key: b("key") }));
    assert!(!new.unwrap().resent, "nothing of it was lost");
    assert_eq!(value(&store).await, b("other"));
}

#[tokio::test]
async fn a_failed_read_is_unavailable_and_passes() {
    let rig = Rig::new(WriterMode::Inline);
    let store = rig.open();
    for number in 0..50 {
        store.commit(telling(number)).await.unwrap();
    }
    drop(store);
    let store = rig.open();
    rig.disk.reads.store(0, Ordering::Release);
    let keys: Vec<_> = (0..50).map(|number| b(format!("key/{number}"))).collect();
    let mut errors = 0;
    for key in &keys {
        let found = store.get(SHARD, std::slice::from_ref(key)).await;
        errors += u32::from(found.is_err());
    }
    assert!(errors > 0);
    rig.second(&store).await;
    let found = store.get(SHARD, &keys).await.unwrap();
    assert!(found.value.iter().all(Option::is_some));
    store.commit(telling(50)).await.unwrap();
}

#[tokio::test]
async fn pressure_follows_the_free_space() {
    let rig = Rig::new(WriterMode::Inline);
    let store = rig.open();
    store.commit(telling(0)).await.unwrap();
    assert_eq!(store.pressure(), Pressure::Normal);
    let usage = store.usage().await.unwrap();
    assert!(usage.bytes > 0);
    assert_eq!(usage.capacity, usage.bytes + (1 << 40));
    for (space, pressure) in [
        (100 << 20, Pressure::High),
        (1 << 20, Pressure::ReadOnly),
        (100 << 20, Pressure::High),
        (1 << 40, Pressure::Normal),
    ] {
        rig.disk.space.store(space, Ordering::Release);
        rig.second(&store).await;
        assert_eq!(store.pressure(), pressure, "{space} bytes free");
        let written = store.commit(telling(space as u32 ^ pressure as u32)).await;
        match pressure {
            // High is for callers to heed: what ends work must still commit.
            Pressure::Normal | Pressure::High => assert!(
                matches!(written, Ok(_) | Err(CommitError::Conflict { .. })),
                "{written:?}"
            ),
            Pressure::ReadOnly => {
                assert!(matches!(written, Err(CommitError::Unavailable { .. })));
            }
        }
        assert!(store.get(SHARD, &[b("key/0")]).await.unwrap().value[0].is_some());
    }
}
