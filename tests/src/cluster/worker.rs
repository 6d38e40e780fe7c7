//! Workers of the client library, in this process.

use std::collections::HashMap;
use std::sync::Arc;

use coretex::worker::WorkerStatus;
use coretex::{Client, Context, Error, Job, JobFailure, Output, Worker, WorkerHandle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::in_time;

/// A worker that runs until it is dropped.
#[derive(Debug)]
pub struct RunningWorker {
    handle: WorkerHandle,
    task: JoinHandle<Result<(), Error>>,
}

impl RunningWorker {
    /// Starts a worker and waits until it is in a session.
    ///
    /// # Panics
    /// It does not get into one.
    pub async fn start(worker: Worker) -> Self {
        let mut handle = worker.handle();
        let task = tokio::spawn(Box::pin(worker.signals(false).run()));
        let connected = in_time("a worker to connect", handle.connected()).await;
        assert!(connected, "the worker was not let in");
        Self { handle, task }
    }

    /// Starts a worker on one topic.
    pub async fn serve<F, Fut, O>(client: Client, topic: &str, parallel: usize, handler: F) -> Self
    where
        F: Fn(Context, Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, JobFailure>> + Send + 'static,
        O: Into<Output>,
    {
        let worker = Worker::new(client).topic(topic).max_parallel_jobs(parallel);
        Self::start(worker.handler(handler)).await
    }

    /// Starts a worker on one topic that gives back what it is given.
    pub async fn echo(client: Client, topic: &str, parallel: usize) -> Self {
        Self::serve(client, topic, parallel, |_, job| async { Ok(job.input) }).await
    }

    /// Controls it.
    #[must_use]
    pub const fn handle(&self) -> &WorkerHandle {
        &self.handle
    }

    /// The session that it is in; `None` between two.
    #[must_use]
    pub fn session(&self) -> Option<String> {
        match self.handle.status() {
            WorkerStatus::Connected { session_id, .. } => Some(session_id),
            WorkerStatus::Connecting | WorkerStatus::Stopped => None,
        }
    }

    /// Lets it finish what it runs and leave.
    ///
    /// # Panics
    /// It does not leave, or leaves with an error.
    pub async fn drain(mut self) {
        self.handle.drain();
        match in_time("a worker to leave", &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("the worker ended with {error}"),
            Err(error) => panic!("the worker ended with {error}"),
        }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often each job was run.
#[derive(Clone, Debug, Default)]
pub struct Runs(Arc<Mutex<HashMap<String, u32>>>);

impl Runs {
    /// Notes a run.
    pub fn note(&self, job_id: &str) {
        *self.0.lock().entry(job_id.to_owned()).or_default() += 1;
    }

    /// How often a job was run.
    #[must_use]
    pub fn of(&self, job_id: &str) -> u32 {
        self.0.lock().get(job_id).copied().unwrap_or_default()
    }

    /// How many jobs were run at least once.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.0.lock().len()
    }
}
