//! Clients and workers that do not keep to the rules: the server stays up, its memory stays
//! bounded, and whoever keeps to the rules does not notice.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod bystander;
mod calls;
mod frames;
mod limits;
mod output;
mod workers;
