//! `job submit --batch`.

use coretex::proto::submit_jobs_result::Outcome;
use coretex::proto::*;
use coretex::well_known::Status as ItemStatus;
use coretex::{JobState, Payload};
use serde_json::json;
use tonic::Status;

use crate::support::{Scene, failed, job};

/// Accepts all but those with the label `bad`; ids are the labels `id`.
fn accepts(scene: &Scene) {
    scene.fake.submit_jobs.set(|request| {
        let results = request.requests.into_iter().map(|request| {
            let outcome = if request.labels.contains_key("bad") {
                Outcome::Status(ItemStatus {
                    code: 3,
                    message: "this one is bad".into(),
                    details: Vec::new(),
                })
            } else {
                let id = request.labels.get("id").cloned().unwrap_or_default();
                Outcome::Job(Job {
                    topic: request.topic,
                    waiting_reason: "no_workers".into(),
                    ..job(&id, JobState::Pending)
                })
            };
            SubmitJobsResult {
                outcome: Some(outcome),
                replayed: false,
            }
        });
        Ok(SubmitJobsResponse {
            results: results.collect(),
        })
    });
}

#[tokio::test]
async fn every_line_is_reported_and_a_bad_one_makes_the_exit_code_1() {
    let scene = Scene::new().await;
    accepts(&scene);
    let lines = [
        r#"{"topic": "job.a", "input": {"text": "to be"}, "labels": {"id": "a"}}"#,
        "",
        r#"{"input": {"json": 3}, "labels": {"id": "b"}, "priority": "JOB_PRIORITY_CRITICAL"}"#,
        r#"{"topik": "job.x"}"#,
        r#"{"labels": {"bad": "1"}}"#,
    ];
    let file = scene.ctl.file("jobs.jsonl", lines.join("\n"));
    let ran = scene
        .run(&[
            "job",
            "submit",
            "--batch",
            &file,
            "--topic",
            "job.x",
            "--label",
            "all=yes",
            "--priority",
            "batch",
        ])
        .await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let shown: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(shown, [["1", "a", "PENDING"], ["3", "b", "PENDING"]]);
    assert!(
        ran.stderr
            .contains("error: line 4: topik: unknown field, did you mean `topic`?"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("error: line 5: this one is bad"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("waiting: no worker for job.a (start one:"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("submitted 2 jobs, 2 refused, in "),
        "{}",
        ran.stderr
    );

    let requests = scene.fake.submit_jobs.only().requests;
    assert_eq!(requests.len(), 3);
    assert_eq!(
        requests[0].input,
        Some(Payload::from_json(&json!({"text": "to be"})))
    );
    assert_eq!(
        (requests[0].topic.as_str(), requests[0].priority()),
        ("job.a", JobPriority::Batch)
    );
    assert_eq!(
        (requests[1].topic.as_str(), requests[1].priority()),
        ("job.x", JobPriority::Critical)
    );
    assert!(
        requests
            .iter()
            .all(|request| request.labels["all"] == "yes")
    );
    assert!(
        requests
            .iter()
            .all(|request| !request.idempotency_key.is_empty())
    );
}

#[tokio::test]
async fn a_batch_can_be_waited_for() {
    let scene = Scene::new().await;
    accepts(&scene);
    scene.fake.wait_job.set(|request| {
        let ended = match request.job_id.as_str() {
            "a" => Job {
                output: Some(Payload::from_json(&json!({"words": 6}))),
                ..job("a", JobState::Succeeded)
            },
            id => failed(id),
        };
        Ok(WaitJobResponse { job: Some(ended) })
    });
    let lines = "{\"labels\": {\"id\": \"a\"}}\n{\"labels\": {\"id\": \"b\"}}\n";
    let args = [
        "job", "submit", "--batch", "-", "--topic", "job.x", "--wait",
    ];
    let ran = scene.ctl.run_with_stdin(&args, lines).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let shown: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    assert_eq!(
        shown,
        [
            r#"1  a  SUCCEEDED  {"words":6}"#,
            "2  b  FAILED     the disk is full (exit_7)"
        ]
    );
    assert!(
        ran.stderr
            .contains("submitted 2 jobs, 1 succeeded, 1 ended badly, in "),
        "{}",
        ran.stderr
    );

    let args = [
        "job", "submit", "--batch", "-", "--topic", "job.x", "--wait", "-o", "json",
    ];
    let ran = scene
        .ctl
        .run_with_stdin(&args, "{\"labels\": {\"id\": \"a\"}}\n[]\n")
        .await;
    let lines = ran.json_lines();
    // The refused line is known at once, the other when its job has ended.
    assert_eq!(
        (&lines[0]["line"], &lines[0]["status"]["code"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(lines[1]["line"], 1);
    assert_eq!(lines[1]["job"]["output"]["json"]["words"], 6);
}

#[tokio::test]
async fn many_lines_go_in_groups_and_what_is_too_large_is_halved() {
    let scene = Scene::new().await;
    scene.fake.submit_jobs.set(|request| {
        if request.requests.len() > 600 {
            return Err(Status::out_of_range("decoded message length too large"));
        }
        let results = request.requests.iter().map(|request| SubmitJobsResult {
            outcome: Some(Outcome::Job(job(&request.labels["id"], JobState::Pending))),
            replayed: false,
        });
        Ok(SubmitJobsResponse {
            results: results.collect(),
        })
    });
    let lines: String = (0..1_500)
        .map(|n| format!("{{\"topic\": \"job.x\", \"labels\": {{\"id\": \"j{n}\"}}}}\n"))
        .collect();
    let ran = scene
        .ctl
        .run_with_stdin(&["job", "submit", "--batch", "-"], &lines)
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ids: Vec<&str> = ran
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let expected: Vec<String> = (0..1_500).map(|n| format!("j{n}")).collect();
    assert_eq!(ids, expected);
    let sizes: Vec<usize> = scene
        .fake
        .submit_jobs
        .asked()
        .iter()
        .map(|r| r.requests.len())
        .collect();
    assert_eq!(sizes, [1_000, 500, 500, 500]);
}

#[tokio::test]
async fn a_server_that_goes_away_leaves_a_count_behind() {
    let scene = Scene::new().await;
    scene
        .fake
        .submit_jobs
        .set(|_| Err(Status::permission_denied("not you")));
    let ran = scene
        .ctl
        .run_with_stdin(&["job", "submit", "--batch", "-"], "{\"topic\": \"job.x\"}")
        .await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("submitted 0 jobs"), "{}", ran.stderr);
    assert!(ran.stderr.contains("error: not you"), "{}", ran.stderr);
}
