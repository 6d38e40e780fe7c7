//! `coretexctl` against a real server, as people and scripts use it.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;

use coretex::Client;
use coretex::proto::ListWorkersRequest;
use coretex_tests::cluster::cli::{self, Ended, Running, run};
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Runs with JSON as output and reads it.
async fn json(server: &Server, arguments: &[&str]) -> Value {
    run(server, [&["-o", "json"], arguments].concat())
        .await
        .json()
}

/// Waits until a worker serves a topic.
async fn served(client: &Client, topic: &str) {
    poll::until_async("a worker", PATIENCE, async || {
        let request = ListWorkersRequest {
            topic: topic.to_owned(),
            ..ListWorkersRequest::default()
        };
        let workers = client.list_workers(request).await.unwrap().workers;
        workers.first().map(drop).ok_or_else(|| "none".to_owned())
    })
    .await;
}

/// Makes a worker of a program.
async fn exec(server: &Server, topic: &str, program: &[&str]) -> Running {
    let mut command = cli::command(server);
    command.args([
        "worker",
        "exec",
        "--topic",
        topic,
        "--parallel",
        "4",
        "--raw",
        "--",
    ]);
    let worker = Running::start(command.args(program));
    served(&server.client(), topic).await;
    worker
}

fn says(ended: &Ended, words: &str) {
    assert!(ended.stderr.contains(words), "{words:?}: {ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_is_a_worker() {
    let server = Server::start(Options::new()).await;
    let counting = exec(&server, "job.wc", &["wc", "-w"]).await;
    let submit = [
        "job",
        "submit",
        "--topic",
        "job.wc",
        "--input",
        r#""to be or not""#,
        "--wait",
    ];
    let job = json(&server, &submit).await;
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job}");
    assert_eq!(job["output"]["json"], "4\n", "{job}");
    let only = run(&server, [&submit[..], &["--result-only"]].concat()).await;
    assert_eq!(only.code(0).trim(), "4");
    let table = run(&server, submit).await.code(0);
    assert!(
        table.contains("SUCCEEDED") && table.contains("job.wc"),
        "{table}"
    );

    // An input from a file goes as it is.
    let file = server.folder().join("words.txt");
    fs::write(&file, "one two\nthree\n").unwrap();
    let file = file.to_str().unwrap();
    let from_file = [
        "job",
        "submit",
        "job.wc",
        "--input-file",
        file,
        "--wait",
        "--result-only",
    ];
    assert_eq!(run(&server, from_file).await.code(0).trim(), "3");

    let script = r#"echo "{\"attempt\": $CORETEX_ATTEMPT, \"id\": \"$CORETEX_JOB_ID\"}""#;
    let _telling = exec(&server, "job.tells", &["sh", "-c", script]).await;
    let told = ["job", "submit", "job.tells", "--job-id", "my-job", "--wait"];
    let told = json(&server, &told).await;
    assert_eq!(
        told["output"]["json"],
        json!({"attempt": 1, "id": "my-job"})
    );

    let _failing = exec(&server, "job.fails", &["sh", "-c", "echo oops >&2; exit 3"]).await;
    let failing = [
        "job",
        "submit",
        "job.fails",
        "--wait",
        "--retry-max-attempts",
        "2",
        "--backoff",
        "10ms",
    ];
    let failed = run(&server, failing).await;
    says(&failed, "oops");
    assert_eq!(failed.code, Some(1), "{failed:#?}");
    let listed = json(&server, &["job", "list", "--topic", "job.fails", "--full"]).await;
    let failed = &listed["jobs"][0];
    assert_eq!(
        (&failed["error"]["code"], &failed["attempt"]),
        (&json!("exit_3"), &json!(2))
    );

    counting.signal(Signal::TERM);
    let left = counting.end().await;
    assert_eq!(left.code, Some(0), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_program_is_told_and_then_killed() {
    let server = Server::start(Options::new()).await;
    let script = "trap '' TERM; echo $$ > pid; while :; do sleep 1; done";
    let _stubborn = exec(&server, "job.stubborn", &["sh", "-c", script]).await;
    let submit = ["job", "submit", "job.stubborn", "--job-id", "deaf"];
    assert_eq!(json(&server, &submit).await["job_id"], "deaf");
    let file = server.folder().join("pid");
    let pid = poll::until_async("the program to run", PATIENCE, async || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.trim()
            .parse::<u32>()
            .map_err(|error| error.to_string())
    })
    .await;
    let cancel = [
        "job", "cancel", "deaf", "--reason", "enough", "--grace", "200ms",
    ];
    let cancelled = json(&server, &cancel).await;
    assert!(
        cancelled["cancel_requested_time"].is_string(),
        "{cancelled}"
    );
    let waited = run(&server, ["job", "wait", "deaf"]).await;
    assert_eq!(waited.code, Some(1), "{waited:#?}");
    poll::until_async("the program to be gone", PATIENCE, async || {
        // One that was killed and not yet waited for counts as gone.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
        {
            None | Some('Z' | 'X') => Ok(()),
            Some(state) => Err(format!("{state}")),
        }
    })
    .await;
    let events = json(&server, &["job", "events", "deaf"]).await;
    let last = events["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["to_state"], "JOB_STATE_CANCELLED", "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_says_why_and_commands_end_with_the_code_of_what_happened() {
    let server = Server::start(Options::new()).await;
    let submit = [
        "job",
        "submit",
        "--topic",
        "job.nobody",
        "--job-id",
        "lonely",
    ];
    let submitted = run(&server, submit).await;
    says(
        &submitted,
        "waiting: no worker for job.nobody (start one: coretexctl worker exec --topic job.nobody -- CMD)",
    );
    assert!(submitted.code(0).contains("lonely"));
    let replayed = run(&server, submit).await;
    says(&replayed, "replayed");
    assert_eq!(replayed.code, Some(0));

    let diagnosis = run(&server, ["job", "diagnose", "lonely"]).await.code(0);
    assert!(diagnosis.contains("no_workers"), "{diagnosis}");
    let diagnosis = json(&server, &["job", "diagnose", "lonely"]).await;
    assert_eq!(diagnosis["causes"][0]["code"], "no_workers");

    let waited = run(&server, ["job", "wait", "lonely", "--timeout", "200ms"]).await;
    assert_eq!(waited.code, Some(3), "{waited:#?}");
    let waited = run(
        &server,
        [
            "job",
            "submit",
            "job.nobody",
            "--wait",
            "--timeout",
            "200ms",
        ],
    )
    .await;
    assert_eq!(waited.code, Some(3), "{waited:#?}");
    let cancelled = json(&server, &["job", "cancel", "lonely"]).await;
    assert_eq!(cancelled["state"], "JOB_STATE_CANCELLED");
    let waited = run(&server, ["job", "wait", "lonely"]).await;
    assert_eq!(waited.code, Some(1), "{waited:#?}");
    let count = json(&server, &["job", "count", "--state", "cancelled"]).await;
    assert_eq!(count["count"], 1);

    let missing = run(&server, ["job", "get", "nothing"]).await;
    says(&missing, "reason: JOB_NOT_FOUND");
    assert_eq!(missing.code, Some(1));
    let wrong = run(
        &server,
        ["job", "submit", "no-topic", "--priority", "batch"],
    )
    .await;
    says(&wrong, "topic:");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""));
    for usage in [
        &["job", "submit", "--no-such-flag"][..],
        &["job"],
        &["job", "submit"],
    ] {
        let ended = run(&server, usage).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{ended:#?}"
        );
    }
    let mut nowhere = cli::command(&server);
    nowhere
        .env("CORETEX_SERVER", "http://127.0.0.1:1")
        .arg("status");
    let nowhere = cli::finish(&mut nowhere).await;
    says(&nowhere, "coretexd");
    assert_eq!(nowhere.code, Some(2), "{nowhere:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_a_line_for_every_line() {
    let server = Server::start(Options::new()).await;
    let _worker = RunningWorker::echo(server.client(), "job.echo", 8).await;
    let file = server.folder().join("jobs.jsonl");
    let mut lines: Vec<String> = (0..50)
        .map(|n| json!({"input": {"n": n}}).to_string())
        .collect();
    let good = format!("{}\n", lines.join("\n"));
    fs::write(&file, &good).unwrap();
    let batch = [
        "job",
        "submit",
        "--topic",
        "job.echo",
        "--batch",
        file.to_str().unwrap(),
        "--wait",
    ];
    let submitted = run(&server, [&["-o", "json"], &batch[..]].concat()).await;
    let printed: Vec<Value> = submitted
        .code(0)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed.len(), 50);
    for (n, line) in printed.iter().enumerate() {
        assert_eq!(line["line"], n + 1);
        assert_eq!(line["job"]["state"], "JOB_STATE_SUCCEEDED");
        assert_eq!(line["job"]["output"]["json"]["n"], n);
    }

    lines[3] = r#"{"topic": "no topic"}"#.into();
    lines[7] = "{torn".into();
    fs::write(&file, lines.join("\n")).unwrap();
    let mixed = run(&server, batch).await;
    says(&mixed, "line 4");
    says(&mixed, "line 8");
    assert_eq!(mixed.stdout.lines().count(), 48);
    assert_eq!(mixed.code, Some(1));
    let count = json(&server, &["job", "count", "--state", "succeeded"]).await;
    assert_eq!(count["count"], 98);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_prints_what_happens_until_the_job_ends() {
    let server = Server::start(Options::new()).await;
    let submit = ["job", "submit", "job.late", "--job-id", "watched"];
    assert_eq!(run(&server, submit).await.code, Some(0));
    let mut command = cli::command(&server);
    let mut watch = Running::start(command.args(["-o", "json", "job", "watch", "watched"]));
    let first: Value = serde_json::from_str(&watch.line().await.unwrap()).unwrap();
    assert_eq!(
        first["event"]["type"], "JOB_EVENT_TYPE_SUBMITTED",
        "{first}"
    );
    let _worker = RunningWorker::echo(server.client(), "job.late", 1).await;
    let ended = watch.end().await;
    let last: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"]["to_state"], "JOB_STATE_SUCCEEDED", "{last}");
    assert_eq!(ended.code, Some(0));
    let again = run(&server, ["job", "watch", "watched"]).await.code(0);
    assert!(again.contains("SUCCEEDED"), "{again}");

    let rerun = ["job", "rerun", "watched", "--wait"];
    let rerun = json(&server, &rerun).await;
    assert_eq!(rerun["rerun_of_job_id"], "watched");
    let attempts = json(&server, &["job", "attempts", "watched"]).await;
    assert_eq!(attempts["attempts"].as_array().unwrap().len(), 1);
    let decisions = json(&server, &["job", "decisions", "watched"]).await;
    let decision = &decisions["decisions"][0]["decision"];
    assert_eq!(decision, "POLICY_DECISION_ALLOW", "{decisions}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_found_made_used_and_revoked() {
    let server = Server::start(Options::new().secured()).await;
    let bare = run(&server, ["status"]).await;
    says(&bare, "reason: CREDENTIAL_MISSING");
    says(&bare, "hint:");
    assert_eq!(bare.code, Some(1));

    // On the machine of the server its first key is found.
    let data = server.data_dir();
    let local = async |arguments: &[&str]| {
        let mut command = cli::command(&server);
        command
            .env("CORETEX_DATA_DIR", &data)
            .args(["-o", "json"])
            .args(arguments);
        cli::finish(&mut command).await
    };
    let me = local(&["whoami"]).await.json();
    assert_eq!(
        (&me["tenant_id"], &me["roles"]),
        (&json!("default"), &json!(["admin"]))
    );
    let create = [
        "key",
        "create",
        "--name",
        "ci",
        "--role",
        "submitter,worker",
        "--tenant",
        "acme",
    ];
    let made = local(&create).await.json();
    let (secret, key_id) = (made["secret"].as_str().unwrap(), &made["api_key"]["key_id"]);
    let key_id = key_id.as_str().unwrap();

    let with_key = async |arguments: &[&str]| {
        let mut command = cli::command(&server);
        command
            .env("CORETEX_API_KEY", secret)
            .args(["-o", "json"])
            .args(arguments);
        cli::finish(&mut command).await
    };
    let me = with_key(&["whoami"]).await.json();
    assert_eq!(me["tenant_id"], "acme");
    assert_eq!(me["principal_id"], format!("key:{key_id}"));
    let mut worker = cli::command(&server);
    worker.env("CORETEX_API_KEY", secret);
    let _worker =
        Running::start(worker.args(["worker", "exec", "--topic", "job.rev", "--raw", "--", "rev"]));
    let submit = [
        "job",
        "submit",
        "job.rev",
        "--input",
        r#""abc""#,
        "--wait",
        "--result-only",
    ];
    assert_eq!(with_key(&submit).await.code(0).trim(), "cba");
    let refused = with_key(&["key", "list"]).await;
    says(&refused, "reason: PERMISSION_MISSING");
    assert_eq!(refused.code, Some(1));

    let unasked = local(&["key", "revoke", key_id]).await;
    says(&unasked, "--yes");
    assert_eq!(unasked.code, Some(2));
    let revoked = local(&["key", "revoke", key_id, "--yes"]).await.json();
    assert_eq!(revoked["key_id"], key_id);
    let refused = with_key(&["whoami"]).await;
    says(&refused, "reason: CREDENTIAL_INVALID");
    assert_eq!(refused.code, Some(1));
    let listed = local(&["key", "list"]).await.json();
    assert_eq!(listed["api_keys"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_pools_and_the_server_are_shown() {
    let server = Server::start(Options::new()).await;
    let client = server.client();
    let worker = coretex::Worker::new(client.clone())
        .worker_id("w-1")
        .pool("gpu");
    let worker = worker
        .topic("job.x")
        .max_parallel_jobs(3)
        .label("zone", "a");
    let _worker = RunningWorker::start(worker.handler(|_, job| async { Ok(job.input) })).await;

    let listed = json(&server, &["worker", "list"]).await;
    let shown = &listed["workers"][0];
    assert_eq!(
        (&shown["worker_id"], &shown["max_parallel_jobs"]),
        (&json!("w-1"), &json!(3))
    );
    assert_eq!(shown["labels"], json!({"zone": "a"}));
    let table = run(&server, ["worker", "list", "--topic", "job.x"])
        .await
        .code(0);
    assert!(table.contains("w-1") && table.contains("gpu"), "{table}");
    let pools = json(&server, &["pool", "list"]).await;
    assert_eq!(
        (&pools["pools"][0]["pool"], &pools["pools"][0]["capacity"]),
        (&json!("gpu"), &json!(3))
    );
    assert!(run(&server, ["pool", "list"]).await.code(0).contains("gpu"));

    let drained = json(&server, &["worker", "drain", "w-1"]).await;
    assert_eq!(drained["state"], "WORKER_STATE_DRAINING");
    let held = [
        "job",
        "submit",
        "job.x",
        "--job-id",
        "held",
        "--wait",
        "--timeout",
        "200ms",
    ];
    assert_eq!(run(&server, held).await.code, Some(3));
    let undrained = json(&server, &["worker", "undrain", "w-1"]).await;
    assert_eq!(undrained["state"], "WORKER_STATE_READY");
    let waited = in_time("the job", run(&server, ["job", "wait", "held"])).await;
    assert_eq!(waited.code, Some(0), "{waited:#?}");
    let missing = run(&server, ["worker", "get", "w-2"]).await;
    says(&missing, "reason: WORKER_NOT_FOUND");

    let status = json(&server, &["status"]).await;
    assert_eq!(status["workers"], 1, "{status}");
    let durability = status["engines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|engine| &engine["durability"]);
    assert!(
        durability
            .into_iter()
            .any(|durability| durability == "DURABILITY_FSYNC"),
        "{status}"
    );
    let table = run(&server, ["status"]).await.code(0);
    assert!(table.contains("fsync"), "{table}");
    let yaml = run(&server, ["-o", "yaml", "status"]).await.code(0);
    assert!(yaml.contains("durability: DURABILITY_FSYNC"), "{yaml}");
}

#[tokio::test]
async fn completions_need_no_server() {
    let server = Server::start(Options::new()).await;
    for shell in ["bash", "zsh", "fish"] {
        let mut command = cli::command(&server);
        command
            .env("CORETEX_SERVER", "http://127.0.0.1:1")
            .args(["completions", shell]);
        let script = cli::finish(&mut command).await.code(0);
        for noun in ["job", "worker", "pool", "key", "whoami", "status"] {
            assert!(script.contains(noun), "{shell} does not know {noun}");
        }
    }
}
