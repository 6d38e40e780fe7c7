//! Which worker gets a job: shares, load, hints, and what a job requires. How many jobs a worker
//! gets is in `slots`.

use coretex_core::id::{PoolName, WorkerId};
use coretex_core::job::JobState;
use coretex_engine::{FromWorker, Role, ToWorker};

use crate::support::{
    Bench, Worker, caller, hello, millis, named, pass, request, secs, serving, with,
};

async fn spread(bench: &Bench, workers: &mut [Worker], jobs: usize) -> Vec<usize> {
    for _ in 0..jobs {
        bench.submit(request("job.a")).await;
    }
    pass(secs(1)).await;
    let mut counts = Vec::new();
    for worker in workers {
        let mut count = 0;
        while let Ok(ToWorker::Assignment { .. }) = worker.inbox.try_recv() {
            count += 1;
        }
        counts.push(count);
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn equal_workers_get_equal_shares() {
    let bench = Bench::new().await;
    // Waiting jobs, then newcomers.
    for waiting in [true, false] {
        let mut workers = Vec::new();
        if waiting {
            for _ in 0..22 {
                bench.submit(request("job.a")).await;
            }
        }
        for number in 0..4 {
            let name = format!("w{number}");
            workers.push(bench.connect(hello(&name, &["job.a"], 10)).await);
        }
        if !waiting {
            pass(secs(2)).await;
        }
        let jobs = if waiting { 0 } else { 22 };
        let counts = spread(&bench, &mut workers, jobs).await;
        assert_eq!(counts.iter().sum::<usize>(), 22);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
        for worker in workers {
            worker.cut().await;
        }
        // The attempts are lost with their workers and then ended.
        let filter = coretex_engine::JobFilter::default();
        let admin = crate::support::admin();
        let page = coretex_engine::PageRequest {
            size: 100,
            token: String::new(),
        };
        let jobs = bench
            .engine
            .list_jobs(&admin, &filter, page, false)
            .await
            .unwrap();
        for job in jobs.jobs {
            let ended = bench
                .engine
                .cancel_job(&admin, &job.job.id, String::new(), None, true);
            ended.await.unwrap();
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn workers_under_load_are_the_last_choice() {
    let bench = Bench::new().await;
    let mut hot = bench.connect(hello("hot", &["job.a"], 5)).await;
    let mut cool = bench.connect(hello("cool", &["job.a"], 5)).await;
    for (cpu, gpu) in [(95.0, 0.0), (0.0, 99.0), (f64::INFINITY, 91.0)] {
        hot.say(FromWorker::Heartbeat {
            active_jobs: 0,
            cpu_load: cpu,
            gpu_utilization: gpu,
        })
        .await;
        for _ in 0..5 {
            bench.submit(request("job.a")).await;
        }
        let attempts = cool.assignments(5).await;
        bench.submit(request("job.a")).await;
        let last = hot.assignment().await;
        assert!(hot.succeed(&last).await);
        for attempt in attempts {
            assert!(cool.succeed(&attempt).await);
        }
    }
    // Nonsense counts as no load.
    hot.say(FromWorker::Heartbeat {
        active_jobs: 0,
        cpu_load: f64::NAN,
        gpu_utilization: -3.0,
    })
    .await;
    let mut workers = [hot, cool];
    let counts = spread(&bench, &mut workers, 10).await;
    assert_eq!(counts, [5, 5]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn hints_are_followed_while_there_is_room() {
    let bench = Bench::new().await;
    let pool = |name: &str| PoolName::parse(name).unwrap();
    let mut other = hello("other", &["job.a"], 4);
    other.pool = pool("other");
    let mut one = bench.connect(hello("one", &["job.a"], 4)).await;
    let mut two = bench.connect(hello("two", &["job.a"], 4)).await;
    let mut other = bench.connect(other).await;
    pass(secs(2)).await;
    for fast in [true, false] {
        if !fast {
            // From the queue: nobody is free while they are submitted.
            for worker in [&one, &two, &other] {
                worker
                    .say(FromWorker::Capacity {
                        max_parallel_jobs: 0,
                    })
                    .await;
            }
        }
        for _ in 0..4 {
            let job = with("job.a", |spec| {
                spec.placement.preferred_worker_id = Some(WorkerId::parse("two").unwrap());
            });
            bench.submit(job).await;
        }
        for _ in 0..3 {
            let job = with("job.a", |spec| {
                spec.placement.preferred_pool = Some(pool("other"));
            });
            bench.submit(job).await;
        }
        for worker in [&one, &two, &other] {
            worker
                .say(FromWorker::Capacity {
                    max_parallel_jobs: 4,
                })
                .await;
        }
        let at_two = two.assignments(4).await;
        let at_other = other.assignments(3).await;
        one.quiet(millis(1_500)).await;
        // It is full: somebody else has to do.
        let job = with("job.a", |spec| {
            spec.placement.preferred_worker_id = Some(WorkerId::parse("two").unwrap());
            spec.placement.preferred_pool = Some(pool("none"));
        });
        bench.submit(job).await;
        let at_one = one.assignment().await;
        for attempt in at_two {
            assert!(two.succeed(&attempt).await);
        }
        for attempt in at_other {
            assert!(other.succeed(&attempt).await);
        }
        assert!(one.succeed(&at_one).await);
        pass(secs(1)).await;
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_gets_the_jobs_of_the_tenants_it_serves_and_no_others() {
    let bench = Bench::new().await;
    let fleet = serving(&["acme", "beta"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello("w", &["job.a"], 10)).await;
    for tenant in ["acme", "beta", "coda", "fleet"] {
        let caller = caller(tenant, "key:x", &[Role::Admin]);
        let job = named("job.a", tenant);
        bench.engine.submit_job(&caller, job).await.unwrap();
    }
    let mut tenants: Vec<String> = worker
        .assignments(2)
        .await
        .into_iter()
        .map(|attempt| attempt.tenant.to_string())
        .collect();
    tenants.sort();
    assert_eq!(tenants, ["acme", "beta"]);
    worker.quiet(secs(3)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn required_labels_and_capabilities_are_kept_to() {
    let bench = Bench::new().await;
    let mut plain = bench.connect(hello("plain", &["job.a"], 10)).await;
    let mut fitting = hello("fitting", &["job.a"], 10);
    fitting
        .capabilities
        .extend(["x".to_owned(), "y".to_owned()]);
    fitting.labels.insert("zone".to_owned(), "eu".to_owned());
    let mut fitting = bench.connect(fitting).await;
    pass(secs(2)).await;
    for _ in 0..3 {
        let job = with("job.a", |spec| {
            spec.metadata.requires = vec!["y".to_owned(), "x".to_owned()];
            let labels = &mut spec.placement.worker_labels;
            labels.insert("zone".to_owned(), "eu".to_owned());
        });
        bench.submit(job).await;
        fitting.assignment().await;
    }
    let job = with("job.a", |spec| {
        let labels = &mut spec.placement.worker_labels;
        labels.insert("zone".to_owned(), "us".to_owned());
    });
    let nowhere = bench.job_of(job).await;
    plain.quiet(secs(2)).await;
    fitting.quiet(secs(1)).await;
    assert_eq!(bench.state(&nowhere).await, JobState::Pending);
    // Labels of the job are no constraint.
    let job = with("job.a", |spec| {
        spec.labels.insert("zone".to_owned(), "mars".to_owned());
    });
    bench.submit(job).await;
    plain.assignment().await;
    bench.audit().await;
}
