//! Who gets which job, and in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::id::{PoolName, WorkerId};
use coretex_core::job::{Job, JobState, Priority};
use coretex_engine::{FromWorker, Role, SubmitJob, ToWorker};

use crate::support::{
    Bench, Worker, caller, hello, id, millis, named, pass, request, secs, serving, with,
};

fn priority(topic: &str, name: &str, class: Priority) -> SubmitJob {
    let mut job = named(topic, name);
    job.spec.priority = class;
    job
}

/// Runs one job after the other; the names in the order in which they came.
async fn order(worker: &mut Worker, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let attempt = worker.assignment().await;
        names.push(attempt.job_id.to_string());
        assert!(worker.succeed(&attempt).await);
    }
    names
}

#[tokio::test(start_paused = true)]
async fn higher_classes_go_first_and_equals_in_the_order_of_acceptance() {
    let bench = Bench::new().await;
    let classes = [Priority::Batch, Priority::Interactive, Priority::Critical];
    let mut should: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    // Across tenants and shapes.
    for number in 0..30_u32 {
        let class = classes[number as usize % 3];
        let tenant = ["acme", "beta", "coda"][number as usize / 3 % 3];
        let name = format!("{tenant}-{number}");
        let mut job = priority("job.a", &name, class);
        if number % 2 == 0 {
            job.spec.metadata.requires = vec!["cap".to_owned()];
        }
        let caller = caller(tenant, "key:x", &[Role::Admin]);
        bench.engine.submit_job(&caller, job).await.unwrap();
        pass(millis(1)).await;
        should.entry(class.class()).or_default().push(name);
    }
    let mut hello = hello("w", &["job.a"], 1);
    hello.capabilities.insert("cap".to_owned());
    let fleet = serving(&["acme", "beta", "coda"]);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello).await;
    let should: Vec<String> = should.into_values().flatten().collect();
    assert_eq!(order(&mut worker, 30).await, should);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn long_queues_are_served_in_order() {
    let bench = Bench::new().await;
    let mut should = Vec::new();
    for number in 0..700_u32 {
        let name = format!("j{number:04}");
        bench
            .submit(priority("job.a", &name, Priority::Batch))
            .await;
        should.push(name);
        pass(millis(1)).await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    assert_eq!(order(&mut worker, 300).await, should[..300]);
    // What comes later does not wait for what came before in a lower class.
    bench
        .submit(priority("job.a", "now", Priority::Critical))
        .await;
    let next = order(&mut worker, 400).await;
    // One was handed out before it came.
    assert_eq!(next[..2], ["j0300", "now"]);
    assert_eq!(next[2..], should[301..699]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_never_takes_the_slot_of_a_waiting_job() {
    let bench = Bench::new().await;
    // One slot for two topics.
    let mut worker = bench.connect(hello("w", &["job.a", "job.b"], 1)).await;
    pass(secs(2)).await;
    bench.submit(named("job.a", "first")).await;
    let mut attempt = worker.assignment().await;
    for round in 0..20 {
        let (waits, comes) = if round % 2 == 0 {
            ("job.a", "job.b")
        } else {
            ("job.b", "job.a")
        };
        let waiting = format!("waiting-{round}");
        bench.submit(named(waits, &waiting)).await;
        pass(millis(700)).await;
        worker.finish(&attempt, crate::support::succeeded()).await;
        // In the same instant in which the slot becomes free, and right after.
        let coming = priority(comes, &format!("coming-{round}"), Priority::Critical);
        let submitted = bench.submit(coming).await.answer.job;
        let mut names = Vec::new();
        assert!(worker.ack().await);
        if submitted.lease.is_none() {
            // It had to queue, and as a job of a higher class it may then be served first.
            attempt = worker.assignment().await;
            names.push(attempt.job_id.to_string());
            assert!(worker.succeed(&attempt).await);
            attempt = worker.assignment().await;
            names.push(attempt.job_id.to_string());
            names.sort();
            assert_eq!(names, [format!("coming-{round}"), waiting]);
        } else {
            panic!("round {round}: a newcomer took the slot of a waiting job");
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_goes_to_who_waits_before_it_goes_to_an_equal_newcomer() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a", "job.b"], 1)).await;
    pass(secs(2)).await;
    bench.submit(named("job.a", "first")).await;
    let attempt = worker.assignment().await;
    bench.submit(named("job.b", "waiting")).await;
    pass(millis(1)).await;
    worker.finish(&attempt, crate::support::succeeded()).await;
    for number in 0..10 {
        bench
            .submit(named("job.a", &format!("coming-{number}")))
            .await;
    }
    assert!(worker.ack().await);
    assert_eq!(order(&mut worker, 1).await, ["waiting"]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_that_nobody_can_take_hold_nobody_up() {
    let bench = Bench::new().await;
    for number in 0..50 {
        let mut job = priority("job.a", &format!("never-{number}"), Priority::Critical);
        job.spec.metadata.requires = vec![format!("none-{}", number % 5)];
        bench.submit(job).await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    for number in 0..20 {
        let name = format!("good-{number}");
        bench.submit(named("job.a", &name)).await;
        assert_eq!(order(&mut worker, 1).await, [name]);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_kinds_that_nobody_can_take_hold_nobody_up() {
    let bench = Bench::new().await;
    // A tenant that sorts before the others, with a need of its own in every job.
    let noisy = caller("aaa", "key:n", &[Role::Admin]);
    for number in 0..2_500 {
        let job = with("job.a", |spec| {
            spec.metadata.requires = vec![format!("none-{number}")];
        });
        bench.engine.submit_job(&noisy, job).await.unwrap();
    }
    bench.submit(named("job.a", "good")).await;
    let fleet = serving(&["aaa", "acme"]);
    let hello = hello("w", &["job.a"], 1);
    let mut worker = Worker::connect_as(&bench.engine, &fleet, hello).await;
    assert_eq!(order(&mut worker, 1).await, ["good"]);
    bench.audit().await;
}

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
    for (fast, topic_known) in [(true, true), (false, true)] {
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
        assert!(topic_known);
        pass(secs(1)).await;
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_worker_gets_nothing_until_it_is_undrained() {
    let bench = Bench::new().await;
    let admin = crate::support::admin();
    let name = WorkerId::parse("w").unwrap();
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let stranger = caller("other", "key:o", &[Role::Admin]);
    assert!(
        bench
            .engine
            .drain_worker(&stranger, &name, false)
            .await
            .is_err()
    );
    let drained = bench
        .engine
        .drain_worker(&admin, &name, false)
        .await
        .unwrap();
    assert!(drained.draining);
    let job = bench.job_of(request("job.a")).await;
    worker.quiet(secs(3)).await;
    // Also after it reconnects.
    worker.cut().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    worker.quiet(secs(3)).await;
    assert_eq!(bench.state(&job).await, JobState::Pending);
    bench
        .engine
        .drain_worker(&admin, &name, true)
        .await
        .unwrap();
    let attempt = worker.assignment().await;
    // What runs goes on.
    bench
        .engine
        .drain_worker(&admin, &name, false)
        .await
        .unwrap();
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&job).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_it_leaves_gets_nothing_more() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let first = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    worker.say(FromWorker::Drain).await;
    let second = bench.job_of(request("job.a")).await;
    worker.quiet(secs(3)).await;
    assert!(worker.succeed(&attempt).await);
    worker.quiet(secs(3)).await;
    assert_eq!(bench.state(&first).await, JobState::Succeeded);
    assert_eq!(bench.state(&second).await, JobState::Pending);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn capacity_can_grow_and_shrink() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    for _ in 0..6 {
        bench.submit(request("job.a")).await;
    }
    let first = worker.assignment().await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 3,
        })
        .await;
    let more = worker.assignments(2).await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 1,
        })
        .await;
    assert!(worker.succeed(&first).await);
    assert!(worker.succeed(&more[0]).await);
    worker.quiet(secs(2)).await;
    assert!(worker.succeed(&more[1]).await);
    let last = worker.assignment().await;
    worker.quiet(secs(2)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 0,
        })
        .await;
    assert!(worker.succeed(&last).await);
    worker.quiet(secs(2)).await;
    let too_many = FromWorker::Capacity {
        max_parallel_jobs: u32::MAX,
    };
    assert!(worker.session.receive(too_many).await.is_err());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_grows_a_thousandfold_is_filled_and_not_cut() {
    let bench = Bench::new().await;
    for _ in 0..1_000 {
        bench.submit(request("job.a")).await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    worker
        .say(FromWorker::Capacity {
            max_parallel_jobs: 1_000,
        })
        .await;
    pass(millis(100)).await;
    let attempts = worker.assignments(1_000).await;
    for attempt in &attempts {
        worker.finish(attempt, crate::support::succeeded()).await;
    }
    for _ in &attempts {
        assert!(worker.ack().await);
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

#[tokio::test(start_paused = true)]
async fn never_more_than_its_slots_are_out_to_a_worker() {
    let bench = Bench::new().await;
    bench.faulty.rates(coretex_store::layers::FaultRates {
        delay: 0.5,
        longest_delay: millis(300),
        ..coretex_store::layers::FaultRates::default()
    });
    let mut worker = bench.connect(hello("w", &["job.a"], 3)).await;
    let admin = crate::support::admin();
    let submits = (0..40).map(|number| {
        let job = named("job.a", &format!("j{number}"));
        bench.engine.submit_job(&admin, job)
    });
    let work = async {
        let mut out: Vec<coretex_engine::AttemptRef> = Vec::new();
        let mut done = 0;
        while done < 40 {
            match worker.next().await {
                ToWorker::Assignment { attempt, .. } => {
                    out.push(attempt);
                    assert!(out.len() <= 3);
                }
                ToWorker::ResultAck { attempt, applied } => {
                    assert!(applied);
                    done += 1;
                    assert!(!out.contains(&attempt));
                }
                other => panic!("{other:?}"),
            }
            if out.len() == 3 || (done + out.len() == 40 && !out.is_empty()) {
                // The slot is free for the server before the worker knows.
                let attempt = out.remove(0);
                worker.finish(&attempt, crate::support::succeeded()).await;
            }
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(submits), work);
    assert!(answers.iter().all(Result::is_ok));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_starts_within_a_second_beside_a_free_slot() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    // The commit is applied, and nobody here learns of it for long.
    let unsure = coretex_store::layers::Fault::SlowAnswer(secs(8));
    bench.faulty.script([unsure]);
    let engine = bench.engine.clone();
    let mut job = named("job.a", "late");
    job.spec.not_before = Some(bench.now() + millis(10));
    let submit =
        tokio::spawn(async move { engine.submit_job(&crate::support::admin(), job).await });
    pass(secs(3)).await;
    let found = worker.next_within(secs(1)).await;
    assert!(
        matches!(&found, Some(ToWorker::Assignment { attempt, .. }) if attempt.job_id == id("late")),
        "{found:?}"
    );
    let answer: Arc<Job> = submit.await.unwrap().unwrap().answer.job;
    assert_eq!(answer.id, id("late"));
    bench.audit().await;
}
