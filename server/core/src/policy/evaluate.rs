//! What an evaluation takes and gives.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::routing::Rate;

/// A counter of the past, for one value of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterRef {
    /// The bundle's name for it, with the bundle.
    pub id: String,
    /// What its key came to.
    pub key: String,
    /// How far back it counts.
    pub window: Duration,
}

/// What counters of the past say, as far as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(pub BTreeMap<CounterRef, u64>);

/// A rate that a job has to keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateTaken {
    /// The bucket, within the tenant.
    pub bucket: String,
    /// How often.
    pub rate: Rate,
}

/// Why there is no decision yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// These counters have to be read first.
    #[error("counters have to be read")]
    NeedsHistory(Vec<CounterRef>),
    /// The input has to be read first.
    #[error("the input has to be read")]
    NeedsInput,
    /// It cannot be decided.
    #[error("{0}")]
    Trouble(String),
}
