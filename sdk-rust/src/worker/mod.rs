//! The worker runtime: takes jobs from the server, runs them in parallel, and brings the results
//! back whatever happens to the connection.
//!
//! - `handler`, `output`, [`Context`]: what the author of a worker sees.
//! - `attempt`: one attempt and how it is told to stop. `table`: all attempts of the process and
//!   what is owed to the server about each; it outlives connections.
//! - `outbox`: what waits to be sent on one connection. `session`: one connection. `run`: one
//!   connection after the other, and the way out.

mod attempt;
mod context;
mod handler;
mod load;
mod message;
mod outbox;
mod output;
mod run;
mod runner;
mod session;
mod shared;
mod stream;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coretex_proto::v1::Job;
use tokio::sync::watch;
use tonic::Code;

pub use attempt::CancelReason;
pub use context::Context;
pub use load::Load;
pub use output::{JobFailure, Json, Output};

use crate::{Client, Error};
use handler::{Handler, Router};
use load::Probe;
use shared::{Config, Shared};

/// How long a worker that is told to stop lets its jobs finish. Below the 30 seconds after which
/// container platforms kill.
const DEFAULT_DRAIN_GRACE: Duration = Duration::from_secs(25);

/// A process that runs jobs. Describe it, then [`run`](Self::run) it.
///
/// ```no_run
/// use coretex::{Client, JobExt, JobFailure, Json, Worker};
///
/// #[tokio::main]
/// async fn main() -> Result<(), coretex::Error> {
///     let worker = Worker::new(Client::new("http://127.0.0.1:50051")?).topic("job.double");
///     let worker = worker.max_parallel_jobs(16).handler(|ctx, job| async move {
///         ctx.progress(50, "reading");
///         let number: i64 = job.input_as()?;
///         let doubled = number.checked_mul(2).ok_or(JobFailure::new("overflow", "too large"))?;
///         Ok(Json(doubled))
///     });
///     worker.run().await
/// }
/// ```
///
/// # What happens to a job
/// The handler runs as a task of its own; at most [`max_parallel_jobs`](Self::max_parallel_jobs) at
/// once. What it returns is the result. A panic is a failed result with the code `panic`; the worker
/// goes on. A handler is told through [`Context::cancelled`] when its job is cancelled or given to
/// somebody else; when it has not returned by the end of the grace, it is dropped at its next await.
///
/// # What happens to the connection
/// When it breaks, handlers go on. The worker reconnects for ever, says what it still runs, and the
/// server keeps those attempts or revokes them. Results are sent until the server has stored them.
#[must_use]
pub struct Worker {
    client: Client,
    config: Config,
    router: Router,
    signals: bool,
    probe: Probe,
    handle: WorkerHandle,
    orders: watch::Receiver<Orders>,
    status: watch::Sender<WorkerStatus>,
}

/// What the outside wants from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Orders {
    stop: Stop,
    max_parallel_jobs: usize,
}

/// How far a worker is to go towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Finish what runs, up to the grace.
    Drain,
    /// Stop what runs.
    Now,
}

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerStatus {
    /// Not connected: before the first session or between two.
    Connecting,
    /// In a session.
    Connected {
        /// The name the server knows it by.
        worker_id: String,
        /// The session.
        session_id: String,
    },
    /// [`Worker::run`] has returned.
    Stopped,
}

/// Controls a running worker from elsewhere. Made by [`Worker::handle`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    orders: watch::Sender<Orders>,
    status: watch::Receiver<WorkerStatus>,
}

impl WorkerHandle {
    /// Takes nothing new, lets what runs finish up to the grace, then ends [`Worker::run`].
    pub fn drain(&self) {
        self.order(|orders| orders.stop = orders.stop.max(Stop::Drain));
    }

    /// Drains without grace: what runs is told to stop at once.
    pub fn stop(&self) {
        self.order(|orders| orders.stop = Stop::Now);
    }

    /// Changes how many jobs run at once. What runs goes on; 0 takes nothing new.
    pub fn set_max_parallel_jobs(&self, jobs: usize) {
        self.order(|orders| orders.max_parallel_jobs = jobs);
    }

    /// Where the worker stands now.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        self.status.borrow().clone()
    }

    /// Waits until the worker is in a session; false when it has stopped instead.
    pub async fn connected(&mut self) -> bool {
        let settled = |status: &WorkerStatus| !matches!(status, WorkerStatus::Connecting);
        let status = self.status.wait_for(settled).await;
        status.is_ok_and(|status| matches!(*status, WorkerStatus::Connected { .. }))
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_if_modified(|orders| {
            let before = *orders;
            change(orders);
            *orders != before
        });
    }
}

impl Worker {
    /// Starts to describe a worker that connects as `client` does. It uses connections of its own.
    pub fn new(client: Client) -> Self {
        let (orders, orders_seen) = watch::channel(Orders {
            stop: Stop::No,
            max_parallel_jobs: 1,
        });
        let (status, status_seen) = watch::channel(WorkerStatus::Connecting);
        Self {
            client,
            config: Config {
                worker_id: String::new(),
                pool: String::new(),
                capabilities: Vec::new(),
                labels: BTreeMap::new(),
                drain_grace: DEFAULT_DRAIN_GRACE,
            },
            router: Router::default(),
            signals: true,
            probe: Probe::default(),
            handle: WorkerHandle {
                orders,
                status: status_seen,
            },
            orders: orders_seen,
            status,
        }
    }

    /// Serves a topic with the [`handler`](Self::handler). May be called again for more topics.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.router.add_topic(topic.into());
        self
    }

    /// What runs the jobs of all topics that have no handler of their own.
    ///
    /// The result is anything that can be an [`Output`]: [`Json`] of a serde type, a
    /// `serde_json::Value`, a payload, a text, `()`. Any error becomes a [`JobFailure`] by `?`.
    /// Work that blocks or computes for long belongs on a thread of its own
    /// (`tokio::task::spawn_blocking`).
    pub fn handler<F, Fut, O>(mut self, handler: F) -> Self
    where
        F: Fn(Context, Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, JobFailure>> + Send + 'static,
        O: Into<Output>,
    {
        self.router.set_default(Handler::new(handler));
        self
    }

    /// Serves a topic with a handler of its own.
    ///
    /// ```no_run
    /// # fn example(client: coretex::Client) -> coretex::Worker {
    /// coretex::Worker::new(client)
    ///     .route("job.a", |_ctx, _job| async { Ok("from a") })
    ///     .route("job.b", |_ctx, _job| async { Ok("from b") })
    /// # }
    /// ```
    pub fn route<F, Fut, O>(mut self, topic: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Context, Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, JobFailure>> + Send + 'static,
        O: Into<Output>,
    {
        self.router.add_route(topic.into(), Handler::new(handler));
        self
    }

    /// The most jobs to run at once. Default: 1.
    pub fn max_parallel_jobs(self, jobs: usize) -> Self {
        self.handle.set_max_parallel_jobs(jobs);
        self
    }

    /// The pool to belong to. Default: the server's default pool.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.config.pool = pool.into();
        self
    }

    /// The name to have. Default: made of the machine's name, the process id and a random part.
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.config.worker_id = worker_id.into();
        self
    }

    /// Something this worker can do, matched against what jobs require. May be called again.
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.config.capabilities.push(capability.into());
        self
    }

    /// A label that placement may ask for. May be called again.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    /// How long jobs may go on when the worker is told to stop. Default: 25 seconds.
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.config.drain_grace = grace;
        self
    }

    /// Whether SIGTERM and Ctrl-C drain the worker; a second one stops it at once. Default: yes.
    pub fn signals(mut self, signals: bool) -> Self {
        self.signals = signals;
        self
    }

    /// What measures the load that heartbeats report. Default: the processors' load from
    /// `/proc/stat` where that exists, else 0; graphics processors 0.
    pub fn load(mut self, probe: impl FnMut() -> Load + Send + 'static) -> Self {
        self.probe = Probe::new(probe);
        self
    }

    /// Controls the worker once it runs.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Runs until the worker is told to stop, by a signal or its [handle](Self::handle). Reconnects
    /// for ever.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when a topic has no handler or there is no topic. The server's answer when
    /// it refuses the very first session for a reason that waiting does not change: no or bad
    /// credential, pool or topic not allowed, unknown protocol. Later refusals are retried: what
    /// worked once may have been taken away by mistake.
    pub async fn run(mut self) -> Result<(), Error> {
        self.router
            .check()
            .map_err(|message| Error::local(Code::InvalidArgument, message))?;
        if self.config.worker_id.is_empty() {
            self.config.worker_id = default_name(&*self.client.shared.entropy);
        }
        let limit = self.orders.borrow().max_parallel_jobs;
        let shared = Shared::new(self.client, self.config, self.router, limit);
        let outcome = run::run(
            &Arc::new(shared),
            run::Outside {
                orders: self.orders,
                status: &self.status,
                handle: self.handle,
                signals: self.signals,
                probe: self.probe,
            },
        )
        .await;
        self.status.send_replace(WorkerStatus::Stopped);
        outcome
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("config", &self.config)
            .field("router", &self.router)
            .field("orders", &self.orders)
            .finish_non_exhaustive()
    }
}

/// A name that tells people where the worker is and is still unique.
fn default_name(entropy: &dyn crate::Entropy) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .take(40)
        .collect();
    let host = if host.is_empty() { "worker" } else { &host };
    // The last part of the id is random; the first would be the time.
    let id = entropy.id();
    let random: String = id
        .chars()
        .rev()
        .filter(char::is_ascii_alphanumeric)
        .take(6)
        .collect();
    format!("{host}-{}-{random}", std::process::id())
}
