//! Submitting, waiting, watching, cancelling.

use coretex::proto::*;
use coretex::{JobState, Payload};
use serde_json::json;

use crate::support::fake::Watched;
use crate::support::{Scene, failed, job, refusal};

const WAITING: &str = "waiting: no worker for job.x (start one: coretexctl worker exec --topic job.x \
                       -- CMD)";

fn submits(scene: &Scene, answer: Job) {
    scene.fake.submit_job.set(move |_| {
        Ok(SubmitJobResponse {
            job: Some(answer.clone()),
            replayed: false,
        })
    });
}

fn waits(scene: &Scene, answer: Job) {
    scene.fake.wait_job.set(move |_| {
        Ok(WaitJobResponse {
            job: Some(answer.clone()),
        })
    });
}

fn succeeded(job_id: &str) -> Job {
    Job {
        output: Some(Payload::from_bytes("6\n", "text/plain")),
        ..job(job_id, JobState::Succeeded)
    }
}

#[tokio::test]
async fn flags_become_the_request() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::Pending));
    let ran = scene
        .run(&[
            "job",
            "submit",
            "job.x",
            "--input",
            r#"{"n": 9007199254740993}"#,
            "--label",
            "a=b=c",
            "--priority",
            "critical",
            "--retry-max-attempts",
            "3",
            "--backoff",
            "200ms",
            "--attempt-timeout",
            "1m",
            "--requires",
            "gpu",
            "--worker-label",
            "zone=eu",
            "--max-redispatch",
            "0",
            "--delay",
            "1h",
            "--deadline-after",
            "2h",
            "--on-worker-loss",
            "fail",
            "--team",
            "t",
        ])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let request = scene.fake.submit_job.only();
    assert_eq!(request.topic, "job.x");
    assert!(!request.idempotency_key.is_empty());
    // Beyond 2^53 a number travels as text, or it would be another one.
    let input = request.input.clone().unwrap();
    assert_eq!(
        input,
        Payload::from_bytes(r#"{"n":9007199254740993}"#, "application/json")
    );
    assert_eq!(request.labels["a"], "b=c");
    assert_eq!(request.priority(), JobPriority::Critical);
    let retry = request.retry.clone().unwrap();
    assert_eq!(retry.max_attempts, Some(3));
    assert_eq!(retry.initial_backoff.unwrap().nanos, 200_000_000);
    assert_eq!(request.timeout.unwrap().seconds, 60);
    assert_eq!(request.metadata.clone().unwrap().requires, ["gpu"]);
    assert_eq!(
        request.placement.clone().unwrap().worker_labels["zone"],
        "eu"
    );
    assert_eq!(request.max_redispatch, Some(0));
    assert!(request.not_before.is_some());
    assert_eq!(request.deadline_after.unwrap().seconds, 7_200);
    assert_eq!(request.on_worker_loss(), WorkerLossPolicy::Fail);
    assert_eq!(request.team_id, "t");
    assert!(ran.stdout.contains("state  PENDING"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn a_job_without_a_worker_is_told_at_once() {
    let scene = Scene::new().await;
    let waiting = Job {
        waiting_reason: "no_workers".into(),
        ..job("a", JobState::Pending)
    };
    submits(&scene, waiting);
    let ran = scene.run(&["job", "submit", "--topic", "job.x"]).await;
    assert_eq!((ran.code, ran.stderr.trim_end()), (Some(0), WAITING));

    // Also when the job is waited for, and before the wait is over.
    waits(&scene, succeeded("a"));
    let ran = scene.run(&["job", "submit", "job.x", "--wait"]).await;
    assert_eq!((ran.code, ran.stderr.trim_end()), (Some(0), WAITING));
    assert!(ran.stdout.contains("SUCCEEDED"), "{}", ran.stdout);
}

#[tokio::test]
async fn waiting_ends_with_the_exit_code_of_the_job() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::Running));
    waits(&scene, succeeded("a"));
    let ran = scene
        .run(&["job", "submit", "job.x", "--wait", "--result-only"])
        .await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "6\n"));

    waits(&scene, failed("a"));
    let ran = scene.run(&["job", "submit", "job.x", "--wait"]).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.stderr,
        "error: job a ended FAILED: the disk is full (exit_7)\n"
    );
    assert!(
        ran.stdout.contains("the disk is full (exit_7)"),
        "{}",
        ran.stdout
    );

    waits(&scene, job("a", JobState::Running));
    let ran = scene
        .run(&["job", "submit", "job.x", "--wait", "--timeout", "150ms"])
        .await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("hint: it goes on"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_wait_verb_waits_for_what_is_there() {
    let scene = Scene::new().await;
    let get = |job: Job| {
        scene.fake.get_job.set(move |_| {
            Ok(GetJobResponse {
                job: Some(job.clone()),
            })
        })
    };
    get(succeeded("a"));
    let ran = scene.run(&["job", "wait", "a", "-o", "json"]).await;
    assert_eq!(
        (ran.code, &ran.json()["state"]),
        (Some(0), &json!("JOB_STATE_SUCCEEDED"))
    );

    get(job("a", JobState::Running));
    waits(&scene, job("a", JobState::Cancelled));
    let ran = scene.run(&["job", "wait", "a"]).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(1), "error: job a ended CANCELLED\n")
    );
}

#[tokio::test]
async fn an_approval_is_not_waited_for_when_nobody_wants_to() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::ApprovalRequired));
    let ran = scene
        .run(&["job", "submit", "job.x", "--wait", "--no-approval-wait"])
        .await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(4), "error: job a waits for an approval\n")
    );

    // Also when it comes to that later: the watch tells.
    submits(&scene, job("a", JobState::Pending));
    waits(&scene, job("a", JobState::Pending));
    scene.fake.watch.set(|_| {
        Ok(Watched {
            messages: vec![WatchJobsResponse {
                job: Some(job("a", JobState::ApprovalRequired)),
                ..WatchJobsResponse::default()
            }],
            stays: true,
        })
    });
    let ran = scene
        .run(&["job", "submit", "job.x", "--wait", "--no-approval-wait"])
        .await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
}

#[tokio::test]
async fn a_denied_job_is_refused_even_without_waiting() {
    let scene = Scene::new().await;
    let denied = Job {
        decision: Some(JobDecision {
            reason: "not on sundays".into(),
            ..JobDecision::default()
        }),
        ..job("a", JobState::Denied)
    };
    submits(&scene, denied);
    let ran = scene.run(&["job", "submit", "job.x"]).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "error: job a ended DENIED: not on sundays\n");
    assert!(ran.stdout.contains("DENIED"));
}

fn event(sequence: i32, kind: JobEventType, state: JobState) -> JobEvent {
    JobEvent {
        sequence,
        job_id: "a".into(),
        r#type: kind.into(),
        to_state: state.into(),
        ..JobEvent::default()
    }
}

#[tokio::test]
async fn a_watch_shows_the_history_and_then_what_happens_each_once() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::Pending));
    scene.fake.list_job_events.set(|_| {
        Ok(ListJobEventsResponse {
            events: vec![
                event(1, JobEventType::Submitted, JobState::Pending),
                event(2, JobEventType::Dispatched, JobState::Dispatched),
            ],
            ..ListJobEventsResponse::default()
        })
    });
    scene.fake.watch.set(|request| {
        assert_eq!(
            request.target,
            Some(watch_jobs_request::Target::JobId("a".into()))
        );
        let message = |event, state| WatchJobsResponse {
            event,
            job: Some(job("a", state)),
            resume_token: "t".into(),
            ..WatchJobsResponse::default()
        };
        let (dispatched, running) = (JobState::Dispatched, JobState::Running);
        Ok(Watched {
            messages: vec![
                WatchJobsResponse {
                    checkpoint: true,
                    ..message(None, running)
                },
                message(
                    Some(event(2, JobEventType::Dispatched, dispatched)),
                    running,
                ),
                message(Some(event(2, JobEventType::Progressed, running)), running),
                message(
                    Some(event(3, JobEventType::Failed, JobState::Failed)),
                    JobState::Failed,
                ),
            ],
            stays: false,
        })
    });
    let ran = scene.run(&["job", "submit", "job.x", "--watch"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let kinds: Vec<&str> = ran
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(
        kinds,
        ["SUBMITTED", "DISPATCHED", "PROGRESSED", "FAILED"],
        "{}",
        ran.stdout
    );

    // The verb ends well: it has shown what there was to see. As JSON, one object per line.
    let ran = scene.run(&["job", "watch", "a", "--output", "json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = ran.json_lines();
    assert_eq!(
        lines.last().unwrap()["event"]["type"],
        "JOB_EVENT_TYPE_FAILED"
    );
}

#[tokio::test]
async fn a_watch_of_many_uses_the_filter() {
    let scene = Scene::new().await;
    scene.fake.watch.set(|_| {
        Err(refusal(
            tonic::Code::OutOfRange,
            "the token is too old",
            coretex::ErrorReason::ResumeTokenInvalid,
        ))
    });
    let ran = scene
        .run(&[
            "job",
            "watch",
            "--topic",
            "job.x",
            "--state",
            "failed,timeout",
            "--resume-token",
            "t",
        ])
        .await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("reason: RESUME_TOKEN_INVALID"),
        "{}",
        ran.stderr
    );
    let request = scene.fake.watch.only();
    assert_eq!(request.resume_token, "t");
    let Some(watch_jobs_request::Target::Filter(filter)) = request.target else {
        panic!("no filter")
    };
    assert_eq!(filter.topics, ["job.x"]);
    assert_eq!(
        filter.states,
        [JobState::Failed as i32, JobState::Timeout as i32]
    );
}

#[tokio::test]
async fn cancel_and_rerun_pass_on_what_was_said() {
    let scene = Scene::new().await;
    scene.fake.cancel_job.set(|request| {
        assert_eq!(
            (request.job_id.as_str(), request.reason.as_str()),
            ("a", "enough")
        );
        assert_eq!(request.grace.map(|grace| grace.seconds), Some(5));
        Ok(CancelJobResponse {
            job: Some(job("a", JobState::Cancelled)),
        })
    });
    let ran = scene
        .run(&["job", "cancel", "a", "--reason", "enough", "--grace", "5s"])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");

    scene.fake.rerun_job.set(|request| {
        let edits = request.edits.unwrap();
        assert_eq!(edits.topic.as_deref(), Some("job.y"));
        assert_eq!(edits.input.unwrap().to_json().unwrap(), Some(json!(1)));
        assert_eq!(edits.remove_labels, ["old"]);
        Ok(RerunJobResponse {
            job: Some(succeeded("b")),
            replayed: false,
        })
    });
    let ran = scene
        .run(&[
            "job",
            "rerun",
            "a",
            "--topic",
            "job.y",
            "--input",
            "1",
            "--remove-label",
            "old",
            "--wait",
        ])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test]
async fn an_input_comes_from_a_file_or_stdin_as_it_is() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::Pending));
    let file = scene.ctl.file("data.json", "{\"a\": 1}\n");
    scene
        .run(&["job", "submit", "job.x", "--input-file", &file])
        .await;
    let bytes = [
        "job",
        "submit",
        "job.x",
        "--input-file",
        &file,
        "--content-type",
        "text/plain",
    ];
    scene.run(&bytes).await;
    let stdin = ["job", "submit", "job.x", "--input-file", "-"];
    scene.ctl.run_with_stdin(&stdin, "to be").await;
    let inputs = scene
        .fake
        .submit_job
        .asked()
        .into_iter()
        .map(|request| request.input.unwrap());
    let expected = [
        Payload::from_json(&json!({"a": 1})),
        Payload::from_bytes("{\"a\": 1}\n", "text/plain"),
        Payload::from_bytes("to be", "text/plain; charset=utf-8"),
    ];
    assert_eq!(inputs.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_wait_survives_the_limit_of_one_call() {
    let scene = Scene::new().await;
    submits(&scene, job("a", JobState::Running));
    let mut calls = 0;
    scene.fake.wait_job.set(move |request| {
        calls += 1;
        assert!(request.timeout.is_some_and(|limit| limit.seconds <= 60));
        // The first call ends early, as one to a server that is about to stop does.
        let state = if calls == 1 {
            JobState::Running
        } else {
            JobState::Succeeded
        };
        Ok(WaitJobResponse {
            job: Some(job("a", state)),
        })
    });
    let ran = scene.run(&["job", "submit", "job.x", "--wait"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(scene.fake.wait_job.asked().len(), 2);
}
