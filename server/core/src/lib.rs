//! Pure domain logic of Coretex.
//!
//! State machines, placement, retry timing and expressions live here. They take state, event, time
//! and ids as arguments and return new state and effects. Nothing in this crate does I/O, reads a
//! clock or draws a random number.

pub mod approval;
pub mod config;
pub mod document;
pub mod expression;
pub mod id;
pub mod job;
pub mod lease;
pub mod pause;
pub mod payload;
pub mod placement;
pub mod policy;
pub mod queue;
pub mod retry;
pub mod routing;
pub mod time;
