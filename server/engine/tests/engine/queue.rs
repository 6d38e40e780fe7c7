//! In which order waiting jobs are served, and that newcomers do not overtake them. Which worker gets
//! a job is in `placement`.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::job::{Job, Priority};
use coretex_engine::{Role, SubmitJob, ToWorker};
use coretex_store::layers::FaultRates;

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
    // Across shapes.
    for number in 0..30_u32 {
        let class = classes[number as usize % 3];
        let name = format!("j-{number}");
        let mut job = priority("job.a", &name, class);
        if number % 2 == 0 {
            job.spec.metadata.requires = vec!["cap".to_owned()];
        }
        bench.submit(job).await;
        pass(millis(1)).await;
        should.entry(class.class()).or_default().push(name);
    }
    let mut hello = hello("w", &["job.a"], 1);
    hello.capabilities.insert("cap".to_owned());
    let mut worker = bench.connect(hello).await;
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

#[tokio::test(start_paused = true)]
async fn claims_rest_while_the_store_refuses_them() {
    let bench = Bench::new().await;
    let id = bench.job_of(request("job.a")).await;
    bench.faulty.rates(FaultRates {
        before: 1.0,
        ..FaultRates::default()
    });
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let before = bench.tap.commits();
    worker.quiet(secs(20)).await;
    let tries = bench.tap.commits() - before;
    assert!((20..=40).contains(&tries), "{tries} claims in 20 s");
    bench.faulty.rates(FaultRates::default());
    pass(secs(1)).await;
    assert_eq!(worker.assignment().await.job_id, id);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_job_that_is_not_ready_is_not_read_without_end() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(named("job.a", "over")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    // What a torn commit of another build would leave behind.
    let job = bench.job(&id("over")).await;
    let key = coretex_core::queue::ReadyKey {
        tenant: job.tenant.clone(),
        shape: coretex_core::placement::shape(&coretex_core::placement::Needs::of(&job)),
        priority: job.spec.priority,
        accepted: job.create_time,
        job_id: job.id.clone(),
    };
    let member = [b"job.a\0".as_slice(), &key.encode()].concat();
    let shard = coretex_store::Shard::Data(0);
    let mut batch = coretex_store::Batch::new(shard, coretex_store::CommitId(77));
    batch.create("test".into(), "x".into());
    batch.add("ready".into(), member.into());
    coretex_store::Store::commit(&*bench.base, batch)
        .await
        .unwrap();
    let before = bench.tap.reads();
    worker.beat_for(secs(10)).await;
    let reads = bench.tap.reads() - before;
    assert!(reads < 100, "{reads} reads in 10 s");
    // Others of its kind are served.
    bench.submit(named("job.a", "next")).await;
    assert_eq!(order(&mut worker, 1).await, ["next"]);
}
