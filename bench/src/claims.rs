//! What a claim costs beside backlogs of different sizes, and what a backlog itself costs.
//!
//! Each size has a server and a store of its own. The same number of jobs is claimed beside each:
//! all of them only beside the smallest, which is filled several times.

use std::time::{Duration, Instant};

use crate::Result;
use crate::load;
use crate::report::{self, Figure};
use crate::rows::{Bench, CACHE_MIB, CONNECTIONS, MIB, SLOTS, TOPIC};
use crate::server::{Keeping, Server, Worker};
use crate::worker::HANDLED;

/// Waiting jobs when claims begin.
const BACKLOGS: [usize; 3] = [1_000, 100_000, 1_000_000];
/// Jobs that are claimed beside each.
const CLAIMED: usize = 20_000;
/// Jobs of a call that fills a queue, and such calls at a time.
const BATCH: usize = 500;
const FILLING: usize = 4;
/// What a claim beside the largest backlog may cost, as a multiple of one beside the second.
const MOST: f64 = 1.3;

/// What claims cost.
#[derive(Debug, Default)]
struct Drained {
    jobs: usize,
    took: Duration,
    cpu: Duration,
}

impl Drained {
    fn micros_per_job(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.jobs as f64
    }
}

impl Bench {
    /// Claims beside each of the backlogs.
    pub(crate) async fn claims(&mut self, keeping: Keeping) -> Result<()> {
        let mut before = None;
        for waiting in BACKLOGS.map(|waiting| waiting / self.scale) {
            let largest = waiting == BACKLOGS[2] / self.scale;
            let cost = self
                .claims_beside(keeping, waiting, before.filter(|_| largest))
                .await?;
            before = Some(cost);
        }
        Ok(())
    }

    /// Claims beside one of them; what a job cost. `beside` is what it cost beside fewer.
    async fn claims_beside(
        &mut self,
        keeping: Keeping,
        waiting: usize,
        beside: Option<f64>,
    ) -> Result<f64> {
        let server = self.start(keeping)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        load::batches(&client, "job.other", FILLING, 200, BATCH).await?;
        let (rss, bytes) = (server.rss()?, server.bytes()?);
        let claimed = CLAIMED / self.scale;
        let mut drained = Drained::default();
        let mut figures = Vec::new();
        while drained.jobs < claimed {
            let filled = load::batches(&client, TOPIC, FILLING, waiting, BATCH).await?;
            if filled.failed > 0 {
                return Err(format!("{} jobs were refused", filled.failed).into());
            }
            if figures.is_empty() {
                let grown = server.rss()?.saturating_sub(rss) as f64 / MIB;
                let file = server.bytes()?.saturating_sub(bytes) as f64 / waiting as f64;
                figures.push(Figure::new("submitted", filled.per_second(), "jobs/s"));
                figures.push(Figure::new(
                    "memory for the backlog, cache included",
                    grown,
                    "MiB",
                ));
                let without = (grown - CACHE_MIB).max(0.0);
                figures.push(Figure::new(
                    "memory, without 16 MiB of cache",
                    without,
                    "MiB",
                ));
                figures.push(Figure::new("file per waiting job", file, "bytes"));
                report::say(&format!("o: {waiting} jobs wait"));
            }
            drain(&server, waiting.min(claimed), &mut drained).await?;
        }
        let cost = drained.micros_per_job();
        let per_second = drained.jobs as f64 / drained.took.as_secs_f64();
        figures.push(Figure::new("drained", per_second, "jobs/s"));
        figures.push(Figure::new("CPU of coretexd, drain", cost, "us/job"));
        if let Some(beside) = beside {
            let ratio = cost / beside;
            figures.push(Figure::new("of the cost beside a tenth", ratio, "times").at_most(MOST));
        }
        let title = format!("{} claims beside {waiting} waiting jobs", drained.jobs);
        self.push("o", &title, keeping, figures);
        Ok(cost)
    }
}

/// A worker comes and has so many jobs; adds what it took.
async fn drain(server: &Server, jobs: usize, drained: &mut Drained) -> Result<()> {
    let report = jobs.to_string();
    let (cpu, begun) = (server.cpu()?, Instant::now());
    let mut worker = Worker::start_with(&[server], TOPIC, SLOTS, &["--report", &report])?;
    worker.says(HANDLED).await?;
    drained.took += begun.elapsed();
    drained.cpu += server.cpu()?.saturating_sub(cpu);
    drained.jobs += jobs;
    Ok(())
}
