//! Who sees what: submitters their own jobs, tenants nothing of each other.

use coretex_core::id::WorkerId;
use coretex_core::job::JobState;
use coretex_engine::{JobEdits, JobFilter, PageRequest, Role, WatchTarget};

use super::page;
use super::zoo::zoo_bench;
use crate::support::{ADMIN, caller, id, is_no_job, millis, request, secs};

#[tokio::test(start_paused = true)]
async fn a_submitter_sees_only_its_own_jobs() {
    let bench = zoo_bench().await;
    let red = caller("acme", "key:red", &[Role::Submitter]);
    let mine = page(&bench, &red, &JobFilter::default(), 1_000, "").await;
    assert_eq!(mine.jobs.len(), 3);
    assert!(
        mine.jobs
            .iter()
            .all(|one| one.job.principal_id == "key:red")
    );
    let count = bench
        .engine
        .count_jobs(&red, &JobFilter::default())
        .await
        .unwrap();
    assert_eq!(count.count, 3);
    let others = JobFilter {
        principal_id: "key:admin".to_owned(),
        ..JobFilter::default()
    };
    assert!(page(&bench, &red, &others, 1_000, "").await.jobs.is_empty());
    assert_eq!(
        bench.engine.count_jobs(&red, &others).await.unwrap().count,
        0
    );
    let theirs = id("0-0");
    assert!(is_no_job(&bench.engine.get_job(&red, &theirs, false).await));
    assert!(is_no_job(
        &bench.engine.wait_job(&red, &theirs, millis(1), false).await
    ));
    assert!(is_no_job(&bench.engine.diagnose_job(&red, &theirs).await));
    let target = WatchTarget::Job(theirs.clone());
    assert!(is_no_job(
        &bench
            .engine
            .watch_jobs(&red, target, String::new(), false)
            .await
    ));
    let target = WatchTarget::Filter(others);
    let mut watch = bench
        .engine
        .watch_jobs(&red, target, String::new(), false)
        .await
        .unwrap();
    assert!(watch.recv().await.is_some(), "the checkpoint");
    bench.submit(request("job.wait")).await;
    assert!(tokio::time::timeout(secs(3), watch.recv()).await.is_err());
    // A viewer of the same tenant sees all.
    let viewer = caller("acme", "key:v", &[Role::Viewer]);
    let seen = page(&bench, &viewer, &JobFilter::default(), 1_000, "").await;
    assert!(seen.jobs.len() > 20);
}

#[tokio::test(start_paused = true)]
async fn tenants_never_see_each_other() {
    let bench = zoo_bench().await;
    let other = caller("other", "key:o", &[Role::Admin]);
    let theirs = id("0-0");
    let engine = &bench.engine;
    assert!(
        page(&bench, &other, &JobFilter::default(), 1_000, "")
            .await
            .jobs
            .is_empty()
    );
    for state in JobState::ALL {
        let filter = JobFilter {
            states: vec![state],
            ..JobFilter::default()
        };
        assert_eq!(engine.count_jobs(&other, &filter).await.unwrap().count, 0);
    }
    assert!(is_no_job(&engine.get_job(&other, &theirs, true).await));
    assert!(is_no_job(
        &engine.wait_job(&other, &theirs, millis(1), true).await
    ));
    assert!(is_no_job(&engine.diagnose_job(&other, &theirs).await));
    let cancel = engine.cancel_job(&other, &theirs, String::new(), None, true);
    assert!(is_no_job(&cancel.await));
    let rerun = engine.rerun_job(&other, &theirs, JobEdits::default(), String::new());
    assert!(is_no_job(&rerun.await));
    let watch = engine.watch_jobs(&other, WatchTarget::Job(theirs), String::new(), true);
    assert!(is_no_job(&watch.await));
    let target = WatchTarget::Filter(JobFilter::default());
    let mut watch = engine
        .watch_jobs(&other, target, String::new(), true)
        .await
        .unwrap();
    assert!(watch.recv().await.is_some(), "the checkpoint");
    bench.submit(request("job.wait")).await;
    assert!(tokio::time::timeout(secs(3), watch.recv()).await.is_err());
    let everything = PageRequest {
        size: 100,
        token: String::new(),
    };
    assert!(
        engine
            .list_workers(&other, everything.clone())
            .await
            .unwrap()
            .0
            .is_empty()
    );
    let name = WorkerId::parse("w1").unwrap();
    assert!(engine.get_worker(&other, &name).await.is_err());
    assert!(engine.drain_worker(&other, &name, false).await.is_err());
    assert!(
        engine
            .list_pools(&other, everything.clone())
            .await
            .unwrap()
            .0
            .is_empty()
    );
    assert!(
        engine
            .status(&other)
            .await
            .unwrap()
            .queues
            .depths
            .is_empty()
    );
    assert!(
        !engine
            .list_workers(&ADMIN, everything)
            .await
            .unwrap()
            .0
            .is_empty()
    );
    assert!(
        !engine
            .status(&ADMIN)
            .await
            .unwrap()
            .queues
            .depths
            .is_empty()
    );
}
