//! The rows on the scheduler, and the one with many workers. Streamed output is in
//! [`streaming`](crate::streaming), fairness and urgent jobs are in [`fairness`](crate::fairness), the cost of claims is in [`claims`](crate::claims), what plays the
//! workers in [`fleet`](crate::fleet).

use std::time::{Duration, Instant};

use coretex::Client;
use coretex::proto::{ListWorkersRequest, WorkerState};
use futures::TryStreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Result;
use crate::load::{self, Waiting};
use crate::report::Figure;
use crate::rows::{Bench, CLIENTS, CONNECTIONS, MIB, TOPIC};
use crate::server::{Keeping, Worker};

/// Workers that are connected.
const WORKERS: usize = 10_000;
/// Connections of workers that share them.
const SHARED: usize = 50;
/// Files that a process opens beside the connections of workers.
const OTHER_FILES: u64 = 1_000;
/// What the opening of sessions leaves to do is over by then.
const SETTLING: Duration = Duration::from_secs(3);

impl Bench {
    /// All rows on the scheduler.
    pub(crate) async fn scheduler(&mut self) -> Result<()> {
        if self.wants("m") || self.wants("n") {
            self.flood(Keeping::Fsync).await?;
        }
        if self.wants("o") {
            self.claims(Keeping::Fsync).await?;
        }
        if self.wants("p") {
            let workers = WORKERS / self.scale;
            raise_open_files(workers as u64 + OTHER_FILES)?;
            self.workers(Keeping::Fsync, workers, workers).await?;
            self.workers(Keeping::Fsync, workers, SHARED).await?;
        }
        if self.wants("q") {
            self.streaming(Keeping::Fsync).await?;
        }
        Ok(())
    }

    /// A server with many workers, most of which have nothing to do.
    async fn workers(
        &mut self,
        keeping: Keeping,
        workers: usize,
        connections: usize,
    ) -> Result<()> {
        let server = self.start(keeping)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        load::closed(&client, "job.other", 8, 200, Waiting::Never).await?;
        let rss = server.rss()?;
        let begun = Instant::now();
        let (count, over) = (workers.to_string(), connections.to_string());
        let args = ["fleet", "--server", &server.url, "--topic", TOPIC];
        let further = ["--workers", &count, "--connections", &over];
        let fleet = Worker::spawn(&[args.as_slice(), &further].concat())?;
        let opened = begun.elapsed();
        tokio::time::sleep(SETTLING).await;
        let grown = server.rss()?.saturating_sub(rss) as f64;

        let lasting = Duration::from_secs(if self.scale > 1 { 5 } else { 15 });
        let cpu = server.cpu()?;
        tokio::time::sleep(lasting).await;
        let idle = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 100.0 / lasting.as_secs_f64();

        load::closed(&client, TOPIC, 1, 100, Waiting::OnSubmit).await?;
        let work = load::closed(&client, TOPIC, 1, 2_000 / self.scale, Waiting::OnSubmit);
        let one = self.measured(&server, &fleet, work).await?;
        let jobs = 20_000 / self.scale;
        let work = load::closed(&client, TOPIC, CLIENTS, jobs, Waiting::OnSubmit);
        let many = self.measured(&server, &fleet, work).await?;
        let left = ready_workers(&client).await?;
        if left != workers {
            return Err(format!("{left} of {workers} workers are left").into());
        }

        let figures = vec![
            Figure::new("connected after", opened.as_secs_f64(), "s"),
            Figure::new("memory for the workers", grown / MIB, "MiB"),
            Figure::new("memory per worker", grown / workers as f64 / 1024.0, "KiB"),
            Figure::new("CPU of coretexd, heartbeats alone", idle, "% of a core"),
            Figure::new(
                "one client, submit to result, p50",
                one.seen.millis(0.5),
                "ms",
            ),
            Figure::new(
                "one client, submit to result, p99",
                one.seen.millis(0.99),
                "ms",
            ),
            Figure::new("one client, CPU of coretexd", one.server_cpu, "us/job"),
            Figure::new("64 clients", many.seen.per_second(), "jobs/s"),
            Figure::new(
                "64 clients, submit to result, p50",
                many.seen.millis(0.5),
                "ms",
            ),
            Figure::new(
                "64 clients, submit to result, p99",
                many.seen.millis(0.99),
                "ms",
            ),
            Figure::new("64 clients, CPU of coretexd", many.server_cpu, "us/job"),
            Figure::new(
                "failed",
                (one.seen.failed + many.seen.failed) as f64,
                "jobs",
            )
            .at_most(0.0),
        ];
        let title = if connections == workers {
            format!("{workers} workers of a topic, a connection each")
        } else {
            format!("{workers} workers of a topic over {connections} connections")
        };
        self.push("p", &title, keeping, figures);
        Ok(())
    }
}

async fn ready_workers(client: &Client) -> Result<usize> {
    let request = ListWorkersRequest {
        states: vec![WorkerState::Ready.into()],
        page_size: 1_000,
        ..ListWorkersRequest::default()
    };
    let workers = client.all_workers(request);
    Ok(workers
        .try_fold(0, |count, _| async move { Ok(count + 1) })
        .await?)
}

/// Lets this process and those that it starts open so many files.
fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return Err(format!("{wanted} open files are needed: raise the hard limit").into());
    }
    let raised = Rlimit {
        current: Some(wanted),
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
