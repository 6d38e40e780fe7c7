//! The load: clients over gRPC, and what they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coretex::proto::{SubmitJobRequest, SubmitJobsRequest, WaitJobRequest};
use coretex::{Client, JobState, to_payload};
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::Result;

/// How clients learn of the end of their jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// `wait` on the submit.
    OnSubmit,
    /// A call of its own.
    Separate,
    /// Not at all.
    Never,
}

/// What the clients saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) jobs: usize,
    pub(crate) failed: usize,
    pub(crate) took: Duration,
    /// Microseconds from submit to result.
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        (self.jobs - self.failed) as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

pub(crate) fn client(url: &str, connections: usize) -> Result<Client> {
    client_of(&[url], connections)
}

pub(crate) fn client_of(urls: &[&str], connections: usize) -> Result<Client> {
    Ok(Client::builder()
        .servers(urls.iter().copied())
        .connections(connections)
        .deadline(Duration::from_secs(120))
        .build()?)
}

/// A client with a credential.
pub(crate) fn client_with_key(url: &str, connections: usize, key: &str) -> Result<Client> {
    Ok(Client::builder()
        .server(url)
        .api_key(key)
        .connections(connections)
        .deadline(Duration::from_secs(120))
        .build()?)
}

pub(crate) fn request(topic: &str, number: usize) -> Result<SubmitJobRequest> {
    Ok(SubmitJobRequest {
        topic: topic.to_owned(),
        input: Some(to_payload(&serde_json::json!({ "n": number }))?),
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        ..SubmitJobRequest::default()
    })
}

pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(600_000_000, 3)?)
}

async fn one(client: &Client, topic: &str, number: usize, waiting: Waiting) -> Result<bool> {
    let mut request = request(topic, number)?;
    let wait = coretex::proto_time::duration_from_std(Duration::from_secs(60));
    if waiting == Waiting::OnSubmit {
        request.wait = Some(wait);
    }
    let mut job = client.submit_job(request).await?.job.ok_or("no job")?;
    if waiting == Waiting::Separate {
        let request = WaitJobRequest {
            job_id: job.job_id,
            timeout: Some(wait),
            ..Default::default()
        };
        job = client.wait_job(request).await?.job.ok_or("no job")?;
    }
    Ok(waiting == Waiting::Never || job.state() == JobState::Succeeded)
}

/// `clients` that each submit the next job when their last has ended, until `jobs` are done.
pub(crate) async fn closed(
    client: &Client,
    topic: &str,
    clients: usize,
    jobs: usize,
    waiting: Waiting,
) -> Result<Seen> {
    let next = Arc::new(AtomicUsize::new(0));
    let failed = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (client, topic) = (client.clone(), topic.to_owned());
            let (next, failed) = (Arc::clone(&next), Arc::clone(&failed));
            tokio::spawn(async move {
                let mut latency = histogram()?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs {
                        return Ok::<_, crate::Error>(latency);
                    }
                    let begun = Instant::now();
                    match one(&client, &topic, number, waiting).await {
                        Ok(true) => {}
                        Ok(false) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            crate::report::say(&format!("a job failed: {error}"));
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    latency.saturating_record(micros(begun.elapsed()));
                }
            })
        })
        .collect();
    let mut latency = histogram()?;
    for task in tasks {
        latency.add(task.await??)?;
    }
    let failed = failed.load(Ordering::Relaxed);
    Ok(Seen {
        jobs,
        failed,
        took: begun.elapsed(),
        latency,
    })
}

/// Submits at a fixed rate whatever comes back; latency counts from the intended time.
pub(crate) async fn open(
    client: &Client,
    topic: &str,
    per_second: f64,
    lasting: Duration,
) -> Result<Seen> {
    let begun = tokio::time::Instant::now();
    let jobs = (per_second * lasting.as_secs_f64()) as usize;
    let latency = Arc::new(Mutex::new(histogram()?));
    let failed = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..jobs {
        let intended = begun + Duration::from_secs_f64(number as f64 / per_second);
        tokio::time::sleep_until(intended).await;
        let (client, topic) = (client.clone(), topic.to_owned());
        let (latency, failed) = (Arc::clone(&latency), Arc::clone(&failed));
        tasks.spawn(async move {
            let done = one(&client, &topic, number, Waiting::OnSubmit).await;
            if !matches!(done, Ok(true)) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            latency.lock().saturating_record(micros(intended.elapsed()));
        });
    }
    while tasks.join_next().await.is_some() {}
    let took = begun.elapsed();
    let latency = latency.lock().clone();
    Ok(Seen {
        jobs,
        failed: failed.load(Ordering::Relaxed),
        took,
        latency,
    })
}

/// Submits `jobs` in calls of `batch`, `clients` calls at a time.
pub(crate) async fn batches(
    client: &Client,
    topic: &str,
    clients: usize,
    jobs: usize,
    batch: usize,
) -> Result<Seen> {
    let next = Arc::new(AtomicUsize::new(0));
    let failed = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (client, topic) = (client.clone(), topic.to_owned());
            let (next, failed) = (Arc::clone(&next), Arc::clone(&failed));
            tokio::spawn(async move {
                let mut latency = histogram()?;
                loop {
                    let from = next.fetch_add(batch, Ordering::Relaxed);
                    if from >= jobs {
                        return Ok::<_, crate::Error>(latency);
                    }
                    let requests: Vec<_> = (from..(from + batch).min(jobs))
                        .map(|number| request(&topic, number))
                        .collect::<Result<_>>()?;
                    let begun = Instant::now();
                    let sent = requests.len();
                    let answer = client.submit_jobs(SubmitJobsRequest { requests }).await;
                    let accepted = answer.map_or(0, |answer| {
                        use coretex::proto::submit_jobs_result::Outcome;
                        let is_job =
                            |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Job(_)));
                        answer
                            .results
                            .iter()
                            .filter(|result| is_job(&result.outcome))
                            .count()
                    });
                    failed.fetch_add(sent - accepted, Ordering::Relaxed);
                    latency.saturating_record(micros(begun.elapsed()));
                }
            })
        })
        .collect();
    let mut latency = histogram()?;
    for task in tasks {
        latency.add(task.await??)?;
    }
    let failed = failed.load(Ordering::Relaxed);
    Ok(Seen {
        jobs,
        failed,
        took: begun.elapsed(),
        latency,
    })
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
