//! Connections that break, stall and drag: an attempt outlives them.

use std::sync::Arc;
use std::time::Duration;

use coretex::proto::GetWorkerRequest;
use coretex::{Client, JobExt, JobState, Worker};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::proxy::Proxy;
use coretex_tests::cluster::server::{self, Server};
use coretex_tests::cluster::worker::{RunningWorker, Runs};
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{attempts, endings, events, until, until_state};

/// A worker on `job.long` that says how far it is all the while, until it is told to finish.
async fn steady_worker(client: Client, runs: &Runs, finish: &Arc<Notify>) -> RunningWorker {
    let (runs, finish) = (runs.clone(), Arc::clone(finish));
    RunningWorker::serve(client, "job.long", 1, move |ctx, job| {
        runs.note(ctx.job_id());
        let finish = Arc::clone(&finish);
        async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            let mut count = 0_u32;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        count += 1;
                        ctx.progress(50, count.to_string());
                    }
                    () = finish.notified() => return Ok(job.input),
                }
            }
        }
    })
    .await
}

/// How far the job is, as the server knows.
fn told(job: &coretex::Job) -> u32 {
    let progress = job.progress.as_ref();
    progress.map_or(0, |progress| progress.message.parse().unwrap())
}

async fn a_job_outlives_twenty_cuts_and_a_restart_in_one_attempt(pair: &Pair) {
    let mut server = Server::start(pair.options()).await;
    let proxy = Proxy::start(server.address()).await;
    let (runs, finish) = (Runs::default(), Arc::new(Notify::new()));
    let worker = steady_worker(server::client(&proxy.url(), ""), &runs, &finish).await;
    let client = server.client();
    let submitted = client
        .submit("job.long", json!("whole"))
        .send()
        .await
        .unwrap();
    let job_id = submitted.job.unwrap().job_id;
    until_state(&client, &job_id, JobState::Running).await;

    let mut sessions = vec![worker.session().unwrap()];
    for cut in 0..20 {
        let before = until(&client, &job_id, "progress", |job| told(job) > 0).await;
        if cut == 10 {
            server.kill().await;
            server.restart().await;
        } else {
            proxy.cut();
        }
        // What it says now came over a new connection.
        let session = poll::until_async("a new session", PATIENCE, async || {
            let session = worker
                .session()
                .filter(|session| !sessions.contains(session));
            session.ok_or_else(|| format!("{:?}", worker.handle().status()))
        });
        sessions.push(session.await);
        let what = format!("progress after cut {cut}");
        until(&client, &job_id, &what, |job| told(job) > told(&before)).await;
    }
    finish.notify_one();

    let job = client.wait_ended(&job_id, Some(PATIENCE)).await.unwrap();
    assert_eq!(job.output_as::<String>().unwrap(), "whole");
    assert_eq!((job.attempt, job.redispatch_count), (1, 0), "{job:?}");
    assert_eq!(runs.of(&job_id), 1);
    let attempts = attempts(&client, &job_id).await;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert!(!attempts[0].late_result);
    assert_eq!(endings(&events(&client, &job_id).await), 1);
    assert_eq!(sessions.len(), 21);
}

async fn a_worker_notices_a_half_open_connection_in_time_to_keep_its_job(pair: &Pair) {
    let options = pair.options().set("CORETEX_TIMING_ADOPTION_WINDOW", "30s");
    let server = Server::start(options).await;
    let proxy = Proxy::start(server.address()).await;
    let (runs, finish) = (Runs::default(), Arc::new(Notify::new()));
    let worker = steady_worker(server::client(&proxy.url(), ""), &runs, &finish).await;
    let client = server.client();
    let submitted = client.submit("job.long", json!(1)).send().await.unwrap();
    let job_id = submitted.job.unwrap().job_id;
    until_state(&client, &job_id, JobState::Running).await;

    let old = worker.session();
    proxy.stall();
    poll::until_async("a new session", PATIENCE, async || match worker.session() {
        Some(session) if Some(&session) != old.as_ref() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    finish.notify_one();
    let job = client.wait_ended(&job_id, Some(PATIENCE)).await.unwrap();
    assert!(job.succeeded() && job.attempt == 1, "{job:?}");
    assert_eq!(runs.of(&job_id), 1);
}

async fn the_jobs_of_a_worker_that_falls_silent_are_run_by_another(pair: &Pair) {
    let options = pair
        .options()
        .set("CORETEX_TIMING_ADOPTION_WINDOW", "1s")
        .set("CORETEX_TIMING_HEARTBEAT_INTERVAL", "1s")
        .set("CORETEX_TIMING_HEARTBEAT_TIMEOUT", "2s");
    let server = Server::start(options).await;
    let proxy = Proxy::start(server.address()).await;
    let client = server.client();
    let silent = Worker::new(server::client(&proxy.url(), "")).topic("job.moves");
    let silent = silent.worker_id("silent").handler(|ctx, _| async move {
        ctx.cancelled().await;
        Ok("from the silent one")
    });
    let silent = RunningWorker::start(silent).await;
    let submitted = client.submit("job.moves", ()).send().await.unwrap();
    let job_id = submitted.job.unwrap().job_id;
    until_state(&client, &job_id, JobState::Running).await;

    // Nothing is closed; nothing gets through either, and no new connection is made.
    proxy.refuse(true);
    proxy.stall();
    let spare = Worker::new(client.clone())
        .topic("job.moves")
        .worker_id("spare");
    let spare = spare.handler(|_, _| async { Ok("from the spare one") });
    let _spare = RunningWorker::start(spare).await;
    let job = client.wait_ended(&job_id, Some(PATIENCE)).await.unwrap();
    assert_eq!(
        (job.worker_id.as_str(), job.attempt),
        ("spare", 2),
        "{job:?}"
    );
    assert_eq!(job.redispatch_count, 1);

    // Back again, it learns that the job is no longer its own, and gets others.
    proxy.refuse(false);
    proxy.cut();
    let mut handle = silent.handle().clone();
    poll::until_async("the silent worker to be back", PATIENCE, async || {
        handle.connected().await;
        let request = GetWorkerRequest {
            worker_id: "silent".into(),
        };
        let found = client
            .get_worker(request)
            .await
            .map_err(|error| error.to_string())?;
        match found.worker.unwrap().active_jobs {
            0 => Ok(()),
            jobs => Err(format!("{jobs} jobs")),
        }
    })
    .await;
    let attempts = attempts(&client, &job_id).await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(endings(&events(&client, &job_id).await), 1);
}

async fn jobs_run_over_slow_connections(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let proxy = Proxy::start(server.address()).await;
    proxy.delay(Duration::from_millis(50));
    let slow = server::client(&proxy.url(), "");
    let _worker = RunningWorker::echo(slow.clone(), "job.echo", 8).await;
    let jobs = (0..20).map(|n| slow.submit("job.echo", n).result());
    let ended = in_time("all jobs", futures::future::join_all(jobs)).await;
    for (n, job) in ended.into_iter().enumerate() {
        let job = job.unwrap();
        assert_eq!((job.output_as::<usize>().unwrap(), job.attempt), (n, 1));
    }
}

on_both_pairs! {
    a_job_outlives_twenty_cuts_and_a_restart_in_one_attempt,
    a_worker_notices_a_half_open_connection_in_time_to_keep_its_job,
    the_jobs_of_a_worker_that_falls_silent_are_run_by_another,
    jobs_run_over_slow_connections,
}
