//! From the answers of the commit script to those of the contract.
//!
//! | code | meaning             | then                   |
//! |------|---------------------|------------------------|
//! | 0    | applied             | time, commits, last id |
//! | 1    | applied before      | time, commits          |
//! | 2    | conflict            | key                    |
//! | 3    | pointer moved       | key                    |
//! | 4    | index full          | key, holders           |
//! | 5    | bucket empty        | key, when it is not    |
//! | 6    | damaged             | key                    |
//! | 7    | connection given up |                        |
//! | 8    | upload gone         |                        |

use bytes::Bytes;
use coretex_core::time::Timestamp;
use redis::Value;

use crate::{CommitError, Committed, Limit, Member};

use super::encode::Encoded;
use super::errors::{not_applied, unknown};
use super::layout::{Kind, printable};

/// What the script said.
pub(super) struct Answer {
    /// The number of commits of the shard, when the batch is applied.
    pub(super) commits: Option<u64>,
    pub(super) result: Result<Committed, CommitError>,
}

/// Reads an answer.
pub(super) fn decode(commit: &Encoded, answer: Value) -> Answer {
    let refused = |error| Answer {
        commits: None,
        result: Err(error),
    };
    let Value::Array(parts) = answer else {
        return refused(unknown("redis answered a commit with nonsense"));
    };
    let mut parts = parts.into_iter();
    let code = number(parts.next().as_ref());
    if code == Some(0) || code == Some(1) {
        return applied(commit, code == Some(1), parts)
            .unwrap_or_else(|| refused(unknown("redis answered a commit with nonsense")));
    }
    let named = number(parts.next().as_ref()).and_then(|number| {
        let number = usize::try_from(number).ok()?;
        commit.name(number).cloned()
    });
    refused(match (code, named) {
        (Some(2), Some((_, key))) => CommitError::Conflict { key },
        (Some(3), Some((_, key))) => CommitError::PointerMoved { key },
        (Some(4), Some((_, index))) => CommitError::LimitReached(Limit::Size {
            index,
            holders: parts.filter_map(member).collect(),
        }),
        (Some(5), Some((_, key))) => CommitError::LimitReached(Limit::Bucket {
            key,
            at: Timestamp::from_micros(number(parts.next().as_ref()).unwrap_or(u64::MAX)),
        }),
        (Some(6), Some((kind, name))) => CommitError::DataLoss {
            what: match kind {
                Kind::Bucket => format!("bucket {}", printable(&name)),
                _ => format!("record {}", printable(&name)),
            },
        },
        (Some(6), None) => CommitError::DataLoss {
            what: "the state of a shard".to_owned(),
        },
        (Some(7), _) => not_applied("this connection to redis was given up"),
        (Some(8), _) => not_applied("an uploaded payload is gone"),
        _ => unknown("redis answered a commit with nonsense"),
    })
}

fn applied(
    commit: &Encoded,
    resent: bool,
    mut parts: impl Iterator<Item = Value>,
) -> Option<Answer> {
    let time = Timestamp::from_micros(number(parts.next().as_ref())?);
    let commits = number(parts.next().as_ref())?;
    let last_log_id = if resent {
        None
    } else {
        let last = number(parts.next().as_ref())?;
        commit.appends.then_some(last)
    };
    parts.next().is_none().then_some(Answer {
        commits: Some(commits),
        result: Ok(Committed {
            time,
            version: commit.version,
            last_log_id,
            resent,
        }),
    })
}

fn number(part: Option<&Value>) -> Option<u64> {
    match part {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn member(part: Value) -> Option<Member> {
    match part {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        _ => None,
    }
}
