//! The server goes away, in good order or not, and comes back: nothing that it has accepted is
//! lost, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use coretex::proto::{
    CancelJobRequest, JobEvent, JobFilter, ListJobsRequest, SubmitJobRequest, WatchJobsRequest,
    watch_jobs_request::Target,
};
use coretex::{JobExt, JobState, Json, to_payload};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::{RunningWorker, Runs};
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{attempts, endings, events, submit_for_sure, until, until_state};

async fn every_accepted_job_ends_once_though_the_server_is_killed_under_load(pair: &Pair) {
    const JOBS: usize = 600;
    let options = pair.options().set("CORETEX_TIMING_ADOPTION_WINDOW", "2s");
    let mut server = Server::start(options).await;
    let client = server.client();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let double = |_, job: coretex::Job| async move { Ok(Json(2 * job.input_as::<i64>()?)) };
        workers.push(RunningWorker::serve(client.clone(), "job.double", 8, double).await);
    }

    let accepted: Mutex<Vec<(usize, String)>> = Mutex::default();
    let load = stream::iter(0..JOBS).map(async |n| {
        let request = SubmitJobRequest {
            topic: "job.double".into(),
            input: Some(to_payload(&n).unwrap()),
            idempotency_key: format!("key-{n}"),
            ..SubmitJobRequest::default()
        };
        let job = submit_for_sure(&client, &request).await;
        accepted.lock().push((n, job.job_id));
    });
    let load = load.buffer_unordered(16).collect::<()>();
    let trouble = async {
        for part in [JOBS / 3, 2 * JOBS / 3] {
            poll::until_async("some load", PATIENCE, async || {
                match accepted.lock().len() {
                    enough if enough >= part => Ok(()),
                    few => Err(format!("{few} jobs accepted")),
                }
            })
            .await;
            server.kill().await;
            server.restart().await;
        }
    };
    in_time("all jobs to be accepted", async {
        tokio::join!(load, trouble)
    })
    .await;

    let accepted = accepted.lock().clone();
    assert_eq!(accepted.len(), JOBS);
    let checks = stream::iter(&accepted).map(async |(n, job_id)| {
        let job = client.wait_ended(job_id, Some(PATIENCE)).await.unwrap();
        assert_eq!(job.output_as::<usize>().unwrap(), 2 * n, "{job:?}");
        let events = events(&client, job_id).await;
        assert_eq!(endings(&events), 1, "{events:?}");
    });
    checks.buffer_unordered(32).collect::<()>().await;
    // Submitting was repeated when its answer was lost; no job was made twice.
    let all = client.all_jobs(ListJobsRequest::default()).count().await;
    assert_eq!(all, JOBS);
}

async fn a_stop_by_signal_keeps_its_deadline_and_workers_keep_what_they_run(pair: &Pair) {
    let options = pair.options().set("CORETEX_TIMING_DRAIN_TIMEOUT", "8s");
    let mut server = Server::start(options).await;
    let client = server.client();
    let gate = Arc::new(Semaphore::new(0));
    let runs = Runs::default();
    let (held, noted) = (Arc::clone(&gate), runs.clone());
    let _worker = RunningWorker::serve(client.clone(), "job.held", 4, move |ctx, job| {
        noted.note(ctx.job_id());
        let held = Arc::clone(&held);
        async move {
            held.acquire().await?.forget();
            Ok(job.input)
        }
    })
    .await;
    let mut jobs = Vec::new();
    for n in 0..6 {
        let job = client
            .submit("job.held", n)
            .send()
            .await
            .unwrap()
            .job
            .unwrap();
        jobs.push(job.job_id);
    }
    for job_id in &jobs[..4] {
        until_state(&client, job_id, JobState::Running).await;
    }
    // Somebody waits for each of them all the while.
    let waits: Vec<_> = jobs
        .iter()
        .map(|job_id| {
            let (client, job_id) = (client.clone(), job_id.clone());
            tokio::spawn(async move { client.wait_ended(job_id, None).await })
        })
        .collect();

    let (status, took) = server.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took <= Duration::from_secs(9), "the stop took {took:?}");
    server.restart().await;
    for job_id in &jobs[..4] {
        let job = until_state(&client, job_id, JobState::Running).await;
        assert_eq!(job.attempt, 1);
    }
    gate.add_permits(jobs.len());
    for (job_id, wait) in jobs.iter().zip(waits) {
        let job = in_time("a job to end", wait).await.unwrap().unwrap();
        assert!(job.succeeded(), "{job:?}");
        assert_eq!((job.attempt, runs.of(job_id)), (1, 1), "{job:?}");
        assert_eq!(attempts(&client, job_id).await.len(), 1);
        assert_eq!(endings(&events(&client, job_id).await), 1);
    }
}

async fn a_watch_goes_on_across_a_restart_without_a_gap(pair: &Pair) {
    let mut server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::echo(client.clone(), "job.echo", 4).await;
    let mut watch = client.watch(WatchJobsRequest {
        target: Some(Target::Filter(JobFilter {
            topics: vec!["job.echo".into()],
            ..JobFilter::default()
        })),
        ..WatchJobsRequest::default()
    });
    let first = in_time("the checkpoint", watch.next()).await.unwrap();
    assert!(first.unwrap().checkpoint);

    let run = async |from: i32| {
        let mut ids = Vec::new();
        for n in from..from + 10 {
            let request = client.submit("job.echo", n).job_id(format!("echo-{n}"));
            let job = submit_for_sure(&client, &request.into_request().unwrap()).await;
            ids.push(
                client
                    .wait_ended(job.job_id, Some(PATIENCE))
                    .await
                    .unwrap()
                    .job_id,
            );
        }
        ids
    };
    let mut ids = run(0).await;
    server.terminate().await;
    server.restart().await;
    ids.extend(run(10).await);
    server.kill().await;
    server.restart().await;
    ids.extend(run(20).await);

    let mut seen: Vec<JobEvent> = Vec::new();
    while endings(&seen) < ids.len() {
        let next = in_time("the next event", watch.next())
            .await
            .unwrap()
            .unwrap();
        // A watch that was resumed begins with another checkpoint.
        seen.extend(next.event);
    }
    for job_id in &ids {
        let told: Vec<&JobEvent> = seen
            .iter()
            .filter(|event| event.job_id == *job_id)
            .collect();
        let kept = events(&client, job_id).await;
        assert_eq!(told, kept.iter().collect::<Vec<_>>(), "{job_id}");
    }
}

async fn every_state_that_is_no_end_is_taken_up_after_a_kill(pair: &Pair) {
    let options = pair.options().set("CORETEX_TIMING_ADOPTION_WINDOW", "1s");
    let mut server = Server::start(options).await;
    let client = server.client();
    // A worker that will never come back, with jobs that run and one that it was told to stop.
    let hang = |_, _| std::future::pending::<Result<(), coretex::JobFailure>>();
    let lost = RunningWorker::serve(client.clone(), "job.hang", 2, hang).await;
    let submit = async |topic: &str, edit: fn(&mut SubmitJobRequest)| {
        let submitted = client.submit(topic, json!("x")).edit(edit).send().await;
        submitted.unwrap().job.unwrap().job_id
    };
    let second = || prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    let running = submit("job.hang", |_| {}).await;
    let cancelled = submit("job.hang", |_| {}).await;
    for job_id in [&running, &cancelled] {
        until_state(&client, job_id, JobState::Running).await;
    }
    let pending = submit("job.later", |_| {}).await;
    let expiring = submit("job.nobody", |request| {
        request.schedule_to_start_timeout = Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        });
    })
    .await;
    let soon = client.submit("job.later", json!("x")).edit(|request| {
        let at = std::time::SystemTime::now() + Duration::from_secs(2);
        request.not_before = Some(at.into());
    });
    let scheduled = soon.send().await.unwrap().job.unwrap();
    assert_eq!(scheduled.state(), JobState::Scheduled);
    let request = CancelJobRequest {
        job_id: cancelled.clone(),
        grace: Some(second()),
        ..CancelJobRequest::default()
    };
    client.cancel_job(request).await.unwrap();

    server.kill().await;
    drop(lost);
    server.restart().await;
    let _late = RunningWorker::echo(client.clone(), "job.later", 1).await;
    let _other = RunningWorker::echo(client.clone(), "job.hang", 1).await;
    let ends = [
        (&running, JobState::Succeeded, 2),
        (&cancelled, JobState::Cancelled, 1),
        (&pending, JobState::Succeeded, 1),
        (&expiring, JobState::Timeout, 0),
        (&scheduled.job_id, JobState::Succeeded, 1),
    ];
    for (job_id, state, attempt) in ends {
        let job = client.wait_ended(job_id, Some(PATIENCE)).await.unwrap();
        assert_eq!((job.state(), job.attempt), (state, attempt), "{job:?}");
        assert_eq!(endings(&events(&client, job_id).await), 1);
    }
    let job = until(&client, &running, "its events", |job| job.ended()).await;
    assert_eq!(job.redispatch_count, 1, "the loss is counted apart");
}

on_both_pairs! {
    every_accepted_job_ends_once_though_the_server_is_killed_under_load,
    a_stop_by_signal_keeps_its_deadline_and_workers_keep_what_they_run,
    a_watch_goes_on_across_a_restart_without_a_gap,
    every_state_that_is_no_end_is_taken_up_after_a_kill,
}
