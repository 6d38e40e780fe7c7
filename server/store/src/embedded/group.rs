//! One group of commits against one open transaction.
//!
//! Every commit is checked against what the commits before it left: the records that they touched
//! are here, their index changes are pending here, everything else is in the tables. A commit that
//! fails a check has changed nothing, so the rest of the group goes on.
//!
//! Over 500 lines because judging and applying are two halves of one transaction.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use redb::{ReadableTable, StorageError, Table, WriteTransaction};

use crate::gcra::{self, Bucket, Demand};
use crate::{Batch, CommitError, CommitId, Committed, Limit, LogId, Precondition, Rate, Write};

use super::counts::IndexChanges;
use super::envelope::Header;
use super::layout::{
    CLOCK, EXPIRY, INDEX, KIND_BUCKET, KIND_LOG, KIND_RECORD, LOG, RECORD, STATE, checksum,
    expiry_key, log_id, log_key, record_key, seal, shard_code, state_key, unseal, unseal_u64,
};

/// How long a deleted record still tells which commits wrote it.
const TOMBSTONE: Duration = Duration::from_secs(600);
/// A bucket is looked at again no sooner than this after it was filed.
pub(super) const BUCKET_REVIEW: Duration = Duration::from_secs(60);

/// A table of byte strings.
pub(super) type Rows<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The tables of one transaction.
pub(super) struct Tables<'t> {
    pub(super) record: Rows<'t>,
    pub(super) index: Table<'t, &'static [u8], u32>,
    pub(super) log: Table<'t, &'static [u8; 10], &'static [u8]>,
    pub(super) state: Rows<'t>,
    pub(super) expiry: Table<'t, &'static [u8], ()>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::TableError> {
        Ok(Self {
            record: transaction.open_table(RECORD)?,
            index: transaction.open_table(INDEX)?,
            log: transaction.open_table(LOG)?,
            state: transaction.open_table(STATE)?,
            expiry: transaction.open_table(EXPIRY)?,
        })
    }
}

/// The ends of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first: LogId,
    pub(super) next: LogId,
}

/// Why a commit could not even be judged.
pub(super) enum Trouble {
    /// The transaction is lost, and the group with it.
    Storage(StorageError),
    /// Something that this commit needs is damaged.
    Damaged(String),
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// A record as this group has it.
#[derive(Default)]
struct Loaded {
    header: Header,
    /// The value, when a check needed it or a commit of the group wrote it.
    value: Option<Bytes>,
    dirty: bool,
}

struct LoadedBucket {
    state: Option<Bucket>,
    /// There is a row, so there is an expiry row too.
    filed: bool,
    dirty: bool,
}

/// What is known between groups, all of it rebuilt from the tables when dropped.
#[derive(Default)]
pub(super) struct Known {
    pub(super) changes: IndexChanges,
    pub(super) logs: HashMap<u16, Ends>,
}

type Name = (u16, Bytes);
type Answer = Result<Committed, CommitError>;

/// A group under construction.
pub(super) struct Group<'t, 'k> {
    tables: Tables<'t>,
    known: &'k mut Known,
    now: Timestamp,
    records: HashMap<Name, Loaded>,
    buckets: HashMap<Name, LoadedBucket>,
    scratch: Vec<u8>,
    /// Commits that changed something.
    pub(super) applied: usize,
}

impl<'t, 'k> Group<'t, 'k> {
    pub(super) fn new(tables: Tables<'t>, known: &'k mut Known, now: Timestamp) -> Self {
        Self {
            tables,
            known,
            now,
            records: HashMap::with_capacity(128),
            buckets: HashMap::new(),
            scratch: Vec::with_capacity(256),
            applied: 0,
        }
    }

    /// Judges a batch and applies it when everything holds.
    ///
    /// # Errors
    /// The outer error loses the whole group.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<Answer, StorageError> {
        match self.judge(batch) {
            Ok(Ok(taken)) => self.apply(batch, taken).map(Ok),
            Ok(Err(answer)) => Ok(answer),
            Err(Trouble::Storage(error)) => Err(error),
            Err(Trouble::Damaged(what)) => Ok(Err(CommitError::DataLoss { what })),
        }
    }

    /// Everything that could fail, and nothing that changes anything. The inner error is an answer
    /// (also that of a resend); otherwise the batch is to be applied with these buckets.
    fn judge(&mut self, batch: &Batch) -> Result<Result<Vec<(Name, Bucket)>, Answer>, Trouble> {
        let shard = shard_code(batch.shard);
        for precondition in &batch.preconditions {
            if let Precondition::Absent { key } | Precondition::At { key, .. } = precondition {
                let record = self.load(shard, key, false)?;
                if record.header.ring.contains(batch.commit_id) {
                    return Ok(Err(Ok(self.resent(batch))));
                }
            }
        }
        let mut taken = Vec::new();
        for precondition in &batch.preconditions {
            if let Err(error) = self.holds(shard, precondition, &mut taken)? {
                return Ok(Err(Err(error)));
            }
        }
        for write in &batch.writes {
            match write {
                Write::Put { key, .. } | Write::Delete { key } => {
                    self.load(shard, key, false)?;
                }
                Write::Append { .. } => {
                    self.ends(shard)?;
                }
                Write::Add { .. } | Write::Remove { .. } => {}
            }
        }
        Ok(Ok(taken))
    }

    fn holds(
        &mut self,
        shard: u16,
        precondition: &Precondition,
        taken: &mut Vec<(Name, Bucket)>,
    ) -> Result<Result<(), CommitError>, Trouble> {
        let now = self.now.as_micros();
        Ok(match precondition {
            Precondition::Absent { key } => {
                if self.load(shard, key, false)?.header.live(now) {
                    Err(CommitError::Conflict { key: key.clone() })
                } else {
                    Ok(())
                }
            }
            Precondition::At { key, version } => {
                let header = self.load(shard, key, false)?.header;
                if header.live(now) && header.version == *version {
                    Ok(())
                } else {
                    Err(CommitError::Conflict { key: key.clone() })
                }
            }
            Precondition::Pointer { key, value } => {
                let record = self.load(shard, key, true)?;
                if record.header.live(now) && record.value.as_ref() == Some(value) {
                    Ok(())
                } else {
                    Err(CommitError::PointerMoved { key: key.clone() })
                }
            }
            Precondition::SizeBelow {
                index,
                limit,
                name_holders,
            } => self
                .known
                .changes
                .size_below(&mut self.tables, shard, index, *limit, *name_holders)?
                .map_err(|holders| {
                    CommitError::LimitReached(Limit::Size {
                        index: index.clone(),
                        holders,
                    })
                }),
            Precondition::Bucket { key, rate, cost } => {
                self.demand(shard, key, rate, *cost, taken)?.map_err(|at| {
                    CommitError::LimitReached(Limit::Bucket {
                        key: key.clone(),
                        at,
                    })
                })
            }
        })
    }

    /// Takes permits from a bucket as this batch has left it so far.
    fn demand(
        &mut self,
        shard: u16,
        key: &Bytes,
        rate: &Rate,
        cost: u32,
        taken: &mut Vec<(Name, Bucket)>,
    ) -> Result<Result<(), Timestamp>, Trouble> {
        let name = (shard, key.clone());
        let earlier = taken.iter().position(|(other, _)| *other == name);
        let state = match earlier {
            Some(position) => Some(taken[position].1),
            None => self.load_bucket(&name)?,
        };
        match gcra::take(state, rate, cost, self.now) {
            Demand::Refused(at) => Ok(Err(at)),
            Demand::Granted(bucket) => {
                match earlier {
                    Some(position) => taken[position].1 = bucket,
                    None => taken.push((name, bucket)),
                }
                Ok(Ok(()))
            }
        }
    }

    /// The answer to a batch that an earlier send has applied.
    fn resent(&self, batch: &Batch) -> Committed {
        Committed {
            time: self.now,
            version: batch.commit_id.version(),
            last_log_id: None,
            resent: true,
        }
    }

    fn apply(
        &mut self,
        batch: &Batch,
        taken: Vec<(Name, Bucket)>,
    ) -> Result<Committed, StorageError> {
        let shard = shard_code(batch.shard);
        let mut last_log_id = None;
        for write in &batch.writes {
            match write {
                Write::Put { key, value, ttl } => {
                    let expires = ttl.map(|ttl| (self.now + ttl).as_micros());
                    self.write(shard, key, batch.commit_id, Some(value), expires);
                }
                Write::Delete { key } => {
                    let expires = (self.now + TOMBSTONE).as_micros();
                    self.write(shard, key, batch.commit_id, None, Some(expires));
                }
                Write::Add { index, member } => {
                    self.known.changes.push(shard, index, member, true);
                }
                Write::Remove { index, member } => {
                    self.known.changes.push(shard, index, member, false);
                }
                Write::Append { value } => last_log_id = Some(self.append(shard, value)?),
            }
        }
        for (name, bucket) in taken {
            if let Some(loaded) = self.buckets.get_mut(&name) {
                loaded.state = Some(bucket);
                loaded.dirty = true;
            }
        }
        self.applied += 1;
        Ok(Committed {
            time: self.now,
            version: batch.commit_id.version(),
            last_log_id,
            resent: false,
        })
    }

    fn write(
        &mut self,
        shard: u16,
        key: &Bytes,
        id: CommitId,
        value: Option<&Bytes>,
        expires: Option<u64>,
    ) {
        // Loaded while the batch was judged.
        let record = self.records.entry((shard, key.clone())).or_default();
        record.header.version = id.version();
        record.header.tombstone = value.is_none();
        record.header.expires = expires;
        record.header.ring.push(id);
        record.value = Some(value.cloned().unwrap_or_default());
        record.dirty = true;
    }

    fn append(&mut self, shard: u16, value: &Bytes) -> Result<LogId, StorageError> {
        let Some(ends) = self.known.logs.get_mut(&shard) else {
            return Err(StorageError::Corrupted("log was not looked up".to_owned()));
        };
        let id = ends.next;
        ends.next += 1;
        let key = log_key(shard, id);
        let mut row = self.tables.log.insert_reserve(&key, value.len() + 4)?;
        let (sum, entry) = row.as_mut().split_at_mut(4);
        sum.copy_from_slice(&checksum(&[&key, value]).to_le_bytes());
        entry.copy_from_slice(value);
        Ok(id)
    }

    /// Hides log entries below `before`; the caller removes them in time.
    pub(super) fn trim(&mut self, shard: u16, before: LogId) -> Result<(), Trouble> {
        let ends = self.ends(shard)?;
        let first = before.min(ends.next);
        if first > ends.first {
            self.known.logs.insert(
                shard,
                Ends {
                    first,
                    next: ends.next,
                },
            );
            let mut key = Vec::with_capacity(3);
            state_key(&mut key, KIND_LOG, shard, b"");
            let row = seal(&key, &first.to_le_bytes());
            self.tables.state.insert(key.as_slice(), row.as_slice())?;
            self.applied += 1;
        }
        Ok(())
    }

    fn ends(&mut self, shard: u16) -> Result<Ends, Trouble> {
        if let Some(ends) = self.known.logs.get(&shard) {
            return Ok(*ends);
        }
        let ends = log_ends(&self.tables.state, &self.tables.log, shard)?;
        self.known.logs.insert(shard, ends);
        Ok(ends)
    }

    fn load(&mut self, shard: u16, key: &Bytes, value: bool) -> Result<&Loaded, Trouble> {
        let name = (shard, key.clone());
        let known = self
            .records
            .get(&name)
            .is_some_and(|record| record.value.is_some() || !value);
        if !known {
            self.scratch.clear();
            record_key(&mut self.scratch, shard, key);
            let mut loaded = Loaded::default();
            if let Some(row) = self.tables.record.get(self.scratch.as_slice())? {
                let (header, bytes) = Header::decode(&self.scratch, row.value())
                    .ok_or_else(|| Trouble::Damaged(format!("record {}", printable(key))))?;
                loaded.header = header;
                loaded.value = value.then(|| Bytes::copy_from_slice(bytes));
            } else {
                loaded.value = Some(Bytes::new());
            }
            self.records.insert(name.clone(), loaded);
        }
        // Present in either case.
        Ok(self.records.entry(name).or_default())
    }

    fn load_bucket(&mut self, name: &Name) -> Result<Option<Bucket>, Trouble> {
        if let Some(loaded) = self.buckets.get(name) {
            return Ok(loaded.state);
        }
        self.scratch.clear();
        state_key(&mut self.scratch, KIND_BUCKET, name.0, &name.1);
        let state = match self.tables.state.get(self.scratch.as_slice())? {
            None => None,
            Some(row) => Some(
                decode_bucket(&self.scratch, row.value())
                    .ok_or_else(|| Trouble::Damaged(format!("bucket {}", printable(&name.1))))?,
            ),
        };
        let loaded = LoadedBucket {
            state,
            filed: state.is_some(),
            dirty: false,
        };
        self.buckets.insert(name.clone(), loaded);
        Ok(state)
    }

    /// Writes what is still only here, and hands the tables back for housekeeping.
    pub(super) fn finish(mut self) -> Result<Tables<'t>, StorageError> {
        self.known.changes.apply(&mut self.tables)?;
        self.known.changes.write_counts(&mut self.tables)?;
        let mut dirty: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| record.dirty)
            .collect();
        // In key order, neighbours share the pages that are touched.
        dirty.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let key = &mut self.scratch;
        for ((shard, name), record) in dirty {
            let value = record.value.as_deref().unwrap_or_default();
            key.clear();
            record_key(key, *shard, name);
            let len = record.header.encoded_len(value.len());
            let mut row = self.tables.record.insert_reserve(key.as_slice(), len)?;
            record.header.encode(row.as_mut(), key, value);
            drop(row);
            if let Some(expires) = record.header.expires {
                key.clear();
                expiry_key(key, expires, KIND_RECORD, *shard, name);
                self.tables.expiry.insert(key.as_slice(), ())?;
            }
        }
        let review = (self.now + BUCKET_REVIEW).as_micros();
        for ((shard, name), loaded) in &self.buckets {
            let (Some(bucket), true) = (loaded.state, loaded.dirty) else {
                continue;
            };
            key.clear();
            state_key(key, KIND_BUCKET, *shard, name);
            let row = encode_bucket(key, bucket);
            self.tables.state.insert(key.as_slice(), row.as_slice())?;
            if !loaded.filed {
                key.clear();
                let due = bucket.micros.max(review);
                expiry_key(key, due, KIND_BUCKET, *shard, name);
                self.tables.expiry.insert(key.as_slice(), ())?;
            }
        }
        write_clock(&mut self.tables.state, self.now)?;
        Ok(self.tables)
    }
}

/// Records the store time, below which no later one falls.
pub(super) fn write_clock(state: &mut Rows<'_>, now: Timestamp) -> Result<(), StorageError> {
    let row = seal(CLOCK, &now.as_micros().to_le_bytes());
    state.insert(CLOCK, row.as_slice())?;
    Ok(())
}

/// The bytes of a log entry; `None` when they are damaged.
pub(super) fn open_entry<'a>(key: &[u8; 10], row: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, entry) = row.split_first_chunk::<4>()?;
    (checksum(&[key, entry]) == u32::from_le_bytes(*sum)).then_some(entry)
}

/// Reads where a log begins and ends.
pub(super) fn log_ends(
    state: &impl ReadableTable<&'static [u8], &'static [u8]>,
    log: &impl ReadableTable<&'static [u8; 10], &'static [u8]>,
    shard: u16,
) -> Result<Ends, Trouble> {
    let mut key = Vec::with_capacity(3);
    state_key(&mut key, KIND_LOG, shard, b"");
    let first = match state.get(key.as_slice())? {
        None => 1,
        Some(row) => unseal_u64(&key, row.value())
            .ok_or_else(|| Trouble::Damaged("the start of a log".to_owned()))?,
    };
    let (low, high) = (log_key(shard, 0), log_key(shard, LogId::MAX));
    let mut entries = log.range::<&[u8; 10]>(&low..=&high)?;
    let next = match entries.next_back() {
        None => first,
        Some(entry) => {
            let (key, row) = entry?;
            // A damaged id would make ids jump.
            open_entry(key.value(), row.value())
                .ok_or_else(|| Trouble::Damaged("the end of a log".to_owned()))?;
            first.max(log_id(key.value()) + 1)
        }
    };
    Ok(Ends { first, next })
}

fn encode_bucket(key: &[u8], bucket: Bucket) -> Vec<u8> {
    let mut payload = [0; 16];
    payload[..8].copy_from_slice(&bucket.micros.to_le_bytes());
    payload[8..12].copy_from_slice(&bucket.fraction.to_le_bytes());
    payload[12..].copy_from_slice(&bucket.permits.to_le_bytes());
    seal(key, &payload)
}

/// Reads a bucket; `None` when it is damaged.
pub(super) fn decode_bucket(key: &[u8], row: &[u8]) -> Option<Bucket> {
    let payload: &[u8; 16] = unseal(key, row)?.try_into().ok()?;
    let (micros, rest) = payload.split_first_chunk::<8>()?;
    let (fraction, permits) = rest.split_first_chunk::<4>()?;
    Some(Bucket {
        micros: u64::from_le_bytes(*micros),
        fraction: u32::from_le_bytes(*fraction),
        permits: u32::from_le_bytes(permits.try_into().ok()?),
    })
}

/// A name for error texts: what is printable of it.
pub(super) fn printable(name: &[u8]) -> String {
    name.escape_ascii().take(120).map(char::from).collect()
}
