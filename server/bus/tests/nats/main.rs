//! The engine on NATS, against real `nats-server` processes.
#![expect(clippy::expect_used, reason = "tests")]

mod access;
mod faults;
mod server;
mod suite;
mod tls;
