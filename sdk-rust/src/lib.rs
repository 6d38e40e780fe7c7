//! Client and worker runtime of Coretex.
//!
//! A [`Client`] submits jobs and looks at them; a [`Worker`] runs them. Both speak the protobuf
//! contract, whose messages are in [`proto`].
//!
//! # A client
//! ```no_run
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), coretex::Error> {
//! let client = coretex::Client::new("http://127.0.0.1:50051")?;
//! let job = client.submit("job.wc", json!({"text": "to be or not"})).result().await?;
//! let words: serde_json::Value = coretex::JobExt::output_as(&job)?;
//! # Ok(())
//! # }
//! ```
//!
//! # A worker
//! ```no_run
//! use coretex::{Client, Worker};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), coretex::Error> {
//!     let client = Client::new("http://127.0.0.1:50051")?;
//!     let echo = Worker::new(client).topic("job.echo");
//!     echo.handler(|_ctx, job| async move { Ok(job.input) }).run().await
//! }
//! ```
//!
//! # What may be relied on
//! - Calls have a deadline. A call is repeated only where the contract says that repeating it does
//!   no harm, only after failures that say that trying again may help, and only within its
//!   deadline.
//! - A worker keeps what it runs when its connection breaks, reconnects for ever, and sends each
//!   result until the server has stored it. Servers may be restarted under it.
//! - Nothing here prints, exits or reads environment variables. Log lines go to `tracing`.

// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod backoff;
mod client;
mod entropy;
mod error;
mod job;
mod payload;
mod payload_store;
pub mod worker;

pub use client::{
    ApprovalWatch, Bulk, Client, ClientBuilder, Io, Items, JobOutput, JobWatch, Submit,
};
pub use entropy::{Entropy, SystemEntropy};
pub use error::{Error, FieldViolation};
pub use job::{JobExt, is_final};
pub use payload::{PayloadExt, to_payload};
pub use payload_store::{NoPayloadStore, PayloadStore};
pub use worker::{Context, JobFailure, Json, Output, Worker, WorkerHandle};

/// Messages as proto JSON and YAML.
pub use coretex_proto::json as proto_json;
/// Conversions between protobuf and std times.
pub use coretex_proto::time as proto_time;
/// The messages of the contract, as generated from `proto/coretex/v1`.
pub use coretex_proto::v1 as proto;
pub use coretex_proto::v1::{ErrorReason, Job, JobPriority, JobState, JobView, Payload};
/// Conversions between JSON and protobuf values.
pub use coretex_proto::value as proto_value;
pub use tonic::Code;

/// Types of `google.protobuf` and `google.rpc` that appear in messages of the contract.
pub mod well_known {
    pub use prost_types::{Any, Duration, Struct, Timestamp, Value};
    pub use tonic_types::Status;
}
