//! The rows: each starts what it needs, measures, and stops it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use coretex::proto::{DiagnoseJobRequest, ListJobsRequest};

use crate::load::{self, Seen, Waiting};
use crate::report::{self, Figure, Machine, Results, Row};
use crate::server::{Keeping, Server, Worker};
use crate::{Result, process, raw};

pub(crate) const TOPIC: &str = "job.noop";
/// Clients of the closed-loop rows, over this many connections.
pub(crate) const CLIENTS: usize = 64;
pub(crate) const CONNECTIONS: usize = 4;
/// Parallel slots of the no-op worker.
pub(crate) const SLOTS: usize = 128;
pub(crate) const MIB: f64 = 1024.0 * 1024.0;
/// The cache that the server gives its store by default.
pub(crate) const CACHE_MIB: f64 = 16.0;

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) coretexd: Option<PathBuf>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) output: PathBuf,
    pub(crate) rows: Vec<String>,
    /// Divides the number of jobs.
    pub(crate) scale: usize,
}

pub(crate) struct Bench {
    pub(crate) coretexd: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) scale: usize,
    rows: Vec<Row>,
    wanted: Vec<String>,
    /// Jobs a second of the raw store, for the share that the product reaches.
    raw: Option<f64>,
    peak: Option<f64>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let coretexd = match options.coretexd {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("coretexd"),
    };
    if !coretexd.is_file() {
        return Err(format!("no server at {}: build it first", coretexd.display()).into());
    }
    let directory = options.directory.unwrap_or_else(std::env::temp_dir);
    let (p50, p99) = process::fsync_times(&directory)?;
    let machine = Machine {
        cores: std::thread::available_parallelism()?.get(),
        fsync_p50_ms: p50.as_secs_f64() * 1e3,
        fsync_p99_ms: p99.as_secs_f64() * 1e3,
    };
    report::line(&format!(
        "{} cores; fsync of a 64 KiB append: p50 {:.2} ms, p99 {:.2} ms; stores in {}",
        machine.cores,
        machine.fsync_p50_ms,
        machine.fsync_p99_ms,
        directory.display()
    ));
    let mut bench = Bench {
        coretexd,
        directory,
        scale: options.scale,
        rows: Vec::new(),
        wanted: options.rows,
        raw: None,
        peak: None,
    };
    bench.all().await?;
    let results = Results {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        quick: options.scale > 1,
        rows: bench.rows,
    };
    report::line(&report::table(&results));
    if let Some(parent) = options.output.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(
        &options.output,
        serde_json::to_string_pretty(&results)? + "\n",
    )?;
    report::say(&format!("written: {}", options.output.display()));
    Ok(())
}

/// A measured stretch: what the clients saw and what the processes used.
pub(crate) struct Measured {
    pub(crate) seen: Seen,
    pub(crate) server_cpu: f64,
    worker_cpu: f64,
    client_cpu: f64,
}

impl Measured {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![
            Figure::new("jobs", self.seen.per_second(), "jobs/s"),
            Figure::new("submit to result, p50", self.seen.millis(0.5), "ms"),
            Figure::new("submit to result, p99", self.seen.millis(0.99), "ms"),
            Figure::new("CPU of coretexd", self.server_cpu, "us/job"),
            Figure::new("CPU of the worker", self.worker_cpu, "us/job"),
            Figure::new("CPU of the clients", self.client_cpu, "us/job"),
        ];
        if self.seen.failed > 0 {
            figures.push(Figure::new("failed", self.seen.failed as f64, "jobs").at_most(0.0));
        }
        figures
    }
}

impl Bench {
    pub(crate) fn wants(&self, letter: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == letter)
    }

    pub(crate) fn push(
        &mut self,
        letter: &'static str,
        title: &str,
        keeping: Keeping,
        figures: Vec<Figure>,
    ) {
        report::say(&format!("{letter}: {title} ({}) done", keeping.name()));
        let row = Row {
            letter,
            title: title.to_owned(),
            durability: keeping.name(),
            figures,
        };
        self.rows.push(row);
    }

    /// Adds a row that has nothing to do with a store.
    pub(crate) fn push_row(&mut self, row: Row) {
        report::say(&format!("{}: {} done", row.letter, row.title));
        self.rows.push(row);
    }

    pub(crate) fn start(&self, keeping: Keeping) -> Result<Server> {
        Server::start(&self.coretexd, &self.directory, keeping, None)
    }

    async fn all(&mut self) -> Result<()> {
        if self.wants("a") {
            self.raw_limit(Keeping::Fsync).await?;
        }
        if self.wants("b") {
            self.end_to_end("b", Keeping::Fsync).await?;
        }
        if self.wants("c") {
            self.idle(Keeping::Fsync).await?;
        }
        if self.wants("d") {
            self.batches(Keeping::Fsync).await?;
        }
        if self.wants("e") {
            self.backlog(Keeping::Fsync).await?;
        }
        if self.wants("f") {
            self.open_loop(Keeping::Fsync).await?;
        }
        if self.wants("g") {
            self.raw_limit(Keeping::Async).await?;
            self.end_to_end("g", Keeping::Async).await?;
        }
        self.shared().await?;
        self.scheduler().await?;
        if self.wants("r") {
            self.policy()?;
        }
        Ok(())
    }

    async fn raw_limit(&mut self, keeping: Keeping) -> Result<()> {
        let raw = raw::measure(&self.directory, keeping, None, 40_000 / self.scale).await?;
        if keeping == Keeping::Fsync {
            self.raw = Some(raw.jobs_per_second);
        }
        let figures = vec![
            Figure::new("jobs", raw.jobs_per_second, "jobs/s"),
            Figure::new("commits", raw.commits_per_second, "commits/s"),
            Figure::new("CPU", raw.cpu_micros_per_job, "us/job"),
            Figure::new("file", raw.bytes_per_job, "bytes/job"),
        ];
        self.push(
            "a",
            "the store alone, the product's own batches",
            keeping,
            figures,
        );
        Ok(())
    }

    pub(crate) async fn measured(
        &self,
        server: &Server,
        worker: &Worker,
        work: impl Future<Output = Result<Seen>>,
    ) -> Result<Measured> {
        let before = (
            server.cpu()?,
            worker.cpu()?,
            process::cpu(std::process::id())?,
        );
        let seen = work.await?;
        let after = (
            server.cpu()?,
            worker.cpu()?,
            process::cpu(std::process::id())?,
        );
        let micros = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / seen.jobs.max(1) as f64
        };
        Ok(Measured {
            server_cpu: micros(after.0, before.0),
            worker_cpu: micros(after.1, before.1),
            client_cpu: micros(after.2, before.2),
            seen,
        })
    }

    async fn end_to_end(&mut self, letter: &'static str, keeping: Keeping) -> Result<()> {
        let server = self.start(keeping)?;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        let jobs = 60_000 / self.scale;
        load::closed(&client, TOPIC, CLIENTS, jobs / 10, Waiting::OnSubmit).await?;
        let goal = if keeping == Keeping::Fsync {
            4_000.0
        } else {
            7_000.0
        };
        for (waiting, title) in [
            (Waiting::OnSubmit, "end to end, 64 clients, wait on submit"),
            (Waiting::Separate, "end to end, 64 clients, separate wait"),
        ] {
            let bytes = server.bytes()?;
            let work = load::closed(&client, TOPIC, CLIENTS, jobs, waiting);
            let measured = self.measured(&server, &worker, work).await?;
            let mut figures = measured.figures();
            if waiting == Waiting::OnSubmit {
                figures[0] = figures[0].clone().at_least(goal);
                figures[3] = figures[3].clone().at_most(200.0);
                if keeping == Keeping::Fsync {
                    self.peak = Some(measured.seen.per_second());
                    if let Some(raw) = self.raw {
                        let share = measured.seen.per_second() * 100.0 / raw;
                        figures.push(Figure::new("share of (a)", share, "%").at_least(45.0));
                    }
                }
            }
            figures.push(Figure::new(
                "RSS of coretexd",
                server.rss()? as f64 / MIB,
                "MiB",
            ));
            let grown = server.bytes()?.saturating_sub(bytes) as f64 / jobs as f64;
            figures.push(Figure::new("file growth", grown, "bytes/job"));
            self.push(letter, title, keeping, figures);
        }
        Ok(())
    }

    async fn idle(&mut self, keeping: Keeping) -> Result<()> {
        let server = self.start(keeping)?;
        let ready = server.ready_after.as_secs_f64() * 1e3;
        // Idle memory is that of a server that has been looked at, not of one that was never used.
        let client = load::client(&server.url, 1)?;
        client.get_status(Default::default()).await?;
        let rss = server.rss()? as f64 / MIB;
        let cpu = server.cpu()?;
        let lasting = Duration::from_secs(5);
        tokio::time::sleep(lasting).await;
        let used = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 100.0 / lasting.as_secs_f64();
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        load::closed(&client, TOPIC, 1, 100, Waiting::OnSubmit).await?;
        let jobs = 3_000 / self.scale;
        let work = load::closed(&client, TOPIC, 1, jobs, Waiting::OnSubmit);
        let measured = self.measured(&server, &worker, work).await?;
        let mut figures = measured.figures();
        figures[1] = figures[1].clone().at_most(3.0);
        figures[2] = figures[2].clone().at_most(8.0);
        figures.push(Figure::new("RSS at rest", rss, "MiB").at_most(40.0));
        figures.push(Figure::new("CPU at rest", used, "% of a core"));
        figures.push(Figure::new("ready after", ready, "ms").at_most(150.0));
        self.push("c", "one client, idle server", keeping, figures);
        Ok(())
    }

    async fn batches(&mut self, keeping: Keeping) -> Result<()> {
        let server = self.start(keeping)?;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        let jobs = 40_000 / self.scale;
        let work = load::batches(&client, TOPIC, 4, jobs, 100);
        let measured = self.measured(&server, &worker, work).await?;
        let figures = vec![
            Figure::new("accepted", measured.seen.per_second(), "jobs/s"),
            Figure::new("call, p50", measured.seen.millis(0.5), "ms"),
            Figure::new("call, p99", measured.seen.millis(0.99), "ms"),
            Figure::new("refused", measured.seen.failed as f64, "jobs").at_most(0.0),
            Figure::new("CPU of coretexd", measured.server_cpu, "us/job"),
        ];
        self.push(
            "d",
            "SubmitJobs of 100, 4 at a time, one worker",
            keeping,
            figures,
        );
        Ok(())
    }

    async fn backlog(&mut self, keeping: Keeping) -> Result<()> {
        let server = self.start(keeping)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        let waiting = 100_000 / self.scale;
        load::closed(&client, "job.other", 8, 200, Waiting::Never).await?;
        let (rss, bytes) = (server.rss()?, server.bytes()?);
        let submitted = load::closed(&client, TOPIC, CLIENTS, waiting, Waiting::Never).await?;
        let grown = server.rss()?.saturating_sub(rss) as f64 / MIB;
        let file = server.bytes()?.saturating_sub(bytes) as f64 / waiting as f64;
        let page = client
            .list_jobs(ListJobsRequest {
                page_size: 50,
                ..Default::default()
            })
            .await?;
        let job_id = page
            .jobs
            .first()
            .map(|job| job.job_id.clone())
            .ok_or("no jobs")?;
        let diagnose = timed(100, || async {
            let request = DiagnoseJobRequest {
                job_id: job_id.clone(),
            };
            client
                .diagnose_job(request)
                .await
                .map(|_| ())
                .map_err(Into::into)
        })
        .await?;
        let list = timed(100, || async {
            let request = ListJobsRequest {
                page_size: 50,
                ..Default::default()
            };
            client
                .list_jobs(request)
                .await
                .map(|_| ())
                .map_err(Into::into)
        })
        .await?;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        let begun = Instant::now();
        let cpu = server.cpu()?;
        drained(&client).await?;
        let took = begun.elapsed();
        let used = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / waiting as f64;
        drop(worker);
        let figures = vec![
            Figure::new("submitted", submitted.per_second(), "jobs/s"),
            // 16 MiB, and what the store's configured cache may have taken up meanwhile.
            Figure::new("memory for the backlog, cache included", grown, "MiB")
                .at_most(16.0 + CACHE_MIB),
            Figure::new("file per waiting job", file, "bytes"),
            Figure::new("DiagnoseJob, p50", diagnose, "ms"),
            Figure::new("ListJobs of 50, p50", list, "ms"),
            Figure::new("drained", waiting as f64 / took.as_secs_f64(), "jobs/s"),
            Figure::new("time to drain", took.as_secs_f64(), "s"),
            Figure::new("CPU of coretexd, drain", used, "us/job"),
        ];
        let title = format!("{waiting} waiting jobs");
        self.push("e", &title, keeping, figures);
        Ok(())
    }

    async fn open_loop(&mut self, keeping: Keeping) -> Result<()> {
        let server = self.start(keeping)?;
        let worker = Worker::start(&server, TOPIC, SLOTS)?;
        let client = load::client(&server.url, CONNECTIONS)?;
        load::closed(&client, TOPIC, CLIENTS, 2_000, Waiting::OnSubmit).await?;
        let rate = self.peak.unwrap_or(4_000.0) / 2.0;
        let lasting = Duration::from_secs(if self.scale > 1 { 3 } else { 20 });
        let work = load::open(&client, TOPIC, rate, lasting);
        let measured = self.measured(&server, &worker, work).await?;
        let mut figures = measured.figures();
        figures.insert(0, Figure::new("intended rate", rate, "jobs/s"));
        self.push("f", "open loop at half the peak", keeping, figures);
        Ok(())
    }
}

/// The median of `count` calls, in milliseconds.
async fn timed<F>(count: usize, call: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<()>>,
{
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        call().await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[count / 2].as_secs_f64() * 1e3)
}

/// Waits until nothing waits or runs for the measured topic.
pub(crate) async fn drained(client: &coretex::Client) -> Result<()> {
    use coretex::JobState;
    use coretex::proto::{CountJobsRequest, JobFilter};
    loop {
        let mut open = 0;
        for states in [
            vec![
                JobState::Pending,
                JobState::Scheduled,
                JobState::ApprovalRequired,
            ],
            vec![JobState::Dispatched, JobState::Running],
        ] {
            let states = states.into_iter().map(i32::from).collect();
            let filter = JobFilter {
                states,
                ..Default::default()
            };
            let request = CountJobsRequest {
                filter: Some(filter),
            };
            open += client.count_jobs(request).await?.count;
        }
        // The 200 of the other topic have no worker.
        if open <= 200 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
