//! The program from outside: what it prints, how it ends, what it leaves on disk.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use support::{Ended, Running, command, get, http, run};

/// Ends as it should, with nothing more on stdout than the line that said ready.
fn stop_cleanly(server: Running) -> String {
    let stopped = server.stop(Signal::TERM);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert!(stopped.took < Duration::from_secs(30), "{stopped:?}");
    assert_eq!(stopped.stdout, "", "{stopped:?}");
    stopped.stderr
}

fn refused(ended: &Ended, code: i32, says: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    for words in says {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
}

#[test]
fn a_new_server_is_ready_soon_and_stops_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    for start in ["new", "cleanly closed"] {
        let server = Running::start(command(folder.path()).arg("--dev"));
        // The promise is 150 ms for a release build on an idle machine.
        assert!(
            server.ready_after < Duration::from_secs(5),
            "{start}: {:?}",
            server.ready_after
        );
        assert_ne!(server.listen.port(), 0);
        let said = stop_cleanly(server);
        assert!(
            said.contains("is ready") && said.contains("stopped"),
            "{said}"
        );
        assert!(
            said.contains("coretexctl") && said.contains("development mode"),
            "{said}"
        );
    }
    let server = Running::start(command(folder.path()).arg("--dev"));
    let stopped = server.stop(Signal::INT);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
}

#[test]
fn the_admin_port_tells_metrics_and_states() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(command(folder.path()).args(["--dev", "--ephemeral"]));
    assert_eq!(get(server.admin, "/livez"), (200, "alive\n".to_owned()));
    assert_eq!(
        get(server.admin, "/readyz"),
        (200, "{\"ready\":true}\n".to_owned())
    );
    let (status, page) = get(server.admin, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "coretex_build_info{version=\"0.1.0\",store=\"embedded\",durability=\"ephemeral\",bus=\"inproc\"} 1",
        "coretex_ready 1",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let resident = page
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let resident: f64 = resident.unwrap().parse().unwrap();
    assert!(resident > 1e6, "{resident}");
    assert_eq!(get(server.admin, "/other").0, 404);
    assert_eq!(http(server.admin, "POST", "/readyz").0, 405);
    assert_eq!(http(server.admin, "HEAD", "/livez"), (200, String::new()));
    stop_cleanly(server);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left of it"
    );
}

#[test]
fn what_is_wrong_with_the_usage_is_said_and_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let file = path.join("c.toml");
    fs::write(&file, "[retension]\njobs = '1d'\n").unwrap();
    let hint = format!(
        "{}:1:2: unknown key `retension`; did you mean `retention`?",
        file.display()
    );
    refused(
        &run(command(path).arg("--config").arg(&file)),
        2,
        &["error: ", &hint],
    );
    refused(
        &run(command(path).env("CORETEX_LISTN", "x")),
        2,
        &["unknown variable `CORETEX_LISTN`; did you mean `CORETEX_LISTEN`?"],
    );
    refused(
        &run(command(path).arg("--frobnicate")),
        2,
        &["error: ", "--frobnicate"],
    );
    refused(
        &run(command(path).args(["--store", "redis://host", "--ephemeral"])),
        2,
        &[
            "error: --ephemeral: `ephemeral` is about the embedded store only",
            "hint: ",
        ],
    );
    refused(
        &run(command(path)
            .args(["--store", "redis://127.0.0.1:1"])
            .env("CORETEX_STORE_PASSWORD_FILE", path.join("nowhere"))),
        2,
        &["error: `store.password_file`: ", "nowhere: No such file"],
    );
    let open = run(command(path)
        .env("CORETEX_DEV", "1")
        .args(["--log-format", "xml"]));
    refused(
        &open,
        2,
        &["error: --log-format: must be `pretty` or `json`"],
    );
    let mut everywhere = std::process::Command::new(env!("CARGO_BIN_EXE_coretexd"));
    everywhere
        .args(["--dev", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(path);
    refused(
        &run(&mut everywhere),
        2,
        &["`dev` is refused on 0.0.0.0:0", "hint: "],
    );
}

#[test]
fn servers_that_are_not_there_end_the_start_with_3() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let store = format!("redis://me:s3cret@{address}/0");
    let ended = run(command(folder.path()).args(["--store", &store]));
    let place = format!("(redis://me:********@{address}/0)");
    refused(
        &ended,
        3,
        &[
            "error: `store.url`: cannot reach redis: ",
            &place,
            "hint: start Redis",
        ],
    );
    assert!(!ended.stderr.contains("s3cret"), "{ended:?}");

    let bus = format!("nats://s3cret@{address}");
    let ended = run(command(folder.path())
        .args(["--bus", &bus])
        .env("CORETEX_BUS_STARTUP_TIMEOUT", "100ms"));
    let says = format!("error: `bus.url`: no nats server at nats://{address} answered");
    refused(&ended, 3, &[&says, "hint: start nats-server"]);
    assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
    // Nothing of the refused start holds the store.
    stop_cleanly(Running::start(command(folder.path()).arg("--dev")));
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(command(folder.path()).arg("--help"));
    assert_eq!(help.code, Some(0));
    assert!(
        help.stdout.contains("--data-dir") && help.stdout.contains("Exit codes"),
        "{help:?}"
    );
    let version = run(command(folder.path()).arg("--version"));
    assert_eq!(
        (version.code, version.stdout.as_str()),
        (Some(0), "coretexd 0.1.0\n")
    );
}

#[test]
fn a_port_that_is_taken_ends_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (variable, key) in [
        ("CORETEX_LISTEN", "listen"),
        ("CORETEX_ADMIN_LISTEN", "admin_listen"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coretexd"));
        command
            .envs([
                ("CORETEX_LISTEN", "127.0.0.1:0"),
                ("CORETEX_ADMIN_LISTEN", "127.0.0.1:0"),
            ])
            .env(variable, &address)
            .arg("--data-dir")
            .arg(folder.path());
        let says = format!("error: `{key}`: cannot listen on {address}");
        refused(
            &run(&mut command),
            3,
            &[&says, "hint: another server may be running"],
        );
    }
}

#[test]
fn a_data_directory_that_is_in_use_or_unusable_ends_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Running::start(command(&data).arg("--dev"));
    let second = run(command(&data).arg("--dev"));
    refused(
        &second,
        3,
        &[
            "in use by another process",
            "hint: another server is running",
        ],
    );
    // The first one did not notice.
    assert_eq!(get(server.admin, "/readyz").0, 200);
    stop_cleanly(server);

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let under_a_file = run(&mut command(&file.join("data")));
    refused(&under_a_file, 3, &["error: cannot use the data directory"]);

    fs::write(data.join("store.redb"), "this is not a database").unwrap();
    let damaged = run(&mut command(&data));
    assert_eq!(damaged.code, Some(3), "{damaged:?}");
    assert_eq!(
        fs::read_to_string(data.join("store.redb")).unwrap(),
        "this is not a database"
    );
}

fn key_of(data: &Path) -> String {
    let path = data.join("admin.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let key = fs::read_to_string(path).unwrap();
    assert!(
        key.ends_with('\n') && key.trim().len() > 40,
        "{} characters",
        key.len()
    );
    key
}

#[test]
fn the_first_admin_key_is_written_once_and_never_shown_to_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let said = stop_cleanly(Running::start(&mut command(&data)));
    let key = key_of(&data);
    assert!(
        said.contains(&data.join("admin.key").display().to_string()),
        "{said}"
    );
    assert!(!said.contains(key.trim()), "the key is in the log");
    assert_eq!(
        fs::metadata(&data).unwrap().permissions().mode() & 0o777,
        0o700
    );

    let server = Running::start(&mut command(&data));
    assert_eq!(key_of(&data), key);
    // Killed, not stopped: the next start verifies the store and finds the key again.
    server.stop(Signal::KILL);
    let said = stop_cleanly(Running::start(&mut command(&data)));
    assert_eq!(key_of(&data), key);
    assert!(!said.contains("not one of this store"), "{said}");

    // A server in memory has another key, and gives the name back.
    stop_cleanly(Running::start(command(&data).arg("--ephemeral")));
    assert_ne!(key_of(&data), key);
    stop_cleanly(Running::start(command(&data).arg("--ephemeral")));
    stop_cleanly(Running::start(&mut command(&data)));
    assert_eq!(key_of(&data), key);

    // Somebody took the file away: the store has its keys and gets no further one.
    fs::remove_file(data.join("admin.key")).unwrap();
    let said = stop_cleanly(Running::start(&mut command(&data)));
    assert!(!data.join("admin.key").exists());
    assert!(said.contains("the first admin key is not in"), "{said}");
}

#[test]
fn a_key_that_was_lost_on_its_way_to_the_file_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    stop_cleanly(Running::start(&mut command(&data)));
    let lost = key_of(&data);
    // What a start leaves that dies between store and file.
    fs::rename(data.join("admin.key"), data.join("admin.key.pending")).unwrap();
    stop_cleanly(Running::start(&mut command(&data)));
    assert_ne!(key_of(&data), lost);
    let mut left: Vec<_> = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("admin"))
        .collect();
    left.sort();
    assert_eq!(left, ["admin.key"]);
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(command(folder.path()).args(["--dev", "--ephemeral"]));
    let endpoint = tonic::transport::Endpoint::try_from(format!("http://{}", server.listen));
    let channel = endpoint.unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    // An open stream holds the drain for a moment.
    let mut watch = health
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let serving = watch.message().await.unwrap();
    server.signal(Signal::TERM);
    assert_ne!(watch.message().await.unwrap(), serving);
    let stopped = tokio::task::spawn_blocking(move || server.stop(Signal::INT))
        .await
        .unwrap();
    assert_eq!(stopped.status.code(), Some(1), "{stopped:?}");
    assert!(
        stopped.stderr.contains("stopped by a second signal"),
        "{stopped:?}"
    );
}

#[test]
fn development_mode_writes_no_key() {
    let folder = tempfile::tempdir().unwrap();
    stop_cleanly(Running::start(command(folder.path()).arg("--dev")));
    assert!(!folder.path().join("admin.key").exists());
}

#[test]
fn the_dump_is_a_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(command(folder.path()).args(["--dev", "--dump-config"]));
    assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""));
    assert!(
        first.stdout.contains("dev = true # --dev\n"),
        "{}",
        first.stdout
    );
    let file = folder.path().join("dumped.toml");
    fs::write(&file, &first.stdout).unwrap();
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_coretexd"));
    let again = run(again.arg("--dump-config").arg("--config").arg(&file));
    assert_eq!(again.code, Some(0), "{again:?}");
    let values = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(" # ").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(values(&again.stdout), values(&first.stdout));
}

#[test]
fn json_logs_are_json_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = command(folder.path());
    json.args(["--log-format", "json"]);
    let said = stop_cleanly(Running::start(&mut json));
    let events: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let ready = events
        .iter()
        .find(|event| event["message"] == "ready")
        .unwrap();
    assert_eq!(
        (&ready["store"], &ready["durability"]),
        (&"embedded".into(), &"fsync".into())
    );
    assert!(!said.contains(key_of(folder.path()).trim()));

    let mut quiet = command(folder.path());
    quiet
        .args(["--log-format", "json"])
        .env("CORETEX_LOG", "error");
    assert_eq!(stop_cleanly(Running::start(&mut quiet)), "");
}
