//! What the writer does beside commits: forgetting what is over, measuring the disk.

use std::collections::BTreeSet;
use std::path::Path;

use redb::{ReadableTable, StorageError};

use crate::{LogId, Pressure, Usage};

use super::disk::{Disk, Space};
use super::envelope::Header;
use super::group::{BUCKET_REVIEW, Tables, decode_bucket};
use super::layout::{
    KIND_BUCKET, KIND_RECORD, expiry_key, log_key, parse_expiry, record_key, state_key,
};

/// Below this much free space no commit is tried.
const RESERVE: u64 = 16 * 1024 * 1024;
/// Below this much free space new work is refused, however small the store is.
const SCARCE: u64 = 256 * 1024 * 1024;
/// Above this share of what the store could have, new work is refused.
const HIGH_PERCENT: u64 = 85;

/// Removes up to `limit` records, tombstones and buckets that are over. Tells how many rows it
/// looked at: as many as `limit` means that there may be more.
pub(super) fn purge(
    tables: &mut Tables<'_>,
    now: u64,
    limit: usize,
) -> Result<usize, StorageError> {
    let end = now.saturating_add(1).to_be_bytes();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for row in tables.expiry.range::<&[u8]>(..end.as_slice())?.take(limit) {
        rows.push(row?.0.value().to_vec());
    }
    let mut key = Vec::with_capacity(128);
    for row in &rows {
        tables.expiry.remove(row.as_slice())?;
        let Some((due, kind, shard, name)) = parse_expiry(row) else {
            continue;
        };
        key.clear();
        if kind == KIND_RECORD {
            record_key(&mut key, shard, name);
            // A later write of the record has its own row; a damaged one stays to be seen.
            let over = match tables.record.get(key.as_slice())? {
                None => false,
                Some(row) => Header::decode(&key, row.value())
                    .is_some_and(|(header, _)| header.expires == Some(due)),
            };
            if over {
                tables.record.remove(key.as_slice())?;
            }
        } else if kind == KIND_BUCKET {
            state_key(&mut key, KIND_BUCKET, shard, name);
            let full_at = match tables.state.get(key.as_slice())? {
                None => None,
                Some(row) => decode_bucket(&key, row.value()).map(|bucket| bucket.micros),
            };
            match full_at {
                // A full bucket is as good as none.
                Some(full_at) if full_at < now => {
                    tables.state.remove(key.as_slice())?;
                }
                Some(full_at) => {
                    let review = now.saturating_add(
                        u64::try_from(BUCKET_REVIEW.as_micros()).unwrap_or(u64::MAX),
                    );
                    key.clear();
                    expiry_key(&mut key, full_at.max(review), KIND_BUCKET, shard, name);
                    tables.expiry.insert(key.as_slice(), ())?;
                }
                None => {}
            }
        }
    }
    Ok(rows.len())
}

/// When the next row is due; `None` when there is none.
pub(super) fn next_due(
    expiry: &impl ReadableTable<&'static [u8], ()>,
) -> Result<Option<u64>, StorageError> {
    Ok(expiry
        .first()?
        .and_then(|(row, _)| parse_expiry(row.value()).map(|parts| parts.0)))
}

/// Removes up to `limit` hidden log entries of the shards in `trimmed`, dropping those that are
/// done.
pub(super) fn trim(
    tables: &mut Tables<'_>,
    trimmed: &mut BTreeSet<u16>,
    first: impl Fn(u16) -> Option<LogId>,
    limit: usize,
) -> Result<usize, StorageError> {
    let mut removed = 0;
    while removed < limit
        && let Some(shard) = trimmed.first().copied()
    {
        let end = log_key(shard, first(shard).unwrap_or(0));
        let start = log_key(shard, 0);
        let mut keys = Vec::new();
        for entry in tables
            .log
            .range::<&[u8; 10]>(&start..&end)?
            .take(limit - removed)
        {
            keys.push(*entry?.0.value());
        }
        for key in &keys {
            tables.log.remove(key)?;
        }
        removed += keys.len();
        if removed < limit {
            trimmed.remove(&shard);
        }
    }
    Ok(removed)
}

/// Free space around a store; `None` when there is no file system to ask.
pub(super) fn space(disk: &Disk, directory: Option<&Path>) -> Option<Space> {
    disk.told_space().or_else(|| {
        let stat = rustix::fs::statvfs(directory?).ok()?;
        Some(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    })
}

/// What the store uses of what it could have.
pub(super) fn usage(bytes: u64, space: Option<Space>) -> Usage {
    Usage {
        bytes,
        capacity: space.map_or(0, |space| bytes.saturating_add(space.available)),
    }
}

/// What the free space means for new work.
pub(super) fn pressure(bytes: u64, space: Option<Space>) -> Pressure {
    let Some(space) = space else {
        return Pressure::Normal;
    };
    let capacity = bytes.saturating_add(space.available);
    if space.available < RESERVE {
        Pressure::ReadOnly
    } else if space.available < SCARCE
        || u128::from(bytes) * 100 >= u128::from(capacity) * u128::from(HIGH_PERCENT)
    {
        Pressure::High
    } else {
        Pressure::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn pressure_follows_what_the_store_could_still_have() {
        let with = |available| Some(Space { available });
        assert_eq!(pressure(GIB, None), Pressure::Normal);
        assert_eq!(pressure(GIB, with(50 * GIB)), Pressure::Normal);
        // Others fill the disk: that alone is no reason to refuse work.
        assert_eq!(pressure(1 << 20, with(GIB)), Pressure::Normal);
        assert_eq!(pressure(84 * GIB, with(16 * GIB)), Pressure::Normal);
        assert_eq!(pressure(85 * GIB, with(15 * GIB)), Pressure::High);
        assert_eq!(pressure(0, with(SCARCE - 1)), Pressure::High);
        assert_eq!(pressure(0, with(RESERVE - 1)), Pressure::ReadOnly);
    }
}
