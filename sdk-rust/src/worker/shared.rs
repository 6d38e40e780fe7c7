//! What the connection, the handlers and the way out share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_proto::v1::{AttemptRef, OutputChannel, WorkerHello, WorkerResult, WorkerSdk};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::handler::Router;
use super::runner;
use super::table::{Start, Table};
use crate::Client;

/// The version of the session protocol that this library speaks.
const PROTOCOL_VERSION: i32 = 1;

/// What does not change while the worker runs.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) worker_id: String,
    pub(super) pool: String,
    pub(super) capabilities: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) drain_grace: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) config: Config,
    pub(super) router: Router,
    table: Mutex<Table>,
    /// A handler has reported progress.
    pub(super) progressed: Notify,
    /// A handler has streamed something, or something of it is to be sent again.
    pub(super) streamed: Notify,
    /// An attempt is over or acknowledged while the worker drains.
    pub(super) settled: Notify,
}

impl Shared {
    pub(super) fn new(client: Client, config: Config, router: Router, limit: usize) -> Self {
        Self {
            client,
            config,
            router,
            table: Mutex::new(Table::new(limit)),
            progressed: Notify::new(),
            streamed: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Changes the table and starts what has to be started.
    pub(super) fn change(self: &Arc<Self>, change: impl FnOnce(&mut Table) -> Vec<Start>) {
        let (starts, draining) = {
            let mut table = self.table.lock();
            (change(&mut table), table.draining())
        };
        for start in starts {
            tokio::spawn(runner::run(Arc::clone(self), start));
        }
        if draining {
            self.settled.notify_one();
        }
    }

    /// Looks at the table, or changes it in a way that starts nothing.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Table) -> T) -> T {
        look(&mut self.table.lock())
    }

    /// Streams a piece of an attempt, when there is room for it.
    pub(super) async fn stream(
        &self,
        attempt: &Arc<Attempt>,
        channel: OutputChannel,
        chunk: Bytes,
    ) {
        if attempt.stream.push(channel, chunk).await {
            self.with(|table| table.list_output(Arc::clone(attempt)));
        }
        self.streamed.notify_one();
    }

    /// An attempt is over.
    pub(super) fn conclude(self: &Arc<Self>, attempt: &Attempt, result: Option<WorkerResult>) {
        self.change(|table| table.conclude(&attempt.lease, result, Instant::now()));
        // A result comes after what was streamed before it.
        self.streamed.notify_one();
    }

    /// The latest progress of an attempt, told when there is time.
    pub(super) fn report_progress(&self, attempt: &Arc<Attempt>, percent: i32, text: String) {
        let newly = {
            let mut progress = attempt.progress.lock();
            progress.latest = Some((percent, text));
            !std::mem::replace(&mut progress.queued, true)
        };
        if newly {
            self.with(|table| table.queue_progress(Arc::clone(attempt)));
            self.progressed.notify_one();
        }
    }

    /// The first message of a session that lists `running`.
    pub(super) fn hello(&self, running: Vec<AttemptRef>, limit: usize) -> WorkerHello {
        WorkerHello {
            worker_id: self.config.worker_id.clone(),
            pool: self.config.pool.clone(),
            topics: self.router.topics().cloned().collect(),
            capabilities: self.config.capabilities.clone(),
            labels: self.config.labels.clone(),
            max_parallel_jobs: i32::try_from(limit).unwrap_or(i32::MAX),
            sdk: Some(WorkerSdk {
                name: "coretex".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                language: "rust".to_owned(),
            }),
            protocol_version: PROTOCOL_VERSION,
            running,
        }
    }
}
