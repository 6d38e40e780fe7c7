//! `coretexctl dlq`, and verbs that do one thing to many jobs, against a real server.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use coretex_tests::cluster::PATIENCE;
use coretex_tests::cluster::cli::run;
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::poll;
use serde_json::{Value, json};

/// Runs with JSON as output and reads it.
async fn json(server: &Server, arguments: &[&str]) -> Value {
    run(server, [&["-o", "json"], arguments].concat())
        .await
        .json()
}

/// Submits a job that nobody takes in time; its id.
async fn doomed(server: &Server, topic: &str) -> String {
    let submit = [
        "job",
        "submit",
        topic,
        "--input",
        "7",
        "--schedule-to-start-timeout",
        "20ms",
    ];
    let job = json(server, &submit).await;
    job["job_id"].as_str().unwrap().to_owned()
}

/// Waits until there are so many dead letters.
async fn dead(server: &Server, count: usize) -> Vec<Value> {
    poll::until_async("dead letters", PATIENCE, async || {
        let list = json(server, &["dlq", "list"]).await;
        let found = list["entries"].as_array().unwrap().clone();
        if found.len() == count {
            Ok(found)
        } else {
            Err(list.to_string())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_looked_at_and_dealt_with() {
    let server = Server::start(Options::new()).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(doomed(&server, "job.late").await);
    }
    ids.push(doomed(&server, "job.other").await);
    dead(&server, 4).await;

    let table = run(&server, ["dlq", "list", "--topic", "job.late"]).await;
    assert_eq!((table.code, table.stdout.lines().count()), (Some(0), 4));
    assert!(table.stdout.contains("schedule_timeout"), "{table:#?}");
    let entry = json(&server, &["dlq", "get", &ids[0]]).await;
    assert_eq!(entry["reason_code"], "schedule_timeout");
    assert_eq!(entry["last_state"], "JOB_STATE_TIMEOUT");
    assert_eq!(entry["job"]["input"]["json"], json!(7));

    let _worker = RunningWorker::echo(server.client(), "job.late", 4).await;
    let retry = ["dlq", "retry", &ids[0], "--wait"];
    let new = json(&server, &retry).await;
    assert_eq!(new["state"], "JOB_STATE_SUCCEEDED");
    assert_eq!(new["rerun_of_job_id"], json!(ids[0]));
    let twice = run(&server, retry).await;
    assert_eq!(twice.code, Some(1), "{twice:#?}");
    assert!(twice.stderr.contains("DLQ_ENTRY_NOT_FOUND"), "{twice:#?}");

    let dry = ["dlq", "retry-all", "--topic", "job.late", "--dry-run"];
    assert_eq!(json(&server, &dry).await["matched_count"], 2);
    let all = ["dlq", "retry-all", "--topic", "job.late"];
    let all = json(&server, &all).await;
    assert_eq!(
        (&all["done_count"], &all["finished"]),
        (&json!(2), &json!(true))
    );
    let left = dead(&server, 1).await;
    assert_eq!(left[0]["entry_id"], json!(ids[3]));
    let deleted = run(&server, ["dlq", "delete", &ids[3], "--yes"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:#?}");
    doomed(&server, "job.other").await;
    dead(&server, 1).await;
    let unasked = run(&server, ["dlq", "purge"]).await;
    assert_eq!(unasked.code, Some(2), "{unasked:#?}");
    assert_eq!(
        json(&server, &["dlq", "purge", "--yes"]).await["done_count"],
        1
    );
    dead(&server, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_are_cancelled_and_run_again() {
    let server = Server::start(Options::new()).await;
    for topic in ["job.a", "job.a", "job.b"] {
        let submitted = run(&server, ["job", "submit", topic, "--label", "env=prod"]).await;
        assert_eq!(submitted.code, Some(0), "{submitted:#?}");
    }
    let cancel = [
        "job",
        "cancel",
        "--filter",
        "topic=job.a",
        "--filter",
        "label=env=prod",
        "--filter",
        "state=pending,scheduled",
        "--yes",
    ];
    assert_eq!(json(&server, &cancel).await["done_count"], 2);
    let count = async |state: &str| {
        let count = json(&server, &["job", "count", "--state", state]).await;
        count["count"].clone()
    };
    assert_eq!(
        (count("cancelled").await, count("pending").await),
        (json!(2), json!(1))
    );
    let rerun = [
        "job",
        "rerun",
        "--filter",
        "state=cancelled",
        "--topic",
        "job.c",
        "--idempotency-key",
        "op",
    ];
    for _ in 0..2 {
        assert_eq!(json(&server, &rerun).await["done_count"], 2);
        assert_eq!(count("pending").await, 3);
    }
    let all = ["job", "cancel", "--all", "--yes", "--rate", "100"];
    assert_eq!(json(&server, &all).await["done_count"], 3);
    assert_eq!(count("pending").await, 0);
}
