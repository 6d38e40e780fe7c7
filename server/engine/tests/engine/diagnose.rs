//! Why a job does not run: the first cause is true, and removing it starts the job.
//!
//! Over 500 lines because every cause has its test here, and they are read as one table.

use coretex_core::id::{JobId, PoolName, WorkerId};
use coretex_core::job::{JobState, Priority};
use coretex_core::retry::RetryPolicy;
use coretex_engine::{FromWorker, Hello, JobFilter, PageRequest, Role, ToWorker};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, Worker, admin, caller, hello, millis, named, pass,
    request, secs, serving, with,
};

/// The job runs within this time of its cause being removed.
async fn starts(bench: &Bench, worker: &mut Worker, id: &JobId) {
    let end = tokio::time::Instant::now() + secs(2);
    while tokio::time::Instant::now() < end {
        if let Some(ToWorker::Assignment { attempt, .. }) = worker.next_within(millis(100)).await
            && attempt.job_id == *id
        {
            assert!(worker.succeed(&attempt).await);
            bench.audit().await;
            return;
        }
    }
    let diagnosis = bench.engine.diagnose_job(&admin(), id).await.unwrap();
    panic!("{id} does not start: {diagnosis:?}");
}

#[tokio::test(start_paused = true)]
async fn no_workers() {
    let bench = Bench::new().await;
    let id = bench.job_of(request("job.a")).await;
    let mut other = bench.connect(hello("x", &["job.b"], 1)).await;
    assert_eq!(bench.cause(&id).await, "no_workers");
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    starts(&bench, &mut worker, &id).await;
    other.quiet(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn workers_of_other_tenants_are_no_workers() {
    let bench = Bench::new().await;
    let stranger = caller("other", "key:o", &[Role::Worker]);
    let secret = hello("secret", &["job.a"], 1);
    let _foreign = Worker::connect_as(&bench.engine, &stranger, secret).await;
    let id = bench.job_of(request("job.a")).await;
    let diagnosis = bench.engine.diagnose_job(&admin(), &id).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "no_workers", "{diagnosis:?}");
    assert!(diagnosis.pools.is_empty());
    assert!(!format!("{diagnosis:?}").contains("secret"));
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_serves_the_tenant_counts_wherever_it_belongs() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello("w", &["job.a"], 1)).await;
    let first = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    let id = bench.job_of(request("job.a")).await;
    assert_eq!(attempt.job_id, first);
    assert_eq!(bench.cause(&id).await, "all_workers_busy");
    assert!(worker.succeed(&attempt).await);
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn no_worker_matches_for_want_of_a_capability_or_label() {
    for label in [false, true] {
        let bench = Bench::new().await;
        let _plain = bench.connect(hello("x", &["job.a"], 1)).await;
        let job = with("job.a", |spec| {
            if label {
                let labels = &mut spec.placement.worker_labels;
                labels.insert("zone".to_owned(), "eu".to_owned());
            } else {
                spec.metadata.requires = vec!["gpu".to_owned()];
            }
        });
        let id = bench.job_of(job).await;
        let diagnosis = bench.engine.diagnose_job(&admin(), &id).await.unwrap();
        assert_eq!(diagnosis.causes[0].code, "no_worker_matches");
        let named = if label { "zone" } else { "gpu" };
        assert!(diagnosis.causes[0].message.contains(named), "{diagnosis:?}");
        assert!(!diagnosis.pools[0].eligible);
        let mut fitting = hello("w", &["job.a"], 1);
        fitting.capabilities.insert("gpu".to_owned());
        fitting.labels.insert("zone".to_owned(), "eu".to_owned());
        let mut worker = bench.connect(fitting).await;
        starts(&bench, &mut worker, &id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_workers_busy() {
    // Removed by a result, by more slots, by a second worker.
    for way in 0..3 {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let holder = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        let id = bench.job_of(request("job.a")).await;
        let diagnosis = bench.engine.diagnose_job(&admin(), &id).await.unwrap();
        let first = &diagnosis.causes[0];
        assert_eq!(first.code, "all_workers_busy");
        assert_eq!(first.holders, [holder.to_string()]);
        assert_eq!(diagnosis.queue_position, 1);
        match way {
            0 => assert!(worker.succeed(&attempt).await),
            1 => {
                worker
                    .say(FromWorker::Capacity {
                        max_parallel_jobs: 2,
                    })
                    .await
            }
            _ => {
                let mut second = bench.connect(hello("x", &["job.a"], 1)).await;
                starts(&bench, &mut second, &id).await;
                continue;
            }
        }
        starts(&bench, &mut worker, &id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn holders_are_named_to_those_who_may_see_them() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme", "other"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello("w", &["job.a"], 2)).await;
    let (one, two) = (
        caller("acme", "key:one", &[Role::Submitter]),
        caller("acme", "key:two", &[Role::Submitter]),
    );
    let foreign = caller("other", "key:o", &[Role::Admin]);
    let submit = async |caller| {
        let made = bench.engine.submit_job(caller, request("job.a")).await;
        made.unwrap().answer.job.id.clone()
    };
    let (held, _) = (submit(&one).await, submit(&foreign).await);
    worker.assignments(2).await;
    let (of_one, of_two) = (submit(&one).await, submit(&two).await);
    for (caller, id, holders) in [
        (&*ADMIN, &of_two, vec![held.to_string()]),
        (&one, &of_one, vec![held.to_string()]),
        (&two, &of_two, vec![]),
    ] {
        let diagnosis = bench.engine.diagnose_job(caller, id).await.unwrap();
        let first = &diagnosis.causes[0];
        assert_eq!(
            (&*first.code, &first.holders),
            ("all_workers_busy", &holders)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pools_and_workers_say_in_words_for_programs_why_not() {
    let bench = Bench::new().await;
    let join = |name: &str, pool: &str, gpu: bool| {
        let mut hello = hello(name, &["job.a"], 1);
        hello.pool = PoolName::parse(pool).unwrap();
        if gpu {
            hello.capabilities.insert("gpu".to_owned());
        }
        hello
    };
    let mut full = bench.connect(join("full", "p1", true)).await;
    let drained = bench.connect(join("drained", "p2", true)).await;
    let _plain = bench.connect(join("plain", "p3", false)).await;
    drained.say(FromWorker::Drain).await;
    let needs = with("job.a", |spec| {
        spec.metadata.requires = vec!["gpu".to_owned()]
    });
    bench.submit(needs.clone()).await;
    let attempt = full.assignment().await;
    let id = bench.job_of(needs).await;
    let said = async || {
        let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
        let pools = diagnosis.pools.into_iter().map(|pool| {
            let worker = &pool.workers[0];
            assert_eq!(pool.eligible, pool.reason.is_empty());
            assert_eq!(pool.eligible, pool.message.is_empty());
            assert_eq!(worker.eligible, worker.reason.is_empty());
            assert_eq!(worker.eligible, worker.message.is_empty());
            (pool.reason, worker.reason)
        });
        pools.collect::<Vec<_>>()
    };
    assert_eq!(
        said().await,
        [
            ("all_workers_busy", "full"),
            ("workers_draining", "draining"),
            ("no_worker_matches", "capability_missing")
        ]
    );
    // A worker of another topic or tenant is not there at all.
    let stranger = caller("other", "key:o", &[Role::Worker]);
    Worker::connect_as(&bench.engine, &stranger, join("foreign", "p4", true)).await;
    bench.connect(hello("elsewhere", &["job.b"], 1)).await;
    assert_eq!(said().await.len(), 3);
    assert!(full.succeed(&attempt).await);
    // Handed out, it is no question of pools any more.
    full.assignment().await;
    assert_eq!(said().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_judged_by_all_its_workers() {
    let bench = Bench::new().await;
    let mut plain = Vec::new();
    for number in 0..120 {
        plain.push(
            bench
                .connect(hello(&format!("w{number}"), &["job.a"], 1))
                .await,
        );
    }
    let mut able = hello("able", &["job.a"], 1);
    able.capabilities.insert("gpu".to_owned());
    let mut able = bench.connect(able).await;
    let needs = with("job.a", |spec| {
        spec.metadata.requires = vec!["gpu".to_owned()]
    });
    bench.submit(needs.clone()).await;
    able.assignment().await;
    let id = bench.job_of(needs).await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
    assert_eq!(diagnosis.pools[0].workers.len(), 100);
    assert_eq!(diagnosis.pools[0].reason, "all_workers_busy");
}

#[tokio::test(start_paused = true)]
async fn what_runs_has_no_cause() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert_eq!(bench.cause(&id).await, "dispatched");
    worker.started(&attempt).await;
    pass(secs(1)).await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
    assert_eq!(diagnosis.state, JobState::Running);
    assert_eq!(diagnosis.causes, []);
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &id, "enough".to_owned(), None, false);
    cancel.await.unwrap();
    assert_eq!(bench.cause(&id).await, "cancel_requested");
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_slots_is_busy() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 0,
        })
        .await;
    let id = bench.job_of(request("job.a")).await;
    assert_eq!(bench.cause(&id).await, "all_workers_busy");
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 1,
        })
        .await;
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn workers_draining() {
    let bench = Bench::new().await;
    let name = WorkerId::parse("w").unwrap();
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let drained = bench.engine.drain_worker(&ADMIN, &name, false);
    drained.await.unwrap();
    let id = bench.job_of(request("job.a")).await;
    assert_eq!(bench.cause(&id).await, "workers_draining");
    bench
        .engine
        .drain_worker(&ADMIN, &name, true)
        .await
        .unwrap();
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn not_before_and_backoff() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let at = bench.now() + secs(5);
    let id = bench
        .job_of(with("job.a", |spec| spec.not_before = Some(at)))
        .await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "not_before");
    assert_eq!(diagnosis.causes[0].until_time, Some(at));
    pass(secs(5)).await;
    starts(&bench, &mut worker, &id).await;
    let job = with("job.a", |spec| {
        spec.retry = RetryPolicy {
            max_attempts: 2,
            initial_backoff: secs(5),
            ..RetryPolicy::default()
        };
    });
    let id = bench.job_of(job).await;
    let attempt = worker.assignment().await;
    assert!(worker.fail(&attempt, "x").await);
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "backoff");
    let until = diagnosis.causes[0].until_time.unwrap();
    pass(until.since(bench.now())).await;
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn throttled_undecided_and_approval() {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    kernel.say(Answer::Throttle(secs(4)));
    let throttled = bench.job_of(request("job.a")).await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &throttled).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "throttled");
    kernel.say(Answer::Allow);
    pass(diagnosis.causes[0].until_time.unwrap().since(bench.now())).await;
    starts(&bench, &mut worker, &throttled).await;
    kernel.say(Answer::Trouble);
    let undecided = bench.job_of(request("job.a")).await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &undecided).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "undecided");
    assert!(diagnosis.causes[0].message.contains("it is broken"));
    assert_eq!(diagnosis.queue_position, 0);
    worker.quiet(millis(500)).await;
    kernel.say(Answer::Allow);
    pass(diagnosis.causes[0].until_time.unwrap().since(bench.now())).await;
    starts(&bench, &mut worker, &undecided).await;
    kernel.say(Answer::Approval);
    let approval = bench.job_of(request("job.a")).await;
    assert_eq!(bench.cause(&approval).await, "approval_pending");
    kernel.say(Answer::Allow);
    worker.quiet(secs(20)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_worker() {
    // With the server that it was connected to, and with another one after a restart.
    for restart in [false, true] {
        let mut bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let id = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        worker.started(&attempt).await;
        pass(secs(1)).await;
        assert_ne!(bench.cause(&id).await, "worker_disconnected");
        worker.cut().await;
        if restart {
            bench.crash().await;
        }
        assert_eq!(
            bench.cause(&id).await,
            "worker_disconnected",
            "restart {restart}"
        );
        let back = Hello {
            running: vec![attempt.clone()],
            ..hello("w", &["job.a"], 1)
        };
        let mut worker = bench.connect(back).await;
        assert_ne!(bench.cause(&id).await, "worker_disconnected");
        assert!(worker.succeed(&attempt).await);
        assert_eq!(bench.cause(&id).await, "succeeded");
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_server() {
    let mut bench = Bench::new().await;
    let id = bench.job_of(request("job.a")).await;
    bench.engine.drain(secs(1)).await;
    assert_eq!(bench.cause(&id).await, "server_draining");
    bench.crash().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    starts(&bench, &mut worker, &id).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_that_have_ended_say_how() {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let retried = with("job.a", |spec| {
        spec.retry = RetryPolicy {
            max_attempts: 2,
            initial_backoff: secs(1),
            ..RetryPolicy::default()
        };
    });
    let retried = bench.job_of(retried).await;
    for _ in 0..2 {
        let attempt = worker.assignment().await;
        assert!(worker.fail(&attempt, "boom").await);
    }
    let failed = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert!(worker.fail(&attempt, "boom").await);
    let unstarted = with("job.b", |spec| spec.schedule_to_start_timeout = secs(1));
    let unstarted = bench.job_of(unstarted).await;
    let cancelled = bench.job_of(request("job.b")).await;
    let reason = "not wanted".to_owned();
    let answer = bench
        .engine
        .cancel_job(&ADMIN, &cancelled, reason, None, false);
    answer.await.unwrap();
    kernel.say(Answer::Deny);
    let denied = bench.job_of(request("job.b")).await;
    pass(secs(2)).await;
    for (id, codes, words) in [
        (&retried, vec!["boom", "max_attempts_exceeded"], "it broke"),
        (&failed, vec!["boom"], "it broke"),
        (&unstarted, vec!["schedule_timeout"], "no worker took"),
        (&cancelled, vec!["cancelled"], "not wanted"),
        (&denied, vec!["denied"], "the script says so"),
    ] {
        let diagnosis = bench.engine.diagnose_job(&ADMIN, id).await.unwrap();
        let found: Vec<_> = diagnosis.causes.iter().map(|cause| &*cause.code).collect();
        assert_eq!(found, codes);
        assert!(diagnosis.pools.is_empty());
        assert!(diagnosis.causes[0].message.contains(words), "{diagnosis:?}");
        assert_eq!(diagnosis.queue_position, 0);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_position_counts_the_jobs_that_go_before() {
    let bench = Bench::new().await;
    let mut order: Vec<(u8, u32, JobId)> = Vec::new();
    let classes = [Priority::Batch, Priority::Interactive, Priority::Critical];
    for number in 0..60_u32 {
        let mut job = named("job.a", &format!("j{number}"));
        job.spec.priority = classes[(number * 7 % 3) as usize];
        if number % 4 > 0 {
            job.spec.metadata.requires = vec![format!("shape-{}", number % 4)];
        }
        let class = job.spec.priority.class();
        order.push((class, number, bench.job_of(job).await));
        // Other tenants and topics do not count.
        let other = caller("other", "key:o", &[Role::Admin]);
        let mut job = request("job.a");
        job.spec.priority = Priority::Critical;
        bench.engine.submit_job(&other, job).await.unwrap();
        bench.submit(request("job.b")).await;
        pass(millis(1)).await;
    }
    order.sort();
    for (place, (_, _, id)) in order.iter().enumerate() {
        let diagnosis = bench.engine.diagnose_job(&ADMIN, id).await.unwrap();
        assert_eq!(diagnosis.queue_position as usize, place + 1, "{id}");
        assert!(!diagnosis.queue_position_capped);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_position_is_counted_to_a_thousand() {
    let bench = Bench::new().await;
    for number in 0..1_005 {
        bench.submit(named("job.a", &format!("j{number:04}"))).await;
        pass(millis(1)).await;
    }
    for (name, position, capped) in [
        ("j0000", 1, false),
        ("j0998", 999, false),
        ("j0999", 1_000, false),
        ("j1000", 1_000, true),
        ("j1004", 1_000, true),
    ] {
        let id = crate::support::id(name);
        let diagnosis = bench.engine.diagnose_job(&ADMIN, &id).await.unwrap();
        assert_eq!(
            (diagnosis.queue_position, diagnosis.queue_position_capped),
            (position, capped),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn lists_name_the_first_cause_too() {
    let bench = Bench::new().await;
    let later = bench.now() + secs(60);
    bench.submit(request("job.a")).await;
    bench
        .submit(with("job.a", |spec| spec.not_before = Some(later)))
        .await;
    let page = PageRequest {
        size: 10,
        token: String::new(),
    };
    let list = bench
        .engine
        .list_jobs(&ADMIN, &JobFilter::default(), page, false)
        .await
        .unwrap();
    for answer in list.jobs {
        let cause = bench.cause(&answer.job.id).await;
        assert_eq!(answer.waiting_reason, cause);
        assert!(!cause.is_empty());
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    let running = bench
        .engine
        .get_job(&ADMIN, &attempt.job_id, false)
        .await
        .unwrap();
    assert_eq!(running.job.state, JobState::Dispatched);
    assert_eq!(running.waiting_reason, "");
    bench.audit().await;
}
