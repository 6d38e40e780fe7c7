//! Running an ended job again.

use std::collections::BTreeMap;

use coretex_core::job::{JobState, Placement, Priority};
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_engine::{Error, JobEdits, MAX_LABELS, Role};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, admin, caller, hello, is_no_job, request, secs, topic,
    with,
};

#[tokio::test(start_paused = true)]
async fn a_rerun_is_a_new_linked_job_judged_afresh() {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let mut denied = with("job.a", |spec| {
        spec.not_before = Some(coretex_core::time::Timestamp::from_micros(1));
    });
    denied.input = Some(Payload::json(vec![b'1'; 30 * 1024].into()));
    let input = denied.input.clone();
    let denied = bench.job_of(denied).await;
    kernel.say(Answer::Allow);
    let again = bench
        .engine
        .rerun_job(&admin(), &denied, JobEdits::default(), String::new())
        .await
        .unwrap();
    let job = &again.answer.job;
    assert_ne!(job.id, denied);
    assert_eq!(job.rerun_of.as_ref(), Some(&denied));
    assert_eq!((job.state, &job.input), (JobState::Pending, &input));
    assert_eq!(job.spec.not_before, None);
    assert_eq!(bench.state(&denied).await, JobState::Denied);
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, job.id);
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn edits_change_what_they_name_and_nothing_else() {
    let bench = Bench::new().await;
    let old = with("job.a", |spec| {
        spec.labels.insert("keep".to_owned(), "1".to_owned());
        spec.labels.insert("drop".to_owned(), "1".to_owned());
        spec.deadline_after = Some(secs(9));
        spec.memory_id = "m".to_owned();
    });
    let old = bench.job_of(old).await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &old, String::new(), None, false);
    cancelled.await.unwrap();
    let edits = JobEdits {
        input: Some(Payload::json("2".into())),
        topic: Some(topic("job.b")),
        priority: Some(Priority::Critical),
        placement: Some(Placement {
            worker_labels: [("zone".to_owned(), "eu".to_owned())].into(),
            ..Placement::default()
        }),
        add_labels: [("new".to_owned(), "2".to_owned())].into(),
        remove_labels: vec!["drop".to_owned(), "never".to_owned()],
        retry: Some(RetryPolicy {
            max_attempts: 4,
            ..RetryPolicy::default()
        }),
        timeout: Some(secs(77)),
    };
    let new = bench
        .engine
        .rerun_job(&ADMIN, &old, edits.clone(), "key".to_owned())
        .await
        .unwrap();
    let job = &new.answer.job;
    assert_eq!(job.spec.topic, topic("job.b"));
    assert_eq!(job.spec.priority, Priority::Critical);
    assert_eq!(job.spec.retry.max_attempts, 4);
    assert_eq!(job.spec.timeout, secs(77));
    assert_eq!(job.input, edits.input);
    assert_eq!(job.spec.deadline_after, Some(secs(9)));
    assert_eq!(job.spec.memory_id, "m");
    let labels: Vec<_> = job.spec.labels.keys().map(String::as_str).collect();
    assert_eq!(labels, ["keep", "new"]);
    assert_eq!(job.spec.placement.worker_labels.len(), 1);
    // The same again is the same; something else under the key is refused.
    let replay = bench
        .engine
        .rerun_job(&ADMIN, &old, edits, "key".to_owned());
    assert!(replay.await.unwrap().replayed);
    let other = JobEdits::default();
    let refused = bench
        .engine
        .rerun_job(&ADMIN, &old, other, "key".to_owned());
    let job_id = Some(job.id.clone());
    let refused = refused.await.err();
    assert_eq!(refused, Some(Error::IdempotencyKeyReused { job_id }));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_an_ended_job_that_one_may_see_can_be_rerun() {
    let bench = Bench::new().await;
    let open = bench.job_of(request("job.a")).await;
    let edits = JobEdits::default;
    let refused = bench
        .engine
        .rerun_job(&ADMIN, &open, edits(), String::new());
    assert_eq!(refused.await.err(), Some(Error::JobNotEnded));
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &open, String::new(), None, false);
    cancelled.await.unwrap();
    for stranger in [
        caller("other", "key:o", &[Role::Admin]),
        caller("acme", "key:s", &[Role::Submitter]),
    ] {
        let refused = bench
            .engine
            .rerun_job(&stranger, &open, edits(), String::new());
        assert!(is_no_job(&refused.await));
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn edits_do_not_add_labels_without_bound() {
    let bench = Bench::new().await;
    let labels = |range: std::ops::Range<usize>| -> BTreeMap<String, String> {
        range.map(|n| (format!("l{n}"), String::new())).collect()
    };
    let old = bench
        .job_of(with("job.a", |spec| {
            spec.labels = labels(0..MAX_LABELS - 1)
        }))
        .await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &old, String::new(), None, false);
    cancelled.await.unwrap();
    let adding = |range| JobEdits {
        add_labels: labels(range),
        ..JobEdits::default()
    };
    let rerun = async |edits| {
        let made = bench.engine.rerun_job(&ADMIN, &old, edits, String::new());
        made.await.map(|made| made.answer.job.spec.labels.len())
    };
    assert_eq!(rerun(adding(0..64)).await, Ok(MAX_LABELS));
    let refused = rerun(adding(63..65)).await;
    let Err(Error::Invalid(violations)) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert_eq!(violations[0].field, "edits.add_labels");
    let exchanged = JobEdits {
        remove_labels: vec!["l0".to_owned()],
        ..adding(63..65)
    };
    assert_eq!(rerun(exchanged).await, Ok(MAX_LABELS));
}
