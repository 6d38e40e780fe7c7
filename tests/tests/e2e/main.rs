//! The product as its users have it: a real server process, workers and clients of the client
//! library, connections that break. Each scenario runs twice: on the engines inside the process,
//! and on Redis and NATS; `backends` and `outages` are about the latter alone.
//!
//! What does not keep to the rules is in `robustness`, the command line in `cli_e2e`, other
//! people's tools in `grpc_tools`.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

#[macro_use]
mod support;

mod access;
mod backends;
mod configs;
mod connections;
mod contract;
mod dlq;
mod jobs;
mod outages;
mod output;
mod policy;
mod reload;
mod restarts;
mod scheduling;
