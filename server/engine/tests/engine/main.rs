//! The engine, attacked: one file a noun, all in virtual time on the store in memory, with seeded
//! ids. What runs here runs the same every time. [`support`] is the bench, which the simulation
//! shares.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    reason = "tests"
)]

use coretex_testbench as support;

mod access;
mod adoption;
mod approvals;
mod bulk;
mod cancel;
mod clocks;
mod configs;
mod diagnose;
mod dlq;
mod fairness;
mod faults;
mod jobs;
mod keys;
mod leases;
mod limits;
mod lists;
mod losses;
mod news;
mod notices;
mod outbound;
mod output;
mod pauses;
mod placement;
mod policy;
mod pools;
mod queue;
mod replicas;
mod rerun;
mod retention;
mod routing;
mod sessions;
mod slots;
mod status;
mod submit;
mod watch;
mod workers;
