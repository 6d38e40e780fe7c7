//! Where things are in Redis: keys, record headers, the state of a shard.
//!
//! | key                  | type   | what                                                    |
//! |----------------------|--------|---------------------------------------------------------|
//! | `{s0}r` name         | string | a record: header, value                                 |
//! | `{s0}i` name         | zset   | an index: members with score 0                          |
//! | `{s0}b` name         | string | a bucket, until it is full again                        |
//! | `{s0}l`              | stream | the log: entries `<id>-0` with one field `e`            |
//! | `{s0}m`              | string | state: store time, commits, next and first log id       |
//! | `{s0}w` writer       | string | the oldest connection of a writer that may still commit |
//! | `{s0}t` number       | string | a payload on its way, for a minute                      |
//! | `{sys}id`            | string | format, shards and identity of the store                |
//!
//! The braces make all keys of a shard one slot; shard `sys` is `{sys}`. A header is 32 bytes and
//! the commit ids, 16 bytes each, oldest first; behind a payload that was uploaded the ids have
//! room for all eight:
//!
//! ```text
//! format 1 | flags 1 | ids 1 | length 1 | version 8 | expiry 8 | checksum of key and value 4 | sum 8 | ids | room
//! ```
//!
//! Little-endian. The checksum of the value is the client's CRC-32. `sum` is the beginning of the
//! SHA-1 over the key and the rest of the header, which the script can compute and verify too; the
//! state and buckets end in one. A log entry begins with a CRC-32 over the key of the log and the
//! entry.

use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::{CommitId, LogId, Record, Shard};

/// The only format so far.
pub(super) const FORMAT: u32 = 1;
/// Bytes of a header without ids.
const FIXED: usize = 32;
/// Bytes of a header with room for all ids; what is kept free in front of an uploaded payload.
pub(super) const FULL_HEADER: usize = FIXED + 8 * 16;
/// The record was deleted; there is no value.
const TOMBSTONE: u8 = 1;
/// Where the identity of the store is.
pub(super) const IDENTITY: &str = "{sys}id";

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    Index,
    Bucket,
    Log,
    State,
    Fence,
    Upload,
}

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::Record => b'r',
            Self::Index => b'i',
            Self::Bucket => b'b',
            Self::Log => b'l',
            Self::State => b'm',
            Self::Fence => b'w',
            Self::Upload => b't',
        }
    }
}

/// The key of something in a shard.
pub(super) fn key(shard: Shard, kind: Kind, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 9);
    match shard {
        Shard::Sys => key.extend_from_slice(b"{sys}"),
        Shard::Data(number) => {
            key.extend_from_slice(b"{s");
            key.extend_from_slice(number.to_string().as_bytes());
            key.push(b'}');
        }
    }
    key.push(kind.letter());
    key.extend_from_slice(name);
    key
}

/// A CRC-32 over some parts.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The sum that the scripts compute: eight characters.
fn sum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut text = [0; 8];
    for (position, byte) in digest.iter().take(4).enumerate() {
        text[position * 2] = HEX[usize::from(byte >> 4)];
        text[position * 2 + 1] = HEX[usize::from(byte & 15)];
    }
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Something stored fails its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Reads a record; `None` for a tombstone and for one past its time at `now`.
pub(super) fn decode_record(
    key: &[u8],
    bytes: Vec<u8>,
    now: u64,
) -> Result<Option<Record>, Damaged> {
    let (fixed, _) = bytes.split_first_chunk::<FIXED>().ok_or(Damaged)?;
    let [format, flags, ids, length, ..] = *fixed;
    let (ids, length) = (usize::from(ids), usize::from(length));
    if u32::from(format) != FORMAT || length < FIXED + ids * 16 || length > bytes.len() {
        return Err(Damaged);
    }
    if sum(&[key, &bytes[..24], &bytes[FIXED..length]]) != bytes[24..FIXED] {
        return Err(Damaged);
    }
    let version = number(&fixed[4..12]);
    let expires = number(&fixed[12..20]);
    let commits = bytes[FIXED..FIXED + ids * 16]
        .as_chunks::<16>()
        .0
        .iter()
        .map(|id| CommitId(u128::from_le_bytes(*id)))
        .collect();
    if flags & TOMBSTONE != 0 {
        return if bytes.len() == length {
            Ok(None)
        } else {
            Err(Damaged)
        };
    }
    let stored = [fixed[20], fixed[21], fixed[22], fixed[23]];
    let value = Bytes::from(bytes).slice(length..);
    if checksum(&[key, &value]) != u32::from_le_bytes(stored) {
        return Err(Damaged);
    }
    let live = expires == 0 || expires > now;
    Ok(live.then_some(Record {
        version,
        value,
        commits,
    }))
}

/// What is kept of a shard as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The time of the last commit, in microseconds; store time is never before it.
    pub(super) time: u64,
    /// How many commits there were.
    pub(super) commits: u64,
    /// The id that the next log entry gets.
    pub(super) next: LogId,
    /// The oldest log id that is kept.
    pub(super) first: LogId,
}

impl Default for State {
    fn default() -> Self {
        Self {
            time: 0,
            commits: 0,
            next: 1,
            first: 1,
        }
    }
}

impl State {
    /// Reads the state of a shard.
    pub(super) fn decode(key: &[u8], bytes: Option<&[u8]>) -> Result<Self, Damaged> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        let bytes: &[u8; 40] = bytes.try_into().map_err(|_| Damaged)?;
        if sum(&[key, &bytes[..32]]) != bytes[32..] {
            return Err(Damaged);
        }
        Ok(Self {
            time: number(&bytes[..8]),
            commits: number(&bytes[8..16]),
            next: number(&bytes[16..24]),
            first: number(&bytes[24..32]),
        })
    }
}

/// Eight little-endian bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The bytes of a log entry.
pub(super) fn encode_entry(log: &[u8], value: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(value.len() + 4);
    entry.extend_from_slice(&checksum(&[log, value]).to_le_bytes());
    entry.extend_from_slice(value);
    entry
}

/// Reads a log entry.
pub(super) fn decode_entry(log: &[u8], bytes: Vec<u8>) -> Result<Bytes, Damaged> {
    let (stored, value) = bytes.split_first_chunk::<4>().ok_or(Damaged)?;
    if checksum(&[log, value]) != u32::from_le_bytes(*stored) {
        return Err(Damaged);
    }
    Ok(Bytes::from(bytes).slice(4..))
}

/// The identity of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) format: u32,
    pub(super) shards: u16,
    pub(super) id: u128,
}

impl Identity {
    pub(super) fn encode(&self) -> String {
        format!("coretex {} {} {:032x}", self.format, self.shards, self.id)
    }

    /// Reads an identity; `None` when these are not the words of this program.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split(' ');
        let ("coretex", format, shards, id, None) = (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next(),
        ) else {
            return None;
        };
        Some(Self {
            format: format.parse().ok()?,
            shards: shards.parse().ok()?,
            id: u128::from_str_radix(id, 16).ok()?,
        })
    }
}

/// A name for error texts: what is printable of it.
pub(super) fn printable(name: &[u8]) -> String {
    name.escape_ascii().take(120).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_shard_share_its_slot() {
        assert_eq!(key(Shard::Sys, Kind::State, b""), b"{sys}m");
        assert_eq!(key(Shard::Data(12), Kind::Record, b"a}b"), b"{s12}ra}b");
    }

    #[test]
    fn an_identity_comes_back() {
        let identity = Identity {
            format: 1,
            shards: 3,
            id: 0xfeed,
        };
        let text = identity.encode();
        assert_eq!(Identity::decode(text.as_bytes()), Some(identity));
        for foreign in ["", "coretex", "other 1 1 1", "coretex 1 1 1 1"] {
            assert_eq!(Identity::decode(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn a_damaged_state_or_entry_is_noticed() {
        let state = State {
            time: 5,
            commits: 4,
            next: 3,
            first: 2,
        };
        let mut bytes: Vec<u8> = [state.time, state.commits, state.next, state.first]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        bytes.extend_from_slice(&sum(&[b"key", &bytes]));
        assert_eq!(State::decode(b"key", Some(&bytes)), Ok(state));
        let entry = encode_entry(b"log", b"value");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(State::decode(b"key", Some(&damaged)), Err(Damaged));
        }
        for bit in 0..entry.len() * 8 {
            let mut damaged = entry.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_entry(b"log", damaged), Err(Damaged));
        }
    }
}
