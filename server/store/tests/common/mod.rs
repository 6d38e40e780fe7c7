//! What tests of the embedded engine's failures share.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test uses a part; a failed step of a test should stop the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use coretex_store::{
    Batch, CommitId, Key, LogPage, Order, Range, Record, Shard, Store, StoreError,
};

pub(crate) const SHARD: Shard = Shard::Data(0);

pub(crate) fn b(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

/// A commit id that no other batch has, of this process or of one that it starts, nor its version.
pub(crate) fn fresh() -> CommitId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Process ids have up to 22 bits, and versions are made of the low 52.
    let process = u128::from(std::process::id()) << 30;
    CommitId(process | u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn creation(key: &str, value: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::new(SHARD, fresh());
    batch.create(b(key), value.into());
    batch
}

/// Copies the files of a directory into another, which is made if need be.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All that a store holds, or what it said instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) records: BTreeMap<Key, Result<Option<Record>, StoreError>>,
    pub(crate) indexes: BTreeMap<Bytes, Result<Vec<Bytes>, StoreError>>,
    pub(crate) sizes: BTreeMap<Bytes, Result<u64, StoreError>>,
    pub(crate) log: Result<LogPage, StoreError>,
}

pub(crate) async fn contents(store: &dyn Store, keys: &[Key], indexes: &[Bytes]) -> Contents {
    let mut all = Contents {
        records: BTreeMap::new(),
        indexes: BTreeMap::new(),
        sizes: BTreeMap::new(),
        log: store.tail(SHARD, 1, 100_000).await.map(|read| read.value),
    };
    for key in keys {
        let mut found = store.get(SHARD, std::slice::from_ref(key)).await;
        let found = found.as_mut().map(|read| read.value.pop().unwrap());
        all.records
            .insert(key.clone(), found.map_err(|error| error.clone()));
    }
    for index in indexes {
        let ranges = [Range::all(index.clone())];
        let found = store.range(SHARD, &ranges, 100_000, Order::Ascending).await;
        let found = found.map(|mut read| read.value.pop().unwrap());
        all.indexes.insert(index.clone(), found);
        let size = store.count(SHARD, &ranges[0], u64::MAX).await;
        all.sizes.insert(index.clone(), size.map(|read| read.value));
    }
    all
}

/// Whether every answer is the expected one or says that the data is damaged.
pub(crate) fn is_right_or_refused(found: &Contents, expected: &Contents) -> Result<(), String> {
    fn same<T: PartialEq + std::fmt::Debug>(
        what: &Bytes,
        found: &Result<T, StoreError>,
        expected: &Result<T, StoreError>,
    ) -> Result<(), String> {
        match found {
            Err(StoreError::DataLoss { .. }) => Ok(()),
            found if found == expected => Ok(()),
            found => Err(format!("{what:?}: {found:?} instead of {expected:?}")),
        }
    }
    for (key, value) in &found.records {
        same(key, value, &expected.records[key])?;
    }
    for (key, value) in &found.indexes {
        same(key, value, &expected.indexes[key])?;
    }
    for (key, value) in &found.sizes {
        same(key, value, &expected.sizes[key])?;
    }
    same(&b("log"), &found.log, &expected.log)
}
