//! Replicas that are killed or restarted under load.

use std::time::Duration;

use coretex_tests::cluster::PATIENCE;
use coretex_tests::poll;

use crate::support::{Cluster, Load, all_ran_once};

async fn goes_on(load: &Load, jobs: usize) {
    let before = load.done();
    poll::until_async("work to go on", PATIENCE, async || {
        match load.done() - before {
            done if done >= jobs => Ok(()),
            done => Err(format!("{done} jobs")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_is_killed_in_turn_and_every_job_ends_once() {
    let Some(mut cluster) = Cluster::start(3, &[]).await else {
        return;
    };
    let work = Duration::from_millis(300);
    let mut workers = Vec::new();
    let mut runs = Vec::new();
    for replica in 0..3 {
        let (worker, ran) = cluster.worker(replica, "job.kill", 8, work).await;
        workers.push(worker);
        runs.push(ran);
    }
    let client = cluster.client(0);
    let load = Load::start(&client, "job.kill", 24);
    goes_on(&load, 30).await;
    for victim in 0..3 {
        cluster.replicas[victim].kill().await;
        goes_on(&load, 60).await;
        cluster.replicas[victim].restart().await;
        goes_on(&load, 30).await;
    }
    let ids = load.stop().await;
    // What a replica was about to hand out when it was killed was never seen by a worker, and is
    // handed out again.
    assert!(all_ran_once(&client, &runs, ids.len()).await <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_call_and_runs_nothing_again() {
    let Some(mut cluster) = Cluster::start(3, &[]).await else {
        return;
    };
    let work = Duration::from_millis(200);
    let mut workers = Vec::new();
    let mut runs = Vec::new();
    for replica in 0..3 {
        let (worker, ran) = cluster.worker(replica, "job.roll", 8, work).await;
        workers.push(worker);
        runs.push(ran);
    }
    let client = cluster.client(0);
    let load = Load::start(&client, "job.roll", 24);
    goes_on(&load, 30).await;
    for next in 0..3 {
        let (status, _took) = cluster.replicas[next].terminate().await;
        assert!(status.success(), "{status:?}");
        cluster.replicas[next].restart().await;
        goes_on(&load, 40).await;
    }
    let ids = load.stop().await;
    assert_eq!(all_ran_once(&client, &runs, ids.len()).await, 1);
}
