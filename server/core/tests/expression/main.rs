//! What expressions mean: sources with their results, sources with their errors, what is asked of
//! variables, templates. [`support`] evaluates.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod errors;
mod templates;
mod values;
mod variables;
