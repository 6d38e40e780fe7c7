//! Dead letters, and verbs that do one thing to many jobs.

use coretex::JobState;
use coretex::proto::*;
use serde_json::json;

use crate::support::{Scene, failed, job};

fn progress(matched: i32, failed_count: i32, finished: bool) -> BulkProgress {
    BulkProgress {
        matched_count: matched,
        done_count: matched - failed_count,
        failed_count,
        failures: (0..failed_count)
            .map(|number| BulkFailure {
                job_id: format!("bad-{number}"),
                status: Some(coretex::well_known::Status {
                    code: 3,
                    message: "too many labels".into(),
                    details: Vec::new(),
                }),
            })
            .collect(),
        finished,
        page_token: if finished { "" } else { "tok" }.into(),
        idempotency_key: "op".into(),
        ..BulkProgress::default()
    }
}

fn cancels(scene: &Scene, last: BulkProgress) {
    scene.fake.cancel_jobs.set(move |_| {
        Ok(vec![CancelJobsResponse {
            progress: Some(last.clone()),
        }])
    });
}

fn entry(entry_id: &str) -> DlqEntry {
    DlqEntry {
        entry_id: entry_id.into(),
        job: Some(failed(entry_id)),
        reason_code: "max_attempts_exceeded".into(),
        message: "the disk is \u{1b}[31mfull".into(),
        last_state: JobState::Failed.into(),
        attempts: vec![JobAttempt {
            attempt: 1,
            worker_id: "w-7".into(),
            ..JobAttempt::default()
        }],
        ..DlqEntry::default()
    }
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown() {
    let scene = Scene::new().await;
    scene.fake.list_dlq_entries.set(|_| {
        Ok(ListDlqEntriesResponse {
            entries: vec![entry("a")],
            next_page_token: String::new(),
        })
    });
    let filter = [
        "--reason-code",
        "timeout,broken",
        "--topic",
        "job.x",
        "--state",
        "failed",
        "--label",
        "env=prod",
        "--principal",
        "key:1",
    ];
    let ran = scene
        .run(&[&["dlq", "list"], filter.as_slice()].concat())
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let row = ran.stdout.lines().nth(1).unwrap();
    assert!(row.contains("max_attempts_exceeded"), "{row}");
    assert!(
        row.contains("\\u{1b}[31mfull"),
        "no escapes reach the terminal: {row}"
    );
    let asked = scene.fake.list_dlq_entries.only();
    assert_eq!(asked.reason_codes, ["timeout", "broken"]);
    assert_eq!(asked.topics, ["job.x"]);
    assert_eq!(asked.states, [i32::from(JobState::Failed)]);
    assert_eq!(asked.labels["env"], "prod");
    assert_eq!(asked.principal_id, "key:1");

    scene.fake.get_dlq_entry.set(|request| {
        Ok(GetDlqEntryResponse {
            entry: Some(entry(&request.entry_id)),
        })
    });
    let ran = scene.run(&["dlq", "get", "a"]).await;
    for words in ["max_attempts_exceeded", "job.x", "w-7", "exit_7"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let ran = scene.run(&["dlq", "get", "a", "-o", "json"]).await;
    assert_eq!(ran.json()["reason_code"], json!("max_attempts_exceeded"));
}

#[tokio::test]
async fn a_retry_takes_the_edits_of_a_rerun() {
    let scene = Scene::new().await;
    scene.fake.retry_dlq_entry.set(|_| {
        Ok(RetryDlqEntryResponse {
            job: Some(job("new", JobState::Pending)),
            replayed: false,
        })
    });
    let ran = scene
        .run(&[
            "dlq", "retry", "a", "--topic", "job.y", "--input", "7", "-o", "json",
        ])
        .await;
    assert_eq!(
        (ran.code, ran.json()["job_id"].clone()),
        (Some(0), json!("new"))
    );
    let asked = scene.fake.retry_dlq_entry.only();
    assert_eq!(asked.entry_id, "a");
    assert!(!asked.idempotency_key.is_empty());
    let edits = asked.edits.unwrap();
    assert_eq!(edits.topic.as_deref(), Some("job.y"));
    assert!(edits.input.is_some());
}

#[tokio::test]
async fn retrying_all_says_how_it_came_out() {
    let scene = Scene::new().await;
    scene.fake.retry_dlq_entries.set(|_| {
        let messages = [progress(0, 0, false), progress(7, 2, true)];
        let messages = messages
            .into_iter()
            .map(|progress| RetryDlqEntriesResponse {
                progress: Some(progress),
            });
        Ok(messages.collect())
    });
    let ran = scene.run(&["dlq", "retry-all", "--rate", "5"]).await;
    assert_eq!(ran.code, Some(1), "some refused");
    assert!(ran.stdout.contains("matched"), "{ran:?}");
    assert!(ran.stderr.contains("error: bad-1: "), "{ran:?}");
    assert!(ran.stderr.contains("too many labels"), "{ran:?}");
    let ran = scene
        .run(&[
            "dlq",
            "retry-all",
            "--topic",
            "job.x",
            "--dry-run",
            "-o",
            "json",
        ])
        .await;
    assert_eq!(ran.json()["done_count"], json!(5));
    let asked = scene.fake.retry_dlq_entries.asked();
    assert!(asked[0].all && asked[0].rate == 5 && !asked[0].dry_run);
    assert!(!asked[0].idempotency_key.is_empty());
    assert!(!asked[1].all && asked[1].dry_run);
    assert_eq!(asked[1].filter.clone().unwrap().topics, ["job.x"]);
}

#[tokio::test]
async fn what_cannot_be_undone_is_asked_for() {
    let scene = Scene::new().await;
    let last = progress(3, 0, true);
    cancels(&scene, last.clone());
    scene.fake.purge_dlq.set(move |_| {
        Ok(vec![PurgeDlqResponse {
            progress: Some(last.clone()),
        }])
    });
    scene
        .fake
        .delete_dlq_entry
        .set(|_| Ok(DeleteDlqEntryResponse {}));
    for command in [
        vec!["dlq", "purge"],
        vec!["dlq", "delete", "a"],
        vec!["job", "cancel", "--all"],
    ] {
        let ran = scene.run(&command).await;
        assert_eq!(ran.code, Some(2), "{command:?}");
        assert!(ran.stderr.contains("hint: say --yes"), "{}", ran.stderr);
        let ran = scene.run(&[command.as_slice(), &["--yes"]].concat()).await;
        assert_eq!(ran.code, Some(0), "{command:?}: {ran:?}");
    }
    assert!(scene.fake.purge_dlq.only().all);
    assert!(scene.fake.cancel_jobs.only().all);
    assert_eq!(scene.fake.delete_dlq_entry.only().entry_id, "a");
    // Counting needs no question.
    let ran = scene.run(&["dlq", "purge", "--dry-run"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test]
async fn many_jobs_are_cancelled_and_rerun_by_filter() {
    let scene = Scene::new().await;
    cancels(&scene, progress(3, 0, true));
    let ran = scene
        .run(&[
            "job",
            "cancel",
            "--filter",
            "state=pending,scheduled",
            "--filter",
            "topic=job.x",
            "--filter",
            "label=env=prod",
            "--reason",
            "enough",
            "--yes",
        ])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let asked = scene.fake.cancel_jobs.only();
    let filter = asked.filter.unwrap();
    assert_eq!((filter.states.len(), asked.all), (2, false));
    assert_eq!(filter.labels["env"], "prod");
    assert_eq!(asked.reason, "enough");

    scene.fake.rerun_jobs.set(|_| {
        Ok(vec![RerunJobsResponse {
            progress: Some(progress(2, 0, true)),
        }])
    });
    let rerun = [
        "job",
        "rerun",
        "--filter",
        "state=failed",
        "--topic",
        "job.y",
    ];
    let ran = scene.run(&rerun).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let asked = scene.fake.rerun_jobs.only();
    assert_eq!(asked.filter.unwrap().states, [i32::from(JobState::Failed)]);
    assert_eq!(asked.edits.unwrap().topic.as_deref(), Some("job.y"));
}

#[tokio::test]
async fn flags_that_do_not_go_together_are_refused() {
    let scene = Scene::new().await;
    for (command, says) in [
        (vec!["job", "cancel"], "JOB_ID"),
        (vec!["job", "cancel", "a", "--all"], "cannot be used with"),
        (
            vec!["job", "cancel", "a", "--rate", "5"],
            "--rate needs --filter or --all",
        ),
        (
            vec!["job", "rerun", "a", "--dry-run"],
            "--dry-run needs --filter or --all",
        ),
        (vec!["job", "rerun", "--all", "--wait"], "for one job"),
        (
            vec!["job", "cancel", "--filter", "colour=red"],
            "knows no `colour`",
        ),
    ] {
        let ran = scene.run(&command).await;
        assert_eq!(ran.code, Some(2), "{command:?}");
        assert!(ran.stderr.contains(says), "{command:?}: {}", ran.stderr);
    }
    assert!(scene.fake.cancel_jobs.asked().is_empty());
}
