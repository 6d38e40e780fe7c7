//! How long dead letters are kept, and what goes first when there is no room.

use coretex_core::id::JobId;
use coretex_core::payload::Payload;
use coretex_engine::{DlqFilter, Retention, SubmitJob};
use coretex_store::Store;

use super::ids;
use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, hello, jump, keyed, millis, named, pass, secs, with,
};

fn keeping(jobs: u64, dead_letters: u64) -> Retention {
    Retention {
        jobs: secs(jobs),
        dead_letters: secs(dead_letters),
        ..Retention::default()
    }
}

async fn kept(bench: &Bench, id: &JobId) -> bool {
    bench.engine.get_job(&ADMIN, id, false).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_kept_for_the_longer_of_both_retentions() {
    for (jobs, dead_letters) in [(100, 1_000), (1_000, 100)] {
        let kernel = Script::new(Answer::Deny);
        let bench = Bench::with(Setup {
            retention: keeping(jobs, dead_letters),
            kernel: kernel.clone(),
            ..Setup::default()
        })
        .await;
        let dead = bench.job_of(keyed("job.a", "dead")).await;
        let deleted = bench.job_of(keyed("job.a", "deleted")).await;
        let retried = bench.job_of(keyed("job.a", "retried")).await;
        kernel.say(Answer::Allow);
        let cancelled = bench.job_of(keyed("job.a", "cancelled")).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &cancelled, String::new(), None, false);
        cancel.await.unwrap();
        bench
            .engine
            .delete_dlq_entry(&ADMIN, &deleted)
            .await
            .unwrap();
        let edits = coretex_engine::JobEdits::default();
        let retry = bench
            .engine
            .retry_dlq_entry(&ADMIN, &retried, edits, String::new());
        let new = retry.await.unwrap().answer.job.id.clone();
        jump(secs(jobs.min(dead_letters) + 20)).await;
        // What was dealt with lives as long as any other that has ended.
        for id in [&deleted, &retried, &cancelled] {
            assert_eq!(kept(&bench, id).await, jobs > dead_letters);
        }
        assert!(kept(&bench, &dead).await, "{jobs} {dead_letters}");
        assert_eq!(
            ids(&bench, &DlqFilter::default()).await,
            std::slice::from_ref(&dead)
        );
        jump(secs(1_000)).await;
        assert!(!kept(&bench, &dead).await);
        assert!(ids(&bench, &DlqFilter::default()).await.is_empty());
        assert!(kept(&bench, &new).await, "an open job is never deleted");
        let audit = bench.audit().await;
        assert_eq!(audit.jobs.len(), 1);
        assert_eq!(audit.members.get("dlq").copied().unwrap_or(0), 0);
        assert_eq!(audit.members.get("dead").copied().unwrap_or(0), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_stays_until_its_worker_has_answered_for_its_slot() {
    let bench = Bench::with(Setup {
        retention: keeping(60, 60),
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let slow = with("job.a", |spec| spec.timeout = secs(5));
    let id = bench.job_of(slow).await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    assert_eq!(
        ids(&bench, &DlqFilter::default()).await,
        std::slice::from_ref(&id)
    );
    worker.beat_for(secs(200)).await;
    assert!(kept(&bench, &id).await, "its slot is not free");
    let audit = bench.audit().await;
    assert_eq!((audit.members["dlq"], audit.held.len()), (1, 1));
    worker
        .finish(&attempt, coretex_core::job::transition::Outcome::Cancelled)
        .await;
    assert!(!worker.ack().await);
    pass(secs(10)).await;
    assert!(!kept(&bench, &id).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_byte_budget_takes_dead_letters_last_and_the_oldest_first() {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::new().await;
    let empty = bench.base.usage().await.unwrap().bytes;
    drop(bench);
    let bench = Bench::with(Setup {
        retention: Retention {
            byte_budget: empty + 4 * 1024 * 1024,
            ..Retention::default()
        },
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let large = |name: String| SubmitJob {
        input: Some(Payload::json(vec![b'1'; 32 * 1024].into())),
        ..named("job.a", &name)
    };
    for number in 0..40 {
        kernel.say(Answer::Deny);
        bench.submit(large(format!("dead-{number:03}"))).await;
        kernel.say(Answer::Allow);
        let id = bench.job_of(large(format!("done-{number:03}"))).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &id, String::new(), None, false);
        cancel.await.unwrap();
        pass(millis(20)).await;
    }
    // A little more than fits: what nobody has to look at makes room.
    kernel.say(Answer::Deny);
    for number in 40..100 {
        bench.submit(large(format!("dead-{number:03}"))).await;
        pass(millis(20)).await;
    }
    pass(secs(30)).await;
    let left = bench.audit().await.jobs;
    let dead = left.iter().filter(|job| job.dead_letter.is_some()).count();
    assert_eq!(dead, 100, "{} are left", left.len());
    assert!((100..140).contains(&left.len()), "{} are left", left.len());
    for number in 100..300 {
        bench.submit(large(format!("dead-{number:03}"))).await;
        pass(millis(20)).await;
    }
    pass(secs(30)).await;
    let mut left: Vec<String> = bench
        .audit()
        .await
        .jobs
        .iter()
        .map(|job| job.id.to_string())
        .collect();
    left.sort();
    let newest: Vec<String> = (300 - left.len()..300)
        .map(|n| format!("dead-{n:03}"))
        .collect();
    assert_eq!(left, newest, "the newest stay");
    assert!((30..200).contains(&left.len()), "{} are left", left.len());
}
