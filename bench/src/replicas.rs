//! The rows on Redis and NATS: what they cost beside the embedded store, what several replicas add,
//! and what the loss of one costs.

use std::time::{Duration, Instant};

use coretex::proto::{CountJobsRequest, JobFilter, ListJobsRequest, ListWorkersRequest};
use coretex::{Client, JobState};

use crate::backends::Backends;
use crate::load::{self, Waiting};
use crate::report::Figure;
use crate::rows::{Bench, CLIENTS, CONNECTIONS, MIB, SLOTS, TOPIC, drained};
use crate::server::{Keeping, Server, Worker};
use crate::{Result, raw};

/// Jobs that are out when a replica is killed.
const IN_FLIGHT: usize = 10_000;
/// How long each of them takes.
const WORK: Duration = Duration::from_secs(30);

impl Bench {
    /// All rows on shared servers.
    pub(crate) async fn shared(&mut self) -> Result<()> {
        for keeping in [Keeping::RedisEverysec, Keeping::RedisAlways] {
            let raw = if self.wants("h") {
                Some(self.raw_redis(keeping).await?)
            } else {
                None
            };
            if self.wants("i") {
                self.end_to_end_redis(keeping, raw).await?;
            }
        }
        if self.wants("j") {
            self.idle_redis().await?;
        }
        if self.wants("k") {
            self.three_replicas().await?;
        }
        if self.wants("l") {
            self.loss_of_a_replica().await?;
        }
        Ok(())
    }

    fn replica(&self, keeping: Keeping, shared: &Backends) -> Result<Server> {
        Server::start(&self.coretexd, &self.directory, keeping, Some(shared))
    }

    async fn raw_redis(&mut self, keeping: Keeping) -> Result<f64> {
        let shared = Backends::start(&self.directory, keeping)?;
        let jobs = 20_000 / self.scale;
        let raw = raw::measure(&self.directory, keeping, Some(&shared), jobs).await?;
        let figures = vec![
            Figure::new("jobs", raw.jobs_per_second, "jobs/s"),
            Figure::new("commits", raw.commits_per_second, "commits/s"),
            Figure::new("CPU, Redis included", raw.cpu_micros_per_job, "us/job"),
            Figure::new("memory of Redis", raw.bytes_per_job, "bytes/job"),
        ];
        let title = "Redis alone, the product's own batches";
        self.push("h", title, keeping, figures);
        Ok(raw.jobs_per_second)
    }

    async fn end_to_end_redis(&mut self, keeping: Keeping, raw: Option<f64>) -> Result<()> {
        let shared = Backends::start(&self.directory, keeping)?;
        let server = self.replica(keeping, &shared)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        let jobs = 40_000 / self.scale;

        let before = shared.redis_memory()?;
        let waiting = jobs / 2;
        load::closed(&client, TOPIC, CLIENTS, waiting, Waiting::Never).await?;
        let per_waiting = grown(&shared, before)? / waiting as f64;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        drained(&client).await?;
        let per_ended = grown(&shared, before)? / waiting as f64;

        load::closed(&client, TOPIC, CLIENTS, jobs / 10, Waiting::OnSubmit).await?;
        let redis = shared.redis_cpu()?;
        let work = load::closed(&client, TOPIC, CLIENTS, jobs, Waiting::OnSubmit);
        let measured = self.measured(&server, &worker, work).await?;
        let redis = shared.redis_cpu()?.saturating_sub(redis).as_secs_f64() * 1e6 / jobs as f64;
        let mut figures = measured.figures();
        let everysec = keeping == Keeping::RedisEverysec;
        if everysec {
            figures[0] = figures[0].clone().at_least(4_000.0);
        }
        figures[3] = figures[3].clone().at_most(200.0);
        figures.push(Figure::new("CPU of Redis", redis, "us/job").at_most(90.0));
        if let Some(raw) = raw {
            let share = measured.seen.per_second() * 100.0 / raw;
            figures.push(Figure::new("share of (h)", share, "%").at_least(40.0));
        }
        figures
            .push(Figure::new("Redis per waiting job", per_waiting, "bytes").at_most(3.0 * 1024.0));
        figures.push(Figure::new("Redis per ended job", per_ended, "bytes"));
        let rss = server.rss()? as f64 / MIB;
        figures.push(Figure::new("RSS of coretexd", rss, "MiB"));
        self.push(
            "i",
            "end to end, 64 clients, wait on submit",
            keeping,
            figures,
        );
        Ok(())
    }

    async fn idle_redis(&mut self) -> Result<()> {
        let keeping = Keeping::RedisEverysec;
        let shared = Backends::start(&self.directory, keeping)?;
        let server = self.replica(keeping, &shared)?;
        let client = load::client(&server.url, 1)?;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        load::closed(&client, TOPIC, 1, 200, Waiting::OnSubmit).await?;
        let jobs = 3_000 / self.scale;
        let work = load::closed(&client, TOPIC, 1, jobs, Waiting::OnSubmit);
        let measured = self.measured(&server, &worker, work).await?;
        let mut figures = measured.figures();
        figures[1] = figures[1].clone().at_most(1.3);
        figures[2] = figures[2].clone().at_most(4.0);
        self.push("j", "one client, idle server", keeping, figures);
        Ok(())
    }

    /// The same load on one replica and on three, on the same machine.
    async fn three_replicas(&mut self) -> Result<()> {
        let keeping = Keeping::RedisEverysec;
        let mut rates = Vec::new();
        for count in [1_usize, 3] {
            let shared = Backends::start(&self.directory, keeping)?;
            let servers: Vec<Server> = (0..count)
                .map(|_| self.replica(keeping, &shared))
                .collect::<Result<_>>()?;
            let workers: Vec<Worker> = servers
                .iter()
                .map(|server| Worker::start(server, TOPIC, SLOTS / count))
                .collect::<Result<_>>()?;
            let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
            let client = load::client_of(&urls, CONNECTIONS.max(count * 2))?;
            let jobs = 30_000 / self.scale;
            load::closed(&client, TOPIC, CLIENTS, jobs / 10, Waiting::OnSubmit).await?;
            let seen = load::closed(&client, TOPIC, CLIENTS, jobs, Waiting::OnSubmit).await?;
            rates.push((seen.per_second(), seen.millis(0.5), seen.millis(0.99)));
            drop(workers);
        }
        let [one, three] = rates.as_slice() else {
            return Err("a rate is missing".into());
        };
        let figures = vec![
            Figure::new("one replica", one.0, "jobs/s"),
            Figure::new("three replicas", three.0, "jobs/s"),
            Figure::new("three against one", three.0 * 100.0 / one.0, "%").at_least(90.0),
            Figure::new("three, submit to result, p50", three.1, "ms"),
            Figure::new("three, submit to result, p99", three.2, "ms"),
        ];
        let title = "three replicas against one, same machine";
        self.push("k", title, keeping, figures);
        Ok(())
    }

    /// A replica is killed while its worker runs many jobs: the worker brings them to another.
    async fn loss_of_a_replica(&mut self) -> Result<()> {
        let keeping = Keeping::RedisEverysec;
        let shared = Backends::start(&self.directory, keeping)?;
        let servers: Vec<Server> = (0..3)
            .map(|_| self.replica(keeping, &shared))
            .collect::<Result<_>>()?;
        let order: Vec<&Server> = servers.iter().collect();
        let jobs = IN_FLIGHT / self.scale;
        let worker = Worker::start_at(&order, TOPIC, jobs, WORK)?;
        let client = load::client(&servers[1].url, CONNECTIONS)?;
        let before = shared.redis_memory()?;
        load::closed(&client, TOPIC, CLIENTS, jobs, Waiting::Never).await?;
        until(|| async {
            Ok(count(&client, &[JobState::Dispatched, JobState::Running]).await? == jobs)
        })
        .await?;
        let per_running = grown(&shared, before)? / jobs as f64;
        let mut servers = servers;
        let killed = Instant::now();
        servers.remove(0).kill();
        until(|| async {
            let workers = client
                .list_workers(ListWorkersRequest::default())
                .await?
                .workers;
            let mut live = workers
                .iter()
                .filter(|worker| worker.active_jobs as usize == jobs);
            Ok(live.next().is_some())
        })
        .await?;
        let adopted = killed.elapsed();
        drained_of(&client, jobs).await?;
        let ended = killed.elapsed();
        let (mut succeeded, mut again) = (0, 0);
        let mut page_token = String::new();
        loop {
            let page = client
                .list_jobs(ListJobsRequest {
                    page_size: 1_000,
                    page_token,
                    ..Default::default()
                })
                .await?;
            for job in &page.jobs {
                succeeded += usize::from(job.state() == JobState::Succeeded);
                again += usize::from(job.attempt != 1);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        drop(worker);
        let figures = vec![
            Figure::new(
                "attempts at another replica after",
                adopted.as_secs_f64(),
                "s",
            ),
            Figure::new("all ended after", ended.as_secs_f64(), "s"),
            Figure::new("lost", (jobs - succeeded) as f64, "jobs").at_most(0.0),
            Figure::new("run again", again as f64, "jobs").at_most(0.0),
            Figure::new("Redis per running job", per_running, "bytes"),
        ];
        let title = format!("SIGKILL of a replica with {jobs} jobs in flight");
        self.push("l", &title, keeping, figures);
        Ok(())
    }
}

fn grown(shared: &Backends, before: u64) -> Result<f64> {
    Ok(shared.redis_memory()?.saturating_sub(before) as f64)
}

async fn count(client: &Client, states: &[JobState]) -> Result<usize> {
    let filter = JobFilter {
        states: states.iter().map(|state| i32::from(*state)).collect(),
        ..Default::default()
    };
    let request = CountJobsRequest {
        filter: Some(filter),
    };
    Ok(usize::try_from(client.count_jobs(request).await?.count)?)
}

async fn drained_of(client: &Client, jobs: usize) -> Result<()> {
    until(|| async { Ok(count(client, &[JobState::Succeeded]).await? >= jobs) }).await
}

async fn until<F>(mut holds: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let begun = Instant::now();
    while !holds().await? {
        if begun.elapsed() > Duration::from_secs(180) {
            return Err("it takes longer than three minutes".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
