//! The policy snapshot moves: nothing is accepted or handed out under one that is no longer in force.

mod files;
mod history;
mod publishing;
mod rates;

use std::sync::Arc;

use coretex_core::job::history::EventType;
use coretex_core::job::{Job, JobState};
use coretex_engine::Error;
use coretex_store::layers::Fault;

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, hello, millis, named, pass, request, secs,
};

async fn scripted() -> (Bench, Arc<Script>) {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    (bench, kernel)
}

/// Another snapshot comes into force, and the kernel has it.
async fn moves(bench: &Bench, kernel: &Script, answer: Answer) {
    bench.enforce("script-2").await;
    kernel.publish("script-2");
    kernel.say(answer);
}

fn snapshot(job: &Job) -> &str {
    &job.decision.as_ref().unwrap().policy_snapshot
}

#[tokio::test(start_paused = true)]
async fn a_job_is_judged_again_when_the_policy_moves_before_it_is_accepted() {
    // Into the queue, and past it to a free slot.
    for fast in [false, true] {
        for answer in [Answer::Allow, Answer::Deny] {
            let (bench, kernel) = scripted().await;
            let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
            pass(secs(2)).await;
            let topic = if fast { "job.a" } else { "job.other" };
            bench.faulty.script([Fault::Delay(millis(500))]);
            let engine = bench.engine.clone();
            let job = request(topic);
            let submit = tokio::spawn(async move { engine.submit_job(&ADMIN, job).await });
            pass(millis(100)).await;
            assert_eq!(kernel.asked(), 1);
            moves(&bench, &kernel, answer).await;
            let job = submit.await.unwrap().unwrap().answer.job;
            assert_eq!(kernel.asked(), 2);
            let state = match (answer, fast) {
                (Answer::Allow, true) => JobState::Dispatched,
                (Answer::Allow, false) => JobState::Pending,
                _ => JobState::Denied,
            };
            assert_eq!((job.state, snapshot(&job)), (state, "script-2"));
            // The first verdict was never in force.
            assert!(job.decisions.is_empty());
            if state == JobState::Dispatched {
                let attempt = worker.assignment().await;
                assert!(worker.succeed(&attempt).await);
            }
            worker.quiet(secs(3)).await;
            // The slot is free again.
            kernel.say(Answer::Allow);
            bench.submit(named("job.a", "next")).await;
            assert_eq!(worker.assignment().await.job_id.as_str(), "next");
            bench.audit().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_judged_again_when_the_policy_moves_before_its_commit() {
    for answer in [Answer::Allow, Answer::Deny] {
        let (bench, kernel) = scripted().await;
        let id = bench.job_of(request("job.a")).await;
        pass(secs(2)).await;
        bench.faulty.script([Fault::Delay(millis(500))]);
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        pass(millis(100)).await;
        // The claim is under way, and its verdict is the one of the submit.
        assert_eq!(kernel.asked(), 1);
        moves(&bench, &kernel, answer).await;
        if answer == Answer::Allow {
            assert_eq!(worker.assignment().await.attempt, 1);
        } else {
            worker.quiet(secs(3)).await;
        }
        assert_eq!(kernel.asked(), 2);
        let job = bench.job(&id).await;
        let dispatched = job
            .events
            .iter()
            .filter(|event| event.kind == EventType::Dispatched)
            .count();
        let (state, handed) = match answer {
            Answer::Allow => (JobState::Dispatched, 1),
            _ => (JobState::Denied, 0),
        };
        assert_eq!((job.state, dispatched), (state, handed));
        assert_eq!(snapshot(&job), "script-2");
        let before = job.decisions.last().unwrap();
        assert_eq!(before.policy_snapshot, "script-1");
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_is_judged_again_under_the_policy_of_its_claim() {
    for (answer, state) in [
        (Answer::Allow, JobState::Dispatched),
        (Answer::Deny, JobState::Denied),
        (Answer::Approval, JobState::ApprovalRequired),
        (Answer::Throttle(secs(60)), JobState::Scheduled),
        (Answer::Trouble, JobState::Pending),
    ] {
        let (bench, kernel) = scripted().await;
        let id = bench.job_of(request("job.a")).await;
        moves(&bench, &kernel, answer).await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        pass(millis(500)).await;
        assert_eq!(bench.state(&id).await, state);
        assert_eq!(kernel.asked(), 2);
        if state == JobState::Dispatched {
            worker.assignment().await;
        }
        worker.quiet(millis(100)).await;
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_is_behind_accepts_nothing_until_it_has_caught_up() {
    let (bench, kernel) = scripted().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    bench.enforce("script-2").await;
    let refused = bench.engine.submit_job(&ADMIN, request("job.a")).await;
    assert_eq!(refused.err(), Some(Error::Contention));
    worker.quiet(secs(3)).await;
    kernel.publish("script-2");
    let job = bench.submit(request("job.a")).await.answer.job;
    assert_eq!(snapshot(&job), "script-2");
    worker.assignment().await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_behind_does_not_claim_without_end() {
    let (bench, kernel) = scripted().await;
    bench.enforce("script-2").await;
    kernel.publish("script-2");
    let id = bench.job_of(request("job.a")).await;
    kernel.publish("script-1");
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let before = bench.tap.commits();
    worker.quiet(secs(20)).await;
    let tries = bench.tap.commits() - before;
    assert!((20..=40).contains(&tries), "{tries} claims in 20 s");
    kernel.publish("script-2");
    pass(secs(1)).await;
    assert_eq!(worker.assignment().await.job_id, id);
    bench.audit().await;
}
