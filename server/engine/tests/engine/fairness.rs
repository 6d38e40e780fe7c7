//! How tenants, fairness keys and classes share slots while more waits than can run.

use std::collections::BTreeMap;

use coretex_core::id::TenantId;
use coretex_core::job::{Priority, Slots};
use coretex_core::routing::{Routing, TenantRule};
use coretex_engine::{Caller, Role, SubmitJob, Timing};

use crate::support::{
    Bench, Setup, Worker, caller, hello, millis, named, pass, request, secs, serving, with,
};

const TENANTS: [&str; 3] = ["acme", "beta", "coda"];

fn of(tenant: &str) -> Caller {
    caller(tenant, "key:x", &[Role::Admin])
}

async fn submit(bench: &Bench, tenant: &str, job: SubmitJob) {
    bench.engine.submit_job(&of(tenant), job).await.unwrap();
}

async fn fleet(bench: &Bench, slots: u32) -> Worker {
    let hello = hello("w", &["job.a"], slots);
    Worker::connect_as(&bench.engine, &serving(&TENANTS), hello).await
}

/// Runs one job after the other; whose they were, and their names.
async fn served(worker: &mut Worker, count: usize) -> Vec<(String, String)> {
    let mut served = Vec::new();
    for _ in 0..count {
        let attempt = worker.assignment().await;
        served.push((attempt.tenant.to_string(), attempt.job_id.to_string()));
        assert!(worker.succeed(&attempt).await);
    }
    served
}

fn count(served: &[(String, String)], tenant: &str) -> usize {
    served.iter().filter(|(of, _)| of == tenant).count()
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_tenant_does_not_hold_up_another() {
    let bench = Bench::new().await;
    for _ in 0..1_000 {
        submit(&bench, "acme", request("job.a")).await;
    }
    let mut worker = fleet(&bench, 1).await;
    served(&mut worker, 20).await;
    for number in 0..10 {
        submit(&bench, "beta", named("job.a", &format!("b-{number}"))).await;
    }
    // One may have been handed out before they came.
    let next = served(&mut worker, 21).await;
    assert_eq!(count(&next, "beta"), 10, "{next:?}");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_share_by_weight() {
    let bench = Bench::new().await;
    let weight = |weight| TenantRule {
        weight,
        ..TenantRule::default()
    };
    let tenants = BTreeMap::from([
        (TenantId::parse("acme").unwrap(), weight(3)),
        (TenantId::parse("beta").unwrap(), weight(2)),
    ]);
    let routing = Routing::new(
        BTreeMap::new(),
        BTreeMap::new(),
        tenants,
        TenantRule::default(),
    );
    bench.engine.set_routing(routing.unwrap());
    for tenant in TENANTS {
        for _ in 0..300 {
            submit(&bench, tenant, request("job.a")).await;
        }
    }
    let mut worker = fleet(&bench, 1).await;
    let served = served(&mut worker, 240).await;
    for (tenant, share) in [("acme", 120), ("beta", 80), ("coda", 40)] {
        assert!(count(&served, tenant).abs_diff(share) <= 2, "{tenant}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn fairness_keys_take_turns_within_a_tenant() {
    let bench = Bench::new().await;
    let keyed = |key: &str, name: &str| {
        let mut job = named("job.a", name);
        job.spec.fairness_key = key.to_owned();
        job
    };
    for number in 0..200 {
        submit(&bench, "acme", keyed("noisy", &format!("noisy-{number}"))).await;
    }
    for number in 0..10 {
        submit(&bench, "acme", keyed("quiet", &format!("quiet-{number}"))).await;
        submit(&bench, "acme", keyed("", &format!("none-{number}"))).await;
    }
    let mut worker = fleet(&bench, 1).await;
    let served = served(&mut worker, 30).await;
    for group in ["noisy", "quiet", "none"] {
        let of = served.iter().filter(|(_, name)| name.starts_with(group));
        assert_eq!(of.count(), 10, "{group}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_critical_job_is_the_next_to_start_under_a_flood() {
    let bench = Bench::new().await;
    for _ in 0..500 {
        submit(&bench, "acme", request("job.a")).await;
    }
    let mut worker = fleet(&bench, 1).await;
    served(&mut worker, 50).await;
    let mut urgent = named("job.a", "urgent");
    urgent.spec.priority = Priority::Critical;
    // Of a tenant that has had many turns, and of one that has had none.
    submit(&bench, "acme", urgent.clone()).await;
    submit(&bench, "beta", urgent).await;
    // One had been handed out before.
    let next = served(&mut worker, 3).await;
    assert!(
        next[1..].iter().all(|(_, name)| name == "urgent"),
        "{next:?}"
    );
    bench.audit().await;
}

fn rising(after: std::time::Duration) -> Setup {
    Setup {
        timing: Timing {
            rise_after: after,
            ..Timing::default()
        },
        ..Setup::default()
    }
}

fn class(name: &str, priority: Priority) -> SubmitJob {
    let mut job = named("job.a", name);
    job.spec.priority = priority;
    job
}

#[tokio::test(start_paused = true)]
async fn what_waits_rises_so_that_nothing_starves() {
    let bench = Bench::with(rising(secs(10))).await;
    submit(&bench, "acme", class("old", Priority::Batch)).await;
    pass(secs(11)).await;
    submit(&bench, "acme", class("later", Priority::Interactive)).await;
    submit(&bench, "acme", class("new", Priority::Batch)).await;
    let mut worker = fleet(&bench, 1).await;
    // It rose a second before the other one came.
    let names: Vec<_> = served(&mut worker, 3).await;
    let names: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["old", "later", "new"]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_critical_jobs_leaves_room_for_what_has_waited_long() {
    let bench = Bench::with(rising(secs(10))).await;
    for number in 0..3 {
        submit(
            &bench,
            "beta",
            class(&format!("old-{number}"), Priority::Batch),
        )
        .await;
    }
    pass(secs(21)).await;
    for number in 0..200 {
        submit(
            &bench,
            "acme",
            class(&format!("c-{number}"), Priority::Critical),
        )
        .await;
    }
    let mut worker = fleet(&bench, 1).await;
    let served = served(&mut worker, 40).await;
    let places: Vec<usize> = served
        .iter()
        .enumerate()
        .filter(|(_, (tenant, _))| tenant == "beta")
        .map(|(place, _)| place)
        .collect();
    assert_eq!(places, [7, 15, 23]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_time_far_ahead_makes_no_job_old() {
    let bench = Bench::with(rising(secs(10))).await;
    let mut later = class("scheduled", Priority::Batch);
    later.spec.not_before = Some(bench.now() + secs(60));
    submit(&bench, "acme", later).await;
    pass(secs(61)).await;
    submit(&bench, "acme", class("urgent", Priority::Interactive)).await;
    let mut worker = fleet(&bench, 1).await;
    let served = served(&mut worker, 2).await;
    assert_eq!(served[0].1, "urgent");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_several_slots_gets_them() {
    let bench = Bench::new().await;
    let mut worker = fleet(&bench, 4).await;
    pass(secs(2)).await;
    let sized = |name: &str, slots| {
        let mut job = named("job.a", name);
        job.spec.placement.slots = Slots(slots);
        job
    };
    // Two of three slots, and then four small ones: two of them wait.
    submit(&bench, "acme", sized("two", 2)).await;
    let two = worker.assignment().await;
    for number in 0..4 {
        submit(&bench, "acme", named("job.a", &format!("small-{number}"))).await;
    }
    let small = worker.assignments(2).await;
    worker.quiet(secs(2)).await;
    // Freed slots are kept for the one that waits longest and needs all of them.
    submit(&bench, "acme", sized("all", 4)).await;
    assert!(worker.succeed(&two).await);
    let more = worker.assignments(2).await;
    for number in 4..10 {
        submit(&bench, "acme", named("job.a", &format!("small-{number}"))).await;
    }
    for attempt in small.iter().chain(&more) {
        worker.finish(attempt, crate::support::succeeded()).await;
    }
    for _ in 0..4 {
        assert!(worker.ack().await);
    }
    let all = worker.assignment().await;
    assert_eq!(all.job_id.as_str(), "all");
    worker.quiet(secs(2)).await;
    assert!(worker.succeed(&all).await);
    worker.assignments(4).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_that_nobody_can_take_leave_the_fast_path_open() {
    let bench = Bench::new().await;
    for _ in 0..20 {
        bench
            .submit(with("job.a", |spec| {
                spec.metadata.requires = vec!["none".to_owned()];
            }))
            .await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    for _ in 0..5 {
        let before = bench.tap.commits();
        let submitted = bench.submit(request("job.a")).await;
        assert!(submitted.answer.job.lease.is_some(), "it had to queue");
        let attempt = worker.assignment().await;
        assert!(worker.succeed(&attempt).await);
        assert_eq!(bench.tap.commits() - before, 2);
        // Nor do others that come.
        let none = with("job.a", |spec| {
            spec.metadata.requires = vec!["none".to_owned()];
        });
        bench.submit(none).await;
    }
    // Until somebody comes who can.
    let mut able = hello("able", &["job.a"], 1);
    able.capabilities.insert("none".to_owned());
    let mut able = bench.connect(able).await;
    let waited = able.assignment().await;
    pass(millis(10)).await;
    let submitted = bench.submit(request("job.a")).await;
    assert!(
        submitted.answer.job.lease.is_none(),
        "it passed waiting jobs"
    );
    assert!(able.succeed(&waited).await);
    bench.audit().await;
}
