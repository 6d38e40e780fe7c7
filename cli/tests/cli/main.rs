//! The built program against a scripted server: what it sends, what it prints, how it ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod approvals;
mod batch;
mod config;
mod dlq;
mod errors;
mod exec;
mod jobs;
mod output;
mod policy;
mod settings;
mod streams;
mod support;
