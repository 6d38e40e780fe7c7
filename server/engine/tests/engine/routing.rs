//! The tables of topics and pools: where jobs may go, who is let in, and that waiting jobs go by
//! another table at once.

use std::collections::BTreeMap;
use std::time::Duration;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::job::JobState;
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::routing::{LeftOpen, PoolRule, Routing, TenantRule, TopicRule};
use coretex_engine::{Error, Hello, Role, ToWorker};

use crate::support::{
    ADMIN, Bench, caller, hello, id, millis, named, pass, request, secs, serving, with,
};

fn pool(name: &str) -> PoolName {
    PoolName::from_trusted(name)
}

fn tables(topics: &[(&str, TopicRule)], pools: &[(&str, PoolRule)]) -> Routing {
    let pattern = |text: &str| TopicPattern::parse(text).unwrap();
    Routing::new(
        topics
            .iter()
            .map(|(text, rule)| (pattern(text), rule.clone()))
            .collect(),
        pools
            .iter()
            .map(|(name, rule)| (pool(name), rule.clone()))
            .collect(),
        BTreeMap::new(),
        TenantRule::default(),
    )
    .unwrap()
}

fn to(pools: &[&str]) -> TopicRule {
    TopicRule {
        pools: pools.iter().map(|name| pool(name)).collect(),
        ..TopicRule::default()
    }
}

fn of(name: &str, worker: &str) -> Hello {
    Hello {
        pool: pool(name),
        ..hello(worker, &["job.a"], 4)
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_a_closed_table_does_not_have_fails_at_once() {
    let bench = Bench::new().await;
    let before = bench.job_of(request("job.b")).await;
    bench.engine.set_routing(tables(&[("job.a", to(&[]))], &[]));
    let failed = bench.submit(request("job.b")).await.answer.job;
    assert_eq!(failed.state, JobState::Failed);
    let error = failed.error.clone().unwrap();
    assert_eq!(error.code, "no_pool_mapping");
    assert!(error.message.contains("job.b"), "{}", error.message);
    assert_eq!(bench.cause(&failed.id).await, "no_pool_mapping");
    // One that waited already waits on, and says why.
    assert_eq!(bench.state(&before).await, JobState::Pending);
    assert_eq!(bench.cause(&before).await, "no_pool_mapping");
    bench.engine.set_routing(Routing::default());
    assert_eq!(bench.cause(&before).await, "no_workers");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_for_the_tenants_that_its_rule_names() {
    let bench = Bench::new().await;
    let rule = TopicRule {
        tenants: vec![TenantId::from_trusted("acme")],
        ..TopicRule::default()
    };
    bench.engine.set_routing(tables(&[("job.>", rule)], &[]));
    assert_eq!(
        bench.submit(request("job.a")).await.answer.job.state,
        JobState::Pending
    );
    let beta = caller("beta", "key:b", &[Role::Admin]);
    let failed = bench
        .engine
        .submit_job(&beta, request("job.a"))
        .await
        .unwrap();
    assert_eq!(
        failed.answer.job.error.clone().unwrap().code,
        "no_pool_mapping"
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_go_to_the_pools_of_their_topic_and_follow_another_table() {
    let bench = Bench::new().await;
    let mut fast = bench.connect(of("fast", "f")).await;
    let mut slow = bench.connect(of("slow", "s")).await;
    pass(secs(2)).await;
    bench
        .engine
        .set_routing(tables(&[("job.a", to(&["slow"]))], &[]));
    for _ in 0..4 {
        bench.submit(request("job.a")).await;
    }
    slow.assignments(4).await;
    fast.quiet(secs(2)).await;
    let waiting = bench.job_of(request("job.a")).await;
    fast.quiet(secs(2)).await;
    assert_eq!(bench.cause(&waiting).await, "all_workers_busy");
    // What waits goes where the new table says, at once.
    bench
        .engine
        .set_routing(tables(&[("job.a", to(&["fast"]))], &[]));
    let Some(ToWorker::Assignment { attempt, .. }) = fast.next_within(millis(50)).await else {
        panic!("it did not follow the table");
    };
    assert_eq!(attempt.job_id, waiting);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_waiting_jobs_follow_another_table() {
    let bench = Bench::new().await;
    bench
        .engine
        .set_routing(tables(&[("job.a", to(&["slow"]))], &[]));
    for _ in 0..3_000 {
        bench.submit(request("job.a")).await;
    }
    bench
        .engine
        .set_routing(tables(&[("job.a", to(&["fast"]))], &[]));
    let mut fast = bench.connect(of("fast", "f")).await;
    let mut done = 0;
    while done < 3_000 {
        match fast.next().await {
            ToWorker::Assignment { attempt, .. } => {
                fast.finish(&attempt, crate::support::succeeded()).await;
            }
            ToWorker::ResultAck { applied, .. } => {
                assert!(applied);
                done += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn workers_are_let_in_where_the_tables_have_a_place_for_them() {
    let bench = Bench::new().await;
    let pools = [("fast", PoolRule::default())];
    bench
        .engine
        .set_routing(tables(&[("job.a", to(&["fast"]))], &pools));
    let refused = bench.engine.open_session(&ADMIN, of("fsat", "w")).await;
    assert!(
        matches!(&refused, Err(Error::PoolNotAllowed { pool }) if pool.as_str() == "fsat"),
        "{refused:?}"
    );
    let other = Hello {
        pool: pool("fast"),
        ..hello("w", &["job.a", "job.b"], 1)
    };
    let refused = bench.engine.open_session(&ADMIN, other).await;
    assert!(
        matches!(&refused, Err(Error::TopicNotAllowed { topic, .. }) if topic.as_str() == "job.b"),
        "{refused:?}"
    );
    let _worker = bench.connect(of("fast", "w")).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_gives_its_workers_capabilities_and_keeps_tenants_out() {
    let bench = Bench::new().await;
    let rule = PoolRule {
        capabilities: vec!["gpu".to_owned()],
        tenants: vec![TenantId::from_trusted("acme")],
        ..PoolRule::default()
    };
    bench.engine.set_routing(tables(&[], &[("fast", rule)]));
    let fleet = serving(&["acme", "beta"]);
    let mut worker =
        crate::support::Worker::connect_as(&bench.engine, &fleet, of("fast", "w")).await;
    pass(secs(2)).await;
    let beta = caller("beta", "key:b", &[Role::Admin]);
    let held = with("job.a", |spec| {
        spec.metadata.requires = vec!["gpu".to_owned()]
    });
    bench.engine.submit_job(&beta, held.clone()).await.unwrap();
    worker.quiet(secs(2)).await;
    bench.submit(held).await;
    worker.assignment().await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_fills_in_what_its_jobs_leave_open_and_replays_go_by_the_request() {
    let bench = Bench::new().await;
    let rule = TopicRule {
        timeout: Some(secs(5)),
        capability: "mail.send".to_owned(),
        ..TopicRule::default()
    };
    bench.engine.set_routing(tables(&[("job.a", rule)], &[]));
    let mut open = named("job.a", "open");
    open.left_open = LeftOpen {
        timeout: true,
        ..LeftOpen::default()
    };
    bench.submit(open.clone()).await;
    let job = bench.job(&id("open")).await;
    assert_eq!(job.spec.timeout, secs(5));
    assert_eq!(job.spec.metadata.capability, "mail.send");
    bench.submit(named("job.a", "said")).await;
    let hour = Duration::from_secs(3_600);
    assert_eq!(bench.job(&id("said")).await.spec.timeout, hour);
    // The same request is the same under another table.
    bench.engine.set_routing(Routing::default());
    assert!(bench.submit(open).await.replayed);
    bench.audit().await;
}
