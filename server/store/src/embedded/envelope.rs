//! What the engine writes around the value of a record.
//!
//! ```text
//! format 1 | flags 1 | commits 1 | version 8 | checksum 4 | expiry 8? | commit ids 16 each | value
//! ```
//!
//! Little-endian. The checksum covers the key and every other byte.

use crate::{CommitId, Version};

use super::layout::checksum;

/// The only format so far.
const FORMAT: u8 = 1;
/// The record was deleted; there is no value.
const TOMBSTONE: u8 = 1;
/// There is an expiry time.
const EXPIRES: u8 = 2;
/// Where the checksum is.
const CHECKSUM: std::ops::Range<usize> = 11..15;
/// Bytes that every envelope has.
const FIXED: usize = 15;
/// How many commit ids a record keeps.
pub(super) const RING: usize = 8;

/// The last commits that wrote a record, newest last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ring {
    ids: [u128; RING],
    len: u8,
}

impl Ring {
    /// The commit ids, newest last.
    pub(super) fn ids(&self) -> &[u128] {
        &self.ids[..usize::from(self.len)]
    }

    /// Adds the newest commit, dropping the oldest when full.
    pub(super) fn push(&mut self, id: CommitId) {
        let len = usize::from(self.len);
        if len == RING {
            self.ids.copy_within(1.., 0);
            self.ids[RING - 1] = id.0;
        } else {
            self.ids[len] = id.0;
            self.len += 1;
        }
    }

    /// Whether this commit is one of them.
    pub(super) fn contains(&self, id: CommitId) -> bool {
        self.ids().contains(&id.0)
    }
}

/// What is known of a record beside its value. All zero for one that has never been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) tombstone: bool,
    /// Microseconds since the epoch after which it is gone.
    pub(super) expires: Option<u64>,
    pub(super) ring: Ring,
}

impl Header {
    /// Whether there is a record, at this store time.
    pub(super) fn live(&self, now: u64) -> bool {
        self.version > 0 && !self.tombstone && self.expires.is_none_or(|expires| expires > now)
    }

    /// Bytes of the envelope with a value of this size.
    pub(super) fn encoded_len(&self, value: usize) -> usize {
        FIXED + if self.expires.is_some() { 8 } else { 0 } + self.ring.ids().len() * 16 + value
    }

    /// Writes the envelope into `out`, which is [`Self::encoded_len`] bytes long.
    pub(super) fn encode(&self, out: &mut [u8], key: &[u8], value: &[u8]) {
        out[0] = FORMAT;
        out[1] = u8::from(self.tombstone) * TOMBSTONE + u8::from(self.expires.is_some()) * EXPIRES;
        out[2] = self.ring.len;
        out[3..11].copy_from_slice(&self.version.to_le_bytes());
        let mut at = FIXED;
        if let Some(expires) = self.expires {
            out[at..at + 8].copy_from_slice(&expires.to_le_bytes());
            at += 8;
        }
        for id in self.ring.ids() {
            out[at..at + 16].copy_from_slice(&id.to_le_bytes());
            at += 16;
        }
        out[at..].copy_from_slice(value);
        let sum = checksum(&[key, &out[..CHECKSUM.start], &out[CHECKSUM.end..]]);
        out[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads an envelope and its value; `None` when it is damaged.
    pub(super) fn decode<'a>(key: &[u8], bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED>()?;
        let sum = checksum(&[key, &bytes[..CHECKSUM.start], &bytes[CHECKSUM.end..]]);
        let stored = u32::from_le_bytes([fixed[11], fixed[12], fixed[13], fixed[14]]);
        if sum != stored || fixed[0] != FORMAT || usize::from(fixed[2]) > RING {
            return None;
        }
        let (_, version) = fixed[..11].split_last_chunk::<8>()?;
        let mut header = Self {
            version: u64::from_le_bytes(*version),
            tombstone: fixed[1] & TOMBSTONE != 0,
            expires: None,
            ring: Ring::default(),
        };
        if fixed[1] & EXPIRES != 0 {
            let (expires, tail) = rest.split_first_chunk::<8>()?;
            header.expires = Some(u64::from_le_bytes(*expires));
            rest = tail;
        }
        for _ in 0..fixed[2] {
            let (id, tail) = rest.split_first_chunk::<16>()?;
            header.ring.push(CommitId(u128::from_le_bytes(*id)));
            rest = tail;
        }
        Some((header, rest))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a failed step of a test should stop the test"
    )]

    use super::*;

    fn sample() -> Header {
        let mut header = Header {
            version: 12,
            tombstone: false,
            expires: Some(99),
            ring: Ring::default(),
        };
        for id in 1..=12 {
            header.ring.push(CommitId(id));
        }
        header
    }

    #[test]
    fn an_envelope_comes_back() {
        let mut plain = sample();
        plain.expires = None;
        let mut tombstone = sample();
        tombstone.tombstone = true;
        for header in [sample(), plain, tombstone, Header::default()] {
            let mut bytes = vec![0; header.encoded_len(5)];
            header.encode(&mut bytes, b"key", b"value");
            let (back, value) = Header::decode(b"key", &bytes).unwrap();
            assert_eq!((back, value), (header, b"value".as_slice()));
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_eight() {
        let ring = sample().ring;
        assert_eq!(ring.ids(), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(ring.contains(CommitId(12)) && ring.contains(CommitId(5)));
        assert!(!ring.contains(CommitId(4)));
    }

    #[test]
    fn any_flipped_bit_and_any_other_key_is_damage() {
        let header = sample();
        let mut bytes = vec![0; header.encoded_len(5)];
        header.encode(&mut bytes, b"key", b"value");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(b"key", &damaged), None, "bit {bit}");
        }
        assert_eq!(Header::decode(b"kez", &bytes), None);
        for length in 0..bytes.len() {
            assert_eq!(Header::decode(b"key", &bytes[..length]), None, "{length}");
        }
    }
}
