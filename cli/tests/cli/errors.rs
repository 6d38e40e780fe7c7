//! How failures are told and which exit codes they have.

use std::collections::HashMap;

use coretex::ErrorReason;
use coretex::proto::*;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::{Ctl, Scene, refusal};

#[tokio::test]
async fn a_refusal_tells_everything_and_exits_with_1() {
    let scene = Scene::new().await;
    scene.fake.submit_job.set(|_| {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_FIELD", "coretex.dev", HashMap::new());
        details.add_bad_request_violation("topic", "must start with job.");
        details.add_bad_request_violation("retry.max_attempts", "must not be negative");
        details.add_help_link("see the reference", "");
        Err(Status::with_error_details(
            Code::InvalidArgument,
            "the request is not valid",
            details,
        ))
    });
    let ran = scene.run(&["job", "submit", "x"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    let expected = "error: the request is not valid\n  topic: must start with job.\n  \
                    retry.max_attempts: must not be negative\nhint: see the reference\n\
                    reason: INVALID_FIELD\n";
    assert_eq!(ran.stderr, expected);
}

#[tokio::test]
async fn without_a_server_it_exits_with_2_and_says_how_to_start_one() {
    // A port that was free a moment ago and that nobody is told about.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let server = format!("http://127.0.0.1:{port}");
    let ran = Ctl::new().run(&["--server", &server, "status"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.stderr
            .starts_with(&format!("error: cannot reach {server}")),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("hint: ") && ran.stderr.contains("coretexd"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn wrong_usage_exits_with_2_before_anything_is_sent() {
    let scene = Scene::new().await;
    let table: [&[&str]; 13] = [
        &["job", "submit"],
        &["job", "submit", "job.x", "--input", "{torn"],
        &["job", "submit", "job.x", "--input-file", "/no/such/file"],
        &["job", "submit", "job.x", "--timeout", "1s"],
        &["job", "submit", "job.x", "--label", "novalue"],
        &["job", "submit", "job.x", "--concurrency-key", "k"],
        &["job", "submit", "--batch", "/no/such/file"],
        &["job", "list", "--state", "sleeping"],
        &["key", "create"],
        &["worker", "exec", "--topic", "job.x"],
        &[
            "worker",
            "exec",
            "--topic",
            "job.x",
            "--",
            "no-such-program",
        ],
        &["job", "fly"],
        &["--server", "ftp://x", "status"],
    ];
    for args in table {
        let ran = scene.run(args).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(
            ran.stderr.starts_with("error: "),
            "{args:?}: {}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    }
    assert!(scene.fake.credentials.lock().is_empty());
}

#[tokio::test]
async fn what_does_not_exist_is_a_refusal() {
    let scene = Scene::new().await;
    scene.fake.get_job.set(|_| {
        Err(refusal(
            Code::NotFound,
            "there is no job a",
            ErrorReason::JobNotFound,
        ))
    });
    let ran = scene.run(&["job", "get", "a"]).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.stderr,
        "error: there is no job a\nreason: JOB_NOT_FOUND\n"
    );
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_failure() {
    let scene = Scene::new().await;
    scene.fake.list_jobs.set(|_| {
        let jobs = vec![crate::support::failed("a"); 1_000];
        Ok(ListJobsResponse {
            jobs,
            ..ListJobsResponse::default()
        })
    });
    let mut child = scene
        .ctl
        .command(&["job", "list", "--all", "-o", "json"])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
