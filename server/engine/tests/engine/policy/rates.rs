//! Rates of the policy: exact across replicas, first come first served, and free for everybody else.

use std::time::Duration;

use coretex_core::id::JobId;
use coretex_core::job::{JobState, ScheduledFor};
use coretex_core::policy::Decision;
use coretex_engine::{Engine, SubmitJob};

use super::publishing::{ALLOW, bench, publish};
use crate::support::{ADMIN, Bench, hello, millis, named, pass, request, secs};

/// One job a second, three at once.
const SLOW: &str = "
version: 1
rules:
  - id: slow
    match: {topics: [job.slow]}
    decision: throttle
    rate: {permits: 1, per: 1s, burst: 3, key: tenant}
  - {id: rest, decision: allow}
";

async fn submit(engine: &Engine, request: SubmitJob) -> JobId {
    let submitted = engine.submit_job(&ADMIN, request).await.unwrap();
    submitted.answer.job.id.clone()
}

/// When a job was let in, in milliseconds since `since`.
async fn let_in(bench: &Bench, id: &JobId, since: coretex_core::time::Timestamp) -> u64 {
    let job = bench.job(id).await;
    let decision = job.decision.as_ref().unwrap();
    assert!(decision.allows(), "{id}: {decision:?}");
    assert_eq!(decision.rule_id, "slow");
    decision.time.since(since).as_millis() as u64
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_in_its_burst_and_then_one_after_another_in_order() {
    let bench = bench().await;
    let (other, _tap) = bench.apart().await.unwrap();
    let engines = [bench.engine.clone(), other];
    publish(&bench.engine, "b", SLOW).await;
    pass(secs(2)).await;
    let begun = bench.now();
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(submit(&engines[n % 2], request("job.slow")).await);
        pass(millis(10)).await;
    }
    for (n, id) in ids.iter().enumerate() {
        let job = bench.job(id).await;
        let expected = if n < 3 {
            JobState::Pending
        } else {
            JobState::Scheduled
        };
        assert_eq!(job.state, expected, "job {n}");
        if n >= 3 {
            assert_eq!(job.scheduled_for, Some(ScheduledFor::Throttle));
            assert_eq!(bench.cause(id).await, "throttled");
        }
    }
    pass(secs(15)).await;
    let mut last = 0;
    for (n, id) in ids.iter().enumerate() {
        let at = let_in(&bench, id, begun).await;
        // Three at once, then one for each second since the first.
        let earliest = (n as u64).saturating_sub(2) * 1_000;
        assert!(at >= earliest, "job {n} after {at} ms");
        assert!(at <= earliest + 2_200, "job {n} only after {at} ms");
        assert!(at >= last, "job {n} overtook");
        last = at;
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let bench = bench().await;
    publish(&bench.engine, "b", SLOW).await;
    let begun = bench.now();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(submit(&bench.engine, request("job.slow")).await);
        pass(millis(1)).await;
    }
    // Again and again somebody asks just when a permit is there.
    for _ in 0..20 {
        pass(millis(250)).await;
        ids.push(submit(&bench.engine, request("job.slow")).await);
    }
    pass(secs(60)).await;
    let mut times = Vec::new();
    for id in &ids {
        times.push(let_in(&bench, id, begun).await);
    }
    assert!(times.is_sorted(), "{times:?}");
    let by_then = |ms: u64| times.iter().filter(|at| **at <= ms).count() as u64;
    for second in 0..28 {
        assert!(by_then(second * 1_000) <= 3 + second, "{second}: {times:?}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_the_line_makes_room_for_the_next() {
    let bench = bench().await;
    publish(&bench.engine, "b", SLOW).await;
    let begun = bench.now();
    let mut ids = Vec::new();
    for _ in 0..13 {
        ids.push(submit(&bench.engine, request("job.slow")).await);
        pass(millis(1)).await;
    }
    for id in &ids[3..12] {
        let grace = Duration::ZERO;
        bench
            .engine
            .cancel_job(&ADMIN, id, String::new(), Some(grace), true)
            .await
            .unwrap();
    }
    pass(secs(30)).await;
    // Its own time was ten seconds off; the line before it is empty.
    let at = let_in(&bench, &ids[12], begun).await;
    assert!((1_000..=12_500).contains(&at), "{at}");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_go_by_the_policy_of_their_time() {
    for (content, state, decision) in [
        (ALLOW, JobState::Pending, Decision::Allow),
        (super::publishing::DENY, JobState::Denied, Decision::Deny),
    ] {
        let bench = bench().await;
        publish(&bench.engine, "b", SLOW).await;
        let mut last = JobId::parse("x").unwrap();
        for _ in 0..6 {
            last = submit(&bench.engine, request("job.slow")).await;
        }
        publish(&bench.engine, "b", content).await;
        pass(secs(10)).await;
        let job = bench.job(&last).await;
        assert_eq!(job.state, state);
        assert_eq!(job.decision.as_ref().unwrap().decision, decision);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_takes_one_permit_however_often_it_is_tried_or_judged() {
    let bench = bench().await;
    publish(&bench.engine, "b", SLOW).await;
    let mut worker = bench.connect(hello("w", &["job.slow"], 1)).await;
    let mut job = named("job.slow", "again");
    job.spec.retry.max_attempts = 3;
    job.spec.retry.initial_backoff = millis(100);
    let id = submit(&bench.engine, job).await;
    for _ in 0..2 {
        let attempt = worker.assignment().await;
        worker.fail(&attempt, "boom").await;
        // The policy moves, and asks for the same rate.
        publish(
            &bench.engine,
            "b",
            &format!("{SLOW}# {}\n", bench.now().as_micros()),
        )
        .await;
    }
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&id).await, JobState::Succeeded);
    // Two of the three permits are left.
    let mut states = Vec::new();
    for _ in 0..3 {
        let id = submit(&bench.engine, request("job.slow")).await;
        states.push(bench.job(&id).await.decision.as_ref().unwrap().allows());
    }
    assert_eq!(states[..2], [true, true]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_worker_takes_its_permit_when_a_new_policy_asks_for_one() {
    let bench = bench().await;
    publish(&bench.engine, "b", ALLOW).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(submit(&bench.engine, request("job.slow")).await);
    }
    publish(&bench.engine, "b", SLOW).await;
    let mut worker = bench.connect(hello("w", &["job.slow"], 10)).await;
    let begun = bench.now();
    let first = worker.assignments(3).await;
    assert_eq!(first.len(), 3);
    assert!(bench.now().since(begun) < millis(2_500));
    let others = worker.assignments(3).await;
    assert_eq!(others.len(), 3);
    let took = bench.now().since(begun);
    assert!(took >= millis(2_000) && took < millis(6_000), "{took:?}");
    for id in &ids {
        assert!(bench.job(id).await.state.is_held());
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn keys_tell_apart_and_others_pay_nothing() {
    let bench = bench().await;
    let by_model = "
version: 1
rules:
  - id: slow
    match: {topics: [job.slow]}
    decision: throttle
    rate: {permits: 1, per: 1h, key: {cel: labels.model}}
  - {id: rest, decision: allow}
";
    publish(&bench.engine, "b", by_model).await;
    for (model, state) in [
        ("large", JobState::Pending),
        ("small", JobState::Pending),
        ("large", JobState::Scheduled),
        ("small", JobState::Scheduled),
    ] {
        let mut job = request("job.slow");
        job.spec.labels.insert("model".to_owned(), model.to_owned());
        let id = submit(&bench.engine, job).await;
        assert_eq!(bench.state(&id).await, state, "{model}");
    }
    // A job that no throttling rule matches: one commit to accept it and hand it out, one for its
    // result, as without rules.
    let mut worker = bench.connect(hello("w", &["job.fast"], 1)).await;
    pass(secs(3)).await;
    let (commits, reads) = (bench.tap.commits(), bench.tap.reads());
    submit(&bench.engine, request("job.fast")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.tap.commits() - commits, 2);
    assert_eq!(bench.tap.reads() - reads, 0);
    bench.audit().await;
}
