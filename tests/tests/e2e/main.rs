//! The product as its users have it: a real server process, workers and clients of the client
//! library, connections that break.
//!
//! What does not keep to the rules is in `robustness`, the command line in `cli_e2e`, other
//! people's tools in `grpc_tools`.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod access;
mod connections;
mod contract;
mod jobs;
mod restarts;
mod support;
