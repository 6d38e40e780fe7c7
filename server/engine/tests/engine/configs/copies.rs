//! Every replica goes by what is in force: at once where it was changed, within a second elsewhere,
//! also when nobody rings; and asks the store for nothing that it knows.

use std::sync::Arc;

use bytes::Bytes;
use coretex_core::config::{ConfigName, Effective};
use coretex_engine::{Engine, Error};
use coretex_store::{Batch, CommitId, Shard, Store, codec};
use serde_json::json;

use super::{org, put, set, system, team};
use crate::replicas::two;
use crate::support::{ADMIN, Bench, Worker, caller, hello, millis, named, pass, request, secs};

async fn of(engine: &Engine, team: &str) -> Arc<Effective> {
    let found = engine.effective_config(&ADMIN.tenant, team, "", "").await;
    found.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_change_is_in_force_here_at_once_and_elsewhere_within_a_second() {
    for (deaf, patience) in [(false, millis(50)), (true, millis(1_100))] {
        let (bench, other, _tap) = two(deaf).await;
        for n in 1..5 {
            put(&bench, &org(), json!({"models": {"n": n}})).await;
            assert_eq!(of(&bench.engine, "t").await.data["models"]["n"], n);
            pass(patience).await;
            assert_eq!(of(&other, "t").await.data["models"]["n"], n);
        }
        let deleted = coretex_engine::Expected::Anything;
        bench
            .engine
            .delete_config(&ADMIN, &org(), &deleted)
            .await
            .unwrap();
        pass(patience).await;
        assert_eq!(of(&other, "t").await.data, json!({}));
    }
}

#[tokio::test(start_paused = true)]
async fn the_version_grows_with_every_change_and_the_hash_is_that_of_the_data() {
    let bench = Bench::new().await;
    let empty = of(&bench.engine, "t").await;
    assert_eq!(empty.version, 0);
    let mut last = 0;
    let mut hashes = Vec::new();
    for n in 0..3 {
        put(&bench, &org(), json!({"models": {"n": n % 2}})).await;
        put(&bench, &team("t"), json!({"budgets": {"n": 1}})).await;
        let found = of(&bench.engine, "t").await;
        assert!(found.version > last);
        last = found.version;
        hashes.push(found.hash.clone());
    }
    assert_eq!(hashes[0], hashes[2]);
    assert_ne!(hashes[0], hashes[1]);
    for name in [org(), team("t")] {
        let deleted = coretex_engine::Expected::Anything;
        bench
            .engine
            .delete_config(&ADMIN, &name, &deleted)
            .await
            .unwrap();
        let found = of(&bench.engine, "t").await;
        assert!(found.version > last);
        last = found.version;
    }
    let found = of(&bench.engine, "t").await;
    assert_eq!((&found.data, &found.hash), (&json!({}), &empty.hash));
}

#[tokio::test(start_paused = true)]
async fn who_read_before_a_change_does_not_put_the_old_copy_back() {
    let bench = Bench::new().await;
    put(&bench, &org(), json!({"models": {"n": 1}})).await;
    bench.tap.slow_reads(millis(100));
    let engine = bench.engine.clone();
    let slow = tokio::spawn(async move { of(&engine, "t").await });
    pass(millis(150)).await;
    bench.tap.slow_reads(millis(0));
    put(&bench, &org(), json!({"models": {"n": 2}})).await;
    slow.await.unwrap();
    assert_eq!(of(&bench.engine, "t").await.data["models"]["n"], 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_read_again() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    put(&bench, &org(), json!({"models": {"n": 1}})).await;
    let run = async |worker: &mut Worker| {
        bench.submit(request("job.a")).await;
        let attempt = worker.assignment().await;
        assert!(worker.succeed(&attempt).await);
    };
    run(&mut worker).await;
    pass(millis(1_050)).await;
    run(&mut worker).await;
    let reads = || bench.tap.reads() + bench.tap.sys_reads();
    let before = reads();
    for _ in 0..20 {
        run(&mut worker).await;
    }
    assert_eq!(reads(), before);
    // Many who ask at once read once.
    set(&bench, &system(), &ConfigName::system(), json!({}), "*")
        .await
        .unwrap();
    let before = reads();
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let engine = bench.engine.clone();
            tokio::spawn(async move { of(&engine, "t").await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap().data["models"]["n"], 1);
    }
    assert_eq!(reads(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_understood_stops_its_own_tenant_and_nobody_else() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    pass(secs(1)).await;
    bench
        .engine
        .pause_jobs(
            &ADMIN,
            coretex_core::pause::PauseScope {
                tenant: Some(ADMIN.tenant.clone()),
                ..coretex_core::pause::PauseScope::default()
            },
            String::new(),
        )
        .await
        .unwrap();
    bench.submit(named("job.a", "waits")).await;
    // As a later build writes it.
    #[derive(serde::Serialize)]
    struct Later<'a> {
        revision: u32,
        data: &'a str,
        create_time: coretex_core::time::Timestamp,
        update_time: coretex_core::time::Timestamp,
        principal_id: &'a str,
    }
    let later = Later {
        revision: 1,
        data: r#"{"sandbox":{"walls":"high"}}"#,
        create_time: bench.now(),
        update_time: bench.now(),
        principal_id: "key:later",
    };
    let key = Bytes::from_static(b"config/acme\0org\0acme");
    let mut batch = Batch::new(Shard::Sys, CommitId(1));
    batch.create(key.clone(), codec::encode(1, &later).unwrap());
    let version = bench.base.commit(batch).await.unwrap().version;
    bench
        .engine
        .resume_jobs(
            &ADMIN,
            coretex_core::pause::PauseScope {
                tenant: Some(ADMIN.tenant.clone()),
                ..coretex_core::pause::PauseScope::default()
            },
        )
        .await
        .unwrap();
    pass(secs(2)).await;
    let refused = bench.engine.submit_job(&ADMIN, request("job.a")).await;
    let Err(Error::DataLoss { what }) = refused else {
        panic!("{refused:?}");
    };
    assert!(what.contains("/sandbox"), "{what}");
    let commits = bench.tap.commits();
    worker.quiet(secs(4)).await;
    assert!(
        bench.tap.commits() - commits < 10,
        "it is not tried without end"
    );
    let beta = caller("beta", "key:b", &[coretex_engine::Role::Admin]);
    bench
        .engine
        .submit_job(&beta, request("job.a"))
        .await
        .unwrap();
    // Once it is gone, what waited goes on.
    let mut batch = Batch::new(Shard::Sys, CommitId(2));
    batch.delete(key, version);
    batch.writes.push(coretex_store::Write::Put {
        key: Bytes::from_static(b"news"),
        value: Bytes::from_static(b"2"),
        ttl: None,
    });
    bench.base.commit(batch).await.unwrap();
    assert_eq!(worker.assignment().await.job_id.as_str(), "waits");
}
