//! What clients see of limits and pauses: keys that hold up, refuse or replace, jobs that weigh
//! more, and switches for incidents.

use std::sync::Arc;

use coretex::proto::{
    ConcurrencyLimitAction, DiagnoseJobRequest, JobConcurrency, JobPlacement, ListPausesRequest,
    ListPoolsRequest, PausePoolRequest, ResumePoolRequest, SubmitJobRequest,
};
use coretex::{Client, ErrorReason, JobState, Json};
use coretex_tests::cluster::PATIENCE;
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::poll;
use tokio::sync::Semaphore;

use crate::support::{get, until_state};

const TOPIC: &str = "job.gate";

/// A worker that finishes a job for each permit.
async fn gated(client: &Client, parallel: usize) -> (RunningWorker, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let worker = RunningWorker::serve(client.clone(), TOPIC, parallel, move |ctx, _| {
        let gate = Arc::clone(&held);
        async move {
            tokio::select! {
                permit = gate.acquire() => permit?.forget(),
                _ = ctx.cancelled() => {}
            }
            Ok(Json(0))
        }
    });
    (worker.await, gate)
}

fn keyed(name: &str, action: ConcurrencyLimitAction) -> SubmitJobRequest {
    SubmitJobRequest {
        job_id: name.to_owned(),
        topic: TOPIC.to_owned(),
        concurrency: Some(JobConcurrency {
            key: "account-7".to_owned(),
            limit: 1,
            on_limit: action.into(),
        }),
        ..SubmitJobRequest::default()
    }
}

async fn cause(client: &Client, job_id: &str) -> (String, Vec<String>) {
    let job_id = job_id.to_owned();
    let answer = client.diagnose_job(DiagnoseJobRequest { job_id });
    let cause = answer.await.unwrap().causes.remove(0);
    (cause.code, cause.holders)
}

async fn a_concurrency_key_holds_up_refuses_and_replaces(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let (_worker, gate) = gated(&client, 8).await;
    client
        .submit_job(keyed("first", ConcurrencyLimitAction::Queue))
        .await
        .unwrap();
    until_state(&client, "first", JobState::Running).await;

    client
        .submit_job(keyed("queued", ConcurrencyLimitAction::Queue))
        .await
        .unwrap();
    let found = cause(&client, "queued").await;
    assert_eq!(
        found,
        ("concurrency_key".to_owned(), vec!["first".to_owned()])
    );
    assert_eq!(get(&client, "queued").await.state(), JobState::Pending);

    let refused = client.submit_job(keyed("refused", ConcurrencyLimitAction::Reject));
    let error = refused.await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::ConcurrencyLimitReached));
    assert_eq!(error.metadata().get("holders").unwrap(), "first");

    gate.add_permits(1);
    until_state(&client, "first", JobState::Succeeded).await;
    until_state(&client, "queued", JobState::Running).await;

    client
        .submit_job(keyed("newest", ConcurrencyLimitAction::CancelOldest))
        .await
        .unwrap();
    // Its worker answers with a success, which comes before the job is cancelled: either way its
    // place is free.
    until_state(&client, "newest", JobState::Running).await;
    assert!(get(&client, "queued").await.cancel_requested_time.is_some());
    gate.add_permits(1);
    until_state(&client, "newest", JobState::Succeeded).await;
}

async fn a_job_may_take_several_slots_of_its_worker(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let (_worker, gate) = gated(&client, 3).await;
    let sized = |name: &str, slots| SubmitJobRequest {
        job_id: name.to_owned(),
        topic: TOPIC.to_owned(),
        placement: Some(JobPlacement {
            slots,
            ..JobPlacement::default()
        }),
        ..SubmitJobRequest::default()
    };
    client.submit_job(sized("two", 2)).await.unwrap();
    until_state(&client, "two", JobState::Running).await;
    client.submit_job(sized("also-two", 2)).await.unwrap();
    client.submit_job(sized("never", 4)).await.unwrap();
    assert_eq!(cause(&client, "also-two").await.0, "all_workers_busy");
    assert_eq!(cause(&client, "never").await.0, "no_worker_matches");
    gate.add_permits(1);
    until_state(&client, "also-two", JobState::Running).await;
    assert_eq!(get(&client, "two").await.placement.unwrap().slots, 2);
    gate.add_permits(1);
}

async fn a_paused_pool_hands_nothing_out_until_it_is_resumed(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let worker = RunningWorker::echo(client.clone(), "job.echo", 4).await;
    let paused = client.pause_pool(PausePoolRequest {
        pool: "default".to_owned(),
        reason: "a leak".to_owned(),
        ..PausePoolRequest::default()
    });
    let pause = paused.await.unwrap().pause.unwrap();
    assert_eq!(
        (pause.pool.as_str(), pause.tenant_id.as_str()),
        ("default", "default")
    );
    let pools = client.list_pools(ListPoolsRequest::default());
    assert!(pools.await.unwrap().pools[0].paused);
    let listed = client.list_pauses(ListPausesRequest::default());
    assert_eq!(listed.await.unwrap().pauses, [pause]);
    client
        .submit_job(SubmitJobRequest {
            job_id: "waits".to_owned(),
            topic: "job.echo".to_owned(),
            ..SubmitJobRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(cause(&client, "waits").await.0, "pool_paused");
    assert_eq!(get(&client, "waits").await.waiting_reason, "pool_paused");
    let resume = ResumePoolRequest {
        pool: "default".to_owned(),
        ..ResumePoolRequest::default()
    };
    assert!(
        client
            .resume_pool(resume.clone())
            .await
            .unwrap()
            .pause
            .is_some()
    );
    until_state(&client, "waits", JobState::Succeeded).await;
    assert!(client.resume_pool(resume).await.unwrap().pause.is_none());
    let nothing = client.pause_pool(PausePoolRequest::default()).await;
    let reason = nothing.unwrap_err().reason();
    assert_eq!(reason, Some(ErrorReason::InvalidField));
    drop(worker);
}

async fn a_pause_outlives_the_server(pair: &Pair) {
    let mut server = Server::start(pair.options()).await;
    let client = server.client();
    let paused = client.pause_pool(PausePoolRequest {
        topic: "job.echo".to_owned(),
        ..PausePoolRequest::default()
    });
    paused.await.unwrap();
    server.kill().await;
    server.restart().await;
    let _worker = RunningWorker::echo(client.clone(), "job.echo", 4).await;
    client
        .submit_job(SubmitJobRequest {
            job_id: "waits".to_owned(),
            topic: "job.echo".to_owned(),
            ..SubmitJobRequest::default()
        })
        .await
        .unwrap();
    poll::until_async("the pause to be known", PATIENCE, async || {
        match cause(&client, "waits").await {
            (code, _) if code == "topic_paused" => Ok(()),
            (code, _) => Err(code),
        }
    })
    .await;
    let resumed = client.resume_pool(ResumePoolRequest {
        topic: "job.echo".to_owned(),
        ..ResumePoolRequest::default()
    });
    resumed.await.unwrap();
    until_state(&client, "waits", JobState::Succeeded).await;
}

on_both_pairs! {
    a_concurrency_key_holds_up_refuses_and_replaces,
    a_job_may_take_several_slots_of_its_worker,
    a_paused_pool_hands_nothing_out_until_it_is_resumed,
    a_pause_outlives_the_server,
}
