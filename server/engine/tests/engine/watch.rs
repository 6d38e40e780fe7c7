//! Watches: complete, in order, resumable, bounded.

use std::collections::{BTreeMap, BTreeSet};

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::job::history::{EventType, JobEvent};
use coretex_engine::{
    Error, JobFilter, Limits, PageRequest, Result, Retention, Role, WatchItem, WatchTarget,
};
use tokio::sync::mpsc;

use crate::support::{
    ADMIN, Bench, Setup, caller, hello, id, jump, keyed, millis, named, pass, request, secs, topic,
    with,
};

type Stream = mpsc::Receiver<Result<WatchItem>>;

/// One event as it was told.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    job: JobId,
    event: JobEvent,
    token: String,
}

async fn watch(bench: &Bench, target: WatchTarget, token: &str) -> Stream {
    let watch = bench
        .engine
        .watch_jobs(&ADMIN, target, token.to_owned(), false);
    watch.await.unwrap()
}

fn everything() -> WatchTarget {
    WatchTarget::Filter(JobFilter::default())
}

async fn checkpoint(stream: &mut Stream) -> String {
    match stream.recv().await {
        Some(Ok(WatchItem::Checkpoint { resume_token })) => resume_token,
        other => panic!("not a checkpoint: {other:?}"),
    }
}

/// What is told until nothing more comes for two seconds or the stream ends; and its error.
async fn told(stream: &mut Stream) -> (Vec<Told>, Option<Error>) {
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(secs(2), stream.recv()).await {
            Ok(Some(Ok(WatchItem::Event {
                event,
                answer,
                resume_token,
            }))) => all.push(Told {
                job: answer.job.id.clone(),
                event,
                token: resume_token,
            }),
            Ok(Some(Ok(other))) => panic!("{other:?}"),
            Ok(Some(Err(error))) => return (all, Some(error)),
            Ok(None) | Err(_) => return (all, None),
        }
    }
}

/// Some jobs with eventful lives.
async fn lives(bench: &Bench) -> Vec<JobId> {
    let mut worker = bench.connect(hello("w", &["job.a"], 3)).await;
    let mut jobs = Vec::new();
    for number in 0..6 {
        let mut job = named("job.a", &format!("j{number}"));
        job.spec.retry.max_attempts = 2;
        job.spec.retry.initial_backoff = millis(300);
        if number == 5 {
            job.spec.not_before = Some(bench.now() + millis(700));
        }
        jobs.push(bench.job_of(job).await);
    }
    let mut seen = BTreeMap::new();
    let end = bench.now() + secs(8);
    while bench.now() < end {
        let Some(message) = worker.next_within(millis(200)).await else {
            continue;
        };
        let coretex_engine::ToWorker::Assignment { attempt, .. } = message else {
            continue;
        };
        let count = seen.entry(attempt.job_id.clone()).or_insert(0);
        *count += 1;
        worker.started(&attempt).await;
        if *count == 1 {
            pass(millis(600)).await;
            worker.finish(&attempt, crate::support::failed("x")).await;
        } else {
            worker.finish(&attempt, crate::support::succeeded()).await;
        }
    }
    jobs
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_everything_in_order() {
    let bench = Bench::new().await;
    let mut stream = watch(&bench, everything(), "").await;
    checkpoint(&mut stream).await;
    let jobs = lives(&bench).await;
    let (all, error) = told(&mut stream).await;
    assert_eq!(error, None);
    for id in &jobs {
        let job = bench.job(id).await;
        assert_eq!(job.state, JobState::Succeeded);
        let events: Vec<JobEvent> = all
            .iter()
            .filter(|one| one.job == *id)
            .map(|one| one.event.clone())
            .collect();
        let should: Vec<JobEvent> = job.events.iter().cloned().collect();
        assert_eq!(events, should);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_from_every_token_without_a_gap() {
    let bench = Bench::new().await;
    let mut stream = watch(&bench, everything(), "").await;
    let start = checkpoint(&mut stream).await;
    lives(&bench).await;
    let (all, _) = told(&mut stream).await;
    let mut again = watch(&bench, everything(), &start).await;
    assert_eq!(checkpoint(&mut again).await, start);
    assert_eq!(told(&mut again).await.0, all);
    for (position, one) in all.iter().enumerate() {
        let mut resumed = watch(&bench, everything(), &one.token).await;
        assert_eq!(checkpoint(&mut resumed).await, one.token);
        let (rest, _) = told(&mut resumed).await;
        // What follows is all there; what comes again belongs to the entry that was cut.
        let tail = &all[position + 1..];
        assert!(rest.ends_with(tail), "from {position}");
        let repeated = &rest[..rest.len() - tail.len()];
        let entry: Vec<&Told> = all[..=position].iter().rev().take(repeated.len()).collect();
        assert!(
            entry.iter().all(|told| told.job == one.job),
            "from {position}"
        );
        assert_eq!(repeated, &all[position + 1 - repeated.len()..=position]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_and_a_watch_from_its_token_cover_everything() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    for number in 0..20 {
        bench
            .submit(named("job.a", &format!("before-{number}")))
            .await;
    }
    // While the list is read, slowly, jobs come and change.
    bench.tap.slow_reads(millis(40));
    let list = async {
        let mut states = BTreeMap::new();
        let (mut token, mut resume) = (String::new(), None);
        loop {
            let request = PageRequest { size: 5, token };
            let filter = JobFilter::default();
            let page = bench
                .engine
                .list_jobs(&ADMIN, &filter, request, false)
                .await
                .unwrap();
            resume.get_or_insert(page.resume_token);
            for one in page.jobs {
                states.insert(one.job.id.clone(), one.job.state);
            }
            token = page.next_page_token;
            if token.is_empty() {
                return (states, resume.unwrap());
            }
        }
    };
    let work = async {
        for number in 0..40 {
            bench
                .submit(named("job.a", &format!("after-{number}")))
                .await;
            while let Ok(message) = worker.inbox.try_recv() {
                if let coretex_engine::ToWorker::Assignment { attempt, .. } = message {
                    worker.finish(&attempt, crate::support::succeeded()).await;
                }
            }
            pass(millis(20)).await;
        }
    };
    let ((mut states, resume), ()) = tokio::join!(list, work);
    bench.tap.slow_reads(std::time::Duration::ZERO);
    let mut stream = watch(&bench, everything(), &resume).await;
    checkpoint(&mut stream).await;
    for one in told(&mut stream).await.0 {
        states.insert(one.job, one.event.to);
    }
    let audit = bench.audit().await;
    let should: BTreeMap<_, _> = audit
        .jobs
        .iter()
        .map(|job| (job.id.clone(), job.state))
        .collect();
    assert_eq!(states, should);
}

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
    assert_eq!(refused.await.err(), Some(Error::TooManyStreams));
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

#[tokio::test(start_paused = true)]
async fn a_watch_survives_jobs_that_are_deleted_under_it() {
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: secs(5),
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut stream = watch(&bench, everything(), "").await;
    let token = checkpoint(&mut stream).await;
    let gone = bench.job_of(request("job.a")).await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &gone, String::new(), None, false);
    cancelled.await.unwrap();
    jump(secs(10)).await;
    let stays = bench.job_of(request("job.a")).await;
    let mut resumed = watch(&bench, everything(), &token).await;
    checkpoint(&mut resumed).await;
    let (all, error) = told(&mut resumed).await;
    assert_eq!(error, None);
    assert!(all.iter().all(|one| one.job == stays));
    let viewer = caller("acme", "key:v", &[Role::Viewer]);
    let target = WatchTarget::Job(gone);
    let answer = bench
        .engine
        .watch_jobs(&viewer, target, String::new(), false)
        .await;
    assert!(crate::support::is_no_job(&answer));
}
