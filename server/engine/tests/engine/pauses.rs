//! Pauses of pools, topics and tenants: nothing more is handed out, what runs goes on, and what
//! waited starts when the pause is over.

use coretex_core::id::{PoolName, TenantId};
use coretex_core::job::JobState;
use coretex_core::pause::{MAX_PAUSES, PauseScope};
use coretex_core::routing::pattern::TopicPattern;
use coretex_engine::{Caller, Error, PageRequest, Role, ToWorker};
use tokio::time::Instant;

use crate::replicas::two;
use crate::support::{
    ADMIN, Bench, Worker, admin, caller, hello, id, millis, named, pass, request, secs, serving,
};

fn own() -> PauseScope {
    PauseScope {
        tenant: Some(ADMIN.tenant.clone()),
        ..PauseScope::default()
    }
}

fn pool(name: &str) -> PauseScope {
    PauseScope {
        pool: Some(PoolName::from_trusted(name)),
        ..own()
    }
}

fn topic(pattern: &str) -> PauseScope {
    PauseScope {
        topic: Some(TopicPattern::parse(pattern).unwrap()),
        ..own()
    }
}

fn operator(tenant: &str) -> Caller {
    Caller {
        system: false,
        ..caller(tenant, "key:o", &[Role::Operator])
    }
}

fn all() -> PageRequest {
    PageRequest {
        size: 100,
        token: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_waits_and_what_runs_goes_on() {
    for (scope, code) in [
        (pool("default"), "pool_paused"),
        (topic("job.a"), "topic_paused"),
        (topic("job.*"), "topic_paused"),
        (own(), "tenant_paused"),
    ] {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
        pass(secs(2)).await;
        bench.submit(request("job.a")).await;
        let running = worker.assignment().await;
        let paused = bench
            .engine
            .pause_jobs(&ADMIN, scope.clone(), "incident 7".to_owned());
        paused.await.unwrap();
        bench.submit(named("job.a", "waits")).await;
        worker.quiet(secs(3)).await;
        let diagnosis = bench.engine.diagnose_job(&ADMIN, &id("waits")).await;
        let cause = diagnosis.unwrap().causes.remove(0);
        assert_eq!(cause.code, code);
        let answer = bench.engine.get_job(&ADMIN, &id("waits"), false).await;
        assert_eq!(answer.unwrap().waiting_reason, code);
        if code != "pool_paused" {
            assert!(cause.message.contains("incident 7"), "{}", cause.message);
        }
        assert!(worker.succeed(&running).await);
        worker.quiet(secs(3)).await;
        let resumed = Instant::now();
        let over = bench.engine.resume_jobs(&ADMIN, scope.clone()).await;
        assert_eq!(over.unwrap().unwrap().reason, "incident 7");
        let attempt = worker.assignment().await;
        assert!(resumed.elapsed() <= millis(20), "{:?}", resumed.elapsed());
        assert!(worker.succeed(&attempt).await);
        assert_eq!(bench.engine.resume_jobs(&ADMIN, scope).await.unwrap(), None);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_up_nothing_else() {
    let bench = Bench::new().await;
    for scope in [pool("other"), topic("job.b"), topic("job.a.>")] {
        let paused = bench.engine.pause_jobs(&ADMIN, scope, String::new());
        paused.await.unwrap();
    }
    let beta = PauseScope {
        tenant: Some(TenantId::from_trusted("beta")),
        ..PauseScope::default()
    };
    let system = Caller {
        system: true,
        ..admin()
    };
    let paused = bench.engine.pause_jobs(&system, beta, String::new());
    paused.await.unwrap();
    let fleet = serving(&["acme", "beta"]);
    let hello = hello("w", &["job.a", "job.b"], 3);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello).await;
    bench.submit(named("job.b", "held")).await;
    let other = caller("beta", "key:b", &[Role::Admin]);
    let held = named("job.a", "held-too");
    bench.engine.submit_job(&other, held).await.unwrap();
    bench.submit(named("job.a", "free")).await;
    assert_eq!(worker.assignment().await.job_id, id("free"));
    worker.quiet(secs(3)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn pauses_outlive_the_server() {
    let mut bench = Bench::new().await;
    let paused = bench.engine.pause_jobs(&ADMIN, own(), String::new());
    paused.await.unwrap();
    bench.submit(request("job.a")).await;
    bench.crash().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    worker.quiet(secs(3)).await;
    bench.engine.resume_jobs(&ADMIN, own()).await.unwrap();
    worker.assignment().await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_in_force_at_every_replica_within_a_second() {
    for (deaf, patience) in [(false, millis(50)), (true, millis(1_100))] {
        let (bench, other, _tap) = two(deaf).await;
        let mut worker = Worker::connect(&other, hello("w", &["job.a"], 5)).await;
        pass(secs(2)).await;
        bench
            .engine
            .pause_jobs(&ADMIN, own(), String::new())
            .await
            .unwrap();
        pass(patience).await;
        let submitted = other.submit_job(&ADMIN, request("job.a")).await.unwrap();
        assert_eq!(submitted.answer.job.state, JobState::Pending);
        worker.quiet(secs(2)).await;
        bench.engine.resume_jobs(&ADMIN, own()).await.unwrap();
        let next = worker.next_within(patience).await;
        assert!(
            matches!(next, Some(ToWorker::Assignment { .. })),
            "{next:?}"
        );
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_pauses_what_is_not_theirs_or_sees_it() {
    let bench = Bench::new().await;
    let everybody = PauseScope {
        pool: Some(PoolName::from_trusted("default")),
        ..PauseScope::default()
    };
    let acme = operator("acme");
    let refused = bench
        .engine
        .pause_jobs(&acme, everybody.clone(), String::new());
    assert!(matches!(refused.await, Err(Error::TenantNotAllowed)));
    let system = Caller {
        system: true,
        ..operator("default")
    };
    let paused = bench
        .engine
        .pause_jobs(&system, everybody.clone(), "all".to_owned());
    paused.await.unwrap();
    let refused = bench.engine.resume_jobs(&acme, everybody.clone()).await;
    assert!(matches!(refused, Err(Error::TenantNotAllowed)));
    bench
        .engine
        .pause_jobs(&acme, own_of("acme"), "mine".to_owned())
        .await
        .unwrap();
    let seen = |caller: Caller| {
        let engine = bench.engine.clone();
        async move {
            let (pauses, _) = engine.list_pauses(&caller, all()).await.unwrap();
            let seen = pauses
                .into_iter()
                .map(|pause| (pause.reason, pause.principal_id));
            seen.collect::<Vec<_>>()
        }
    };
    let pair = |reason: &str, by: &str| (reason.to_owned(), by.to_owned());
    assert_eq!(seen(acme).await, [pair("all", ""), pair("mine", "key:o")]);
    assert_eq!(seen(operator("beta")).await, [pair("all", "")]);
    assert_eq!(
        seen(system).await,
        [pair("all", "key:o"), pair("mine", "key:o")]
    );
}

fn own_of(tenant: &str) -> PauseScope {
    PauseScope {
        tenant: Some(TenantId::from_trusted(tenant)),
        ..PauseScope::default()
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_pauses_and_no_more() {
    let bench = Bench::new().await;
    let system = Caller {
        system: true,
        ..admin()
    };
    // A tenant makes a hundred, and whoever runs the installation the rest.
    for number in 0..MAX_PAUSES {
        let scope = pool(&format!("p-{number}"));
        if number == 100 {
            let own = operator("acme");
            let refused = bench.engine.pause_jobs(&own, scope.clone(), String::new());
            assert!(matches!(
                refused.await,
                Err(Error::TooManyPauses { limit: 100 })
            ));
        }
        let paused = bench.engine.pause_jobs(&system, scope, String::new());
        paused.await.unwrap();
    }
    let again = bench
        .engine
        .pause_jobs(&system, pool("p-0"), "other".to_owned());
    assert_eq!(again.await.unwrap().reason, "");
    let refused = bench.engine.pause_jobs(&ADMIN, pool("more"), String::new());
    assert!(matches!(refused.await, Err(Error::TooManyPauses { .. })));
    let (first, next) = bench.engine.list_pauses(&ADMIN, all()).await.unwrap();
    assert_eq!((first.len(), next.is_empty()), (100, false));
}

#[tokio::test(start_paused = true)]
async fn pools_say_whether_they_are_paused() {
    let bench = Bench::new().await;
    let _worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let paused = async || {
        let (pools, _) = bench.engine.list_pools(&ADMIN, all()).await.unwrap();
        pools[0].paused
    };
    assert!(!paused().await);
    let scope = topic("job.a");
    bench
        .engine
        .pause_jobs(&ADMIN, scope, String::new())
        .await
        .unwrap();
    assert!(!paused().await);
    let scope = pool("default");
    bench
        .engine
        .pause_jobs(&ADMIN, scope, String::new())
        .await
        .unwrap();
    assert!(paused().await);
}

#[tokio::test(start_paused = true)]
async fn a_paused_job_of_several_slots_keeps_no_worker_from_others() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a", "job.b"], 2)).await;
    let paused = bench
        .engine
        .pause_jobs(&ADMIN, topic("job.b"), String::new());
    paused.await.unwrap();
    let mut large = named("job.b", "large");
    large.spec.placement.slots = coretex_core::job::Slots(2);
    bench.submit(large).await;
    pass(secs(2)).await;
    for number in 0..4 {
        bench
            .submit(named("job.a", &format!("small-{number}")))
            .await;
    }
    let mut done = 0;
    while done < 4 {
        match worker.next().await {
            ToWorker::Assignment { attempt, .. } => {
                assert!(attempt.job_id.as_str().starts_with("small"));
                worker.finish(&attempt, crate::support::succeeded()).await;
            }
            ToWorker::ResultAck { .. } => done += 1,
            other => panic!("{other:?}"),
        }
    }
    bench.audit().await;
}
