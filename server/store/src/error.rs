//! Errors that say what may be concluded.

use std::time::Duration;

use coretex_core::time::Timestamp;

use crate::{Index, Key, Member};

/// A read (or trim) that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer now.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// For operators; never shown to clients.
        reason: String,
    },
    /// Stored bytes fail their checksum or cannot be decoded. Never served, never retried.
    #[error("stored data is damaged: {what}")]
    DataLoss {
        /// Which record or entry.
        what: String,
    },
    /// The request breaks a rule of the contract (a bug of the caller).
    #[error("invalid store request: {reason}")]
    Invalid {
        /// Which rule.
        reason: String,
    },
}

/// The limit that stopped a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// An index was full.
    Size {
        /// The index.
        index: Index,
        /// Its first members, as many as the precondition asked for.
        holders: Vec<Member>,
    },
    /// A bucket had too few permits.
    Bucket {
        /// The bucket.
        key: Key,
        /// When the cost will be there, if nobody else takes it.
        at: Timestamp,
    },
}

/// A commit that was not acknowledged as applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A record precondition does not hold. Surely not applied.
    #[error("conflict on a record")]
    Conflict {
        /// The record.
        key: Key,
    },
    /// A pointer precondition does not hold. Surely not applied.
    #[error("a pointer has moved")]
    PointerMoved {
        /// The record.
        key: Key,
    },
    /// A size or bucket precondition does not hold. Surely not applied.
    #[error("limit reached")]
    LimitReached(Limit),
    /// The commit queue is full. Surely not applied; try again later.
    #[error("store overloaded")]
    Overloaded {
        /// A fair pause before the next try.
        retry_after: Duration,
    },
    /// The store does not take writes now (closed, disk full, unreachable before sending). Surely
    /// not applied.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// For operators; never shown to clients.
        reason: String,
    },
    /// The batch may or may not have been applied, or may still be. Send the same batch again.
    #[error("commit outcome unknown: {reason}")]
    Unknown {
        /// For operators; never shown to clients.
        reason: String,
    },
    /// A record that the batch needs is damaged. Surely not applied.
    #[error("stored data is damaged: {what}")]
    DataLoss {
        /// Which record.
        what: String,
    },
    /// The batch breaks a rule of the contract (a bug of the caller). Surely not applied.
    #[error("invalid batch: {reason}")]
    Invalid {
        /// Which rule.
        reason: String,
    },
}

impl CommitError {
    /// Whether the batch may have been applied.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Conflict { .. }
            | Self::PointerMoved { .. }
            | Self::LimitReached(_)
            | Self::Overloaded { .. }
            | Self::Unavailable { .. }
            | Self::DataLoss { .. }
            | Self::Invalid { .. } => false,
        }
    }
}
