//! What the server tells about itself: logs, metrics, traces. Off means not there: without an
//! endpoint no span is made.

pub mod logs;
pub mod metrics;
mod process;
mod spans;
pub mod traces;
