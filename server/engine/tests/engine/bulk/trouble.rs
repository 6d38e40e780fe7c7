//! Operations on many that are interrupted, refused, repeated and resumed.

use std::time::Duration;

use coretex_core::job::JobState;
use coretex_engine::{BulkOptions, DlqFilter, Error, JobEdits, JobFilter, Limits, Role};
use coretex_store::CommitError;
use coretex_store::layers::Fault;

use super::{cancel, counts, done, drain, made, of_topic, rate, rerun, retry, submit, waiting};
use crate::dlq::ids;
use crate::support::{ADMIN, Answer, Bench, Script, Setup, caller, hello, id, named, pass, secs};

#[tokio::test(start_paused = true)]
async fn an_operation_stops_when_nobody_reads_and_goes_on_from_its_token() {
    let bench = Bench::new().await;
    submit(&bench, "job.a", 100).await;
    let mut stream = cancel(&bench, &of_topic("job.a"), rate(10)).await.unwrap();
    let mut token = String::new();
    while token.is_empty() {
        let next = stream.recv().await.unwrap().unwrap();
        if next.done >= 20 {
            token = next.page_token;
        }
    }
    drop(stream);
    pass(secs(5)).await;
    let left = waiting(&bench).await;
    assert!((70..=80).contains(&left), "{left} are left");
    let resumed = BulkOptions {
        page_token: token.clone(),
        ..BulkOptions::default()
    };
    let last = done(cancel(&bench, &of_topic("job.a"), resumed.clone()).await).await;
    assert!(last.done >= 90 && last.failed == 0, "{last:?}");
    assert_eq!(waiting(&bench).await, 0);
    // The token belongs to the filter, the operation and the tenant.
    let other = of_topic("job.b");
    let foreign = cancel(&bench, &other, resumed.clone()).await;
    assert_eq!(foreign.err(), Some(Error::PageTokenInvalid));
    let foreign = rerun(&bench, &of_topic("job.a"), resumed.clone()).await;
    assert_eq!(foreign.err(), Some(Error::PageTokenInvalid));
    let stranger = caller("other", "key:x", &[Role::Admin]);
    let filter = of_topic("job.a");
    let foreign = bench
        .engine
        .cancel_jobs(&stranger, &filter, String::new(), None, false, resumed);
    assert_eq!(foreign.await.err(), Some(Error::PageTokenInvalid));
    let junk = BulkOptions {
        page_token: "junk".to_owned(),
        ..BulkOptions::default()
    };
    let junk = cancel(&bench, &of_topic("job.a"), junk).await;
    assert_eq!(junk.err(), Some(Error::PageTokenInvalid));
}

#[tokio::test(start_paused = true)]
async fn a_rerun_that_was_interrupted_and_repeated_makes_no_doubles() {
    for by_token in [true, false] {
        let bench = Bench::new().await;
        let mut old = submit(&bench, "job.a", 60).await;
        old.sort();
        done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
        let ended = JobFilter {
            states: vec![JobState::Cancelled],
            ..of_topic("job.a")
        };
        let mut options = rate(20);
        // It breaks off again and again, each time after a second or so.
        for _ in 0..20 {
            let mut stream = rerun(&bench, &ended, options.clone()).await.unwrap();
            let first = stream.recv().await.unwrap().unwrap();
            options.idempotency_key = first.idempotency_key;
            let broken = tokio::time::timeout(secs(1), async {
                let mut last = String::new();
                while let Some(next) = stream.recv().await {
                    let next = next.unwrap();
                    if next.finished {
                        return None;
                    }
                    last = next.page_token;
                    if by_token {
                        options.page_token.clone_from(&last);
                    }
                }
                Some(last)
            });
            if broken.await.is_ok_and(|broken| broken.is_none()) {
                break;
            }
            if !by_token {
                // Without the token it begins again; give it the time to come further.
                options.rate += 20;
            }
        }
        assert_eq!(made(&bench).await, old, "by token: {by_token}");
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_item_refuses_is_told_and_the_others_are_done() {
    let bench = Bench::new().await;
    for number in 0..15 {
        let mut job = named("job.a", &format!("j{number:02}"));
        if number != 7 {
            // One label more is one too many.
            job.spec.labels = (0..64).map(|n| (format!("l{n}"), String::new())).collect();
        }
        bench.submit(job).await;
    }
    done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
    let edits = JobEdits {
        add_labels: [("new".to_owned(), String::new())].into(),
        ..JobEdits::default()
    };
    let filter = of_topic("job.a");
    let options = BulkOptions::default();
    let stream = bench.engine.rerun_jobs(&ADMIN, &filter, edits, options);
    let last = done(stream.await).await;
    assert_eq!(counts(&last), [15, 1, 0, 14]);
    assert_eq!(last.failures.len(), 10, "the first of them");
    assert!(matches!(&last.failures[0], (job, Error::Invalid(_)) if *job == id("j00")));
    assert_eq!(made(&bench).await, [id("j07")]);
}

#[tokio::test(start_paused = true)]
async fn what_would_stop_the_next_too_ends_the_operation_which_can_go_on() {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        limits: Limits {
            max_waiting_jobs: 25,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let mut old = submit(&bench, "job.a", 60).await;
    old.sort();
    kernel.say(Answer::Allow);
    let all = DlqFilter::default();
    let mut options = BulkOptions::default();
    let mut rounds = 0;
    loop {
        let (last, error) = drain(retry(&bench, &all, options.clone()).await.unwrap()).await;
        rounds += 1;
        if error.is_none() {
            assert!(last.finished);
            break;
        }
        assert_eq!(error, Some(Error::TooManyWaitingJobs { limit: 25 }));
        assert!(!last.page_token.is_empty());
        options.page_token = last.page_token;
        // The queue is worked off.
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        while waiting(&bench).await > 0 {
            let attempt = worker.assignment().await;
            assert!(worker.succeed(&attempt).await);
        }
        if let Some(coretex_engine::ToWorker::Assignment { attempt, .. }) =
            worker.next_within(secs(1)).await
        {
            assert!(worker.succeed(&attempt).await);
        }
        worker.cut().await;
        pass(secs(20)).await;
    }
    assert!(rounds >= 3, "{rounds}");
    assert_eq!(made(&bench).await, old);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_in_between_costs_no_double_and_no_loss() {
    for fault in [
        Fault::Before(CommitError::Unavailable {
            reason: "test".to_owned(),
        }),
        Fault::After,
        Fault::Late(Duration::from_millis(300)),
    ] {
        for position in [0, 3, 11] {
            let kernel = Script::new(Answer::Deny);
            let bench = Bench::with(Setup {
                kernel: kernel.clone(),
                resend: false,
                ..Setup::default()
            })
            .await;
            let mut old = submit(&bench, "job.a", 12).await;
            old.sort();
            kernel.say(Answer::Allow);
            let mut script = vec![Fault::None; position];
            script.push(fault.clone());
            bench.faulty.script(script);
            let all = DlqFilter::default();
            let (last, error) =
                drain(retry(&bench, &all, BulkOptions::default()).await.unwrap()).await;
            assert!(error.is_some(), "{fault:?} at {position}");
            pass(secs(1)).await;
            let resumed = BulkOptions {
                page_token: last.page_token,
                ..BulkOptions::default()
            };
            done(retry(&bench, &all, resumed).await).await;
            assert_eq!(made(&bench).await, old, "{fault:?} at {position}");
            assert!(ids(&bench, &all).await.is_empty());
            bench.audit().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_stops_operations_and_too_many_are_refused() {
    let bench = Bench::new().await;
    submit(&bench, "job.a", 50).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(cancel(&bench, &of_topic("job.a"), rate(1)).await.unwrap());
    }
    let refused = cancel(&bench, &of_topic("job.a"), rate(1)).await;
    assert_eq!(refused.err(), Some(Error::TooManyStreams { limit: 16 }));
    drop(open.pop());
    pass(secs(2)).await;
    open.push(cancel(&bench, &of_topic("job.a"), rate(1)).await.unwrap());
    bench.engine.drain(secs(5)).await;
    for stream in open {
        assert_eq!(drain(stream).await.1, Some(Error::Draining));
    }
    let refused = cancel(&bench, &of_topic("job.a"), rate(1)).await;
    assert_eq!(refused.err(), Some(Error::Draining));
}
