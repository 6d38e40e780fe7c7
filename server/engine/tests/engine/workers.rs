//! Workers and pools as callers see them: who they are, whom they serve, and who may drain them.

use coretex_core::id::{PoolName, WorkerId};
use coretex_engine::{
    Caller, Error, FromWorker, Hello, Noun, PageRequest, PoolInfo, Role, RunningAttempt, WorkerInfo,
};

use crate::support::{ADMIN, Bench, Worker, admin, caller, hello, pass, request, secs, serving};

fn everything() -> PageRequest {
    PageRequest {
        size: 100,
        token: String::new(),
    }
}

fn name(worker: &str) -> WorkerId {
    WorkerId::parse(worker).unwrap()
}

async fn workers(bench: &Bench, caller: &Caller) -> Vec<WorkerInfo> {
    let listed = bench.engine.list_workers(caller, everything()).await;
    listed.unwrap().0
}

async fn pools(bench: &Bench, caller: &Caller) -> Vec<PoolInfo> {
    let listed = bench.engine.list_pools(caller, everything()).await;
    listed.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn a_shared_worker_is_seen_by_its_tenant_and_by_those_it_serves() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme", "other"]);
    let hello = Hello {
        protocol_version: 7,
        pool: PoolName::parse("shared").unwrap(),
        ..hello("w", &["job.a"], 2)
    };
    let _worker = Worker::connect_as(&bench.engine, &fleet, hello).await;
    let operator = caller("fleet", "key:op", &[Role::Operator]);
    let system = Caller {
        system: true,
        ..admin()
    };
    for (caller, principal, served) in [
        (&operator, "key:fleet", vec!["acme", "other"]),
        (&system, "key:fleet", vec!["acme", "other"]),
        // Others are told nothing about each other.
        (&*ADMIN, "", vec!["acme"]),
        (
            &caller("other", "key:o", &[Role::Viewer]),
            "",
            vec!["other"],
        ),
    ] {
        let found = workers(&bench, caller).await;
        assert_eq!(found.len(), 1);
        let found = bench.engine.get_worker(caller, &name("w")).await.unwrap();
        assert_eq!(found.tenant.as_str(), "fleet");
        assert_eq!(
            (&*found.principal_id, found.protocol_version),
            (principal, 7)
        );
        let tenants: Vec<_> = found.tenants_served.iter().map(|id| id.as_str()).collect();
        assert_eq!(tenants, served);
        let pools = pools(&bench, caller).await;
        assert_eq!((pools.len(), pools[0].pool.as_str()), (1, "shared"));
    }
    let stranger = caller("third", "key:t", &[Role::Admin]);
    assert_eq!(workers(&bench, &stranger).await, []);
    assert_eq!(pools(&bench, &stranger).await, []);
    let hidden = bench.engine.get_worker(&stranger, &name("w")).await;
    assert!(matches!(
        hidden,
        Err(Error::NotFound {
            noun: Noun::Worker,
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_shared_worker_is_drained_by_its_own_tenant() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme", "other"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello("w", &["job.a"], 2)).await;
    for undo in [false, true] {
        let refused = bench.engine.drain_worker(&ADMIN, &name("w"), undo).await;
        assert_eq!(refused.err(), Some(Error::TenantNotAllowed));
    }
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let operator = caller("fleet", "key:op", &[Role::Operator]);
    let w = name("w");
    let drained = bench.engine.drain_worker(&operator, &w, false);
    assert!(drained.await.unwrap().draining);
    bench.submit(request("job.a")).await;
    worker.quiet(secs(3)).await;
    // One's own worker comes before a foreign one of the same name.
    let own = bench.connect(hello("w", &["job.b"], 1)).await;
    let found = bench.engine.get_worker(&ADMIN, &name("w")).await.unwrap();
    assert_eq!(found.session_id, own.session.welcome.session_id);
    let drained = bench.engine.drain_worker(&ADMIN, &w, false);
    assert_eq!(drained.await.unwrap().session_id, found.session_id);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_away_is_shown_while_its_attempts_wait_for_it() {
    let bench = Bench::new().await;
    for back in [true, false] {
        let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
        bench.submit(request("job.a")).await;
        let attempt = worker.assignment().await;
        worker.started(&attempt).await;
        pass(secs(1)).await;
        worker.cut().await;
        let away = workers(&bench, &ADMIN).await;
        assert_eq!(away.len(), 1, "{away:?}");
        assert_eq!((away[0].connected, away[0].active_jobs), (false, 1));
        let runs = bench.engine.running_on(&ADMIN, &away[0]).await.unwrap();
        assert_eq!(runs[0].job_id, attempt.job_id);
        assert_eq!(pools(&bench, &ADMIN).await, []);
        let stranger = caller("other", "key:o", &[Role::Admin]);
        assert_eq!(workers(&bench, &stranger).await, []);
        if back {
            let again = Hello {
                running: vec![attempt.clone()],
                ..hello("w", &["job.a"], 2)
            };
            let mut worker = bench.connect(again).await;
            let here = workers(&bench, &ADMIN).await;
            assert_eq!((here.len(), here[0].connected), (1, true), "{here:?}");
            assert!(worker.succeed(&attempt).await);
            worker.cut().await;
            assert_eq!(workers(&bench, &ADMIN).await, [], "nothing waits for it");
        } else {
            pass(secs(20)).await;
            assert_eq!(workers(&bench, &ADMIN).await, [], "it was given up");
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_runs_is_shown_as_far_as_the_caller_sees_the_jobs() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme", "other"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello("w", &["job.a"], 4)).await;
    let (one, two, foreign) = (
        caller("acme", "key:one", &[Role::Submitter]),
        caller("acme", "key:two", &[Role::Submitter]),
        caller("other", "key:o", &[Role::Admin]),
    );
    for caller in [&one, &two, &foreign] {
        let made = bench.engine.submit_job(caller, request("job.a")).await;
        made.unwrap();
    }
    let attempts = worker.assignments(3).await;
    let running = async |caller: &Caller| {
        let found = bench.engine.get_worker(caller, &name("w")).await.unwrap();
        assert_eq!(found.active_jobs, 3);
        bench.engine.running_on(caller, &found).await.unwrap()
    };
    let run = |number: usize| RunningAttempt {
        job_id: attempts[number].job_id.clone(),
        attempt: 1,
    };
    assert_eq!(running(&one).await, [run(0)]);
    assert_eq!(running(&two).await, [run(1)]);
    assert_eq!(running(&foreign).await, [run(2)]);
    let mut all = vec![run(0), run(1)];
    all.sort();
    assert_eq!(running(&ADMIN).await, all);
    // Taken away, it runs no more, although its slot is not free yet.
    let id = attempts[0].job_id.clone();
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &id, String::new(), None, true);
    cancel.await.unwrap();
    assert_eq!(running(&one).await, []);
}

#[tokio::test(start_paused = true)]
async fn every_message_is_a_sign_of_life() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    let heard = async || workers(&bench, &ADMIN).await[0].heard_time;
    for message in [
        FromWorker::Started(attempt.clone()),
        FromWorker::Capacity {
            max_parallel_jobs: 1,
        },
        FromWorker::Heartbeat {
            active_jobs: 1,
            cpu_load: 0.0,
            gpu_utilization: 0.0,
        },
    ] {
        pass(secs(5)).await;
        let now = bench.now();
        assert!(heard().await < now);
        worker.say(message).await;
        assert_eq!(heard().await, now);
    }
}
