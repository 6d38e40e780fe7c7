//! The state machine of jobs: its table, its moves one by one, its promises under random histories.
//! [`support`] makes jobs and triggers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

mod approvals;
mod dead_letters;
mod history;
mod moves;
mod random;
