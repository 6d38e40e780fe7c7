//! Retrying a dead letter: one new job, however many press the button and whatever the store does.

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::payload::Payload;
use coretex_engine::{DlqFilter, Error, JobEdits, JobFilter, Limits, PageRequest, Submitted};
use coretex_store::CommitError;
use coretex_store::layers::Fault;

use super::{denying, failing, ids, is_no_entry};
use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, hello, millis, pass, request, secs, topic, with,
};

async fn retry(bench: &Bench, id: &JobId, key: &str) -> Result<Submitted, Error> {
    let edits = JobEdits::default();
    bench
        .engine
        .retry_dlq_entry(&ADMIN, id, edits, key.to_owned())
        .await
}

/// The jobs that were made of `id`.
async fn made_of(bench: &Bench, id: &JobId) -> Vec<JobId> {
    let page = PageRequest {
        size: 1_000,
        token: String::new(),
    };
    let everything = JobFilter::default();
    let all = bench.engine.list_jobs(&ADMIN, &everything, page, false);
    let jobs = all.await.unwrap().jobs;
    let made = jobs
        .iter()
        .filter(|one| one.job.rerun_of.as_ref() == Some(id));
    made.map(|one| one.job.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_a_new_linked_job_with_the_same_facts_judged_afresh() {
    let (bench, kernel) = denying().await;
    let mut job = with("job.a", |spec| {
        spec.metadata.capability = "write".to_owned();
        spec.metadata.risk_tags.push("network".to_owned());
        spec.labels.insert("env".to_owned(), "prod".to_owned());
        spec.estimated_cost = Some(0.5);
    });
    job.input = Some(Payload::json(vec![b'1'; 30 * 1024].into()));
    let old = bench.job_of(job.clone()).await;
    let asked = kernel.asked();
    kernel.say(Answer::Allow);
    let new = retry(&bench, &old, "").await.unwrap();
    assert_eq!(kernel.asked(), asked + 1);
    let new = &new.answer.job;
    assert_eq!(new.rerun_of.as_ref(), Some(&old));
    assert_eq!((&*new.spec, &new.input), (&job.spec, &job.input));
    assert_eq!(new.state, JobState::Pending);
    let before = bench.job(&old).await;
    assert_eq!(
        (before.state, &before.dead_letter),
        (JobState::Denied, &None)
    );
    let event = before.events.last().unwrap();
    assert_eq!(event.reason, format!("retried as {}", new.id));
    assert!(ids(&bench, &DlqFilter::default()).await.is_empty());
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, new.id);
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_takes_a_free_worker_at_once_and_may_fail_again() {
    let bench = Bench::new().await;
    let old = failing(&bench, request("job.a"), "broken").await;
    let mut worker = bench.connect(hello("v", &["job.b"], 1)).await;
    let edits = JobEdits {
        topic: Some(topic("job.b")),
        ..JobEdits::default()
    };
    let new = bench
        .engine
        .retry_dlq_entry(&ADMIN, &old, edits, String::new());
    let new = new.await.unwrap().answer.job.id.clone();
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, new);
    assert!(worker.fail(&attempt, "again").await);
    assert_eq!(
        ids(&bench, &DlqFilter::default()).await,
        std::slice::from_ref(&new)
    );
    let letter = bench.job(&new).await.dead_letter.clone().unwrap();
    assert_eq!(letter.code, "again");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_retry_is_a_dead_letter_of_its_own() {
    let (bench, _) = denying().await;
    let old = bench.job_of(request("job.a")).await;
    let new = retry(&bench, &old, "").await.unwrap().answer.job.id.clone();
    assert_ne!(new, old);
    assert_eq!(ids(&bench, &DlqFilter::default()).await, [new]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_who_retry_at_once_one_makes_a_job() {
    for keys in [["", "", "", ""], ["a", "b", "c", "d"]] {
        let (bench, kernel) = denying().await;
        let old = bench.job_of(request("job.a")).await;
        kernel.say(Answer::Allow);
        let [a, b, c, d] = keys.map(|key| retry(&bench, &old, key));
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        let answers = [a, b, c, d];
        let good = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(good, 1, "{answers:?}");
        let rest = answers.iter().filter(|answer| answer.is_err());
        assert!(rest.into_iter().all(is_no_entry), "{answers:?}");
        assert_eq!(made_of(&bench, &old).await.len(), 1);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_retry_at_once_make_one_job() {
    for key in ["", "k"] {
        let kernel = Script::new(Answer::Deny);
        let bench = Bench::with(Setup {
            kernel: kernel.clone(),
            exclusive: false,
            ..Setup::default()
        })
        .await;
        let (other, _) = bench.another().await.unwrap();
        let old = bench.job_of(request("job.a")).await;
        kernel.say(Answer::Allow);
        let edits = JobEdits::default();
        let (here, there) = tokio::join!(
            retry(&bench, &old, key),
            other.retry_dlq_entry(&ADMIN, &old, edits, key.to_owned()),
        );
        let answers = [here, there];
        if key.is_empty() {
            assert_eq!(answers.iter().filter(|one| one.is_ok()).count(), 1);
            assert!(answers.iter().any(is_no_entry));
        } else {
            let [first, second] = answers.map(|answer| answer.unwrap());
            assert_eq!(first.answer.job.id, second.answer.job.id);
            assert!(first.replayed != second.replayed);
        }
        assert_eq!(made_of(&bench, &old).await.len(), 1);
        bench.audit().await;
        other.drain(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_gives_the_same_job_and_stands_for_nothing_else() {
    let (bench, kernel) = denying().await;
    let old = bench.job_of(request("job.a")).await;
    let another = bench.job_of(request("job.a")).await;
    kernel.say(Answer::Allow);
    let first = retry(&bench, &old, "k").await.unwrap();
    let second = retry(&bench, &old, "k").await.unwrap();
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.answer.job.id, second.answer.job.id);
    assert!(is_no_entry(&retry(&bench, &old, "other").await));
    let job_id = Some(first.answer.job.id.clone());
    let reused = Some(Error::IdempotencyKeyReused { job_id });
    assert_eq!(retry(&bench, &another, "k").await.err(), reused);
    let edits = JobEdits {
        topic: Some(topic("job.z")),
        ..JobEdits::default()
    };
    let edited = bench
        .engine
        .retry_dlq_entry(&ADMIN, &old, edits, "k".to_owned());
    assert_eq!(edited.await.err(), reused);
    // A rerun of the same job is something else: it takes no dead letter off.
    let rerun = bench
        .engine
        .rerun_job(&ADMIN, &another, JobEdits::default(), "r".to_owned());
    rerun.await.unwrap();
    let refused = retry(&bench, &another, "r").await;
    assert!(matches!(refused, Err(Error::IdempotencyKeyReused { .. })));
    assert_eq!(ids(&bench, &DlqFilter::default()).await, [another]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_retry_leaves_the_entry_where_it_is() {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        limits: Limits {
            max_waiting_jobs: 1,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let old = bench.job_of(request("job.a")).await;
    kernel.say(Answer::Allow);
    let waiting = bench.job_of(request("job.a")).await;
    let refused = retry(&bench, &old, "k").await;
    assert_eq!(refused.err(), Some(Error::TooManyWaitingJobs { limit: 1 }));
    let too_many = JobEdits {
        add_labels: (0..65).map(|n| (n.to_string(), String::new())).collect(),
        ..JobEdits::default()
    };
    let refused = bench
        .engine
        .retry_dlq_entry(&ADMIN, &old, too_many, String::new());
    assert!(matches!(refused.await, Err(Error::Invalid(_))));
    assert_eq!(
        ids(&bench, &DlqFilter::default()).await,
        std::slice::from_ref(&old)
    );
    let cancel = bench
        .engine
        .cancel_job(&ADMIN, &waiting, String::new(), None, false);
    cancel.await.unwrap();
    assert!(!retry(&bench, &old, "k").await.unwrap().replayed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn retry_and_delete_at_once_are_one_after_the_other() {
    let (bench, kernel) = denying().await;
    kernel.say(Answer::Deny);
    for number in 0..20 {
        kernel.say(Answer::Deny);
        let old = bench.job_of(request("job.a")).await;
        kernel.say(Answer::Allow);
        let (retried, deleted) = if number % 2 == 0 {
            tokio::join!(
                retry(&bench, &old, ""),
                bench.engine.delete_dlq_entry(&ADMIN, &old)
            )
        } else {
            let (deleted, retried) = tokio::join!(
                bench.engine.delete_dlq_entry(&ADMIN, &old),
                retry(&bench, &old, "")
            );
            (retried, deleted)
        };
        assert!(
            retried.is_ok() != deleted.is_ok(),
            "{retried:?} {deleted:?}"
        );
        let made = made_of(&bench, &old).await.len();
        assert_eq!(made, usize::from(retried.is_ok()));
    }
    bench.audit().await;
}

/// A late result changes the record between the look and the commit; the dead letter is still there.
#[tokio::test(start_paused = true)]
async fn a_change_that_is_not_about_the_dead_letter_costs_a_retry_nothing() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let slow = with("job.a", |spec| spec.timeout = secs(5));
    let old = bench.job_of(slow).await;
    let attempt = worker.assignment().await;
    assert_eq!(worker.revoke().await, attempt);
    // The retry is held up; the answer of the worker overtakes it.
    bench.faulty.script([Fault::Delay(secs(2))]);
    let (retried, ()) = tokio::join!(retry(&bench, &old, ""), async {
        pass(millis(500)).await;
        worker.finish(&attempt, crate::support::succeeded()).await;
        assert!(!worker.ack().await);
    });
    retried.unwrap();
    assert_eq!(made_of(&bench, &old).await.len(), 1);
    let old = bench.job(&old).await;
    assert!(old.dead_letter.is_none() && old.attempts.last().unwrap().late_result);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_a_repeated_retry_makes_one_job() {
    let faults = [
        Fault::Before(CommitError::Unavailable {
            reason: "test".to_owned(),
        }),
        Fault::Before(CommitError::Unknown {
            reason: "test".to_owned(),
        }),
        Fault::After,
        Fault::Late(millis(300)),
        Fault::Late(secs(14)),
        Fault::Delay(secs(9)),
        Fault::SlowAnswer(secs(9)),
    ];
    for fault in faults {
        for (resend, key) in [(true, "k"), (false, "k"), (true, ""), (false, "")] {
            let what = format!("{fault:?}, resend {resend}, key {key:?}");
            let kernel = Script::new(Answer::Deny);
            let bench = Bench::with(Setup {
                kernel: kernel.clone(),
                resend,
                ..Setup::default()
            })
            .await;
            let old = bench.job_of(request("job.a")).await;
            kernel.say(Answer::Allow);
            bench.faulty.script([fault.clone()]);
            let mut answer = retry(&bench, &old, key).await;
            for _ in 0..40 {
                let again = matches!(
                    answer,
                    Err(Error::Unavailable { .. } | Error::OutcomeUnknown | Error::Contention)
                );
                if !again {
                    break;
                }
                pass(millis(500)).await;
                answer = retry(&bench, &old, key).await;
            }
            // Without a key nobody can say any more whose retry it was; it ran once all the same.
            let settled = answer.is_ok() || (key.is_empty() && is_no_entry(&answer));
            assert!(settled, "{what}: {answer:?}");
            pass(secs(20)).await;
            assert_eq!(made_of(&bench, &old).await.len(), 1, "{what}");
            assert!(
                ids(&bench, &DlqFilter::default()).await.is_empty(),
                "{what}"
            );
            bench.audit().await;
        }
    }
}
