//! The gRPC services of Coretex.
//!
//! One file a noun: `jobs`, `approvals`, `dlq`, `workers`, `system`, `access`. A method validates and converts
//! the request (`validate`, `convert`), calls the engine, and converts the answer. Who calls,
//! whether they may, deadlines, metrics and request ids are tower layers (`layers`) in an order
//! that `routes` fixes; what failed becomes a status in `status` and nowhere else. No rule of
//! the domain and no storage lives here.

mod access;
mod approvals;
mod bulk;
mod call;
mod configs;
mod connection;
mod convert;
mod dlq;
mod health;
mod jobs;
mod layers;
mod methods;
mod options;
mod page;
mod policy;
mod problem;
mod routes;
mod server;
mod status;
mod system;
#[cfg(test)]
#[path = "../tests/api/support/engine.rs"]
#[allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "shared with the tests outside"
)]
mod testing;
mod validate;
mod workers;

pub use health::Health;
pub use options::{ApiOptions, Backends, BuiltIn, Tls};
pub use server::{Api, ServeError};
