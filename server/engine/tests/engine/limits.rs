//! Limits on what a tenant runs and submits: they are never exceeded, whatever happens, and what
//! they hold up runs as soon as there is room. How they hold among replicas is in [`exact`].

mod exact;

use std::collections::BTreeMap;
use std::time::Duration;

use coretex_core::id::TenantId;
use coretex_core::job::{Concurrency, ConcurrencyAction, JobState};
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::routing::{Rate, Routing, TenantRule, TopicRule};
use coretex_engine::{Error, SubmitJob, ToWorker};

use crate::support::{ADMIN, Bench, hello, id, millis, named, pass, request, secs};

fn tenant(rule: TenantRule) -> Routing {
    let name = TenantId::from_trusted("acme");
    assert_eq!(ADMIN.tenant, name, "the tenant of these tests");
    let tenants = BTreeMap::from([(name, rule)]);
    let none = TenantRule::default();
    Routing::new(BTreeMap::new(), BTreeMap::new(), tenants, none).unwrap()
}

fn keyed(name: &str, key: &str, limit: u32, on_limit: ConcurrencyAction) -> SubmitJob {
    let mut job = named("job.a", name);
    job.spec.concurrency = Some(Concurrency {
        key: key.to_owned(),
        limit,
        on_limit,
    });
    job
}

#[tokio::test(start_paused = true)]
async fn a_tenant_runs_as_many_jobs_as_it_may() {
    let bench = Bench::new().await;
    bench.engine.set_routing(tenant(TenantRule {
        max_running_jobs: Some(3),
        ..TenantRule::default()
    }));
    let mut worker = bench.connect(hello("w", &["job.a"], 10)).await;
    pass(secs(2)).await;
    for number in 0..8 {
        bench.submit(named("job.a", &format!("j-{number}"))).await;
    }
    let mut running = worker.assignments(3).await;
    worker.quiet(secs(3)).await;
    assert_eq!(bench.cause(&id("j-5")).await, "tenant_limit");
    let waiting = bench.job(&id("j-5")).await;
    assert_eq!(waiting.state, JobState::Pending);
    for _ in 0..5 {
        // Each that is over makes room for one, at once.
        assert!(worker.succeed(&running.remove(0)).await);
        let next = worker.next_within(millis(100)).await;
        let Some(ToWorker::Assignment { attempt, .. }) = next else {
            panic!("{next:?}");
        };
        running.push(attempt);
    }
    worker.quiet(secs(3)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_limit_costs_few_commits() {
    let bench = Bench::new().await;
    bench.engine.set_routing(tenant(TenantRule {
        max_running_jobs: Some(2),
        ..TenantRule::default()
    }));
    for _ in 0..300 {
        bench.submit(request("job.a")).await;
    }
    let mut worker = bench.connect(hello("w", &["job.a"], 100)).await;
    let mut running = worker.assignments(2).await;
    pass(secs(2)).await;
    let before = bench.tap.commits();
    for _ in 0..50 {
        assert!(worker.succeed(&running.remove(0)).await);
        running.push(worker.assignment().await);
    }
    // A result and a claim each, and now and then one that finds the limit met.
    let commits = bench.tap.commits() - before;
    assert!(commits <= 130, "{commits} commits for 50 jobs");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_lets_as_many_run_as_it_says_and_the_others_wait() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 10)).await;
    pass(secs(2)).await;
    for number in 0..5 {
        let name = format!("k-{number}");
        bench
            .submit(keyed(&name, "k", 2, ConcurrencyAction::Queue))
            .await;
    }
    // Jobs of other keys, and of none, are not held up.
    bench
        .submit(keyed("other", "o", 1, ConcurrencyAction::Queue))
        .await;
    bench.submit(named("job.a", "free")).await;
    let mut names: Vec<_> = worker
        .assignments(4)
        .await
        .iter()
        .map(|one| one.job_id.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["free", "k-0", "k-1", "other"]);
    worker.quiet(secs(2)).await;
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &id("k-3")).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "concurrency_key");
    assert_eq!(diagnosis.causes[0].holders, ["k-0", "k-1"]);
    bench.audit().await;
}

/// Every way out of DISPATCHED and RUNNING leaves the key.
#[tokio::test(start_paused = true)]
async fn a_key_is_free_whichever_way_its_holder_ends() {
    for way in [
        "done",
        "failed",
        "retried",
        "cancelled",
        "timeout",
        "lost",
        "given back",
    ] {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 10)).await;
        pass(secs(2)).await;
        let mut holder = keyed("holder", "k", 1, ConcurrencyAction::Queue);
        holder.spec.timeout = secs(5);
        if way == "retried" {
            holder.spec.retry.max_attempts = 2;
            holder.spec.retry.initial_backoff = secs(300);
            holder.spec.retry.max_backoff = secs(300);
        }
        bench.submit(holder).await;
        let attempt = worker.assignment().await;
        let next = keyed("next", "k", 1, ConcurrencyAction::Queue);
        bench.submit(next).await;
        worker.quiet(secs(2)).await;
        match way {
            "done" => worker.finish(&attempt, crate::support::succeeded()).await,
            "failed" | "retried" => worker.finish(&attempt, crate::support::failed("x")).await,
            "cancelled" => {
                let cancelled =
                    bench
                        .engine
                        .cancel_job(&ADMIN, &attempt.job_id, String::new(), None, true);
                cancelled.await.unwrap();
            }
            "timeout" => pass(secs(6)).await,
            "given back" => {
                bench
                    .engine
                    .pause_jobs(&ADMIN, own_tenant(), String::new())
                    .await
                    .unwrap();
                worker.reject(&attempt).await;
                pass(millis(100)).await;
                // It waits again and so does the other one: the key is free for either.
                bench
                    .engine
                    .resume_jobs(&ADMIN, own_tenant())
                    .await
                    .unwrap();
            }
            _ => {
                worker.cut().await;
                worker = bench.connect(hello("w2", &["job.a"], 10)).await;
                let killed =
                    bench
                        .engine
                        .cancel_job(&ADMIN, &attempt.job_id, String::new(), None, false);
                killed.await.unwrap();
                worker.beat_for(secs(40)).await;
            }
        }
        let found = loop {
            match worker.next_within(secs(2)).await {
                Some(ToWorker::Assignment { attempt, .. }) => break attempt,
                Some(_) => {}
                None => panic!("{way}: nothing came"),
            }
        };
        let expected: &[&str] = if way == "given back" {
            &["holder", "next"]
        } else {
            &["next"]
        };
        assert!(
            expected.contains(&found.job_id.as_str()),
            "{way}: {found:?}"
        );
        bench.audit().await;
    }
}

fn own_tenant() -> coretex_core::pause::PauseScope {
    coretex_core::pause::PauseScope {
        tenant: Some(ADMIN.tenant.clone()),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_may_ask_to_be_refused_when_its_key_is_full() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 10)).await;
    pass(secs(2)).await;
    bench
        .submit(keyed("one", "k", 1, ConcurrencyAction::Reject))
        .await;
    let attempt = worker.assignment().await;
    let two = keyed("two", "k", 1, ConcurrencyAction::Reject);
    let refused = bench.engine.submit_job(&ADMIN, two.clone()).await;
    let Err(Error::ConcurrencyLimitReached {
        key,
        limit,
        holders,
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((key.as_str(), limit), ("k", 1));
    assert_eq!(holders, [id("one")]);
    // Nothing was stored; the same request again is answered by what is then.
    assert!(
        bench
            .engine
            .get_job(&ADMIN, &id("two"), true)
            .await
            .is_err()
    );
    let again = bench
        .engine
        .submit_job(&ADMIN, keyed("one", "k", 1, ConcurrencyAction::Reject));
    assert!(again.await.unwrap().replayed);
    assert!(worker.succeed(&attempt).await);
    bench.submit(two).await;
    assert_eq!(worker.assignment().await.job_id, id("two"));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_job_may_take_the_place_of_the_oldest() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 3)).await;
    pass(secs(2)).await;
    let replacing = |name: &str| keyed(name, "k", 2, ConcurrencyAction::CancelOldest);
    bench.submit(replacing("first")).await;
    pass(millis(5)).await;
    bench.submit(replacing("second")).await;
    let attempts = worker.assignments(2).await;
    bench.submit(replacing("third")).await;
    let stopped = worker.cancel().await;
    assert_eq!(stopped, attempts[0]);
    let job = bench.job(&id("first")).await;
    let reason = &job.cancel.as_ref().unwrap().reason;
    assert!(reason.contains("third") && reason.contains('k'), "{reason}");
    worker
        .finish(&stopped, coretex_core::job::transition::Outcome::Cancelled)
        .await;
    assert!(worker.ack().await);
    assert_eq!(worker.assignment().await.job_id, id("third"));
    assert_eq!(bench.state(&id("first")).await, JobState::Cancelled);
    assert!(!bench.state(&id("second")).await.is_terminal());
    // Only one goes for each that comes, and the newest wins also among those that wait.
    bench.submit(replacing("fourth")).await;
    assert_eq!(worker.cancel().await.job_id, id("second"));
    worker.quiet(secs(2)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn room_is_made_also_when_nobody_was_there_to_make_it() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    let replacing = |name: &str| keyed(name, "k", 1, ConcurrencyAction::CancelOldest);
    bench.submit(replacing("first")).await;
    worker.assignment().await;
    // Two that wait: the first of them takes the place, and gives it up to the other.
    bench.submit(replacing("second")).await;
    bench.submit(replacing("third")).await;
    let stopped = worker.cancel().await;
    assert_eq!(stopped.job_id, id("first"));
    worker
        .finish(&stopped, coretex_core::job::transition::Outcome::Cancelled)
        .await;
    assert!(worker.ack().await);
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, id("second"));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_submits_as_fast_as_it_may() {
    let bench = Bench::new().await;
    bench.engine.set_routing(tenant(TenantRule {
        submit_rate: Some(Rate {
            permits: 10,
            per: secs(1),
            burst: 5,
        }),
        ..TenantRule::default()
    }));
    for number in 0..5 {
        bench.submit(named("job.a", &format!("j-{number}"))).await;
    }
    let more = named("job.a", "more");
    let refused = bench.engine.submit_job(&ADMIN, more.clone()).await;
    let Err(Error::SubmitRateExceeded { retry_after }) = refused else {
        panic!("{refused:?}");
    };
    assert!(retry_after <= millis(100), "{retry_after:?}");
    // What was accepted is answered without a permit.
    let again = bench.engine.submit_job(&ADMIN, named("job.a", "j-0")).await;
    assert!(again.unwrap().replayed);
    pass(retry_after + Duration::from_micros(1)).await;
    bench.submit(more).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_topic_is_that_of_the_table_in_force() {
    let bench = Bench::new().await;
    let table = |limit| {
        let rule = TopicRule {
            concurrency: Some(Concurrency {
                key: String::new(),
                limit,
                on_limit: ConcurrencyAction::Queue,
            }),
            ..TopicRule::default()
        };
        let topics = BTreeMap::from([(TopicPattern::parse("job.>").unwrap(), rule)]);
        let none = TenantRule::default();
        Routing::new(topics, BTreeMap::new(), BTreeMap::new(), none).unwrap()
    };
    bench.engine.set_routing(table(1));
    let mut worker = bench.connect(hello("w", &["job.a", "job.b"], 10)).await;
    pass(secs(2)).await;
    for number in 0..4 {
        let topic = ["job.a", "job.b"][number % 2];
        bench.submit(named(topic, &format!("j-{number}"))).await;
    }
    worker.assignment().await;
    worker.quiet(secs(2)).await;
    assert_eq!(bench.cause(&id("j-3")).await, "concurrency_key");
    // Jobs that wait go by a new table at once.
    bench.engine.set_routing(table(3));
    for _ in 0..2 {
        let next = worker.next_within(millis(1_100)).await;
        assert!(
            matches!(next, Some(ToWorker::Assignment { .. })),
            "{next:?}"
        );
    }
    worker.quiet(secs(2)).await;
    bench.engine.set_routing(Routing::default());
    worker.assignment().await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_takes_the_place_only_of_jobs_of_its_own_principal_and_only_one() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 10)).await;
    pass(secs(2)).await;
    let other = crate::support::caller("acme", "key:other", &[coretex_engine::Role::Submitter]);
    for number in 0..3 {
        let name = format!("old-{number}");
        bench
            .submit(keyed(&name, "k", 10, ConcurrencyAction::Queue))
            .await;
        pass(millis(1)).await;
    }
    worker.assignments(3).await;
    let replacing = |name: &str| keyed(name, "k", 1, ConcurrencyAction::CancelOldest);
    bench
        .engine
        .submit_job(&other, replacing("theirs"))
        .await
        .unwrap();
    worker.quiet(secs(3)).await;
    bench.submit(replacing("mine")).await;
    assert_eq!(worker.cancel().await.job_id, id("old-0"));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_never_makes_room_for_itself() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    pass(secs(2)).await;
    // Of one kind but for what they ask for at the limit.
    bench
        .submit(keyed("first", "k", 1, ConcurrencyAction::CancelOldest))
        .await;
    pass(millis(1)).await;
    bench
        .submit(keyed("second", "k", 1, ConcurrencyAction::Queue))
        .await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, id("first"));
    worker.quiet(secs(5)).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(worker.assignment().await.job_id, id("second"));
    bench.audit().await;
}
