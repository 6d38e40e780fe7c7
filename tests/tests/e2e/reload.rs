//! The configuration file of a running server: changed, broken, mended, gone, swapped as a mounted
//! volume swaps it, and read again when somebody asks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coretex::Client;
use coretex::proto::{CreateApiKeyRequest, GetStatusRequest, ListPoolsRequest};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::{PATIENCE, cli};
use coretex_tests::poll;
use rustix::process::Signal;

use crate::support::until_metric_is;

on_both_pairs!(
    a_changed_file_is_in_force_and_a_broken_one_changes_nothing,
    a_file_that_a_mounted_volume_swaps_is_noticed,
);

/// A file of tables with these pools.
fn tables(pools: &[&str]) -> String {
    pools
        .iter()
        .map(|pool| format!("[pools.{pool}]\n"))
        .collect()
}

/// Replaces a file as editors do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

async fn pools(client: &Client) -> Vec<String> {
    let listed = client.list_pools(ListPoolsRequest::default()).await;
    let pools = listed.unwrap().pools.into_iter();
    pools.map(|pool| pool.pool).collect()
}

async fn until_pools_are(client: &Client, expected: &[&str]) {
    poll::until_async("other tables", PATIENCE, async || {
        let found = pools(client).await;
        (found == expected)
            .then_some(())
            .ok_or(format!("{found:?}"))
    })
    .await;
}

async fn problem(client: &Client) -> String {
    let status = client.get_status(GetStatusRequest {}).await.unwrap();
    status.config_problem
}

/// Waits until status says what is wrong with the file; nothing if this is empty.
async fn until_problem_has(client: &Client, part: &str) -> String {
    poll::until_async(part, PATIENCE, async || match problem(client).await {
        found if found.contains(part) && found.is_empty() == part.is_empty() => Ok(found),
        found => Err(found),
    })
    .await
}

/// How often the log has a line with all of these words.
fn said(server: &Server, words: &[&str]) -> usize {
    let log = server.log();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(has_all).count()
}

async fn until_said(server: &Server, words: &[&str], times: usize) {
    poll::until_async("the log", PATIENCE, async || match said(server, words) {
        found if found == times => Ok(()),
        found => Err(format!("{found} times {words:?} in\n{}", server.log())),
    })
    .await;
}

/// A server whose file is `c.toml` in a folder that goes with the first value.
async fn start(options: Options, text: &str) -> (tempfile::TempDir, PathBuf, Server) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(&file, text).unwrap();
    let server = Server::start(options.set("CORETEX_CONFIG", file.to_str().unwrap())).await;
    (folder, file, server)
}

async fn a_changed_file_is_in_force_and_a_broken_one_changes_nothing(pair: &Pair) {
    let options = pair.options().secured();
    let (_folder, file, mut server) = start(options, &tables(&["a"])).await;
    let client = server.client();
    assert_eq!(pools(&client).await, ["a"]);
    assert_eq!(problem(&client).await, "");
    until_metric_is(&server, "coretex_config_ok 1").await;
    until_metric_is(&server, "coretex_config_reload_failures_total 0").await;

    replace(&file, &tables(&["a", "b"]));
    until_pools_are(&client, &["a", "b"]).await;
    // Also when it is written in place.
    fs::write(&file, tables(&["b"])).unwrap();
    until_pools_are(&client, &["b"]).await;

    let broken = "[pools.c]\nweight = 0\nwieght = 1\n[topics.'job.x']\npools = ['d']\n";
    replace(&file, broken);
    let place = |place: &str| format!("{}:{place}: `", file.display());
    let found = until_problem_has(&client, "`pools.c.weight` must be").await;
    for expected in ["2:10", "5:10"] {
        assert!(found.contains(&place(expected)), "{found}");
    }
    assert!(
        found.contains("3:1: unknown key `pools.c.wieght`"),
        "{found}"
    );
    until_metric_is(&server, "coretex_config_ok 0").await;
    until_metric_is(&server, "coretex_config_reload_failures_total 1").await;
    assert_eq!(pools(&client).await, ["b"], "the last good ones stay");
    let (ready, _) = server.page("/readyz").await;
    assert_eq!(ready, 200);
    let status = cli::command(&server)
        .env("CORETEX_API_KEY", server.admin_key())
        .arg("status")
        .output()
        .await
        .unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&place("2:10")), "{status}");

    // What is in the file is none of other tenants' business.
    let request = CreateApiKeyRequest {
        tenant_id: "other".to_owned(),
        roles: vec!["viewer".to_owned()],
        ..CreateApiKeyRequest::default()
    };
    let key = client.create_api_key(request).await.unwrap().secret;
    let told = problem(&server.client_with(&key)).await;
    assert!(!told.is_empty() && !told.contains("pools.c"), "{told}");

    // It is said once for each content, and once more for each time that somebody asks.
    let refusal = ["cannot be used", "`pools.c.weight`"];
    let since = Instant::now();
    poll::until_async("three looks", PATIENCE, async || match since.elapsed() {
        over if over >= Duration::from_secs(3) => Ok(()),
        so_far => Err(format!("{so_far:?}")),
    })
    .await;
    assert_eq!(said(&server, &refusal), 1, "{}", server.log());
    server.signal(Signal::HUP);
    until_said(&server, &refusal, 2).await;
    until_metric_is(&server, "coretex_config_reload_failures_total 2").await;

    // The same tables as before the mistake: good again.
    replace(&file, &tables(&["b"]));
    until_problem_has(&client, "").await;
    until_metric_is(&server, "coretex_config_ok 1").await;
    assert_eq!(pools(&client).await, ["b"]);
    server.signal(Signal::HUP);
    until_said(&server, &["was read again"], 1).await;

    fs::remove_file(&file).unwrap();
    let found = until_problem_has(&client, "cannot read the file").await;
    assert!(found.contains("c.toml"), "{found}");
    assert_eq!(pools(&client).await, ["b"]);
    fs::create_dir(&file).unwrap();
    until_problem_has(&client, "no regular file").await;
    fs::remove_dir(&file).unwrap();
    replace(&file, &tables(&["e"]));
    until_pools_are(&client, &["e"]).await;
    assert_eq!(problem(&client).await, "");

    // Settings beside the tables are those of the start, and that is said once.
    let with_setting = |text: &str| format!("[retention]\ndeletes_per_second = 7\n{text}");
    replace(&file, &with_setting(&tables(&["e"])));
    let warning = ["needs a restart", "retention.deletes_per_second"];
    until_said(&server, &warning, 1).await;
    replace(&file, &with_setting(&tables(&["f"])));
    until_pools_are(&client, &["f"]).await;
    assert_eq!(said(&server, &warning), 1, "{}", server.log());

    // What a restart would refuse is refused as a whole.
    replace(&file, "[limits]\nmax_sessions = 0\n[pools.g]\n");
    until_problem_has(&client, "2:16: `limits.max_sessions` must be").await;
    assert_eq!(pools(&client).await, ["f"]);
    replace(&file, &tables(&["g"]));
    until_pools_are(&client, &["g"]).await;
    let (status, _) = server.terminate().await;
    assert!(status.success(), "{status:?}");
}

async fn a_file_that_a_mounted_volume_swaps_is_noticed(pair: &Pair) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, pool) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("c.toml"), tables(&[pool])).unwrap();
    }
    symlink("v1", path("..data")).unwrap();
    symlink("..data/c.toml", path("c.toml")).unwrap();
    let file = path("c.toml");
    let options = pair.options().set("CORETEX_CONFIG", file.to_str().unwrap());
    let server = Server::start(options).await;
    let client = server.client();
    assert_eq!(pools(&client).await, ["a"]);
    symlink("v2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    until_pools_are(&client, &["b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_at_the_start_ends_it_with_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(
        &file,
        "[topics.job]\n[topics.'job.a']\nretry = 3\n[pool.x]\n",
    )
    .unwrap();
    let options = Options::new().set("CORETEX_CONFIG", file.to_str().unwrap());
    let (code, said) = Server::refused(options).await;
    assert_eq!(code, Some(2), "{said}");
    for place in [
        "1:9: `topics.job`",
        "3:9: `topics.\"job.a\".retry`",
        "4:2: unknown key `pool`",
    ] {
        let expected = format!("error: {}:{place}", file.display());
        assert!(said.contains(&expected), "{expected}\n{said}");
    }
}
