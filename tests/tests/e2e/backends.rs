//! Starting on Redis and NATS: what a server says of them, and what it refuses. That every scenario
//! works on them, too, the other files prove.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coretex::JobExt;
use coretex::proto::Durability;
use coretex_tests::cluster::backends::{Nats, Pair, Redis};
use coretex_tests::cluster::cli;
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::worker::RunningWorker;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::{engines, result, until_metric_is};

/// What a server that cannot start must say before it ends with 3.
async fn refused(options: Options, says: &[&str]) {
    let (code, said) = Server::refused(options).await;
    assert_eq!(code, Some(3), "{said}");
    for words in says {
        assert!(said.contains(words), "{words}\n{said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_metrics_name_engines_durability_and_versions() {
    let (pair, servers) = servers!("everysec");
    let server = Server::start(pair.options()).await;
    let [store, bus] = engines(&server.client()).await;
    assert_eq!(
        (store.component.as_str(), store.name.as_str()),
        ("store", "redis")
    );
    assert_eq!(
        (store.durability(), store.healthy),
        (Durability::Async, true)
    );
    assert_eq!((bus.component.as_str(), bus.name.as_str()), ("bus", "nats"));
    assert_eq!(
        (bus.durability(), bus.healthy),
        (Durability::Unspecified, true)
    );
    for version in [&store.version, &bus.version] {
        assert!(
            version.starts_with(|first: char| first.is_ascii_digit()),
            "{version:?}"
        );
    }
    let table = cli::run(&server, ["status"]).await.code(0);
    for words in ["redis", "async", &store.version, "nats", &bus.version] {
        assert!(table.contains(words), "{words}\n{table}");
    }
    until_metric_is(&server, "coretex_bus_connected{engine=\"nats\"} 1").await;
    let (_, page) = server.page("/metrics").await;
    for words in [
        "store=\"redis\",durability=\"async\",bus=\"nats\"} 1",
        "coretex_store_commit_seconds_count{engine=\"redis\",outcome=\"applied\"}",
        "coretex_store_group_commits_count{engine=\"redis\"}",
    ] {
        assert!(page.contains(words), "{words}\n{page}");
    }
    let said = server.log();
    let places = [servers.redis.url(), servers.nats.url()];
    for words in places.iter().map(String::as_str).chain([" is ready"]) {
        assert!(said.contains(words), "{words}\n{said}");
    }
    // The client of the bus has nothing to say that people need.
    assert!(!said.contains("async_nats"), "{said}");
    assert!(!server.data_dir().exists(), "nothing is kept there");
}

#[tokio::test]
async fn a_durability_that_redis_does_not_give_is_refused() {
    let Some(forgetful) = Redis::start(&["--appendonly", "no"]).await else {
        return;
    };
    let on = |redis: &Redis, durability: &str| {
        let options = Options::new().set("CORETEX_STORE", &redis.url());
        options.set("CORETEX_STORE_DURABILITY", durability)
    };
    let default = Options::new().set("CORETEX_STORE", &forgetful.url());
    refused(
        default,
        &[
            "error: `store.durability`: redis does not give durability async: appendonly is no",
            "hint: change Redis, or ask for less",
        ],
    )
    .await;
    let says = "error: `store.durability`: redis does not give durability fsync: appendonly is no";
    refused(on(&forgetful, "fsync"), &[says]).await;
    let says = "redis does not give durability replicated: it has 0 replicas, 1 are needed";
    refused(on(&forgetful, "replicated"), &[says]).await;
    let server = Server::start(on(&forgetful, "ephemeral")).await;
    let [store, bus] = engines(&server.client()).await;
    assert_eq!(store.durability(), Durability::Ephemeral);
    assert_eq!((bus.name.as_str(), bus.version.as_str()), ("inproc", ""));
    // A single replica works like this; that others would hear nothing is said.
    assert!(server.log().contains("set `bus.url`"), "{}", server.log());
    drop(server);

    forgetful
        .command("CONFIG SET maxmemory-policy allkeys-lru")
        .await
        .unwrap();
    let says = [
        "error: `store.url`: redis has maxmemory-policy allkeys-lru, which loses data",
        "hint: set `maxmemory-policy noeviction`",
    ];
    refused(on(&forgetful, "ephemeral"), &says).await;

    let Some(durable) = Redis::durable("everysec").await else {
        return;
    };
    let says = "redis does not give durability fsync: appendfsync is everysec, not always";
    refused(on(&durable, "fsync"), &[says]).await;
    durable
        .command("CONFIG SET appendfsync always")
        .await
        .unwrap();
    let server = Server::start(on(&durable, "fsync")).await;
    let [store, _] = engines(&server.client()).await;
    assert_eq!(store.durability(), Durability::Fsync);
}

#[tokio::test]
async fn servers_that_are_down_and_wrong_logins_end_the_start() {
    let password = ["--requirepass", "s3cret", "--appendonly", "yes"];
    let user = ["--user", "me", "on", ">s3cret/of@me", "~*", "&*", "+@all"];
    let Some(redis) = Redis::start(&[&password[..], &user[..]].concat()).await else {
        return;
    };
    let users = "authorization { users = [{ user: me, password: \"s3cret/of@me\" }] }\n";
    let Some(nats) = Nats::start(users).await else {
        return;
    };
    let store = |login: &str| {
        Options::new().set(
            "CORETEX_STORE",
            &format!("redis://{login}{}", redis.address()),
        )
    };
    for login in ["", ":s3cretS@", "me:s3cretS@", "nobody:s3cretS@"] {
        let says = [
            "error: `store.url`: redis refused: ",
            "hint: correct user and password",
        ];
        refused(store(login), &says).await;
    }
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "s3cret/of@me\n"), file("wrong", "s3cretS\n"));
    let by_file = |file: &str| {
        let options = store("").set("CORETEX_STORE_PASSWORD_FILE", file);
        options.set("CORETEX_STORE_USER", "me")
    };
    refused(
        by_file(&wrong),
        &["error: `store.password_file`: redis refused: "],
    )
    .await;

    let bus = |login: &str| {
        by_file(&right).set("CORETEX_BUS", &format!("nats://{login}{}", nats.address()))
    };
    for login in ["", "me:s3cretS@", "s3cretS@"] {
        let says = [
            "error: `bus.url`: nats server nats://127.0.0.1",
            "refused the credentials",
        ];
        refused(bus(login), &says).await;
    }
    let bus_by_file = |file: &str| {
        let options = bus("").set("CORETEX_BUS_PASSWORD_FILE", file);
        options.set("CORETEX_BUS_USER", "me")
    };
    refused(
        bus_by_file(&wrong),
        &["error: `bus.password_file`: ", "refused the credentials"],
    )
    .await;
    let in_urls = store(":s3cret@").set(
        "CORETEX_BUS",
        &format!("nats://me:s3cret%2Fof%40me@{}", nats.address()),
    );
    for options in [bus_by_file(&right), in_urls] {
        let server = Server::start(options).await;
        assert!(
            engines(&server.client())
                .await
                .iter()
                .all(|engine| engine.healthy)
        );
        assert!(!server.log().contains("s3cret"), "{}", server.log());
    }

    nats.kill();
    let impatient = bus_by_file(&right).set("CORETEX_BUS_STARTUP_TIMEOUT", "200ms");
    let says = [
        "error: `bus.url`: no nats server at nats://127.0.0.1",
        "hint: start nats-server",
    ];
    refused(impatient, &says).await;
    redis.kill();
    let says = [
        "error: `store.url`: cannot reach redis: redis refuses connections",
        "hint: start Redis",
    ];
    refused(by_file(&right), &says).await;
}

/// Writes `ca.pem` and, signed by it, a certificate for this machine and its key.
fn certificates(folder: &Path) -> [PathBuf; 3] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // Under the name of its authority it would look like one that signed itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "coretex");
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let texts = [
        ("ca.pem", ca.pem()),
        ("this.pem", certificate.pem()),
        ("this.key", key.serialize_pem()),
    ];
    texts.map(|(name, text)| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    })
}

#[tokio::test]
async fn both_speak_tls_with_certificates_of_both_sides_and_never_without() {
    let folder = TempDir::new().unwrap();
    let files = certificates(folder.path());
    let [ca, cert, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let Some(redis) = Redis::start_tls([
        "--tls-ca-cert-file",
        ca,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
    ])
    .await
    else {
        return;
    };
    let tls = format!(
        "tls {{ ca_file: {ca:?}, cert_file: {cert:?}, key_file: {key:?}, verify: true }}\n"
    );
    let Some(nats) = Nats::start(&tls).await else {
        return;
    };
    let options = |store_ca: &str, bus_ca: &str| {
        Options::new()
            .set("CORETEX_STORE", &redis.tls_url())
            .set("CORETEX_STORE_DURABILITY", "ephemeral")
            .set("CORETEX_STORE_TLS_CA", store_ca)
            .set("CORETEX_STORE_TLS_CERT", cert)
            .set("CORETEX_STORE_TLS_KEY", key)
            .set("CORETEX_BUS", &format!("tls://{}", nats.address()))
            .set("CORETEX_BUS_TLS_CA", bus_ca)
            .set("CORETEX_BUS_TLS_CERT", cert)
            .set("CORETEX_BUS_TLS_KEY", key)
    };
    let server = Server::start(options(ca, ca)).await;
    let client = server.client();
    let _worker = RunningWorker::echo(client.clone(), "job.echo", 1).await;
    assert!(result(client.submit("job.echo", 1)).await.succeeded());
    assert!(engines(&client).await.iter().all(|engine| engine.healthy));

    let strange = TempDir::new().unwrap();
    let [stranger, ..] = certificates(strange.path());
    let stranger = stranger.to_str().unwrap();
    refused(
        options(stranger, ca),
        &["error: `store.url`: cannot reach redis: ", "ertificate"],
    )
    .await;
    refused(
        options(ca, stranger),
        &["error: `bus.tls_ca`: tls with nats server "],
    )
    .await;
    // A server without TLS at the address of one with it is not spoken to in the clear.
    let plain = options(ca, ca).set("CORETEX_STORE", &redis.url().replace("redis:", "rediss:"));
    refused(plain, &["error: `store.url`: cannot reach redis: "]).await;
}
