//! Replicas that share the work: whoever is asked knows, and jobs go where workers are.

use std::time::{Duration, Instant};

use coretex::proto::{
    CancelJobRequest, DiagnoseJobRequest, JobState, ListWorkersRequest, SubmitJobRequest,
    WaitJobRequest, WatchJobsRequest,
};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use serde_json::json;

use crate::support::{Cluster, all_ran_once, metric};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_submitted_at_one_run_at_the_second_waited_for_at_the_third_and_watched() {
    let Some(cluster) = Cluster::start(3, &[]).await else {
        return;
    };
    let [a, b, c] = [0, 1, 2].map(|n| cluster.replicas[n].client());
    let worker = RunningWorker::echo(b.clone(), "job.shared", 4).await;
    let mut watch = a.watch(WatchJobsRequest::default());
    // The checkpoint: it has begun.
    in_time("the watch to begin", watch.next())
        .await
        .unwrap()
        .unwrap();
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let begun = Instant::now();
        let submitted = a.submit("job.shared", json!(n)).send().await.unwrap();
        let job_id = submitted.job.unwrap().job_id;
        let request = WaitJobRequest {
            job_id: job_id.clone(),
            ..WaitJobRequest::default()
        };
        let job = in_time("the end", c.wait_job(request))
            .await
            .unwrap()
            .job
            .unwrap();
        assert_eq!((job.state(), job.attempt), (JobState::Succeeded, 1));
        slowest = slowest.max(begun.elapsed());
        // Everything that happened at the other two.
        loop {
            let event = in_time("an event", watch.next()).await.unwrap().unwrap();
            let job = event.job.unwrap_or_default();
            if job.job_id == job_id
                && event
                    .event
                    .is_some_and(|it| it.to_state() == JobState::Succeeded)
            {
                break;
            }
        }
    }
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");

    // Every replica knows the worker, and why a job waits.
    for client in [&a, &c] {
        poll::until_async("the worker to be known", PATIENCE, async || {
            let listed = client
                .list_workers(ListWorkersRequest::default())
                .await
                .unwrap();
            match listed.workers.len() {
                1 => Ok(()),
                other => Err(format!("{other} workers")),
            }
        })
        .await;
    }
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_a_worker_of_another_replica() {
    let Some(cluster) = Cluster::start(2, &[]).await else {
        return;
    };
    let [a, b] = [0, 1].map(|n| cluster.replicas[n].client());
    let worker = RunningWorker::serve(b, "job.long", 1, |context, job| async move {
        context.cancelled().await;
        Ok::<_, coretex::JobFailure>(job.input)
    })
    .await;
    let submitted = a.submit("job.long", json!(1)).send().await.unwrap();
    let job_id = submitted.job.unwrap().job_id;
    poll::until_async("the job to run", PATIENCE, async || {
        let request = DiagnoseJobRequest {
            job_id: job_id.clone(),
        };
        match a.diagnose_job(request).await.unwrap().state() {
            JobState::Running => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let asked = Instant::now();
    let cancel = CancelJobRequest {
        job_id: job_id.clone(),
        ..CancelJobRequest::default()
    };
    a.cancel_job(cancel).await.unwrap();
    let request = WaitJobRequest {
        job_id,
        ..WaitJobRequest::default()
    };
    let ended = in_time("the end", a.wait_job(request))
        .await
        .unwrap()
        .job
        .unwrap();
    assert!(coretex::is_final(ended.state()), "{ended:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_drain_one_queue_and_seldom_want_the_same_job() {
    const JOBS: usize = 3_000;
    let Some(cluster) = Cluster::start(3, &[]).await else {
        return;
    };
    let client = cluster.client(0);
    let mut requests = Vec::new();
    for n in 0..JOBS {
        requests.push(SubmitJobRequest {
            topic: "job.many".into(),
            input: Some(coretex::to_payload(&n).unwrap()),
            ..SubmitJobRequest::default()
        });
    }
    for part in requests.chunks(100) {
        let request = coretex::proto::SubmitJobsRequest {
            requests: part.to_vec(),
        };
        client.submit_jobs(request).await.unwrap();
    }
    let mut workers = Vec::new();
    let mut runs = Vec::new();
    for replica in 0..3 {
        let (worker, ran) = cluster
            .worker(replica, "job.many", 16, Duration::from_millis(10))
            .await;
        workers.push(worker);
        runs.push(ran);
    }
    let request = coretex::proto::CountJobsRequest {
        filter: Some(coretex::proto::JobFilter {
            states: vec![JobState::Succeeded.into()],
            ..coretex::proto::JobFilter::default()
        }),
    };
    poll::until_async("all to end", PATIENCE, async || {
        let count = client.count_jobs(request.clone()).await.unwrap().count;
        match usize::try_from(count).unwrap() {
            JOBS => Ok(()),
            other => Err(format!("{other} have ended")),
        }
    })
    .await;
    assert_eq!(all_ran_once(&client, &runs, JOBS).await, 1);
    for ran in &runs {
        assert!(
            ran.jobs() > JOBS / 20,
            "one of them got {} jobs",
            ran.jobs()
        );
    }
    let mut lost = 0.0;
    for replica in &cluster.replicas {
        lost += metric(replica, "coretex_claims_lost_total").await;
    }
    assert!(lost <= 0.5 * JOBS as f64, "{lost} claims were lost");
}
