//! Nothing grows for ever.

use std::collections::BTreeSet;

use bytes::Bytes;
use coretex_core::job::JobState;
use coretex_core::payload::Payload;
use coretex_engine::{Error, JobFilter, PageRequest, Retention};
use coretex_store::{Order, Range, Shard, Store};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, hello, jump, keyed, millis, named, pass, request, secs,
    with,
};

fn keeping(time: std::time::Duration) -> Setup {
    Setup {
        retention: Retention {
            jobs: time,
            dead_letters: time,
            ..Retention::default()
        },
        ..Setup::default()
    }
}

async fn sys_members(bench: &Bench) -> usize {
    let mut count = 0;
    for index in bench.names.indexes(Shard::Sys) {
        let range = [Range::all(index)];
        let found = bench
            .base
            .range(Shard::Sys, &range, 1_000, Order::Ascending)
            .await;
        count += found.unwrap().value[0].len();
    }
    count
}

/// Jobs that end in every way, some with everything that a job can leave behind.
async fn every_end(bench: &Bench, kernel: &Script) {
    let mut worker = bench.connect(hello("w", &["job.a"], 20)).await;
    let large = || Some(Payload::json(Bytes::from(vec![b'1'; 40 * 1024])));
    let done = coretex_core::job::transition::Outcome::Succeeded { output: large() };
    for name in ["success", "failure", "timeout", "cancel", "retried", "lost"] {
        let mut job = keyed("job.a", name);
        job.job_id = Some(crate::support::id(name));
        job.input = large();
        job.spec.on_worker_loss = coretex_core::job::WorkerLossPolicy::Fail;
        if name == "timeout" {
            job.spec.timeout = secs(2);
        }
        if name == "retried" {
            job.spec.retry.max_attempts = 2;
        }
        bench.submit(job).await;
        let attempt = worker.assignment().await;
        match name {
            "success" => {
                worker.finish(&attempt, done.clone()).await;
                assert!(worker.ack().await);
            }
            "failure" => assert!(worker.fail(&attempt, "x").await),
            "retried" => {
                assert!(worker.fail(&attempt, "x").await);
                let attempt = worker.assignment().await;
                worker.finish(&attempt, done.clone()).await;
                assert!(worker.ack().await);
            }
            "cancel" => {
                let id = attempt.job_id.clone();
                let cancel = bench
                    .engine
                    .cancel_job(&ADMIN, &id, String::new(), None, true);
                cancel.await.unwrap();
                assert_eq!(worker.revoke().await, attempt);
            }
            "timeout" => assert_eq!(worker.revoke().await, attempt),
            _ => {}
        }
    }
    kernel.say(Answer::Deny);
    bench.submit(keyed("job.a", "denied")).await;
    kernel.say(Answer::Allow);
    let unstarted = with("job.b", |spec| spec.schedule_to_start_timeout = secs(1));
    bench.submit(unstarted).await;
    worker.cut().await;
    pass(secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_job_stays_until_its_worker_has_answered_for_its_slot() {
    let bench = Bench::with(keeping(secs(600))).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(keyed("job.a", "held")).await;
    let attempt = worker.assignment().await;
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &id, String::new(), None, true);
    cancel.await.unwrap();
    assert_eq!(worker.revoke().await, attempt);
    // The worker is alive and says nothing of the attempt: its slot is not free, and the record
    // that says so is kept.
    worker.beat_for(secs(1_000)).await;
    assert_eq!(bench.state(&id).await, JobState::Cancelled);
    let next = bench.job_of(keyed("job.a", "next")).await;
    worker.quiet(secs(2)).await;
    worker
        .finish(&attempt, coretex_core::job::transition::Outcome::Cancelled)
        .await;
    assert!(!worker.ack().await);
    let second = worker.assignment().await;
    assert_eq!(second.job_id, next);
    assert!(worker.succeed(&second).await);
    pass(secs(10)).await;
    let gone = bench.engine.get_job(&ADMIN, &id, false).await;
    assert_eq!(gone.err(), Some(Error::no_job(id.as_str())));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn after_retention_nothing_of_an_ended_job_remains() {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..keeping(secs(3_600))
    })
    .await;
    let before = bench.audit().await;
    let sys = sys_members(&bench).await;
    assert_eq!(before.records.get("job"), None);
    every_end(&bench, &kernel).await;
    let full = bench.audit().await;
    assert_eq!(full.jobs.len(), 8);
    assert!(full.jobs.iter().all(|job| job.state.is_terminal()));
    let states: BTreeSet<JobState> = full.jobs.iter().map(|job| job.state).collect();
    assert_eq!(states.len(), 5, "{states:?}");
    jump(secs(3_500)).await;
    assert_eq!(bench.audit().await.jobs.len(), 8, "not before its time");
    jump(secs(120)).await;
    let after = bench.audit().await;
    assert_eq!(
        after.members.values().sum::<usize>(),
        0,
        "{:?}",
        after.members
    );
    let mut records = after.records.clone();
    // Keys live for a day.
    assert_eq!(records.remove("idem"), Some(7));
    assert_eq!(records, before.records);
    jump(secs(24 * 3_600)).await;
    let last = bench.audit().await;
    assert_eq!(last.records, before.records);
    assert_eq!(sys_members(&bench).await, sys);
}

#[tokio::test(start_paused = true)]
async fn jobs_kept_longer_than_a_day_take_their_keys_with_them() {
    let bench = Bench::with(keeping(secs(3 * 24 * 3_600))).await;
    let id = bench.job_of(keyed("job.a", "k")).await;
    jump(secs(2 * 24 * 3_600)).await;
    // Two days old: the key still answers.
    assert!(bench.submit(keyed("job.a", "k")).await.replayed);
    let ended = bench.state(&id).await;
    assert_eq!(ended, JobState::Timeout);
    jump(secs(3 * 24 * 3_600)).await;
    let after = bench.audit().await;
    assert_eq!(after.records.get("idem"), None);
    assert_eq!(after.members.values().sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn open_jobs_are_never_deleted() {
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: secs(1),
            byte_budget: 1,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    worker.assignment().await;
    let later = bench.now() + secs(3_600);
    bench.submit(request("job.b")).await;
    let job = with("job.b", |spec| spec.not_before = Some(later));
    bench.submit(job).await;
    worker.beat_for(secs(60)).await;
    assert_eq!(bench.audit().await.jobs.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn retention_goes_on_after_a_restart() {
    let mut bench = Bench::with(keeping(secs(60))).await;
    for number in 0..300 {
        let id = bench.job_of(named("job.a", &format!("j{number}"))).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &id, String::new(), None, false);
        cancel.await.unwrap();
    }
    bench.crash().await;
    jump(secs(70)).await;
    assert_eq!(bench.audit().await.jobs.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn deleting_is_rate_limited() {
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: secs(30),
            deletes_per_second: 512,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    for _ in 0..2_000 {
        let id = bench.job_of(request("job.a")).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &id, String::new(), None, false);
        cancel.await.unwrap();
    }
    pass(secs(34)).await;
    let left = bench.audit().await.jobs.len();
    assert!(
        (400..=1_500).contains(&left),
        "{left} are left after about two seconds"
    );
    pass(secs(5)).await;
    assert_eq!(bench.audit().await.jobs.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_byte_budget_deletes_the_oldest_first_and_stops() {
    let bench = Bench::new().await;
    let empty = bench.base.usage().await.unwrap().bytes;
    drop(bench);
    let budget = empty + 24 * 1024 * 1024;
    let bench = Bench::with(Setup {
        retention: Retention {
            byte_budget: budget,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    // Twice as much as there is room for.
    for number in 0..1_500_u32 {
        let mut job = named("job.a", &format!("j{number:05}"));
        job.input = Some(Payload::json(Bytes::from(vec![b'1'; 32 * 1024])));
        let id = bench.job_of(job).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &id, String::new(), None, false);
        cancel.await.unwrap();
        pass(millis(20)).await;
    }
    pass(secs(60)).await;
    let audit = bench.audit().await;
    let mut left: Vec<String> = audit.jobs.iter().map(|job| job.id.to_string()).collect();
    left.sort();
    assert!(!left.is_empty(), "everything was deleted");
    assert!(left.len() < 1_400, "{} are left", left.len());
    let first = 1_500 - left.len();
    let newest: Vec<String> = (first..1_500)
        .map(|number| format!("j{number:05}"))
        .collect();
    assert_eq!(left, newest, "the newest stay");
    let used: u64 = audit
        .jobs
        .iter()
        .map(|job| job.input.as_ref().unwrap().size())
        .sum();
    assert!(used <= budget, "{used} of {budget}");
    assert!(
        used >= budget / 4,
        "{used} of {budget}: more was deleted than needed"
    );
}

#[tokio::test(start_paused = true)]
async fn the_log_is_trimmed() {
    let bench = Bench::with(Setup {
        retention: Retention {
            log_entries: 100,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    for _ in 0..1_000 {
        bench.submit(request("job.a")).await;
    }
    pass(secs(11)).await;
    let page = bench
        .base
        .tail(Shard::Data(0), 0, 10_000)
        .await
        .unwrap()
        .value;
    assert_eq!((page.first, page.next), (901, 1_001));
    assert_eq!(page.entries.len(), 100);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_may_be_used_again_after_its_job_is_gone() {
    let bench = Bench::with(keeping(secs(60))).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    for round in 0..3 {
        let submitted = bench.submit(named("job.a", "again")).await;
        assert!(!submitted.replayed, "round {round}");
        let attempt = worker.assignment().await;
        assert!(worker.succeed(&attempt).await);
        worker.beat_for(secs(65)).await;
        bench.audit().await;
    }
}

/// Whoever reads while retention deletes finds the job whole, or not at all.
#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_while_it_is_read_is_not_found() {
    for offset in 16..40 {
        let bench = Bench::with(keeping(secs(60))).await;
        let large = Payload::json(vec![b'1'; 30 * 1024].into());
        let mut job = request("job.a");
        job.input = Some(large.clone());
        let id = bench.job_of(job).await;
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &id, String::new(), None, false);
        cancel.await.unwrap();
        pass(secs(50)).await;
        bench.tap.slow_reads(secs(2));
        pass(offset * millis(500)).await;
        let page = PageRequest {
            size: 10,
            token: String::new(),
        };
        let filter = JobFilter::default();
        let (found, listed) = tokio::join!(
            bench.engine.get_job(&ADMIN, &id, true),
            bench.engine.list_jobs(&ADMIN, &filter, page, true),
        );
        match found {
            Ok(found) => assert_eq!(found.job.input, Some(large)),
            Err(error) => assert_eq!(error, Error::no_job(id.as_str()), "{offset}"),
        }
        assert!(listed.is_ok(), "{offset}: {listed:?}");
    }
}
