//! Dead letters: who gets one, who sees it, how long it is kept, how it is deleted. Retries are in
//! [`retry`].

mod retry;

use std::sync::Arc;

use coretex_core::id::JobId;
use coretex_core::job::{ErrorSource, JobState};
use coretex_core::payload::Payload;
use coretex_engine::{
    Caller, DlqAnswer, DlqFilter, Error, Noun, PageRequest, Retention, Role, SubmitJob,
};
use coretex_store::layers::Fault;
use coretex_store::{CommitError, Store};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, caller, hello, jump, keyed, millis, named, pass, request,
    secs, topic, with,
};

/// A bench whose kernel denies: every job that is submitted is a dead letter at once.
pub(crate) async fn denying() -> (Bench, Arc<Script>) {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    (bench, kernel)
}

/// All entries, page by page.
pub(crate) async fn entries(
    bench: &Bench,
    caller: &Caller,
    filter: &DlqFilter,
    size: usize,
) -> Vec<DlqAnswer> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = PageRequest { size, token };
        let page = bench
            .engine
            .list_dlq_entries(caller, filter, page, false)
            .await;
        let page = page.unwrap();
        assert!(page.entries.len() <= size);
        found.extend(page.entries);
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
    }
}

pub(crate) async fn ids(bench: &Bench, filter: &DlqFilter) -> Vec<JobId> {
    let found = entries(bench, &ADMIN, filter, 100).await;
    let ids = found.iter().map(|entry| entry.answer.job.id.clone());
    ids.collect()
}

pub(crate) fn is_no_entry<T>(answer: &Result<T, Error>) -> bool {
    matches!(
        answer,
        Err(Error::NotFound {
            noun: Noun::DlqEntry,
            ..
        })
    )
}

/// A job that a worker fails with `code`.
async fn failing(bench: &Bench, job: SubmitJob, code: &str) -> JobId {
    let name = job.spec.topic.to_string();
    let mut worker = bench.connect(hello("w", &[&name], 1)).await;
    let id = bench.job_of(job).await;
    loop {
        let attempt = worker.assignment().await;
        assert!(worker.fail(&attempt, code).await);
        if bench.state(&id).await.is_terminal() {
            worker.cut().await;
            return id;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_keeps_the_request_the_attempts_and_the_code() {
    let bench = Bench::new().await;
    let mut job = with("job.a", |spec| {
        spec.retry.max_attempts = 3;
        spec.metadata.capability = "write".to_owned();
        spec.metadata.risk_tags.push("network".to_owned());
        spec.labels.insert("env".to_owned(), "prod".to_owned());
    });
    // Too large for the record.
    job.input = Some(Payload::json(vec![b'1'; 30 * 1024].into()));
    let id = failing(&bench, job.clone(), "broken").await;
    let entry = bench.engine.get_dlq_entry(&ADMIN, &id, true).await.unwrap();
    let kept = &entry.answer.job;
    assert_eq!((&*kept.spec, &kept.input), (&job.spec, &job.input));
    assert_eq!(kept.attempts.iter().len(), 3);
    let letter = kept.dead_letter.as_ref().unwrap();
    assert_eq!(letter.code, "max_attempts_exceeded");
    assert_eq!(letter.source, ErrorSource::Platform);
    let error = kept.error.as_ref().unwrap();
    assert_eq!(
        (error.code.as_str(), error.source),
        ("broken", ErrorSource::Worker)
    );
    assert_eq!(kept.state, JobState::Failed);
    let month = secs(30 * 24 * 3_600);
    assert_eq!(entry.expire_time, kept.end_time.unwrap() + month);
    // The job is where it was.
    assert_eq!(bench.job(&id).await.state, JobState::Failed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_not_dead_letters_have_no_entry() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let well = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let open = bench.job_of(request("job.b")).await;
    let cancelled = bench.job_of(request("job.b")).await;
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &cancelled, String::new(), None, false);
    cancel.await.unwrap();
    for id in [&well, &open, &cancelled, &crate::support::id("nobody")] {
        let engine = &bench.engine;
        assert!(is_no_entry(&engine.get_dlq_entry(&ADMIN, id, true).await));
        assert!(is_no_entry(&engine.delete_dlq_entry(&ADMIN, id).await));
        let edits = coretex_engine::JobEdits::default();
        let retried = engine.retry_dlq_entry(&ADMIN, id, edits, String::new());
        assert!(is_no_entry(&retried.await));
    }
    assert!(ids(&bench, &DlqFilter::default()).await.is_empty());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn lists_hold_what_matches_newest_first() {
    let (bench, kernel) = denying().await;
    let mut denied = Vec::new();
    for number in 0..5 {
        let mut job = with("job.a", |spec| {
            spec.labels.insert("n".to_owned(), (number % 2).to_string());
        });
        job.job_id = Some(crate::support::id(&format!("denied-{number}")));
        denied.push(bench.job_of(job).await);
        pass(secs(1)).await;
    }
    kernel.say(Answer::Allow);
    let failed = failing(&bench, request("job.b"), "broken").await;
    let late = with("job.c", |spec| spec.schedule_to_start_timeout = secs(1));
    let late = bench.job_of(late).await;
    bench.ended(&late, secs(5)).await;
    let mut all: Vec<JobId> = denied.clone();
    all.extend([failed.clone(), late.clone()]);
    all.reverse();
    for size in [1, 2, 3, 100] {
        let found = entries(&bench, &ADMIN, &DlqFilter::default(), size).await;
        let found: Vec<_> = found.iter().map(|one| one.answer.job.id.clone()).collect();
        assert_eq!(found, all, "pages of {size}");
    }
    let second = bench.job(&denied[1]).await.end_time.unwrap();
    let third = bench.job(&denied[2]).await.end_time.unwrap();
    let filters: [(DlqFilter, Vec<&JobId>); 7] = [
        (
            DlqFilter {
                reason_codes: vec!["broken".to_owned(), "schedule_timeout".to_owned()],
                ..DlqFilter::default()
            },
            vec![&late, &failed],
        ),
        (
            DlqFilter {
                states: vec![JobState::Timeout],
                ..DlqFilter::default()
            },
            vec![&late],
        ),
        (
            DlqFilter {
                topics: vec![topic("job.b")],
                ..DlqFilter::default()
            },
            vec![&failed],
        ),
        (
            DlqFilter {
                labels: [("n".to_owned(), "1".to_owned())].into(),
                ..DlqFilter::default()
            },
            vec![&denied[3], &denied[1]],
        ),
        (
            DlqFilter {
                created_after: Some(second),
                created_before: Some(third),
                ..DlqFilter::default()
            },
            vec![&denied[1]],
        ),
        (
            DlqFilter {
                principal_id: "key:other".to_owned(),
                ..DlqFilter::default()
            },
            vec![],
        ),
        (
            DlqFilter {
                team_id: "other".to_owned(),
                ..DlqFilter::default()
            },
            vec![],
        ),
    ];
    for (filter, should) in filters {
        let found = ids(&bench, &filter).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), should, "{filter:?}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_belong_to_their_list_and_their_tenant() {
    let (bench, _) = denying().await;
    for _ in 0..3 {
        bench.submit(request("job.a")).await;
    }
    let ask = async |caller: &Caller, filter: &DlqFilter, token: &str| {
        let page = PageRequest {
            size: 1,
            token: token.to_owned(),
        };
        let page = bench
            .engine
            .list_dlq_entries(caller, filter, page, false)
            .await?;
        Ok::<_, Error>(page.next_page_token)
    };
    let all = DlqFilter::default();
    let token = ask(&ADMIN, &all, "").await.unwrap();
    assert!(ask(&ADMIN, &all, &token).await.is_ok());
    let other = DlqFilter {
        topics: vec![topic("job.a")],
        ..DlqFilter::default()
    };
    let stranger = caller("other", "key:x", &[Role::Admin]);
    // A token of the list of jobs is none of this one.
    let page = PageRequest {
        size: 1,
        token: String::new(),
    };
    let everything = coretex_engine::JobFilter::default();
    let jobs = bench.engine.list_jobs(&ADMIN, &everything, page, false);
    let of_jobs = jobs.await.unwrap().next_page_token;
    for refused in [
        ask(&ADMIN, &other, &token).await,
        ask(&stranger, &all, &token).await,
        ask(&ADMIN, &all, &of_jobs).await,
        ask(&ADMIN, &all, "junk").await,
    ] {
        assert_eq!(refused, Err(Error::PageTokenInvalid));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_or_touches_what_is_not_his() {
    let (bench, _) = denying().await;
    let owner = caller("acme", "key:owner", &[Role::Submitter]);
    let other = caller("acme", "key:other", &[Role::Submitter]);
    let stranger = caller("other", "key:stranger", &[Role::Admin]);
    let submitted = bench.engine.submit_job(&owner, request("job.a"));
    let id = submitted.await.unwrap().answer.job.id.clone();
    let all = DlqFilter::default();
    for (who, sees) in [
        (&*ADMIN, true),
        (&owner, true),
        (&other, false),
        (&stranger, false),
    ] {
        let got = bench.engine.get_dlq_entry(who, &id, true).await;
        assert_eq!(got.is_ok(), sees, "{}", who.principal_id);
        let listed = entries(&bench, who, &all, 10).await.len();
        assert_eq!(listed, usize::from(sees), "{}", who.principal_id);
        if sees {
            continue;
        }
        assert!(is_no_entry(&got));
        assert!(is_no_entry(&bench.engine.delete_dlq_entry(who, &id).await));
        let edits = coretex_engine::JobEdits::default();
        let retried = bench.engine.retry_dlq_entry(who, &id, edits, String::new());
        assert!(is_no_entry(&retried.await));
    }
    let foreign = DlqFilter {
        principal_id: "key:owner".to_owned(),
        ..DlqFilter::default()
    };
    assert!(entries(&bench, &other, &foreign, 10).await.is_empty());
    assert_eq!(ids(&bench, &all).await, [id]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_entry_leaves_the_job_behind() {
    let (bench, _) = denying().await;
    let id = bench.job_of(request("job.a")).await;
    bench.engine.delete_dlq_entry(&ADMIN, &id).await.unwrap();
    assert!(is_no_entry(
        &bench.engine.delete_dlq_entry(&ADMIN, &id).await
    ));
    assert!(is_no_entry(
        &bench.engine.get_dlq_entry(&ADMIN, &id, false).await
    ));
    assert!(ids(&bench, &DlqFilter::default()).await.is_empty());
    let job = bench.job(&id).await;
    assert_eq!(job.state, JobState::Denied);
    let event = job.events.last().unwrap();
    assert_eq!(
        (event.principal_id.as_str(), event.reason.as_str()),
        ("key:admin", "deleted")
    );
    bench.audit().await;
}

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
        assert_eq!(ids(&bench, &DlqFilter::default()).await, [dead.clone()]);
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
    assert_eq!(ids(&bench, &DlqFilter::default()).await, [id.clone()]);
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

#[tokio::test(start_paused = true)]
async fn a_delete_of_unknown_outcome_is_repeated_without_harm() {
    for fault in [
        Fault::After,
        Fault::Late(millis(300)),
        Fault::Before(CommitError::Unavailable {
            reason: "test".to_owned(),
        }),
    ] {
        for resend in [true, false] {
            let kernel = Script::new(Answer::Deny);
            let bench = Bench::with(Setup {
                kernel,
                resend,
                ..Setup::default()
            })
            .await;
            let id = bench.job_of(request("job.a")).await;
            bench.faulty.script([fault.clone()]);
            let mut answer = bench.engine.delete_dlq_entry(&ADMIN, &id).await;
            if !matches!(answer, Ok(())) {
                pass(secs(1)).await;
                answer = bench.engine.delete_dlq_entry(&ADMIN, &id).await;
            }
            assert!(
                answer.is_ok() || is_no_entry(&answer),
                "{fault:?}: {answer:?}"
            );
            assert!(ids(&bench, &DlqFilter::default()).await.is_empty());
            bench.audit().await;
        }
    }
}
