//! Measures the embedded engine with the commits of a job's life, for the figures in ADR 1.
//!
//! ```text
//! store_figures load DIRECTORY [JOBS] [COMMITTERS] [RETIRE] submit and finish jobs; for each, delete one of an
//!                                                           earlier first load, from number RETIRE on
//! store_figures memory [JOBS] [COMMITTERS]                  the same without a disk
//! store_figures reopen DIRECTORY                            open, read one record, close
//! store_figures crash DIRECTORY [IDLE_MS]                   load a little, wait, die without closing
//! ```
//!
//! In the environment: `STORE_ASYNC` for an fsync once a second, `STORE_QUICK` for quick recovery,
//! `STORE_LINGER` for microseconds to linger.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

mod shape;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coretex_core::time::{Clock, Timestamp};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, GroupObserver, GroupReport};
use coretex_store::{Durability, Range, Store};

use shape::{Job, SHARD};

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_micros(since.as_micros() as u64)
    }
}

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

/// Microseconds of processor time of this process so far.
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10_000
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace()
        .skip(1)
        .collect::<Vec<_>>()
        .join(" ")
}

fn fsync_p50(directory: &Path) -> Duration {
    use std::os::unix::fs::FileExt;
    let path = directory.join("fsync.probe");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.sync_all().unwrap();
    let mut took: Vec<Duration> = (0..300)
        .map(|round| {
            file.write_all_at(&[round as u8; 65_536], (round * 7 % 1000) * 65_536)
                .unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    std::fs::remove_file(path).unwrap();
    took.sort();
    took[took.len() / 2]
}

fn options(path: Option<&Path>, groups: Arc<Groups>) -> EmbeddedOptions {
    let clock = Arc::new(WallClock);
    let mut options = match path {
        Some(path) => EmbeddedOptions::directory(path, clock, 1),
        None => EmbeddedOptions::memory(clock, 1),
    };
    if std::env::var_os("STORE_ASYNC").is_some() && path.is_some() {
        options.durability = Durability::Async;
    }
    if let Some(micros) = std::env::var_os("STORE_LINGER") {
        options.linger = Duration::from_micros(micros.to_str().unwrap().parse().unwrap());
    }
    options.quick_recovery = std::env::var_os("STORE_QUICK").is_some();
    options.observer = Some(groups);
    options.on_repair = Some(Arc::new(|progress| {
        println!(
            "  verifying {} MiB: {:.0} %",
            progress.file_bytes >> 20,
            progress.fraction * 100.0
        );
    }));
    options
}

async fn load(
    store: &Arc<EmbeddedStore>,
    from: u64,
    jobs: u64,
    committers: u64,
    retire: Option<u64>,
) {
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
                if let Some(retire) = retire {
                    let old = Job::new(retire + number - from);
                    store.commit(old.retire()).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn measure(
    store: Arc<EmbeddedStore>,
    groups: Arc<Groups>,
    jobs: u64,
    committers: u64,
    retire: Option<u64>,
) {
    let existing = store
        .count(SHARD, &Range::all("all/acme"), u64::MAX)
        .await
        .unwrap()
        .value;
    // A first load counts from 0, so that later ones know what to delete.
    let first = if existing == 0 {
        0
    } else {
        WallClock.now().as_micros()
    };
    let steps = 10.min(jobs);
    for step in 0..steps {
        let part = jobs / steps;
        let (start, cpu, written) = (Instant::now(), cpu_micros(), store.bytes_written());
        let commits_before = groups.commits.load(Ordering::Relaxed);
        let groups_before = groups.groups.load(Ordering::Relaxed);
        let retired = retire.map(|retire| retire + step * part);
        load(&store, first + step * part, part, committers, retired).await;
        let commits = groups.commits.load(Ordering::Relaxed) - commits_before;
        let group_count = groups.groups.load(Ordering::Relaxed) - groups_before;
        let seconds = start.elapsed().as_secs_f64();
        let usage = store.usage().await.unwrap();
        let all = store
            .count(SHARD, &Range::all("all/acme"), u64::MAX)
            .await
            .unwrap()
            .value;
        let mut line = String::new();
        write!(
            line,
            "{all:>8} jobs kept, {:>6.0} commits/s, {:>5.1} us cpu/commit, {:>5.1} commits/group, \
             {:>6.0} bytes written/commit, {:>5.0} bytes of file/job, rss {}",
            commits as f64 / seconds,
            (cpu_micros() - cpu) as f64 / commits as f64,
            commits as f64 / group_count as f64,
            (store.bytes_written() - written) as f64 / commits as f64,
            usage.bytes as f64 / all.max(1) as f64,
            status("VmRSS"),
        )
        .unwrap();
        println!("{line}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |position: usize, default: u64| {
        args.get(position)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let groups = Arc::new(Groups::default());
    match args.first().map(String::as_str) {
        Some("load") => {
            let path = Path::new(&args[1]);
            std::fs::create_dir_all(path).unwrap();
            println!("fsync p50 of 64 KiB: {:?}", fsync_p50(path));
            let store = EmbeddedStore::open(options(Some(path), groups.clone())).unwrap();
            let store = Arc::new(store);
            let (jobs, committers) = (number(2, 100_000), number(3, 64));
            let retire = args.get(4).map(|_| number(4, 0));
            measure(store.clone(), groups, jobs, committers, retire).await;
            let start = Instant::now();
            store.close(Duration::from_secs(60)).await;
            println!("closed in {:?}", start.elapsed());
        }
        Some("memory") => {
            let store = Arc::new(EmbeddedStore::open(options(None, groups.clone())).unwrap());
            measure(store, groups, number(1, 100_000), number(2, 64), None).await;
        }
        Some("reopen") => {
            let start = Instant::now();
            let store = EmbeddedStore::open(options(Some(Path::new(&args[1])), groups)).unwrap();
            println!("opened in {:?}", start.elapsed());
            let start = Instant::now();
            let record = store.get(SHARD, &[Job::new(5).key()]).await.unwrap();
            println!("read {} in {:?}", record.value.len(), start.elapsed());
            let start = Instant::now();
            store.close(Duration::from_secs(60)).await;
            println!("closed in {:?}, rss {}", start.elapsed(), status("VmRSS"));
        }
        Some("crash") => {
            let store = EmbeddedStore::open(options(Some(Path::new(&args[1])), groups)).unwrap();
            let store = Arc::new(store);
            load(&store, WallClock.now().as_micros(), 1_000, 64, None).await;
            tokio::time::sleep(Duration::from_millis(number(2, 0))).await;
            // As kill -9 would: nothing is dropped, nothing is closed.
            std::process::abort();
        }
        _ => println!("see the comment at the top of this program"),
    }
}
