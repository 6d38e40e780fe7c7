//! What is watched: one job to its end, or all that a filter matches.

use coretex_core::job::JobState;
use coretex_core::job::history::EventType;
use coretex_engine::{FromWorker, JobFilter, WatchItem, WatchTarget};

use super::{Told, checkpoint, everything, told, watch};
use crate::support::{ADMIN, Bench, hello, keyed, millis, pass, request, secs, topic, with};

#[tokio::test(start_paused = true)]
async fn the_watch_of_one_job_ends_with_it() {
    let bench = Bench::new().await;
    let id = bench.job_of(request("job.a")).await;
    let mut stream = watch(&bench, WatchTarget::Job(id.clone()), "").await;
    checkpoint(&mut stream).await;
    bench.submit(request("job.b")).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let mut kinds = Vec::new();
    while let Some(item) = stream.recv().await {
        let WatchItem::Event { event, answer, .. } = item.unwrap() else {
            panic!("a second checkpoint");
        };
        assert_eq!(answer.job.id, id);
        kinds.push(event.kind);
    }
    assert_eq!(kinds, [EventType::Dispatched, EventType::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn the_watch_of_a_job_that_has_ended_ends_at_once() {
    let bench = Bench::new().await;
    let mut stream = watch(&bench, everything(), "").await;
    let before_all = checkpoint(&mut stream).await;
    drop(stream);
    let id = bench.job_of(request("job.a")).await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &id, String::new(), None, false);
    cancelled.await.unwrap();
    let mut stream = watch(&bench, everything(), "").await;
    let after_end = checkpoint(&mut stream).await;
    drop(stream);
    // The log goes on with others.
    for _ in 0..300 {
        bench.submit(request("job.b")).await;
    }
    for (token, events) in [(before_all.as_str(), 2), (after_end.as_str(), 1), ("", 1)] {
        let mut stream = watch(&bench, WatchTarget::Job(id.clone()), token).await;
        checkpoint(&mut stream).await;
        let mut told = Vec::new();
        let ended = tokio::time::timeout(secs(5), async {
            while let Some(item) = stream.recv().await {
                if let WatchItem::Event { event, .. } = item.unwrap() {
                    told.push(event.kind);
                }
            }
        });
        assert!(ended.await.is_ok(), "from {token:?}: never ends, {told:?}");
        assert_eq!(told.len(), events, "{told:?}");
        assert_eq!(told.last(), Some(&EventType::Cancelled));
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ends_while_its_watch_is_opened_ends_it() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 50)).await;
    for round in 0..12_u64 {
        let id = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        bench.tap.slow_reads(millis(50));
        let opens = async {
            let mut stream = watch(&bench, WatchTarget::Job(id.clone()), "").await;
            let mut last = None;
            while let Some(item) = stream.recv().await {
                if let WatchItem::Event { event, .. } = item.unwrap() {
                    last = Some(event.to);
                }
            }
            last
        };
        let ends = async {
            pass(millis(round * 20)).await;
            worker.finish(&attempt, crate::support::succeeded()).await;
            pass(millis(10)).await;
            bench.submit(request("job.b")).await;
        };
        let both = async { tokio::join!(opens, ends).0 };
        let last = tokio::time::timeout(secs(10), both).await;
        assert_eq!(last.ok(), Some(Some(JobState::Succeeded)), "round {round}");
        bench.tap.slow_reads(std::time::Duration::ZERO);
        while worker.next_within(millis(1)).await.is_some() {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_applied_to_jobs_as_they_were_at_the_event() {
    let bench = Bench::new().await;
    let states = |states: &[JobState]| {
        WatchTarget::Filter(JobFilter {
            states: states.to_vec(),
            ..JobFilter::default()
        })
    };
    let mut waiting = watch(&bench, states(&[JobState::Pending]), "").await;
    let mut done = watch(&bench, states(&[JobState::Succeeded, JobState::Failed]), "").await;
    checkpoint(&mut waiting).await;
    checkpoint(&mut done).await;
    // The watches come to read only when the job has ended.
    bench.tap.slow_reads(secs(3));
    let id = bench.job_of(request("job.a")).await;
    bench.tap.slow_reads(std::time::Duration::ZERO);
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    pass(secs(5)).await;
    let kinds = |told: Vec<Told>| -> Vec<EventType> {
        assert!(told.iter().all(|one| one.job == id));
        told.into_iter().map(|one| one.event.kind).collect()
    };
    assert_eq!(kinds(told(&mut waiting).await.0), [EventType::Submitted]);
    assert_eq!(kinds(told(&mut done).await.0), [EventType::Succeeded]);
}

#[tokio::test(start_paused = true)]
async fn the_other_filters_hold_for_watches_too() {
    let bench = Bench::new().await;
    let filter = JobFilter {
        topics: vec![topic("job.a")],
        labels: [("x".to_owned(), "1".to_owned())].into(),
        ..JobFilter::default()
    };
    let mut stream = watch(&bench, WatchTarget::Filter(filter), "").await;
    checkpoint(&mut stream).await;
    let mut worker = bench.connect(hello("w1", &["job.a"], 1)).await;
    let by_worker = JobFilter {
        worker_id: Some(coretex_core::id::WorkerId::parse("w1").unwrap()),
        ..JobFilter::default()
    };
    let mut at_worker = watch(&bench, WatchTarget::Filter(by_worker), "").await;
    checkpoint(&mut at_worker).await;
    let wanted = with("job.a", |spec| {
        spec.labels.insert("x".to_owned(), "1".to_owned());
    });
    let wanted = bench.job_of(wanted).await;
    bench.submit(request("job.a")).await;
    bench.submit(keyed("job.b", "k")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let (all, _) = told(&mut stream).await;
    assert!(all.iter().all(|one| one.job == wanted));
    assert_eq!(all.last().unwrap().event.kind, EventType::Succeeded);
    let (all, _) = told(&mut at_worker).await;
    assert!(
        all.iter()
            .any(|one| one.job == wanted && one.event.kind == EventType::Succeeded)
    );
    assert!(all.iter().all(|one| one.event.kind != EventType::Submitted));
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_with_the_start_and_afterwards() {
    let bench = Bench::new().await;
    let mut stream = watch(&bench, everything(), "").await;
    checkpoint(&mut stream).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    for percent in [10, 20] {
        let progress = FromWorker::Progress {
            attempt: attempt.clone(),
            percent,
            message: String::new(),
        };
        worker.say(progress).await;
        pass(secs(2)).await;
    }
    assert!(worker.succeed(&attempt).await);
    let (all, _) = told(&mut stream).await;
    let kinds: Vec<_> = all
        .iter()
        .map(|one| (one.event.kind, one.event.sequence))
        .collect();
    assert_eq!(
        kinds,
        [
            (EventType::Submitted, 1),
            (EventType::Dispatched, 2),
            (EventType::Started, 3),
            // Not kept, so they have no place.
            (EventType::Progressed, 0),
            (EventType::Progressed, 0),
            (EventType::Succeeded, 4),
        ]
    );
    for progressed in &all[3..5] {
        let event = &progressed.event;
        assert_eq!(event.from, Some(JobState::Running));
        assert_eq!((event.to, event.attempt), (JobState::Running, 1));
    }
    bench.audit().await;
}
