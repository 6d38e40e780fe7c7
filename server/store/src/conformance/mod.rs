//! The suite that every engine passes: the contract, as code.
//!
//! An engine supplies a [`Fixture`] and says `store_conformance!(name, factory)`; each promise of
//! the contract then is a test of its own. The factory is an `async` function from the number of
//! shards to a boxed fixture with an empty store.
//!
//! A broken promise panics, as tests do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a failed step should stop the test"
)]

pub mod commits;
pub mod indexes;
pub mod lifetimes;
pub mod limits;
pub mod logs;
pub mod model;
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::Store;

pub use support::{ManualClock, SeededIds};

/// How a store ends before it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By `close`.
    Closed,
    /// Without a chance to do anything.
    Killed,
}

/// An engine under test with a store of its own.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Lets store time pass: at once where the clock is a test's, by waiting where it is not.
    async fn advance(&self, by: Duration);

    /// Whether store time stands still between calls of `advance`.
    fn exact_time(&self) -> bool;

    /// Ends the store and opens it again with the same data. False when the engine cannot do so
    /// here, or when nothing survives by its own declaration.
    async fn reopen(&mut self, end: End) -> bool;

    /// Keeps a copy of all data as they are now. False when the engine cannot do so here. What
    /// [`Self::store`] gave before is closed.
    async fn keep_copy(&mut self) -> bool;

    /// Ends the store and opens it again with the data of the copy: whatever was acknowledged since
    /// is lost.
    async fn go_back(&mut self);
}

/// For engines that need nothing.
#[must_use]
pub const fn always() -> bool {
    true
}

/// A fixture under construction.
pub type Making = Pin<Box<dyn Future<Output = Box<dyn Fixture>> + Send>>;

/// Expands into one test for each promise of the contract.
///
/// `$factory` is a path to `fn(u16) -> coretex_store::conformance::Making`. An engine that needs a
/// program which may be missing adds `if $available`, a path to `fn() -> bool`: where that is
/// false nothing is tested, and saying so is its affair.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $factory:path) => {
        $crate::store_conformance!($name, $factory, if $crate::conformance::always);
    };
    ($name:ident, $factory:path, if $available:path) => {
        mod $name {
            $crate::store_conformance!(@tests $factory, $available;
                commits: [
                    atomic_for_readers,
                    a_failed_check_changes_nothing,
                    compare_and_swap_under_64_writers,
                    reads_see_acknowledged_commits,
                    resends_are_recognised,
                    a_dropped_commit_is_settled_by_its_resend,
                    invalid_batches_are_refused,
                    blind_writes_are_versioned_too,
                    shards_are_separate,
                    pointers_are_compared,
                    time_never_runs_backwards,
                    a_closed_store_says_so
                ];
                limits: [
                    sizes_are_never_exceeded,
                    holders_are_named,
                    sizes_count_members_not_writes,
                    buckets_grant_exactly_their_burst,
                    buckets_refill_on_time,
                    a_refused_batch_takes_no_permits
                ];
                indexes: [
                    byte_order_and_bounds,
                    names_do_not_run_into_each_other,
                    several_ranges_from_one_instant,
                    paging_has_no_gaps_or_repeats_under_load,
                    counts_agree_with_ranges
                ];
                logs: [
                    ids_are_dense_under_load,
                    tail_pages_and_names_the_ends,
                    trim_keeps_offsets
                ];
                lifetimes: [
                    deletes_leave_tombstones,
                    records_expire,
                    a_later_write_replaces_the_time_to_live,
                    data_survives_a_reopening,
                    data_survives_a_kill,
                    lost_versions_are_not_made_again,
                    the_epoch_stands_still
                ]
            );

            #[test]
            fn random_batches_agree_with_the_model() {
                if $available() {
                    $crate::conformance::model::check($factory);
                }
            }
        }
    };
    (@tests $factory:path, $available:path; $($group:ident: [$($test:ident),*]);*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if $available() {
                    $crate::conformance::$group::$test($factory).await;
                }
            }
        )*)*
    };
}
