//! The rows on who goes first: a small tenant and urgent jobs while another tenant floods.
//!
//! Times are the server's own, from the records: a wait lasts from the acceptance of a job to the
//! decision to hand it out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex::proto::{
    CountJobsRequest, CreateApiKeyRequest, JobEventType, JobFilter, ListJobAttemptsRequest,
    WaitJobRequest, WatchJobsRequest,
};
use coretex::well_known::Timestamp;
use coretex::{Client, Job, JobPriority, JobState};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::Result;
use crate::load;
use crate::report::{self, Figure};
use crate::rows::{Bench, CONNECTIONS, TOPIC};
use crate::server::{Keeping, Server, Worker};

/// Jobs of the flood.
const FLOOD: usize = 100_000;
/// Jobs of the small tenant, alone and under the flood.
const SMALL_JOBS: usize = 200;
/// CRITICAL jobs of each tenant.
const CRITICAL_JOBS: usize = 100;
/// Slots of the worker.
const SLOTS: usize = 16;
/// The mean time of a job. They take between half and one and a half of it: were all the same, all
/// slots would end at the same moment, and a wait would say when it began and not whose turn it was.
const MEAN: Duration = Duration::from_millis(100);
/// How many mean times over the number of slots the wait may grow by.
const MOST: f64 = 7.0;
/// How long one job or one event may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two tenants and a worker that serves both.
struct Tenants {
    big: Client,
    small: Client,
    _worker: Worker,
    _server: Server,
}

impl Tenants {
    async fn start(server: Server) -> Result<Self> {
        let admin = load::client(&server.url, 1)?;
        let big = key(&admin, "big", "admin", &[]).await?;
        let small = key(&admin, "small", "admin", &[]).await?;
        let both = key(&admin, "small", "worker", &["big", "small"]).await?;
        let mean = MEAN.as_millis().to_string();
        let further = ["--work-ms", &mean, "--spread", "--api-key", &both];
        Ok(Self {
            _worker: Worker::start_with(&[&server], TOPIC, SLOTS, &further)?,
            big: load::client_with_key(&server.url, CONNECTIONS, &big)?,
            small: load::client_with_key(&server.url, CONNECTIONS, &small)?,
            _server: server,
        })
    }
}

impl Bench {
    /// The small tenant alone, then the flood, then the small tenant and urgent jobs under it.
    pub(crate) async fn flood(&mut self, keeping: Keeping) -> Result<()> {
        let tenants = Tenants::start(self.start(keeping)?).await?;
        let jobs = SMALL_JOBS / self.scale;
        let alone = if self.wants("m") {
            let waits = waits(&tenants.small, jobs).await?;
            Some(waits)
        } else {
            None
        };
        let flood = FLOOD / self.scale;
        let filled = load::batches(&tenants.big, TOPIC, 4, flood, 500).await?;
        if filled.failed > 0 {
            return Err(format!("{} jobs of the flood were refused", filled.failed).into());
        }
        report::say(&format!("m, n: {flood} jobs wait"));
        if let Some(alone) = alone {
            let under = waits(&tenants.small, jobs).await?;
            still_floods(&tenants.big).await?;
            let share = MOST * MEAN.as_secs_f64() * 1e3 / SLOTS as f64;
            let goal = millis(&alone, 0.99) + share;
            let figures = vec![
                Figure::new("wait alone, p50", millis(&alone, 0.5), "ms"),
                Figure::new("wait alone, p99", millis(&alone, 0.99), "ms"),
                Figure::new("wait under the flood, p50", millis(&under, 0.5), "ms"),
                Figure::new("wait under the flood, p99", millis(&under, 0.99), "ms").at_most(goal),
                Figure::new("wait under the flood, longest", millis(&under, 1.0), "ms"),
            ];
            let title = format!("{jobs} jobs of a small tenant while another floods with {flood}");
            self.push("m", &title, keeping, figures);
        }
        if self.wants("n") {
            self.critical(keeping, &tenants).await?;
        }
        Ok(())
    }

    async fn critical(&mut self, keeping: Keeping, tenants: &Tenants) -> Result<()> {
        let jobs = CRITICAL_JOBS / self.scale;
        let starts = Starts::of(&tenants.big).await?;
        for (client, whose) in [
            (&tenants.big, "the flood's tenant"),
            (&tenants.small, "another tenant"),
        ] {
            let (mut waits, mut before) = (load::histogram()?, load::histogram()?);
            let mut overtaken = 0;
            for number in 0..jobs {
                let one = Critical::run(client, number).await?;
                waits.saturating_record(one.started.saturating_sub(one.accepted));
                starts.reach(one.started).await?;
                before.saturating_record(starts.between(one.accepted, one.started));
                overtaken = overtaken.max(starts.between(one.answered, one.started));
            }
            still_floods(&tenants.big).await?;
            let next = before.count_at(0) as f64 * 100.0 / jobs as f64;
            let figures = vec![
                Figure::new("wait, p50", millis(&waits, 0.5), "ms"),
                Figure::new("wait, p99", millis(&waits, 0.99), "ms"),
                Figure::new("next to start", next, "% of jobs"),
                Figure::new(
                    "others started meanwhile, p99",
                    before.value_at_quantile(0.99) as f64,
                    "jobs",
                ),
                Figure::new(
                    "others started meanwhile, most",
                    before.max() as f64,
                    "jobs",
                ),
                Figure::new(
                    "of them after it was surely stored, most",
                    overtaken as f64,
                    "jobs",
                )
                .at_most(0.0),
            ];
            let title = format!("{jobs} CRITICAL jobs of {whose} under the flood");
            self.push("n", &title, keeping, figures);
        }
        Ok(())
    }
}

/// A CRITICAL job, in microseconds of the server's time.
struct Critical {
    accepted: u64,
    /// By then its acceptance was answered, so it was stored. The call began before the server took
    /// the time of acceptance, so this is not too early.
    answered: u64,
    started: u64,
}

impl Critical {
    async fn run(client: &Client, number: usize) -> Result<Self> {
        let mut request = load::request(TOPIC, number)?;
        request.priority = JobPriority::Critical.into();
        let begun = Instant::now();
        let job = client.submit_job(request).await?.job.ok_or("no job")?;
        let took = load::micros(begun.elapsed());
        let accepted = micros(job.create_time)?;
        let request = WaitJobRequest {
            job_id: job.job_id.clone(),
            ..WaitJobRequest::default()
        };
        let job = client.wait_job(request).await?.job.ok_or("no job")?;
        Ok(Self {
            accepted,
            answered: accepted + took,
            started: started(client, &job).await?,
        })
    }
}

/// When jobs of a tenant were handed out, from a watch.
struct Starts {
    seen: Arc<Mutex<Vec<u64>>>,
    watching: JoinHandle<Result<()>>,
}

impl Starts {
    /// Begins to watch; complete from here on.
    async fn of(client: &Client) -> Result<Self> {
        let mut watch = client.watch(WatchJobsRequest::default());
        // The checkpoint says that the watch has begun.
        watch.next().await.ok_or("no watch")??;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            while let Some(message) = watch.next().await.transpose()? {
                let Some(event) = message.event else { continue };
                if event.r#type() == JobEventType::Dispatched
                    && message
                        .job
                        .is_some_and(|job| job.priority() != JobPriority::Critical)
                {
                    into.lock().push(micros(event.time)?);
                }
            }
            Ok(())
        });
        Ok(Self { seen, watching })
    }

    /// Waits until more than what was handed out by then is known.
    async fn reach(&self, time: u64) -> Result<()> {
        let begun = Instant::now();
        // Commits of several claims are not always in the order of their times, so the first event
        // after it is not enough; two rounds of the slots are.
        while self
            .seen
            .lock()
            .iter()
            .rev()
            .take(4 * SLOTS)
            .filter(|seen| **seen > time)
            .count()
            < 2 * SLOTS
        {
            if begun.elapsed() > PATIENCE || self.watching.is_finished() {
                return Err("the watch does not tell of the flood any more".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// How many were handed out after one time and before another.
    fn between(&self, after: u64, before: u64) -> u64 {
        let seen = self.seen.lock();
        seen.iter()
            .filter(|time| (after + 1..before).contains(*time))
            .count() as u64
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn key(admin: &Client, tenant: &str, role: &str, served: &[&str]) -> Result<String> {
    let request = CreateApiKeyRequest {
        display_name: format!("{role} of {tenant}"),
        tenant_id: tenant.to_owned(),
        roles: vec![role.to_owned()],
        tenants_served: served.iter().map(|&tenant| tenant.to_owned()).collect(),
        ..CreateApiKeyRequest::default()
    };
    Ok(admin.create_api_key(request).await?.secret)
}

/// How long each of so many jobs waits, one at a time.
async fn waits(client: &Client, jobs: usize) -> Result<Histogram<u64>> {
    let mut waits = load::histogram()?;
    for number in 0..jobs {
        let mut request = load::request(TOPIC, number)?;
        request.wait = Some(coretex::proto_time::duration_from_std(PATIENCE));
        let job = client.submit_job(request).await?.job.ok_or("no job")?;
        let waited = started(client, &job)
            .await?
            .saturating_sub(micros(job.create_time)?);
        waits.saturating_record(waited);
    }
    Ok(waits)
}

/// When a job that has succeeded was handed out.
async fn started(client: &Client, job: &Job) -> Result<u64> {
    if job.state() != JobState::Succeeded {
        return Err(format!("a job is {:?}", job.state()).into());
    }
    let request = ListJobAttemptsRequest {
        job_id: job.job_id.clone(),
        ..ListJobAttemptsRequest::default()
    };
    let attempts = client.list_job_attempts(request).await?.attempts;
    micros(attempts.first().ok_or("no attempt")?.dispatch_time)
}

/// Fails when the flood has run dry: what was measured beside it would not be.
async fn still_floods(client: &Client) -> Result<()> {
    let filter = JobFilter {
        states: vec![JobState::Pending.into()],
        ..JobFilter::default()
    };
    let request = CountJobsRequest {
        filter: Some(filter),
    };
    match client.count_jobs(request).await?.count {
        0 => Err("the flood ended before the row".into()),
        _ => Ok(()),
    }
}

fn micros(time: Option<Timestamp>) -> Result<u64> {
    let time = time.ok_or("no time")?;
    Ok(u64::try_from(time.seconds)? * 1_000_000 + u64::try_from(time.nanos)? / 1_000)
}

fn millis(waits: &Histogram<u64>, quantile: f64) -> f64 {
    waits.value_at_quantile(quantile) as f64 / 1e3
}
