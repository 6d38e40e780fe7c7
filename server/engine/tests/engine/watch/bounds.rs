//! Where watches end or are refused: tokens that are too old or foreign, readers that are too slow,
//! more watches than allowed.

use std::collections::BTreeSet;

use coretex_engine::{Error, JobFilter, Limits, PageRequest, Retention, WatchTarget};

use super::{checkpoint, everything, told, watch};
use crate::support::{ADMIN, Bench, Setup, id, millis, named, pass, request, secs};

#[tokio::test(start_paused = true)]
async fn tokens_that_are_trimmed_or_foreign_are_refused() {
    let bench = Bench::with(Setup {
        retention: Retention {
            log_entries: 20,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut stream = watch(&bench, everything(), "").await;
    let old = checkpoint(&mut stream).await;
    drop(stream);
    for _ in 0..50 {
        bench.submit(request("job.a")).await;
    }
    pass(secs(12)).await;
    let ask = async |token: &str| {
        let answer = bench
            .engine
            .watch_jobs(&ADMIN, everything(), token.to_owned(), false);
        answer.await.err()
    };
    assert_eq!(ask(&old).await, Some(Error::ResumeTokenInvalid));
    let request = PageRequest {
        size: 2,
        token: String::new(),
    };
    let list = bench
        .engine
        .list_jobs(&ADMIN, &JobFilter::default(), request, false)
        .await
        .unwrap();
    assert_eq!(ask(&list.resume_token).await, None);
    assert_eq!(
        ask(&list.next_page_token).await,
        Some(Error::ResumeTokenInvalid)
    );
    for garbage in ["x", "%", "AAAA", "dzEAAAAAAAAAAA", "dzH__________w"] {
        assert_eq!(
            ask(garbage).await,
            Some(Error::ResumeTokenInvalid),
            "{garbage}"
        );
    }
    // From a store with a longer log than ours.
    let beyond = Bench::new().await;
    for _ in 0..80 {
        beyond.submit(crate::support::request("job.a")).await;
    }
    let mut stream = watch(&beyond, everything(), "").await;
    let foreign = checkpoint(&mut stream).await;
    assert_eq!(ask(&foreign).await, Some(Error::ResumeTokenInvalid));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_trimmed_past_is_told() {
    let bench = Bench::with(Setup {
        retention: Retention {
            log_entries: 20,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut stream = watch(&bench, everything(), "").await;
    checkpoint(&mut stream).await;
    // Its buffer is full while the log is trimmed past what it has not read yet.
    pass(secs(9)).await;
    for _ in 0..600 {
        bench.submit(request("job.a")).await;
    }
    pass(secs(3)).await;
    let mut error = None;
    for _ in 0..2_000 {
        match tokio::time::timeout(secs(30), stream.recv()).await {
            Ok(Some(Err(found))) => error = Some(found),
            Ok(Some(Ok(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    assert_eq!(error, Some(Error::ResumeTokenInvalid));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_cut_with_a_reason_and_can_resume() {
    let bench = Bench::new().await;
    let mut stream = watch(&bench, everything(), "").await;
    let mut token = checkpoint(&mut stream).await;
    let mut should = BTreeSet::new();
    for number in 0..1_000 {
        should.insert(bench.job_of(named("job.a", &format!("j{number}"))).await);
    }
    pass(secs(15)).await;
    let mut seen = BTreeSet::new();
    let mut cuts = 0;
    while seen.len() < 1_000 {
        let (all, error) = told(&mut stream).await;
        for one in all {
            token = one.token;
            seen.insert(one.job);
        }
        if seen.len() < 1_000 {
            assert_eq!(error, Some(Error::WatchTooSlow));
            assert_eq!(stream.recv().await.map(|_| ()), None, "and then it ends");
            cuts += 1;
            stream = watch(&bench, everything(), &token).await;
            assert_eq!(checkpoint(&mut stream).await, token);
        }
    }
    assert_eq!(seen, should);
    assert_eq!(cuts, 1);
}

#[tokio::test(start_paused = true)]
async fn watches_are_counted_and_their_places_come_back() {
    let bench = Bench::with(Setup {
        limits: Limits {
            max_watches: 2,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let first = watch(&bench, everything(), "").await;
    let _second = watch(&bench, everything(), "").await;
    let refused = bench
        .engine
        .watch_jobs(&ADMIN, everything(), String::new(), false);
    assert_eq!(
        refused.await.err(),
        Some(Error::TooManyStreams { limit: 2 })
    );
    drop(first);
    pass(millis(10)).await;
    let third = watch(&bench, everything(), "").await;
    // Nor does a refused one keep a place.
    drop(third);
    pass(millis(10)).await;
    for _ in 0..5 {
        let none = WatchTarget::Job(id("nobody"));
        let refused = bench
            .engine
            .watch_jobs(&ADMIN, none, String::new(), false)
            .await;
        assert!(refused.is_err());
    }
    watch(&bench, everything(), "").await;
}
