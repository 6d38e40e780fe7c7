//! Which servers a store opens on, with which rights and how encrypted, and what it says when it
//! does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;
mod redis_server;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coretex_store::redis::{RedisOpenError, RedisOptions, RedisStore};
use coretex_store::{Durability, Range, Store};

use common::{SHARD, b, creation};
use redis_server::{Server, available, ephemeral, options};

async fn refusal(options: RedisOptions) -> RedisOpenError {
    RedisStore::open(options)
        .await
        .expect_err("this does not open")
}

#[tokio::test]
async fn a_durability_that_the_server_does_not_give_is_refused() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let with = |durability| {
        let mut options = options(server.url());
        options.durability = durability;
        options
    };
    let set = |name: &'static str, value: &'static str| {
        let server = &server;
        async move { server.command(&["CONFIG", "SET", name, value]).await }
    };
    for durability in [Durability::Async, Durability::Fsync, Durability::Replicated] {
        let error = refusal(with(durability)).await;
        assert!(
            matches!(error, RedisOpenError::Durability { .. }),
            "{error}"
        );
    }
    set("appendonly", "yes").await;
    RedisStore::open(with(Durability::Async)).await.unwrap();
    let error = refusal(with(Durability::Fsync)).await;
    assert_eq!(
        error.to_string(),
        "redis does not give durability fsync: appendfsync is everysec, not always"
    );
    set("appendfsync", "always").await;
    let store = RedisStore::open(with(Durability::Fsync)).await.unwrap();
    assert_eq!(store.info().durability, Durability::Fsync);
    assert!(!store.info().exclusive);
}

#[tokio::test]
async fn a_server_that_would_forget_is_refused() {
    if !available() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let error = refusal(ephemeral(server.url())).await;
    assert!(matches!(error, RedisOpenError::Eviction { .. }), "{error}");
}

#[tokio::test]
async fn the_number_of_shards_stays_and_foreign_data_is_left_alone() {
    if !available() {
        return;
    }
    let server = Server::start(&[]).await;
    let with = |shards, database: u8| {
        let mut options = ephemeral(format!("{}/{database}", server.url()));
        options.shards = shards;
        options
    };
    let first = RedisStore::open(with(3, 0)).await.unwrap();
    let id = first.id();
    first.commit(creation("key", "value")).await.unwrap();
    first.close(Duration::from_secs(5)).await;
    let error = refusal(with(1, 0)).await;
    let wrong = matches!(
        error,
        RedisOpenError::Shards {
            found: 3,
            wanted: 1
        }
    );
    assert!(wrong, "{error}");
    let again = RedisStore::open(with(3, 0)).await.unwrap();
    assert_eq!(again.id(), id);
    let found = again.get(SHARD, &[b("key")]).await.unwrap();
    assert!(found.value[0].is_some());
    // Another database is another store.
    let other = RedisStore::open(with(1, 1)).await.unwrap();
    assert_ne!(other.id(), id);
    for (identity, database) in [("something else", 2), ("coretex 9 1 1", 3)] {
        let mut raw = server.raw().await;
        let mut commands = redis::pipe();
        commands.cmd("SELECT").arg(database);
        commands.cmd("SET").arg("{sys}id").arg(identity);
        commands.exec_async(&mut raw).await.unwrap();
        let error = refusal(with(1, database)).await;
        let wrong = matches!(
            error,
            RedisOpenError::Foreign { .. }
                | RedisOpenError::Format {
                    found: 9,
                    supported: 1
                }
        );
        assert!(wrong, "{error}");
    }
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let mut none = ephemeral("redis://127.0.0.1:1");
    none.shards = 0;
    let mut replicas = ephemeral("redis://127.0.0.1:1");
    replicas.durability = Durability::Replicated;
    replicas.replicas = 0;
    for options in [
        none,
        replicas,
        ephemeral("nonsense"),
        ephemeral("http://host"),
    ] {
        let error = refusal(options).await;
        assert!(matches!(error, RedisOpenError::Options { .. }), "{error}");
    }
    let error = refusal(ephemeral("redis://127.0.0.1:1")).await;
    assert!(
        matches!(error, RedisOpenError::Unreachable { .. }),
        "{error}"
    );
}

/// The rights that the store needs, and no more.
const RIGHTS: [&str; 28] = [
    "~{sys}*",
    "~{s0}*",
    "+info",
    "+select",
    "+evalsha",
    "+eval",
    "+script|load",
    "+time",
    "+get",
    "+getrange",
    "+strlen",
    "+set",
    "+setrange",
    "+rename",
    "+persist",
    "+pexpireat",
    "+del",
    "+zadd",
    "+zrem",
    "+zcard",
    "+zrange",
    "+zrangebylex",
    "+zrevrangebylex",
    "+zlexcount",
    "+xadd",
    "+xrange",
    "+xtrim",
    "+wait",
];

#[tokio::test]
async fn a_user_with_few_rights_is_enough_and_one_with_fewer_is_told() {
    if !available() {
        return;
    }
    let server = Server::start(&["--appendonly", "yes"]).await;
    let allow = |rights: Vec<&'static str>| {
        let mut words = vec!["ACL", "SETUSER", "store", "reset", "on", ">pa@ss:word"];
        words.extend(rights);
        let server = &server;
        async move { server.command(&words).await }
    };
    let url = format!("redis://store:pa%40ss%3Aword@127.0.0.1:{}", server.port);
    allow(RIGHTS.to_vec()).await;
    let store = RedisStore::open(options(url.clone())).await.unwrap();
    let mut batch = creation("key", vec![7; 100_000]);
    batch.append(b("entry")).add(b("index"), b("m"));
    store.commit(batch).await.unwrap();
    assert!(store.get(SHARD, &[b("key")]).await.unwrap().value[0].is_some());
    let count = store
        .count(SHARD, &Range::all(b("index")), 9)
        .await
        .unwrap();
    assert_eq!(count.value, 1);
    store.trim(SHARD, 2).await.unwrap();
    assert!(store.usage().await.unwrap().bytes > 0);
    store.close(Duration::from_secs(5)).await;
    // What appendfsync says cannot be known.
    let mut fsync = options(url.clone());
    fsync.durability = Durability::Fsync;
    let error = refusal(fsync).await;
    assert!(error.to_string().contains("CONFIG GET"), "{error}");
    for missing in [
        "+zrem",
        "+info",
        "~{s0}*",
        "+script|load",
        "+xadd",
        "+xrange",
    ] {
        let rights = RIGHTS.iter().copied().filter(|right| *right != missing);
        allow(rights.collect()).await;
        let error = refusal(options(url.clone())).await;
        assert!(
            matches!(error, RedisOpenError::Refused { .. }),
            "{missing}: {error}"
        );
        assert!(error.to_string().contains("NOPERM"), "{missing}: {error}");
    }
}

#[tokio::test]
async fn secrets_are_not_told() {
    if !available() {
        return;
    }
    let server = Server::start(&["--requirepass", "secret"]).await;
    let place = format!("127.0.0.1:{}", server.port);
    let good = ephemeral(format!("redis://:secret@{place}"));
    assert!(!format!("{good:?}").contains("secret"));
    let store = RedisStore::open(good).await.unwrap();
    store.commit(creation("key", "value")).await.unwrap();
    assert!(!format!("{store:?}").contains("secret"));
    for url in [
        format!("redis://:secret2@{place}"),
        format!("redis://user:secret2@{place}"),
        "redis://:secret2@127.0.0.1:1".to_owned(),
        "redis://:secret2@127.0.0.1:port".to_owned(),
        "rediss://:secret2@/x".to_owned(),
    ] {
        let error = refusal(ephemeral(url)).await;
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret2"), "{text}");
    }
    let error = refusal(ephemeral(format!("redis://{place}"))).await;
    assert!(matches!(error, RedisOpenError::Refused { .. }), "{error}");
}

/// Makes a certificate authority and a certificate for 127.0.0.1; false without `openssl`.
fn certificates(folder: &Path) -> bool {
    let openssl = |words: &str| {
        let status = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
    )) && openssl(&format!(
        "req {key} -keyout key.pem -out request -subj /CN=redis"
    )) && openssl(
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out cert.pem",
    )
}

#[tokio::test]
async fn tls_is_spoken_and_strangers_are_not_trusted() {
    if !available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    if !certificates(folder.path()) {
        // Where the store's servers run, openssl is installed with them.
        assert!(std::env::var_os("CI").is_none(), "openssl is missing");
        return;
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let server = Server::start(&[
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-auth-clients",
        "optional",
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ])
    .await;
    let mut trusting = ephemeral(format!("rediss://127.0.0.1:{}", server.port));
    let error = refusal(trusting.clone()).await;
    assert!(
        matches!(error, RedisOpenError::Unreachable { .. }),
        "{error}"
    );
    trusting.tls.ca = Some(std::fs::read(&ca).unwrap());
    let store: Arc<dyn Store> = Arc::new(RedisStore::open(trusting.clone()).await.unwrap());
    store.commit(creation("key", "value")).await.unwrap();
    assert!(store.get(SHARD, &[b("key")]).await.unwrap().value[0].is_some());
    let identity = (std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap());
    trusting.tls.identity = Some(identity);
    server
        .command(&["CONFIG", "SET", "tls-auth-clients", "yes"])
        .await;
    RedisStore::open(trusting.clone()).await.unwrap();
    trusting.tls.identity = None;
    refusal(trusting).await;
}
