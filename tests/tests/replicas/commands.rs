//! What a job costs Redis, counted by what it is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex::proto::JobState;
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::worker::RunningWorker;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{Cluster, passes};

/// Counts the commands that Redis gets from outside, by name.
async fn monitor(address: std::net::SocketAddr) -> Arc<Mutex<BTreeMap<String, u64>>> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await.unwrap();
    let counts = Arc::<Mutex<BTreeMap<String, u64>>>::default();
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        // `time [db client] "COMMAND" "argument" …`; what a script calls says `lua` for the client.
        while let Ok(Some(line)) = lines.next_line().await {
            let Some((head, rest)) = line.split_once("] \"") else {
                continue;
            };
            if !head.ends_with(" lua") {
                let name = rest.split('"').next().unwrap_or_default().to_uppercase();
                *counted.lock().entry(name).or_default() += 1;
            }
        }
    });
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_costs_two_scripts_and_an_idle_replica_little() {
    const JOBS: usize = 1_000;
    let Some(cluster) = Cluster::start(1, &[]).await else {
        return;
    };
    let client = cluster.replicas[0].client();
    let worker = RunningWorker::echo(client.clone(), "job.cheap", 32).await;
    let run = async |jobs: usize| {
        stream::iter(0..jobs)
            .for_each_concurrent(16, async |n| {
                let submit = client.submit("job.cheap", json!(n)).result();
                let job = in_time("a job", Box::pin(submit)).await.unwrap();
                assert_eq!(job.state(), JobState::Succeeded);
            })
            .await;
    };
    run(200).await;
    passes(Duration::from_secs(3)).await;
    let counts = monitor(cluster.backends.redis.address()).await;
    let taken = || std::mem::take(&mut *counts.lock());
    let begun = Instant::now();
    run(JOBS).await;
    let busy = begun.elapsed();
    let of_jobs = taken();
    passes(Duration::from_secs(2)).await;
    taken();
    let idle = Duration::from_secs(10);
    passes(idle).await;
    let of_rest = taken();

    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>() as f64;
    let per_second = sum(&of_rest) / idle.as_secs_f64();
    assert!(
        per_second <= 10.0,
        "{per_second} commands a second at rest: {of_rest:?}"
    );
    let scripts =
        |counts: &BTreeMap<String, u64>| counts.get("EVALSHA").copied().unwrap_or_default() as f64;
    let share = busy.as_secs_f64() / idle.as_secs_f64();
    let per_job = (scripts(&of_jobs) - scripts(&of_rest) * share) / JOBS as f64;
    let others = (sum(&of_jobs) - scripts(&of_jobs) - (sum(&of_rest) - scripts(&of_rest)) * share)
        / JOBS as f64;
    assert!(per_job <= 2.1, "{per_job} scripts a job: {of_jobs:?}");
    assert!(others <= 0.1, "{others} other commands a job: {of_jobs:?}");
    drop(worker);
}
