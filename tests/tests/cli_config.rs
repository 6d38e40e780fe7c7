//! `coretexctl config` against a real server.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;

use coretex_tests::cluster::cli::run;
use coretex_tests::cluster::server::{Options, Server};
use serde_json::{Value, json};

/// Runs with JSON as output and reads it.
async fn json(server: &Server, arguments: &[&str]) -> Value {
    run(server, [&["-o", "json", "config"], arguments].concat())
        .await
        .json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_goes_from_its_first_key_to_its_last_revision() {
    let server = Server::start(Options::new()).await;
    let made = json(&server, &["set", "team/t", "limits.max_labels=1"]).await;
    assert_eq!(
        (&made["revision"], &made["scope_id"]),
        (&json!(1), &json!("t"))
    );
    let changed = [
        "set",
        "team/t",
        "models.default=small",
        "--unset",
        "limits.max_labels",
    ];
    let changed = json(&server, &changed).await;
    assert_eq!(changed["data"], json!({"models": {"default": "small"}}));
    let file = server.folder().join("org.yaml");
    fs::write(&file, "limits:\n  max_labels: 1\nretention:\n  jobs: 1h\n").unwrap();
    let file = file.to_str().unwrap();
    json(&server, &["set", "org", "--file", file]).await;
    let effective = json(&server, &["effective", "--team", "t", "--origins"]).await;
    assert_eq!(
        effective["data"],
        json!({
            "limits": {"max_labels": 1},
            "models": {"default": "small"},
            "retention": {"jobs": "1h"},
        })
    );
    assert_eq!(effective["version"], 3);
    assert_eq!(effective["origins"][1]["scope"], "CONFIG_SCOPE_TEAM");
    assert_eq!(
        effective["origins"][1]["pointers"],
        json!(["/models/default"])
    );

    let refused = ["job", "submit", "job.x", "--label", "a=1", "--label", "b=2"];
    let refused = run(&server, refused).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("says `limits.max_labels`"),
        "{refused:#?}"
    );
    fs::write(file, "limits: {max_labels: 99}\nretension: {}\n").unwrap();
    let wrong = run(&server, ["config", "set", "org", "--file", file]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:#?}");
    for words in ["data/limits/max_labels", "did you mean `retention`?"] {
        assert!(wrong.stderr.contains(words), "{words}: {wrong:#?}");
    }
    let diff = run(&server, ["config", "diff", "team/t"]).await.code(0);
    assert_eq!(
        diff,
        "- /limits/max_labels: 1\n+ /models/default: \"small\"\n"
    );
    let late = ["config", "set", "team/t", "models.n=1", "--etag", "1"];
    let late = run(&server, late).await;
    assert_eq!(late.code, Some(1), "{late:#?}");
    assert!(late.stderr.contains("ETAG_MISMATCH"), "{late:#?}");
    let deleted = run(&server, ["config", "delete", "team/t", "--yes"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:#?}");
    let list = json(&server, &["list"]).await;
    assert_eq!(list["configs"].as_array().unwrap().len(), 1);
    let history = json(&server, &["history", "team/t"]).await;
    assert_eq!(history["revisions"].as_array().unwrap().len(), 3);
    assert_eq!(history["revisions"][0]["deleted"], true);
}
