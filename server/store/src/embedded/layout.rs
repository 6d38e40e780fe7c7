//! Where things are in the database: tables, keys, sealed values.
//!
//! | table   | key                                  | value                          |
//! |---------|--------------------------------------|--------------------------------|
//! | record  | shard, key                           | envelope (see `envelope`)      |
//! | index   | shard, length of index, index, member| checksum of the key            |
//! | log     | shard, id                            | checksum, entry                |
//! | state   | kind, name                           | payload, checksum              |
//! | expiry  | time, kind, shard, key               | nothing                        |
//!
//! `state` holds what is small and often rewritten: the store's identity, the number of members of
//! each index, buckets, where each log begins. All integers in keys are big-endian, so that byte
//! order is number order. Everything that is served has a checksum that covers its own key, so
//! that bytes found in the wrong place are as damaged as bytes that changed.

use redb::TableDefinition;

use crate::{LogId, Shard};

/// Records and tombstones.
pub(super) const RECORD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("record");
/// Members of indexes.
pub(super) const INDEX: TableDefinition<'_, &[u8], u32> = TableDefinition::new("index");
/// Log entries.
pub(super) const LOG: TableDefinition<'_, &[u8; LOG_KEY], &[u8]> = TableDefinition::new("log");
/// Small things; see the module.
pub(super) const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// What to look at when.
pub(super) const EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("expiry");

/// Bytes of a key of the log table.
pub(super) const LOG_KEY: usize = 10;

/// State: format version, store id, number of shards.
pub(super) const IDENTITY: &[u8] = b"m:identity";
/// State: the latest store time of any commit, in microseconds.
pub(super) const CLOCK: &[u8] = b"m:clock";
/// Kind of a state row: members of an index.
pub(super) const KIND_COUNT: u8 = b'c';
/// Kind of a state row and of an expiry row: a bucket.
pub(super) const KIND_BUCKET: u8 = b'b';
/// Kind of a state row: the oldest log id that is kept.
pub(super) const KIND_LOG: u8 = b'l';
/// Kind of an expiry row: a record or tombstone.
pub(super) const KIND_RECORD: u8 = b'r';

/// The number of a shard in keys.
pub(super) const fn shard_code(shard: Shard) -> u16 {
    match shard {
        Shard::Sys => 0,
        // Shard numbers stop at 65,534, see the check of options.
        Shard::Data(number) => number + 1,
    }
}

/// Appends the key of a record.
pub(super) fn record_key(out: &mut Vec<u8>, shard: u16, key: &[u8]) {
    out.extend_from_slice(&shard.to_be_bytes());
    out.extend_from_slice(key);
}

/// Appends what all members of an index have in common.
pub(super) fn index_prefix(out: &mut Vec<u8>, shard: u16, index: &[u8]) {
    out.extend_from_slice(&shard.to_be_bytes());
    // Names are at most 1 KiB long.
    #[expect(clippy::cast_possible_truncation, reason = "names are at most 1 KiB")]
    out.extend_from_slice(&(index.len() as u16).to_be_bytes());
    out.extend_from_slice(index);
}

/// Appends the key of a state row of a kind.
pub(super) fn state_key(out: &mut Vec<u8>, kind: u8, shard: u16, name: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&shard.to_be_bytes());
    out.extend_from_slice(name);
}

/// Appends the key of an expiry row.
pub(super) fn expiry_key(out: &mut Vec<u8>, micros: u64, kind: u8, shard: u16, key: &[u8]) {
    out.extend_from_slice(&micros.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&shard.to_be_bytes());
    out.extend_from_slice(key);
}

/// The parts of an expiry row; `None` when it is no such row.
pub(super) fn parse_expiry(row: &[u8]) -> Option<(u64, u8, u16, &[u8])> {
    let (micros, rest) = row.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let (shard, key) = rest.split_first_chunk::<2>()?;
    Some((
        u64::from_be_bytes(*micros),
        *kind,
        u16::from_be_bytes(*shard),
        key,
    ))
}

/// The key of a log entry.
pub(super) fn log_key(shard: u16, id: LogId) -> [u8; LOG_KEY] {
    let mut key = [0; LOG_KEY];
    key[..2].copy_from_slice(&shard.to_be_bytes());
    key[2..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The id in the key of a log entry.
pub(super) fn log_id(key: &[u8; LOG_KEY]) -> LogId {
    let mut id = [0; 8];
    id.copy_from_slice(&key[2..]);
    LogId::from_be_bytes(id)
}

/// The checksum of some parts in a row.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Seals the payload of a state row: the payload, then the checksum over key and payload.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 4);
    out.extend_from_slice(payload);
    out.extend_from_slice(&checksum(&[key, payload]).to_le_bytes());
    out
}

/// Opens a sealed payload; `None` when it is damaged.
pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (payload, sum) = sealed.split_last_chunk::<4>()?;
    (checksum(&[key, payload]) == u32::from_le_bytes(*sum)).then_some(payload)
}

/// Opens a sealed number; `None` when it is damaged.
pub(super) fn unseal_u64(key: &[u8], sealed: &[u8]) -> Option<u64> {
    let payload = unseal(key, sealed)?;
    Some(u64::from_le_bytes(payload.try_into().ok()?))
}
