//! The Coretex server: configuration, telemetry, composition, graceful drain.
//!
//! This is the only place that knows which engines are used, and the only one below the clients
//! that reads the clock, the environment and randomness. `main.rs` only turns the outcome into an
//! exit code; tests start a [`Server`] in their own process.

mod access;
mod admin;
mod backends;
mod banner;
pub mod config;
mod datadir;
mod error;
mod grpc;
mod notify;
mod policy;
mod readiness;
mod reload;
mod server;
mod signals;
pub mod source;
pub mod telemetry;
mod url;

pub use error::StartError;
pub use server::Server;
pub use signals::run;
