//! The rules that a batch must obey before any engine looks at its preconditions.

use std::collections::HashSet;

use crate::{Batch, CommitError, Precondition, Shard, Write};

/// The longest name of a record, index, member or bucket.
pub const MAX_NAME_BYTES: usize = 1024;
/// The largest batch: names and values together.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Checks a batch against the contract and tells its size in bytes.
///
/// # Errors
/// [`CommitError::Invalid`] with the broken rule.
pub fn check(batch: &Batch, shards: u16) -> Result<usize, CommitError> {
    check_shard(batch.shard, shards)?;
    let mut bytes = 0;
    for precondition in &batch.preconditions {
        bytes += check_precondition(precondition)?;
    }
    let mut written = HashSet::with_capacity(4);
    for write in &batch.writes {
        bytes += check_write(write)?;
        if let Write::Put { key, .. } | Write::Delete { key } = write
            && !written.insert(key)
        {
            return Err(invalid("a record is written twice in one batch"));
        }
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(invalid("a batch is larger than 8 MiB"));
    }
    let has_identity = batch.preconditions.iter().any(|precondition| {
        matches!(precondition, Precondition::Absent { key } | Precondition::At { key, .. }
            if written.contains(key))
    });
    if has_identity {
        Ok(bytes)
    } else {
        Err(invalid(
            "no record is both preconditioned (absent or at a version) and written",
        ))
    }
}

/// Checks that a shard exists.
///
/// # Errors
/// [`CommitError::Invalid`] when it does not.
pub fn check_shard(shard: Shard, shards: u16) -> Result<(), CommitError> {
    match shard {
        Shard::Data(number) if number >= shards => Err(invalid("there is no such shard")),
        Shard::Sys | Shard::Data(_) => Ok(()),
    }
}

fn check_precondition(precondition: &Precondition) -> Result<usize, CommitError> {
    match precondition {
        Precondition::Absent { key } | Precondition::At { key, .. } => name("record", key),
        Precondition::Pointer { key, value } => Ok(name("record", key)? + value.len()),
        Precondition::SizeBelow { index, .. } => name("index", index),
        Precondition::Bucket { key, rate, cost } => {
            if rate.permits == 0 || rate.burst == 0 || rate.per.is_zero() {
                return Err(invalid("a bucket needs permits, a period and a burst"));
            }
            if *cost > rate.burst {
                return Err(invalid("a bucket never holds more than its burst"));
            }
            name("bucket", key)
        }
    }
}

fn check_write(write: &Write) -> Result<usize, CommitError> {
    match write {
        Write::Put { key, value, .. } => Ok(name("record", key)? + value.len()),
        Write::Delete { key } => name("record", key),
        Write::Add { index, member } | Write::Remove { index, member } => {
            Ok(name("index", index)? + name("member", member)?)
        }
        Write::Append { value } => Ok(value.len()),
    }
}

fn name(what: &str, bytes: &[u8]) -> Result<usize, CommitError> {
    if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
        return Err(CommitError::Invalid {
            reason: format!(
                "the name of a {what} has {} bytes, not 1 to {MAX_NAME_BYTES}",
                bytes.len()
            ),
        });
    }
    Ok(bytes.len())
}

fn invalid(reason: &str) -> CommitError {
    CommitError::Invalid {
        reason: reason.to_owned(),
    }
}
