//! Watches: complete, in order, resumable. Where they stop or are refused is in [`bounds`], what a
//! job or a filter selects in [`targets`].

mod bounds;
mod targets;

use std::collections::BTreeMap;

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::job::history::JobEvent;
use coretex_engine::{
    Error, JobFilter, PageRequest, Result, Retention, Role, WatchItem, WatchTarget,
};
use tokio::sync::mpsc;

use crate::support::{
    ADMIN, Bench, Setup, caller, hello, jump, millis, named, pass, request, secs,
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
