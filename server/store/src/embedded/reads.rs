//! Reads from a snapshot, which ends with the request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable};

use crate::{
    CommitId, Entry, Key, LogId, LogPage, Member, Order, Range, Read, Record, Shard, StoreError,
    prefix_end, validate,
};

use super::counts::read_count;
use super::envelope::Header;
use super::group::{Trouble, log_ends, open_entry, printable};
use super::layout::{
    INDEX, LOG, RECORD, STATE, checksum, index_prefix, log_id, log_key, record_key, shard_code,
};
use super::open::panic_text;
use super::options::WriterMode;
use super::writer::Shared;
use super::{EmbeddedStore, unavailable};

/// Reads of more rows than this go to the blocking pool.
const INLINE_ROWS: usize = 1_000;

/// A read that failed.
pub(super) enum ReadError {
    Storage(redb::Error),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

impl EmbeddedStore {
    /// Runs a read of about `weight` rows.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        shard: Shard,
        weight: usize,
        read: impl FnOnce(&ReadTransaction, Timestamp) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<Read<T>, StoreError> {
        self.is_open()?;
        check_shard(shard, self.shared.options.shards)?;
        if weight > INLINE_ROWS
            && self.shared.options.writer == WriterMode::Thread
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = self.shared.clone();
            return runtime
                .spawn_blocking(move || run(&shared, read))
                .await
                .unwrap_or_else(|_| Err(unavailable("the read was cut off")));
        }
        run(&self.shared, read)
    }
}

/// Runs a read on a snapshot of now.
fn run<T>(
    shared: &Arc<Shared>,
    read: impl FnOnce(&ReadTransaction, Timestamp) -> Result<T, ReadError>,
) -> Result<Read<T>, StoreError> {
    let time = shared.now();
    // The database may panic on a damaged page.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let snapshot = {
            let database = shared.database.read();
            let Some(database) = database.as_ref() else {
                return Err(redb::Error::DatabaseClosed.into());
            };
            database.begin_read()?
        };
        read(&snapshot, time)
    }));
    match result {
        Ok(Ok(value)) => Ok(Read { value, time }),
        Ok(Err(ReadError::Damaged(what))) => Err(StoreError::DataLoss { what }),
        Ok(Err(ReadError::Storage(redb::Error::Corrupted(reason)))) => Err(StoreError::DataLoss {
            what: format!("the store file: {reason}"),
        }),
        Ok(Err(ReadError::Storage(error))) => {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                shared.suspect.store(true, Ordering::Release);
            }
            Err(unavailable(&error.to_string()))
        }
        Err(panic) => Err(StoreError::DataLoss {
            what: format!("the store file: {}", panic_text(panic.as_ref())),
        }),
    }
}

pub(super) fn check_shard(shard: Shard, shards: u16) -> Result<(), StoreError> {
    validate::check_shard(shard, shards).map_err(|error| StoreError::Invalid {
        reason: error.to_string(),
    })
}

pub(super) fn get(
    read: &ReadTransaction,
    shard: Shard,
    keys: &[Key],
    now: Timestamp,
) -> Result<Vec<Option<Record>>, ReadError> {
    let table = read.open_table(RECORD)?;
    let mut full = Vec::with_capacity(128);
    let mut records = Vec::with_capacity(keys.len());
    for key in keys {
        full.clear();
        record_key(&mut full, shard_code(shard), key);
        let Some(row) = ReadableTable::get(&table, full.as_slice())? else {
            records.push(None);
            continue;
        };
        let (header, value) = Header::decode(&full, row.value())
            .ok_or_else(|| ReadError::Damaged(format!("record {}", printable(key))))?;
        records.push(header.live(now.as_micros()).then(|| Record {
            version: header.version,
            value: Bytes::copy_from_slice(value),
            commits: header.ring.ids().iter().copied().map(CommitId).collect(),
        }));
    }
    Ok(records)
}

pub(super) fn range(
    read: &ReadTransaction,
    shard: Shard,
    ranges: &[Range],
    limit: usize,
    order: Order,
) -> Result<Vec<Vec<Member>>, ReadError> {
    let table = read.open_table(INDEX)?;
    let mut answers = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut members = Vec::new();
        let visit = |member: &[u8]| members.push(Member::copy_from_slice(member));
        walk(&table, shard, range, limit, order, visit)?;
        answers.push(members);
    }
    Ok(answers)
}

pub(super) fn count(
    read: &ReadTransaction,
    shard: Shard,
    range: &Range,
    cap: u64,
) -> Result<u64, ReadError> {
    if range.start.is_empty() && range.end.is_none() {
        let mut prefix = Vec::with_capacity(range.index.len() + 4);
        index_prefix(&mut prefix, shard_code(shard), &range.index);
        let state = read.open_table(STATE)?;
        let members = read_count(&state, &prefix)?;
        return members.map(|members| members.min(cap)).ok_or_else(|| {
            ReadError::Damaged(format!("the size of index {}", printable(&range.index)))
        });
    }
    let table = read.open_table(INDEX)?;
    let mut members = 0;
    let limit = usize::try_from(cap).unwrap_or(usize::MAX);
    walk(&table, shard, range, limit, Order::Ascending, |_| {
        members += 1
    })?;
    Ok(members)
}

/// Visits up to `limit` members of a range.
fn walk(
    table: &impl ReadableTable<&'static [u8], u32>,
    shard: Shard,
    range: &Range,
    limit: usize,
    order: Order,
    mut visit: impl FnMut(&[u8]),
) -> Result<(), ReadError> {
    let mut prefix = Vec::with_capacity(range.index.len() + range.start.len() + 4);
    index_prefix(&mut prefix, shard_code(shard), &range.index);
    let skip = prefix.len();
    let end = match &range.end {
        Some(end) if *end <= range.start => return Ok(()),
        Some(end) => {
            let mut key = prefix.clone();
            key.extend_from_slice(end);
            key
        }
        // The first two bytes are a shard number, which is never the last one.
        None => prefix_end(&prefix).unwrap_or_default(),
    };
    let mut start = prefix;
    start.extend_from_slice(&range.start);
    let mut rows = table.range::<&[u8]>(start.as_slice()..end.as_slice())?;
    let mut left = limit;
    while left > 0 {
        let row = match order {
            Order::Ascending => rows.next(),
            Order::Descending => rows.next_back(),
        };
        let Some(row) = row else { break };
        let (key, sum) = row?;
        let key = key.value();
        if checksum(&[key]) != sum.value() {
            let what = format!("a member of index {}", printable(&range.index));
            return Err(ReadError::Damaged(what));
        }
        visit(&key[skip..]);
        left -= 1;
    }
    Ok(())
}

pub(super) fn tail(
    read: &ReadTransaction,
    shard: Shard,
    from: LogId,
    limit: usize,
) -> Result<LogPage, ReadError> {
    let (log, state) = (read.open_table(LOG)?, read.open_table(STATE)?);
    let shard = shard_code(shard);
    let ends = log_ends(&state, &log, shard).map_err(|trouble| match trouble {
        Trouble::Storage(error) => ReadError::from(error),
        Trouble::Damaged(what) => ReadError::Damaged(what),
    })?;
    let from = from.max(ends.first);
    let (low, high) = (log_key(shard, from), log_key(shard, LogId::MAX));
    let mut entries = Vec::new();
    for row in ReadableTable::range::<&[u8; 10]>(&log, &low..=&high)?.take(limit) {
        let (key, row) = row?;
        let (key, row) = (key.value(), row.value());
        let id = log_id(key);
        let value = open_entry(key, row);
        let expected = from + entries.len() as u64;
        let Some(value) = value.filter(|_| id == expected) else {
            return Err(ReadError::Damaged(format!("log entry {expected}")));
        };
        entries.push(Entry {
            id,
            value: Bytes::copy_from_slice(value),
        });
    }
    Ok(LogPage {
        entries,
        first: ends.first,
        next: ends.next,
    })
}
