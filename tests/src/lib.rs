//! What the tests of this crate share: the workspace seen from outside, a scanner
//! for source files, tools and binaries, servers and clients as processes, and waiting
//! for a condition.
//!
//! The tests themselves are in `tests/`, one file per subject; what each tier
//! proves is said in `README.md`. Nothing here is used by the product.

pub mod binaries;
pub mod cluster;
pub mod model;
pub mod poll;
pub mod problems;
pub mod rules;
pub mod source;
pub mod sources;
pub mod tools;
pub mod workspace;
