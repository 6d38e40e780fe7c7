//! One atomic, conditional write.

use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::Timestamp;

use crate::{Index, Key, LogId, Member, Shard, Version};

/// The identity of a batch across resends: 128 random bits, of which the low 52 are in the versions
/// that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(pub u128);

/// The bit that is set in every version: none is 0, and none is one that counts from 1, as those of
/// older builds did. All fit into 53 bits, which a double holds exactly.
const NAMED: Version = 1 << 52;

impl CommitId {
    /// The version of every record that the batch with this id puts: its low 52 bits, below a bit
    /// that is always set.
    ///
    /// A count would come again after a store has lost commits, for something else. This does not:
    /// another batch makes another version (52 random bits are equal once in 4.5e15 pairs), and the
    /// same batch sent again makes the same one.
    #[must_use]
    pub const fn version(self) -> Version {
        NAMED | (self.0 as Version & (NAMED - 1))
    }
}

/// A rate for a bucket precondition: `permits` per `per`, with room for `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Permits per period; at least 1.
    pub permits: u32,
    /// The period.
    pub per: Duration,
    /// Permits available after a long pause; at least 1.
    pub burst: u32,
}

/// What must hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// There is no such record.
    Absent {
        /// The record.
        key: Key,
    },
    /// The record is at this version.
    At {
        /// The record.
        key: Key,
        /// Its version.
        version: Version,
    },
    /// The index has fewer members than `limit`, before this batch's own writes.
    SizeBelow {
        /// The index.
        index: Index,
        /// The limit.
        limit: u64,
        /// Name up to this many members in the error.
        name_holders: usize,
    },
    /// The bucket has `cost` permits left (GCRA); they are taken when the batch is applied.
    Bucket {
        /// The bucket.
        key: Key,
        /// Its rate.
        rate: Rate,
        /// Permits to take.
        cost: u32,
    },
    /// The record's value equals these bytes; an absent record equals nothing. Used for the policy
    /// snapshot: unlike `At`, it is no identity for the commit id and never writes.
    Pointer {
        /// The record.
        key: Key,
        /// The expected value.
        value: Bytes,
    },
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a record; its version is that of the batch, see [`CommitId::version`].
    Put {
        /// The record.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Gone after this long; only for families that no index, log or count refers to.
        ttl: Option<Duration>,
    },
    /// Deletes a record and leaves a tombstone, long enough for any resend of an older batch.
    Delete {
        /// The record.
        key: Key,
    },
    /// Adds a member to an index; adding a present one changes nothing.
    Add {
        /// The index.
        index: Index,
        /// The member.
        member: Member,
    },
    /// Removes a member from an index; removing an absent one changes nothing.
    Remove {
        /// The index.
        index: Index,
        /// The member.
        member: Member,
    },
    /// Appends to the shard's log.
    Append {
        /// The entry.
        value: Bytes,
    },
}

/// One atomic, conditional write to one shard.
///
/// At least one precondition must be `Absent` or `At` on a record that the batch also puts or
/// deletes: that record carries the commit id by which a resend is recognised. A record is put or
/// deleted at most once in a batch. Names have 1 to 1024 bytes, a batch at most 8 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The shard.
    pub shard: Shard,
    /// The identity across resends.
    pub commit_id: CommitId,
    /// All must hold.
    pub preconditions: Vec<Precondition>,
    /// All are applied, in order.
    pub writes: Vec<Write>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new(shard: Shard, commit_id: CommitId) -> Self {
        Self {
            shard,
            commit_id,
            preconditions: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Creates a record that must not exist.
    pub fn create(&mut self, key: Key, value: Bytes) -> &mut Self {
        self.preconditions
            .push(Precondition::Absent { key: key.clone() });
        self.writes.push(Write::Put {
            key,
            value,
            ttl: None,
        });
        self
    }

    /// Replaces a record that must be at `version`.
    pub fn replace(&mut self, key: Key, version: Version, value: Bytes) -> &mut Self {
        self.preconditions.push(Precondition::At {
            key: key.clone(),
            version,
        });
        self.writes.push(Write::Put {
            key,
            value,
            ttl: None,
        });
        self
    }

    /// Deletes a record that must be at `version`.
    pub fn delete(&mut self, key: Key, version: Version) -> &mut Self {
        self.preconditions.push(Precondition::At {
            key: key.clone(),
            version,
        });
        self.writes.push(Write::Delete { key });
        self
    }

    /// Adds a member to an index.
    pub fn add(&mut self, index: Index, member: Member) -> &mut Self {
        self.writes.push(Write::Add { index, member });
        self
    }

    /// Removes a member from an index.
    pub fn remove(&mut self, index: Index, member: Member) -> &mut Self {
        self.writes.push(Write::Remove { index, member });
        self
    }

    /// Appends to the shard's log.
    pub fn append(&mut self, value: Bytes) -> &mut Self {
        self.writes.push(Write::Append { value });
        self
    }
}

/// An applied batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Store time of the commit (of the answer, when the batch had been applied before).
    pub time: Timestamp,
    /// The version of every record that the batch put, see [`CommitId::version`].
    pub version: Version,
    /// The id of the last appended log entry, if any; `None` also for a resend that had been
    /// applied before.
    pub last_log_id: Option<LogId>,
    /// True when this batch had been applied by an earlier send.
    pub resent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_where_ids_do_and_fit_into_a_double() {
        let ids = [0, 1, 2, (1 << 51) | 1, (1 << 52) - 1, u128::MAX - 1];
        let mut versions: Vec<Version> = ids.map(|id| CommitId(id).version()).into();
        for version in &versions {
            assert!((1 << 52..1 << 53).contains(version), "{version}");
            assert_eq!(*version as f64 as Version, *version);
        }
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), ids.len());
        assert_eq!(CommitId(1 << 127 | 5).version(), CommitId(5).version());
    }
}
