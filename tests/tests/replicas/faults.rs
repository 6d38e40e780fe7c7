//! Backends that go away and replicas that stand still.

use std::time::{Duration, Instant};

use coretex::proto::{JobState, WaitJobRequest};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Cluster, Load, all_ran_once, passes};

/// A little more than the lease of a replica.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_work_goes_on_and_heals() {
    let Some(cluster) = Cluster::start(2, &[]).await else {
        return;
    };
    let [a, b] = [0, 1].map(|n| cluster.replicas[n].client());
    let worker = RunningWorker::echo(b, "job.quiet", 4).await;
    let one = async |n: u32| {
        let begun = Instant::now();
        let job = in_time("a job", Box::pin(a.submit("job.quiet", json!(n)).result()));
        assert_eq!(job.await.unwrap().state(), JobState::Succeeded);
        begun.elapsed()
    };
    one(0).await;
    cluster.backends.nats.kill();
    for n in 0..5 {
        // A second until the queue is read, and one until whoever waits looks.
        let took = one(n).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    cluster.backends.nats.restart().await;
    poll::until_async("doorbells to ring again", PATIENCE, async || {
        let took = one(9).await;
        if took < Duration::from_millis(300) {
            Ok(())
        } else {
            Err(format!("{took:?}"))
        }
    })
    .await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_re_runs_nothing() {
    let Some(cluster) = Cluster::start(3, &[]).await else {
        return;
    };
    let client = cluster.client(0);
    let work = LONGER_THAN_A_LEASE + Duration::from_secs(5);
    let (worker, runs) = cluster.worker(1, "job.long", 10, work).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let submitted = client.submit("job.long", json!(n)).send().await.unwrap();
        ids.push(submitted.job.unwrap().job_id);
    }
    poll::until_async("all to run", PATIENCE, async || match runs.jobs() {
        10 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
    cluster.backends.redis.pause();
    passes(LONGER_THAN_A_LEASE).await;
    cluster.backends.redis.resume();
    for job_id in ids {
        let request = WaitJobRequest {
            job_id,
            ..WaitJobRequest::default()
        };
        let job = in_time("the end", client.wait_job(request)).await.unwrap();
        assert_eq!(job.job.unwrap().state(), JobState::Succeeded);
    }
    assert_eq!(all_ran_once(&client, &[runs], 10).await, 1);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_longer_than_its_lease_does_no_harm() {
    let settings = [("CORETEX_TIMING_ADOPTION_WINDOW", "15s")];
    let Some(mut cluster) = Cluster::start(3, &settings).await else {
        return;
    };
    let work = Duration::from_millis(500);
    let mut workers = Vec::new();
    let mut runs = Vec::new();
    for replica in 0..3 {
        let (worker, ran) = cluster.worker(replica, "job.still", 4, work).await;
        workers.push(worker);
        runs.push(ran);
    }
    // Calls go to the two that answer.
    let client = coretex::Client::builder()
        .servers([cluster.replicas[1].url(), cluster.replicas[2].url()])
        .deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    let load = Load::start(&client, "job.still", 12);
    cluster.replicas[0].signal(Signal::STOP);
    // Its workers leave it after ten seconds without an answer and bring what they run.
    passes(LONGER_THAN_A_LEASE * 2).await;
    cluster.replicas[0].signal(Signal::CONT);
    passes(Duration::from_secs(5)).await;
    let ids = load.stop().await;
    // What it was about to hand out when it stopped was never seen by a worker.
    assert!(all_ran_once(&client, &runs, ids.len()).await <= 2);
    // It serves again, under another name.
    poll::until_async("a new name", PATIENCE, async || {
        let log = cluster.replicas[0].log();
        match log.contains("goes on under a new name") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    let again = cluster.replicas[0].client();
    let job = in_time(
        "a job",
        Box::pin(again.submit("job.still", json!(1)).result()),
    );
    assert_eq!(job.await.unwrap().state(), JobState::Succeeded);
}
