//! Figures about a store, for whichever recorder the program has installed.
//!
//! | figure                                  | kind      | labels          |
//! |-----------------------------------------|-----------|-----------------|
//! | `coretex_store_commit_seconds`          | histogram | engine, outcome |
//! | `coretex_store_call_seconds`            | histogram | engine, call    |
//! | `coretex_store_call_failures_total`     | counter   | engine, call    |
//! | `coretex_store_bytes`                   | gauge     | engine          |
//! | `coretex_store_capacity_bytes`          | gauge     | engine          |
//! | `coretex_store_group_commits`           | histogram | engine          |
//! | `coretex_store_group_bytes`             | histogram | engine          |
//! | `coretex_store_group_seconds`           | histogram | engine          |
//! | `coretex_store_group_failures_total`    | counter   | engine          |
//! | `coretex_store_queue_commits`           | gauge     | engine          |
//!
//! `engine` is the name in [`StoreInfo`](crate::StoreInfo). Sizes are as of the last call of
//! `usage`.

use std::future::Future;
use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;

use crate::embedded::{GroupObserver, GroupReport};
use crate::{Batch, CommitError, Committed, Store, StoreError, Usage};

use super::{Call, Layer, layer};

const OUTCOMES: [&str; 9] = [
    "applied",
    "conflict",
    "pointer_moved",
    "limit_reached",
    "overloaded",
    "unavailable",
    "unknown",
    "data_loss",
    "invalid",
];

const fn outcome(answer: &Result<Committed, CommitError>) -> usize {
    match answer {
        Ok(_) => 0,
        Err(CommitError::Conflict { .. }) => 1,
        Err(CommitError::PointerMoved { .. }) => 2,
        Err(CommitError::LimitReached(_)) => 3,
        Err(CommitError::Overloaded { .. }) => 4,
        Err(CommitError::Unavailable { .. }) => 5,
        Err(CommitError::Unknown { .. }) => 6,
        Err(CommitError::DataLoss { .. }) => 7,
        Err(CommitError::Invalid { .. }) => 8,
    }
}

/// Measures every call. Make it after the program's recorder is installed.
pub struct Metered {
    inner: Arc<dyn Store>,
    commits: Vec<Histogram>,
    calls: Vec<(Histogram, Counter)>,
    bytes: Gauge,
    capacity: Gauge,
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Metered").field(&self.inner).finish()
    }
}

impl Metered {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let engine = inner.info().engine;
        Self {
            inner,
            // Looked up once: a lookup by name and labels costs more than a record.
            commits: OUTCOMES
                .iter()
                .map(|outcome| {
                    histogram!(
                        "coretex_store_commit_seconds",
                        "engine" => engine,
                        "outcome" => *outcome
                    )
                })
                .collect(),
            calls: Call::ALL
                .iter()
                .map(|call| {
                    let labels = [("engine", engine), ("call", call.name())];
                    (
                        histogram!("coretex_store_call_seconds", &labels),
                        counter!("coretex_store_call_failures_total", &labels),
                    )
                })
                .collect(),
            bytes: gauge!("coretex_store_bytes", "engine" => engine),
            capacity: gauge!("coretex_store_capacity_bytes", "engine" => engine),
        }
    }

    fn sized(&self, usage: Usage) {
        // Exact up to 2^53 bytes.
        self.bytes.set(usage.bytes as f64);
        self.capacity.set(usage.capacity as f64);
    }
}

impl Layer for Metered {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    async fn call<T: Send>(
        &self,
        call: Call,
        inner: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let answer = inner.await;
        let (seconds, failures) = &self.calls[call as usize];
        seconds.record(start.elapsed());
        if answer.is_err() {
            failures.increment(1);
        }
        // The type of the answer is not known here, and asking again costs one system call.
        if call == Call::Usage
            && let Ok(usage) = self.inner.usage().await
        {
            self.sized(usage);
        }
        answer
    }

    async fn send(&self, batch: Batch) -> Result<Committed, CommitError> {
        let start = Instant::now();
        let answer = self.inner.commit(batch).await;
        self.commits[outcome(&answer)].record(start.elapsed());
        answer
    }
}

layer!(Metered);

/// Figures about the groups in which an engine commits; make it after the recorder is installed and
/// give it to the engine as its observer.
pub struct GroupFigures {
    commits: Histogram,
    bytes: Histogram,
    seconds: Histogram,
    failures: Counter,
    waiting: Gauge,
}

impl std::fmt::Debug for GroupFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupFigures")
    }
}

impl GroupFigures {
    /// Figures of the engine with this name.
    #[must_use]
    pub fn new(engine: &'static str) -> Self {
        Self {
            commits: histogram!("coretex_store_group_commits", "engine" => engine),
            bytes: histogram!("coretex_store_group_bytes", "engine" => engine),
            seconds: histogram!("coretex_store_group_seconds", "engine" => engine),
            failures: counter!("coretex_store_group_failures_total", "engine" => engine),
            waiting: gauge!("coretex_store_queue_commits", "engine" => engine),
        }
    }
}

impl GroupObserver for GroupFigures {
    fn group(&self, report: GroupReport) {
        self.commits.record(report.commits as f64);
        self.bytes.record(report.bytes as f64);
        self.seconds.record(report.took);
        if !report.written {
            self.failures.increment(1);
        }
        self.waiting.set(report.waiting as f64);
    }
}
