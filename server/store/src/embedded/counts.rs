//! Changes of indexes, kept together until they are applied, and the number of members of each.
//!
//! Adds and removes of a group are applied in key order at its end: the last change of a member
//! wins, and whether it changed the number of members is learnt from the table by the same
//! operation that makes the change. Only a size check that is close to its limit needs to know
//! earlier: then what is pending is applied at once.

use std::collections::HashMap;

use bytes::Bytes;
use redb::{ReadableTable, StorageError};

use crate::{Index, Member, prefix_end};

use super::group::Tables;
use super::layout::{KIND_COUNT, checksum, index_prefix, seal, unseal_u64};

/// Above this many, the known numbers are dropped after a group.
const KNOWN: usize = 16 * 1024;

/// A change in the arena.
#[derive(Clone, Copy)]
struct Change {
    start: u32,
    end: u32,
    /// Length of the part that names the index.
    prefix: u16,
    add: bool,
}

#[derive(Default)]
struct Count {
    /// Members in the table; `None` = not looked up yet.
    members: Option<u64>,
    /// Pending adds: the index has at most this many more members.
    adds: u64,
    dirty: bool,
}

/// Pending changes and known numbers.
#[derive(Default)]
pub(super) struct IndexChanges {
    arena: Vec<u8>,
    changes: Vec<Change>,
    counts: HashMap<Box<[u8]>, Count>,
}

impl IndexChanges {
    /// Takes note of a change.
    pub(super) fn push(&mut self, shard: u16, index: &[u8], member: &[u8], add: bool) {
        let start = self.arena.len();
        index_prefix(&mut self.arena, shard, index);
        let prefix = self.arena.len() - start;
        self.arena.extend_from_slice(member);
        if add {
            let name = &self.arena[start..start + prefix];
            if let Some(count) = self.counts.get_mut(name) {
                count.adds += 1;
            } else {
                let count = Count {
                    adds: 1,
                    ..Count::default()
                };
                self.counts.insert(name.into(), count);
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a group is some megabytes, a prefix at most 1028 bytes"
        )]
        self.changes.push(Change {
            start: start as u32,
            end: self.arena.len() as u32,
            prefix: prefix as u16,
            add,
        });
    }

    /// Checks the size of an index; the error names its first members.
    pub(super) fn size_below(
        &mut self,
        tables: &mut Tables<'_>,
        shard: u16,
        index: &Index,
        limit: u64,
        name_holders: usize,
    ) -> Result<Result<(), Vec<Member>>, StorageError> {
        let mut prefix = Vec::with_capacity(index.len() + 4);
        index_prefix(&mut prefix, shard, index);
        let members = self.members(tables, &prefix)?;
        let adds = self.counts.get(prefix.as_slice()).map_or(0, |c| c.adds);
        if members + adds < limit {
            return Ok(Ok(()));
        }
        // Close to the limit: only the exact number will do.
        self.apply(tables)?;
        if self.members(tables, &prefix)? < limit {
            return Ok(Ok(()));
        }
        let mut holders = Vec::new();
        if name_holders > 0 {
            let end = prefix_end(&prefix);
            let range = match &end {
                Some(end) => tables
                    .index
                    .range::<&[u8]>(prefix.as_slice()..end.as_slice())?,
                None => tables.index.range::<&[u8]>(prefix.as_slice()..)?,
            };
            for row in range.take(name_holders) {
                holders.push(Bytes::copy_from_slice(&row?.0.value()[prefix.len()..]));
            }
        }
        Ok(Err(holders))
    }

    fn members(&mut self, tables: &Tables<'_>, prefix: &[u8]) -> Result<u64, StorageError> {
        if let Some(members) = self.counts.get(prefix).and_then(|count| count.members) {
            return Ok(members);
        }
        let members = match read_count(&tables.state, prefix)? {
            Some(members) => members,
            // A damaged number is found again in the index itself.
            None => count_rows(&tables.index, prefix)?,
        };
        self.counts.entry(prefix.into()).or_default().members = Some(members);
        Ok(members)
    }

    /// Applies what is pending to the index table.
    pub(super) fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), StorageError> {
        let mut changes = std::mem::take(&mut self.changes);
        let arena = std::mem::take(&mut self.arena);
        let key = |change: &Change| &arena[change.start as usize..change.end as usize];
        // Stable: of two changes of one member the later one stays the later one.
        changes.sort_by(|a, b| key(a).cmp(key(b)));
        let mut position = 0;
        while position < changes.len() {
            let start = changes[position].start as usize;
            let prefix = &arena[start..start + usize::from(changes[position].prefix)];
            let before = self.members(tables, prefix)?;
            let mut after = before;
            // All changes of one index are neighbours.
            while let Some(change) = changes.get(position) {
                let row = key(change);
                if usize::from(change.prefix) != prefix.len() || !row.starts_with(prefix) {
                    break;
                }
                position += 1;
                if changes.get(position).is_some_and(|next| key(next) == row) {
                    continue;
                }
                if change.add {
                    if tables.index.insert(row, checksum(&[row]))?.is_none() {
                        after += 1;
                    }
                } else if tables.index.remove(row)?.is_some() {
                    after = after.saturating_sub(1);
                }
            }
            let count = self.counts.entry(prefix.into()).or_default();
            count.members = Some(after);
            count.adds = 0;
            count.dirty |= before != after;
        }
        changes.clear();
        self.changes = changes;
        self.arena = arena;
        self.arena.clear();
        Ok(())
    }

    /// Writes the numbers that changed.
    pub(super) fn write_counts(&mut self, tables: &mut Tables<'_>) -> Result<(), StorageError> {
        let mut dirty: Vec<_> = self
            .counts
            .iter_mut()
            .filter(|(_, count)| count.dirty)
            .collect();
        dirty.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let mut key = Vec::with_capacity(128);
        for (prefix, count) in dirty {
            count.dirty = false;
            key.clear();
            key.push(KIND_COUNT);
            key.extend_from_slice(prefix);
            match count.members.unwrap_or_default() {
                0 => {
                    tables.state.remove(key.as_slice())?;
                }
                members => {
                    let row = seal(&key, &members.to_le_bytes());
                    tables.state.insert(key.as_slice(), row.as_slice())?;
                }
            }
        }
        if self.counts.len() > KNOWN {
            self.counts.clear();
        }
        Ok(())
    }
}

/// Reads the number of members of an index; `None` when the row is damaged.
pub(super) fn read_count(
    state: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
) -> Result<Option<u64>, StorageError> {
    let mut key = Vec::with_capacity(prefix.len() + 1);
    key.push(KIND_COUNT);
    key.extend_from_slice(prefix);
    Ok(match state.get(key.as_slice())? {
        None => Some(0),
        Some(row) => unseal_u64(&key, row.value()),
    })
}

fn count_rows(
    index: &impl ReadableTable<&'static [u8], u32>,
    prefix: &[u8],
) -> Result<u64, StorageError> {
    let end = prefix_end(prefix);
    let range = match &end {
        Some(end) => index.range::<&[u8]>(prefix..end.as_slice())?,
        None => index.range::<&[u8]>(prefix..)?,
    };
    let mut rows = 0;
    for row in range {
        row?;
        rows += 1;
    }
    Ok(rows)
}
