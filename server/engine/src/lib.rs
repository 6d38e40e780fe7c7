//! Use cases of Coretex: load, decide (core), commit (store), ring (bus).
//!
//! One module a noun. [`Engine`] is the facade that the API layer calls.

mod access;
mod error;
mod filter;
mod types;

pub use access::{ApiKey, Caller, DEFAULT_TENANT, NewApiKey, Role, SYSTEM_TENANT, grants};
pub use error::{Error, Noun, Result, Violation};
pub use filter::JobFilter;
pub use types::*;
