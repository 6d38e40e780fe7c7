//! Measures the Redis engine with the commits of a job's life, for the figures in ADR 4.
//!
//! ```text
//! redis_figures URL [JOBS] [COMMITTERS] [RETIRE]   submit and finish jobs, and delete them with RETIRE = 1
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

mod shape;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coretex_store::conformance::SeededIds;
use coretex_store::embedded::{GroupObserver, GroupReport};
use coretex_store::redis::{RedisOptions, RedisStore};
use coretex_store::{Durability, Store};

use shape::{Job, SHARD};

#[derive(Debug, Default)]
struct Groups {
    groups: AtomicU64,
    commits: AtomicU64,
}

impl GroupObserver for Groups {
    fn group(&self, report: GroupReport) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.commits
            .fetch_add(report.commits as u64, Ordering::Relaxed);
    }
}

/// What the server says of itself.
struct Server(redis::aio::MultiplexedConnection);

impl Server {
    async fn number(&mut self, name: &str) -> f64 {
        let mut command = redis::cmd("INFO");
        let text: String = command.arg("all").query_async(&mut self.0).await.unwrap();
        let found = text.split(['\r', '\n', ',']).find_map(|field| {
            let (_, value) = field.rsplit_once(name)?;
            value.strip_prefix([':', '='])?.parse().ok()
        });
        found.unwrap_or(0.0)
    }

    /// Microseconds of a call of the script.
    async fn script(&mut self) -> f64 {
        let mut command = redis::cmd("INFO");
        let text: String = command
            .arg("commandstats")
            .query_async(&mut self.0)
            .await
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let field = line.and_then(|line| {
            line.split(',')
                .find_map(|field| field.strip_prefix("usec_per_call="))
        });
        field.map_or(0.0, |field| field.parse().unwrap())
    }
}

/// The processor time of a process in microseconds, from `/proc`.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).map_or(0.0, |text| text.parse().unwrap());
    (ticks(11) + ticks(12)) * 10_000.0
}

async fn load(store: &Arc<RedisStore>, from: u64, jobs: u64, committers: u64, retire: bool) {
    let next = Arc::new(AtomicU64::new(from));
    let mut tasks = Vec::new();
    for _ in 0..committers {
        let (store, next) = (store.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= from + jobs {
                    break;
                }
                let job = Job::new(number);
                store.commit(job.submit()).await.unwrap();
                store.commit(job.finish()).await.unwrap();
                if retire {
                    store.commit(job.retire()).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |position: usize, default: u64| {
        args.get(position)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (jobs, committers, retire) = (number(1, 50_000), number(2, 128), number(3, 0) == 1);
    let groups = Arc::new(Groups::default());
    let mut options = RedisOptions::new(&args[0], Arc::new(SeededIds::new(1)));
    options.durability = Durability::Ephemeral;
    options.observer = Some(groups.clone());
    let store = Arc::new(RedisStore::open(options).await.unwrap());
    let client = redis::Client::open(args[0].as_str()).unwrap();
    let mut server = Server(client.get_multiplexed_async_connection().await.unwrap());
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec_async(&mut server.0)
        .await
        .unwrap();
    let process = server.number("process_id").await.to_string();
    let first = store.time().await.unwrap().as_millis();
    for step in 0..5 {
        let part = jobs / 5;
        let memory = server.number("used_memory").await;
        let file = server.number("aof_current_size").await;
        let counts =
            || [&groups.commits, &groups.groups].map(|count| count.load(Ordering::Relaxed));
        let (before, ours, theirs) = (counts(), cpu("self"), cpu(&process));
        let start = Instant::now();
        load(&store, first + step * part, part, committers, retire).await;
        let seconds = start.elapsed().as_secs_f64();
        let after = counts();
        let commits = (after[0] - before[0]) as f64;
        println!(
            "{:>6.0} commits/s, {:>5.1} us cpu/commit here, {:>5.1} at redis, {:>5.1} commits/group, \
             {:>5.0} bytes of memory/job, {:>5.0} of file/job, script {:.1} us",
            commits / seconds,
            (cpu("self") - ours) / commits,
            (cpu(&process) - theirs) / commits,
            commits / (after[1] - before[1]) as f64,
            (server.number("used_memory").await - memory) / part as f64,
            (server.number("aof_current_size").await - file) / part as f64,
            server.script().await,
        );
    }
    let start = Instant::now();
    let keys: Vec<_> = (0..64)
        .map(|number| Job::new(first + number).key())
        .collect();
    for _ in 0..200 {
        store.get(SHARD, &keys).await.unwrap();
    }
    println!(
        "64 records read in {:.0} us",
        start.elapsed().as_micros() as f64 / 200.0
    );
    store.close(Duration::from_secs(10)).await;
}
