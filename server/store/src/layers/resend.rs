//! Settles commits of unknown outcome by sending them again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{Batch, CommitError, Committed, Store, StoreError};

use super::{Call, Layer, layer};

/// How long and how often to send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResendPolicy {
    /// From the first send to giving up with `Unknown`.
    pub deadline: Duration,
    /// The pause before the first resend; it doubles with every further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for ResendPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(500),
        }
    }
}

/// Sends a batch of unknown outcome again, the same batch with the same commit id, until the store
/// says what has become of it or the deadline passes.
///
/// Once an outcome is unknown, `Unavailable` and `Overloaded` say nothing of the first send and
/// are resent too; every other answer settles it. An engine whose earlier sends may still arrive
/// makes sure that they no longer can before it answers a resend. A first send that is refused is
/// not sent again: whether that is worth it, the caller knows.
///
/// A resend is judged by what stands when it arrives. When the store has meanwhile lost what the
/// batch was decided on, that is a conflict: no other write makes the version that it asks for.
#[derive(Debug)]
pub struct Resend {
    inner: Arc<dyn Store>,
    policy: ResendPolicy,
}

impl Resend {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, policy: ResendPolicy) -> Self {
        Self { inner, policy }
    }
}

impl Layer for Resend {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    async fn call<T: Send>(
        &self,
        _call: Call,
        inner: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        inner.await
    }

    async fn send(&self, batch: Batch) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + self.policy.deadline;
        let late = || CommitError::Unknown {
            reason: "no answer before the deadline".to_owned(),
        };
        // A commit that is dropped at the deadline may still be applied.
        let first = timeout_at(deadline, self.inner.commit(batch.clone())).await;
        let mut unknown = match first {
            Ok(Err(error @ CommitError::Unknown { .. })) => error,
            Ok(answer) => return answer,
            Err(_) => return Err(late()),
        };
        let mut pause = self.policy.first_pause;
        loop {
            let next = Instant::now() + pause;
            if next >= deadline {
                return Err(unknown);
            }
            sleep_until(next).await;
            pause = (pause * 2).min(self.policy.longest_pause);
            match timeout_at(deadline, self.inner.commit(batch.clone())).await {
                Err(_) => return Err(late()),
                Ok(Err(error @ CommitError::Unknown { .. })) => unknown = error,
                Ok(Err(CommitError::Overloaded { retry_after })) => pause = pause.max(retry_after),
                Ok(Err(CommitError::Unavailable { .. })) => {}
                Ok(
                    answer @ (Ok(_)
                    | Err(
                        CommitError::Conflict { .. }
                        | CommitError::PointerMoved { .. }
                        | CommitError::LimitReached(_)
                        | CommitError::DataLoss { .. }
                        | CommitError::Invalid { .. },
                    )),
                ) => return answer,
            }
        }
    }
}

layer!(Resend);
