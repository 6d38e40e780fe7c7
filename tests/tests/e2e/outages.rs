//! Redis and NATS go away while a server runs on them, and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex::proto::{GetStatusRequest, ListJobsRequest, SubmitJobRequest};
use coretex::{Client, JobExt};
use coretex_tests::cluster::backends::{Pair, Servers};
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::{RunningWorker, Runs};
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::support::{endings, engines, events, submit_for_sure, until_metric_is};

/// Waits until `/readyz` answers with this status, and returns why.
async fn until_ready_is(server: &Server, status: u16) -> String {
    poll::until_async("readiness", PATIENCE, async || {
        match server.page("/readyz").await {
            (found, text) if found == status => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// How jobs are run while something happens to what is behind the server.
struct Load {
    accepted: Arc<Mutex<Vec<String>>>,
    runs: Runs,
}

impl Load {
    /// Runs so many jobs, with `trouble` under way, and checks that each was run and ended once.
    async fn run(client: &Client, jobs: usize, trouble: impl AsyncFnOnce(&Self)) {
        let load = Self {
            accepted: Arc::default(),
            runs: Runs::default(),
        };
        let runs = load.runs.clone();
        let noted = move |ctx: coretex::Context, job: coretex::Job| {
            runs.note(ctx.job_id());
            async move { Ok(job.input) }
        };
        let _worker = RunningWorker::serve(client.clone(), "job.noted", 8, noted).await;
        let submits = stream::iter(0..jobs).map(async |n| {
            let request = SubmitJobRequest {
                topic: "job.noted".into(),
                idempotency_key: format!("key-{n}"),
                ..SubmitJobRequest::default()
            };
            let job = submit_for_sure(client, &request).await;
            load.accepted.lock().push(job.job_id);
        });
        let submits = submits.buffer_unordered(8).collect::<()>();
        let all = async { tokio::join!(submits, trouble(&load)) };
        in_time("all jobs to be accepted", Box::pin(all)).await;

        let accepted = load.accepted.lock().clone();
        assert_eq!(accepted.len(), jobs);
        let checks = stream::iter(&accepted).map(async |job_id| {
            let job = client.wait_ended(job_id, Some(PATIENCE)).await.unwrap();
            assert!(job.succeeded(), "{job:?}");
            assert_eq!(load.runs.of(job_id), 1, "{job:?}");
            assert_eq!(endings(&events(client, job_id).await), 1);
        });
        checks.buffer_unordered(16).collect::<()>().await;
        let all = client.all_jobs(ListJobsRequest::default()).count().await;
        assert_eq!(all, jobs);
    }

    /// Waits until so many jobs are accepted.
    async fn accepted(&self, wanted: usize) {
        poll::until_async("some load", PATIENCE, async || {
            match self.accepted.lock().len() {
                enough if enough >= wanted => Ok(()),
                few => Err(format!("{few} jobs accepted")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_for_five_seconds_costs_no_job_and_runs_none_twice() {
    let (pair, servers) = servers!("everysec");
    let server = Server::start(pair.options()).await;
    let client = server.client();
    Load::run(&client, 300, async |load| {
        load.accepted(100).await;
        let paused = Instant::now();
        servers.redis.pause();
        let reason = until_ready_is(&server, 503).await;
        assert!(reason.contains("the store does not answer"), "{reason}");
        until_metric_is(&server, "coretex_ready 0").await;
        let [store, bus] = engines(&client).await;
        assert_eq!((store.healthy, bus.healthy), (false, true), "{store:?}");
        poll::until_async("five seconds", PATIENCE, async || match paused.elapsed() {
            over if over >= Duration::from_secs(5) => Ok(()),
            so_far => Err(format!("{so_far:?}")),
        })
        .await;
        servers.redis.resume();
        until_ready_is(&server, 200).await;
    })
    .await;
    assert!(engines(&client).await[0].healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_comes_back_with_its_file_has_every_job() {
    // With a sync once a second it may have lost the last of them, and run them again.
    let (pair, servers) = servers!("always");
    let options = pair.options().set("CORETEX_STORE_DURABILITY", "fsync");
    let server = Server::start(options).await;
    let client = server.client();
    Load::run(&client, 400, async |load| {
        for part in [100, 250] {
            load.accepted(part).await;
            servers.redis.kill();
            until_ready_is(&server, 503).await;
            servers.redis.restart().await;
            until_ready_is(&server, 200).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_jobs_run_on_and_the_server_says_that_it_is_away() {
    let (pair, servers) = servers!("everysec");
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let bus_is = async |healthy: bool| {
        let found = poll::until_async("the bus", PATIENCE, async || {
            let [_, bus] = engines(&client).await;
            if bus.healthy == healthy {
                Ok(bus)
            } else {
                Err(format!("{bus:?}"))
            }
        });
        found.await
    };
    Load::run(&client, 100, async |load| {
        for part in [30, 60] {
            load.accepted(part).await;
            servers.nats.kill();
            let bus = bus_is(false).await;
            assert!(bus.message.contains("not connected"), "{bus:?}");
            until_metric_is(&server, "coretex_bus_connected{engine=\"nats\"} 0").await;
            let (status, why) = server.page("/readyz").await;
            assert_eq!(status, 200, "{why}");
            let status = client.get_status(GetStatusRequest {}).await.unwrap();
            assert!(status.replicas[0].ready, "{status:?}");
            servers.nats.restart().await;
            bus_is(true).await;
            until_metric_is(&server, "coretex_bus_connected{engine=\"nats\"} 1").await;
        }
    })
    .await;
    // What happened is told by the bus; its client would call the end of a connection an error.
    let said = server.log();
    assert!(said.contains("nats connection is back"), "{said}");
    assert!(!said.contains("ERROR"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_keeps_its_deadline_though_redis_stands_still_and_nats_is_gone() {
    let (pair, servers) = servers!("everysec");
    let options = pair.options().set("CORETEX_TIMING_DRAIN_TIMEOUT", "4s");
    let mut server = Server::start(options).await;
    let client = server.client();
    let submitted = client.submit("job.nobody", ()).send().await.unwrap();
    stop_without(&mut server, &servers).await;
    servers.redis.resume();
    servers.nats.restart().await;
    server.restart().await;
    let _worker = RunningWorker::echo(client.clone(), "job.nobody", 1).await;
    let job_id = submitted.job.unwrap().job_id;
    let job = client.wait_ended(job_id, Some(PATIENCE)).await.unwrap();
    assert!(job.succeeded(), "{job:?}");
}

async fn stop_without(server: &mut Server, servers: &Servers) {
    servers.nats.kill();
    servers.redis.pause();
    let (status, took) = server.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took <= Duration::from_secs(6), "the stop took {took:?}");
}
