//! The storage contract of Coretex, its conformance suite and its engines.
//!
//! [`Store`] is small on purpose: engines implement it, everything else is written once on top.
//! Only this crate knows redb and Redis.

mod batch;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
pub mod embedded;
mod error;
pub mod gcra;
pub mod layers;
mod pressure;
pub mod redis;
pub mod validate;

pub use batch::{Batch, CommitId, Committed, Precondition, Rate, Write};
pub use contract::{
    Durability, Entry, Index, Key, LogId, LogPage, Member, Order, Pressure, Range, Read, Record,
    Shard, Store, StoreInfo, Usage, Version, prefix_end,
};
pub use error::{CommitError, Limit, StoreError};
