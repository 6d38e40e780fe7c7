//! `worker exec` as a whole: a session, real programs, results.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use coretex::proto::*;
use coretex::{JobState, Payload};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::support::{PATIENCE, Scene};

/// Starts a worker; it is killed when the child is dropped.
fn worker(scene: &Scene, flags: &[&str], script: &str) -> Child {
    let mut args = vec!["worker", "exec", "--topic", "job.x", "--worker-id", "w1"];
    args.extend(flags);
    args.extend(["--", "sh", "-c", script]);
    scene
        .ctl
        .command(&args)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn output(result: &WorkerResult) -> Payload {
    assert_eq!(result.status(), JobState::Succeeded, "{result:?}");
    result.output.clone().unwrap()
}

fn error(result: &WorkerResult) -> (&str, &str) {
    let error = result.error.as_ref().unwrap();
    (&error.code, &error.message)
}

#[tokio::test]
async fn a_program_is_a_worker() {
    let mut scene = Scene::new().await;
    let flags = [
        "--parallel",
        "4",
        "--pool",
        "p",
        "--capability",
        "words",
        "--label",
        "zone=eu",
    ];
    let _worker = worker(&scene, &flags, "wc -w");
    let mut session = scene.session().await;
    let hello = &session.hello;
    assert_eq!((hello.worker_id.as_str(), hello.pool.as_str()), ("w1", "p"));
    assert_eq!(
        (hello.topics.as_slice(), hello.max_parallel_jobs),
        (["job.x".to_owned()].as_slice(), 4)
    );
    assert_eq!(
        (hello.capabilities.as_slice(), hello.labels["zone"].as_str()),
        (["words".to_owned()].as_slice(), "eu")
    );
    session.assign(
        "a",
        Some(Payload::from_bytes("to be or not to be", "text/plain")),
    );
    let result = session.result().await;
    assert_eq!(output(&result), Payload::from_json(&json!("6\n")));
}

#[tokio::test]
async fn the_program_finds_its_job_in_the_environment() {
    let mut scene = Scene::new().await;
    let script = r#"echo "[\"$CORETEX_JOB_ID\", $CORETEX_ATTEMPT, \"$CORETEX_DEADLINE\", \"$TRACEPARENT\"]""#;
    let _worker = worker(&scene, &[], script);
    let mut session = scene.session().await;
    session.assign("a", None);
    let json = output(&session.result().await).to_json().unwrap().unwrap();
    assert_eq!((&json[0], &json[1]), (&json!("a"), &json!(2)));
    let deadline: jiff::Timestamp = json[2].as_str().unwrap().parse().unwrap();
    let left = deadline.as_second() - jiff::Timestamp::now().as_second();
    assert!((3_000..=3_601).contains(&left), "{json}");
    assert!(
        json[3].as_str().unwrap().starts_with("00-0af76519"),
        "{json}"
    );
}

#[tokio::test]
async fn stdout_can_be_json_and_the_input_a_bare_string() {
    let mut scene = Scene::new().await;
    let _worker = worker(&scene, &["--stdout", "json", "--raw"], "cat");
    let mut session = scene.session().await;
    session.assign("a", Some(Payload::from_json(&json!("[1, 2]"))));
    assert_eq!(
        output(&session.result().await),
        Payload::from_json(&json!([1, 2]))
    );
    session.assign("b", Some(Payload::from_json(&json!("to be"))));
    let result = session.result().await;
    let (code, message) = error(&result);
    assert_eq!(code, "output_invalid");
    assert!(message.contains("not json"), "{message}");
}

#[tokio::test]
async fn failures_carry_the_exit_code_and_what_was_said_last() {
    let mut scene = Scene::new().await;
    let mut worker = worker(&scene, &[], "echo the disk is full >&2; exit 7");
    let mut session = scene.session().await;
    session.assign("a", None);
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Failed);
    assert_eq!(error(&result), ("exit_7", "the disk is full"));
    // The worker shows it too, and says whose it is.
    let mut lines = BufReader::new(worker.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "[a] the disk is full" {
            return;
        }
        seen.push(line);
    }
    panic!("not shown: {seen:?}");
}

#[tokio::test]
async fn too_much_output_fails_the_job() {
    let mut scene = Scene::new().await;
    let _worker = worker(&scene, &[], "yes");
    let mut session = scene.session().await;
    session.assign("a", None);
    assert_eq!(error(&session.result().await).0, "output_too_large");
}

#[tokio::test]
async fn progress_reaches_the_server() {
    let mut scene = Scene::new().await;
    let gate = scene.ctl.home.path().join("gate");
    let script = format!(
        "echo '{{\"progress\": 40, \"message\": \"half\"}}' >&3; mkfifo {0}; read line < {0}",
        gate.display()
    );
    let _worker = worker(&scene, &[], &script);
    let mut session = scene.session().await;
    session.assign("a", None);
    let progress = session.progress().await;
    assert_eq!((progress.percent, progress.message.as_str()), (40, "half"));
    // Opening the pipe for writing waits for its reader; the program ends after the line.
    let write = tokio::task::spawn_blocking(move || {
        while !gate.exists() {
            std::thread::yield_now();
        }
        fs::write(gate, "go\n").unwrap();
    });
    assert_eq!(session.result().await.status(), JobState::Succeeded);
    write.await.unwrap();
}

#[tokio::test]
async fn a_cancel_ends_the_program_and_answers() {
    let mut scene = Scene::new().await;
    let script = "echo '{\"progress\": 1}' >&3; sleep 600 & wait";
    let _worker = worker(&scene, &[], script);
    let mut session = scene.session().await;
    session.assign("a", None);
    session.progress().await;
    session.cancel("a", Duration::from_secs(30));
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Cancelled);
    assert_eq!(error(&result), ("cancelled", "cancelled: no longer needed"));
}

#[tokio::test]
async fn who_ignores_a_cancel_is_killed_after_the_grace() {
    let mut scene = Scene::new().await;
    let script = "trap '' TERM; echo '{\"progress\": 1}' >&3; while :; do sleep 600; done";
    let _worker = worker(&scene, &[], script);
    let mut session = scene.session().await;
    session.assign("a", None);
    session.progress().await;
    session.cancel("a", Duration::from_millis(200));
    assert_eq!(session.result().await.status(), JobState::Cancelled);
}

#[tokio::test]
async fn sigterm_lets_what_runs_finish() {
    let mut scene = Scene::new().await;
    let gate = scene.ctl.home.path().join("gate");
    fs::write(scene.ctl.home.path().join("unused"), "").unwrap();
    let script = format!(
        "mkfifo {0}; echo '{{\"progress\": 1}}' >&3; read line < {0}; echo done",
        gate.display()
    );
    let mut worker = worker(&scene, &[], &script);
    let mut session = scene.session().await;
    session.assign("a", None);
    session.progress().await;
    signal(&worker, Signal::TERM);
    session.draining().await;
    tokio::task::spawn_blocking(move || fs::write(gate, "go\n").unwrap())
        .await
        .unwrap();
    let result = session.result().await;
    assert_eq!(output(&result), Payload::from_json(&json!("done\n")));
    session.closed().await;
    let status = tokio::time::timeout(PATIENCE, worker.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn many_jobs_run_at_once_and_leave_no_zombies() {
    let mut scene = Scene::new().await;
    let worker = worker(&scene, &["--parallel", "8"], "cat");
    let mut session = scene.session().await;
    for round in 0..10 {
        for number in 0..8 {
            session.assign(
                &format!("j{round}-{number}"),
                Some(Payload::from_json(&json!(number))),
            );
        }
        for _ in 0..8 {
            assert_eq!(session.result().await.status(), JobState::Succeeded);
        }
    }
    // A child is collected before its result is sent. Each thread has a list of its own children.
    let tasks = fs::read_dir(format!("/proc/{}/task", worker.id().unwrap()));
    for task in tasks.into_iter().flatten() {
        let children = fs::read_to_string(task.unwrap().path().join("children"));
        assert_eq!(children.unwrap_or_default().trim(), "");
    }
}
