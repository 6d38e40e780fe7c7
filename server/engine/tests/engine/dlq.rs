//! Dead letters: who gets one, who sees it, how it is deleted. How long it is kept is in
//! [`retention`], retries are in [`retry`].

mod retention;
mod retry;

use std::sync::Arc;

use coretex_core::id::JobId;
use coretex_core::job::{ErrorSource, JobState};
use coretex_core::payload::Payload;
use coretex_engine::{Caller, DlqAnswer, DlqFilter, Error, Noun, PageRequest, Role, SubmitJob};
use coretex_store::CommitError;
use coretex_store::layers::Fault;

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, caller, hello, millis, pass, request, secs, topic, with,
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
