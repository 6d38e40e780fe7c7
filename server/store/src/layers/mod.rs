//! Layers around a store: resending, figures, faults. Each wraps any engine, and another layer.

mod faulty;
mod metered;
mod resend;

pub use faulty::{Fault, FaultRates, Faulty};
pub use metered::{GroupFigures, Metered};
pub use resend::{Resend, ResendPolicy};

use std::future::Future;

use crate::{Batch, CommitError, Committed, Store, StoreError};

/// The calls of a store that only ask, and `trim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Get,
    Range,
    Count,
    Tail,
    Trim,
    Time,
    Usage,
}

impl Call {
    const ALL: [Self; 7] = [
        Self::Get,
        Self::Range,
        Self::Count,
        Self::Tail,
        Self::Trim,
        Self::Time,
        Self::Usage,
    ];

    /// The name in figures.
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Range => "range",
            Self::Count => "count",
            Self::Tail => "tail",
            Self::Trim => "trim",
            Self::Time => "time",
            Self::Usage => "usage",
        }
    }
}

/// What a layer does around each call; `layer!` makes a [`Store`] of it.
trait Layer: Send + Sync {
    /// The store that is wrapped.
    fn inner(&self) -> &dyn Store;

    /// Does one call that is no commit.
    fn call<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Does one commit.
    fn send(&self, batch: Batch) -> impl Future<Output = Result<Committed, CommitError>> + Send;
}

/// Implements [`Store`] for a [`Layer`].
macro_rules! layer {
    ($layer:ty) => {
        #[async_trait::async_trait]
        impl crate::Store for $layer {
            fn info(&self) -> crate::StoreInfo {
                self.inner().info()
            }

            fn pressure(&self) -> crate::Pressure {
                self.inner().pressure()
            }

            fn epoch(&self) -> u64 {
                self.inner().epoch()
            }

            async fn get(
                &self,
                shard: crate::Shard,
                keys: &[crate::Key],
            ) -> Result<crate::Read<Vec<Option<crate::Record>>>, crate::StoreError> {
                self.call(Call::Get, self.inner().get(shard, keys)).await
            }

            async fn range(
                &self,
                shard: crate::Shard,
                ranges: &[crate::Range],
                limit: usize,
                order: crate::Order,
            ) -> Result<crate::Read<Vec<Vec<crate::Member>>>, crate::StoreError> {
                let read = self.inner().range(shard, ranges, limit, order);
                self.call(Call::Range, read).await
            }

            async fn count(
                &self,
                shard: crate::Shard,
                range: &crate::Range,
                cap: u64,
            ) -> Result<crate::Read<u64>, crate::StoreError> {
                let read = self.inner().count(shard, range, cap);
                self.call(Call::Count, read).await
            }

            async fn tail(
                &self,
                shard: crate::Shard,
                from: crate::LogId,
                limit: usize,
            ) -> Result<crate::Read<crate::LogPage>, crate::StoreError> {
                let read = self.inner().tail(shard, from, limit);
                self.call(Call::Tail, read).await
            }

            async fn commit(
                &self,
                batch: crate::Batch,
            ) -> Result<crate::Committed, crate::CommitError> {
                self.send(batch).await
            }

            async fn trim(
                &self,
                shard: crate::Shard,
                before: crate::LogId,
            ) -> Result<(), crate::StoreError> {
                self.call(Call::Trim, self.inner().trim(shard, before))
                    .await
            }

            async fn time(&self) -> Result<coretex_core::time::Timestamp, crate::StoreError> {
                self.call(Call::Time, self.inner().time()).await
            }

            async fn usage(&self) -> Result<crate::Usage, crate::StoreError> {
                self.call(Call::Usage, self.inner().usage()).await
            }

            async fn close(&self, grace: std::time::Duration) {
                self.inner().close(grace).await;
            }
        }
    };
}
use layer;
