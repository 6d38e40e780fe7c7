//! Between messages and domain types, a file a noun. Reading checks fields on the way
//! ([`crate::validate`]), so that no rule is written twice.

pub(crate) mod access;
pub(crate) mod approval;
pub(crate) mod bulk;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod diagnosis;
pub(crate) mod dlq;
pub(crate) mod explanation;
pub(crate) mod history;
pub(crate) mod job;
pub(crate) mod json;
pub(crate) mod output;
pub(crate) mod pause;
pub(crate) mod payload;
pub(crate) mod policy;
pub(crate) mod query;
pub(crate) mod session;
pub(crate) mod submit;
pub(crate) mod system;
pub(crate) mod worker;

use coretex_core::time::Timestamp;
use coretex_proto::time::{duration_from_std, timestamp_from_micros};

/// A point in time as the contract writes it.
pub(crate) fn time(time: Timestamp) -> prost_types::Timestamp {
    timestamp_from_micros(time.as_micros())
}

/// A duration as the contract writes it.
pub(crate) fn duration(duration: std::time::Duration) -> prost_types::Duration {
    duration_from_std(duration)
}

/// An id as the contract writes it; none is empty.
pub(crate) fn text(id: Option<&impl ToString>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

/// A count as the contract writes it.
pub(crate) fn count(count: impl TryInto<i32>) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}
