//! Counters of the past: what conditions see of them, and that they do not grow without end.

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::policy::Decision;

use super::publishing::{bench, publish};
use crate::support::{ADMIN, Bench, pass, request, secs};

const FEW: &str = "
version: 1
counters:
  - {id: recent, key: principal, window: 1m}
rules:
  - id: enough
    match: {topics: [job.spend]}
    when: history.recent >= 3
    decision: deny
  - {id: rest, decision: allow}
";

async fn submit(bench: &Bench, topic: &str) -> Decision {
    let submitted = bench.submit(request(topic)).await;
    let id: JobId = submitted.answer.job.id.clone();
    bench.job(&id).await.decision.as_ref().unwrap().decision
}

#[tokio::test(start_paused = true)]
async fn a_condition_sees_what_was_accepted_within_the_window() {
    let bench = bench().await;
    publish(&bench.engine, "b", FEW).await;
    for n in 0..3 {
        assert_eq!(submit(&bench, "job.spend").await, Decision::Allow, "{n}");
        pass(secs(10)).await;
    }
    // What is denied is not counted.
    for _ in 0..3 {
        assert_eq!(submit(&bench, "job.spend").await, Decision::Deny);
    }
    // The first has left the window.
    pass(secs(31)).await;
    assert_eq!(submit(&bench, "job.spend").await, Decision::Allow);
    assert_eq!(submit(&bench, "job.spend").await, Decision::Deny);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_a_rule_that_reads_a_counter_costs_a_read() {
    let bench = bench().await;
    publish(&bench.engine, "b", FEW).await;
    pass(secs(3)).await;
    let reads = bench.tap.reads();
    bench.submit(request("job.other")).await;
    assert_eq!(bench.tap.reads() - reads, 0);
    bench.submit(request("job.spend")).await;
    assert_eq!(bench.tap.reads() - reads, 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_window_reaches_is_removed_and_so_are_empty_counters() {
    let bench = bench().await;
    publish(&bench.engine, "b", FEW).await;
    for _ in 0..600 {
        bench.submit(request("job.other")).await;
    }
    let before = bench.audit().await;
    assert_eq!((before.members["past"], before.members["pasts"]), (600, 1));
    pass(secs(90)).await;
    let after = bench.audit().await;
    assert_eq!((after.members["past"], after.members["pasts"]), (0, 0));
    assert_eq!(submit(&bench, "job.spend").await, Decision::Allow);
}

#[tokio::test(start_paused = true)]
async fn while_counters_cannot_be_read_a_job_waits_for_its_verdict() {
    let bench = bench().await;
    publish(&bench.engine, "b", FEW).await;
    bench.tap.slow_reads(secs(0));
    let submitted = bench
        .engine
        .submit_job(&ADMIN, request("job.spend"))
        .await
        .unwrap();
    assert_eq!(submitted.answer.job.state, JobState::Pending);
}
