//! Which settings of store and bus go with which engine, and with each other.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use coretexd::config::{Durability, Flags, load};

#[test]
fn store_and_bus_take_servers_and_what_goes_with_them() {
    let loaded = |variables: &[(&str, &str)]| {
        let all = [("HOME", "/")].into_iter().chain(variables.iter().copied());
        load(&Flags::default(), &all.collect()).map(|loaded| loaded.config)
    };
    for (store, durability) in [
        ("embedded", Durability::Fsync),
        ("redis://me:s3cret@db:6379/3", Durability::Async),
        ("rediss://db", Durability::Async),
        ("redis+unix:///run/redis.sock?db=1", Durability::Async),
    ] {
        let config = loaded(&[("CORETEX_STORE", store)]).unwrap();
        assert_eq!(config.store.durability, durability, "{store}");
        let variables = [
            ("CORETEX_STORE", store),
            ("CORETEX_STORE_DURABILITY", "fsync"),
        ];
        let config = loaded(&variables).unwrap();
        assert_eq!(config.store.durability, Durability::Fsync, "{store}");
    }
    for bus in ["inproc", "nats://token@a,nats://token@b:1", "tls://me:p@a"] {
        assert!(loaded(&[("CORETEX_BUS", bus)]).is_ok(), "{bus}");
    }

    let redis = ("CORETEX_STORE", "redis://db");
    let tls = ("CORETEX_STORE", "rediss://db");
    let with_login = ("CORETEX_STORE", "redis://me:s3cret@db");
    let nats = ("CORETEX_BUS", "nats://host");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[redis, ("CORETEX_EPHEMERAL", "1")],
            "CORETEX_EPHEMERAL: `ephemeral` is about the embedded store only\nhint: \
             `store.durability = \"ephemeral\"`",
        ),
        (
            &[("CORETEX_STORE_DURABILITY", "ephemeral")],
            "`store.durability` is not `ephemeral` with the embedded store\nhint: `ephemeral = true`",
        ),
        (
            &[("CORETEX_STORE_DURABILITY", "replicated")],
            "`store.durability` is not `replicated` with the embedded store",
        ),
        (
            &[redis, ("CORETEX_STORE_TLS_CA", "ca")],
            "CORETEX_STORE: `store.url` is without TLS (`redis://`), and `store.tls_*` is set\nhint: \
             write `rediss://`",
        ),
        (
            &[tls, ("CORETEX_STORE_TLS_CERT", "c")],
            "`store.tls_cert` needs `store.tls_key`",
        ),
        (
            &[("CORETEX_STORE", "rediss://db/#insecure")],
            "`store.url` must have no `#`: certificates are always checked",
        ),
        (
            &[with_login, ("CORETEX_STORE_PASSWORD_FILE", "p")],
            "`store.url` holds a login, and `store.password_file` is another one",
        ),
        (
            &[redis, ("CORETEX_STORE_USER", "me")],
            "`store.user` needs `store.password_file`",
        ),
        (
            &[("CORETEX_STORE_PASSWORD_FILE", "p")],
            "`store.password_file` is about a Redis server, and `store.url` names none",
        ),
        (
            &[redis, ("CORETEX_STORE_REPLICAS", "2")],
            "`store.replicas` is waited for with `replicated` only",
        ),
        (
            &[
                redis,
                ("CORETEX_STORE_DURABILITY", "replicated"),
                ("CORETEX_STORE_REPLICA_TIMEOUT", "3s"),
            ],
            "`store.replica_timeout` must be shorter than `store.commit_timeout`",
        ),
        (
            &[redis, ("CORETEX_STORE_COMMIT_TIMEOUT", "6s")],
            "`store.commit_timeout` must be from 10ms to 5s",
        ),
        (
            &[redis, ("CORETEX_STORE_CONNECTIONS", "0")],
            "`store.connections` must be from 1 to 1000",
        ),
        (
            &[("CORETEX_BUS_CREDENTIALS_FILE", "c")],
            "`bus.credentials_file` is about a NATS server, and `bus.url` names none",
        ),
        (
            &[nats, ("CORETEX_BUS_USER", "me")],
            "`bus.user` needs `bus.password_file`",
        ),
        (
            &[
                ("CORETEX_BUS", "nats://s3cret@host"),
                ("CORETEX_BUS_NKEY_FILE", "n"),
            ],
            "`bus.url` is one of several logins: bus.url, bus.nkey_file",
        ),
        (
            &[("CORETEX_BUS", "nats://me:s3cret@host/path")],
            "`bus.url` cannot be used: nats options: server address 1: nothing may follow the port",
        ),
        (
            &[nats, ("CORETEX_BUS_PING_INTERVAL", "0")],
            "`bus.ping_interval` must be from 10ms to 1m",
        ),
    ];
    for (variables, message) in cases {
        let refusal = loaded(variables).unwrap_err().to_string();
        assert!(refusal.contains(message), "{message}\n{refusal}");
        assert!(!refusal.contains("s3cret"), "{refusal}");
        assert_eq!(refusal.matches("error: ").count(), 1, "{refusal}");
    }
}
