//! The safety kernel's pure half, from text to decision.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bundles;
mod decisions;
mod diffs;
mod docs;
mod explanations;
mod properties;
mod secrets;
mod support;
mod tightening;
mod unknowns;
