//! Many at once: by filter, at a rate, with progress. What interrupts them is in [`trouble`].

mod trouble;

use std::time::Duration;

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_engine::{
    BulkOptions, BulkProgress, DlqFilter, Error, JobEdits, JobFilter, PageRequest, Role,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::dlq::{denying, ids};
use crate::support::{ADMIN, Answer, Bench, caller, hello, pass, request, secs, topic, with};

type Stream = Receiver<Result<BulkProgress, Error>>;

/// Reads to the end: the last progress, and the error if there was one.
async fn drain(mut stream: Stream) -> (BulkProgress, Option<Error>) {
    let mut last = BulkProgress::default();
    while let Some(next) = stream.recv().await {
        match next {
            Ok(progress) => {
                assert!(progress.matched >= last.matched, "counts only grow");
                assert!(!progress.idempotency_key.is_empty());
                last = progress;
            }
            Err(error) => return (last, Some(error)),
        }
    }
    (last, None)
}

/// What an operation came to that had nothing to stop it.
async fn done(stream: Result<Stream, Error>) -> BulkProgress {
    let (last, error) = drain(stream.unwrap()).await;
    assert_eq!(error, None);
    assert!(last.finished && last.page_token.is_empty());
    last
}

fn counts(progress: &BulkProgress) -> [u64; 4] {
    [
        progress.matched,
        progress.done,
        progress.skipped,
        progress.failed,
    ]
}

fn of_topic(name: &str) -> JobFilter {
    JobFilter {
        topics: vec![topic(name)],
        ..JobFilter::default()
    }
}

fn rate(rate: u32) -> BulkOptions {
    BulkOptions {
        rate,
        ..BulkOptions::default()
    }
}

async fn cancel(bench: &Bench, filter: &JobFilter, options: BulkOptions) -> Result<Stream, Error> {
    bench
        .engine
        .cancel_jobs(&ADMIN, filter, "enough".to_owned(), None, false, options)
        .await
}

async fn rerun(bench: &Bench, filter: &JobFilter, options: BulkOptions) -> Result<Stream, Error> {
    let edits = JobEdits::default();
    bench
        .engine
        .rerun_jobs(&ADMIN, filter, edits, options)
        .await
}

async fn retry(bench: &Bench, filter: &DlqFilter, options: BulkOptions) -> Result<Stream, Error> {
    let edits = JobEdits::default();
    bench
        .engine
        .retry_dlq_entries(&ADMIN, filter, edits, options)
        .await
}

async fn submit(bench: &Bench, name: &str, count: usize) -> Vec<JobId> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        ids.push(bench.job_of(request(name)).await);
    }
    ids
}

async fn count(bench: &Bench, filter: &JobFilter) -> u64 {
    let found = bench.engine.count_jobs(&ADMIN, filter).await;
    found.unwrap().count
}

fn open() -> JobFilter {
    JobFilter {
        states: vec![JobState::Pending],
        ..JobFilter::default()
    }
}

async fn waiting(bench: &Bench) -> u64 {
    count(bench, &open()).await
}

/// The jobs that were made of others, by what they were made of.
async fn made(bench: &Bench) -> Vec<JobId> {
    let page = PageRequest {
        size: 1_000,
        token: String::new(),
    };
    let everything = JobFilter::default();
    let all = bench.engine.list_jobs(&ADMIN, &everything, page, false);
    let jobs = all.await.unwrap().jobs;
    let mut made: Vec<_> = jobs
        .iter()
        .filter_map(|one| one.job.rerun_of.clone())
        .collect();
    made.sort();
    made
}

#[tokio::test(start_paused = true)]
async fn a_cancel_by_filter_ends_what_matches_and_nothing_else() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let running = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    let waiting_ones = submit(&bench, "job.a", 300).await;
    let later = bench.now() + secs(1_000);
    let scheduled = bench
        .job_of(with("job.a", |spec| spec.not_before = Some(later)))
        .await;
    let other = bench.job_of(request("job.b")).await;
    let ended = bench.job_of(request("job.a")).await;
    let one = bench
        .engine
        .cancel_job(&ADMIN, &ended, "alone".to_owned(), None, false);
    one.await.unwrap();
    let dry = BulkOptions {
        dry_run: true,
        ..BulkOptions::default()
    };
    let dry = done(cancel(&bench, &of_topic("job.a"), dry).await).await;
    assert_eq!(counts(&dry), [302, 0, 0, 0]);
    assert_eq!(bench.state(&scheduled).await, JobState::Scheduled);
    let all = done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
    assert_eq!(counts(&all), [302, 302, 0, 0]);
    assert_eq!(worker.cancel().await, attempt);
    assert!(bench.job(&running).await.cancel.is_some());
    for id in waiting_ones.iter().chain([&scheduled]) {
        let job = bench.job(id).await;
        assert_eq!(job.state, JobState::Cancelled);
        assert_eq!(job.cancel.as_ref().unwrap().reason, "enough");
    }
    assert_eq!(bench.state(&other).await, JobState::Pending);
    let event = bench.job(&ended).await;
    assert_eq!(event.cancel.as_ref().unwrap().reason, "alone");
    // The running one has been asked already.
    let again = done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
    assert_eq!(counts(&again), [1, 0, 1, 0]);
    let only_ended = JobFilter {
        states: vec![JobState::Cancelled, JobState::Failed],
        ..JobFilter::default()
    };
    let nothing = done(cancel(&bench, &only_ended, BulkOptions::default()).await).await;
    assert_eq!(counts(&nothing), [0; 4]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_operation_keeps_to_its_rate() {
    for (per_second, jobs, least, most) in
        [(10, 50, 4.5, 5.5), (1, 4, 2.9, 4.1), (200, 100, 0.4, 0.7)]
    {
        let bench = Bench::new().await;
        submit(&bench, "job.a", jobs).await;
        let begun = Instant::now();
        let mut stream = cancel(&bench, &of_topic("job.a"), rate(per_second))
            .await
            .unwrap();
        let mut messages = 0;
        while let Some(next) = stream.recv().await {
            let next = next.unwrap();
            let seconds = begun.elapsed().as_secs_f64();
            let allowed = f64::from(per_second) * (seconds + 0.1) + 1.0;
            assert!(
                next.done as f64 <= allowed,
                "{} after {seconds} s",
                next.done
            );
            messages += 1;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!(
            (least..=most).contains(&took),
            "{jobs} at {per_second}/s took {took} s"
        );
        assert!(messages >= 2, "{messages}");
        assert_eq!(waiting(&bench).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_come_later_are_not_touched() {
    let bench = Bench::new().await;
    submit(&bench, "job.a", 20).await;
    let mut stream = cancel(&bench, &of_topic("job.a"), rate(10)).await.unwrap();
    assert!(stream.recv().await.is_some());
    pass(secs(1)).await;
    let late = submit(&bench, "job.a", 5).await;
    let (last, error) = drain(stream).await;
    assert_eq!((last.done, error), (20, None));
    for id in late {
        assert_eq!(bench.state(&id).await, JobState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_moved_on_since_it_was_found_is_left_alone() {
    let bench = Bench::new().await;
    let jobs = submit(&bench, "job.a", 3).await;
    let pending = JobFilter {
        states: vec![JobState::Pending],
        ..of_topic("job.a")
    };
    let stream = cancel(&bench, &pending, rate(1)).await.unwrap();
    pass(Duration::from_millis(500)).await;
    // Another starts before its turn comes.
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    assert!(jobs.contains(&attempt.job_id));
    let (last, _) = drain(stream).await;
    assert_eq!(counts(&last), [3, 2, 1, 0]);
    assert!(bench.job(&attempt.job_id).await.cancel.is_none());
    assert!(worker.succeed(&attempt).await);
}

#[tokio::test(start_paused = true)]
async fn who_sees_only_his_own_cancels_only_his_own() {
    let bench = Bench::new().await;
    let own = caller("acme", "key:own", &[Role::Submitter]);
    let theirs = submit(&bench, "job.a", 3).await;
    let mine = bench.engine.submit_job(&own, request("job.a")).await;
    let mine = mine.unwrap().answer.job.id.clone();
    let foreign = JobFilter {
        principal_id: "key:admin".to_owned(),
        ..JobFilter::default()
    };
    for (filter, should) in [(foreign, 0), (JobFilter::default(), 1)] {
        let options = BulkOptions::default();
        let stream = bench
            .engine
            .cancel_jobs(&own, &filter, String::new(), None, true, options);
        assert_eq!(done(stream.await).await.matched, should);
    }
    assert_eq!(bench.state(&mine).await, JobState::Cancelled);
    for id in theirs {
        assert_eq!(bench.state(&id).await, JobState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rerun_by_filter_makes_each_job_once_however_often_it_is_called() {
    let bench = Bench::new().await;
    let old = submit(&bench, "job.a", 30).await;
    let open = bench.job_of(request("job.b")).await;
    done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
    let cancelled = JobFilter {
        states: vec![JobState::Cancelled],
        ..JobFilter::default()
    };
    let keyed = BulkOptions {
        idempotency_key: "op".to_owned(),
        ..BulkOptions::default()
    };
    let first = done(rerun(&bench, &cancelled, keyed.clone()).await).await;
    assert_eq!(
        (counts(&first), first.idempotency_key.as_str()),
        ([30, 30, 0, 0], "op")
    );
    let mut sorted = old.clone();
    sorted.sort();
    assert_eq!(made(&bench).await, sorted);
    // What it made ends the same way; the repeated call runs neither that nor the old ones again.
    done(cancel(&bench, &of_topic("job.a"), BulkOptions::default()).await).await;
    let again = done(rerun(&bench, &cancelled, keyed).await).await;
    assert_eq!(counts(&again), [30, 30, 0, 0]);
    assert_eq!(made(&bench).await, sorted);
    // Another operation does.
    let fresh = done(rerun(&bench, &cancelled, BulkOptions::default()).await).await;
    assert_eq!(fresh.done, 60);
    assert_eq!(made(&bench).await.len(), 90);
    assert_eq!(bench.state(&open).await, JobState::Pending);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_by_filter_empties_what_matches_oldest_first() {
    let (bench, kernel) = denying().await;
    let mut a = Vec::new();
    for _ in 0..150 {
        a.extend(submit(&bench, "job.a", 1).await);
        pass(Duration::from_millis(2)).await;
    }
    let b = submit(&bench, "job.b", 2).await;
    let only_a = DlqFilter {
        topics: vec![topic("job.a")],
        ..DlqFilter::default()
    };
    let dry = BulkOptions {
        dry_run: true,
        ..BulkOptions::default()
    };
    assert_eq!(
        counts(&done(retry(&bench, &only_a, dry).await).await),
        [150, 0, 0, 0]
    );
    kernel.say(Answer::Allow);
    let all = done(retry(&bench, &only_a, BulkOptions::default()).await).await;
    assert_eq!(counts(&all), [150, 150, 0, 0]);
    let mut sorted = a.clone();
    sorted.sort();
    assert_eq!(made(&bench).await, sorted);
    let mut left = ids(&bench, &DlqFilter::default()).await;
    left.reverse();
    assert_eq!(left, b);
    let page = PageRequest {
        size: 1_000,
        token: String::new(),
    };
    let new = bench.engine.list_jobs(&ADMIN, &open(), page, false).await;
    // A tenth of a second's worth is made at once, in any order.
    let mut waves = std::collections::BTreeMap::<_, Vec<usize>>::new();
    for one in new.unwrap().jobs {
        let place = a
            .iter()
            .position(|id| Some(id) == one.job.rerun_of.as_ref());
        let wave = waves.entry(one.job.create_time).or_default();
        wave.push(place.unwrap());
    }
    assert!(waves.len() >= 15);
    let waves: Vec<_> = waves.into_values().collect();
    for pair in waves.windows(2) {
        assert!(pair[0].iter().max() < pair[1].iter().min(), "{waves:?}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn retries_that_fail_again_do_not_go_round_and_round() {
    let (bench, _) = denying().await;
    submit(&bench, "job.a", 40).await;
    let keyed = BulkOptions {
        idempotency_key: "op".to_owned(),
        ..BulkOptions::default()
    };
    let all = DlqFilter::default();
    let first = done(retry(&bench, &all, keyed.clone()).await).await;
    assert_eq!(counts(&first), [40, 40, 0, 0]);
    assert_eq!(ids(&bench, &all).await.len(), 40, "each has failed again");
    let second = done(retry(&bench, &all, keyed).await).await;
    assert_eq!(counts(&second), [0; 4], "it has done its work");
    assert_eq!(
        done(retry(&bench, &all, BulkOptions::default()).await)
            .await
            .done,
        40
    );
    assert_eq!(made(&bench).await.len(), 80);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn two_who_retry_everything_at_once_make_each_job_once() {
    let (bench, kernel) = denying().await;
    let mut old = submit(&bench, "job.a", 100).await;
    old.sort();
    kernel.say(Answer::Allow);
    let all = DlqFilter::default();
    let (one, other) = tokio::join!(
        retry(&bench, &all, BulkOptions::default()),
        retry(&bench, &all, BulkOptions::default())
    );
    let (one, other) = tokio::join!(done(one), done(other));
    assert_eq!(one.done + other.done, 100, "{one:?} {other:?}");
    assert_eq!(one.failed + other.failed, 0);
    assert_eq!(made(&bench).await, old);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_throws_away_what_matches() {
    let (bench, _) = denying().await;
    submit(&bench, "job.a", 200).await;
    let b = submit(&bench, "job.b", 1).await;
    let only_a = DlqFilter {
        topics: vec![topic("job.a")],
        reason_codes: vec!["safety_denied".to_owned()],
        ..DlqFilter::default()
    };
    let dry = BulkOptions {
        dry_run: true,
        ..BulkOptions::default()
    };
    let dry = bench.engine.purge_dlq(&ADMIN, &only_a, dry).await;
    assert_eq!(counts(&done(dry).await), [200, 0, 0, 0]);
    let options = BulkOptions::default();
    let purged = bench.engine.purge_dlq(&ADMIN, &only_a, options).await;
    assert_eq!(counts(&done(purged).await), [200, 200, 0, 0]);
    assert_eq!(ids(&bench, &DlqFilter::default()).await, b);
    assert_eq!(
        count(&bench, &of_topic("job.a")).await,
        200,
        "the jobs stay"
    );
    bench.audit().await;
}
