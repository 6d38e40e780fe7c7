//! What the tests of this program share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coretex::proto::{JobState, ListJobsRequest};
use coretex::{Client, Context, Error, Job, JobFailure};
use coretex_tests::cluster::backends::{Pair, Servers};
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::{RunningWorker, Runs};
use coretex_tests::poll;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinHandle;

/// Replicas on one Redis and one NATS.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Server>,
    pub(crate) backends: Arc<Servers>,
}

impl Cluster {
    /// Starts replicas with these settings; `None` where Redis or NATS is not installed.
    pub(crate) async fn start(count: usize, settings: &[(&str, &str)]) -> Option<Self> {
        let pair = Pair::redis_and_nats().await?;
        let Pair::Servers(backends) = &pair else {
            return None;
        };
        let backends = Arc::clone(backends);
        let mut replicas = Vec::new();
        for _ in 0..count {
            let mut options = pair.options();
            for (name, value) in settings {
                options = options.set(name, value);
            }
            replicas.push(Server::start(options).await);
        }
        Some(Self { replicas, backends })
    }

    /// A client of all replicas, `first` first.
    pub(crate) fn client(&self, first: usize) -> Client {
        let count = self.replicas.len();
        let urls = (0..count).map(|n| self.replicas[(first + n) % count].url());
        Client::builder()
            .servers(urls)
            .deadline(Duration::from_secs(60))
            .attempts(20)
            .build()
            .unwrap()
    }

    /// A worker that begins at replica `first` and takes `work` for a job.
    pub(crate) async fn worker(
        &self,
        first: usize,
        topic: &str,
        parallel: usize,
        work: Duration,
    ) -> (RunningWorker, Runs) {
        let runs = Runs::default();
        let noted = runs.clone();
        let handler = move |context: Context, job: Job| {
            let noted = noted.clone();
            async move {
                noted.note(&job.job_id);
                // It works for so long, unless it is told to stop.
                let _ = tokio::time::timeout(work, context.cancelled()).await;
                Ok::<_, JobFailure>(job.input)
            }
        };
        let client = self.client(first);
        let worker = RunningWorker::serve(client, topic, parallel, handler).await;
        (worker, runs)
    }
}

/// Clients that submit one job after the other and wait for each, until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<(), Error>>>,
    ids: Arc<Mutex<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(client: &Client, topic: &'static str, clients: usize) -> Self {
        let (stop, ids) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let clients = (0..clients)
            .map(|_| {
                let (client, stop, ids) = (client.clone(), Arc::clone(&stop), Arc::clone(&ids));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let job = Box::pin(client.submit(topic, json!({"n": 1})).result()).await?;
                        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
                        ids.lock().push(job.job_id);
                    }
                    Ok(())
                })
            })
            .collect();
        Self { stop, clients, ids }
    }

    pub(crate) fn done(&self) -> usize {
        self.ids.lock().len()
    }

    /// Stops it; the ids of the jobs. No call may have failed.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap().unwrap();
        }
        std::mem::take(&mut *self.ids.lock())
    }
}

/// Every job there is.
pub(crate) async fn all_jobs(client: &Client) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest {
            page_size: 500,
            page_token,
            ..ListJobsRequest::default()
        };
        let page = client.list_jobs(request).await.unwrap();
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return jobs;
        }
    }
}

/// Every job has succeeded and was run once; the highest number of an attempt.
pub(crate) async fn all_ran_once(client: &Client, runs: &[Runs], expected: usize) -> i32 {
    let jobs = all_jobs(client).await;
    assert_eq!(jobs.len(), expected);
    for job in &jobs {
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        let ran: u32 = runs.iter().map(|runs| runs.of(&job.job_id)).sum();
        assert_eq!(ran, 1, "{job:?}");
    }
    jobs.iter().map(|job| job.attempt).max().unwrap_or_default()
}

/// A counter of the metrics page, summed over its labels.
pub(crate) async fn metric(server: &Server, name: &str) -> f64 {
    let (_, page) = server.page("/metrics").await;
    page.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Waits until so much time has passed.
pub(crate) async fn passes(time: Duration) {
    let begun = Instant::now();
    poll::until_async("time to pass", time * 2, async || {
        if begun.elapsed() >= time {
            Ok(())
        } else {
            Err(format!("{:?}", begun.elapsed()))
        }
    })
    .await;
}
