//! The API over a real engine: in process with virtual time, and on a real port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod approvals;
mod authorization;
mod configs;
mod dlq;
mod jobs;
mod layers;
mod lists;
mod output;
mod reference;
mod sessions;
mod support;
mod wire;
