//! The message bus: a doorbell, never the record.
//!
//! This crate holds the contract ([`Bus`]), the subjects the product rings ([`subject`]), the suite
//! every engine passes ([`conformance`]), the in-process engine ([`InProcBus`]), the engine on NATS
//! servers ([`nats`]) and a decorator that breaks messages on purpose ([`Faulty`]). It knows nothing
//! about jobs: payloads are bytes.
//!
//! # What may be relied on
//! Delivery is best effort. A message may be lost, and in a network engine it may also come twice or
//! late. Whoever listens therefore looks into the store when a message comes *and* from time to time
//! without one. What an engine promises on a good day is what [`conformance`] checks.

mod bus;
pub mod conformance;
mod dice;
mod error;
mod faulty;
mod inproc;
pub mod nats;
pub mod subject;
mod subscription;

pub use bus::{Bus, BusInfo};
pub use error::BusError;
pub use faulty::{FaultCounts, Faults, Faulty};
pub use inproc::InProcBus;
pub use subscription::{Feed, Message, Subscription};
