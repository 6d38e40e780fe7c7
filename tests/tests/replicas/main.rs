//! Several servers on one Redis and one NATS, as processes that are killed, stopped, paused and
//! restarted while work goes on: every job ends once, and no worker that lives loses its attempts.
#![allow(clippy::unwrap_used, clippy::large_futures, reason = "tests")]

mod commands;
mod configs;
mod faults;
mod restarts;
mod sharing;
mod support;
